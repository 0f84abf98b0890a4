"""The producer's side of a stream: appended items gather while a commit is under way, and go to the store as one chunk."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel
import attrs

from dagrelay.errors import DagrelayError, StaleAttemptError, XComConflictError, XComStreamError
from dagrelay.stores.operations import AppendItems
from dagrelay.stores.stream_records import StreamQuery, pack_items, unpack_items
from dagrelay.xcom.batch import Request
from dagrelay.xcom.broker import copy_of
from dagrelay.xcom.waiting import Waiter

if TYPE_CHECKING:
    from dagrelay.serializers.base import Serializer
    from dagrelay.xcom.attempt_facts import AttemptFacts
    from dagrelay.xcom.channel import Channel
    from dagrelay.xcom.streams import RunStreams

__all__ = ("StreamWriter",)

_APPENDS_BETWEEN_CHECKPOINTS: Final = 64
_HIGHEST_SEQ: Final = 2**62


@attrs.define(eq=False)
class _Run:
    """Items that follow one another and are not on their way yet."""

    first_seq: int
    created_us: int
    items: list[bytes] = attrs.field(factory=list[bytes])
    size: int = 0


class StreamWriter:
    """What one attempt appends under one key.

    Args:
        streams: the run's.
        channel: the stream.
        attempt: the attempt.
        serializer: what encodes its items.
    """

    def __init__(self, streams: RunStreams, channel: Channel, attempt: AttemptFacts, serializer: Serializer) -> None:
        """Set up; the stream is looked for with the first item."""
        self._streams = streams
        self._channel = channel
        self._attempt = attempt
        self._number = attempt.number
        self._serializer = serializer
        self._what = f"an item of stream {channel.key!r}"
        self._is_numbered: bool | None = None  # None until the first item has begun the stream.
        self._runs: list[_Run] = []
        self._size = 0
        self._in_flight = 0
        self._appended = 0
        # Items of the store, read to be compared with those that come again.
        self._known: dict[int, bytes] = {}

    async def append(self, value: Any, seq: int | None) -> None:
        """Take an item, encoded before the first checkpoint; see TaskXCom.append."""
        streams, channel = self._streams, self._channel
        item = streams.door.item(self._what, value, self._serializer)
        if self._is_numbered is not (seq is not None):
            await self._begin(seq)
        if seq is not None:
            self._check_number(seq)
        size = len(item)
        while True:
            if channel.failure is not None:
                raise copy_of(channel.failure)
            if seq is not None and seq < channel.accepted:
                await self._compare(seq, item)
                return
            if channel.has_room(size) and not streams.broker.is_congested and not streams.book.is_over_budget(self._size + size):
                break
            await self._wait(size)
        self._gather(channel.accepted if seq is None else seq, item, size)
        self._appended += 1
        if self._appended % _APPENDS_BETWEEN_CHECKPOINTS == 0:
            await anyio.lowlevel.checkpoint()

    def _gather(self, seq: int, item: bytes, size: int) -> None:
        channel, runs = self._channel, self._runs
        if (
            not runs
            or seq != channel.accepted
            or len(runs[-1].items) >= channel.chunk_items
            or runs[-1].size >= channel.chunk_bytes
        ):
            runs.append(_Run(seq, self._streams.door.now_us()))
        run = runs[-1]
        run.items.append(item)
        run.size += size
        self._size += size
        channel.accept(seq, size)
        if not self._in_flight:
            self._send()

    # ----------------------------------------------------------------------------------------------------- beginning

    async def _begin(self, seq: int | None) -> None:
        """Begin a generation, or go on in the one there is, where the producer gives the numbers."""
        channel = self._channel
        await self._streams.know(channel)
        self._check_open()
        is_numbered = seq is not None
        if self._is_numbered is None:
            self._is_numbered = is_numbered
            if not is_numbered or not channel.generation:
                channel.begin_generation()
            channel.is_numbered, channel.attempt = is_numbered, self._number
        elif self._is_numbered is not is_numbered:
            reason = "an attempt gives a seq with each item that it appends under one key, or with none"
            raise self._error(reason)

    def _check_number(self, seq: int) -> None:
        if type(seq) is not int or not 0 <= seq < _HIGHEST_SEQ:
            raise self._error(f"seq must be an int from 0 to {_HIGHEST_SEQ - 1}, not {seq!r}")

    def _error(self, reason: str) -> XComStreamError:
        task_id = self._channel.producer.task_id
        return XComStreamError(task_id, task_id, self._channel.key, reason=reason)

    def _check_open(self) -> None:
        if self._attempt.is_over:
            raise StaleAttemptError(self._channel.producer.run_id, self._channel.producer.task_id, self._number)

    # ------------------------------------------------------------------------------------------------------- waiting

    async def _wait(self, size: int) -> None:
        """Wait for what an item lacks: a reader's acknowledgements, commits, or room in the run's budget."""
        streams, channel = self._streams, self._channel
        if not channel.has_room(size):
            reader = channel.awaited_reader()
            waiter = Waiter(channel.producer, reader, channel.key, let_go=partial(channel.excuse, reader))
            channel.await_room(waiter)
            await streams.rest(waiter, self._attempt, is_idle=channel.accepted == channel.committed)
            if waiter.reason:
                raise self._error(waiter.reason)
        elif streams.broker.is_congested:
            async with self._attempt.parked(keeps_room=True):  # It holds an item.
                await streams.broker.wait_for_room()
        else:
            self._send()
            await streams.broker.make_budget(streams.book, size)
        self._check_open()

    async def _compare(self, seq: int, item: bytes) -> None:
        """Check that an item that comes again is the one that is there."""
        channel, streams = self._channel, self._streams
        while seq >= channel.committed:
            if channel.failure is not None:
                raise copy_of(channel.failure)
            waiter = Waiter(channel.producer, channel.producer, channel.key)
            channel.await_more(waiter)
            await streams.rest(waiter, self._attempt, is_idle=False)
        if seq not in self._known:
            query = StreamQuery(producer=channel.producer, key=channel.key, generation=channel.generation, from_seq=seq)
            page = await streams.read(query)
            self._known = {
                number: known
                for chunk in page.chunks
                for number, known in enumerate(unpack_items(chunk.count, chunk.items), chunk.first_seq)
            }
        self._check_open()
        if self._known.get(seq) != item:
            raise XComConflictError(channel.producer.run_id, channel.producer.task_id, channel.key, seq=seq)

    # ------------------------------------------------------------------------------------------------------- sending

    def flush(self) -> None:
        """Send what has gathered, as the attempt ends. Whether it is stored its run learns, as of every cast."""
        self._send()

    def _send(self) -> None:
        streams, channel = self._streams, self._channel
        runs, self._runs, self._size = self._runs, [], 0
        for run in runs:
            packed, next_seq = pack_items(run.items), run.first_seq + len(run.items)
            operation = AppendItems(
                instance=channel.producer,
                attempt=self._number,
                key=channel.key,
                generation=channel.generation,
                first_seq=run.first_seq,
                count=len(run.items),
                items=packed,
                serializer=self._serializer.name,
                is_numbered=channel.is_numbered,
                created_us=run.created_us,
            )
            self._attempt.ensure_started()
            streams.broker.accept(
                Request(operation, streams.book, len(packed), on_settled=partial(self._settled, channel.generation, next_seq))
            )
            self._in_flight += 1
            channel.mark(next_seq, len(run.items), run.size)

    def _settled(self, generation: int, next_seq: int, error: DagrelayError | None) -> None:
        self._in_flight -= 1
        if error is not None:
            self._channel.fail(error)
            return
        self._channel.commit(generation, next_seq)
        if not self._in_flight and self._runs:
            try:
                self._send()
            except DagrelayError as failure:
                self._channel.fail(failure)
