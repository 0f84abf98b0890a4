"""The wall clock may jump: it dates records, and nothing waits the longer for it (G23)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay import DAG, RetryPolicy, Runtime, TaskContext
from dagrelay.testing import simulate

if TYPE_CHECKING:
    from dagrelay.testing import Simulation
    from dagrelay.testing.seeded import Backend


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_retry_waits_no_longer_because_the_clock_was_set_back(backend: Backend, jump_s: float) -> None:
    """It was to wait ten seconds, and does so at most twice, though the clock jumps by a day in between."""

    async def scenario(sim: Simulation) -> None:
        dag = DAG("d")

        async def task(ctx: TaskContext) -> int:
            if ctx.attempt == 1:
                raise ValueError("not yet")
            return ctx.attempt

        dag.add(task, retries=RetryPolicy(2, delay_s=10, jitter=0))
        if sim.life == 2:
            sim.jump_clock(jump_s)
        async with Runtime(sim.store, environment=sim.environment) as runtime:
            handle = await runtime.start(dag, run_id="r")
            if sim.life == 1:
                async for event in handle.events():
                    if getattr(event, "state", None) == "up_for_retry":
                        sim.crash()
            assert (await handle.result()).state == "success"

    (run,) = simulate(scenario, [1], backend=backend)
    assert run.lives == 2
    assert run.seconds < 25
