"""Streams of which a batch fails, or whose process dies, anywhere: what was acknowledged stands, and the rest comes again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import DAG, Durability, Limits, MemoryStore, RunInterruptedError, Runtime, StoreError, StoreFullError, TaskContext
from dagrelay.model.records import InstanceKey
from dagrelay.stores.operations import TASK_LIFETIME, AckItems, AppendItems, FinishAttempt
from dagrelay.stores.stream_records import StreamQuery
from dagrelay.testing.faulty import FaultyStore

if TYPE_CHECKING:
    from dagrelay.testing.faulty import When

ITEMS = 24
LIMITS = Limits(max_stream_window_items=6, max_interruptions=1_000)


def make_dag() -> DAG:
    """Return a numbered stream with a reader that resumes, and one without numbers with a reader that begins again."""
    dag = DAG("d")

    @dag.task
    async def numbered(ctx: TaskContext) -> None:
        for number in range(ITEMS):
            await ctx.xcom.append("rows", number, seq=number)

    @dag.task
    async def unnumbered(ctx: TaskContext) -> None:
        for number in range(ITEMS):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[numbered])
    async def writing(ctx: TaskContext) -> int:
        count: int = await ctx.xcom.pull_own("count", default=0)
        async for item in ctx.xcom.stream(numbered, "rows", resume=True):
            assert item == count, "lost, or acknowledged twice"
            count += 1
            await ctx.xcom.push("count", count, lifetime="task")
        return count

    @dag.task(after_start=[unnumbered])
    async def reading(ctx: TaskContext) -> list[int]:
        return [item async for item in ctx.xcom.stream(unnumbered, "rows")]

    return dag


async def go_on(inner: MemoryStore, durability: Durability) -> None:
    """Take the run to its end, and check what it came to."""
    async with Runtime(inner, durability=durability, limits=LIMITS) as runtime:
        result = await runtime.run(make_dag(), run_id="r")
        assert await result.pull("writing") == ITEMS
        assert await result.pull("reading") == list(range(ITEMS))


async def position(inner: MemoryStore) -> tuple[int, int]:
    """Return how far the reader has acknowledged, and what it has written with that."""
    reader = InstanceKey("r", "writing", None)
    await inner.open(now_us=0)
    page = await inner.stream(StreamQuery(producer=InstanceKey("r", "numbered", None), key="rows", consumer=reader))
    rows = await inner.entries("r", task_ids=["writing"], all_attempts=True, with_values=True)
    await inner.close()
    counts = [int(found.value) for entry, found in rows if found is not None and entry.key == "count"]
    return 0 if page.position is None else page.position.next_seq, counts[0] if counts else 0


@pytest.mark.parametrize("how", ["fails", "dies before", "dies after"])
async def test_whichever_batch_meets_a_fault_the_run_goes_on_where_it_was(how: str, durability: Durability) -> None:
    """At each batch in turn."""
    met = 0
    for at in range(1, 400, 7):
        inner = MemoryStore()
        store = FaultyStore(inner)
        if how == "fails":
            fault = store.fail(StoreFullError("full"), at=at)
        else:
            when: When = "before" if how == "dies before" else "after"
            fault = store.kill(at=at, when=when)
        try:
            async with Runtime(store, durability=durability, limits=LIMITS) as runtime:
                await runtime.run(make_dag(), run_id="r")
        except (StoreError, RunInterruptedError):
            met += 1
        acked, written = await position(inner)
        assert acked == written
        await go_on(inner, durability)
        if not fault.fired:
            break
    assert met > 3


async def test_a_batch_holds_the_items_of_a_moment_and_each_acknowledgement_its_writes() -> None:
    """Items go before the success that follows them; an acknowledgement and what was written for it are one operation."""
    store = FaultyStore(MemoryStore())
    async with Runtime(store, limits=LIMITS) as runtime:
        await runtime.run(make_dag(), run_id="r")
    operations = [op for batch in store.batches for op in batch]
    appends = [op for op in operations if isinstance(op, AppendItems) and op.instance.task_id == "numbered"]
    assert sum(op.count for op in appends) == ITEMS
    (end,) = [op for op in operations if isinstance(op, FinishAttempt) and op.instance.task_id == "numbered"]
    assert operations.index(end) > operations.index(appends[-1])
    acks = [op for op in operations if isinstance(op, AckItems) and op.instance.task_id == "writing"]
    assert [(op.next_seq, [entry.value for entry in op.entries]) for op in acks] == [
        (number, [str(number).encode()]) for number in range(1, ITEMS + 1)
    ]


async def test_a_cancelled_wait_for_an_acknowledgement_leaves_it_whole() -> None:
    """It is stored with its writes, though the reader was not there to see it; the next item is not lost."""
    store, dag, waits = FaultyStore(MemoryStore()), DAG("d"), anyio.Event()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        for number in range(3):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> list[int]:
        stream = ctx.xcom.stream(load, "rows")
        items = [await anext(stream)]
        await ctx.xcom.push("last", 0, lifetime="task")
        store.writes.shut()
        with anyio.move_on_after(0.01):
            items.append(await anext(stream))
        assert len(items) == 1
        waits.set()
        return items + [item async for item in stream]

    async with Runtime(store) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await waits.wait()
        store.writes.open()
        result = await handle.result()
        assert await result.pull("use") == [0, 1, 2]
        assert await runtime.xcom.pull("r", "use", "last") == 0
    acks = [op for batch in store.batches for op in batch if isinstance(op, AckItems) and op.entries]
    assert [(op.next_seq, len(op.entries)) for op in acks] == [(1, 1)]


async def test_what_a_failed_attempt_wrote_for_the_item_in_hand_is_not_stored() -> None:
    """Nor is it seen by the next one, which is handed the item again."""
    store, dag, seen = FaultyStore(MemoryStore()), DAG("d"), list[tuple[int, object]]()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 7)

    @dag.task(after_start=[load], retries=1)
    async def use(ctx: TaskContext) -> None:
        seen.append((ctx.attempt, await ctx.xcom.pull_own("last", default=None)))
        async for item in ctx.xcom.stream(load, "rows", resume=True):
            seen.append((ctx.attempt, item))
            await ctx.xcom.push("last", item, lifetime="task")
            if ctx.attempt == 1:
                raise ValueError("boom")

    async with Runtime(store) as runtime:
        await runtime.run(dag)

    assert seen == [(1, None), (1, 7), (2, None), (2, 7)]
    written = [entry.key for batch in store.batches for op in batch if isinstance(op, AckItems) for entry in op.entries]
    assert written == ["last"]
    assert TASK_LIFETIME == -1


async def test_writes_for_an_item_are_forgotten_with_a_refused_acknowledgement() -> None:
    """The store fails while the last item is in hand; whoever goes on with the run does not find what was to go with it."""
    store, dag, seen = FaultyStore(MemoryStore()), DAG("d"), list[tuple[object, object]]()

    @dag.task
    async def load(ctx: TaskContext) -> None:
        await ctx.xcom.append("rows", 7)

    @dag.task(after_start=[load])
    async def use(ctx: TaskContext) -> None:
        before = await ctx.xcom.pull_own("last", default=None)
        async for item in ctx.xcom.stream(load, "rows", resume=True):
            seen.append((before, item))
            await ctx.xcom.push("last", item, lifetime="task")
            if len(seen) == 1:
                store.fail(StoreFullError("full"), for_ever=True)
                with pytest.raises(StoreError):
                    await ctx.xcom.push("other", 1)

    async with Runtime(store) as runtime:
        with pytest.raises((StoreError, RunInterruptedError)):
            await runtime.run(dag, run_id="r")
        store.heal()
        result = await runtime.run(dag, run_id="r")
        assert await runtime.xcom.pull("r", "use", "last") == 7
        assert result.state == "success"

    assert seen == [(None, 7), (None, 7)]


async def test_readers_and_producers_of_a_store_that_fails_are_not_blamed() -> None:
    """Whoever waits is told, and the run can go on."""
    for kind in (AppendItems, AckItems):
        store = FaultyStore(MemoryStore())
        gate = store.hold(at=1, for_ever=True)
        async with Runtime(store, limits=LIMITS) as runtime:
            gate.open()
            handle = await runtime.start(make_dag(), run_id="r")
            while not any(isinstance(op, kind) for batch in store.batches for op in batch):
                await anyio.lowlevel.checkpoint()
            store.fail(StoreFullError("full"), for_ever=True)
            with pytest.raises((StoreError, RunInterruptedError)):
                await handle.result()
            store.heal()
            result = await runtime.run(make_dag(), run_id="r")
            assert await result.pull("writing") == ITEMS
