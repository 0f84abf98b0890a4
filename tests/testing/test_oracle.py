"""The generator and its oracle: it makes all there is to make, the same from the same chance, and what it says comes true."""

from __future__ import annotations

from collections import Counter
from itertools import product
from random import Random
from typing import TYPE_CHECKING

import pytest

from dagrelay import Durability, RunState, Runtime, TaskState, TriggerRule
from dagrelay.dag.plan import TaskKind
from dagrelay.testing import generate_dag, simulate
from dagrelay.testing.seeded import BACKENDS
from dagrelay.testing.shapes import MOST_ELEMENTS
from tests.simulation.outcomes import check_outcome

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
    for attribute in ("times_out", "reads_templates", "pushes", "has_outputs", "adds_up", "lets_through", "has_default"):
        assert {getattr(shape, attribute) for shape in shapes} == {True, False}


def test_mapped_tasks_and_choices_are_made() -> None:
    """Over constants, lists and outputs, of any length, read in each way; elements end in each way; some tasks are left."""
    shapes = [(generated, shape) for generated in MANY for shape in generated.shapes]
    assert {shape.kind for _, shape in shapes} == {TaskKind.PLAIN, TaskKind.MAPPED, TaskKind.BRANCH, TaskKind.SHORT_CIRCUIT}
    lengths = Counter(
        sum(task_id == shape.task_id for task_id, _ in generated.element_states) for generated, shape in shapes if shape.is_mapped
    )
    assert set(lengths) == set(range(MOST_ELEMENTS + 1))
    assert {state for generated in MANY for state in generated.element_states.values()} == {
        TaskState.SUCCESS,
        TaskState.FAILED,
        TaskState.SKIPPED,
    }
    over = [(g.shapes[s.mapped_over], s.has_default) for g, s in shapes if s.mapped_over is not None]
    assert {(above.is_mapped, has_default) for above, has_default in over} == set(product((True, False), repeat=2))
    assert {shape.gathers for _, shape in shapes} == {"pulls", "outputs_or", "outputs"}
    assert {bool(shape.left_by) for _, shape in shapes} == {True, False}
    # A task that a branch leaves is mostly skipped, but not where what the branch chose leads to it, or it did not choose.
    assert {generated.states[shape.task_id] for generated, shape in shapes if shape.left_by} > {
        TaskState.SKIPPED,
        TaskState.SUCCESS,
    }


@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_undisturbed_run_comes_to_what_the_oracle_says(backend: Backend, durability: Durability) -> None:
    """States and values alike, and each handler begins as often as it is made to fail, and once more."""

    async def scenario(sim: Simulation) -> None:
        begun: Counter[tuple[str, int | None]] = Counter()
        generated = generate_dag(
            Random(sim.seed), max_tasks=15, on_start=lambda ctx: begun.update([(ctx.task_id, ctx.map_index)])
        )
        async with Runtime(sim.store, environment=sim.environment, durability=durability) as runtime:
            result = await runtime.run(generated.dag, run_id="r", raise_on_failure=False)
            assert result.state is generated.state
            assert {task_id: row.state for task_id, row in result.tasks.items()} == generated.states
            await check_outcome(runtime, generated)
        for (task_id, map_index), count in begun.items():
            shape = generated.shapes[int(task_id[1:])]
            unit = shape.unit(map_index)
            # What fails for good does so until its attempts are used up, of which elements have the same number each.
            assert count == 1 + (shape if unit.ending is TaskState.FAILED else unit).failures
        for shape in generated.shapes:
            if generated.states[shape.task_id] is TaskState.SUCCESS:
                assert begun[shape.task_id, None] == (0 if shape.is_mapped else 1 + shape.failures)
        for (task_id, map_index), state in generated.element_states.items():
            if state is TaskState.SUCCESS:
                assert begun[task_id, map_index]

    simulate(scenario, range(60), backend=backend)
