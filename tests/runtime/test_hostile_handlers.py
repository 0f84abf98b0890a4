"""Handlers that raise what they should not: it is their task's failure, and the loop, the runtime and other tasks live on."""

from __future__ import annotations

import asyncio
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import pytest
import sniffio

from dagrelay import DAG, RunFailedError, RunState, Runtime, TaskContext, TaskState
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe, agree, reached

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Store


class Unprintable(Exception):  # noqa: N818 - it is raised, and is no error of ours
    """An exception whose text can't be had."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no text")

    __repr__ = __str__


class Strange(BaseException):
    """No Exception."""


def nested_group() -> BaseException:
    """Return groups in groups."""
    return BaseExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("a"), KeyError("b")]), Strange("c")])


ERRORS: dict[str, Callable[[], BaseException]] = {
    "Exception": lambda: ValueError("plain"),
    "SystemExit": lambda: SystemExit(3),
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": lambda: StopIteration(7),
    "StopAsyncIteration": StopAsyncIteration,
    "BaseException": lambda: Strange("strange"),
    "nested groups": nested_group,
    "failing __str__": Unprintable,
    "lone surrogate": lambda: ValueError("\ud800"),
    "huge text": lambda: ValueError("x" * 1_000_000),
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
}


def hostile_dag(error: Callable[[], BaseException], probe: Probe, *, is_async: bool) -> DAG:
    """Return a DAG of a task that raises, one after it, and one beside it that outlasts it."""
    dag = DAG("hostile")

    async def bad() -> NoReturn:
        raise error()

    async def bad_later() -> NoReturn:
        await anyio.lowlevel.checkpoint()
        raise error()

    def bad_in_thread() -> NoReturn:
        raise error()

    dag.add(bad if is_async else bad_in_thread, id="bad")
    dag.add(bad_later)

    @dag.task(depends_on="bad")
    async def after() -> None:
        probe.note("after")

    @dag.task
    async def beside() -> str:
        await probe.door("bad is over").wait()
        return "done"

    del after, beside
    return dag


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("name", ERRORS)
async def test_whatever_a_handler_raises_is_its_own_failure(open_store: Callable[[], Store], name: str, is_async: bool) -> None:
    """The others finish, the record can be read, and the runtime goes on to run the next."""
    probe = Probe()
    dag = hostile_dag(ERRORS[name], probe, is_async=is_async)
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await reached(runtime, TaskState.FAILED, "bad", "bad_later")
        with anyio.fail_after(PATIENCE_S):
            probe.open("bad is over")
            with pytest.raises(RunFailedError) as failed:
                await handle.result()
        result = failed.value.result
        await agree(runtime, result)
        states = {task_id: str(task.state) for task_id, task in result.tasks.items()}
        assert states == {"bad": "failed", "bad_later": "failed", "after": "upstream_failed", "beside": "success"}
        assert result["beside"] == "done"
        assert probe.notes == []
        expected: type[BaseException] = type(ERRORS[name]())
        if expected is StopIteration:
            expected = RuntimeError  # Python's own rule for coroutines.
        assert isinstance(failed.value.exceptions[0].__cause__, expected)
        good = DAG("good")
        good.add(nothing)
        assert (await runtime.run(good)).state is RunState.SUCCESS


async def nothing() -> None:
    """Do nothing."""


async def test_the_record_of_a_failure_begins_at_the_handler(open_store: Callable[[], Store]) -> None:
    """Its traceback has the handler's frame first and none of the library's."""
    dag = DAG("d")

    def deeper() -> NoReturn:
        raise ValueError("here")

    @dag.task
    async def bad() -> None:
        deeper()

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    error = result.tasks["bad"].error
    assert error is not None
    lines = error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert ", in bad" in lines[1]
    assert "dagrelay/runtime" not in error.traceback
    assert lines[-1] == str(error) == "ValueError: here"


async def test_an_unprintable_error_is_told_as_far_as_can_be(open_store: Callable[[], Store]) -> None:
    """Its class is known at least."""
    dag = DAG("d")

    @dag.task
    async def bad() -> None:
        raise Unprintable

    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag)
    assert "Unprintable: (its __str__ raised RuntimeError)" in str(failed.value.exceptions[0])


async def test_a_handler_that_cancels_its_own_task_fails_alone(open_store: Callable[[], Store]) -> None:
    """`asyncio.current_task().cancel()`: the host that carried it carries nothing further, another takes over."""
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("asyncio's own way of cancelling")
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def suicidal() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.lowlevel.checkpoint()

    @dag.task
    async def sly() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "returned before it arrived"

    @dag.task(depends_on=[sly])
    async def after() -> str:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        return "unhurt"

    async with Runtime(open_store(), max_concurrency=1) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, raise_on_failure=False)
            assert isinstance(result.errors["suicidal"].__cause__, asyncio.CancelledError)
            assert result.tasks["sly"].state is TaskState.SUCCESS
            assert result[after] == "unhurt"
            again = await runtime.run(dag, raise_on_failure=False)
            assert again[after] == "unhurt"
    assert probe.notes == []


async def test_a_task_group_inside_a_handler_works(open_store: Callable[[], Store]) -> None:
    """Children are awaited; an error of a child is the handler's."""
    dag, probe = DAG("d"), Probe()

    async def child(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        probe.note(number)
        if number == 3:
            raise ValueError("child")

    @dag.task
    async def good() -> list[int]:
        async with anyio.create_task_group() as tasks:
            for number in (1, 2):
                tasks.start_soon(child, number)
        return sorted(probe.notes)

    @dag.task(depends_on=good, retries=AT_ONCE)
    async def bad() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child, 3)
            tasks.start_soon(anyio.sleep_forever)

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, raise_on_failure=False)
        assert await result.pull(good) == [1, 2]
    cause = result.errors["bad"].__cause__
    assert isinstance(cause, ExceptionGroup)
    assert result.tasks["bad"].attempt == 2


async def test_a_keyboard_interrupt_interrupts_the_run_and_is_raised_by_run(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """It is nobody's failure: no retry is consumed, what runs beside is interrupted too, and all can be resumed."""
    dag, probe = DAG("d"), Probe()
    is_pressed = [True]

    @dag.task
    async def first() -> int:
        return 1

    @dag.task
    async def pressed(ctx: TaskContext, value: int = first.output) -> int:
        probe.note(ctx.attempt)
        if is_pressed[0]:
            raise KeyboardInterrupt
        return value + 1

    @dag.task
    async def beside() -> str:
        if is_pressed[0]:
            await anyio.sleep_forever()
        return "done"

    async with Runtime(open_store(), durability=durability) as runtime:
        with anyio.fail_after(PATIENCE_S):
            with pytest.raises(KeyboardInterrupt):
                await runtime.run(dag, run_id="r")
            run = await runtime.get_run("r")
            assert run.state is RunState.INTERRUPTED
            states = {row.task_id: str(row.state) for row in await runtime.task_instances("r")}
            assert states == {"first": "success", "pressed": "interrupted", "beside": "interrupted"}
            is_pressed[0] = False
            result = await runtime.resume("r", dag)
    assert (result[pressed], result[beside], probe.notes) == (2, "done", [1, 2])


async def test_context_variables_of_the_caller_are_seen_and_changes_stay_in_the_attempt(open_store: Callable[[], Store]) -> None:
    """Every attempt starts with what run()'s caller had set."""
    dag, seen = DAG("d"), list[str]()
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    @dag.task(retries=AT_ONCE)
    async def one(ctx: TaskContext) -> None:
        seen.append(variable.get())
        variable.set("by one")
        await anyio.lowlevel.checkpoint()
        assert variable.get() == "by one"
        if ctx.attempt == 1:
            raise ValueError("again")

    @dag.task(depends_on=one)
    def two() -> None:
        seen.append(variable.get())
        variable.set("by two")

    async with Runtime(open_store(), max_concurrency=1) as runtime:
        variable.set("by the caller")
        await runtime.run(dag)
        variable.set("by another")
        await runtime.run(dag)
        assert variable.get() == "by another"
    assert seen == ["by the caller"] * 3 + ["by another"] * 3


async def test_a_run_inside_a_handler_is_a_run_like_any_other(open_store: Callable[[], Store]) -> None:
    """A handler may run another DAG in the same runtime and use its result."""
    inner, outer = DAG("inner"), DAG("outer")

    @inner.task
    async def double(number: int) -> int:
        return number * 2

    @outer.task
    async def use() -> Any:
        return (await runtime.run(inner, params={"number": 21}))[double]

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(outer))[use] == 42
        assert sorted(run.dag_id for run in await runtime.runs()) == ["inner", "outer"]


async def test_a_deep_recursion_in_a_handler_is_its_failure(open_store: Callable[[], Store]) -> None:
    """And its record is cut to a bounded length."""
    dag = DAG("d")

    def deeper(level: int) -> int:
        return deeper(level + 1)

    @dag.task
    async def bad() -> int:
        return deeper(0)

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    error = result.tasks["bad"].error
    assert error is not None
    assert error.type == "RecursionError"
    assert len(error.traceback) < 25_000
    assert sys.getrecursionlimit() >= 1000
