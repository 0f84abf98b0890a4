"""The reader's side of a stream: an async iterator over what is on disk, and what asking it for more acknowledges."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

import anyio.lowlevel

from dagrelay.actors.reply import Reply
from dagrelay.errors import DagrelayError, StaleAttemptError, StoreCorruptError, XComStreamError, XComTooLargeError
from dagrelay.model.states import ENDED_TASK_STATES, TaskState
from dagrelay.stores.operations import TASK_LIFETIME, AckItems
from dagrelay.stores.stream_records import StreamQuery, unpack_items
from dagrelay.xcom.batch import Request
from dagrelay.xcom.broker import copy_of
from dagrelay.xcom.channel import ReaderPlace
from dagrelay.xcom.door import placed
from dagrelay.xcom.lineage import stream_text
from dagrelay.xcom.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from types import TracebackType

    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import NewEntry
    from dagrelay.stores.stream_records import StreamChunk, StreamPosition
    from dagrelay.xcom.attempt_facts import AttemptFacts
    from dagrelay.xcom.channel import Channel
    from dagrelay.xcom.streams import RunStreams

__all__ = ("HeldWrites", "Reading", "XComStream")

T = TypeVar("T")

_ITEMS_BETWEEN_CHECKPOINTS: Final = 64
_PAGE_BYTES: Final = 512 * 1024


class HeldWrites:
    """What an attempt pushed with `lifetime="task"` for the item in hand, held back until that is acknowledged.

    The attempt itself sees it at once.
    """

    def __init__(self, streams: RunStreams, instance: InstanceKey) -> None:
        """Start with nothing."""
        self._streams = streams
        self._instance = instance
        self._entries: dict[str, NewEntry] = {}

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._entries)

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return sum(len(entry.value) for entry in self._entries.values())

    async def hold(self, drafts: Sequence[NewEntry]) -> tuple[NewEntry, ...]:
        """Take entries.

        Raises:
            XComTooLargeError: the run's budget is used up, or more is held than a stream's window; nothing was taken.

        Cancellation: nothing was taken.
        """
        streams = self._streams
        size = sum(len(draft.value) for draft in drafts)
        limit = streams.door.limits.max_stream_window_bytes
        if self.size + size > limit:
            raise XComTooLargeError(
                "what was pushed for one item of a stream",
                actual=self.size + size,
                limit=limit,
                setting="Limits(max_stream_window_bytes=...)",
            )
        while streams.book.is_over_budget(self.size + size):
            await streams.broker.make_budget(streams.book, self.size + size)
        await anyio.lowlevel.checkpoint()
        entries = placed(streams.book, drafts)
        for entry in entries:
            self._entries[entry.key] = entry
            streams.broker.cache.accept(self._instance, TASK_LIFETIME, entry)
        return entries

    def take(self) -> tuple[NewEntry, ...]:
        """Hand over what is held, to be stored."""
        entries, self._entries = tuple(self._entries.values()), {}
        return entries

    def drop(self, key: str | None = None) -> bool:
        """Forget what is held, or only what is held under one key; return whether there was any."""
        dropped = [entry for entry in self._entries.values() if key in (None, entry.key)]
        for entry in dropped:
            del self._entries[entry.key]
            self._streams.broker.cache.drop(self._instance, TASK_LIFETIME, entry)
        return bool(dropped)


class XComStream(Generic[T]):
    """The items of a stream, in order, as long as its producer appends; made by `ctx.xcom.stream`, which tells the rest.

    One task iterates over it at a time. Leaving its loop early lets the producer go on without this reader: at once, if
    nothing else refers to the iterator, or by `aclose`, which is also the exit of `async with`.
    """

    def __init__(self, reading: Reading) -> None:
        """Take the state, which outlives the iterator."""
        self._reading = reading

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    def __anext__(self) -> Coroutine[Any, Any, T]:
        """Acknowledge the last item and return the next one, waiting for it.

        Raises:
            XComStreamError: the producer ended, but did not succeed.
            XComTypeError: the item is not of the type.
            StaleAttemptError: this attempt is over.

        Cancellation: the last item may be acknowledged, with the writes that belong to it; the next one is not lost.
        """
        return self._reading.next()

    async def aclose(self) -> None:
        """Leave the stream. The item in hand is not acknowledged before the attempt succeeds.

        Cancellation: it is left all the same.
        """
        self._reading.leave()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the stream."""
        self._reading.leave()

    def __del__(self) -> None:
        """Leave the stream, as nobody can ask for more; not if another thread collects it, which may wake nobody."""
        if self._reading.is_in_its_thread:
            self._reading.leave()


class Reading:
    """How one attempt reads one stream.

    Args:
        streams: the run's.
        channel: the stream.
        instance: whose attempt it is.
        attempt: the attempt.
        held: what it has pushed for the item in hand.
        as_type: what to structure items into; MISSING for plain values.
        resume: whether to go on after what earlier attempts have acknowledged.
    """

    def __init__(
        self,
        streams: RunStreams,
        channel: Channel,
        instance: InstanceKey,
        attempt: AttemptFacts,
        *,
        held: HeldWrites,
        as_type: Any,
        resume: bool,
    ) -> None:
        """Set up; nothing is read before the first item is asked for."""
        self._streams = streams
        self._channel = channel
        self._instance = instance
        self._attempt = attempt
        self._held = held
        self._as_type = as_type
        self._resume = resume
        self._place: ReaderPlace | None = None
        self._stored: StreamPosition | None = None
        self._chunks: list[StreamChunk] = []
        self._items: list[bytes] = []
        self._serializer = ""
        self._at = 0
        self._next_seq = 0
        self._handed_out = 0
        self._is_over = False
        self._acks_in_flight = 0
        self._acked = (0, 0)
        self.has_item_in_hand: bool = False
        """Whether the last item has not been acknowledged yet."""

    async def next(self) -> Any:
        """Acknowledge the last item and return the next one; see XComStream.__anext__."""
        place = self._place
        if self._is_over:
            raise StopAsyncIteration
        if place is None:
            place = await self._begin()
        if self.has_item_in_hand:
            self.has_item_in_hand = False
            place.next_seq = self._next_seq
            self._channel.acknowledged(self._next_seq)
            if self._held:
                await self._acknowledge_with_writes(place)
            elif not self._acks_in_flight:
                self._acknowledge(place)
        if self._at == len(self._items):
            await self._fill(place)
        elif self._handed_out % _ITEMS_BETWEEN_CHECKPOINTS == 0:
            await anyio.lowlevel.checkpoint()
        if place.generation != self._channel.generation or self._attempt.is_over:
            await self._restart()
        value = self._streams.door.decode(self._serializer, self._items[self._at], self._as_type)
        self._at += 1
        self._next_seq += 1
        self._handed_out += 1
        self.has_item_in_hand = True
        place.is_excused = False
        if not place.has_item:
            self._note_read(place)
        return value

    def _note_read(self, place: ReaderPlace) -> None:
        """Remember that items were handed out, and have it stored with the attempt's outcome."""
        place.has_item = True
        producer, channel = self._channel.producer, self._channel
        # Numbered items are kept over the producer's attempts; others are all of one attempt, or this one is restarted.
        number = TASK_LIFETIME if channel.is_numbered else channel.attempt
        self._attempt.note_reads([stream_text(producer.task_id, number, channel.key)])

    @property
    def is_in_its_thread(self) -> bool:
        """Whether this is the thread of its loop."""
        return threading.get_ident() == self._streams.thread_id

    def leave(self) -> None:
        """Read no more."""
        self._is_over = True
        if self._place is not None and self._place.is_in_use:
            self._place.is_in_use = False
            self._channel.tell_producer()

    # ----------------------------------------------------------------------------------------------------- beginning

    async def _begin(self) -> ReaderPlace:
        channel, instance = self._channel, self._instance
        self._check_attempt()
        query = StreamQuery(producer=channel.producer, key=channel.key, consumer=instance)
        page = await self._streams.read(query)
        channel.learn(page.head)
        self._check_attempt()
        known = channel.places.get(instance)
        # What an earlier attempt in this process has acknowledged may be on its way to the store still.
        self._stored = known.position if known is not None and known.generation else page.position
        place = self._place = channel.places[instance] = ReaderPlace(instance, restart=self._attempt.restart)
        self._adopt(place)
        return place

    def _adopt(self, place: ReaderPlace) -> None:
        """Take up the generation there is, from its beginning or from where an earlier attempt has come to."""
        generation, stored = self._channel.generation, self._stored
        start, is_moved_back = 0, False
        if stored is not None and stored.generation == generation:
            start = stored.next_seq if self._resume else 0
            is_moved_back = start != stored.next_seq
        place.generation, place.next_seq, self._next_seq = generation, start, start
        self._acked = (generation, start)
        self._chunks, self._items, self._at = [], [], 0
        if is_moved_back:
            self._acknowledge(place)
        self._channel.tell_producer()

    # ------------------------------------------------------------------------------------------------------- reading

    async def _fill(self, place: ReaderPlace) -> None:
        """Get items to hand out.

        Raises:
            StopAsyncIteration: there will be none.
            XComStreamError: there will be none, since the producer did not succeed.
        """
        channel, streams = self._channel, self._streams
        while True:
            self._check_attempt()
            if place.generation != channel.generation:
                if self._handed_out:
                    await self._restart()
                self._adopt(place)
            if self._chunks:
                self._open_chunk(self._chunks.pop(0))
                return
            if channel.failure is not None:
                raise copy_of(channel.failure)
            is_left_over = streams.is_left_over(channel)
            if self._next_seq < channel.committed and not is_left_over:
                await self._read(place)
                continue
            if channel.accepted == channel.committed and streams.state_of(channel.producer) in ENDED_TASK_STATES:
                await self._end(is_left_over=is_left_over)
            waiter = Waiter(self._instance, channel.producer, channel.key)
            channel.await_more(waiter)
            await streams.rest(waiter, self._attempt, is_idle=channel.accepted == channel.committed)
            if waiter.reason:
                raise XComStreamError(self._instance.task_id, channel.producer.task_id, channel.key, reason=waiter.reason)

    async def _read(self, place: ReaderPlace) -> None:
        channel = self._channel
        query = StreamQuery(
            producer=channel.producer,
            key=channel.key,
            generation=place.generation,
            from_seq=self._next_seq,
            max_bytes=_PAGE_BYTES,
        )
        page = await self._streams.read(query)
        self._chunks = list(page.chunks)
        if not self._chunks and place.generation == channel.generation:
            what = f"items of stream {channel.key!r} of task {channel.producer.task_id!r} are missing"
            raise StoreCorruptError(self._streams.store.name, what)

    def _open_chunk(self, chunk: StreamChunk) -> None:
        self._items = unpack_items(chunk.count, chunk.items)
        self._at = max(0, self._next_seq - chunk.first_seq)
        self._next_seq = chunk.first_seq + self._at
        self._serializer = chunk.serializer

    async def _end(self, *, is_left_over: bool) -> None:
        channel = self._channel
        state = self._streams.state_of(channel.producer)
        if is_left_over and self._handed_out:
            await self._restart()
        self.leave()
        if state is TaskState.SUCCESS:
            self._streams.warn_if_misspelt(channel, self._instance.task_id)
            raise StopAsyncIteration
        raise XComStreamError(self._instance.task_id, channel.producer.task_id, channel.key, state=state)

    async def _restart(self) -> None:
        """End this attempt, which was handed items that are none any more, so that another one begins anew."""
        self._attempt.restart()
        await anyio.lowlevel.checkpoint()  # Its cancellation comes out here, unless it is shielded.
        raise self._stale()

    def _check_attempt(self) -> None:
        if self._attempt.is_over:
            raise self._stale()

    def _stale(self) -> StaleAttemptError:
        return StaleAttemptError(self._instance.run_id, self._instance.task_id, self._attempt.number)

    # ------------------------------------------------------------------------------------------------- acknowledging

    def _operation(self, place: ReaderPlace, entries: tuple[NewEntry, ...] = ()) -> AckItems:
        self._acked = (place.generation, place.next_seq)
        return AckItems(
            instance=self._instance,
            attempt=self._attempt.number,
            producer=self._channel.producer,
            key=self._channel.key,
            generation=place.generation,
            next_seq=place.next_seq,
            entries=entries,
        )

    def _acknowledge(self, place: ReaderPlace) -> None:
        """Have the position stored with whatever is committed next; one is on its way at a time."""
        self._attempt.ensure_started()
        self._streams.broker.accept(Request(self._operation(place), self._streams.book, on_settled=self._settled))
        self._acks_in_flight += 1

    def _settled(self, error: DagrelayError | None) -> None:
        self._acks_in_flight -= 1
        place = self._place
        if error is not None or place is None or self._acks_in_flight or self._attempt.is_over:
            return
        if place.generation == self._channel.generation and self._acked != (place.generation, place.next_seq):
            try:
                self._acknowledge(place)
            except DagrelayError as failure:
                self._channel.fail(failure)

    async def _acknowledge_with_writes(self, place: ReaderPlace) -> None:
        """Store the position and what was written for the items before it, in one transaction."""
        self._attempt.ensure_started()
        reply: Reply[int] = Reply()
        self._hand_over(place, reply)
        await reply.wait()

    def _hand_over(self, place: ReaderPlace, reply: Reply[int] | None = None) -> None:
        """Have the position stored with what is held; what is not accepted after all is not seen any longer either."""
        streams, size, entries = self._streams, self._held.size, self._held.take()
        try:
            streams.broker.accept(Request(self._operation(place, entries), streams.book, size, reply))
        except DagrelayError:
            for entry in entries:
                streams.broker.cache.drop(self._instance, TASK_LIFETIME, entry)
            raise

    def end(self, state: TaskState) -> None:
        """Have the last position stored, ahead of the attempt's outcome; a success acknowledges what is in hand."""
        place, self._place, self._is_over = self._place, None, True
        if place is None:
            return
        place.restart = None
        is_current = place.generation == self._channel.generation
        if self.has_item_in_hand and is_current and state is TaskState.SUCCESS:
            place.next_seq = self._next_seq
        if is_current and (self._acked != (place.generation, place.next_seq) or (self.has_item_in_hand and self._held)):
            self._hand_over(place)
        self.has_item_in_hand = False
        if state in ENDED_TASK_STATES:
            self._channel.finish(self._instance)
        else:
            place.is_in_use = True  # It will be back, whether or not its loop was left.
