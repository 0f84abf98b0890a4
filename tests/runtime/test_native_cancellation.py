"""asyncio's own way of cancelling, which no scope and no shield of anyio's stops: nothing is left by halves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import DAG, RunState, Runtime
from dagrelay.cancellation import to_its_end
from tests.runtime.probes import PATIENCE_S, Probe, chain_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Store

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])


async def test_leaving_a_runtime_comes_to_its_end(open_store: Callable[[], Store]) -> None:
    """A host application that is cancelled while a handler takes its time to end still gets its store closed in order."""
    probe = Probe()
    dag = DAG("d")

    @dag.task
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await probe.hold("stubborn")

    async def host() -> None:
        async with Runtime(open_store(), on_exit="interrupt") as runtime:
            await runtime.start(dag, run_id="r")
            await probe.reach("stubborn")
        pytest.fail("the cancellation was lost")

    with anyio.fail_after(PATIENCE_S):
        task = asyncio.create_task(host())
        await probe.reach("stubborn")
        for _ in range(3):
            await anyio.wait_all_tasks_blocked()
            task.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not task.done(), "the handler still runs"
        probe.let_go("stubborn")
        with pytest.raises(asyncio.CancelledError):
            await task
    async with Runtime(open_store()) as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED


async def test_a_cancellation_at_any_moment_leaves_no_run_without_a_scheduler(open_store: Callable[[], Store]) -> None:
    """It is not recorded, or was interrupted, or had ended."""
    dag = chain_of(Probe(), "a", "b")
    seen: set[str] = set()
    async with Runtime(open_store()) as runtime:
        for steps in range(60):
            run_id = f"r{steps}"
            task = asyncio.create_task(runtime.run(dag, run_id=run_id))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert runtime.statistics().broker.live_runs == 0
            known = {run.run_id: str(run.state) for run in await runtime.runs(limit=100)}
            seen.add(known.get(run_id, "none"))
    assert {"none", "interrupted"} <= seen <= {"none", "interrupted", "success"}


async def test_work_comes_to_its_end_and_the_cancellation_after_it() -> None:
    """However often it is repeated; and it outranks an error."""
    release, ended = asyncio.Event(), list[str]()

    async def work(error: str) -> str:
        await release.wait()
        ended.append(error)
        if error:
            raise ValueError(error)
        return "done"

    assert await to_its_end(asyncio.sleep(0, "result")) == "result"
    for error in ("", "lost"):
        release.clear()
        task = asyncio.create_task(to_its_end(work(error)))
        for _ in range(3):
            await anyio.wait_all_tasks_blocked()
            task.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not task.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended == ["", "lost"]
