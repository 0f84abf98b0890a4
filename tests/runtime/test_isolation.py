"""Attempt isolation (G5): whatever ends an attempt badly, nothing it pushed is seen by anybody else."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import pytest

from dagrelay import (
    DAG,
    Limits,
    RetryPolicy,
    RunState,
    Runtime,
    StaleAttemptError,
    TaskContext,
    TaskState,
    TriggerRule,
    XComNotFoundError,
    resolve_templates,
    template,
)
from tests.runtime.probes import PATIENCE_S, Probe, retried, time_is_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, RunResult, Store

LIMITS = Limits(max_xcom_bytes=200)
WAYS = (
    "raise",
    "timeout",
    "cancel",
    "BaseException",
    "SystemExit",
    "stale token",
    "encode error on a 3rd push",
    "size error on a 3rd push",
    "bad return value",
)
RETRIED = frozenset({"raise", "timeout", "BaseException", "SystemExit", "stale token", "cancel"})
"""The others are errors that no retry mends; there the second try is a `runtime.retry`."""


class Strange(BaseException):
    """No Exception."""


async def end_badly(runtime: Runtime, ctx: TaskContext, way: str) -> Any:
    """Push twice, then end in a bad way."""
    await ctx.xcom.push("one", "bad 1")
    await ctx.xcom.push("two", "bad 2")
    match way:
        case "raise":
            raise ValueError("bad")
        case "timeout" | "stale token":
            time_is_up(runtime)
            await anyio.sleep_forever()
        case "cancel":
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anyio.sleep_forever()
            raise RuntimeError("cancelled by itself")
        case "BaseException":
            raise Strange
        case "SystemExit":
            raise SystemExit(1)
        case "encode error on a 3rd push":
            await ctx.xcom.push("three", object())
        case "size error on a 3rd push":
            await ctx.xcom.push("three", "x" * 300)
        case _:
            pass
    return object()


def isolation_dag(runtime: Runtime, way: str, probe: Probe, *, heals: bool) -> DAG:
    """Return a DAG whose first task ends badly, once or for ever, and whose others look at it in every way there is."""
    dag = DAG("isolation")
    policy = RetryPolicy(2, delay_s=0, retry_on=(BaseException,))

    @dag.task(retries=policy, timeout_s=3600)
    async def source(ctx: TaskContext) -> Any:
        probe.note(ctx.attempt)
        if way == "stale token":
            probe.note(ctx.xcom)
        if heals and len([note for note in probe.notes if isinstance(note, int)]) > 1:
            assert [entry.key for entry in await ctx.xcom.list()] == []
            await ctx.xcom.push("one", "good 1")
            return "good"
        return await end_badly(runtime, ctx, way)

    @dag.task(trigger_rule=TriggerRule.ALL_DONE, bind={"returned": source.output_or("nothing")})
    async def reader(
        ctx: TaskContext,
        returned: Any,
        text: str = template('{{ xcom.source.one | default("-") }} {{ xcom.source.two | default("-") }}'),
    ) -> dict[str, Any]:
        return {
            "returned": returned,
            "text": text,
            "one": await ctx.xcom.pull("source", "one", default="-"),
            "two": await ctx.xcom.pull("source", "two", default="-"),
            "upstream": await ctx.xcom.pull_from_upstream(),
            "failed one": await ctx.xcom.pull("source", "one", default="-", include_failed=True),
        }

    del reader
    return dag


async def seen_from_outside(runtime: Runtime, dag: DAG) -> dict[str, Any]:
    """Return what the manager shows of the source."""
    xcom = runtime.xcom
    return {
        "returned": await xcom.pull("r", "source", default="nothing"),
        "text": await resolve_templates('{{ xcom.source.one | default("-") }}', "r", xcom),
        "one": await xcom.pull("r", "source", "one", default="-"),
        "two": await xcom.pull("r", "source", "two", default="-"),
        "upstream": await xcom.pull_from_upstream("r", "reader", dag),
        "keys": sorted(entry.key for entry in await xcom.list("r", "source")),
    }


async def run_it(runtime: Runtime, dag: DAG, way: str, *, heals: bool) -> RunResult:
    """Run the DAG, and where its source is not retried by itself, retry it once."""
    with anyio.fail_after(10):
        result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        if heals and way not in RETRIED:
            assert result.state is RunState.FAILED
            result = await runtime.retry("r", "source", dag)
    return result


@pytest.mark.parametrize("way", WAYS)
async def test_after_a_failed_attempt_and_a_good_one_only_the_good_one_is_seen(
    open_store: Callable[[], Store], durability: Durability, way: str
) -> None:
    """Retry, then succeed."""
    probe = Probe()
    async with Runtime(open_store(), limits=LIMITS, durability=durability) as runtime:
        dag = isolation_dag(runtime, way, probe, heals=True)
        result = await run_it(runtime, dag, way, heals=True)
        assert result["reader"] == {
            "returned": "good",
            "text": "good 1 -",
            "one": "good 1",
            "two": "-",
            "upstream": {"source": {"one": "good 1", "return_value": "good"}},
            "failed one": "good 1",
        }
        assert await seen_from_outside(runtime, dag) == {
            "returned": "good",
            "text": "good 1",
            "one": "good 1",
            "two": "-",
            "upstream": {"source": {"one": "good 1", "return_value": "good"}},
            "keys": ["one", "return_value"],
        }
        everything = await runtime.xcom.list("r", "source", all_attempts=True)
        assert {(entry.key, entry.attempt) for entry in everything} == {
            ("one", 1),
            ("two", 1),
            ("one", 2),
            ("return_value", 2),
        }
        assert {entry.attempt: entry.state for entry in everything}[2] is TaskState.SUCCESS


@pytest.mark.parametrize("way", WAYS)
async def test_of_a_task_that_finally_failed_nothing_is_seen_unless_asked_for(
    open_store: Callable[[], Store], durability: Durability, way: str
) -> None:
    """Exhausted: the last attempt's entries are there for `include_failed`, and all of them for `all_attempts`."""
    probe = Probe()
    async with Runtime(open_store(), limits=LIMITS, durability=durability) as runtime:
        dag = isolation_dag(runtime, way, probe, heals=False)
        result = await run_it(runtime, dag, way, heals=False)
        attempts = 2 if way in RETRIED else 1
        assert result.state is RunState.FAILED
        assert (result.tasks["source"].state, result.tasks["source"].attempt) == (TaskState.FAILED, attempts)
        assert result["reader"] == {
            "returned": "nothing",
            "text": "- -",
            "one": "-",
            "two": "-",
            "upstream": {"source": {}},
            "failed one": "bad 1",
        }
        assert await seen_from_outside(runtime, dag) == {
            "returned": "nothing",
            "text": "-",
            "one": "-",
            "two": "-",
            "upstream": {"source": {}},
            "keys": [],
        }
        everything = await runtime.xcom.list("r", "source", all_attempts=True)
        assert {entry.key for entry in everything} == {"one", "two"}
        assert {entry.attempt for entry in everything} == set(range(1, attempts + 1))
        if way == "stale token":
            for xcom in (note for note in probe.notes if not isinstance(note, int)):
                with pytest.raises(StaleAttemptError, match="is over"):
                    await xcom.push("late", 1)
        assert len(await runtime.xcom.list("r", "source", all_attempts=True)) == 2 * attempts


@pytest.mark.parametrize("how", ["cancelled", "interrupted"])
async def test_of_an_attempt_stopped_with_its_run_nothing_is_seen(
    open_store: Callable[[], Store], durability: Durability, how: str
) -> None:
    """Neither while the run rests nor once it has gone on."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def source(ctx: TaskContext) -> str:
        if ctx.attempt == 1:
            await ctx.xcom.push("one", "bad 1")
            await ctx.xcom.push("two", "bad 2")
            await probe.hold("source")
        await ctx.xcom.push("one", "good 1")
        return "good"

    @dag.task(depends_on=source)
    async def reader(ctx: TaskContext) -> dict[str, Any]:
        return await ctx.xcom.pull_from_upstream()

    async with Runtime(open_store(), durability=durability, on_exit="interrupt") as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("source")
        if how == "cancelled":
            await handle.cancel()
    async with Runtime(open_store(), durability=durability) as runtime:
        assert await runtime.xcom.list("r") == []
        assert {row.key for row in await runtime.xcom.list("r", all_attempts=True)} == {"one", "two"}
        result = await runtime.resume("r", dag)
        assert result[reader] == {"source": {"one": "good 1", "return_value": "good"}}
        assert sorted(row.key for row in await runtime.xcom.list("r", "source")) == ["one", "return_value"]


async def test_a_thread_that_outlives_its_timeout_cannot_write(open_store: Callable[[], Store]) -> None:
    """Fencing (G7): the push of the abandoned thread is refused, and no row of it exists."""
    dag, probe = DAG("d"), Probe()
    go_on, is_over, refused = threading.Event(), threading.Event(), list[BaseException]()

    @dag.task(retries=retried(1), timeout_s=3600)
    def stubborn(ctx: TaskContext) -> str:
        if ctx.attempt == 2:
            return "second"
        anyio.from_thread.run_sync(time_is_up, runtime)
        go_on.wait(10)
        try:
            anyio.from_thread.run(ctx.xcom.push, "late", 1)
        except StaleAttemptError as error:
            refused.append(error)
        finally:
            is_over.set()
        return "first"

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        assert result[stubborn] == "second"
        go_on.set()
        with anyio.fail_after(PATIENCE_S):
            await anyio.to_thread.run_sync(is_over.wait)
        assert [str(error) for error in refused] == ["attempt 1 of task 'stubborn' in run 'r' is over and can't write any more"]
        rows = await runtime.xcom.list("r", all_attempts=True)
    assert [(row.key, row.attempt) for row in rows] == [("return_value", 2)]
    assert probe.notes == []


async def test_task_lifetime_entries_are_checkpoints_for_later_attempts(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """They survive a retry, and nobody else sees them before success."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=retried(2))
    async def work(ctx: TaskContext) -> list[int]:
        done = await ctx.xcom.pull_own("done", default=0)
        probe.note(done)
        await ctx.xcom.push("done", done + 1, lifetime="task")
        await ctx.xcom.push("mine", ctx.attempt)
        if ctx.attempt < 3:
            with pytest.raises(XComNotFoundError):
                await runtime.xcom.pull(ctx.run_id, "work", "done")
            raise ValueError("again")
        return [done]

    @dag.task(depends_on=work)
    async def reader(ctx: TaskContext) -> list[int]:
        return [await ctx.xcom.pull("work", "done"), await ctx.xcom.pull("work", "mine")]

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag, run_id="r")
        assert result[reader] == [3, 3]
        assert await runtime.xcom.pull("r", "work", "done") == 3
        (row,) = await runtime.xcom.list("r", "work", prefix="done")
        assert (row.attempt, row.lifetime) == (3, "task")
    assert probe.notes == [0, 1, 2]


async def test_one_key_under_three_lifetimes_the_attempt_wins_over_the_task_and_that_over_outside(
    open_store: Callable[[], Store],
) -> None:
    """For everybody, by every way of reading."""
    dag = DAG("d")

    @dag.task
    async def work(ctx: TaskContext) -> None:
        await ctx.xcom.push("a", "task", lifetime="task")
        await ctx.xcom.push("a", "attempt")
        await ctx.xcom.push("b", "task", lifetime="task")
        assert await ctx.xcom.pull_own("a") == "attempt"
        assert await ctx.xcom.pull_own("b") == "task"
        assert await ctx.xcom.pull_own("c") == "outside"
        assert [(entry.key, entry.lifetime) for entry in await ctx.xcom.list()] == [("a", "attempt"), ("b", "task"), ("c", "run")]

    @dag.task(depends_on=work)
    async def reader(ctx: TaskContext) -> dict[str, Any]:
        values = {key: await ctx.xcom.pull("work", key) for key in "abc"}
        collected = (await ctx.xcom.pull_from_upstream())["work"]
        assert collected == values | {"return_value": None}
        return values

    async with Runtime(open_store()) as runtime:
        for key in "abc":
            await runtime.xcom.push("r", "work", key, "outside")
        result = await runtime.run(dag, run_id="r")
        values = {"a": "attempt", "b": "task", "c": "outside"}
        assert result[reader] == values
        assert {key: await runtime.xcom.pull("r", "work", key) for key in "abc"} == values


async def test_a_published_entry_is_seen_at_once_and_gone_with_its_attempt(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """While the attempt runs it is there for all; when it fails it is there for nobody."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=retried(1))
    async def work(ctx: TaskContext) -> None:
        await ctx.xcom.push("progress", ctx.attempt, publish=True)
        await ctx.xcom.push("secret", ctx.attempt)
        probe.note([await runtime.xcom.pull("r", "work", key, default=None) for key in ("progress", "secret")])
        await probe.hold(f"attempt {ctx.attempt}")
        if ctx.attempt == 1:
            raise ValueError("again")

    async with Runtime(open_store(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("attempt 1")
        assert [(entry.key, entry.attempt) for entry in await runtime.xcom.list("r")] == [("progress", 1)]
        probe.let_go("attempt 1")
        await probe.reach("attempt 2")
        assert [(entry.key, entry.attempt) for entry in await runtime.xcom.list("r")] == [("progress", 2)]
        probe.let_go("attempt 2")
        await handle.result()
    assert probe.notes == [[1, None], [2, None]]
