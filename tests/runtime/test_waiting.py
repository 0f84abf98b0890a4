"""Waiting for values of tasks that run beside: what ends a wait, what it holds meanwhile, and what can never come."""

from __future__ import annotations

import gc
import time
import tracemalloc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from dagrelay import (
    DAG,
    MemoryStore,
    NotUpstreamError,
    RunCancelledError,
    RunFailedError,
    RunInterruptedError,
    RunState,
    Runtime,
    Skip,
    TaskContext,
    TaskState,
    XComTypeError,
    XComWaitError,
    XComWaitTimeoutError,
    each,
)
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe, reached, time_is_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Store


@dataclass
class Stats:
    """A value of a type of its own."""

    rows: int


def waiter(dag: DAG, awaited: str, key: str = "k", *, id: str = "waiter", **options: Any) -> Any:  # noqa: A002 - as in dag.task
    """Add a task that waits for a value and returns it."""

    async def wait(ctx: TaskContext) -> Any:
        return await ctx.xcom.wait(awaited, key)

    return dag.add(wait, id=id, **options)


# -------------------------------------------------------------------------------------------------------- what ends it


async def test_a_published_value_ends_the_wait_at_once(open_store: Callable[[], Store], durability: Durability) -> None:
    """While its producer still runs; what is not published is seen once the producer has succeeded; None is a value."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def producer(ctx: TaskContext) -> Stats:
        await ctx.xcom.push("quiet", "later")
        await ctx.xcom.push("loud", None, publish=True)
        await probe.hold("producer")
        return Stats(3)

    @dag.task
    async def loud(ctx: TaskContext) -> Any:
        value = await ctx.xcom.wait(producer, "loud")
        probe.let_go("producer")
        return [value]

    @dag.task
    async def quiet(ctx: TaskContext) -> list[Any]:
        value = await ctx.xcom.wait("producer", "quiet")
        stats = await ctx.xcom.wait(producer)
        assert type(stats) is Stats
        return [value, stats.rows, await ctx.xcom.wait("producer"), (await ctx.xcom.wait("producer", as_type=Stats)).rows]

    async with Runtime(open_store(), durability=durability) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert result[loud] == [None]
    assert result[quiet] == ["later", 3, {"rows": 3}, 3]


async def test_each_waiter_gets_a_copy(open_store: Callable[[], Store]) -> None:
    """And a wait for what is there already returns it, as often as asked."""
    dag = DAG("d")

    @dag.task
    async def producer() -> list[int]:
        return [1]

    @dag.task
    async def spoil(ctx: TaskContext) -> list[int]:
        for _ in range(2):
            found = await ctx.xcom.wait(producer)
            found.append(2)
        return await ctx.xcom.wait(producer)

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag))[spoil] == [1]


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("fail", "has ended without it (failed)"),
        ("skip", "has ended without it (skipped)"),
        ("none", "has ended without it (success)"),
    ],
)
async def test_a_producer_that_ends_without_it_is_told(open_store: Callable[[], Store], how: str, told: str) -> None:
    """The error names waiter, awaited, key, and how the producer ended; what a failed attempt published is gone with it."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def producer(ctx: TaskContext) -> None:
        await ctx.xcom.push("j", 1, publish=True)
        await probe.hold("producer")
        if how == "fail":
            raise ValueError("no")
        if how == "skip":
            raise Skip

    waiter(dag, "producer")

    @dag.task(trigger_rule="all_done", depends_on="waiter")
    async def late(ctx: TaskContext) -> Any:
        return await ctx.xcom.wait("producer", "j")

    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag)
        await probe.reach("producer")
        await anyio.wait_all_tasks_blocked()
        probe.let_go("producer")
        with pytest.raises(RunFailedError) as failed, anyio.fail_after(PATIENCE_S):
            await handle.result()
    errors = failed.value.result.errors
    assert f"task 'waiter' waits for XCom 'k' of task 'producer', which can't come: task 'producer' {told}" in str(
        errors["waiter"]
    )
    assert isinstance(errors["waiter"].__cause__, XComWaitError)
    assert ("late" in errors) is (how != "none")


async def test_a_producer_that_never_starts_is_told(open_store: Callable[[], Store]) -> None:
    """As its upstreams failed, or a branch went another way."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def bad() -> None:
        await probe.hold("bad")
        raise ValueError("no")

    @dag.branch
    async def choose() -> None:
        await probe.hold("choose")

    for task_id, above in (("failing", bad), ("skipped", choose)):
        dag.add(_nothing, id=task_id, depends_on=above)
        waiter(dag, task_id, id=f"waits_for_{task_id}")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag)
        for door in ("bad", "choose"):
            await probe.reach(door)
            probe.let_go(door)
        with pytest.raises(RunFailedError) as failed, anyio.fail_after(PATIENCE_S):
            await handle.result()
    errors = failed.value.result.errors
    assert "has ended without it (upstream_failed)" in str(errors["waits_for_failing"])
    assert "has ended without it (skipped)" in str(errors["waits_for_skipped"])


async def _nothing() -> None:
    """Do nothing."""


async def test_a_retried_producer_is_waited_for(open_store: Callable[[], Store], durability: Durability) -> None:
    """What a failed attempt published is gone; the next one's ends the wait, and its task-lifetime values do on success."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=AT_ONCE)
    async def producer(ctx: TaskContext) -> int:
        await ctx.xcom.push("other", ctx.attempt, publish=True)
        await ctx.xcom.push("kept", ctx.attempt, lifetime="task")
        if ctx.attempt == 1:
            await probe.hold("first")
            raise ValueError("once")
        await ctx.xcom.push("k", ctx.attempt, publish=True)
        await probe.hold("second")
        return ctx.attempt

    waiter(dag, "producer")
    waiter(dag, "producer", "kept", id="kept")

    @dag.task
    async def reader(ctx: TaskContext) -> list[int]:
        first = await ctx.xcom.wait("producer", "other")
        probe.let_go("first")
        await ctx.xcom.wait("producer", "k")
        again = await ctx.xcom.wait("producer", "other")
        probe.let_go("second")
        return [first, again]

    async with Runtime(open_store(), durability=durability) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert (result["waiter"], result[reader], result["kept"]) == (2, [1, 2], 2)


async def test_what_no_task_can_wait_for_is_refused_at_once(open_store: Callable[[], Store]) -> None:
    """An unknown task, itself, a mapped one, a bad key, a value of another type."""
    dag = DAG("d")

    @dag.task
    async def producer() -> str:
        return "text"

    @dag.task
    async def mapped(item: int = each([1])) -> int:
        return item

    @dag.task
    async def ask(ctx: TaskContext) -> None:
        with pytest.raises(NotUpstreamError, match="did you mean 'producer'"):
            await ctx.xcom.wait("produce")
        with pytest.raises(XComWaitError, match="a task can't wait for itself"):
            await ctx.xcom.wait("ask", "k")
        with pytest.raises(XComWaitError, match="it is mapped"):
            await ctx.xcom.wait(mapped)
        with pytest.raises(ValueError, match="key"):
            await ctx.xcom.wait(producer, "")
        with pytest.raises(XComTypeError):
            await ctx.xcom.wait(producer, as_type=int)

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            await runtime.run(dag)


async def test_a_push_from_outside_ends_a_wait(open_store: Callable[[], Store], durability: Durability) -> None:
    """Before the producer starts, while it runs, and with nobody else to bring it."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def busy() -> None:
        await probe.hold("busy")

    dag.add(_nothing, id="later", depends_on=busy)
    waiter(dag, "busy", "a")
    waiter(dag, "later", "a", id="second")
    async with Runtime(open_store(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("busy")
        await anyio.wait_all_tasks_blocked()
        await runtime.xcom.push("r", "busy", "b", 0)
        for task_id in ("busy", "later"):
            await runtime.xcom.push("r", task_id, "a", task_id)
        await reached(runtime, TaskState.SUCCESS, "waiter", "second")
        probe.let_go("busy")
        with anyio.fail_after(PATIENCE_S):
            result = await handle.result()
    assert (result["waiter"], result["second"]) == ("busy", "later")


async def test_a_strict_waiter_sees_only_what_is_on_disk() -> None:
    """A push that is accepted and not yet committed does not end the wait, nor that of one who only then begins to wait."""
    dag, probe = DAG("d"), Probe()
    store = MemoryStore()
    real, gate = store.apply, anyio.Event()
    gate.set()

    async def slow(batch: Any) -> Any:
        await gate.wait()
        return await real(batch)

    setattr(store, "apply", slow)  # noqa: B010 - type checkers would not have it

    @dag.task
    async def producer(ctx: TaskContext) -> None:
        await probe.hold("producer")
        await ctx.xcom.push("k", 1, publish=True)
        probe.note("pushed")

    @dag.task
    async def wait(ctx: TaskContext) -> int:
        found: int = await ctx.xcom.wait("producer", "k")
        probe.note("seen")
        return found

    @dag.task
    async def late(ctx: TaskContext) -> int:
        await probe.hold("late")
        found: int = await ctx.xcom.wait("producer", "k")
        probe.note("seen")
        return found

    async with Runtime(store) as runtime:
        handle = await runtime.start(dag)
        await probe.reach("producer")
        await anyio.wait_all_tasks_blocked()
        gate = anyio.Event()
        probe.let_go("producer")
        await anyio.wait_all_tasks_blocked()
        probe.let_go("late")
        await anyio.wait_all_tasks_blocked()
        early = list(probe.notes)
        gate.set()
        assert early == []
        with anyio.fail_after(PATIENCE_S):
            result = await handle.result()
        assert (result[wait], result[late]) == (1, 1)
    assert sorted(probe.notes) == ["pushed", "seen", "seen"]


# --------------------------------------------------------------------------------------------------------- time limits


async def test_a_wait_may_be_bounded(open_store: Callable[[], Store]) -> None:
    """`timeout_s` raises an error that names both, after which the value may still come."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def producer(ctx: TaskContext) -> None:
        await probe.hold("producer")
        await ctx.xcom.push("k", 7, publish=True)

    @dag.task
    async def wait(ctx: TaskContext) -> Any:
        with pytest.raises(XComWaitTimeoutError, match=r"task 'wait' waited 0\.02 s for XCom 'k' of task 'producer'") as late:
            await ctx.xcom.wait("producer", "k", timeout_s=0.02)
        assert isinstance(late.value, TimeoutError)
        probe.let_go("producer")
        return await ctx.xcom.wait("producer", "k", timeout_s=PATIENCE_S)

    async with Runtime(open_store(), max_concurrency=2) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(dag))[wait] == 7


async def test_a_handlers_own_time_limit_is_one() -> None:
    """In `move_on_after` nothing is deadlocked: the handler is not stuck, and goes on by itself."""
    dag = DAG("d")

    @dag.task
    async def one(ctx: TaskContext) -> str:
        with anyio.move_on_after(0.05) as scope:
            await ctx.xcom.wait("two", "k")
        assert scope.cancelled_caught
        await ctx.xcom.push("k", 1, publish=True)
        return "went on"

    waiter(dag, "one", id="two")
    async with Runtime(":memory:") as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert (result[one], result["two"]) == ("went on", 1)


async def test_an_attempts_time_limit_ends_a_wait(open_store: Callable[[], Store]) -> None:
    """The attempt fails by its own timeout, and what it waited beside ends too."""
    dag = DAG("d")
    waiter(dag, "two", id="one", timeout_s=0.05)
    waiter(dag, "one", id="two")
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, raise_on_failure=False)
    assert "TaskTimeoutError" in str(result.errors["one"])
    assert "has ended without it (failed)" in str(result.errors["two"])


# --------------------------------------------------------------------------------------------------------------- slots


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_waiters_hold_no_slots(open_store: Callable[[], Store], durability: Durability, kind: str) -> None:
    """200 of them, started before what they wait for under 128 slots, all finish."""
    dag = DAG("d")
    size = 200 if kind == "async" else 20

    async def wait(ctx: TaskContext) -> int:
        found: int = await ctx.xcom.wait("producer", "k")
        return found

    def wait_in_thread(ctx: TaskContext) -> int:
        found: int = anyio.from_thread.run(ctx.xcom.wait, "producer", "k")
        return found

    for number in range(size):
        dag.add(wait if kind == "async" else wait_in_thread, id=f"w{number}")

    @dag.task
    async def producer(ctx: TaskContext) -> None:
        await ctx.xcom.push("k", 5, publish=True)

    slots = 128 if kind == "async" else 32
    async with Runtime(open_store(), max_concurrency=slots, durability=durability) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert {result[f"w{number}"] for number in range(size)} == {5}


async def test_a_waiter_waits_for_a_slot_again(open_store: Callable[[], Store]) -> None:
    """Once its value is there it goes on only when it is its turn: no more run at once than there are slots."""
    dag, probe = DAG("d", max_concurrency=1), Probe()
    running, most = 0, 0

    @dag.task
    async def producer(ctx: TaskContext) -> None:
        nonlocal running
        running += 1
        await ctx.xcom.push("k", 1, publish=True)
        await anyio.lowlevel.checkpoint()
        running -= 1

    async def wait(ctx: TaskContext) -> None:
        nonlocal running, most
        await ctx.xcom.wait("producer", "k")
        running += 1
        most = max(most, running)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        probe.note(ctx.task_id)
        running -= 1

    for number in range(5):
        dag.add(wait, id=f"w{number}")
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            await runtime.run(dag)
    assert most == 1
    assert len(probe.notes) == 5


# ----------------------------------------------------------------------------------------------------------- deadlocks


def circle(dag: DAG, size: int, *, catches: int = -1) -> None:
    """Add tasks each of which waits for the next, and publishes once it has gone on."""

    async def wait(ctx: TaskContext) -> str:
        number = int(ctx.task_id[1:])
        try:
            await ctx.xcom.wait(f"t{(number + 1) % size}", "k")
        except XComWaitError as error:
            if number != catches:
                raise
            await ctx.xcom.push("k", number, publish=True)
            return error.awaited_id
        await ctx.xcom.push("k", number, publish=True)
        return "brought"

    for number in range(size):
        dag.add(wait, id=f"t{number}")


@pytest.mark.parametrize("size", [2, 3, 40])
async def test_waiters_in_a_circle_are_told_at_once(open_store: Callable[[], Store], durability: Durability, size: int) -> None:
    """Within a second the error names waiter and awaited; the others follow, as theirs has ended without the value."""
    dag = DAG("d")
    circle(dag, size)
    async with Runtime(open_store(), durability=durability) as runtime:
        began = time.monotonic()
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, raise_on_failure=False)
        assert time.monotonic() - began < (1 if size < 40 else PATIENCE_S)
    told = [str(error) for error in result.errors.values()]
    circles = [text for text in told if "all that still runs waits for it in a circle" in text]
    assert len(told) == size
    assert len(circles) == 1
    assert "waits for XCom 'k' of task 't" in circles[0]
    assert sum("has ended without it (failed)" in text for text in told) == size - 1


async def test_one_that_catches_it_lets_the_others_go_on(open_store: Callable[[], Store]) -> None:
    """Whichever is told: it publishes all the same, and all go on."""
    dag = DAG("d")

    async def wait(ctx: TaskContext) -> str:
        number = int(ctx.task_id[1:])
        told = "brought"
        try:
            await ctx.xcom.wait(f"t{(number + 1) % 5}", "k")
        except XComWaitError as error:
            told = error.awaited_id
        await ctx.xcom.push("k", number, publish=True)
        return told

    for number in range(5):
        dag.add(wait, id=f"t{number}")
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    told = [result[f"t{number}"] for number in range(5)]
    assert told.count("brought") == 4


async def test_a_wait_for_what_only_starts_after_it_is_told(open_store: Callable[[], Store]) -> None:
    """A task that waits for its own downstream, or for what waits for a slot that never comes."""
    dag = DAG("d")
    first = waiter(dag, "below", id="first")
    dag.add(_nothing, id="below", depends_on=first)
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, raise_on_failure=False)
    assert "task 'first' waits for XCom 'k' of task 'below'" in str(result.errors["first"])
    assert str(result.tasks["below"].state) == "upstream_failed"


async def test_what_still_runs_is_no_deadlock(open_store: Callable[[], Store]) -> None:
    """Nor a retry that is due, nor a task that waits for a value from outside."""
    dag, probe = DAG("d"), Probe()
    dag.external("answer")

    @dag.task(retries=1)
    async def later(ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("once")
        return 3

    waiter(dag, "answer", "return_value", id="asks")
    waiter(dag, "later", "return_value", id="patient")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await reached(runtime, TaskState.UP_FOR_RETRY, "later")
        await anyio.wait_all_tasks_blocked()
        time_is_up(runtime)
        await reached(runtime, TaskState.SUCCESS, "patient")
        await runtime.provide("r", "answer", 42)
        with anyio.fail_after(PATIENCE_S):
            result = await handle.result()
    assert (result["asks"], result["patient"]) == (42, 3)
    assert not probe.notes


@pytest.mark.parametrize("size", [0, 1, 5])
async def test_the_end_of_a_mapped_task_is_no_deadlock(
    open_store: Callable[[], Store], durability: Durability, size: int
) -> None:
    """While it is on its way to the disk nothing runs, and yet what is awaited comes of it."""
    dag = DAG("d")

    async def work(item: int) -> int:
        await anyio.lowlevel.checkpoint()
        return item

    mapped = dag.add(work, bind={"item": each(list(range(size)))})
    below = dag.add(_nothing, id="below", depends_on=mapped)
    waiter(dag, below.id, "return_value", id="waiter")
    async with Runtime(open_store(), durability=durability) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(dag))["waiter"] is None


async def test_a_handler_that_does_something_else_too_is_no_deadlock(open_store: Callable[[], Store]) -> None:
    """One task of a handler waits, another works on and brings what others wait for."""
    dag = DAG("d")

    @dag.task
    async def one(ctx: TaskContext) -> list[Any]:
        found: list[Any] = []

        async def wait() -> None:
            found.append(await ctx.xcom.wait("two", "k"))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(0.05)
            await ctx.xcom.push("k", 1, publish=True)
        return found

    @dag.task
    async def two(ctx: TaskContext) -> None:
        await ctx.xcom.push("k", 1 + await ctx.xcom.wait("one", "k"), publish=True)

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert result[one] == [2]


async def test_a_handler_that_waits_while_its_tasks_work_is_no_deadlock(open_store: Callable[[], Store]) -> None:
    """The handler itself waits, and a task that it has started brings what others wait for."""
    dag = DAG("d")

    @dag.task
    async def one(ctx: TaskContext) -> Any:
        async def bring() -> None:
            await anyio.sleep(0.05)
            await ctx.xcom.push("k", 1, publish=True)

        found: list[Any] = []
        async with anyio.create_task_group() as group:
            group.start_soon(bring)
            found.append(await ctx.xcom.wait("two", "k"))
        return found[0]

    @dag.task
    async def two(ctx: TaskContext) -> None:
        await ctx.xcom.push("k", 1 + await ctx.xcom.wait("one", "k"), publish=True)

    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert result[one] == 2


async def test_several_waits_of_one_handler_end_as_they_come(open_store: Callable[[], Store]) -> None:
    """In any order, each with its own value."""
    dag = DAG("d")

    @dag.task
    async def gather(ctx: TaskContext) -> dict[str, int]:
        found: dict[str, int] = {}

        async def wait(task_id: str) -> None:
            found[task_id] = await ctx.xcom.wait(task_id)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(wait, f"t{number}")
        return found

    async def give(ctx: TaskContext) -> int:
        await anyio.lowlevel.checkpoint()
        return int(ctx.task_id[1:])

    for number in range(20):
        dag.add(give, id=f"t{number}")
    async with Runtime(open_store(), max_concurrency=2) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert result[gather] == {f"t{number}": number for number in range(20)}


# ------------------------------------------------------------------------------------------------------------- stopped


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_a_wait_can_be_cancelled_anywhere(open_store: Callable[[], Store], turns: int, how: str) -> None:
    """At each await of it: the run ends as asked, nobody waits on, and a resume waits anew."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def producer(ctx: TaskContext) -> None:
        await ctx.xcom.push("k", 1, publish=True)
        await probe.hold("producer")

    waiter(dag, "producer", "other")

    @dag.task
    async def twice(ctx: TaskContext) -> Any:
        return await ctx.xcom.wait("producer", "k") + await ctx.xcom.wait("producer", "k")

    async with Runtime(open_store(), on_exit="interrupt", max_concurrency=2) as runtime:
        handle = await runtime.start(dag, run_id="r")
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        if how == "cancel":
            with anyio.fail_after(PATIENCE_S):
                await handle.cancel()
                with pytest.raises(RunCancelledError):
                    await handle.result()
        assert how != "cancel" or runtime.statistics().admission.running == 0
    probe.let_go("producer")
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.resume("r", dag, raise_on_failure=False)
        assert result[twice] == 2
        assert "has ended without it" in str(result.errors["waiter"])


async def test_a_wind_down_does_not_wait_for_waiters(open_store: Callable[[], Store], durability: Durability) -> None:
    """What could still bring the value ends first; whoever then waits for what does not start is interrupted."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def busy(ctx: TaskContext) -> None:
        await probe.hold("busy")
        await ctx.xcom.push("k", 1, publish=True)

    @dag.task(depends_on=busy)
    async def below(ctx: TaskContext) -> None:
        await ctx.xcom.push("k", 2, publish=True)

    waiter(dag, "busy", id="served")
    waiter(dag, "below", id="stopped")
    async with Runtime(open_store(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("busy")
        await anyio.wait_all_tasks_blocked()
        runtime.wind_down()
        probe.let_go("busy")
        with anyio.fail_after(PATIENCE_S), pytest.raises(RunInterruptedError):
            await handle.result()
        rows = {row.task_id: str(row.state) for row in await runtime.task_instances("r")}
        assert rows == {"busy": "success", "served": "success", "below": "pending", "stopped": "interrupted"}
    async with Runtime(open_store()) as runtime:
        result = await runtime.resume("r", dag)
        assert (result["served"], result["stopped"]) == (1, 2)
        assert result.tasks["stopped"].attempt == 2


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_waiters_that_only_an_outside_value_keeps_waiting_are_stopped(open_store: Callable[[], Store], how: str) -> None:
    """Once nothing but waiters is left, a run that stops stops them, and does not turn in a circle of its own."""
    dag = DAG("d")
    dag.external("answer")
    waiter(dag, "answer", "return_value")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await reached(runtime, TaskState.RUNNING, "waiter")
        await anyio.wait_all_tasks_blocked()
        if how == "cancel":
            await runtime.cancel("r")
    async with Runtime(open_store()) as runtime:
        assert str((await runtime.get_run("r")).state) == {"cancel": "cancelled", "interrupt": "interrupted"}[how]
        handle = await runtime.start(dag, run_id="r")
        if how == "interrupt":
            await runtime.provide("r", "answer", 1)
            assert (await handle.result())["waiter"] == 1


async def test_a_wind_down_waits_for_no_retry_that_will_not_come(open_store: Callable[[], Store]) -> None:
    """A waiter for a task whose retry is far off is interrupted too."""
    dag = DAG("d")

    @dag.task(retries=1)
    async def later(ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("once")
        return 3

    waiter(dag, "later", "return_value", id="patient")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await reached(runtime, TaskState.UP_FOR_RETRY, "later")
        await anyio.wait_all_tasks_blocked()
        runtime.wind_down()
        with anyio.fail_after(0.5), pytest.raises(RunInterruptedError):
            await handle.result()
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED


@pytest.mark.timeout(600)
async def test_ten_thousand_waiters_are_cheap(is_full: bool, figure: Callable[[str], None]) -> None:
    """In time and memory, whoever they wait for."""
    size = 10_000 if is_full else 200
    dag = DAG("d")

    async def wait(ctx: TaskContext) -> int:
        found: int = await ctx.xcom.wait("producer", "k")
        return found

    for number in range(size):
        dag.add(wait, id=f"w{number}")
    peak = 0

    @dag.task
    async def producer(ctx: TaskContext) -> None:
        nonlocal peak
        gc.collect()
        peak = tracemalloc.get_traced_memory()[0]
        await ctx.xcom.push("k", 5, publish=True)

    dag.plan()
    async with Runtime(":memory:") as runtime:
        tracemalloc.start()
        try:
            began = time.monotonic()
            result = await runtime.run(dag)
            seconds = time.monotonic() - began
        finally:
            tracemalloc.stop()
    assert result.tasks["w0"].state is TaskState.SUCCESS
    assert peak / size < 60_000  # Three times that of a plain loop: in debug mode each task and future keeps its traceback.
    figure(f"{size:,} waiters: {peak / size / 1000:.1f} kB each, {seconds:.1f} s under tracemalloc")
