"""Whole runs: values go from task to task, through the store, and outlive the runtime."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import pytest

from dagrelay import (
    DAG,
    Durability,
    RunState,
    Runtime,
    Skip,
    TaskContext,
    TaskState,
    TriggerRule,
    XComNotFoundError,
    template,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Store

Opener = "Callable[[], Store]"


@dataclass
class Stats:
    """A typed value."""

    count: int
    mean: float


def three_tasks() -> DAG:
    """Return a DAG of three tasks that hand typed values on."""
    dag = DAG("three")

    @dag.task
    async def extract(numbers: list[int]) -> list[int]:
        return [number * 2 for number in numbers]

    @dag.task
    async def stats(ctx: TaskContext, rows: list[int] = extract.output) -> Stats:
        await ctx.xcom.push("rows", len(rows), description="how many")
        return Stats(count=len(rows), mean=sum(rows) / len(rows))

    @dag.task
    async def report(
        text: str = template("mean {{ xcom.stats.return_value.mean }} of {{ xcom.stats.rows }}"), stats: Stats = stats.output
    ) -> str:
        return f"{text}; {stats.count}"

    return dag


@pytest.mark.parametrize("durability", list(Durability))
async def test_three_tasks_hand_values_on(open_store: Callable[[], Store], durability: Durability) -> None:
    """The seed's integration test: extract, transform, report."""
    dag = three_tasks()
    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag, params={"numbers": [1, 2, 3]})
    assert result["report"] == "mean 4.0 of 3; 3"
    assert result.state is RunState.SUCCESS
    assert [each.state for each in result.tasks.values()] == [TaskState.SUCCESS] * 3
    assert result.params == {"numbers": [1, 2, 3]}


async def test_values_outlive_the_runtime(open_store: Callable[[], Store]) -> None:
    """A second runtime pulls what the first one's tasks pushed."""
    dag = three_tasks()
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, params={"numbers": [1]}, run_id="r1")
    async with Runtime(open_store()) as runtime:
        assert await runtime.xcom.pull("r1", "extract") == [2]
        assert await runtime.xcom.pull("r1", "stats", as_type=Stats) == Stats(1, 2.0)
        assert await runtime.xcom.pull_from_upstream("r1", "report", dag) == {
            "extract": {"return_value": [2]},
            "stats": {"return_value": {"count": 1, "mean": 2.0}, "rows": 1},
        }
        again = await runtime.run(dag, params={"numbers": [1]}, run_id="r1")
        assert again["report"] == "mean 2.0 of 1; 1"


async def test_auto_push_stores_none_and_can_be_turned_off(open_store: Callable[[], Store]) -> None:
    """None is a value; a task without auto-push leaves nothing."""
    dag = DAG("push")

    @dag.task
    async def none() -> None:
        return None

    @dag.task(auto_push=False)
    async def nothing() -> int:
        return 3

    @dag.task(multiple_outputs=True)
    async def several() -> dict[str, Any]:
        return {"a": 1, "b": [2]}

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
        assert result[none] is None
        assert await result.pull("several", "b") == [2]
        assert result[several] == {"a": 1, "b": [2]}
        with pytest.raises(XComNotFoundError, match="no XCom 'return_value' of task 'nothing'"):
            result[nothing]


async def test_a_skipped_upstream_gives_the_default_of_output_or(open_store: Callable[[], Store]) -> None:
    """A skip is no value: the reader takes its default."""
    dag = DAG("skip")

    @dag.task
    async def maybe() -> int:
        raise Skip("not today")

    @dag.task(trigger_rule=TriggerRule.NONE_FAILED)
    async def reader(value: int | None = maybe.output_or(None)) -> str:
        return f"got {value}"

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result[reader] == "got None"
    assert result.tasks["maybe"].state is TaskState.SKIPPED
    assert str(result.tasks["maybe"].error) == "Skip: not today"


async def test_sync_handlers_run_in_threads_and_push(open_store: Callable[[], Store]) -> None:
    """A plain function reaches ctx.xcom through anyio.from_thread."""
    dag = DAG("sync")
    loop_thread = threading.get_ident()

    @dag.task
    def work(ctx: TaskContext) -> bool:
        anyio.from_thread.run(ctx.xcom.push, "k", 5)
        return threading.get_ident() != loop_thread

    @dag.task
    async def read(ctx: TaskContext, is_other: bool = work.output) -> tuple[bool, int]:
        return is_other, await ctx.xcom.pull("work", "k")

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result[read] == (True, 5)
