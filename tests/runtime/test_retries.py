"""Retries: how many attempts there are, when the next one starts, and what no retry mends."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    Limits,
    RetryAfter,
    RetryPolicy,
    RunFailedError,
    RunState,
    Runtime,
    Skip,
    TaskContext,
    TaskState,
    TaskStateChanged,
    XComNotFoundError,
    XComSerializationError,
    XComTooLargeError,
    XComTypeError,
)
from dagrelay.runtime.environment import Environment
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe, agree, retried

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, RunResult, Store


async def attempts_of(runtime: Runtime, task_id: str, run_id: str = "r") -> list[tuple[int, str]]:
    """Return the timeline of a task as (attempt, state)."""
    return [
        (event.attempt, str(event.state))
        async for event in runtime.events(run_id)
        if isinstance(event, TaskStateChanged) and event.task_id == task_id
    ]


async def failing(open_store: Callable[[], Store], error: BaseException, **options: Any) -> tuple[RunResult, int]:
    """Run a task that always raises; return the result and how often it was tried."""
    dag, probe = DAG("failing"), Probe()

    async def task(ctx: TaskContext) -> None:
        probe.note(ctx.attempt)
        raise error

    dag.add(task, **options)
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        await agree(runtime, result)
    assert probe.notes == list(range(1, len(probe.notes) + 1))
    return result, len(probe.notes)


async def test_retries_n_means_n_plus_1_attempts(open_store: Callable[[], Store], durability: Durability) -> None:
    """The last one's failure is the task's; each attempt and its failure is in the timeline."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=retried(2))
    async def flaky(ctx: TaskContext) -> None:
        probe.note(ctx.attempt)
        raise ValueError(f"attempt {ctx.attempt}")

    async with Runtime(open_store(), durability=durability) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag, run_id="r")
        assert await attempts_of(runtime, "flaky") == [
            (1, "running"),
            (1, "up_for_retry"),
            (2, "running"),
            (2, "up_for_retry"),
            (3, "running"),
            (3, "failed"),
        ]
    (error,) = failed.value.exceptions
    assert probe.notes == [1, 2, 3]
    assert str(error) == "task 'flaky' failed in attempt 3: ValueError: attempt 3"
    assert isinstance(error.__cause__, ValueError)
    assert str(error.__cause__) == "attempt 3"
    assert failed.value.result.tasks["flaky"].attempt == 3


async def test_a_later_attempt_succeeds(open_store: Callable[[], Store], durability: Durability) -> None:
    """The run goes on as if nothing had been, the record says which attempt it was, and no error is left."""
    dag = DAG("d")

    @dag.task(retries=AT_ONCE)
    async def flaky(ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("once")
        return ctx.attempt

    @dag.task
    async def after(value: int = flaky.output) -> int:
        return value * 10

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag)
        await agree(runtime, result)
    assert result[after] == 20
    assert result.state is RunState.SUCCESS
    assert (result.tasks["flaky"].attempt, result.tasks["flaky"].error) == (2, None)
    assert result.errors == {}


async def test_an_int_of_retries_waits_a_second_with_jitter() -> None:
    """`retries=n` is RetryPolicy(n + 1); the wait is stored as an absolute time."""
    dag = DAG("d")

    @dag.task(retries=1)
    async def flaky() -> None:
        raise ValueError("no")

    assert dag.plan().tasks[0].retry == RetryPolicy(2)
    assert 0.9 <= RetryPolicy(2).delay_for(1, Random(1)) <= 1.1


async def test_retry_on_chooses_what_is_worth_another_attempt(open_store: Callable[[], Store]) -> None:
    """Other errors fail the task at once."""
    policy = RetryPolicy(3, delay_s=0, retry_on=(OSError,))
    assert (await failing(open_store, ConnectionError("net"), retries=policy))[1] == 3


async def test_what_retry_on_does_not_name_is_not_retried(open_store: Callable[[], Store]) -> None:
    """Nor is a BaseException by default."""
    policy = RetryPolicy(3, delay_s=0, retry_on=(OSError,))
    assert (await failing(open_store, ValueError("bug"), retries=policy))[1] == 1


async def test_retry_on_may_name_base_exceptions(open_store: Callable[[], Store]) -> None:
    """A handler that calls sys.exit() can be tried again where that is asked for."""
    policy = RetryPolicy(2, delay_s=0, retry_on=(SystemExit,))
    assert (await failing(open_store, SystemExit(3), retries=policy))[1] == 2


async def test_retry_after_waits_as_long_as_it_says(open_store: Callable[[], Store]) -> None:
    """It overrides the policy's wait and its classes, and counts as an attempt."""
    dag, times = DAG("d"), list[float]()

    @dag.task(retries=RetryPolicy(2, delay_s=60, retry_on=()))
    async def polite(ctx: TaskContext) -> str:
        times.append(anyio.current_time())
        if ctx.attempt == 1:
            raise RetryAfter(0.015)
        return "done"

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(dag))[polite] == "done"
    assert times[1] - times[0] >= 0.015


async def test_retry_after_without_an_attempt_left_fails(open_store: Callable[[], Store]) -> None:
    """The budget binds it."""
    result, count = await failing(open_store, RetryAfter(0), retries=AT_ONCE)
    assert count == 2
    assert result.tasks["task"].state is TaskState.FAILED
    assert isinstance(result.errors["task"].__cause__, RetryAfter)


async def test_a_skip_is_never_retried(open_store: Callable[[], Store]) -> None:
    """It is an end, not a failure."""
    result, count = await failing(open_store, Skip("not today"), retries=AT_ONCE)
    assert (count, result.state, result.tasks["task"].state) == (1, RunState.SUCCESS, TaskState.SKIPPED)


@pytest.mark.parametrize("how", ["returned too large", "returned nonsense", "pushed too large", "pushed nonsense"])
async def test_size_and_serialisation_errors_are_never_retried(open_store: Callable[[], Store], how: str) -> None:
    """The same value would be too large again."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=AT_ONCE)
    async def task(ctx: TaskContext) -> Any:
        probe.note(ctx.attempt)
        value = "x" * 100 if how.endswith("large") else float("nan")
        if how.startswith("returned"):
            return value
        await ctx.xcom.push("k", value)
        return None

    async with Runtime(open_store(), limits=Limits(max_xcom_bytes=50)) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert probe.notes == [1]
    expected = XComTooLargeError if how.endswith("large") else XComSerializationError
    assert isinstance(result.errors["task"].__cause__, expected)


@pytest.mark.parametrize("how", ["missing", "wrong type"])
async def test_errors_of_the_inputs_are_never_retried(open_store: Callable[[], Store], how: str) -> None:
    """The handler does not run at all; the next attempt would read the same."""
    dag, probe = DAG("d"), Probe()

    @dag.task(auto_push=how != "missing")
    async def source() -> Any:
        return "text"

    @dag.task(retries=AT_ONCE)
    async def reader(value: int = source.output) -> None:
        probe.note(value)

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
        await agree(runtime, result)
    assert probe.notes == []
    assert result.tasks["reader"].attempt == 1
    expected = XComNotFoundError if how == "missing" else XComTypeError
    assert isinstance(result.errors["reader"].__cause__, expected)
    assert "reader" in str(result.errors["reader"])


async def test_a_waiting_retry_holds_no_slot(open_store: Callable[[], Store]) -> None:
    """With one slot in all, another task runs while the first waits for its second attempt."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=RetryPolicy(2, delay_s=0.02, jitter=0))
    async def flaky(ctx: TaskContext) -> None:
        probe.note(f"flaky {ctx.attempt}")
        if ctx.attempt == 1:
            raise ValueError("once")

    @dag.task
    async def other() -> None:
        probe.note("other")

    async with Runtime(open_store(), max_concurrency=1) as runtime:
        await runtime.run(dag)
    assert probe.notes == ["flaky 1", "other", "flaky 2"]


async def test_waits_are_absolute_times_and_survive_a_restart(open_store: Callable[[], Store]) -> None:
    """A retry whose time has passed while nobody ran starts at once; one due later waits for what is left."""
    dag, probe = DAG("d"), Probe()
    now = [1_000_000_000_000_000]
    environment = Environment(now_us=lambda: now[0], random=Random(1))

    @dag.task(retries=RetryPolicy(3, delay_s=3600, max_delay_s=3600, jitter=0))
    async def flaky(ctx: TaskContext) -> int:
        probe.note(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError("once")
        return ctx.attempt

    async with Runtime(open_store(), environment=environment, on_exit="interrupt") as runtime:
        handle = await runtime.start(dag, run_id="r")
        async for event in handle.events():
            if isinstance(event, TaskStateChanged) and event.state is TaskState.UP_FOR_RETRY:
                break
    now[0] += 3_599_990_000
    async with Runtime(open_store(), environment=environment) as runtime:
        (waiting,) = await runtime.task_instances("r")
        assert (waiting.state, waiting.attempt) == (TaskState.UP_FOR_RETRY, 1)
        before = anyio.current_time()
        result = await runtime.resume("r", dag)
        assert 0.01 <= anyio.current_time() - before < 5
        await agree(runtime, result)
    assert (result[flaky], probe.notes) == (2, [1, 2])


async def test_the_idempotency_key_is_the_same_for_every_attempt(open_store: Callable[[], Store]) -> None:
    """And for no other task or run."""
    dag, keys = DAG("d"), list[str]()

    @dag.task(retries=AT_ONCE)
    async def flaky(ctx: TaskContext) -> None:
        keys.append(ctx.idempotency_key)
        if ctx.attempt == 1:
            raise ValueError("once")

    @dag.task
    async def other(ctx: TaskContext) -> None:
        keys.append(ctx.idempotency_key)

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r1")
        await runtime.run(dag, run_id="r2")
    assert sorted(keys) == ["r1/flaky", "r1/flaky", "r1/other", "r2/flaky", "r2/flaky", "r2/other"]
