"""Resume and retry: what holds, what runs again, and what forbids going on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dagrelay import (
    DAG,
    DAGChangedError,
    RunFailedError,
    RunState,
    RunStateError,
    Runtime,
    Skip,
    TaskContext,
    TaskNotFoundError,
    TaskState,
    TriggerRule,
    XComConflictError,
    XComNotFoundError,
)
from tests.runtime.probes import Probe, agree, chain_of, reached, retried

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Store


async def interrupt_at(open_store: Callable[[], Store], dag: DAG, probe: Probe, held: str, **options: Any) -> None:
    """Run a DAG until a task is held, and leave."""
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r", **options)
        await probe.reach(held)


def values_of(dag: DAG, **sources: tuple[str, ...]) -> DAG:
    """Add tasks that join the values of others, by id."""
    for task_id, upstream in sources.items():
        dag.add(_joiner(task_id, upstream), id=task_id, depends_on=upstream)
    return dag


def _joiner(task_id: str, upstream: tuple[str, ...]) -> Callable[[TaskContext], Any]:
    async def join(ctx: TaskContext) -> str:
        return task_id + "".join([str(await ctx.xcom.pull(each)) for each in upstream])

    return join


# ---------------------------------------------------------------------------------------------------------------- resume


async def test_edited_handlers_and_new_tasks_apply(open_store: Callable[[], Store], durability: Durability) -> None:
    """Finished tasks keep what they returned; everything else is as the new DAG has it."""
    probe = Probe()
    await interrupt_at(open_store, chain_of(probe, "a", "b", held="b"), probe, "b")
    dag = values_of(DAG("chain"), a=(), b=("a",), c=("b",), root=())
    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.resume("r", dag)
        await agree(runtime, result)
        assert (result["c"], result["root"]) == ("cba", "root")
        assert list(result.tasks) == ["a", "b", "c", "root"]
        again = await runtime.resume("r", dag)
        assert again["c"] == "cba"
    assert probe.notes == ["a", "b"]


async def test_an_unfinished_task_may_vanish_or_be_rewired(open_store: Callable[[], Store]) -> None:
    """Only what has finished binds."""
    probe = Probe()
    await interrupt_at(open_store, chain_of(probe, "a", "b", "c", held="b"), probe, "b")
    dag = values_of(DAG("chain"), a=(), c=("a",))
    async with Runtime(open_store()) as runtime:
        result = await runtime.resume("r", dag)
        assert result["c"] == "ca"
        assert [row.task_id for row in await runtime.task_instances("r")] == ["a", "c"]


async def test_a_finished_task_that_vanished_or_was_rewired_forbids_it(open_store: Callable[[], Store]) -> None:
    """All changes are listed, nothing is changed, and the old DAG still goes."""
    dag, probe = DAG("d"), Probe()
    values_of(dag, a=(), b=(), c=("b",))
    dag.add(_held(probe), id="held", depends_on=["a", "c"])
    await interrupt_at(open_store, dag, probe, "held")
    changed = values_of(DAG("d"), b=(), a=("b",), held=("a",))
    async with Runtime(open_store()) as runtime:
        for ask in (runtime.resume("r", changed), runtime.run(changed, run_id="r"), runtime.recover([changed])):
            with pytest.raises(DAGChangedError) as refused:
                await ask
            assert set(refused.value.changes) == {
                "finished task 'a' was rewired (new upstream b)",
                "finished task 'c' is gone",
            }
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        probe.let_go("held")
        assert (await runtime.resume("r", dag))["held"] == "held"


def _held(probe: Probe) -> Callable[[], Any]:
    async def held() -> str:
        await probe.hold("held")
        return "held"

    return held


async def test_a_failed_run_is_not_resumed(open_store: Callable[[], Store]) -> None:
    """`retry` is named instead."""
    dag = DAG("d")

    @dag.task
    async def bad() -> None:
        raise ValueError("no")

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r", raise_on_failure=False)
        with pytest.raises(RunStateError, match=r"run 'r' is failed: use runtime\.retry"):
            await runtime.resume("r", dag)


async def test_failures_of_other_tasks_stay_over_a_resume(open_store: Callable[[], Store]) -> None:
    """A branch that failed before the interruption is not run again, and the run fails at its end."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def bad() -> None:
        probe.note("bad")
        raise ValueError("no")

    dag.add(_held(probe), id="held")
    dag.add(_joiner("after", ("held",)), id="after", depends_on=["held", bad], trigger_rule=TriggerRule.ALL_DONE)

    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("held")
        await reached(runtime, TaskState.FAILED, "bad")
    probe.let_go("held")
    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.resume("r", dag)
        result = failed.value.result
        await agree(runtime, result)
        assert result["after"] == "afterheld"
        assert str(result.errors["bad"]) == "task 'bad' failed in attempt 1: ValueError: no"
    assert probe.notes == ["bad"]


async def test_params_and_start_are_those_of_the_run(open_store: Callable[[], Store]) -> None:
    """Not those of the DAG it is resumed with; a default that is new to it applies."""
    probe, seen = Probe(), list[dict[str, Any]]()

    def dag_with(**defaults: Any) -> DAG:
        dag = DAG("d", params=defaults)

        @dag.task
        async def task(ctx: TaskContext) -> str:
            seen.append(dict(ctx.params))
            starts.append(ctx.run_started_at)
            await probe.hold("held")
            return "done"

        del task
        return dag

    starts = list[Any]()
    await interrupt_at(open_store, dag_with(a=1, b=2), probe, "held", params={"a": 10})
    probe.let_go("held")
    async with Runtime(open_store()) as runtime:
        result = await runtime.resume("r", dag_with(a=5, b=6, c=7))
    assert seen == [{"a": 10, "b": 2}, {"a": 10, "b": 2, "c": 7}]
    assert starts[0] == starts[1] == result.started_at


# ----------------------------------------------------------------------------------------------------------------- retry


async def test_retry_clears_the_task_and_its_downstream_success_included(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """What is beside or above stays; attempt numbers go on; old values are gone with what was cleared."""
    dag, probe = DAG("d"), Probe()

    def counting(task_id: str) -> Callable[[TaskContext], Any]:
        async def task(ctx: TaskContext) -> str:
            probe.note(task_id)
            upstream = "".join(str(value["return_value"]) for value in (await ctx.xcom.pull_from_upstream(direct=True)).values())
            await ctx.xcom.push(f"only in attempt {ctx.attempt}", 1)
            return f"{task_id}{ctx.attempt}({upstream})"

        return task

    for task_id, upstream in (("a", []), ("b", ["a"]), ("beside", ["a"]), ("c", ["b"]), ("d", ["c", "beside"])):
        dag.add(counting(task_id), id=task_id, depends_on=upstream)
    async with Runtime(open_store(), durability=durability) as runtime:
        first = await runtime.run(dag, run_id="r")
        assert first["d"] == "d1(beside1(a1())c1(b1(a1())))"
        again = await runtime.retry("r", "b", dag)
        await agree(runtime, again)
        assert again["d"] == "d2(beside1(a1())c2(b2(a1())))"
        keys = sorted(entry.key for entry in await runtime.xcom.list("r", "b"))
        assert keys == ["only in attempt 2", "return_value"]
        with pytest.raises(XComNotFoundError):
            await runtime.xcom.pull("r", "b", "only in attempt 1")
    assert probe.counts == {"a": 1, "beside": 1, "b": 2, "c": 2, "d": 2}


async def test_retry_of_a_failed_run_gives_the_task_its_budget_anew(open_store: Callable[[], Store]) -> None:
    """Three attempts, then three more."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=retried(2))
    async def flaky(ctx: TaskContext) -> int:
        probe.note(ctx.attempt)
        if ctx.attempt < 6:
            raise ValueError("not yet")
        return ctx.attempt

    @dag.task
    async def after(value: int = flaky.output) -> int:
        return value

    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError):
            await runtime.run(dag, run_id="r")
        result = await runtime.retry("r", "flaky", dag)
        await agree(runtime, result)
        assert (result[after], result.state, result.errors) == (6, RunState.SUCCESS, {})
    assert probe.notes == [1, 2, 3, 4, 5, 6]


async def test_retry_in_a_later_runtime(open_store: Callable[[], Store]) -> None:
    """From what is stored alone; a retry that fails again leaves upstream_failed tasks as they were shown before."""
    dag, is_mended = DAG("d"), [False]

    @dag.task
    async def bad(ctx: TaskContext) -> int:
        if not is_mended[0]:
            raise ValueError("no")
        return ctx.attempt

    @dag.task
    async def after(value: int = bad.output) -> int:
        return value

    @dag.task
    async def last(value: int = after.output) -> int:
        return value

    for _ in range(2):
        async with Runtime(open_store()) as runtime:
            with pytest.raises(RunFailedError) as failed:
                await (runtime.retry("r", "bad", dag) if await runtime.runs() else runtime.run(dag, run_id="r"))
            await agree(runtime, failed.value.result)
    is_mended[0] = True
    async with Runtime(open_store()) as runtime:
        result = await runtime.retry("r", "bad", dag)
        await agree(runtime, result)
        assert result[last] == 3
        is_mended[0] = False
        with pytest.raises(RunFailedError) as failed:
            await runtime.retry("r", "bad", dag)
        await agree(runtime, failed.value.result)
        states = {task_id: str(row.state) for task_id, row in failed.value.result.tasks.items()}
        assert states == {"bad": "failed", "after": "upstream_failed", "last": "upstream_failed"}
        assert [entry.key for entry in await runtime.xcom.list("r")] == []


async def test_retry_is_refused_while_the_run_runs(open_store: Callable[[], Store]) -> None:
    """And for a task that is not there."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="b")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("b")
        with pytest.raises(RunStateError, match="can't be retried now"):
            await runtime.retry("r", "a", dag)
        with pytest.raises(TaskNotFoundError, match="no task 'bb'; did you mean 'b'"):
            await runtime.retry("r", "bb", dag)
        probe.let_go("b")
        await handle.result()
    assert probe.notes == ["a", "b"]


async def test_retry_of_a_skipped_task_runs_it_again(open_store: Callable[[], Store]) -> None:
    """A skip is an end like any other."""
    dag = DAG("d")

    @dag.task
    async def maybe(ctx: TaskContext) -> str:
        if ctx.attempt == 1:
            raise Skip("not today")
        return "today"

    @dag.task
    async def after(text: str = maybe.output) -> str:
        return text

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        assert result.tasks["after"].state is TaskState.SKIPPED
        result = await runtime.retry("r", "maybe", dag)
        await agree(runtime, result)
        assert result[after] == "today"


async def test_what_was_pushed_from_outside_survives_a_retry(open_store: Callable[[], Store]) -> None:
    """And replaces no return value of a finished task, though one of a cleared task's."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def task(ctx: TaskContext) -> str:
        hint: str = await ctx.xcom.pull_own("hint", default="none")
        if ctx.attempt == 2:
            await probe.hold("second")
        return hint

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag, run_id="r"))[task] == "none"
        await runtime.xcom.push("r", "task", "hint", "from outside")
        with pytest.raises(XComConflictError):
            await runtime.xcom.push("r", "task", "return_value", "forged")
        probe.let_go("second")
        assert (await runtime.retry("r", "task", dag))[task] == "from outside"


async def test_a_cancelled_run_is_resumed_where_it_was(open_store: Callable[[], Store], durability: Durability) -> None:
    """Cancelled tasks run again; finished ones don't; a waiting retry that was cancelled starts anew."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def done() -> str:
        probe.note("done")
        return "done"

    dag.add(_held(probe), id="held", depends_on=done)

    @dag.task(retries=2)
    async def waiting(ctx: TaskContext) -> int:
        probe.note("waiting")
        if ctx.attempt == 1:
            raise ValueError("once")
        return ctx.attempt

    async with Runtime(open_store(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("held")
        await reached(runtime, TaskState.UP_FOR_RETRY, "waiting")
        await handle.cancel()
        rows = {row.task_id: (str(row.state), row.attempt) for row in await runtime.task_instances("r")}
        assert rows == {"done": ("success", 1), "held": ("cancelled", 1), "waiting": ("cancelled", 1)}
        probe.let_go("held")
        result = await runtime.resume("r", dag)
        await agree(runtime, result)
        assert (result["held"], result[waiting]) == ("held", 2)
    assert probe.counts == {"done": 1, "waiting": 2}
