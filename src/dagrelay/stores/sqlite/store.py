"""The store on disk: a SQLite database with one owner, a writing and a reading connection."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import anyio

from dagrelay.errors import DagrelayError, StoreClosedError, StoreError, StoreLockedError, StoreReadOnlyError
from dagrelay.model.records import from_us
from dagrelay.stores.base import StoreStatistics
from dagrelay.stores.sqlite import schema
from dagrelay.stores.sqlite.backup import back_up, copy_before_migration, copy_database
from dagrelay.stores.sqlite.driver import InlineDriver, UnitConnection, driver_for_this_loop
from dagrelay.stores.sqlite.faults import is_busy, store_error
from dagrelay.stores.sqlite.inbox import InboxFolder
from dagrelay.stores.sqlite.lock import OwnerLock, is_held
from dagrelay.stores.sqlite.reads import KnownTasks, Snapshot
from dagrelay.stores.sqlite.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagrelay.model.events import Event
    from dagrelay.model.records import Run, XComEntry
    from dagrelay.model.states import TaskState
    from dagrelay.stores.base import Lookup, RunImage, RunQuery, StoredEntry, StoredInstance, StoredRun
    from dagrelay.stores.operations import Operation
    from dagrelay.stores.sqlite.driver import Driver, DriverFactory
    from dagrelay.stores.stream_records import StreamPage, StreamQuery

__all__ = ("SqliteStore",)

T = TypeVar("T")

_WAL_BYTES: Final = 16 * 1024 * 1024
"""Size of the write-ahead log past which it is brought into the database even when there is work to do."""
_IDLE_OPERATIONS: Final = 4096
"""Operations after which an idle moment is used to bring the log in; a checkpoint syncs twice, so not after each small batch."""
_BUSY_TRIES: Final = 50
_BUSY_PAUSE_S: Final = 0.1
"""Another process that writes to the database is waited for so often, with a pause between."""
_MODE: Final = 0o600
_CHECKPOINTS: Final = {"PASSIVE": "PRAGMA wal_checkpoint(PASSIVE)", "TRUNCATE": "PRAGMA wal_checkpoint(TRUNCATE)"}
"""Whole statements, as a PRAGMA takes no parameters and no text of a caller's becomes part of a statement."""


class SqliteStore:
    """Runs and values in a SQLite database, for one owner at a time and any number of readers.

    Args:
        path: The database's file; made, with mode 0600, if it is missing. `<path>.lock` beside it is the owner's.
        synchronous: "FULL" survives a power cut; "NORMAL" survives a kill of the process, but a power cut may lose the latest
            batches.
        lock_timeout_s: How long `open` waits for another owner to leave.
        read_only: Look, beside whoever owns the store. What is stored as running is shown as interrupted when nobody does.
        driver: How its connections are reached: by threads that suit the loop, or, in a simulation, by
            `dagrelay.testing.InlineDriver`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        lock_timeout_s: float = 0,
        read_only: bool = False,
        driver: DriverFactory = driver_for_this_loop,
    ) -> None:
        """Take where the database is and how to open it; nothing is touched before `open`."""
        if synchronous not in ("FULL", "NORMAL"):
            message = f"synchronous must be 'FULL' or 'NORMAL', not {synchronous!r}"
            raise ValueError(message)
        # Absolute, lest a chdir change its meaning; and the file itself, lest two names of it have two locks.
        self._file = Path(path).resolve()
        self._path = str(self._file)
        self._synchronous: Literal["FULL", "NORMAL"] = synchronous
        self._lock_timeout_s = lock_timeout_s
        self._is_read_only = read_only
        self._make_driver = driver
        self._factory: type[UnitConnection] = UnitConnection
        self._open_since: str | None = None
        self._lock: OwnerLock | None = None
        self._writing: Driver | None = None
        self._reading: Driver | None = None
        self._writer = Writer(self._path)
        self._tasks = KnownTasks()
        self._batches = self._operations = self._reads = 0
        # The log's size from which on it is brought in even though there is work; it rises while a reader is in the way.
        self._wal_limit = _WAL_BYTES
        self._unmoved_operations = 0

    @property
    def name(self) -> str:
        """The database's absolute path."""
        return self._path

    @property
    def is_read_only(self) -> bool:
        """Whether `apply` is refused."""
        return self._is_read_only

    @property
    def inbox(self) -> InboxFolder | None:
        """The folder by which other processes reach the owner; None for who is none, and in a simulation, which has no others."""
        if self._writing is None or isinstance(self._writing, InlineDriver):
            return None
        return InboxFolder(self._path)

    def statistics(self) -> StoreStatistics:
        """Return what was done since the opening."""
        return StoreStatistics(
            batches=self._batches, operations=self._operations, reads=self._reads, replays=self._writer.replays
        )

    # ---------------------------------------------------------------------------------------------- opening and closing

    async def open(self, *, now_us: int) -> None:
        """Open the database; see Store.open."""
        if self._open_since is not None:
            raise StoreLockedError(self._path, pid=os.getpid(), host=socket.gethostname(), since=self._open_since)
        self._open_since = from_us(now_us).isoformat()
        self._writer = Writer(self._path)
        self._tasks = KnownTasks()
        self._batches = self._operations = self._reads = 0
        try:
            await self._open(now_us, self._open_since)
        except BaseException as error:
            await self.close()  # noqa: ASYNC102 - it shields itself
            if isinstance(error, Exception) and not isinstance(error, DagrelayError):
                raise store_error(self._path, error) from error  # noqa: ASYNC104 - no cancellation is an Exception
            raise

    async def _open(self, now_us: int, since: str) -> None:
        if not self._is_read_only:
            self._lock = OwnerLock(self._path)
            await self._lock.acquire(timeout_s=self._lock_timeout_s, since=since)
            self._make_file()
        elif not self._file.exists():
            message = f"there is no store {self._path!r} to read"
            raise StoreError(message)
        # Only a connection that can't write leaves a file that is not ours as it is, its log included.
        self._reading = await self._connect("ro")
        try:
            await self._reading.run(lambda connection: schema.examine(connection, self._path))
        except sqlite3.OperationalError as error:
            if self._is_read_only or not schema.was_cut_off_while_made(error, self._path):
                raise
        if not self._is_read_only:
            await self._reading.close()
            self._writing = await self._connect("rw")
            await self._writing.run(lambda connection: self._prepare(connection, now_us))
            self._reading = await self._connect("ro")
        await self._reading.run(schema.configure_reader)
        await self._reading.run(lambda connection: schema.require_current(connection, self._path))

    def _make_file(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        except FileExistsError:
            if os.access(self._path, os.R_OK) and not os.access(self._path, os.W_OK):
                # SQLite would leave a log and an index beside it that can't be written either, whatever becomes of the file.
                raise StoreReadOnlyError(self._path) from PermissionError(errno.EACCES, os.strerror(errno.EACCES), self._path)
            return
        # Whatever the umask is; SQLite gives its log the mode of the database.
        os.fchmod(fd, _MODE)
        os.close(fd)

    async def _connect(self, mode: Literal["ro", "rw"]) -> Driver:
        driver = self._driver(mode)
        await driver.open()
        return driver

    def _driver(self, mode: Literal["ro", "rw"]) -> Driver:
        return self._make_driver(f"{self._file.as_uri()}?mode={mode}", factory=self._factory)

    def _prepare(self, connection: sqlite3.Connection, now_us: int) -> None:
        schema.configure_writer(connection, synchronous=self._synchronous)
        schema.migrate(connection, before=lambda version: copy_before_migration(connection, self._path, version))
        self._writer.take_over(connection, now_us=now_us)

    async def close(self) -> None:
        """Close the database; see Store.close."""
        async with contextlib.AsyncExitStack() as stack:
            # Run in reverse, each whatever became of those before it.
            if self._lock is not None:
                stack.callback(self._lock.release)
            if self._writing is not None:
                stack.push_async_callback(self._writing.close)
            if self._reading is not None:
                stack.push_async_callback(self._reading.close)
            if self._writing is not None:
                stack.push_async_callback(self._close_log, self._writing)
            self._lock = self._writing = self._reading = self._open_since = None

    @staticmethod
    async def _close_log(driver: Driver) -> None:
        # Only to leave one file behind and no log; that failing loses nothing.
        with contextlib.suppress(sqlite3.Error):
            await driver.run(lambda connection: connection.execute(_CHECKPOINTS["TRUNCATE"]).fetchall())

    # ---------------------------------------------------------------------------------------------- writing

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply a batch; see Store.apply."""
        if self._is_read_only:
            raise StoreReadOnlyError(self._path)
        results = await self._run(self._writing, lambda connection: self._writer.apply(connection, batch))
        self._batches += 1
        self._operations += sum(not isinstance(result, DagrelayError) for result in results)
        self._unmoved_operations += len(batch)
        return results

    async def _run(self, driver: Driver | None, unit: Callable[[sqlite3.Connection], T]) -> T:
        if driver is None:
            raise StoreClosedError(self._path)
        tries = 0
        while True:
            try:
                return await driver.run(unit)
            except DagrelayError:
                raise
            except Exception as error:
                tries += 1
                if not is_busy(error) or tries >= _BUSY_TRIES:
                    raise store_error(self._path, error) from error
            await anyio.sleep(_BUSY_PAUSE_S)

    async def maintain(self, *, idle: bool) -> None:
        """Bring the write-ahead log into the database when there is time, or when it has grown long; see Store.maintain."""
        if self._writing is None or not self._unmoved_operations:
            return
        size = self._log_bytes()
        if size >= self._wal_limit:
            # Only a truncated log tells by its size how much of it is waiting.
            is_done = await self.checkpoint("TRUNCATE")
            self._wal_limit = _WAL_BYTES if is_done else size + _WAL_BYTES
        elif idle and self._unmoved_operations >= _IDLE_OPERATIONS:
            await self.checkpoint("PASSIVE")

    async def checkpoint(self, mode: Literal["PASSIVE", "TRUNCATE"]) -> bool:
        """Bring the write-ahead log into the database; PASSIVE waits for nobody, TRUNCATE for readers (shortly).

        Returns:
            Whether all of it went.
        """
        statement = _CHECKPOINTS[mode]

        def unit(connection: sqlite3.Connection) -> bool:
            is_busy, in_log, moved = connection.execute(statement).fetchone()
            return not is_busy and in_log == moved

        is_done = await self._run(self._writing, unit)
        self._unmoved_operations = 0
        return is_done

    def _log_bytes(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size  # noqa: PTH116 - asked after every batch, and a Path costs more than the call
        except OSError:
            return 0

    # ---------------------------------------------------------------------------------------------- copying

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy the database to a new file of mode 0600; see SupportsBackup.backup."""
        if self._reading is None:
            raise StoreClosedError(self._path)
        name = str(Path(target))

        async def work(is_stopped: Callable[[], bool]) -> None:
            # A connection of its own, as a copy takes as long as it takes.
            driver = self._driver("ro")
            try:
                await driver.open()
                await self._run(driver, schema.configure_reader)
                await self._run(driver, lambda connection: copy_database(connection, self._path, name, is_stopped=is_stopped))
            except sqlite3.Error as error:
                raise store_error(self._path, error) from error
            finally:
                await driver.close()  # noqa: ASYNC102 - it shields itself

        await back_up(work)

    # ---------------------------------------------------------------------------------------------- reading

    async def _read(self, question: Callable[[Snapshot], T]) -> T:
        shows_running = not self._is_read_only or is_held(self._path)

        def unit(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                # Closed, since an exception's traceback may keep it, and an open statement its connection beyond its close.
                with contextlib.closing(connection.cursor()) as cursor:
                    return question(Snapshot(cursor, self._path, self._tasks, shows_running=shows_running))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

        self._reads += 1
        return await self._run(self._reading, unit)

    async def find_run(self, run_id: str) -> StoredRun | None:
        """Return the run; see Store.find_run."""
        return await self._read(lambda snapshot: snapshot.find_run(run_id))

    async def find_runs(self, query: RunQuery) -> list[Run]:
        """Return runs; see Store.find_runs."""
        return await self._read(lambda snapshot: snapshot.find_runs(query))

    async def load_run(self, run_id: str) -> RunImage | None:
        """Return what is needed to go on; see Store.load_run."""
        return await self._read(lambda snapshot: snapshot.load_run(run_id))

    async def instances(self, run_id: str, *, task_id: str | None = None, state: TaskState | None = None) -> list[StoredInstance]:
        """Return task instances; see Store.instances."""
        return await self._read(lambda snapshot: snapshot.instances(run_id, task_id=task_id, state=state))

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        """Return values; see Store.lookup."""
        return await self._read(lambda snapshot: snapshot.lookup(wanted))

    async def entries(
        self,
        run_id: str,
        *,
        task_ids: Sequence[str] | None = None,
        prefix: str | None = None,
        all_attempts: bool = False,
        with_values: bool = False,
    ) -> list[tuple[XComEntry, StoredEntry | None]]:
        """Return entries; see Store.entries."""
        return await self._read(
            lambda snapshot: snapshot.entries(
                run_id, task_ids=task_ids, prefix=prefix, all_attempts=all_attempts, with_values=with_values
            )
        )

    async def stream(self, query: StreamQuery) -> StreamPage:
        """Return a page of a stream; see Store.stream."""
        return await self._read(lambda snapshot: snapshot.stream(query))

    async def stored_bytes(self, run_id: str) -> int:
        """Return the sum of sizes; see Store.stored_bytes."""
        return await self._read(lambda snapshot: snapshot.stored_bytes(run_id))

    async def next_seq(self, run_id: str) -> int:
        """Return the next place in the timeline; see Store.next_seq."""
        return await self._read(lambda snapshot: snapshot.next_seq(run_id))

    async def previous(
        self, dag_id: str, task_id: str, key: str, *, before_run: str, limit: int
    ) -> list[tuple[str, StoredEntry]]:
        """Return values of earlier runs; see Store.previous."""
        return await self._read(lambda snapshot: snapshot.previous(dag_id, task_id, key, before_run=before_run, limit=limit))

    async def attempts(self, dag_id: str, *, task_id: str | None = None) -> list[StoredInstance]:
        """Return the task instances of all runs; see Store.attempts."""
        return await self._read(lambda snapshot: snapshot.attempts(dag_id, task_id=task_id))

    async def message(self, message_id: str) -> str | None:
        """Return what has become of a message; see Store.message."""
        return await self._read(lambda snapshot: snapshot.message(message_id))

    async def events(self, run_id: str, *, after_seq: int = 0, limit: int = 1000) -> list[Event]:
        """Return a page of the timeline; see Store.events."""
        return await self._read(lambda snapshot: snapshot.events(run_id, after_seq=after_seq, limit=limit))
