"""A SQLite store without threads: all that a store must do, in the loop's own thread."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import SqliteStore
from dagrelay.stores.sqlite.driver import InlineDriver
from dagrelay.testing import StoreConformance

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay import Store


class TestInlineSqliteStore(StoreConformance):
    """On disk, without threads."""

    def make_store(self, place: Path) -> Store:
        """Return a store on the place's file."""
        return SqliteStore(place / "runs.db", synchronous="NORMAL", driver=InlineDriver)


async def test_a_unit_runs_in_the_loops_own_thread() -> None:
    """No thread is started, and the unit is over when the call returns."""
    driver = InlineDriver("file::memory:")
    before = threading.active_count()
    await driver.open()
    assert await driver.run(lambda connection: (connection.execute("SELECT 1").fetchone(), threading.get_ident())) == (
        (1,),
        threading.get_ident(),
    )
    with pytest.raises(sqlite3.OperationalError):
        await driver.run(lambda connection: connection.execute("nonsense"))
    assert threading.active_count() == before
    await driver.close()
    await driver.close()


async def test_a_unit_begun_within_a_cancelled_scope_is_whole() -> None:
    """Like every driver's, a unit is shielded; others run between the call and its answer."""
    driver = InlineDriver("file::memory:")
    await driver.open()
    steps: list[str] = []

    async def beside() -> None:
        while "answered" not in steps:
            steps.append("beside")
            await anyio.lowlevel.cancel_shielded_checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beside)
        with anyio.CancelScope() as scope:
            scope.cancel()
            steps.append("called")
            await driver.run(lambda _: steps.append("unit"))
            steps.append("answered")
    await driver.close()
    called, answered = steps.index("called"), steps.index("answered")
    assert {"beside", "unit"} == set(steps[called + 1 : answered])
