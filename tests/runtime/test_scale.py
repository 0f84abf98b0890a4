"""Wide and long DAGs: no recursion, no quadratic cost, no unbounded crowd."""

from __future__ import annotations

from typing import Any

import pytest

from dagrelay import DAG, Durability, MemoryStore, RunState, Runtime, TaskContext


async def one() -> int:
    """Return one."""
    return 1


async def add_one(value: int) -> int:
    """Return one more."""
    return value + 1


async def count(ctx: TaskContext) -> int:
    """Return how many are above."""
    return len(await ctx.xcom.pull_from_upstream(direct=True))


def wide(tasks: int) -> DAG:
    """Return a DAG of that many tasks beside each other, and one below them."""
    dag = DAG("wide")
    for number in range(tasks):
        dag.add(one, id=f"t{number}")
    dag.add(count, id="count", depends_on=[f"t{number}" for number in range(tasks)])
    return dag


def long(tasks: int) -> DAG:
    """Return a DAG of that many tasks one after another."""
    dag = DAG("long")
    last: Any = dag.add(one, id="t0")
    for number in range(1, tasks):
        last = dag.add(add_one, id=f"t{number}", bind={"value": last.output})
    return dag


@pytest.mark.timeout(300)
async def test_a_wide_dag_runs(is_full: bool) -> None:
    """100,000 tasks in full."""
    tasks = 100_000 if is_full else 5_000
    async with Runtime(MemoryStore(), durability=Durability.PIPELINED) as runtime:
        result = await runtime.run(wide(tasks))
        assert runtime.statistics().hosting.hosts <= 128
    assert result.state is RunState.SUCCESS
    assert result["count"] == tasks


@pytest.mark.timeout(300)
async def test_a_long_dag_runs(is_full: bool) -> None:
    """100,000 tasks in full; each hands its count to the next."""
    tasks = 100_000 if is_full else 5_000
    async with Runtime(MemoryStore(), durability=Durability.PIPELINED) as runtime:
        result = await runtime.run(long(tasks))
    assert result[f"t{tasks - 1}"] == tasks


@pytest.mark.timeout(300)
async def test_a_failure_at_the_root_of_a_long_dag_marks_all_of_it(is_full: bool) -> None:
    """Iteratively, and on record."""
    tasks = 100_000 if is_full else 5_000
    dag = long(tasks)

    async def bad() -> int:
        raise ValueError("no")

    failing = DAG("failing")
    last: Any = failing.add(bad, id="t0")
    for number in range(1, tasks):
        last = failing.add(add_one, id=f"t{number}", bind={"value": last.output})
    async with Runtime(MemoryStore(), durability=Durability.PIPELINED) as runtime:
        result = await runtime.run(failing, run_id="r", raise_on_failure=False)
        assert result.state is RunState.FAILED
        assert len(await runtime.task_instances("r", state=result.tasks["t1"].state)) == tasks - 1
    assert len(dag.tasks) == tasks
