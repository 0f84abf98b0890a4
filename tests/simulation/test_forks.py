"""Forks of runs, crashed at any moment and begun again: there is nothing of one, or all of it, and it ends as it should."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import DAG, Durability, RunIdConflictError, RunState, Runtime, TaskContext, template
from dagrelay.testing import simulate
from dagrelay.testing.seeded import BACKENDS
from dagrelay.testing.simulation import memory
from tests.simulation.taking_over import with_fence

if TYPE_CHECKING:
    from dagrelay.testing import Simulation
    from dagrelay.testing.seeded import Backend

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.timeout(120)]


def summing(sim: Simulation) -> DAG:
    """Return a DAG of two sides and a sum, which notes for each run what was run in it after a success had been reported."""
    dag = DAG("summing", params={"by": 1})

    async def work(ctx: TaskContext) -> None:
        sim.kept.setdefault("ran", []).append((ctx.run_id, ctx.task_id))
        await anyio.sleep(sim.random.random())

    @dag.task
    async def load(ctx: TaskContext, by: int) -> list[int]:
        await work(ctx)
        await ctx.xcom.push("note", by)
        return [by, 2 * by]

    @dag.task
    async def twice(ctx: TaskContext, row: int = load.each) -> int:
        await work(ctx)
        return 2 * row

    @dag.task
    async def side(ctx: TaskContext, text: str = template("{{ xcom.load.note }}")) -> str:
        await work(ctx)
        return text

    @dag.task
    async def total(ctx: TaskContext, by: int, rows: list[int] = twice.outputs) -> int:
        await work(ctx)
        return sum(rows) * by

    return dag


async def forking(sim: Simulation) -> None:
    """Run, then fork, and in each life go on with what there is: what was copied must not run, nor the original change."""
    dag, durability = summing(sim), Random(sim.seed).choice(list(Durability))
    async with Runtime(sim.store, environment=sim.environment, durability=durability) as runtime:
        old = await runtime.run(dag, run_id="old", params={"by": 3})
        assert (old["side"], old["total"]) == ("3", 54)
        before = await seen(runtime, "old")
        sim.kept.setdefault("old", before)
        for number in range(2):
            run_id = f"new{number}"
            try:
                handle = await runtime.fork("old", dag, from_task="total", params={"by": 5}, new_run_id=run_id)
            except RunIdConflictError:
                new = await runtime.resume(run_id, dag)
            else:
                new = await handle.result()
            assert (new.state, new["side"], new["total"]) == (RunState.SUCCESS, "3", 90)
            assert await runtime.xcom.pull(run_id, "load", "note") == 3
            lineage = {each.task_id: each for each in await runtime.lineage(run_id)}
            assert [(each.run_id, each.task_id) for each in lineage["total"].reads] == [("old", "twice")]
            assert lineage["total"].run_id == run_id
            assert lineage["side"].run_id == "old"
        assert await seen(runtime, "old") == sim.kept["old"]
    assert {task for run, task in sim.kept["ran"] if run != "old"} == {"total"}


async def seen(runtime: Runtime, run_id: str) -> Any:
    """Return what is seen of a run, but for its lives."""
    tasks = await runtime.task_instances(run_id)
    return [(each.task_id, each.map_index, each.state, each.attempt) for each in tasks], [
        (entry.task_id, entry.key, entry.value, entry.attempt) for entry in await runtime.xcom.list(run_id, include_values=True)
    ]


@pytest.mark.parametrize("store", [memory, with_fence])
def test_a_fork_is_there_whole_or_not_at_all(backend: Backend, store: Any, *, is_full: bool) -> None:
    """Whatever crashes, in both modes."""
    runs = simulate(forking, range(400 if is_full else 40), backend=backend, store=store, crashes=3)
    lives = [run.lives for run in runs]
    assert sum(lives) > 2 * len(lives), "most worlds were to crash"
