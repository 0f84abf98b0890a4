"""G22: a database that is deleted, moved or replaced while in use is missed within a second, and nothing is acknowledged then."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import SqliteStore, StoreVanishedError
from tests.crash.judging import judge_and_resume
from tests.crash.workload import AckFile, Acks, carry, make_dag, make_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.judging import Values

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("how", ["deleted", "moved", "replaced"])
@pytest.mark.parametrize("durability", ["strict", "pipelined"])
async def test_a_run_whose_database_vanishes_is_told(quick_folder: Path, expected: Values, how: str, durability: str) -> None:
    """And when the file is brought back, the run goes on with all that was acknowledged."""
    store, elsewhere = quick_folder / "runs.db", quick_folder / "elsewhere.db"
    acks = AckFile(f"{store}.acks")
    at: list[tuple[float, Acks]] = []

    def vanish(task_id: str) -> None:
        if task_id == "middle":
            at.append((time.monotonic(), Acks.read(quick_folder / "runs.db.acks")))
            if how == "deleted":
                elsewhere.hardlink_to(store)  # So that there is something to bring back.
                store.unlink()
            else:
                store.rename(elsewhere)
            if how == "replaced":
                store.touch()

    with anyio.fail_after(20), pytest.raises(StoreVanishedError):
        async with make_runtime(SqliteStore(store), durability) as runtime:
            await carry(runtime, make_dag(acks, before_push=vanish), "r", acks)
    ((began, before),) = at
    assert time.monotonic() - began < 1
    # An attempt beside it may have been told of a commit that was made before; it writes that down a little later.
    after = Acks.read(quick_folder / "runs.db.acks")
    assert not {place for place in set(after.pushes) - set(before.pushes) if place[1] == "middle"}
    elsewhere.replace(store)
    assert await judge_and_resume(store, after, expected, durability=durability) == []
