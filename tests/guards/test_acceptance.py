"""A cancellation that comes while an outcome is on its way to the broker, and before the broker has accepted it."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay import DAG, Limits, MemoryStore, RunCancelledError, RunState, Runtime, TaskContext, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability


class TellingStore(MemoryStore):
    """Calls something at the moment at which it answers how much a run weighs."""

    when_weighed: Callable[[], None]

    async def stored_bytes(self, run_id: str) -> int:
        """Answer, with nothing in between for a cancellation to come out at."""
        found = await super().stored_bytes(run_id)
        self.when_weighed()
        return found


@pytest.mark.parametrize("durability", ["strict", "pipelined"])
async def test_a_cancel_before_acceptance_wins_over_a_value_that_was_returned(durability: Durability) -> None:
    """The budget counts what was overwritten until the store has been asked, and the cancellation comes with its answer."""
    dag, store = DAG("d"), TellingStore()
    was_weighed: list[bool] = []

    @dag.task
    async def work(ctx: TaskContext) -> str:
        for _ in range(3):
            await ctx.xcom.push("k", "x" * 30)
        return "y" * 30

    async with Runtime(store, limits=Limits(max_run_xcom_bytes=100), durability=durability) as runtime:

        def cancel() -> None:
            scheduler = runtime._opened().runs.live("r")
            if scheduler is not None:  # It is weighed once more before it is recorded.
                was_weighed.append(True)
                scheduler.cancel()

        store.when_weighed = cancel
        with pytest.raises(RunCancelledError):
            await runtime.run(dag, run_id="r")
        assert (await runtime.get_run("r")).state is RunState.CANCELLED
        assert [row.state for row in await runtime.task_instances("r")] == [TaskState.CANCELLED]
        assert await runtime.xcom.list("r") == []
    assert was_weighed == [True]
    del work
