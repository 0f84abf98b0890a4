"""Looks a whole database over without changing it: its pages, its keys, each row's checksum, and states nobody can have written.

Everything is read in one snapshot, beside whoever writes, and told as it is found; what is held in memory is one row, and a large
value only piece by piece.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias
from zlib import crc32

import attrs

from dagrelay.errors import StoreCorruptError, StoreError, StoreSchemaError
from dagrelay.model.events import XComDeleted
from dagrelay.model.states import RunState
from dagrelay.stores.operations import OUTSIDE
from dagrelay.stores.sqlite import rows, schema
from dagrelay.stores.sqlite.faults import is_busy, store_error
from dagrelay.stores.sqlite.lock import is_held
from dagrelay.stores.sqlite.soundness import (
    chunk_flaws,
    element_flaws,
    entry_flaws,
    event_flaws,
    instance_flaws,
    owner_of,
    run_flaws,
)
from dagrelay.stores.sqlite.streams import decode_chunk, decode_position

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ("Finding", "ResumableRun", "StoreCheck")

_LONGEST_CELL: Final = 64 * 1024 * 1024
"""Bytes of the longest cell that is read at once; what is longer, and no value, is told as unreadable."""
_PIECE: Final = 1024 * 1024
"""Bytes of a value that are read at once."""
_LONGEST_NAME: Final = 200
"""Characters of a row's name."""

_INSTANCES: Final = """SELECT instance.*, run.run_pk, run.dag_id, run.is_pruned, task.task_pk, whole.state, whole.length
    FROM instance LEFT JOIN run USING (run_pk) LEFT JOIN task USING (task_pk) LEFT JOIN instance AS whole
    ON whole.run_pk = instance.run_pk AND whole.task_pk = instance.task_pk AND whole.map_index = -1"""
_ENTRIES: Final = """SELECT xcom.run_pk, xcom.task_pk, map_index, key, slot, attempt, seq, xcom.created_us, size, serializer,
    sensitive, published, description, value_crc, xcom.crc, xcom.rowid, length(value),
    run.run_pk, run.dag_id, run.is_pruned, task.task_pk
    FROM xcom LEFT JOIN run USING (run_pk) LEFT JOIN task USING (task_pk)"""
_EVENTS: Final = """SELECT event.*, run.run_pk, run.dag_id, run.is_pruned, task.task_pk
    FROM event LEFT JOIN run USING (run_pk) LEFT JOIN task USING (task_pk)"""
_CHUNKS: Final = """SELECT stream_chunk.run_pk, stream_chunk.task_pk, map_index, key, generation, first_seq, count, attempt,
    is_numbered, stream_chunk.created_us, size, serializer, items_crc, stream_chunk.crc, stream_chunk.rowid, length(items),
    run.run_pk, run.dag_id, run.is_pruned, task.task_pk
    FROM stream_chunk LEFT JOIN run USING (run_pk) LEFT JOIN task USING (task_pk)"""
_POSITIONS: Final = """SELECT stream_position.*, run.run_pk, run.dag_id, run.is_pruned, task.task_pk, producer.task_pk
    FROM stream_position LEFT JOIN run USING (run_pk) LEFT JOIN task USING (task_pk)
    LEFT JOIN task AS producer ON producer.task_pk = producer_pk"""
_SCHEMA: Final = "SELECT type, name, sql FROM sqlite_schema WHERE substr(name, 1, 7) <> 'sqlite_'"
_RESUMABLE: Final = (
    "SELECT run_id, dag_id FROM run WHERE dag_id IS NOT NULL AND is_pruned = 0 AND state IN (?, ?) ORDER BY run_pk"
)
_NONSENSE: Final = (LookupError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, struct.error)
"""What rows that nobody wrote make of code that reads them."""

_Row: TypeAlias = tuple[Any, ...]


@attrs.frozen(kw_only=True)
class Finding:
    """Something in a database that is damaged, or that nobody can have written."""

    table: str
    """The table; `file` or `schema` for what concerns all."""
    row: str
    """The row's key, cut if it is long; empty for what concerns the whole table."""
    what: str
    """What is wrong with it; never a value."""

    def __str__(self) -> str:
        """Return it as a line."""
        return f"{self.table} {self.row}: {self.what}" if self.row else f"{self.table}: {self.what}"


@attrs.frozen(kw_only=True)
class ResumableRun:
    """A run that was interrupted, and can be taken up by `Runtime.resume`."""

    run_id: str
    """The run."""
    dag_id: str
    """The DAG to resume it with."""


class StoreCheck:
    """A look at a database as it is at one moment; a context manager that keeps a connection for reading.

    Args:
        path: the database's file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Take where the database is; nothing is opened yet."""
        self._file = Path(path).absolute()
        self._path = str(self._file)
        self._connection: sqlite3.Connection | None = None
        self.schema_version: int = 0
        """The database's own, known once `findings` has begun; 0 for one without tables."""
        self.rows: dict[str, int] = {}
        """Rows looked at so far, by table."""

    def __enter__(self) -> Self:
        """Open the database for reading.

        Raises:
            StoreError: it can't be opened.
        """
        try:
            connection = sqlite3.connect(f"{self._file.as_uri()}?mode=ro", isolation_level=None, uri=True)
        except sqlite3.Error as error:
            raise store_error(self._path, error) from error
        try:
            schema.configure_reader(connection)
        except BaseException:
            connection.close()
            raise
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_CELL)
        # What is no UTF-8 is damage, to be found by a checksum and not by an exception on the way.
        connection.text_factory = _text
        connection.execute("BEGIN")
        self._connection = connection
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the database."""
        assert self._connection is not None, "it was entered"
        self._connection.close()
        self._connection = None

    def findings(self) -> Iterator[Finding]:
        """Look at everything, and tell what is wrong as it is found.

        Raises:
            StoreError: somebody keeps the database to himself, so that nothing can be said of it.
        """
        connection = self._opened()
        try:
            schema.examine(connection, self._path)
            self.schema_version = schema.version_of(connection)
        except StoreSchemaError as error:
            yield Finding(table="file", row="", what=error.reason)
            return
        except sqlite3.Error as error:
            if is_busy(error):
                raise store_error(self._path, error) from error
            yield Finding(table="file", row="", what=str(error))
            return
        newest = len(schema.MIGRATIONS)
        if 0 < self.schema_version < newest:
            what = f"version {self.schema_version} can only be checked after it was opened for writing, which makes it {newest}"
            yield Finding(table="schema", row="", what=what)
        yield from self._pages()
        if self.schema_version == newest:
            yield from self._schema()
            yield from self._all_rows()

    def resumable(self) -> Iterator[ResumableRun]:
        """Tell which runs were interrupted; what is stored as running was, unless somebody owns the database now."""
        if self.schema_version != len(schema.MIGRATIONS):
            return
        # What is running under an owner is nothing to resume.
        codes = rows.RUN_STATE_CODES
        states = (codes[RunState.INTERRUPTED], codes[RunState.INTERRUPTED if is_held(self._path) else RunState.RUNNING])
        with contextlib.suppress(sqlite3.Error), contextlib.closing(self._opened().cursor()) as cursor:  # `findings` tells of it.
            for run_id, dag_id in cursor.execute(_RESUMABLE, states):
                yield ResumableRun(run_id=run_id, dag_id=dag_id)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            message = f"the check of store {self._path!r} is not open: use it inside `with StoreCheck(...) as check:`"
            raise StoreError(message)
        return self._connection

    def _scan(self, table: str, question: str, judge: Callable[[_Row], Iterator[str]], *, keys: int) -> Iterator[Finding]:
        """Have each row of an answer judged, which begins with so many columns of its key."""
        self.rows[table] = 0
        try:
            with contextlib.closing(self._opened().cursor()) as cursor:
                for found in cursor.execute(question):
                    self.rows[table] += 1
                    for what in _told(judge, found):
                        yield Finding(table=table, row=_name(found[:keys]), what=what)
        except sqlite3.Error as error:
            yield Finding(table=table, row="", what=f"it can't be read to its end: {error}")

    # ---------------------------------------------------------------------------------------------- as SQLite sees it

    def _pages(self) -> Iterator[Finding]:
        try:
            with contextlib.closing(self._opened().cursor()) as cursor:
                for (told,) in cursor.execute("PRAGMA integrity_check"):
                    if told != "ok":
                        yield Finding(table="file", row="", what=told)
                for table, rowid, parent, _ in cursor.execute("PRAGMA foreign_key_check"):
                    yield Finding(table=table, row=str(rowid), what=f"what it refers to in table {parent!r} is missing")
        except sqlite3.Error as error:
            yield Finding(table="file", row="", what=f"it can't be read to its end: {error}")

    def _schema(self) -> Iterator[Finding]:
        found = _schema_of(self._opened())
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
            schema.migrate(model)
            expected = _schema_of(model)
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                how = "is missing" if name not in found else "is none of ours" if name not in expected else "was changed"
                yield Finding(table="schema", row=_name((name,)), what=f"it {how}")

    # ---------------------------------------------------------------------------------------------- as the rules see it

    def _all_rows(self) -> Iterator[Finding]:
        yield from self._scan("owner", "SELECT count(*), min(epoch) FROM owner", self._owner, keys=0)
        yield from self._scan("task", "SELECT * FROM task", self._task, keys=1)
        yield from self._scan("plan", "SELECT * FROM plan", self._plan, keys=1)
        yield from self._scan("run", rows.SELECT_RUN + "1", self._run, keys=2)
        yield from self._scan("instance", _INSTANCES, self._instance, keys=3)
        yield from self._scan("xcom", _ENTRIES, self._entry, keys=5)
        yield from self._scan("event", _EVENTS, self._event, keys=2)
        yield from self._scan("inbox", "SELECT * FROM inbox", self._message, keys=1)
        yield from self._scan("stream_chunk", _CHUNKS, self._chunk, keys=6)
        yield from self._scan("stream_position", _POSITIONS, self._position, keys=6)

    @staticmethod
    def _owner(found: _Row) -> Iterator[str]:
        if found[0] != 1 or found[1] < 0:
            yield f"it has {found[0]} rows and the epoch {found[1]}"

    def _task(self, found: _Row) -> Iterator[str]:
        rows.decode_task(self._path, found)
        yield from ()

    def _plan(self, found: _Row) -> Iterator[str]:
        plan = rows.decode_plan(self._path, found)
        with contextlib.closing(self._opened().cursor()) as cursor:
            for task_id in plan.task_ids:
                if cursor.execute("SELECT 1 FROM task WHERE task_id = ?", (task_id,)).fetchone() is None:
                    yield f"its task {_name((task_id,))} is missing"

    def _message(self, found: _Row) -> Iterator[str]:
        rows.decode_message(self._path, found)
        yield from ()

    def _run(self, found: _Row) -> Iterator[str]:
        yield from run_flaws(found, rows.decode_run(self._path, found))

    def _instance(self, found: _Row) -> Iterator[str]:
        stored, owner, whole = found[:17], found[17:21], found[21:]
        place, row = rows.decode_instance(self._path, stored)
        yield from instance_flaws(stored, place, row)
        yield from element_flaws(place, row, whole)
        yield from owner_of(owner).flaws(needs_run=True)

    def _entry(self, found: _Row) -> Iterator[str]:
        stored, rowid, length = found[:15], found[15], found[16]
        entry = rows.decode_entry(self._path, stored)[1]
        yield from entry_flaws(stored, entry, length)
        yield from owner_of(found[17:]).flaws(needs_run=entry.slot != OUTSIDE)
        if self._checksum("xcom", "value", rowid) != stored[13]:
            yield "its value does not match its checksum"

    def _chunk(self, found: _Row) -> Iterator[str]:
        stored, rowid, length = found[:14], found[14], found[15]
        place, row, items_crc = decode_chunk(self._path, stored)
        yield from chunk_flaws(stored, place, row, items_crc, length)
        yield from owner_of(found[16:]).flaws(needs_run=True)
        if self._checksum("stream_chunk", "items", rowid) != items_crc:
            yield "its items do not match their checksum"

    def _position(self, found: _Row) -> Iterator[str]:
        decode_position(self._path, found[:10])
        yield from owner_of(found[10:14]).flaws(needs_run=True)
        if found[14] is None:
            yield "its producer is missing"

    def _checksum(self, table: str, column: str, rowid: int) -> int:
        crc = 0
        with self._opened().blobopen(table, column, rowid, readonly=True) as blob:
            while piece := blob.read(_PIECE):
                crc = crc32(piece, crc)
        return crc

    def _event(self, found: _Row) -> Iterator[str]:
        stored = found[:11]
        # Neither name is part of the row.
        event = rows.decode_event(self._path, "", "", stored)
        yield from event_flaws(stored, event)
        # Entries can be deleted under an id that never was a run's.
        yield from owner_of(found[11:]).flaws(needs_run=not isinstance(event, XComDeleted), needs_task=stored[4] is not None)


def _told(judge: Callable[[_Row], Iterator[str]], found: _Row) -> Iterator[str]:
    """Tell what is wrong with a row, one that can't be judged at all included."""
    try:
        yield from judge(found)
    except StoreCorruptError as error:
        # The cause may quote what the row holds.
        yield error.what if error.__cause__ is None else f"it can't be understood: {type(error.__cause__).__name__}"
    except sqlite3.Error as error:
        yield f"it can't be read: {error}"
    except _NONSENSE as error:
        yield f"it can't be understood: {type(error).__name__}"


def _schema_of(connection: sqlite3.Connection) -> dict[str, tuple[str, str]]:
    with contextlib.closing(connection.cursor()) as cursor:
        return {name: (kind, sql) for kind, name, sql in cursor.execute(_SCHEMA)}


def _name(key: _Row) -> str:
    text = "/".join(repr(each) if isinstance(each, str) else str(each) for each in key)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}..."


def _text(found: bytes) -> str:
    return found.decode("utf-8", "surrogateescape")
