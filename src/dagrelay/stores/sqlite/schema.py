"""What the database looks like: tables, settings, and the numbered migrations that lead there.

Integer surrogate keys throughout. Task ids are interned in topological order, so that the rows of a run lie in the order in
which they are written. XComs stand in a rowid table with the value last: WITHOUT ROWID would put the values into the interior of
the tree, which makes writes 2-3 times dearer, and a column after the value is reached only by reading it. Each row carries a
checksum over all its fields, since SQLite has none.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from dagrelay.errors import StoreError, StoreSchemaError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = (
    "APPLICATION_ID",
    "BUSY_TIMEOUT_MS",
    "MIGRATIONS",
    "OLDEST_SQLITE",
    "configure_reader",
    "configure_writer",
    "examine",
    "migrate",
    "require_current",
    "version_of",
    "was_cut_off_while_made",
)

APPLICATION_ID: Final = 0x44616752
"""`DagR`, in the header of each database of ours."""

BUSY_TIMEOUT_MS: Final = 100
"""How long a statement waits for another process; the store tries again after an awaited pause."""

OLDEST_SQLITE: Final = (3, 37, 0)
"""The first with STRICT tables."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE owner (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            epoch INTEGER NOT NULL,
            last_batch INTEGER NOT NULL,
            pid INTEGER NOT NULL,
            opened_us INTEGER NOT NULL
        ) STRICT""",
        "INSERT INTO owner VALUES (1, 0, 0, 0, 0)",
        """CREATE TABLE plan (
            plan_pk INTEGER PRIMARY KEY,
            fingerprint TEXT NOT NULL UNIQUE,
            task_ids TEXT NOT NULL,
            crc INTEGER NOT NULL,
            body BLOB NOT NULL
        ) STRICT""",
        """CREATE TABLE task (
            task_pk INTEGER PRIMARY KEY,
            task_id TEXT NOT NULL UNIQUE,
            crc INTEGER NOT NULL
        ) STRICT""",
        # A row without a DAG holds the place of a run id under which entries were pushed outside any run.
        """CREATE TABLE run (
            run_pk INTEGER PRIMARY KEY,
            run_id TEXT NOT NULL UNIQUE,
            dag_id TEXT,
            state INTEGER,
            is_pruned INTEGER NOT NULL CHECK (is_pruned IN (0, 1)),
            tags TEXT NOT NULL,
            created_us INTEGER,
            started_us INTEGER,
            ended_us INTEGER,
            start_seq INTEGER,
            end_seq INTEGER,
            plan_pk INTEGER REFERENCES plan,
            crc INTEGER NOT NULL,
            params BLOB NOT NULL,
            CHECK (dag_id IS NULL OR state IS NOT NULL AND start_seq IS NOT NULL)
        ) STRICT""",
        # Tombstones stand in neither, as they only grow in number. The states are the finished ones of `rows`.
        "CREATE INDEX run_by_dag ON run (dag_id, created_us) WHERE is_pruned = 0",
        "CREATE INDEX run_by_end ON run (dag_id, ended_us) WHERE is_pruned = 0 AND state IN (1, 2, 3)",
        "CREATE INDEX run_by_plan ON run (plan_pk)",
        """CREATE TABLE instance (
            run_pk INTEGER NOT NULL,
            task_pk INTEGER NOT NULL,
            map_index INTEGER NOT NULL CHECK (map_index >= -1),
            state INTEGER NOT NULL,
            attempt INTEGER NOT NULL CHECK (attempt >= 0),
            started_us INTEGER,
            ended_us INTEGER,
            start_seq INTEGER,
            seq INTEGER NOT NULL,
            error TEXT,
            failures INTEGER NOT NULL,
            interruptions INTEGER NOT NULL,
            retry_us INTEGER,
            crc INTEGER NOT NULL,
            PRIMARY KEY (run_pk, task_pk, map_index)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE xcom (
            run_pk INTEGER NOT NULL,
            task_pk INTEGER NOT NULL,
            map_index INTEGER NOT NULL CHECK (map_index >= -1),
            key TEXT NOT NULL,
            slot INTEGER NOT NULL CHECK (slot >= -1),
            attempt INTEGER NOT NULL CHECK (attempt >= 0),
            seq INTEGER NOT NULL,
            created_us INTEGER NOT NULL,
            size INTEGER NOT NULL CHECK (size >= 0),
            serializer TEXT NOT NULL,
            sensitive INTEGER NOT NULL,
            published INTEGER NOT NULL,
            description TEXT NOT NULL,
            value_crc INTEGER NOT NULL,
            crc INTEGER NOT NULL,
            value BLOB NOT NULL,
            PRIMARY KEY (run_pk, task_pk, map_index, key, slot)
        ) STRICT""",
        # What happened and can't be told any more from the rows above.
        """CREATE TABLE event (
            run_pk INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            time_us INTEGER NOT NULL,
            task_pk INTEGER,
            map_index INTEGER,
            attempt INTEGER,
            state INTEGER,
            text TEXT,
            count INTEGER,
            crc INTEGER NOT NULL,
            PRIMARY KEY (run_pk, seq)
        ) STRICT, WITHOUT ROWID""",
    ),
    (
        # Behind the checksum, and NULL in all rows that version 1 has left, whose checksums thereby stay right.
        "ALTER TABLE instance ADD COLUMN length INTEGER",
        "ALTER TABLE instance ADD COLUMN follows TEXT",
        "ALTER TABLE instance ADD COLUMN lineage TEXT",
        # Messages from other processes, and what has become of them.
        """CREATE TABLE inbox (
            message_id TEXT PRIMARY KEY,
            at_us INTEGER NOT NULL,
            result TEXT NOT NULL,
            crc INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX inbox_by_time ON inbox (at_us)",
        # Many items of a stream in one row, and again the value last.
        """CREATE TABLE stream_chunk (
            run_pk INTEGER NOT NULL,
            task_pk INTEGER NOT NULL,
            map_index INTEGER NOT NULL CHECK (map_index >= -1),
            key TEXT NOT NULL,
            generation INTEGER NOT NULL CHECK (generation > 0),
            first_seq INTEGER NOT NULL CHECK (first_seq >= 0),
            count INTEGER NOT NULL CHECK (count > 0),
            attempt INTEGER NOT NULL CHECK (attempt > 0),
            is_numbered INTEGER NOT NULL,
            created_us INTEGER NOT NULL,
            size INTEGER NOT NULL CHECK (size >= 0),
            serializer TEXT NOT NULL,
            items_crc INTEGER NOT NULL,
            crc INTEGER NOT NULL,
            items BLOB NOT NULL,
            PRIMARY KEY (run_pk, task_pk, map_index, key, generation, first_seq)
        ) STRICT""",
        # What each consumer has acknowledged: of which producer's stream, and up to which item.
        """CREATE TABLE stream_position (
            run_pk INTEGER NOT NULL,
            task_pk INTEGER NOT NULL,
            map_index INTEGER NOT NULL CHECK (map_index >= -1),
            producer_pk INTEGER NOT NULL,
            producer_index INTEGER NOT NULL CHECK (producer_index >= -1),
            key TEXT NOT NULL,
            generation INTEGER NOT NULL CHECK (generation > 0),
            next_seq INTEGER NOT NULL CHECK (next_seq >= 0),
            attempt INTEGER NOT NULL CHECK (attempt > 0),
            crc INTEGER NOT NULL,
            PRIMARY KEY (run_pk, task_pk, map_index, producer_pk, producer_index, key)
        ) STRICT, WITHOUT ROWID""",
    ),
)
"""Statements leading from each version (the `user_version` of the database) to the next; forward only."""


def examine(connection: sqlite3.Connection, path: str) -> None:
    """Check, by a connection that can't write, that a database is ours or empty.

    Raises:
        StoreSchemaError: it is neither, or a newer version wrote it.
    """
    try:
        version = _pragma(connection, "user_version")
        application_id = _pragma(connection, "application_id")
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise StoreSchemaError(path, "it is no SQLite database") from error
        raise
    # A process killed while it created its store leaves a database without version or table.
    is_empty = version == 0 and application_id == 0 and tables == 0
    if application_id != APPLICATION_ID and not is_empty:
        raise StoreSchemaError(path, "it is a SQLite database of another application")
    if version > len(MIGRATIONS):
        newest = len(MIGRATIONS)
        raise StoreSchemaError(path, f"a newer version of dagrelay wrote it (schema {version}, this one knows {newest})")


def was_cut_off_while_made(error: sqlite3.Error, path: str) -> bool:
    """Tell whether `examine` failed as there is a journal to roll back, and that would leave an empty database.

    The first transaction of all, which turns the write-ahead log on, still has a rollback journal.
    """
    if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
        return False
    with open(f"{path}-journal", "rb") as journal:  # noqa: PTH123 - as everywhere here, a path is a string
        return journal.read(20)[16:] == bytes(4)  # Pages that there were before.


def version_of(connection: sqlite3.Connection) -> int:
    """Return the schema version of a database; 0 if it has none yet."""
    return _pragma(connection, "user_version")


def require_current(connection: sqlite3.Connection, path: str) -> None:
    """Check that a database, which is ours, needs no migration before it can be read.

    Raises:
        StoreSchemaError: it does.
    """
    version, newest = version_of(connection), len(MIGRATIONS)
    if version < newest:
        raise StoreSchemaError(path, f"it has schema {version} of {newest}; open it for writing once, which brings it there")


def configure_writer(connection: sqlite3.Connection, *, synchronous: str) -> None:
    """Set what the writing connection depends on, and read it back.

    Raises:
        StoreError: SQLite did not take a setting.
    """
    _require_sqlite()
    _set(connection, "busy_timeout", BUSY_TIMEOUT_MS)
    _set(connection, "journal_mode", "wal")
    # In WAL mode NORMAL loses acknowledged commits in a power cut; FULL syncs the log at each commit.
    _set(connection, "synchronous", {"FULL": 2, "NORMAL": 1}[synchronous])
    _set(connection, "foreign_keys", 1)
    _set(connection, "wal_autocheckpoint", 0)
    _distrust(connection)


def configure_reader(connection: sqlite3.Connection) -> None:
    """Set what a reading connection depends on, and read it back.

    Raises:
        StoreError: SQLite did not take a setting.
    """
    _require_sqlite()
    _set(connection, "busy_timeout", BUSY_TIMEOUT_MS)
    _set(connection, "query_only", 1)
    _distrust(connection)


def _distrust(connection: sqlite3.Connection) -> None:
    """Treat the file as if somebody else had written it."""
    _set(connection, "trusted_schema", 0)
    _set(connection, "cell_size_check", 1)
    # With a memory map an I/O error is a SIGBUS, and stray writes of the process reach the file.
    _set(connection, "mmap_size", 0)


def migrate(connection: sqlite3.Connection, *, before: Callable[[int], None] | None = None) -> None:
    """Bring the database to this version's schema, by all steps in one transaction: a crash leaves the old one or the new one.

    Args:
        connection: the writing one.
        before: called with the version there is, before it is changed; not for a new database.
    """
    version = version_of(connection)
    if version == len(MIGRATIONS):
        return
    if version > 0 and before is not None:
        before(version)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again: without the lock file another owner may have come first.
        for step in range(version_of(connection), len(MIGRATIONS)):
            for statement in MIGRATIONS[step]:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {step + 1}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _require_sqlite() -> None:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        message = f"SQLite {sqlite3.sqlite_version} is too old: {wanted} or later is needed"
        raise StoreError(message)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _set(connection: sqlite3.Connection, name: str, value: int | str) -> None:
    connection.execute(f"PRAGMA {name} = {value}").fetchall()
    row = connection.execute(f"PRAGMA {name}").fetchone()
    # SQLite built without memory maps answers nothing to mmap_size.
    if row is not None and row[0] != value:
        message = f"SQLite keeps {name} at {row[0]!r} where {value!r} is needed"
        raise StoreError(message)
