"""The rows that one transaction has read and changed, and the keys that names have in the database.

Rows are held back and written many at a time, so that a start and its outcome in one batch cost one row.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from dagrelay.errors import RunNotFoundError, StoreCorruptError
from dagrelay.model.events import TaskStateChanged, XComDeleted
from dagrelay.stores.sqlite import rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import AckItems, FinishAttempt, PutEntries, StoredPlan
    from dagrelay.stores.rules import InstanceRow, LoggedEvent, RunRow
    from dagrelay.stores.sqlite.rows import Place, RunFields

__all__ = ("Changes", "Names")

_KNOWN_NAMES: Final = 200_000
"""Names remembered at the most; then all are forgotten and read again as needed."""

_PUT_RUN: Final = """INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_pk) DO UPDATE SET
    dag_id = excluded.dag_id, state = excluded.state, is_pruned = excluded.is_pruned, tags = excluded.tags,
    created_us = excluded.created_us, started_us = excluded.started_us, ended_us = excluded.ended_us,
    start_seq = excluded.start_seq, end_seq = excluded.end_seq, plan_pk = excluded.plan_pk, crc = excluded.crc,
    params = excluded.params"""
_GET_INSTANCE: Final = "SELECT * FROM instance WHERE run_pk = ? AND task_pk = ? AND map_index = ?"
_CHUNK: Final = 32
"""Instances read by one statement."""
_WORTH_A_CHUNK: Final = 4
"""Fewer rows than these are read singly."""
_GET_INSTANCES: Final = "SELECT * FROM instance WHERE run_pk = ? AND map_index = ? AND task_pk IN (?" + ", ?" * (_CHUNK - 1) + ")"
_GET_ELEMENTS: Final = "SELECT * FROM instance WHERE run_pk = ? AND task_pk = ? AND map_index IN (?" + ", ?" * (_CHUNK - 1) + ")"
_PUT_INSTANCE: Final = """INSERT INTO instance VALUES {rows}
    ON CONFLICT (run_pk, task_pk, map_index) DO UPDATE SET
    state = excluded.state, attempt = excluded.attempt, started_us = excluded.started_us, ended_us = excluded.ended_us,
    start_seq = excluded.start_seq, seq = excluded.seq, error = excluded.error, failures = excluded.failures,
    interruptions = excluded.interruptions, retry_us = excluded.retry_us, crc = excluded.crc, length = excluded.length,
    follows = excluded.follows, lineage = excluded.lineage"""
# Never INSERT OR REPLACE: it deletes and inserts, which is five times dearer.
_PUT_ENTRY: Final = """INSERT INTO xcom VALUES {rows}
    ON CONFLICT (run_pk, task_pk, map_index, key, slot) DO UPDATE SET
    attempt = excluded.attempt, seq = excluded.seq, created_us = excluded.created_us, size = excluded.size,
    serializer = excluded.serializer, sensitive = excluded.sensitive, published = excluded.published,
    description = excluded.description, value_crc = excluded.value_crc, crc = excluded.crc, value = excluded.value"""
_PUT_EVENT: Final = "INSERT INTO event VALUES {rows}"
_ROWS_AT_ONCE: Final = (64, 16, 4, 1)
"""Rows written by one statement. Each statement lets go of the interpreter's lock, and must wait to get it back from a busy loop
for as long as its switch interval, so a batch is written by as few as its size allows; and each size is compiled once."""


class Names:
    """The surrogate keys of run ids, task ids and plans that the writer has met lately.

    Invariant: each stands for a row that is stored, or was inserted by the transaction under way; a rollback forgets all.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.runs: dict[str, int] = {}
        self.tasks: dict[str, int] = {}

    def forget(self) -> None:
        """Drop everything."""
        self.runs.clear()
        self.tasks.clear()

    def trim(self) -> None:
        """Keep within bounds."""
        if len(self.runs) + len(self.tasks) > _KNOWN_NAMES:
            self.forget()


class Changes:
    """The rows one transaction has read and changed."""

    def __init__(self, cursor: sqlite3.Cursor, names: Names, path: str) -> None:
        """Take a cursor, what is known of names, and the database's path for error messages."""
        self.cursor = cursor
        self.path = path
        self._names = names
        self._instances: dict[Place, InstanceRow | None] = {}
        self._changed: dict[Place, InstanceRow] = {}
        self._entries: list[tuple[Any, ...]] = []
        self._events: list[tuple[Any, ...]] = []

    def flush(self) -> None:
        """Write what was held back."""
        if self._changed:
            _write_rows(self.cursor, _PUT_INSTANCE, [rows.encode_instance(place, row) for place, row in self._changed.items()])
            self._changed = {}
        if self._entries:
            _write_rows(self.cursor, _PUT_ENTRY, self._entries)
            self._entries = []
        if self._events:
            _write_rows(self.cursor, _PUT_EVENT, self._events)
            self._events = []

    # ---------------------------------------------------------------------------------------------- names

    def task(self, task_id: str) -> int:
        """Return the key of a task id, interning it."""
        known = self.known_task(task_id)
        if known is not None:
            return known
        task_pk: int = 1 + (self.cursor.execute("SELECT max(task_pk) FROM task").fetchone()[0] or 0)
        self.cursor.execute("INSERT INTO task VALUES (?, ?, ?)", rows.encode_task(task_pk, task_id))
        self._names.tasks[task_id] = task_pk
        return task_pk

    def known_task(self, task_id: str) -> int | None:
        """Return the key of a task id, None if it was never stored."""
        known = self._names.tasks.get(task_id)
        if known is not None:
            return known
        found = self.cursor.execute("SELECT * FROM task WHERE task_id = ?", (task_id,)).fetchone()
        if found is None:
            return None
        task_pk, _ = rows.decode_task(self.path, found)
        self._names.tasks[task_id] = task_pk
        return task_pk

    def task_id(self, task_pk: int) -> str:
        """Return the task id of a key."""
        found = self.cursor.execute("SELECT * FROM task WHERE task_pk = ?", (task_pk,)).fetchone()
        if found is None:
            raise StoreCorruptError(self.path, f"task {task_pk} is missing")
        return rows.decode_task(self.path, found)[1]

    def run_pk(self, run_id: str) -> int:
        """Return the key of a run that is there and not pruned.

        Raises:
            RunNotFoundError: it is not.
        """
        fields = self.run(run_id)
        if fields is None or fields.row is None or fields.row.is_pruned:
            raise RunNotFoundError(run_id)
        self._names.runs[run_id] = fields.run_pk
        return fields.run_pk

    def place(self, instance: InstanceKey) -> Place:
        """Return where an instance of a run that is there stands; see `run_pk`."""
        run_id, task_id, map_index = instance
        run_pk, task_pk = self._names.runs.get(run_id), self._names.tasks.get(task_id)
        return (
            self.run_pk(run_id) if run_pk is None else run_pk,
            self.task(task_id) if task_pk is None else task_pk,
            rows.UNMAPPED if map_index is None else map_index,
        )

    # ---------------------------------------------------------------------------------------------- rows

    def run(self, run_id: str) -> RunFields | None:
        """Return the row of a run id."""
        found = self.cursor.execute(rows.SELECT_RUN + "run_id = ?", (run_id,)).fetchone()
        return None if found is None else rows.decode_run(self.path, found)

    def existing_run(self, run_id: str) -> tuple[RunFields, RunRow]:
        """Return the row of a run that is there and not pruned.

        Raises:
            RunNotFoundError: it is not.
        """
        fields = self.run(run_id)
        if fields is None or fields.row is None or fields.row.is_pruned:
            raise RunNotFoundError(run_id)
        return fields, fields.row

    def put_run(self, fields: RunFields) -> None:
        """Insert or update the row of a run."""
        self.cursor.execute(_PUT_RUN, rows.encode_run(fields))

    def new_run_pk(self) -> int:
        """Return a key for a new row of table `run`."""
        highest: int | None = self.cursor.execute("SELECT max(run_pk) FROM run").fetchone()[0]
        return 1 + (highest or 0)

    def instance(self, place: Place) -> InstanceRow | None:
        """Return the row of an instance, None if it was never touched."""
        try:
            return self._instances[place]
        except KeyError:
            found = self.cursor.execute(_GET_INSTANCE, place).fetchone()
            row = None if found is None else rows.decode_instance(self.path, found)[1]
            self._instances[place] = row
            return row

    def foresee(self, instances: Iterable[InstanceKey]) -> None:
        """Read the rows of many instances at once, where their names are known; it changes nothing but the time it takes."""
        tasks: dict[int, list[int]] = {}
        elements: dict[tuple[int, int], list[int]] = {}
        for run_id, task_id, map_index in instances:
            run_pk, task_pk = self._names.runs.get(run_id), self._names.tasks.get(task_id)
            if run_pk is None or task_pk is None:
                continue
            if map_index is None:
                tasks.setdefault(run_pk, []).append(task_pk)
            else:
                elements.setdefault((run_pk, task_pk), []).append(map_index)
        for run_pk, task_pks in tasks.items():
            for chunk in _chunks(task_pks):
                self._instances.update(dict.fromkeys([(run_pk, task_pk, rows.UNMAPPED) for task_pk in chunk]))
                self._read_instances(_GET_INSTANCES, (run_pk, rows.UNMAPPED, *chunk))
        for (run_pk, task_pk), indices in elements.items():
            for chunk in _chunks(indices):
                self._instances.update(dict.fromkeys([(run_pk, task_pk, index) for index in chunk]))
                self._read_instances(_GET_ELEMENTS, (run_pk, task_pk, *chunk))

    def _read_instances(self, question: str, values: tuple[int, ...]) -> None:
        for found in self.cursor.execute(question, values):
            place, row = rows.decode_instance(self.path, found)
            self._instances[place] = row

    def put_instance(self, place: Place, row: InstanceRow) -> None:
        """Insert or update the row of an instance."""
        self._instances[place] = self._changed[place] = row

    def put_entries(self, op: PutEntries | FinishAttempt | AckItems, place: Place, slot: int) -> None:
        """Insert or update the entries of an operation."""
        for entry in op.entries:
            self.put_encoded_entry(rows.encode_entry(place, slot, op.attempt, entry))

    def put_encoded_entry(self, fields: tuple[Any, ...]) -> None:
        """Insert or update an entry that is encoded already."""
        self._entries.append(fields)

    def log(self, run_pk: int, events: Iterable[LoggedEvent]) -> None:
        """Insert events into the log."""
        for event in events:
            task_pk = self.task(event.task_id) if isinstance(event, (TaskStateChanged, XComDeleted)) else None
            self._events.append(rows.encode_event(run_pk, task_pk, event))

    def plan(self, plan: StoredPlan) -> int:
        """Return the key of a plan, storing it (and interning its task ids in their order) if it is new."""
        found = self.cursor.execute("SELECT plan_pk FROM plan WHERE fingerprint = ?", (plan.fingerprint,)).fetchone()
        if found is not None:
            plan_pk: int = found[0]
            return plan_pk
        for task_id in plan.task_ids:
            self.task(task_id)
        plan_pk = 1 + (self.cursor.execute("SELECT max(plan_pk) FROM plan").fetchone()[0] or 0)
        self.cursor.execute("INSERT INTO plan VALUES (?, ?, ?, ?, ?)", rows.encode_plan(plan_pk, plan))
        return plan_pk

    def drop_unused_plan(self, plan_pk: int | None) -> None:
        """Delete a plan that no run refers to any more."""
        self.cursor.execute(
            "DELETE FROM plan WHERE plan_pk = ? AND NOT EXISTS (SELECT 1 FROM run WHERE run.plan_pk = plan.plan_pk)", (plan_pk,)
        )

    def empty(self, run_id: str, run_pk: int) -> int:
        """Delete everything of a run but its row, and return how many entries it had."""
        self.flush()
        self._instances.clear()
        self._names.runs.pop(run_id, None)
        self.cursor.execute("DELETE FROM instance WHERE run_pk = ?", (run_pk,))
        self.cursor.execute("DELETE FROM event WHERE run_pk = ?", (run_pk,))
        self.cursor.execute("DELETE FROM stream_chunk WHERE run_pk = ?", (run_pk,))
        self.cursor.execute("DELETE FROM stream_position WHERE run_pk = ?", (run_pk,))
        return self.cursor.execute("DELETE FROM xcom WHERE run_pk = ?", (run_pk,)).rowcount


def _chunks(found: list[int]) -> Iterable[list[int]]:
    """Return what is worth reading many at a time, in chunks of one length: a last one is filled up with a key it has already."""
    keys = list(dict.fromkeys(found))
    rest = len(keys) % _CHUNK
    if rest >= _WORTH_A_CHUNK:
        keys.extend(keys[-1:] * (_CHUNK - rest))
    return (keys[first : first + _CHUNK] for first in range(0, len(keys) - _CHUNK + 1, _CHUNK))


def _write_rows(cursor: sqlite3.Cursor, statement: str, found: list[tuple[Any, ...]]) -> None:
    """Write rows, in order, by few statements."""
    first, width = 0, len(found[0])
    for count in _ROWS_AT_ONCE:
        while len(found) - first >= count:
            cursor.execute(_with_rows(statement, count, width), list(chain.from_iterable(found[first : first + count])))
            first += count


@lru_cache(maxsize=64)
def _with_rows(statement: str, count: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.replace("{rows}", ", ".join([row] * count))
