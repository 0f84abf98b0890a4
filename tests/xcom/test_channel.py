"""What a channel makes of what it is told: the window, and whom it wakes."""

from __future__ import annotations

import pytest

from dagrelay.errors import StoreError
from dagrelay.model.policies import Limits
from dagrelay.model.records import InstanceKey
from dagrelay.stores.stream_records import StreamHead, StreamPosition, pack_items, unpack_items
from dagrelay.xcom.channel import Channel, ReaderPlace
from dagrelay.xcom.waiting import Waiter

PRODUCER = InstanceKey("run", "a", None)


def reader(task_id: str, map_index: int | None = None) -> InstanceKey:
    """Return an instance that reads."""
    return InstanceKey("run", task_id, map_index)


class Bench:
    """A channel and whom it wakes."""

    def __init__(self, *to_come: str, items: int = 8, size: int = 100) -> None:
        """Take the tasks that may read, and the window."""
        self.to_come = list(to_come)
        self.woken: list[str] = []
        limits = Limits(max_stream_window_items=items, max_stream_window_bytes=size)
        self.channel = Channel(
            PRODUCER, "rows", limits, wake=lambda waiter: self.woken.append(waiter.key), unfinished=lambda: self.to_come
        )

    def append(self, count: int, size: int = 1) -> None:
        """Append items of so many bytes, each in a chunk of its own, and commit them."""
        channel = self.channel
        for _ in range(count):
            channel.accept(channel.accepted, size)
            channel.mark(channel.accepted, 1, size)
        channel.commit(channel.generation, channel.accepted)

    def read(self, task_id: str, next_seq: int, map_index: int | None = None) -> ReaderPlace:
        """Have a reader acknowledge."""
        key = reader(task_id, map_index)
        place = self.channel.places.setdefault(key, ReaderPlace(key))
        place.next_seq = next_seq
        self.channel.acknowledged(next_seq)
        return place

    def wait(self) -> None:
        """Have a reader and a producer wait, and nobody else."""
        self.channel.tell()
        self.woken.clear()
        self.channel.await_more(Waiter(reader("b"), PRODUCER, "reader"))
        self.channel.await_room(Waiter(PRODUCER, reader("b"), "producer"))


def test_the_window_is_that_of_the_slowest_reader() -> None:
    """By items, and only of those who read, or are still to come."""
    bench = Bench("b", "c")
    bench.append(8)
    assert not bench.channel.has_room(1)
    assert bench.channel.awaited_reader() == reader("b")
    bench.read("b", 5)
    assert not bench.channel.has_room(1), "c has not come yet"
    assert bench.channel.awaited_reader() == reader("c")
    bench.read("c", 2)
    assert bench.channel.has_room(1)
    assert bench.channel.outstanding_items == 6
    bench.append(2)
    assert not bench.channel.has_room(1)
    assert bench.channel.awaited_reader() == reader("c")
    bench.channel.places[reader("c")].is_in_use = False
    assert bench.channel.has_room(1)
    assert bench.channel.outstanding_items == 5


def test_bytes_bound_as_items_do_but_one_always_fits() -> None:
    """One larger than the window waits until nothing else is outstanding."""
    bench = Bench("b")
    bench.append(1, size=60)
    assert bench.channel.has_room(40)
    assert not bench.channel.has_room(41)
    bench.read("b", 1)
    assert bench.channel.has_room(1_000)


def test_nobody_bounds_where_nobody_reads_while_it_grows() -> None:
    """Readers that come later read from the store."""
    bench = Bench()
    bench.append(8)
    assert bench.channel.has_room(1)
    assert bench.channel.outstanding_items == 0
    assert bench.channel.awaited_reader() == PRODUCER


def test_a_reader_that_has_finished_bounds_no_more() -> None:
    """Even before its task counts as ended; of a mapped task that says only the task."""
    bench = Bench("b")
    bench.append(8)
    bench.read("b", 3)
    bench.channel.finish(reader("b"))
    assert bench.channel.has_room(1)
    mapped = Bench("b")
    mapped.append(8)
    mapped.read("b", 3, 0)
    mapped.read("b", 8, 1)
    mapped.channel.finish(reader("b", 0))
    assert mapped.channel.has_room(1)
    mapped.append(8)
    mapped.channel.finish(reader("b", 1))
    assert not mapped.channel.has_room(1), "other elements may come"
    mapped.to_come.clear()
    assert mapped.channel.has_room(1)


async def test_who_waits_for_the_producer_is_excused_until_it_comes_or_reads_on() -> None:
    """The window is that of the others meanwhile; one that has come counts from where it is."""
    bench = Bench("b", "c")
    channel = bench.channel
    bench.append(8)
    bench.read("c", 2)
    bench.wait()
    channel.excuse(reader("b"))
    assert bench.woken == ["producer"]
    assert channel.outstanding_items == 8
    assert channel.has_room(1)
    assert (channel.outstanding_items, channel.awaited_reader()) == (6, reader("c"))
    bench.append(2)
    ahead = bench.read("d", 10)
    bench.wait()
    channel.excuse(reader("d"))
    assert bench.woken == ["producer"], "to wait for c, which is behind now"
    assert not ahead.is_excused
    assert not channel.has_room(1)
    ahead.is_in_use = False
    channel.excuse(reader("c"))
    assert channel.has_room(1), "nobody counts"
    bench.append(8)
    assert channel.has_room(1)
    bench.append(8)
    bench.read("b", 0)
    assert not channel.has_room(1), "b has come"
    assert channel.awaited_reader() == reader("b")
    bench.read("b", 26)
    assert channel.has_room(1)
    bench.append(8)
    channel.places[reader("c")].is_excused = False
    bench.read("b", 34)
    assert not channel.has_room(1), "c reads on"
    assert channel.awaited_reader() == reader("c")


def test_what_an_earlier_process_has_left_is_outstanding() -> None:
    """All of it, until it is acknowledged whole; and it is taken once."""
    bench = Bench("b")
    head = StreamHead(generation=3, next_seq=20, is_numbered=True, attempt=2, count=20, size=50)
    bench.channel.learn(head)
    bench.channel.learn(None)
    channel = bench.channel
    assert (channel.generation, channel.accepted, channel.committed, channel.is_numbered, channel.attempt) == (3, 20, 20, True, 2)
    bench.read("b", 19)
    assert not channel.has_room(1)
    bench.read("b", 20)
    assert channel.has_room(1)


async def test_a_new_generation_begins_with_nothing() -> None:
    """Who was handed something of the one before is restarted; late commits of that are no progress of this."""
    bench, restarted = Bench("b"), list[str]()
    channel = bench.channel
    channel.begin_generation()
    bench.append(8)
    place = bench.read("b", 4)
    place.has_item, place.restart = True, lambda: restarted.append("b")
    other = bench.read("c", 4)
    other.restart = lambda: restarted.append("c")
    bench.wait()
    channel.begin_generation()
    assert restarted == ["b"]
    assert bench.woken == ["reader", "producer"]
    assert (channel.generation, channel.accepted, channel.committed, channel.outstanding_items) == (2, 0, 0, 0)
    assert place.next_seq == 0
    assert place.position == StreamPosition(generation=0, next_seq=0)
    channel.commit(1, 8)
    assert channel.committed == 0


async def test_only_who_may_find_something_is_woken() -> None:
    """Readers by commits; a producer by acknowledgements that free a chunk, and when all is on disk, to come to rest."""
    bench = Bench("b", "c")
    channel = bench.channel
    bench.append(8)
    bench.wait()
    bench.read("b", 0)
    assert bench.woken == []
    bench.read("b", 5)
    assert bench.woken == [], "c has not come yet"
    bench.read("c", 1)
    assert bench.woken == ["producer"]
    bench.wait()
    channel.accept(8, 1)
    channel.accept(9, 1)
    channel.commit(0, 9)
    assert bench.woken == ["reader"]
    channel.commit(0, 10)
    assert bench.woken == ["reader", "producer"]


async def test_a_failure_wakes_all_and_the_first_one_stands() -> None:
    """Nothing goes on from there."""
    bench = Bench("b")
    bench.wait()
    first = StoreError("first")
    bench.channel.fail(first)
    bench.channel.fail(StoreError("second"))
    assert bench.channel.failure is first
    assert bench.woken == ["reader", "producer"]


def test_items_are_packed_with_their_lengths() -> None:
    """What is no packing of so many items is not taken for one."""
    items = [b"", b"a", b"bc" * 1000]
    packed = pack_items(items)
    assert unpack_items(3, packed) == items
    assert unpack_items(0, pack_items([])) == []
    for count, damaged in ((3, packed[:-1]), (3, packed + b"x"), (3, packed[:8]), (2, packed)):
        with pytest.raises(ValueError, match="a chunk is"):
            unpack_items(count, damaged)
