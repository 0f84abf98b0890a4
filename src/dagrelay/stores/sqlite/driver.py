"""How a unit of work reaches a SQLite connection and its thread: one synchronous function, one job.

Never a transaction of several awaits: a cancelled `await commit()` commits all the same, a cancelled BEGIN leaves a
transaction open. On asyncio the connection and its thread are aiosqlite's; on trio, where aiosqlite can't run, they are the
standard library's and anyio's.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar, cast

import aiosqlite
import anyio
import anyio.lowlevel
import anyio.to_thread

from dagrelay.cancellation import runs_on_asyncio, to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = (
    "AiosqliteDriver",
    "Driver",
    "DriverFactory",
    "InlineDriver",
    "ThreadDriver",
    "UnitConnection",
    "driver_for_this_loop",
)

T = TypeVar("T")

_UNIT: Final = "-- run a unit of work"
"""What aiosqlite is asked to execute; UnitConnection takes the job from the parameters instead of sending this to SQLite."""


class Driver(Protocol):
    """One connection, which runs units of work one after another."""

    async def open(self) -> None:
        """Connect.

        Cancellation: nothing stays open.
        """
        ...

    async def run(self, unit: Callable[[sqlite3.Connection], T]) -> T:
        """Run `unit` with the connection in its thread; return its result or raise its exception.

        Cancellation: shielded; native cancellation is raised once the unit is over.
        """
        ...

    async def close(self) -> None:
        """Disconnect and end the thread; safe to call twice and before `open`. Shields itself."""
        ...


class _Job(Generic[T]):
    """A unit on its way through the thread, boxing how it ended.

    Nothing is raised through a future of the loop: a StopIteration there would never arrive.
    """

    def __init__(self, unit: Callable[[sqlite3.Connection], T]) -> None:
        self._unit = unit
        self._result: T
        self._error: BaseException | None = None
        self.is_over = False

    def run(self, connection: sqlite3.Connection) -> None:
        try:
            self._result = self._unit(connection)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - it is raised by `outcome`, in the caller
            self._error = error
        # Written last: whoever sees it may take the outcome.
        self.is_over = True

    def outcome(self) -> T:
        if self._error is None:
            return self._result
        error, self._error = self._error, None  # The exception's traceback leads back here: break the cycle.
        raise error


class _NoRows:
    """What aiosqlite takes for the cursor of a unit."""

    def fetchall(self) -> list[Any]:
        return []


class UnitConnection(sqlite3.Connection):
    """A connection that runs a unit of work where it is asked to execute the constant `_UNIT`."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute SQL, or the job that stands in `parameters`."""
        if sql is _UNIT:
            (job,) = cast("tuple[_Job[Any]]", parameters)
            job.run(self)
            return cast("sqlite3.Cursor", _NoRows())
        return super().execute(sql, parameters)


class _NotConnected:
    """What aiosqlite takes for a connection where there is none, so that it ends its thread as it always does."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def close(self) -> None:
        """Close nothing."""


def _nothing(_connection: sqlite3.Connection) -> None:
    """Do nothing: by the time this unit is over, so is every earlier one of its connection."""


def _in_a_daemon(make: Callable[[], T]) -> T:
    """Return what a daemon thread makes.

    aiosqlite makes its thread with its connection, and a thread is a daemon if the one it is made in is: a connection that was
    forgotten then does not keep the interpreter from ending. A daemon that ends in a transaction is to the file as a kill is.
    """
    made: list[T] = []
    maker = threading.Thread(target=lambda: made.append(make()), daemon=True)
    maker.start()
    maker.join()
    return made.pop()


class AiosqliteDriver:
    """A connection of aiosqlite, by its public interface."""

    def __init__(self, uri: str, *, factory: type[UnitConnection] = UnitConnection) -> None:
        """Take the database's URI and the class of its connection."""
        self._uri = uri
        self._factory = factory
        self._database: aiosqlite.Connection | None = None

    async def open(self) -> None:
        """Connect; see Driver."""
        try:
            await to_its_end(self._connect())
        except BaseException:
            await self.close()  # noqa: ASYNC102 - it shields itself
            raise

    async def _connect(self) -> None:
        failed: list[_NotConnected] = []

        def connect(*args: Any, **options: Any) -> Any:
            try:
                return self._factory(*args, **options)
            except BaseException as error:  # noqa: ASYNC103, BLE001 - raised below
                # aiosqlite would not wait for its thread then, which might end after the loop and complain of that.
                failed.append(_NotConnected(error))
                return failed[0]  # noqa: ASYNC104 - raised below

        self._database = await _in_a_daemon(
            lambda: aiosqlite.connect(self._uri, isolation_level=None, uri=True, factory=cast("Any", connect))
        )
        if failed:
            raise failed[0].error

    async def run(self, unit: Callable[[sqlite3.Connection], T]) -> T:
        """Run a unit of work; see Driver."""
        database = self._database
        assert database is not None, "the store opens its drivers before it runs units"
        job = _Job(unit)
        cancelled: BaseException | None = None
        with anyio.CancelScope(shield=True):
            try:
                await self._execute(database, job)
            except asyncio.CancelledError as error:  # noqa: ASYNC103 - raised once the unit is over
                cancelled = error
            # anyio's shield does not stop native cancels, and a cancelled await leaves the job running: wait for it behind
            # another one of the same thread, which works first in, first out.
            while not job.is_over:
                try:
                    await self._execute(database, _Job(_nothing))
                except asyncio.CancelledError as error:  # noqa: ASYNC103 - as above
                    cancelled = error
        if cancelled is not None:
            raise cancelled
        return job.outcome()

    @staticmethod
    async def _execute(database: aiosqlite.Connection, job: _Job[Any]) -> None:
        await database.execute_fetchall(_UNIT, cast("Iterable[Any]", (job,)))

    async def close(self) -> None:
        """Disconnect; see Driver."""
        database, self._database = self._database, None
        if database is not None:
            await to_its_end(database.close())


class ThreadDriver:
    """A connection of the standard library in anyio's threads, one unit at a time; for trio, where each cancel heeds a shield."""

    def __init__(self, uri: str, *, factory: type[UnitConnection] = UnitConnection) -> None:
        """Take the database's URI and the class of its connection."""
        self._uri = uri
        self._factory = factory
        self._connection: sqlite3.Connection | None = None
        self._limiter: anyio.CapacityLimiter | None = None

    async def open(self) -> None:
        """Connect; see Driver."""
        self._limiter = anyio.CapacityLimiter(1)
        with anyio.CancelScope(shield=True):
            self._connection = await anyio.to_thread.run_sync(self._connect, limiter=self._limiter)

    def _connect(self) -> sqlite3.Connection:
        # Two jobs of one limiter never overlap, but they may come to different threads.
        return sqlite3.connect(self._uri, isolation_level=None, uri=True, factory=self._factory, check_same_thread=False)

    async def run(self, unit: Callable[[sqlite3.Connection], T]) -> T:
        """Run a unit of work; see Driver."""
        connection = self._connection
        assert connection is not None, "the store opens its drivers before it runs units"
        job = _Job(unit)
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(job.run, connection, limiter=self._limiter)
        return job.outcome()

    async def close(self) -> None:
        """Disconnect; see Driver."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(connection.close, limiter=self._limiter)


class InlineDriver:
    """A connection without a thread: the loop stands still while SQLite works.

    For simulations, in which nothing may happen but what the loop decides; anywhere else it would hold up everybody.
    """

    def __init__(self, uri: str, *, factory: type[UnitConnection] = UnitConnection) -> None:
        """Take the database's URI and the class of its connection."""
        self._uri = uri
        self._factory = factory
        self._connection: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Connect; see Driver."""
        await anyio.lowlevel.checkpoint()
        self._connection = sqlite3.connect(self._uri, isolation_level=None, uri=True, factory=self._factory)

    async def run(self, unit: Callable[[sqlite3.Connection], T]) -> T:
        """Run a unit of work, at a moment of its own between the call and the answer; see Driver."""
        await anyio.lowlevel.cancel_shielded_checkpoint()
        assert self._connection is not None, "the store opens its drivers before it runs units"
        try:
            return unit(self._connection)
        finally:
            await anyio.lowlevel.cancel_shielded_checkpoint()

    async def close(self) -> None:
        """Disconnect; see Driver."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class DriverFactory(Protocol):
    """What makes a driver for a database: a class of drivers, or a function that chooses one."""

    def __call__(self, uri: str, *, factory: type[UnitConnection] = ...) -> Driver:
        """Return a driver, not yet open, for the database's URI and the class of its connection."""
        ...


def driver_for_this_loop(uri: str, *, factory: type[UnitConnection] = UnitConnection) -> Driver:
    """Return a driver for the loop that is running."""
    return AiosqliteDriver(uri, factory=factory) if runs_on_asyncio() else ThreadDriver(uri, factory=factory)
