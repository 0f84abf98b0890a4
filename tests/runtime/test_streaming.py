"""Streams between running tasks: in order, bounded, and begun anew where they must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from dagrelay import (
    DAG,
    Durability,
    EntryRead,
    Limits,
    MemoryStore,
    NotUpstreamError,
    RetryPolicy,
    RunFailedError,
    RunInterruptedError,
    RunState,
    Runtime,
    Skip,
    StaleAttemptError,
    TaskContext,
    TaskState,
    XComConflictError,
    XComSerializationError,
    XComStreamError,
    XComTooLargeError,
    XComTypeError,
    XComWaitError,
)
from dagrelay.runtime.scheduler import Scheduler
from dagrelay.testing.faulty import FaultyStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store

AT_ONCE = RetryPolicy(5, delay_s=0)


async def collect(ctx: TaskContext, task: str = "load", key: str = "rows", **how: Any) -> list[Any]:
    """Return all items of a stream."""
    return [item async for item in ctx.xcom.stream(task, key, **how)]


def causes(failed: pytest.ExceptionInfo[RunFailedError]) -> dict[str, BaseException | None]:
    """Return why each task failed."""
    assert failed.value.result is not None
    return {task_id: error.__cause__ for task_id, error in failed.value.result.errors.items()}


async def attempts_of(runtime: Runtime, run_id: str) -> dict[str, int]:
    """Return the number of each task's last attempt."""
    return {each.task_id: each.attempt for each in await runtime.task_instances(run_id)}


# ------------------------------------------------------------------------------------------------------- handing over


async def test_all_items_come_in_order(open_store: Callable[[], Store], durability: Durability) -> None:
    """Many chunks, read while the producer appends and afterwards."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(5_000):
            await ctx.xcom.append("rows", number)
            if number % 500 == 0:
                await anyio.lowlevel.checkpoint()

    @dag.task(after_start=[load])
    async def beside(ctx: TaskContext) -> list[int]:
        return await collect(ctx)

    @dag.task(depends_on=load)
    async def below(ctx: TaskContext) -> list[int]:
        return await collect(ctx)

    @dag.task(depends_on=beside)
    async def later(ctx: TaskContext) -> list[int]:
        return await collect(ctx)

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(beside) == list(range(5_000))
        assert await result.pull(below) == list(range(5_000))
        assert await result.pull(later) == list(range(5_000))


async def test_a_reader_gets_items_while_their_producer_runs(open_store: Callable[[], Store]) -> None:
    """The producer appends the next one only once the reader has told that it got the last."""
    dag, got = DAG("d"), [anyio.Event() for _ in range(3)]

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(3):
            await ctx.xcom.append("rows", number)
            await got[number].wait()

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> None:
        async for item in ctx.xcom.stream(load, "rows"):
            got[int(item)].set()

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)

    assert result.state is RunState.SUCCESS


async def test_an_item_is_a_snapshot_and_comes_back_typed() -> None:
    """Later changes don't reach it; `as_type` structures it; each reader gets a copy of its own."""

    @dataclass
    class Row:
        name: str

    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        row = Row("a")
        await ctx.xcom.append("rows", row)
        row.name = "b"
        await ctx.xcom.append("rows", row)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> list[str]:
        return [row.name async for row in ctx.xcom.stream(load, "rows", as_type=Row)]

    @dag.task(after_start=[load])
    async def misuse(ctx: TaskContext) -> None:
        await collect(ctx, as_type=int)

    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag)

        assert failed.value.result is not None
        assert await failed.value.result.pull(use) == ["a", "b"]
        assert isinstance(causes(failed)["misuse"], XComTypeError)


async def test_sync_handlers_stream_from_their_threads() -> None:
    """By way of the loop, as for pushes."""
    dag = DAG("d")

    @dag.task
    def load(ctx: TaskContext) -> None:
        for number in range(3):
            anyio.from_thread.run(ctx.xcom.append, "rows", number)

    @dag.task(after_start=[load])
    def use(ctx: TaskContext) -> list[int]:
        items: list[int] = []
        stream = ctx_stream(ctx)
        while True:
            try:
                items.append(anyio.from_thread.run(stream.__anext__))
            except StopAsyncIteration:
                return items

    def ctx_stream(ctx: TaskContext) -> Any:
        async def make() -> Any:
            return ctx.xcom.stream("load", "rows")

        return anyio.from_thread.run(make)

    async with Runtime(MemoryStore()) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == [0, 1, 2]


async def test_streams_of_one_task_are_told_apart_by_key() -> None:
    """A value may bear the same key."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.push("rows", "value")
        await ctx.xcom.append("rows", 1)
        await ctx.xcom.append("others", 2)

    @dag.task(depends_on=load)
    async def use(ctx: TaskContext) -> list[Any]:
        return [
            await collect(ctx),
            await collect(ctx, key="others"),
            await collect(ctx, key="none"),
            await ctx.xcom.pull(load, "rows"),
        ]

    async with Runtime(MemoryStore()) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == [[1], [2], [], "value"]


# ----------------------------------------------------------------------------------------------------- back-pressure


@pytest.mark.parametrize(
    "limits",
    [Limits(max_stream_window_items=10), Limits(max_stream_window_bytes=20), Limits(max_stream_window_items=1)],
    ids=["items", "bytes", "one"],
)
async def test_a_producer_is_never_a_window_ahead(open_store: Callable[[], Store], limits: Limits) -> None:
    """Whatever bounds it, with a reader slower than it, and one slot for both."""
    dag, appended, ahead = DAG("d"), [0], list[int]()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(40):
            await ctx.xcom.append("rows", number)
            appended[0] = number + 1

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> int:
        count = 0
        async for item in ctx.xcom.stream(load, "rows"):
            assert item == count
            if count % 10 == 0:
                await anyio.wait_all_tasks_blocked()
            ahead.append(appended[0] - count)
            count += 1
        return count

    async with Runtime(open_store(), limits=limits, max_concurrency=1) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == 40
    bound = min(limits.max_stream_window_items, limits.max_stream_window_bytes)
    assert bound // 4 < max(ahead) <= bound


async def test_a_producer_waits_for_a_reader_that_has_not_come_yet() -> None:
    """With a reader to come the window bounds, and it waits without a slot."""
    dag, go, appended = DAG("d"), anyio.Event(), [0]

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(50):
            await ctx.xcom.append("rows", number)
            appended[0] = number + 1

    @dag.task
    async def gate() -> None:
        await go.wait()

    @dag.task(after_start=[load], depends_on=gate)
    async def use(ctx: TaskContext) -> int:
        return len(await collect(ctx))

    async with Runtime(MemoryStore(), limits=Limits(max_stream_window_items=8)) as runtime:
        handle = await runtime.start(dag)
        await anyio.wait_all_tasks_blocked()
        assert appended[0] == 8
        go.set()
        result = await handle.result()

        assert await result.pull(use) == 50


async def test_nobody_who_only_follows_its_end_is_waited_for(open_store: Callable[[], Store]) -> None:
    """Readers downstream can't come before; a reader that was skipped will not."""
    dag = DAG("d")

    @dag.task
    async def skip() -> None:
        raise Skip("no need")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(50):
            await ctx.xcom.append("rows", number)

    @dag.task(depends_on=load)
    async def use(ctx: TaskContext) -> int:
        return len(await collect(ctx))

    @dag.task(after_start=[load], depends_on=skip)
    async def never(ctx: TaskContext) -> int:
        return len(await collect(ctx))

    async with Runtime(open_store(), limits=Limits(max_stream_window_items=4)) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == 50
        assert result.tasks["never"].state is TaskState.SKIPPED


async def test_the_slowest_reader_counts_and_only_while_it_reads(open_store: Callable[[], Store]) -> None:
    """Three read: one fast, one slow, and one that leaves its loop early and goes on with something else."""
    dag, appended, done = DAG("d"), [0], anyio.Event()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(30):
            await ctx.xcom.append("rows", number)
            appended[0] = number + 1

    @dag.task(after_start=[load])
    async def fast(ctx: TaskContext) -> int:
        return len(await collect(ctx))

    @dag.task(after_start=[load])
    async def slow(ctx: TaskContext) -> int:
        count = 0
        async for _ in ctx.xcom.stream(load, "rows"):
            if count % 10 == 0:
                await anyio.wait_all_tasks_blocked()
            assert appended[0] - count <= 8
            count += 1
        done.set()
        return count

    @dag.task(after_start=[load])
    async def early(ctx: TaskContext) -> int:
        async for item in ctx.xcom.stream(load, "rows"):
            if item == 3:
                break
        await done.wait()
        return 1

    @dag.task(after_start=[load])
    async def closing(ctx: TaskContext) -> int:
        async with ctx.xcom.stream(load, "rows") as stream:
            assert await anext(stream) == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        other = ctx.xcom.stream(load, "rows")
        assert await anext(other) == 0
        await other.aclose()
        await done.wait()
        return 1

    async with Runtime(open_store(), limits=Limits(max_stream_window_items=8)) as runtime:
        result = await runtime.run(dag)

        assert [await result.pull(each) for each in (fast, slow, early, closing)] == [30, 30, 1, 1]


async def test_an_item_larger_than_the_window_passes_alone() -> None:
    """Else it would wait for ever."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for _ in range(3):
            await ctx.xcom.append("rows", "x" * 100)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> int:
        return len(await collect(ctx))

    async with Runtime(MemoryStore(), limits=Limits(max_stream_window_bytes=10)) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == 3


async def test_little_room_before_the_disk_only_slows_a_stream(open_store: Callable[[], Store]) -> None:
    """With less than a chunk of bytes that may await their commit, both sides go on."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(300):
            await ctx.xcom.append("rows", f"{number:040}")

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> int:
        count = 0
        async for item in ctx.xcom.stream(load, "rows"):
            assert int(item) == count
            count += 1
            await ctx.xcom.push("count", count, lifetime="task")
        return count

    async with Runtime(open_store(), limits=Limits(max_pending_bytes=50)) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == 300


async def test_an_append_that_waits_for_the_disk_lends_its_slot_to_other_runs_only() -> None:
    """It holds an item, and a run may hold no more of them at once than it may have attempts."""
    store = FaultyStore(MemoryStore())
    started: list[str] = []
    dag, polite, go, has_run = DAG("d"), DAG("polite"), anyio.Event(), anyio.Event()

    async def load(ctx: TaskContext) -> None:
        started.append(ctx.task_id)
        await go.wait()
        for _ in range(5):
            await ctx.xcom.append("rows", "x" * 60)
            await anyio.wait_all_tasks_blocked()

    for number in range(4):
        dag.add(load, id=f"t{number}")

    @polite.task
    async def run() -> None:
        has_run.set()

    async with Runtime(store, max_concurrency=2, limits=Limits(max_pending_bytes=100)) as runtime:
        handle = await runtime.start(dag)
        await anyio.wait_all_tasks_blocked()
        other = await runtime.start(polite)
        store.writes.shut()
        go.set()
        with anyio.fail_after(10):
            await has_run.wait()
        await anyio.wait_all_tasks_blocked()
        assert started == ["t0", "t1"]
        store.writes.open()
        assert (await handle.result()).state is RunState.SUCCESS
        await other.result()


async def test_an_item_is_not_acknowledged_by_a_result_there_is_no_room_for() -> None:
    """Not even where another took the rest of the run's budget only while the result waited for the disk."""
    store, seen, size = FaultyStore(MemoryStore()), list[str](), 400
    dag, doors = DAG("d"), {name: anyio.Event() for name in ("fill", "one", "two")}

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 1)

    @dag.task
    async def fill() -> str:
        await doors["fill"].wait()
        return "x" * 110

    async def use(ctx: TaskContext) -> str:
        async for _ in ctx.xcom.stream(load, "rows", resume=True):
            seen.append(ctx.task_id)
            await doors[ctx.task_id].wait()
            return "x" * size
        return "none left"

    for name in ("one", "two"):
        dag.add(use, id=name, depends_on=load)
    async with Runtime(store, limits=Limits(max_pending_bytes=100, max_run_xcom_bytes=900)) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await anyio.wait_all_tasks_blocked()
        store.writes.shut()
        for door in doors.values():
            door.set()
            await anyio.wait_all_tasks_blocked()
        store.writes.open()
        with pytest.raises(RunFailedError) as failed:
            await handle.result()
        ((late, cause),) = causes(failed).items()
        assert isinstance(cause, XComTooLargeError)
        size = 4
        await runtime.retry("r", late, dag)

    assert sorted(seen) == sorted(["one", "two", late])


async def test_a_result_and_what_was_written_for_an_item_share_the_budget() -> None:
    """Each alone would have room; a result that has none beside the writes leaves the item unacknowledged."""
    dag, seen, size = DAG("d"), list[int](), 400

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 1)

    @dag.task(depends_on=load)
    async def use(ctx: TaskContext) -> str:
        async for item in ctx.xcom.stream(load, "rows", resume=True):
            seen.append(item)
            await ctx.xcom.push("state", "x" * 400, lifetime="task")
            return "x" * size
        return "none left"

    async with Runtime(MemoryStore(), limits=Limits(max_run_xcom_bytes=600)) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag, run_id="r")
        assert isinstance(causes(failed)["use"], XComTooLargeError)
        size = 4
        await runtime.retry("r", "use", dag)
        assert await runtime.xcom.pull("r", "use", "state") == "x" * 400

    assert seen == [1, 1]


# ----------------------------------------------------------------------------------------------- readers begin again


@pytest.mark.parametrize("resume", [False, True])
async def test_a_reader_that_fails_begins_again_or_resumes(
    open_store: Callable[[], Store],
    durability: Durability,
    resume: bool,
) -> None:
    """Without `resume` from the first item, with it after the last that was acknowledged by asking for another."""
    dag, seen = DAG("d"), list[tuple[int, int]]()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(10):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[load], retries=AT_ONCE)
    async def use(ctx: TaskContext) -> None:
        async for item in ctx.xcom.stream(load, "rows", resume=resume):
            seen.append((ctx.attempt, item))
            if ctx.attempt < 3 and item == 3 * ctx.attempt:
                raise ValueError("boom")

    async with Runtime(open_store(), durability=durability, limits=Limits(max_stream_window_items=3)) as runtime:
        result = await runtime.run(dag)

    assert result.state is RunState.SUCCESS
    first = [0, 3, 6] if resume else [0, 0, 0]
    last = [3, 6, 9]
    assert seen == [(n + 1, item) for n in range(3) for item in range(first[n], last[n] + 1)]


async def test_what_a_reader_writes_for_an_item_stands_or_falls_with_its_acknowledgement(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """Each item counts once in a checkpoint kept over attempts, however often the attempt fails in between."""
    dag, before = DAG("d"), list[Any]()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(20):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[load], retries=AT_ONCE)
    async def use(ctx: TaskContext) -> list[int]:
        seen: list[int] = await ctx.xcom.pull_own("seen", default=[])
        before.append(list(seen))
        async for item in ctx.xcom.stream(load, "rows", resume=True):
            seen.append(item)
            await ctx.xcom.push("seen", seen, lifetime="task")
            await ctx.xcom.push_many({"last": item}, lifetime="task")
            assert await ctx.xcom.pull_own("seen") == seen
            assert await ctx.xcom.pull_own("last") == item
            if ctx.attempt < 4 and item == 5 * ctx.attempt:
                raise ValueError("boom")
        return seen

    @dag.task(depends_on=use)
    async def after(ctx: TaskContext) -> list[Any]:
        return [await ctx.xcom.pull(use, "seen"), await ctx.xcom.pull(use, "last")]

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == list(range(20))
        assert await result.pull(after) == [list(range(20)), 19]
    assert before == [[], list(range(5)), list(range(10)), list(range(15))]


async def test_success_acknowledges_the_item_in_hand(open_store: Callable[[], Store]) -> None:
    """A loop that is left early leaves what was written for its last item to the attempt's success."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(5):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[load], retries=AT_ONCE)
    async def use(ctx: TaskContext) -> None:
        async for item in ctx.xcom.stream(load, "rows", resume=True):
            await ctx.xcom.push("last", item, lifetime="task")
            await ctx.xcom.push("gone", item, lifetime="task")
            assert await ctx.xcom.delete("gone") == 1
            if item == 2:
                break
        if ctx.attempt == 1:
            raise ValueError("boom")

    @dag.task(depends_on=use)
    async def after(ctx: TaskContext) -> list[Any]:
        return [await ctx.xcom.pull(use, "last"), await ctx.xcom.pull(use, "gone", default=None)]

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(after) == [2, None]


async def test_writes_for_one_item_are_bounded() -> None:
    """They are held in memory until it is acknowledged."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 1)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> None:
        async for _ in ctx.xcom.stream(load, "rows"):
            await ctx.xcom.push("a", "x" * 60, lifetime="task")
            await ctx.xcom.push("b", "x" * 60, lifetime="task")

    async with Runtime(MemoryStore(), limits=Limits(max_stream_window_bytes=100)) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag)

    assert isinstance(causes(failed)["use"], XComTooLargeError)


# --------------------------------------------------------------------------------------------------- producers retry


async def test_without_numbers_a_retry_begins_the_stream_anew(open_store: Callable[[], Store], durability: Durability) -> None:
    """Readers begin again as well, which uses up none of their retries: they have none."""
    dag, got, seen = DAG("d"), anyio.Event(), list[tuple[int, str]]()

    @dag.task(retries=AT_ONCE)
    async def load(ctx: TaskContext) -> None:
        for number in range(3):
            await ctx.xcom.append("rows", f"{number} of {ctx.attempt}")
        if ctx.attempt < 3:
            await got.wait()
            raise ValueError("boom")

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> list[str]:
        items: list[str] = []
        async for item in ctx.xcom.stream(load, "rows"):
            seen.append((ctx.attempt, item))
            items.append(item)
            if len(items) == 3:
                got.set()
        return items

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == [f"{number} of 3" for number in range(3)]
        found = {each.task_id: each for each in await runtime.task_instances(result.run_id)}
        assert found["load"].attempt == 3
    assert [item for attempt, item in seen if attempt == 1] == [f"{number} of 1" for number in range(3)]


async def test_a_reader_is_restarted_in_the_midst_of_an_item(open_store: Callable[[], Store]) -> None:
    """Wherever its handler waits; what it has pushed is gone with its attempt."""
    dag, got, seen = DAG("d"), anyio.Event(), list[object]()

    @dag.task(retries=AT_ONCE)
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", ctx.attempt)
        if ctx.attempt == 1:
            await got.wait()
            raise ValueError("boom")

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> int:
        seen.append(await ctx.xcom.pull_own("seen", default=None))
        async for item in ctx.xcom.stream(load, "rows"):
            await ctx.xcom.push("seen", item, lifetime="task")
            if item == 1:
                got.set()
                await anyio.sleep_forever()
            return int(item)
        raise AssertionError("there is an item")

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == 2
        assert await result.pull(use) == (await attempts_of(runtime, result.run_id))["use"]
    assert seen == [None, None]


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_reader_that_waits_for_its_retry_still_counts(leaves: bool) -> None:
    """The producer does not run away from it meanwhile, whether or not its attempt had left the loop when it failed."""
    dag, appended = DAG("d"), [0]

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(30):
            await ctx.xcom.append("rows", number)
            appended[0] = number + 1

    @dag.task(after_start=[load], retries=RetryPolicy(2, delay_s=0.3, jitter=0))
    async def use(ctx: TaskContext) -> list[int]:
        items: list[int] = []
        async with ctx.xcom.stream(load, "rows", resume=True) as stream:
            async for item in stream:
                items.append(item)
                if ctx.attempt == 1 and item == 5:
                    if leaves:
                        break
                    raise ValueError("boom")
        if ctx.attempt == 1:
            raise ValueError("boom")
        return items

    async with Runtime(MemoryStore(), limits=Limits(max_stream_window_items=4)) as runtime:
        handle = await runtime.start(dag)
        await anyio.wait_all_tasks_blocked()
        assert 6 <= appended[0] <= 10
        result = await handle.result()

        assert await result.pull(use) == list(range(5, 30))


async def test_a_stream_that_the_successful_attempt_did_not_append_to_is_empty(open_store: Callable[[], Store]) -> None:
    """Without numbers what a failed attempt has appended is none of it, whoever reads and whenever."""
    dag, got = DAG("d"), anyio.Event()

    @dag.task(retries=AT_ONCE)
    async def load(ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            await ctx.xcom.append("rows", 1)
            await got.wait()
            raise ValueError("boom")

    @dag.task(after_start=[load])
    async def beside(ctx: TaskContext) -> list[int]:
        items: list[int] = []
        async for item in ctx.xcom.stream(load, "rows"):
            items.append(item)
            got.set()
        return items

    @dag.task(depends_on=load)
    async def below(ctx: TaskContext) -> list[int]:
        return await collect(ctx)

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(beside) == []
        assert await result.pull(below) == []
        assert (await attempts_of(runtime, result.run_id))["beside"] == 2


async def test_with_numbers_a_retry_goes_on_in_the_same_stream(open_store: Callable[[], Store], durability: Durability) -> None:
    """What is there is left as it is; readers notice nothing."""
    dag, got = DAG("d"), anyio.Event()

    @dag.task(retries=AT_ONCE)
    async def load(ctx: TaskContext) -> None:
        for number in range(10 if ctx.attempt == 1 else 20):
            await ctx.xcom.append("rows", {"n": number}, seq=2 * number)
        if ctx.attempt == 1:
            await got.wait()
            raise ValueError("boom")

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> list[int]:
        items: list[int] = []
        async for item in ctx.xcom.stream(load, "rows"):
            items.append(item["n"])
            if len(items) == 10:
                got.set()
        return items

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == list(range(20))
        assert await attempts_of(runtime, result.run_id) == {"load": 2, "use": 1}


async def test_a_number_names_one_item(open_store: Callable[[], Store]) -> None:
    """Other bytes under it, one that was passed over, and no number at all are refused; the same bytes are not."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        append = ctx.xcom.append
        for number in (0, 1, 5):
            await append("rows", number, seq=number)
        await append("rows", 1, seq=1)
        await append("rows", 5, seq=5)
        for number, item in ((1, 2), (5, 6), (3, 3)):
            with pytest.raises(XComConflictError) as refused:
                await append("rows", item, seq=number)
            assert refused.value.seq == number
        with pytest.raises(XComStreamError, match="or with none"):
            await append("rows", 7)
        wrong: list[Any] = [-1, 2**62, True, "1"]
        for bad in wrong:
            with pytest.raises(XComStreamError, match="seq must be an int"):
                await append("rows", 7, seq=bad)
        await append("unnumbered", 1)
        with pytest.raises(XComStreamError, match="or with none"):
            await append("unnumbered", 1, seq=0)

    @dag.task(depends_on=load)
    async def use(ctx: TaskContext) -> list[int]:
        return await collect(ctx)

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == [0, 1, 5]


# ------------------------------------------------------------------------------------------------------------- ends


async def test_the_failure_of_a_producer_reaches_its_readers(open_store: Callable[[], Store], durability: Durability) -> None:
    """After all that it has appended, by an error that names it and its state."""
    dag, seen = DAG("d"), list[int]()

    @dag.task(retries=RetryPolicy(2, delay_s=0))
    async def load(ctx: TaskContext) -> None:
        for number in range(3):
            await ctx.xcom.append("rows", number + 10 * ctx.attempt)
        raise ValueError("boom")

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> None:
        seen.clear()
        async for item in ctx.xcom.stream(load, "rows"):
            seen.append(item)

    async with Runtime(open_store(), durability=durability) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag)

    error = causes(failed)["use"]
    assert isinstance(error, XComStreamError)
    assert (error.task_id, error.producer_id, error.key, error.state) == ("use", "load", "rows", "failed")
    assert seen == [20, 21, 22]


async def test_only_tasks_that_follow_may_read() -> None:
    """By `after_start`, downstream of it, or downstream of one that does; others would race."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 1)

    @dag.task
    async def stranger(ctx: TaskContext) -> None:
        with pytest.raises(NotUpstreamError, match="after_start='load'"):
            ctx.xcom.stream(load, "rows")
        with pytest.raises(NotUpstreamError, match="did you mean 'load'"):
            ctx.xcom.stream("lod", "rows")
        with pytest.raises(NotUpstreamError):
            ctx.xcom.stream(stranger, "rows")

    async with Runtime(MemoryStore()) as runtime:
        await runtime.run(dag)


async def test_elements_have_no_streams() -> None:
    """Nobody could name one of them."""
    dag = DAG("d")

    @dag.task
    async def numbers() -> list[int]:
        return [1, 2]

    @dag.task
    async def load(ctx: TaskContext, number: int = numbers.each) -> None:
        with pytest.raises(XComStreamError, match="elements have no streams"):
            await ctx.xcom.append("rows", number)

    @dag.task(depends_on=load)
    async def use(ctx: TaskContext) -> None:
        with pytest.raises(XComStreamError, match="elements have no streams"):
            ctx.xcom.stream(load, "rows")

    async with Runtime(MemoryStore()) as runtime:
        await runtime.run(dag)


async def test_elements_read_each_for_itself(open_store: Callable[[], Store]) -> None:
    """A mapped reader: each element has its position, and all together are slower than the window."""
    dag = DAG("d")

    @dag.task
    async def numbers() -> list[int]:
        return [1, 2, 3]

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(30):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext, factor: int = numbers.each) -> int:
        return factor * int(sum(await collect(ctx)))

    async with Runtime(open_store(), limits=Limits(max_stream_window_items=4), max_concurrency=1) as runtime:
        result = await runtime.run(dag)

        assert result.outputs(use) == [435, 870, 1305]


async def test_items_are_refused_as_values_are() -> None:
    """Exactness, size, keys, and the run's budget, which streams share."""
    dag = DAG("d")

    @dag.task(auto_push=False)
    async def load(ctx: TaskContext) -> None:
        with pytest.raises(XComSerializationError):
            await ctx.xcom.append("rows", float("nan"))
        with pytest.raises(XComTooLargeError):
            await ctx.xcom.append("rows", "x" * 100)
        with pytest.raises(ValueError, match="key"):
            await ctx.xcom.append("", 1)
        with pytest.raises(XComTooLargeError, match="max_run_xcom_bytes"):
            await append_many(ctx)

    async with Runtime(MemoryStore(), limits=Limits(max_xcom_bytes=80, max_run_xcom_bytes=5_000)) as runtime:
        await runtime.run(dag)
        (run,) = await runtime.runs()
        await runtime.delete_run(run.run_id)


async def test_streams_kept_beyond_their_attempt_are_dead(open_store: Callable[[], Store]) -> None:
    """Neither does it append nor read any more; nothing is stored."""
    dag, kept = DAG("d"), list[Any]()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 1)
        kept.append(ctx)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> None:
        stream, unread = ctx.xcom.stream(load, "rows"), ctx.xcom.stream(load, "rows")
        assert await anext(stream) == 1
        kept.extend([stream, unread])

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag)
        ctx, stream, unread = kept
        with pytest.raises(StaleAttemptError):
            await ctx.xcom.append("rows", 2)
        with pytest.raises(StaleAttemptError):
            ctx.xcom.stream("load", "rows")
        for dead in (stream, unread):
            with pytest.raises((StaleAttemptError, StopAsyncIteration)):
                await anext(dead)


WINDOW = Limits(max_stream_window_items=4)


def two_streams(dag: DAG, appended: dict[str, int], *, count: int = 40, **options: Any) -> None:
    """Add a producer that appends `count` items to stream a, and then as many to stream b."""

    @dag.task(**options)
    async def load(ctx: TaskContext) -> str:
        for key in ("a", "b"):
            for number in range(count):
                await ctx.xcom.append(key, number)
                appended[key] = number + 1
        return "done"


@pytest.mark.parametrize("keys", ["ab", "ba"])
async def test_one_reader_reads_two_streams_one_after_the_other(
    open_store: Callable[[], Store], durability: Durability, keys: str
) -> None:
    """In whichever order: a producer that waits for it to come to the other stream goes on beyond its window."""
    dag = DAG("d")
    two_streams(dag, {})

    @dag.task(after_start=["load"])
    async def use(ctx: TaskContext) -> list[int]:
        return [len(await collect(ctx, key=key)) for key in keys]

    async with Runtime(open_store(), durability=durability, limits=WINDOW) as runtime:
        assert (await runtime.run(dag))["use"] == [40, 40]


async def test_streams_with_a_reader_each_are_no_circle(open_store: Callable[[], Store]) -> None:
    """Who follows a task need not read all its streams; the window is that of those who do."""
    dag, appended, ahead = DAG("d"), {"a": 0, "b": 0}, list[int]()
    two_streams(dag, appended, count=12)

    @dag.task(after_start=["load"])
    async def first(ctx: TaskContext) -> int:
        return len(await collect(ctx, key="a"))

    @dag.task(after_start=["load"])
    async def second(ctx: TaskContext) -> int:
        count = 0
        async for _ in ctx.xcom.stream("load", "b"):
            await anyio.wait_all_tasks_blocked()
            ahead.append(appended["b"] - count)
            count += 1
        return count

    async with Runtime(open_store(), limits=WINDOW) as runtime:
        result = await runtime.run(dag)

    assert (result["first"], result["second"]) == (12, 12)
    assert 1 < max(ahead) <= 4


async def the_end(ctx: TaskContext, task: str = "load", timeout_s: float | None = None) -> str:
    """Wait for what a task returns."""
    found: str = await ctx.xcom.wait(task, timeout_s=timeout_s)
    return found


async def waits(ctx: TaskContext) -> str:
    """Read nothing."""
    return await the_end(ctx)


async def waits_a_while(ctx: TaskContext) -> str:
    """Read nothing, and give up some time."""
    return await the_end(ctx, timeout_s=15)


async def waits_beside(ctx: TaskContext) -> str:
    """Wait in a task of the handler's own."""
    async with anyio.create_task_group() as task_group:  # noqa: ASYNC112 - in a task of its own is what is meant
        task_group.start_soon(the_end, ctx)
    return await the_end(ctx)


async def waits_for_another(ctx: TaskContext) -> str:
    """Wait for one that waits."""
    return await the_end(ctx, "other")


async def reads_and_waits(ctx: TaskContext) -> str:
    """Have an item in hand meanwhile."""
    async with ctx.xcom.stream("load", "b") as items:
        assert [await anext(items), await anext(items)] == [0, 1]
        found = await the_end(ctx)
        assert [item async for item in items] == list(range(2, 40))
        return found


async def comes_later(ctx: TaskContext) -> str:
    """Start after one that waits for the end, and read all then."""
    assert await collect(ctx, key="b") == list(range(40))
    return "done"


FOLLOWERS = [waits, waits_a_while, waits_beside, waits_for_another, reads_and_waits, comes_later]


@pytest.mark.parametrize("timeout_s", [None, 15], ids=["patient", "limited"])
@pytest.mark.parametrize("follower", FOLLOWERS, ids=[each.__name__ for each in FOLLOWERS])
async def test_a_follower_that_waits_for_the_end_holds_nobody(
    follower: Callable[[TaskContext], Any], timeout_s: float | None
) -> None:
    """At once, though something else runs that may go on for long, and whether or not the producer's time is limited."""
    dag, go = DAG("d"), anyio.Event()
    two_streams(dag, {}, timeout_s=timeout_s)

    @dag.task
    async def beside() -> None:
        await go.wait()

    @dag.task(after_start=["load"])
    async def other(ctx: TaskContext) -> str:
        return await the_end(ctx)

    dag.add(follower, id="follow", after_start=["load"], depends_on=["other"] if follower is comes_later else [])

    @dag.task(depends_on=["follow"])
    async def last() -> None:
        go.set()

    async with Runtime(MemoryStore(), limits=WINDOW) as runtime:
        with anyio.fail_after(10):
            result = await runtime.run(dag)

        assert await result.pull("follow") == "done"


async def test_elements_that_wait_for_the_end_hold_nobody() -> None:
    """Before any of them has read, and after one has."""
    dag = DAG("d")
    two_streams(dag, {})

    @dag.task
    async def numbers() -> list[int]:
        return [1, 2, 3]

    @dag.task(after_start=["load"])
    async def use(ctx: TaskContext, number: int = numbers.each) -> int:
        count = 0
        if number == 2:
            async with ctx.xcom.stream("load", "a") as items:
                assert await anext(items) == 0
                await the_end(ctx)
        await the_end(ctx)
        async for _ in ctx.xcom.stream("load", "b"):
            count += 1
        return number * count

    async with Runtime(MemoryStore(), limits=WINDOW) as runtime:
        with anyio.fail_after(10):
            assert (await runtime.run(dag)).outputs(use) == [40, 80, 120]


async def test_an_element_that_is_busy_is_waited_for_though_another_rests() -> None:
    """It holds its place in the window for itself."""
    dag, appended, ahead = DAG("d"), [0], list[int]()

    @dag.task
    async def speeds() -> list[bool]:
        return [True, False]

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(40):
            await ctx.xcom.append("rows", number)
            appended[0] = number + 1

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext, is_fast: bool = speeds.each) -> int:
        count = 0
        async for _ in ctx.xcom.stream(load, "rows"):
            if not is_fast:
                await anyio.wait_all_tasks_blocked()
                ahead.append(appended[0] - count)
            count += 1
        return count

    async with Runtime(MemoryStore(), limits=WINDOW) as runtime:
        assert (await runtime.run(dag)).outputs(use) == [40, 40]

    assert max(ahead[8:]) <= 4


async def test_a_producer_may_append_from_tasks_of_its_own() -> None:
    """One that waits for room in one stream is let go, though another goes on."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        async def append(key: str) -> None:
            for number in range(40):
                await ctx.xcom.append(key, number)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(append, "a")
            task_group.start_soon(append, "b")

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> list[int]:
        return [len(await collect(ctx, key=key)) for key in "ba"]

    async with Runtime(MemoryStore(), limits=WINDOW) as runtime:
        with anyio.fail_after(10):
            assert (await runtime.run(dag))["use"] == [40, 40]


@pytest.mark.parametrize("has_come", [False, True])
async def test_a_producer_that_was_let_go_keeps_to_the_window_again_once_its_reader_reads(has_come: bool) -> None:
    """From then on it is as slow as that, whether it had come before or comes now."""
    dag, appended, ahead = DAG("d"), {"a": 0, "b": 0}, list[int]()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(10):
            await ctx.xcom.append("rows", number)
            appended["a"] = number + 1
        await ctx.xcom.push("half", 1, publish=True)
        for number in range(10, 40):
            await ctx.xcom.append("rows", number)
            appended["a"] = number + 1

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> int:
        count = 0
        if not has_come:
            await ctx.xcom.wait(load, "half")
        async for _ in ctx.xcom.stream(load, "rows"):
            if has_come and count == 0:
                await ctx.xcom.wait(load, "half")
            else:
                await anyio.wait_all_tasks_blocked()
            ahead.append(appended["a"] - count)
            count += 1
        return count

    async with Runtime(MemoryStore(), limits=WINDOW) as runtime:
        assert (await runtime.run(dag))["use"] == 40

    assert ahead[0] >= 10
    assert max(ahead[20:]) <= 4


async def test_a_real_circle_beside_a_stream_is_told_and_nobody_else_fails() -> None:
    """The producer waits for a reader that can't come before the circle is broken, and is no part of it."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(10):
            await ctx.xcom.append("rows", number)

    @dag.task
    async def this(ctx: TaskContext) -> None:
        await ctx.xcom.wait("that", "k")

    @dag.task
    async def that(ctx: TaskContext) -> None:
        await ctx.xcom.wait("this", "k")

    @dag.task(after_start=[load], depends_on=[this, that], trigger_rule="all_done")
    async def use(ctx: TaskContext) -> int:
        return len(await collect(ctx))

    async with Runtime(MemoryStore(), limits=WINDOW) as runtime:
        with anyio.fail_after(10), pytest.raises(RunFailedError) as failed:
            await runtime.run(dag)

        told = causes(failed)
        assert set(told) == {"this", "that"}
        assert all(isinstance(error, XComWaitError) for error in told.values())
        assert failed.value.result is not None
        assert await failed.value.result.pull(use) == 10


# ------------------------------------------------------------------------------------------------- lineage, mistakes


async def test_lineage_has_one_read_for_each_stream_that_was_read() -> None:
    """With the attempt that appended; numbered items are kept over attempts; of an empty stream nothing was read."""
    dag = DAG("d")

    @dag.task(retries=AT_ONCE)
    async def load(ctx: TaskContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("boom")
        for number in range(3):
            await ctx.xcom.append("plain", number)
            await ctx.xcom.append("numbered", number, seq=number)
        return 1

    @dag.task(depends_on=[load])
    async def use(ctx: TaskContext, value: int = load.output) -> int:
        found = [await collect(ctx, key=key) for key in ("plain", "numbered", "none", "plain")]
        return value + sum(map(len, found))

    async with Runtime(MemoryStore()) as runtime:
        assert (await runtime.run(dag, run_id="r"))[use] == 10
        (told,) = await runtime.lineage("r")

    assert told.task_id == "use"
    assert told.reads == (
        EntryRead(run_id="r", task_id="load", key="return_value", attempt=2),
        EntryRead(run_id="r", task_id="load", key="plain", attempt=2, is_stream=True),
        EntryRead(run_id="r", task_id="load", key="numbered", attempt=-1, is_stream=True),
    )


async def test_a_key_that_looks_misspelt_is_an_empty_stream_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Not one under which there is no item and none much like it, nor one that has items."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 1)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> list[int]:
        return [len(await collect(ctx, key=key)) for key in ("rows", "row", "errors")]

    async with Runtime(MemoryStore()) as runtime:
        assert (await runtime.run(dag))[use] == [1, 0, 0]

    (record,) = (each for each in caplog.records if each.message == "stream.never_appended")
    assert {name: vars(record)[name] for name in ("task_id", "producer", "key", "near")} == {
        "task_id": "use",
        "producer": "load",
        "key": "row",
        "near": ["rows"],
    }


# -------------------------------------------------------------------------------------------- cancelled, interrupted


async def test_a_stream_goes_on_after_an_interruption(tmp_path: Path, durability: Durability) -> None:
    """Of a numbered stream nothing is lost, and nothing that was acknowledged with its writes comes again."""
    stop = [anyio.Event()]

    def make_dag(stop_at: int) -> DAG:
        dag = DAG("d")

        @dag.task
        async def load(ctx: TaskContext) -> None:
            for number in range(100):
                await ctx.xcom.append("rows", number, seq=number)

        @dag.task(after_start=[load])
        async def use(ctx: TaskContext) -> list[int]:
            seen: list[int] = await ctx.xcom.pull_own("seen", default=[])
            async for item in ctx.xcom.stream("load", "rows", resume=True):
                seen.append(item)
                await ctx.xcom.push("seen", seen, lifetime="task")
                if item == stop_at:
                    stop[0].set()
                    await anyio.sleep_forever()
            return seen

        return dag

    for stop_at in (7, 30, 60, 1_000):
        stop[0] = anyio.Event()
        limits = Limits(max_stream_window_items=20)
        async with Runtime(tmp_path / "runs.db", durability=durability, limits=limits, on_exit="interrupt") as runtime:
            handle = await runtime.start(make_dag(stop_at), run_id="r")
            if stop_at == 1_000:
                result = await handle.result()
                assert await result.pull("use") == list(range(100))
            else:
                await stop[0].wait()


async def test_without_numbers_an_interrupted_stream_begins_anew(tmp_path: Path) -> None:
    """Both sides start again, and the reader sees one stream from its beginning, `resume` or not."""
    reached = anyio.Event()

    def make_dag(*, stops: bool) -> DAG:
        dag = DAG("d")

        @dag.task
        async def load(ctx: TaskContext) -> None:
            for number in range(20):
                await ctx.xcom.append("rows", number)

        @dag.task(after_start=[load])
        async def use(ctx: TaskContext) -> list[int]:
            items: list[int] = []
            async for item in ctx.xcom.stream("load", "rows", resume=True):
                items.append(item)
                if stops and item == 9:
                    reached.set()
                    await anyio.sleep_forever()
            return items

        return dag

    limits = Limits(max_stream_window_items=4)
    async with Runtime(tmp_path / "runs.db", limits=limits, on_exit="interrupt") as runtime:
        await runtime.start(make_dag(stops=True), run_id="r")
        await reached.wait()
    async with Runtime(tmp_path / "runs.db", limits=limits) as runtime:
        result = await runtime.run(make_dag(stops=False), run_id="r")
        assert await result.pull("use") == list(range(20))


async def append_many(ctx: TaskContext) -> None:
    """Append more than a small budget allows."""
    for _ in range(1_000):
        await ctx.xcom.append("rows", "x" * 50)


@pytest.mark.parametrize("waits", ["reader", "producer"])
async def test_a_cancelled_run_ends_those_who_wait(open_store: Callable[[], Store], waits: str) -> None:
    """Wherever they wait, cancelled and timed out attempts leave nothing behind that would hold others up."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 0)
        if waits == "reader":
            await anyio.sleep_forever()
        for number in range(10):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> None:
        async for _ in ctx.xcom.stream(load, "rows"):
            if waits == "producer":
                await anyio.sleep_forever()

    async with Runtime(open_store(), limits=Limits(max_stream_window_items=2)) as runtime:
        handle = await runtime.start(dag)
        await anyio.wait_all_tasks_blocked()
        await handle.cancel()
        assert (await runtime.get_run(handle.run_id)).state is RunState.CANCELLED


async def test_a_cancelled_run_ends_though_all_that_is_left_of_it_waits(durability: Durability) -> None:
    """Two readers rest when the end of their producer is told: they are on their way to theirs."""
    dag = DAG("d")

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 0)
        await anyio.sleep_forever()

    async def use(ctx: TaskContext) -> None:
        await collect(ctx)

    for number in range(3):
        dag.add(use, id=f"use{number}", after_start=[load])

    async with Runtime(MemoryStore(), durability=durability) as runtime:
        handle = await runtime.start(dag)
        await anyio.wait_all_tasks_blocked()
        await handle.cancel()
        assert (await runtime.get_run(handle.run_id)).state is RunState.CANCELLED


@pytest.mark.parametrize("how", ["cancel", "wind down"])
async def test_those_at_rest_are_asked_to_stop_once(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on their way to their ends then; asking until they rest no more would ask for ever, within one step."""
    dag, asked, interrupt = DAG("d"), [0], Scheduler.interrupt

    def counted(scheduler: Scheduler, error: BaseException | None = None) -> None:
        asked[0] += 1
        assert asked[0] < 10, "it asks for ever"
        interrupt(scheduler, error)

    monkeypatch.setattr(Scheduler, "interrupt", counted)
    dag.external("answer")

    @dag.task
    async def use(ctx: TaskContext) -> None:
        await ctx.xcom.wait("answer")

    async with Runtime(MemoryStore()) as runtime:
        handle = await runtime.start(dag)
        await anyio.wait_all_tasks_blocked()
        if how == "cancel":
            await handle.cancel()
        else:
            runtime.wind_down()
            with pytest.raises(RunInterruptedError):
                await handle.result()

    assert asked[0] == int(how == "wind down")


async def test_a_reader_cancelled_in_its_wait_can_ask_again() -> None:
    """A time limit of its own around an ask loses no item."""
    dag, go = DAG("d"), anyio.Event()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 0)
        await go.wait()
        await ctx.xcom.append("rows", 1)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> list[int]:
        stream = ctx.xcom.stream(load, "rows")
        items = [await anext(stream)]
        for _ in range(3):
            with anyio.move_on_after(0.001):
                items.append(await anext(stream))
        go.set()
        return items + [item async for item in stream]

    async with Runtime(MemoryStore()) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == [0, 1]


async def test_a_producer_cancelled_in_its_wait_has_appended_nothing() -> None:
    """The item that waited for room is not there, and can be appended again."""
    dag, go = DAG("d"), anyio.Event()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(4):
            await ctx.xcom.append("rows", number)
        for _ in range(3):
            with anyio.move_on_after(0.001):
                await ctx.xcom.append("rows", 4)
                raise AssertionError("there was no room")
        go.set()
        await ctx.xcom.append("rows", 4)

    @dag.task
    async def gate() -> None:
        await go.wait()

    @dag.task(after_start=[load], depends_on=gate)
    async def use(ctx: TaskContext) -> list[int]:
        return await collect(ctx)

    async with Runtime(MemoryStore(), limits=Limits(max_stream_window_items=4)) as runtime:
        result = await runtime.run(dag)

        assert await result.pull(use) == [0, 1, 2, 3, 4]
