"""Whole runs of random DAGs: whatever interrupts them, what is handed on is what the oracle says (G6)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagrelay import DAG, Durability, MemoryStore, RetryPolicy, RunState, Runtime, Skip, TaskState
from tests.property.graphs import Shape, predict, shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import TaskContext

S = TaskState
pytestmark = pytest.mark.timeout(600)
FEWER = settings(max_examples=settings().max_examples * 2 // 5)
"""A run costs more than a value."""


class Counts:
    """How often each task was started."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.since_interruption: Counter[str] = Counter()


def dag_of(shape: Shape, counts: Counts) -> DAG:
    """Return a DAG whose tasks hand on the sum of what is above them, fail as often as the shape says, and end as it says."""
    dag = DAG("random")
    for number, above in enumerate(shape.upstream):
        dag.add(
            _handler(shape, number, counts),
            id=f"t{number}",
            depends_on=[f"t{each}" for each in above],
            trigger_rule=shape.rules[number],
            retries=RetryPolicy(3, delay_s=0),
        )
    return dag


def _handler(shape: Shape, number: int, counts: Counts) -> Callable[[TaskContext], Any]:
    ending = shape.endings[number]

    async def handler(ctx: TaskContext) -> int:
        counts.since_interruption[ctx.task_id] += 1
        failed = await ctx.xcom.pull_own("failed", default=0)
        await ctx.xcom.push("mine", ctx.attempt)
        if failed < shape.failures[number]:
            await ctx.xcom.push("failed", failed + 1, lifetime="task")
            raise ValueError("again")
        if ending is S.SKIPPED:
            raise Skip
        # A value of an upstream that has not succeeded, or has not even ended, counts as nothing; only some rules ask for one.
        values = await ctx.xcom.pull([f"t{each}" for each in shape.upstream[number]], default=0)
        await ctx.xcom.push("half", number)
        if ending is S.FAILED:
            raise RuntimeError("for good")
        total: int = 1 + sum(values.values())
        return total

    return handler


def with_plain_rules(shape: Shape) -> Shape:
    """Return the shape with rules that wait for all upstreams, so that values don't depend on who is first."""
    patient = tuple(
        rule if rule in {"all_success", "all_done", "none_failed", "none_skipped"} else "all_done" for rule in shape.rules
    )
    rules = tuple(type(shape.rules[0])(rule) for rule in patient) if patient else ()
    # A failure that can be retried has one attempt more than the shape says; two failures and one for good are three.
    return Shape(shape.upstream, rules, shape.endings, tuple(min(each, 1) for each in shape.failures))


def values_of(shape: Shape, states: tuple[TaskState, ...]) -> dict[str, int]:
    """Return what each task that succeeds hands on."""
    values: dict[str, int] = {}
    for number, state in enumerate(states):
        if state is S.SUCCESS:
            values[f"t{number}"] = 1 + sum(values.get(f"t{each}", 0) for each in shape.upstream[number])
    return values


async def check_end(runtime: Runtime, shape: Shape, dag: DAG) -> None:
    """Run to the end and compare with the oracle."""
    result = await runtime.run(dag, run_id="r", raise_on_failure=False)
    states = predict(shape)
    assert {task_id: row.state for task_id, row in result.tasks.items()} == {f"t{n}": state for n, state in enumerate(states)}
    rows = await runtime.xcom.list("r", include_values=True)
    expected = values_of(shape, states)
    assert {row.task_id: row.value for row in rows if row.key == "return_value"} == expected
    assert {row.task_id for row in rows if row.key == "half"} == set(expected)
    assert {row.task_id: row.value for row in rows if row.key == "mine"} == {
        task_id: result.tasks[task_id].attempt for task_id in expected
    }


@pytest.mark.parametrize("durability", list(Durability))
@given(shape=shapes(max_tasks=10).map(with_plain_rules))
@FEWER
async def test_an_undisturbed_run_hands_on_what_the_oracle_says(shape: Shape, durability: Durability) -> None:
    """States and values alike."""
    counts = Counts()
    with anyio.fail_after(10):
        async with Runtime(MemoryStore(), durability=durability, max_concurrency=3) as runtime:
            await check_end(runtime, shape, dag_of(shape, counts))


@pytest.mark.parametrize("durability", list(Durability))
@given(shape=shapes(max_tasks=10).map(with_plain_rules), moments=st.lists(st.integers(0, 60), min_size=1, max_size=3))
@FEWER
async def test_a_run_interrupted_anywhere_and_resumed_ends_the_same(
    shape: Shape, moments: list[int], durability: Durability
) -> None:
    """By leaving the runtime after any number of steps of the loop, again and again; what was committed is never run again."""
    counts, store = Counts(), MemoryStore()
    dag = dag_of(shape, counts)
    with anyio.fail_after(10):
        for steps in moments:
            done: set[str] = set()
            async with Runtime(store, durability=durability, max_concurrency=3, on_exit="interrupt") as runtime:
                if await runtime.runs():
                    done = {row.task_id for row in await runtime.task_instances("r", state=S.SUCCESS)}
                counts.since_interruption.clear()
                await runtime.start(dag, run_id="r")
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
            assert done.isdisjoint(counts.since_interruption)
        async with Runtime(store, durability=durability, max_concurrency=3) as runtime:
            assert (await runtime.get_run("r")).state in {RunState.INTERRUPTED, RunState.SUCCESS, RunState.FAILED}
            await check_end(runtime, shape, dag)
