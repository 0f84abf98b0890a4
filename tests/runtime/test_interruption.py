"""Interruption: a run that is stopped from outside is recorded as such, can be resumed, and consumes no retry."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest
import sniffio

from dagrelay import (
    DAG,
    Limits,
    RunCancelledError,
    RunFailedError,
    RunState,
    Runtime,
    RuntimeClosedError,
    TaskContext,
    TaskState,
)
from tests.runtime.probes import PATIENCE_S, Probe, agree, chain_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Store


async def states_of(runtime: Runtime, run_id: str = "r") -> dict[str, str]:
    """Return the run's tasks' states."""
    return {row.task_id: str(row.state) for row in await runtime.task_instances(run_id)}


async def test_a_cancelled_scope_around_run_interrupts_it(open_store: Callable[[], Store], durability: Durability) -> None:
    """It is recorded before the cancellation goes on, and the runtime is as good as before."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", "c", held="b")
    async with Runtime(open_store(), durability=durability) as runtime:
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                await probe.reach("b")
                tasks.cancel_scope.cancel()

            tasks.start_soon(leave)
            await runtime.run(dag, run_id="r")
        run = await runtime.get_run("r")
        assert run.state is RunState.INTERRUPTED
        assert run.ended_at is not None
        assert await states_of(runtime) == {"a": "success", "b": "interrupted", "c": "pending"}
        probe.let_go("b")
        result = await runtime.resume("r", dag)
        await agree(runtime, result)
        assert result["c"] == "abc"
        assert result.tasks["b"].attempt == 2
        assert result.started_at == run.created_at
    assert probe.notes == ["a", "b", "b", "c"]


async def test_a_native_cancel_of_the_callers_task_interrupts_too(open_store: Callable[[], Store]) -> None:
    """`task.cancel()` on asyncio."""
    if sniffio.current_async_library() != "asyncio":
        pytest.skip("asyncio's own way of cancelling")
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")
    async with Runtime(open_store()) as runtime:
        task = asyncio.create_task(runtime.run(dag, run_id="r"))
        await probe.reach("a")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        probe.let_go("a")
        assert (await runtime.run(dag, run_id="r"))["b"] == "ab"


async def test_run_inside_a_scope_cancelled_already_changes_nothing(open_store: Callable[[], Store]) -> None:
    """No run is recorded, with or without an id."""
    probe = Probe()
    dag = chain_of(probe, "a")
    async with Runtime(open_store()) as runtime:
        for run_id in (None, "r"):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await runtime.run(dag, run_id=run_id)
            assert scope.cancelled_caught
            assert await runtime.runs() == []
        assert (await runtime.run(dag, run_id="r"))["a"] == "a"
    assert probe.notes == ["a"]


async def test_leaving_the_runtime_waits_for_its_runs(open_store: Callable[[], Store], durability: Durability) -> None:
    """on_exit="wait", the default."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")
    async with anyio.create_task_group() as tasks:

        async def let_go() -> None:
            await probe.reach("a")
            await anyio.wait_all_tasks_blocked()
            probe.let_go("a")

        async with Runtime(open_store(), durability=durability) as runtime:
            await runtime.start(dag, run_id="r")
            tasks.start_soon(let_go)
    assert probe.notes == ["a", "b"]
    async with Runtime(open_store()) as runtime:
        assert (await runtime.get_run("r")).state is RunState.SUCCESS


async def test_leaving_with_on_exit_interrupt_interrupts(open_store: Callable[[], Store], durability: Durability) -> None:
    """Handlers are cancelled, and what was done is kept."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="b")
    with anyio.fail_after(PATIENCE_S):
        async with Runtime(open_store(), on_exit="interrupt", durability=durability) as runtime:
            await runtime.start(dag, run_id="r")
            await probe.reach("b")
    async with Runtime(open_store()) as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        assert await states_of(runtime) == {"a": "success", "b": "interrupted"}


async def test_an_exception_of_the_body_interrupts_and_propagates_as_it_is(open_store: Callable[[], Store]) -> None:
    """Neither wrapped in a group nor replaced."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")

    async def use() -> None:
        async with Runtime(open_store()) as runtime:
            await runtime.start(dag, run_id="r")
            await probe.reach("a")
            raise LookupError("of the body")

    with anyio.fail_after(PATIENCE_S), pytest.raises(LookupError) as raised:
        await use()
    assert type(raised.value) is LookupError
    assert raised.value.__cause__ is None
    async with Runtime(open_store()) as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED


async def test_a_scope_cancelled_around_the_runtime_interrupts_its_runs(open_store: Callable[[], Store]) -> None:
    """Whatever the body does, `async with` ends in time, and the store is closed in order."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")
    with anyio.move_on_after(PATIENCE_S) as scope:
        async with Runtime(open_store()) as runtime:
            await runtime.start(dag, run_id="r")
            await probe.reach("a")
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    async with Runtime(open_store()) as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED


async def test_a_cancel_while_leaving_waits_no_longer(open_store: Callable[[], Store]) -> None:
    """The runs it waited for are interrupted."""
    probe = Probe()
    dag = chain_of(probe, "a", held="a")
    with anyio.move_on_after(PATIENCE_S) as scope:
        async with anyio.create_task_group() as tasks:

            async def lose_patience() -> None:
                await probe.reach("a")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()

            async with Runtime(open_store()) as runtime:
                await runtime.start(dag, run_id="r")
                tasks.start_soon(lose_patience)
    assert scope.cancelled_caught
    async with Runtime(open_store()) as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED


async def test_no_run_is_started_while_the_runtime_is_left(open_store: Callable[[], Store]) -> None:
    """A handler that starts one during the exit is told so."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def late() -> None:
        try:
            await probe.hold("late")
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await runtime.start(dag)
                except RuntimeClosedError as error:
                    probe.note(str(error))

    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("late")
    assert probe.notes == ["the runtime is not running: it is being left and takes no new runs"]


async def test_an_interruption_consumes_no_retry(open_store: Callable[[], Store]) -> None:
    """The budget is what it was."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def task(ctx: TaskContext) -> int:
        probe.note(ctx.attempt)
        await probe.hold(f"attempt {ctx.attempt}")
        return ctx.attempt

    for attempt in (1, 2):
        async with Runtime(open_store(), on_exit="interrupt") as runtime:
            await runtime.start(dag, run_id="r")
            await probe.reach(f"attempt {attempt}")
    probe.let_go("attempt 3")
    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag, run_id="r"))[task] == 3
    assert probe.notes == [1, 2, 3]


async def test_a_task_interrupted_too_often_fails(open_store: Callable[[], Store]) -> None:
    """max_interruptions are let pass; one more, and the task is given up."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def killer(ctx: TaskContext) -> None:
        await probe.hold(f"attempt {ctx.attempt}")

    @dag.task(depends_on=killer)
    async def after() -> None:
        probe.note("after")

    for attempt in (1, 2, 3):
        async with Runtime(open_store(), on_exit="interrupt", limits=Limits(max_interruptions=2)) as runtime:
            await runtime.start(dag, run_id="r")
            await probe.reach(f"attempt {attempt}")
    async with Runtime(open_store(), limits=Limits(max_interruptions=2)) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag, run_id="r")
        await agree(runtime, failed.value.result)
        assert await states_of(runtime) == {"killer": "failed", "after": "upstream_failed"}
    assert "max_interruptions" in str(failed.value.exceptions[0])
    assert probe.notes == []


async def test_a_cancel_wins_over_an_interruption(open_store: Callable[[], Store]) -> None:
    """Whoever asked by name gets what was asked for, even while the runtime is left."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def task() -> None:
        try:
            await probe.hold("task")
        finally:
            await_cancel.append(True)

    await_cancel = list[bool]()
    async with anyio.create_task_group() as tasks, Runtime(open_store(), on_exit="interrupt") as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("task")
        tasks.start_soon(handle.cancel)
        await anyio.wait_all_tasks_blocked()
    async with Runtime(open_store()) as runtime:
        assert (await runtime.get_run("r")).state is RunState.CANCELLED
        assert await states_of(runtime) == {"task": "cancelled"}
        with pytest.raises(RunCancelledError):
            await runtime.run(dag, run_id="r")
    assert await_cancel == [True]


async def test_an_interrupted_run_can_be_cancelled_without_running(open_store: Callable[[], Store]) -> None:
    """It ends, and what had not ended of it is cancelled."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", "c", held="b")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("b")
    async with Runtime(open_store()) as runtime:
        await runtime.cancel("r")
        assert (await runtime.get_run("r")).state is RunState.CANCELLED
        assert await states_of(runtime) == {"a": "success", "b": "cancelled", "c": "cancelled"}
        with pytest.raises(RunCancelledError):
            await runtime.run(dag, run_id="r")
        probe.let_go("b")
        assert (await runtime.resume("r", dag))["c"] == "abc"
    assert probe.notes == ["a", "b", "b", "c"]


async def test_a_cancellation_at_any_moment_leaves_a_run_that_can_go_on(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """After any number of steps of the loop: the run is not there, or interrupted, or finished; never left running."""
    seen = set[str]()

    async def leave_after(steps: int, scope: anyio.CancelScope) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with Runtime(open_store(), durability=durability) as runtime:
        for steps in range(60):
            probe = Probe()
            dag = chain_of(probe, "a", "b", "c")
            run_id = f"after-{steps}"
            with anyio.fail_after(PATIENCE_S):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(leave_after, steps, tasks.cancel_scope)
                    await runtime.run(dag, run_id=run_id)
                    tasks.cancel_scope.cancel()
                state = "nothing"
                done: list[str] = []
                if run_id in [run.run_id for run in await runtime.runs(limit=1)]:
                    state = str((await runtime.get_run(run_id)).state)
                    done = [row.task_id for row in await runtime.task_instances(run_id, state=TaskState.SUCCESS)]
                result = await runtime.run(dag, run_id=run_id)
                await agree(runtime, result)
            assert result["c"] == "abc"
            assert all(probe.counts[task_id] == 1 for task_id in done)
            seen.add(state)
    assert {"interrupted"} <= seen <= {"nothing", "interrupted", "success"}
