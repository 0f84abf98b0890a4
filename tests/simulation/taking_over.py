"""Two owners of one file: the first is held up in a write, the second takes over, and the first is let go at a bad moment."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio

from dagrelay import Durability, Runtime, SqliteStore
from dagrelay.errors import RunInterruptedError, StaleOwnerError, StoreError
from dagrelay.testing import FaultyStore, InlineDriver, generate_dag
from tests.simulation.outcomes import check_outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay import Store
    from dagrelay.errors import DagrelayError
    from dagrelay.stores.operations import Operation
    from dagrelay.testing import Simulation

__all__ = ("taking_over", "with_fence")

_LATE: Final = "the first owner wrote after the second had taken over"


def with_fence(sim: Simulation) -> Store:
    """Return the store as it is."""
    return SqliteStore(sim.place / "runs.db", synchronous="NORMAL", driver=InlineDriver)


class _Watched(FaultyStore):
    """Notes whether anything is acknowledged after another has taken over."""

    is_overtaken = False
    is_fenced = False
    late = 0

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply a batch, and see."""
        try:
            results = await super().apply(batch)
        except StaleOwnerError:
            self.is_fenced = True
            raise
        self.late += self.is_overtaken
        return results


async def taking_over(sim: Simulation) -> None:
    """Check that nothing of the first owner's is stored after the second has come, and that the run ends as the oracle says."""
    generated = generate_dag(Random(sim.seed), max_tasks=12)
    durability = sim.random.choice(list(Durability))
    first = _Watched(sim.store)
    gate = first.hold(at=sim.random.randint(2, 12))
    ended = anyio.Event()

    async def own() -> None:
        try:
            async with Runtime(first, environment=sim.environment, durability=durability) as runtime:
                await runtime.run(generated.dag, run_id="r", raise_on_failure=False)
        except (StoreError, RunInterruptedError):
            assert not first.late, _LATE
            assert first.is_fenced, "nothing but the fence stops the first owner"
        ended.set()

    async def let_go() -> None:
        await sim.moment()
        gate.open()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(own)
        await _first_of(gate.reached, ended.wait)
        # As whoever deletes a lock that seems to be a leftover.
        (sim.place / "runs.db.lock").unlink()
        tasks.start_soon(let_go)
        second = type(sim.store.inner)(sim.place / "runs.db", synchronous="NORMAL", driver=InlineDriver)  # type: ignore[call-arg]
        async with Runtime(second, environment=sim.environment, durability=durability) as runtime:
            first.is_overtaken = not ended.is_set()
            await runtime.run(generated.dag, run_id="r", raise_on_failure=False)
            gate.open()
            await ended.wait()
            sim.note(f"fenced {first.is_fenced}")
            assert not first.late, _LATE
            await check_outcome(runtime, generated)


async def _first_of(*waits: Any) -> None:
    async with anyio.create_task_group() as tasks:

        async def wait(until: Any) -> None:
            await until()
            tasks.cancel_scope.cancel()

        for until in waits:
            tasks.start_soon(wait, until)
