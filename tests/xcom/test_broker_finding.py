"""Values are found in memory, and what is not there by one read; never older than the store, never another's damage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.errors import RuntimeClosedError, StoreCorruptError, StoreError
from dagrelay.model.policies import Limits
from dagrelay.model.records import InstanceKey
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import DeleteEntries
from dagrelay.testing.faulty import FaultyStore
from dagrelay.xcom.reading import Reader
from tests.xcom.desk import at_work

if TYPE_CHECKING:
    from dagrelay.stores.base import Store, StoredEntry


async def test_an_accepted_value_is_found_before_its_commit(memory: Store) -> None:
    """Without a message or a read; and after it too."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        desk.store.writes.shut()
        run.finish(values={"k": b"1"})
        (found,) = await run.broker.find([Lookup(instance=run.key(), key="k", slots=(1, -1, 0))])
        assert found is not None
        assert found.value == b"1"
        assert await run.find() == b"1"
        desk.store.writes.open()
        await desk.broker.barrier()
        assert await run.find() == b"1"
        assert desk.store.lookups == []


async def test_what_misses_is_one_read(store: Store) -> None:
    """However many values of one attempt, or of many at the same moment; and is kept for next time."""
    async with at_work(store) as desk:
        run = await desk.enter()
        run.finish("a", values={f"k{number}": b"%d" % number for number in range(3)})
        await run.end()
    async with at_work(store) as desk:
        before = store.statistics().reads
        wanted = [Lookup(instance=InstanceKey("run", "a", None), key=f"k{number}", slots=(1, -1, 0)) for number in range(4)]
        found = await desk.broker.find(wanted)
        assert [value and value.value for value in found] == [b"0", b"1", b"2", None]
        assert store.statistics().reads == before + 1
        assert await desk.broker.find(wanted[:3]) == found[:3]
        assert store.statistics().reads == before + 1


async def test_reads_of_one_moment_gather(memory: Store) -> None:
    """While one is under way, the next batch gathers; each asker gets its own answers."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        for number in range(10):
            run.finish(f"t{number}", values={"k": b"%d" % number})
        await run.end()
    async with at_work(memory) as desk:
        reader = desk.broker.reader
        got: dict[int, list[StoredEntry | None]] = {}

        async def ask(number: int) -> None:
            wanted = [Lookup(instance=InstanceKey("run", f"t{number}", None), key=key) for key in ("none", "k")]
            got[number] = await reader.lookup(wanted)

        desk.store.reads.shut()
        async with anyio.create_task_group() as askers:
            for number in range(10):
                askers.start_soon(ask, number)
                if not number:
                    await anyio.wait_all_tasks_blocked()
            await anyio.wait_all_tasks_blocked()
            assert reader.statistics().waiting == 9
            desk.store.reads.open()
        assert [len(lookups) for lookups in desk.store.lookups] == [2, 18]
        assert {number: [entry and entry.value for entry in entries] for number, entries in got.items()} == {
            number: [None, b"%d" % number] for number in range(10)
        }


async def test_the_first_slot_with_a_value_wins(store: Store) -> None:
    """Whether it is stored or awaits its commit."""
    async with at_work(store) as desk:
        run = await desk.enter()
        run.start()
        await run.push({"k": b"outside", "l": b"outside"}, slot=0)
        assert await run.find() == b"outside"
        await run.push({"k": b"task"}, slot=-1, attempt=1)
        assert await run.find() == b"task"
        await run.push({"k": b"attempt"})
        assert await run.find() == b"attempt"
        assert await run.find("l") == b"outside"
        assert await run.find(slots=(0,)) == b"outside"
        assert await run.find("none") is None


async def test_what_awaits_its_commit_wins_by_slot_too(memory: Store) -> None:
    """Over a stored value of a later slot, and not over one of an earlier slot."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.start()
        await run.push({"k": b"stored"}, slot=-1, attempt=1)
        await run.push({"l": b"stored"}, slot=1)
        desk.broker.cache.forget_run("run")
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(lambda: run.push({"k": b"p1"}, slot=1))
            pushers.start_soon(lambda: run.push({"k": b"p0", "l": b"p0"}, slot=0))
            await anyio.wait_all_tasks_blocked()
            assert await run.find(slots=(7, 1, -1)) == b"p1"
            assert await run.find(slots=(7, -1, 0)) == b"stored"
            assert await run.find("l", slots=(7, 1, 0)) == b"stored"
            assert await run.find("l", slots=(7, 0, 1)) == b"p0"
            assert await run.find("none", slots=(7, 0)) is None
            desk.store.writes.open()


async def test_only_the_store_tells_what_a_running_attempt_has_published(store: Store) -> None:
    """Its other entries are nobody else's business, and a new attempt takes even the published ones away."""
    async with at_work(store) as desk:
        run = await desk.enter()
        run.start()
        await run.push({"k": b"1"}, published=True)
        await run.push({"l": b"1"})
        assert run.book.slots_seen(run.key()) is None
        assert await run.find("k", slots=None) == b"1"
        assert await run.find("l", slots=None) is None
        await run.push({"k": b"2"}, published=True)
        assert await run.find("k", slots=None) == b"2"
        await run.push({"k": b"3"})
        assert await run.find("k", slots=None) is None


async def test_a_value_read_late_does_not_replace_a_newer_one(memory: Store) -> None:
    """A push is seen once it has returned, whatever reads were under way."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        await run.push({"k": b"old"}, slot=0)
        desk.broker.cache.forget_run("run")
        desk.store.reads.shut()
        async with anyio.create_task_group() as askers:
            askers.start_soon(lambda: run.find(slots=(0,)))
            await anyio.wait_all_tasks_blocked()
            await run.push({"k": b"new"}, slot=0)
            desk.store.reads.open()
        assert await run.find(slots=(0,)) == b"new"


async def test_a_deleted_value_read_late_is_not_kept(memory: Store) -> None:
    """A deletion that returned is over."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        await run.push({"k": b"old"}, slot=0)
        desk.broker.cache.forget_run("run")
        desk.store.reads.shut()
        async with anyio.create_task_group() as askers:
            askers.start_soon(lambda: run.find(slots=(0,)))
            await anyio.wait_all_tasks_blocked()
            deletion = DeleteEntries(run_id="run", task_id="a", key=None, slots=None, at_us=1, seq=run.book.next_seq())
            assert await desk.broker.write(deletion, run.book) == 1
            desk.store.reads.open()
        assert await run.find(slots=(0,)) is None


async def test_without_a_cache_everything_is_still_found(memory: Store) -> None:
    """In the overlay, then in the store."""
    async with at_work(memory, limits=Limits(cache_bytes=0)) as desk:
        run = await desk.enter()
        desk.store.writes.shut()
        run.finish(values={"k": b"1"})
        assert await run.find() == b"1"
        desk.store.writes.open()
        await desk.broker.barrier()
        assert await run.find() == b"1"
        assert len(desk.store.lookups) == 1


async def test_deleting_a_run_forgets_its_values(memory: Store) -> None:
    """They are not found in memory any more."""
    async with at_work(memory) as desk:
        await desk.manager.push("run", "a", "k", 1)
        assert desk.broker.cache.statistics().entries == 1
        await desk.manager.delete("run", "a", "other")
        assert desk.broker.cache.statistics().entries == 1
        await desk.manager.delete("run", "a")
        assert desk.broker.cache.statistics().entries == 0


# ----------------------------------------------------------------------------------------------------------- reader


async def test_a_damaged_row_fails_only_its_asker(memory: Store) -> None:
    """The others of the same read are asked for again, one by one."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.finish("a", values={"k": b"1"})
        await desk.broker.barrier()
        got: list[object] = []

        async def ask() -> None:
            try:
                (found,) = await desk.broker.reader.lookup([Lookup(instance=run.key(), key="k")])
            except StoreError as error:
                got.append(type(error))
            else:
                got.append(found and found.value)

        desk.store.reads.shut()
        async with anyio.create_task_group() as askers:
            askers.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                askers.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            damage = StoreCorruptError("store", "row")
            desk.store.fail(damage, on="lookup")
            desk.store.fail(damage, on="lookup", at=3)
            desk.store.reads.open()
        assert sorted(map(str, got)) == sorted(map(str, [b"1", b"1", b"1", StoreCorruptError]))
        assert [len(lookups) for lookups in desk.store.lookups] == [1, 3, 1, 1, 1]


async def test_a_bug_of_the_store_fails_its_asker_and_not_the_reader(memory: Store) -> None:
    """It is told as a store's error, with the bug as its cause."""
    async with at_work(memory) as desk:
        await desk.manager.push("run", "a", "k", 1)
        desk.store.fail(ZeroDivisionError("bug"), on="lookup")
        with pytest.raises(StoreError, match="can't read: ZeroDivisionError") as caught:
            await desk.manager.pull("run", "a", "k")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert await desk.manager.pull("run", "a", "k") == 1


async def test_a_closed_reader_answers_what_waits_and_nobody_else(memory: Store) -> None:
    """Those who come late, and those it can't answer any more, are told."""
    look = Lookup(instance=InstanceKey("run", "a", None), key="k")
    async with at_work(memory) as desk:
        got: list[object] = []
        desk.store.reads.shut()
        async with anyio.create_task_group() as askers:
            for _ in range(2):

                async def ask() -> None:
                    got.append(await desk.broker.reader.lookup([look]))

                askers.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
            desk.broker.reader.close()
            with pytest.raises(RuntimeClosedError):
                await desk.broker.reader.lookup([look])
            desk.store.reads.open()
        assert got == [[None], [None]]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_of_the_reader_hangs_nobody(memory: Store) -> None:
    """As `asyncio.run` does to all that is left at its end."""
    store = FaultyStore(memory)
    reader = Reader(store, mailbox_capacity=1)
    task = asyncio.get_running_loop().create_task(reader.run())
    look = Lookup(instance=InstanceKey("run", "a", None), key="k")
    told: list[str] = []

    async def ask() -> None:
        with pytest.raises(RuntimeClosedError):
            await reader.lookup([look])
        told.append("closed")

    store.reads.shut()
    async with anyio.create_task_group() as askers:
        for _ in range(3):
            askers.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["closed"] * 3


async def test_a_cancelled_asker_leaves_nothing_behind(memory: Store) -> None:
    """The reader goes on with the others."""
    async with at_work(memory) as desk:
        await desk.manager.push("run", "a", "k", 1)
        desk.store.reads.shut()
        async with anyio.create_task_group() as askers:
            askers.start_soon(desk.manager.pull, "run", "a", "k")
            await anyio.wait_all_tasks_blocked()
            askers.cancel_scope.cancel()
        desk.store.reads.open()
        assert await desk.manager.pull("run", "a", "k") == 1
