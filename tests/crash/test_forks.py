"""G16: a forked child can't use the runtime it inherited, whichever of its doors it tries, and the parent is unhurt."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import SqliteStore, StoreLockedError
from dagrelay.stores.sqlite import lock as lock_module
from tests.crash.judging import judge_and_resume
from tests.crash.pipes import Pipes
from tests.crash.workload import Acks, make_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.judging import Values
    from tests.crash.nursery import Nursery

pytestmark = pytest.mark.crash

BACKENDS = ("asyncio", "trio")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_forked_within_a_run_is_told_at_every_door(
    nursery: Nursery, quick_folder: Path, expected: Values, backend: str
) -> None:
    """It is told by a ProcessForkedError; the parent's run goes on to its usual end."""
    store, outcome = quick_folder / "runs.db", quick_folder / "outcome.json"
    child = nursery.spawn("fork_within", store=str(store), backend=backend, outcome=str(outcome))
    assert child.ended() == 0, child.complaints()
    told = json.loads(outcome.read_text())
    assert len(told) == 7
    assert set(told.values()) == {"ProcessForkedError"}, told
    acks = Acks.read(quick_folder / "runs.db.acks")
    assert acks.finished == {"r"}

    async def judge() -> list[str]:
        return await judge_and_resume(store, acks, expected, durability="strict")

    assert anyio.run(judge, backend=backend) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_child_that_outlives_its_parent_does_not_own_its_store(nursery: Nursery, quick_folder: Path, backend: str) -> None:
    """The lock is the parent's: with it, it is gone."""
    store = quick_folder / "runs.db"

    async def look() -> None:
        async with make_runtime(SqliteStore(store), "strict") as runtime:
            assert await runtime.runs() == []

    with Pipes(quick_folder) as pipes:
        child = nursery.spawn("leave_a_child", store=str(store), backend=backend, told=pipes.told, go=pipes.go)
        pipes.open()
        assert pipes.heard() == ["forked"]
        assert child.ended() == 0, child.complaints()
        anyio.run(look, backend=backend)


async def test_a_lock_let_go_by_a_child_is_free(quick_folder: Path) -> None:
    """What a fork does in the child, done here."""
    store = str(quick_folder / "runs.db")
    lock, other = lock_module.OwnerLock(store), lock_module.OwnerLock(store)
    await lock.acquire(timeout_s=0, since="now")
    with pytest.raises(StoreLockedError):
        await other.acquire(timeout_s=0, since="now")
    lock_module.disown()
    await other.acquire(timeout_s=0, since="now")
    other.release()
