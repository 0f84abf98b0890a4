"""The drivers: one job a unit, whatever is raised or cancelled meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.stores.sqlite.driver import AiosqliteDriver, ThreadDriver, UnitConnection, driver_for_this_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dagrelay.stores.sqlite.driver import Driver

on_asyncio = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"debug": True}), id="asyncio")])
"""For native cancellation, which trio does not have."""


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    """Give an open driver for the loop at hand, with a table `t`."""
    driver = driver_for_this_loop(f"{(tmp_path / 'x.db').as_uri()}")
    await driver.open()
    await driver.run(lambda connection: connection.execute("CREATE TABLE t (n)"))
    yield driver
    await driver.close()


def insert(connection: sqlite3.Connection) -> None:
    """Insert a row in a transaction."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("COMMIT")


def count(connection: sqlite3.Connection) -> tuple[int, bool]:
    """Return the rows of `t`, and whether a transaction is open."""
    return connection.execute("SELECT count(*) FROM t").fetchone()[0], connection.in_transaction


class Gate:
    """Holds a unit up in its thread until the test lets it go."""

    def __init__(self) -> None:
        """Start closed."""
        self.entered = threading.Event()
        self.open = threading.Event()

    def pass_through(self) -> None:
        """Wait, in the thread, to be let go."""
        self.entered.set()
        assert self.open.wait(10)

    async def wait_until_entered(self) -> None:
        """Wait, in the loop, for the unit to have begun."""
        with anyio.fail_after(10):
            while not self.entered.is_set():
                await anyio.lowlevel.checkpoint()


async def test_the_loop_decides_the_driver(anyio_backend_name: str) -> None:
    """One of aiosqlite on asyncio, one of the standard library on trio."""
    driver = driver_for_this_loop("file::memory:")
    assert isinstance(driver, AiosqliteDriver if anyio_backend_name == "asyncio" else ThreadDriver)


async def test_a_unit_returns_its_result(driver: Driver) -> None:
    """What the function returns, None and lists included."""
    assert await driver.run(count) == (0, False)
    assert await driver.run(lambda connection: connection.execute("SELECT 1 WHERE 0").fetchone()) is None
    assert await driver.run(lambda _: [1]) == [1]


@pytest.mark.parametrize("error", [ValueError("v"), KeyboardInterrupt(), SystemExit(2), asyncio.CancelledError()])
async def test_a_unit_raises_its_exception(driver: Driver, error: BaseException) -> None:
    """Even those that no future of a loop can carry; the thread lives on."""

    def unit(_connection: sqlite3.Connection) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await driver.run(unit)
    assert raised.value is error
    assert await driver.run(count) == (0, False)


async def test_a_stop_iteration_does_not_hang(driver: Driver) -> None:
    """A future can't carry it and a coroutine can't raise it: it is the cause of a RuntimeError."""

    def unit(_connection: sqlite3.Connection) -> None:
        raise StopIteration(3)

    with anyio.fail_after(10), pytest.raises(RuntimeError) as raised:
        await driver.run(unit)
    assert isinstance(raised.value.__cause__, StopIteration)


async def test_units_do_not_overlap(driver: Driver) -> None:
    """Many at once run one after another."""
    running: list[int] = []
    most: list[int] = []

    def unit(connection: sqlite3.Connection) -> None:
        running.append(1)
        most.append(len(running))
        insert(connection)
        running.pop()

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(driver.run, unit)
    assert max(most) == 1
    assert await driver.run(count) == (20, False)


async def test_a_cancelled_scope_waits_for_its_unit(driver: Driver) -> None:
    """The unit is over, and whole, when the cancellation goes on."""
    gate = Gate()

    def unit(connection: sqlite3.Connection) -> str:
        gate.pass_through()
        insert(connection)
        return "done"

    results: list[str] = []

    async def work() -> None:
        results.append(await driver.run(unit))

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await gate.wait_until_entered()
        group.cancel_scope.cancel()
        gate.open.set()
    assert results == ["done"]
    assert await driver.run(count) == (1, False)


@on_asyncio
async def test_native_cancellation_waits_for_its_unit(driver: Driver) -> None:
    """`task.cancel()` goes through anyio's shield, but comes out only when the unit is over."""
    gate = Gate()

    def unit(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t VALUES (1)")
        gate.pass_through()
        connection.execute("COMMIT")

    task = asyncio.ensure_future(driver.run(unit))
    await gate.wait_until_entered()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await driver.run(count) == (1, False)


@on_asyncio
async def test_native_cancellation_before_the_unit_began_waits_too(driver: Driver) -> None:
    """A unit that stands in the queue when its caller is cancelled is carried out all the same, whole."""
    gate = Gate()
    first = asyncio.ensure_future(driver.run(lambda _: gate.pass_through()))
    await gate.wait_until_entered()
    second = asyncio.ensure_future(driver.run(insert))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    assert not second.done()
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await second
    await first
    assert await driver.run(count) == (1, False)


async def test_opening_what_is_not_there_raises(tmp_path: Path) -> None:
    """SQLite's error comes out, and closing is harmless."""
    driver = driver_for_this_loop(f"{(tmp_path / 'none.db').as_uri()}?mode=rw")
    with pytest.raises(sqlite3.OperationalError):
        await driver.open()
    await driver.close()


async def test_closing_twice_is_harmless(driver: Driver) -> None:
    """The second time does nothing."""
    await driver.close()
    await driver.close()


async def test_a_cancelled_close_closes(driver: Driver) -> None:
    """Closing shields itself."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        await driver.close()
    assert threading.active_count() < 20
    await driver.close()


@on_asyncio
async def test_a_natively_cancelled_opening_leaves_nothing_open(tmp_path: Path) -> None:
    """The thread ends, so that the process can."""
    gate = Gate()

    class Slow(UnitConnection):
        def __init__(self, *args: object, **options: object) -> None:
            gate.pass_through()
            super().__init__(*args, **options)  # type: ignore[arg-type]

    before = set(threading.enumerate())
    driver = AiosqliteDriver((tmp_path / "x.db").as_uri(), factory=Slow)
    task = asyncio.ensure_future(driver.open())
    await gate.wait_until_entered()
    task.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)  # It has been told to end; when it does is its own affair.
        assert not thread.is_alive()


@on_asyncio
async def test_a_natively_cancelled_opening_that_fails_is_cancelled(tmp_path: Path) -> None:
    """The cancellation outranks the failure."""
    gate = Gate()

    class Broken(UnitConnection):
        def __init__(self, *_args: object, **_options: object) -> None:
            gate.pass_through()
            raise sqlite3.OperationalError

    task = asyncio.ensure_future(AiosqliteDriver((tmp_path / "x.db").as_uri(), factory=Broken).open())
    await gate.wait_until_entered()
    task.cancel()
    await asyncio.sleep(0)
    gate.open.set()
    with pytest.raises(asyncio.CancelledError):
        await task
