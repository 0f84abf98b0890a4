"""Timeouts: an attempt over its time is cancelled, whatever it does about it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio

from dagrelay import DAG, RunState, Runtime, TaskContext, TaskState, TaskTimeoutError
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe, agree, time_is_up

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

    import pytest

    from dagrelay import Store


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the warnings about handlers that ignore their cancellation."""
    return [record for record in caplog.records if record.message == "attempt.ignores_cancellation"]


async def test_an_attempt_over_its_time_is_cancelled_and_fails(open_store: Callable[[], Store]) -> None:
    """The cause is a TaskTimeoutError, which is a TimeoutError; the handler saw a cancellation."""
    dag, probe = DAG("d"), Probe()

    @dag.task(timeout_s=0.01)
    async def slow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            probe.note("cancelled")

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, raise_on_failure=False)
        await agree(runtime, result)
    cause = result.errors["slow"].__cause__
    assert isinstance(cause, TaskTimeoutError)
    assert isinstance(cause, TimeoutError)
    assert str(cause) == "attempt 1 of task 'slow' ran longer than timeout_s=0.01"
    assert str(result.tasks["slow"].error) == f"TaskTimeoutError: {cause}"
    assert probe.notes == ["cancelled"]


async def test_each_attempt_has_its_own_time(open_store: Callable[[], Store]) -> None:
    """A timeout is retried like any failure, and the next attempt may take as long again."""
    dag, deadlines = DAG("d"), list[float]()

    @dag.task(timeout_s=0.02, retries=AT_ONCE)
    async def slow_once(ctx: TaskContext) -> str:
        deadlines.append(ctx.deadline - anyio.current_time())
        if ctx.attempt == 1:
            await anyio.sleep_forever()
        return "second"

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(dag))[slow_once] == "second"
    assert len(deadlines) == 2
    assert all(left <= 0.02 for left in deadlines)


async def test_a_handler_that_answers_its_timeout_with_a_value_has_failed_all_the_same(open_store: Callable[[], Store]) -> None:
    """Time is up when it is up; what comes later is not accepted."""
    dag = DAG("d")

    @dag.task(timeout_s=3600)
    async def stubborn() -> str:
        time_is_up(runtime)
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
        return "too late"

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert result.tasks["stubborn"].state is TaskState.FAILED
    assert isinstance(result.errors["stubborn"].__cause__, TaskTimeoutError)


async def test_an_exception_raised_on_the_way_out_does_not_hide_the_timeout(open_store: Callable[[], Store]) -> None:
    """The reason of the cancellation is the reason of the failure."""
    dag = DAG("d")

    @dag.task(timeout_s=3600)
    async def clumsy() -> None:
        time_is_up(runtime)
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("clean-up failed")

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert isinstance(result.errors["clumsy"].__cause__, TaskTimeoutError)


async def test_a_timeout_of_its_own_is_an_ordinary_failure(open_store: Callable[[], Store]) -> None:
    """`anyio.fail_after` and `move_on_after` inside a handler work, and don't touch the attempt."""
    dag = DAG("d")

    @dag.task
    async def patient() -> str:
        with anyio.move_on_after(0.001):
            await anyio.sleep_forever()
        return "went on"

    @dag.task
    async def strict() -> None:
        with anyio.fail_after(0.001):
            await anyio.sleep_forever()

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert result[patient] == "went on"
    assert type(result.errors["strict"].__cause__) is TimeoutError


async def test_a_sync_handler_over_its_time_is_left_behind(open_store: Callable[[], Store]) -> None:
    """A thread can't be cancelled: the run ends without it."""
    dag, release = DAG("d"), threading.Event()

    @dag.task(timeout_s=0.01)
    def slow() -> None:
        release.wait(10)

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, raise_on_failure=False)
        release.set()
    assert isinstance(result.errors["slow"].__cause__, TaskTimeoutError)


async def test_a_handler_that_swallows_its_timeout_is_named_after_grace_s(
    open_store: Callable[[], Store], caplog: pytest.LogCaptureFixture
) -> None:
    """One warning, with run, task and attempt; other tasks go on meanwhile, and the run ends when the handler does."""
    dag, probe = DAG("d"), Probe()

    @dag.task(timeout_s=3600)
    async def stubborn() -> None:
        probe.open("started")
        with anyio.CancelScope(shield=True):
            await probe.hold("stubborn")

    @dag.task
    async def other() -> str:
        return "done"

    async with Runtime(open_store(), grace_s=0) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("stubborn")
        time_is_up(runtime)
        with anyio.fail_after(PATIENCE_S):
            while not warnings_of(caplog):
                await anyio.lowlevel.checkpoint()
        probe.let_go("stubborn")
        result = await handle.result(raise_on_failure=False)
    (warning,) = warnings_of(caplog)
    facts = vars(warning)
    assert (facts["run_id"], facts["task_id"], facts["attempt"], facts["reason"]) == ("r", "stubborn", 1, "timeout")
    assert result[other] == "done"
    assert isinstance(result.errors["stubborn"].__cause__, TaskTimeoutError)


async def test_a_handler_that_swallows_a_cancel_of_its_run_is_named_after_grace_s(
    open_store: Callable[[], Store], caplog: pytest.LogCaptureFixture
) -> None:
    """`cancel()` waits for it, as a task that still runs has not been cancelled."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await probe.hold("stubborn")

    async with Runtime(open_store(), grace_s=0) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("stubborn")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handle.cancel)
            with anyio.fail_after(PATIENCE_S):
                while not warnings_of(caplog):
                    await anyio.lowlevel.checkpoint()
            assert (await runtime.get_run("r")).state is RunState.RUNNING
            probe.let_go("stubborn")
        assert (await runtime.get_run("r")).state is RunState.CANCELLED
    assert [vars(record)["reason"] for record in warnings_of(caplog)] == ["cancelled"]


async def test_no_warning_names_a_handler_that_ends_in_time(
    open_store: Callable[[], Store], caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that lets itself be cancelled is nobody's business."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def good() -> None:
        await probe.hold("good")

    async with Runtime(open_store(), grace_s=0.01) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("good")
        await handle.cancel()
        time_is_up(runtime)
    assert warnings_of(caplog) == []
