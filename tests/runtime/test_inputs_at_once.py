"""Arguments that are whole values at hand are made in one step; whatever else comes by the long way, and nobody can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dagrelay import DAG, Limits, RunFailedError, Runtime, TaskContext, XComNotFoundError, XComTypeError
from dagrelay.runtime.inputs import usual_arguments
from tests.runtime.probes import retried

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Store


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Return, task by task, which arguments were made in one step."""
    told: list[tuple[str, bool]] = []

    def spy(data: Any, task: Any) -> Any:
        made = usual_arguments(data, task)
        told.append((task.task_id, made is not None))
        return made

    monkeypatch.setattr("dagrelay.runtime.attempt.usual_arguments", spy)
    return told


def summing() -> DAG:
    """Return a DAG of two sources and the sum of what they return and push."""
    dag = DAG("d")

    @dag.task
    async def one(ctx: TaskContext) -> int:
        await ctx.xcom.push("more", 100)
        return 1

    @dag.task(retries=retried(1))
    async def two(ctx: TaskContext, fail: int = 0) -> int:
        if fail and ctx.attempt == 1:
            raise ValueError
        return 2

    @dag.task
    async def total(
        first: int = one.output, second: int = two.output, more: int = one.xcom("more"), again: int = one.output
    ) -> int:
        return first + second + more + again

    return dag


async def lineage(runtime: Runtime, run_id: str) -> list[tuple[str, str, int | None]]:
    """Return what task `total` has read."""
    (attempt,) = [each for each in await runtime.lineage(run_id) if each.task_id == "total"]
    return [(read.task_id, read.key, read.attempt) for read in attempt.reads]


READS = [("one", "return_value", 1), ("two", "return_value", 1), ("one", "more", 1)]


async def test_values_at_hand_are_taken_at_once(
    open_store: Callable[[], Store], durability: Any, ways: list[tuple[str, bool]]
) -> None:
    """In the first run and in the next, in either durability; the lineage tells of each entry once."""
    dag = summing()
    async with Runtime(open_store(), durability=durability) as runtime:
        for run_id in ("r1", "r2"):
            result = await runtime.run(dag, run_id=run_id)
            assert result["total"] == 104
            assert sorted(await lineage(runtime, run_id)) == sorted(READS)
    assert ways == [("total", True)] * 2


async def test_a_value_of_a_second_attempt_comes_by_the_long_way(
    open_store: Callable[[], Store], ways: list[tuple[str, bool]]
) -> None:
    """As the lineage must tell of it."""
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(summing(), run_id="r", params={"fail": 1})
        assert result["total"] == 104
        assert ("two", "return_value", 2) in await lineage(runtime, "r")
    assert ways == [("total", False)]


async def test_a_value_that_was_evicted_comes_by_the_long_way(
    open_store: Callable[[], Store], ways: list[tuple[str, bool]]
) -> None:
    """It is read from the store."""
    async with Runtime(open_store(), limits=Limits(cache_bytes=0)) as runtime:
        assert (await runtime.run(summing(), run_id="r"))["total"] == 104
        assert sorted(await lineage(runtime, "r")) == sorted(READS)
    assert ways == [("total", False)]


async def test_what_is_not_there_is_told_as_ever(open_store: Callable[[], Store], ways: list[tuple[str, bool]]) -> None:
    """A default stands in for a skipped task; a key that nobody pushed is missing."""
    dag = DAG("d")

    @dag.task
    async def one() -> int:
        return 1

    @dag.task
    async def either(value: int = one.xcom("nothing")) -> int:
        return value

    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag)
    (cause,) = failed.value.exceptions
    assert isinstance(cause.__cause__, XComNotFoundError)
    assert ways == [("either", False)]


async def test_a_value_of_another_type_names_the_parameter(open_store: Callable[[], Store]) -> None:
    """The handler is not called, nor tried again."""
    dag, called = DAG("d"), list[int]()

    @dag.task
    async def one() -> str:
        return "1"

    async def use(number: int) -> None:
        called.append(number)

    dag.add(use, bind={"number": one.output}, retries=retried(3))
    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag, run_id="r")
        (instance,) = await runtime.task_instances("r", task_id="use")
    (cause,) = failed.value.exceptions
    assert isinstance(cause.__cause__, XComTypeError)
    assert "parameter 'number' of task 'use'" in str(cause.__cause__)
    assert (instance.attempt, called) == (1, [])


async def test_every_attempt_gets_a_copy_of_its_own(open_store: Callable[[], Store], ways: list[tuple[str, bool]]) -> None:
    """What one handler does to its argument another does not see."""
    dag, seen = DAG("d"), list[list[int]]()

    @dag.task
    async def one() -> list[int]:
        return [1]

    async def change(first: list[int], second: list[int]) -> None:
        seen.extend([first.copy(), second.copy()])
        first.append(2)

    for name in ("a", "b"):
        dag.add(change, id=name, bind={"first": one.output, "second": one.output})
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag)
    assert seen == [[1]] * 4
    assert sorted(ways) == [("a", True), ("b", True)]
