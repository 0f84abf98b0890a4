"""The generator and its oracle: it makes all there is to make, the same from the same chance, and what it says comes true."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest

from dagrelay import Durability, RunState, Runtime, TaskState, TriggerRule
from dagrelay.testing import generate_dag, simulate
from dagrelay.testing.seeded import BACKENDS

if TYPE_CHECKING:
    from dagrelay.testing import Simulation
    from dagrelay.testing.seeded import Backend

MANY = [generate_dag(Random(seed)) for seed in range(300)]


def test_the_same_chance_makes_the_same_dag() -> None:
    """And other chance others."""
    assert generate_dag(Random(1)).shapes == generate_dag(Random(1)).shapes
    assert generate_dag(Random(1)).dag.plan().fingerprint == generate_dag(Random(1)).dag.plan().fingerprint
    assert len({generated.shapes for generated in MANY}) == len(MANY)


def test_all_there_is_to_make_is_made() -> None:
    """Every rule, every end, up to thirty tasks."""
    shapes = [shape for generated in MANY for shape in generated.shapes]
    assert {shape.rule for shape in shapes} == set(TriggerRule)
    assert {len(generated.shapes) for generated in MANY} == set(range(1, 31))
    assert {generated.state for generated in MANY} == {RunState.SUCCESS, RunState.FAILED}
    assert {state for generated in MANY for state in generated.states.values()} == {
        TaskState.SUCCESS,
        TaskState.FAILED,
        TaskState.SKIPPED,
        TaskState.UPSTREAM_FAILED,
    }
    for attribute in ("times_out", "reads_templates", "pushes", "has_outputs", "adds_up"):
        assert {getattr(shape, attribute) for shape in shapes} == {True, False}


@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_undisturbed_run_comes_to_what_the_oracle_says(backend: Backend, durability: Durability) -> None:
    """States and values alike, and each handler begins as often as it is made to fail, and once more."""

    async def scenario(sim: Simulation) -> None:
        begun: list[str] = []
        generated = generate_dag(Random(sim.seed), max_tasks=15, on_start=lambda ctx: begun.append(ctx.task_id))
        async with Runtime(sim.store, environment=sim.environment, durability=durability) as runtime:
            result = await runtime.run(generated.dag, run_id="r", raise_on_failure=False)
            assert result.state is generated.state
            assert {task_id: row.state for task_id, row in result.tasks.items()} == generated.states
            rows = await runtime.xcom.list("r", include_values=True)
        found: dict[str, dict[str, object]] = {}
        for row in rows:
            found.setdefault(row.task_id, {})[row.key] = row.value
        assert found == generated.xcoms
        for shape in generated.shapes:
            has_run = generated.states[shape.task_id] is shape.ending and shape.task_id in begun
            assert begun.count(shape.task_id) == (1 + shape.failures) * has_run

    simulate(scenario, range(60), backend=backend)
