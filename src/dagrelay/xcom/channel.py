"""One stream as all who take part in it see it: how far it has come, who reads it, and how far ahead its producer may be.

A channel knows what was accepted and what is on disk. Readers are handed only what is on disk, and read it from there: a channel
holds none of the items, so that memory stays flat however long a stream is.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from dagrelay.model.records import InstanceKey
from dagrelay.stores.stream_records import StreamPosition

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.errors import DagrelayError
    from dagrelay.model.policies import Limits
    from dagrelay.stores.stream_records import StreamHead
    from dagrelay.xcom.waiting import Waiter

__all__ = ("Channel", "ReaderPlace")

_CHUNK_ITEMS: Final = 4096
_CHUNK_BYTES: Final = 256 * 1024


@attrs.define(eq=False)
class ReaderPlace:
    """How far one task instance has read."""

    instance: InstanceKey
    """Whose it is."""
    generation: int = 0
    """The generation it reads; 0 while there is none."""
    next_seq: int = 0
    """All items below are acknowledged."""
    is_in_use: bool = True
    """Whether it still counts for the window: not once its loop was left."""
    is_excused: bool = False
    """Whether it does not count until it is handed an item, as it waits for the producer itself."""
    has_item: bool = False
    """Whether its attempt was handed anything of this generation."""
    restart: Callable[[], None] | None = None
    """Ends its attempt, to be started again; None while it has none."""

    @property
    def counts(self) -> bool:
        """Whether the producer may be only a window ahead of it."""
        return self.is_in_use and not self.is_excused

    @property
    def position(self) -> StreamPosition:
        """What it has acknowledged."""
        return StreamPosition(generation=self.generation, next_seq=self.next_seq)


class _Mark(NamedTuple):
    """A chunk that counts for the window until the slowest reader has acknowledged all of it."""

    next_seq: int
    items: int
    size: int


class Channel:
    """What is known of one stream; lives as long as its run does in this process.

    Args:
        producer: the instance that appends to it.
        key: its key.
        limits: how far its producer may be ahead.
        wake: wakes a waiter.
        unfinished: returns the ids of the tasks that may read it while it grows, and have not ended.
    """

    def __init__(
        self,
        producer: InstanceKey,
        key: str,
        limits: Limits,
        *,
        wake: Callable[[Waiter], None],
        unfinished: Callable[[], list[str]],
    ) -> None:
        """Know nothing of it yet."""
        self.producer = producer
        self.key = key
        self.is_known: bool = False
        self.generation: int = 0
        self.is_numbered: bool = False
        self.attempt: int = 0
        # Invariant: committed <= accepted.
        self.accepted: int = 0
        self.committed: int = 0
        self.failure: DagrelayError | None = None
        self.places: dict[InstanceKey, ReaderPlace] = {}
        self.chunk_items: int = max(1, min(_CHUNK_ITEMS, limits.max_stream_window_items // 4))
        self.chunk_bytes: int = max(1, min(_CHUNK_BYTES, limits.max_stream_window_bytes // 4))
        self._max_items = limits.max_stream_window_items
        self._max_bytes = limits.max_stream_window_bytes
        self._wake = wake
        self._unfinished = unfinished
        # Invariant: the marks and what is not in a chunk yet add up to what is outstanding. (test_channel: the window)
        self._marks: deque[_Mark] = deque()
        self._items = 0
        self._bytes = 0
        self._finished: set[str] = set()
        self._excused: set[str] = set()
        self._readers: list[Waiter] = []
        self._producers: list[Waiter] = []

    # ---------------------------------------------------------------------------------------------------- producing

    def learn(self, head: StreamHead | None) -> None:
        """Take what the store has of it, unless it is known by now."""
        if self.is_known:
            return
        self.is_known = True
        if head is not None:
            self.generation, self.is_numbered, self.attempt = head.generation, head.is_numbered, head.attempt
            self.accepted = self.committed = head.next_seq
            self._items, self._bytes = head.count, head.size
            self._marks.append(_Mark(head.next_seq, head.count, head.size))

    def begin_generation(self) -> None:
        """Start anew: whoever was handed items of the generation before begins again."""
        self.generation += 1
        self.accepted = self.committed = 0
        self._marks.clear()
        self._items = self._bytes = 0
        for place in self.places.values():
            place.next_seq = 0
            if place.has_item and place.restart is not None:
                place.restart()
        self.tell()

    def accept(self, seq: int, size: int) -> None:
        """Count an item on its way."""
        self.accepted = seq + 1
        self._items += 1
        self._bytes += size

    def mark(self, next_seq: int, count: int, size: int) -> None:
        """Note that accepted items stand in one chunk, of so many bytes."""
        self._marks.append(_Mark(next_seq, count, size))

    def commit(self, generation: int, next_seq: int) -> None:
        """Note that items are on disk."""
        if generation == self.generation:
            self.committed = next_seq
            self.tell_readers()
            if next_seq == self.accepted:
                self.tell_producer()  # It rests from now on, if it waits still.

    def fail(self, error: DagrelayError) -> None:
        """Note that items could not be stored: nothing goes on from here."""
        self.failure = self.failure or error
        self.tell()

    # ------------------------------------------------------------------------------------------------------- window

    @property
    def outstanding_items(self) -> int:
        """Items that the slowest reader has not acknowledged, and those that stand in one chunk with such a one."""
        return self._items

    def has_room(self, size: int) -> bool:
        """Whether an item of so many bytes may be accepted; one larger than the window may where nothing else is outstanding."""
        if self._fits(size):
            return True
        self._release()
        return self._fits(size)

    def _fits(self, size: int) -> bool:
        return self._items == 0 or (self._items < self._max_items and self._bytes + size <= self._max_bytes)

    def _release(self) -> None:
        slowest = self._slowest()
        while self._marks and (slowest is None or self._marks[0].next_seq <= slowest):
            mark = self._marks.popleft()
            self._items -= mark.items
            self._bytes -= mark.size

    def _slowest(self) -> int | None:
        """Return what the slowest reader has acknowledged; None if there is and will be none while it grows.

        One that may still come has acknowledged nothing; one that is excused does not count.
        """
        by_task = self._by_task()
        if not all(by_task.values()):
            return 0
        return min((place.next_seq for places in by_task.values() for place in places if place.counts), default=None)

    def _by_task(self) -> dict[str, list[ReaderPlace]]:
        """Return the places of tasks that read it, or may still come."""
        gone = self._finished | self._excused
        by_task: dict[str, list[ReaderPlace]] = {task_id: [] for task_id in self._unfinished() if task_id not in gone}
        for place in self.places.values():
            by_task.setdefault(place.instance.task_id, []).append(place)
        return by_task

    def acknowledged(self, next_seq: int) -> None:
        """Let a producer that waits look again, if what a reader has acknowledged may help."""
        if self._producers and self._marks and next_seq >= self._marks[0].next_seq:
            slowest = self._slowest()
            if slowest is None or slowest >= self._marks[0].next_seq:
                self.tell_producer()

    def finish(self, instance: InstanceKey) -> None:
        """Forget a reader that will not read again."""
        self.places.pop(instance, None)
        if instance.map_index is None:
            self._finished.add(instance.task_id)
        self.tell_producer()

    def excuse(self, reader: InstanceKey) -> None:
        """Let the producer go on without a reader that waits for it in turn, until that comes or reads on.

        Nothing is held in memory for it: what it has not read is on disk, where it finds it. If meanwhile the producer waits for
        another one, it only looks again, to say so.
        """
        if reader == self.awaited_reader():
            place = self.places.get(reader)
            if place is None:
                self._excused.add(reader.task_id)
            else:
                place.is_excused = True
        self.tell_producer()

    def awaited_reader(self) -> InstanceKey:
        """Return for whom a producer waits: one that has not come yet, or the slowest; itself if there is none."""
        by_task = self._by_task()
        for task_id, places in by_task.items():
            if not places:
                return InstanceKey(self.producer.run_id, task_id, None)
        found = [place for places in by_task.values() for place in places if place.counts]
        return min(found, key=lambda place: place.next_seq).instance if found else self.producer

    # -------------------------------------------------------------------------------------------------------- waking

    def await_more(self, waiter: Waiter) -> None:
        """Wake a waiter, once, when there may be more to read."""
        self._readers.append(waiter)

    def await_room(self, waiter: Waiter) -> None:
        """Wake a waiter, once, when there may be room for more."""
        self._producers.append(waiter)

    def tell_readers(self) -> None:
        """Have readers look again."""
        waiters, self._readers = self._readers, []
        for waiter in waiters:
            self._wake(waiter)

    def tell_producer(self) -> None:
        """Have a producer look again."""
        waiters, self._producers = self._producers, []
        for waiter in waiters:
            self._wake(waiter)

    def tell(self) -> None:
        """Have everybody who waits look again."""
        self.tell_readers()
        self.tell_producer()
