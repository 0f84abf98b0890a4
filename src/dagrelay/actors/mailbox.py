"""A bounded mailbox: an anyio memory channel into which messages go without waiting, and out of which come all that are there.

An awaited send and a reply stream for each call cost several times as much, by measurement; so senders post without waiting, the
actor takes messages in batches, and a reply is a one-shot future. What is waited for is an event and never a message: a message
handed to a waiter is lost where a native cancellation of its asyncio task comes between.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import attrs

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

__all__ = ("Mailbox", "MailboxClosed", "MailboxStatistics")

M = TypeVar("M")


class MailboxClosed(Exception):  # noqa: N818 - the end of a stream, no error
    """The mailbox takes no more messages, or has none left to give."""


@attrs.frozen(kw_only=True)
class MailboxStatistics:
    """What a mailbox holds."""

    name: str
    """Whose mailbox it is."""
    waiting: int
    """Messages not yet taken."""
    capacity: int
    """Messages it holds before senders wait."""
    posted: int
    """Messages ever posted."""


class Mailbox(Generic[M]):
    """Where one actor's messages arrive, first in, first out.

    Args:
        name: whose it is, for statistics.
        capacity: how many messages may wait before `put` waits. `post` goes over it, as reports and replies never block; what
            bounds them is that each answers something that was bounded.
    """

    def __init__(self, name: str, capacity: int) -> None:
        """Open an empty mailbox."""
        self.name = name
        self.capacity = capacity
        self._send: MemoryObjectSendStream[M]
        self._receive: MemoryObjectReceiveStream[M]
        # Unbounded in itself: `put` minds the capacity, and `post` is to go over it.
        self._send, self._receive = anyio.create_memory_object_stream[Any](inf)
        self._waiting = 0
        self._posted = 0
        self._is_closed = False
        self._arrived: anyio.Event | None = None  # There while the actor waits.
        # Senders who wait, each by the event it waits for. Invariant: there are none while there is room.
        self._senders: OrderedDict[anyio.Event, M] = OrderedDict()

    def __del__(self) -> None:
        """Close the channel of a mailbox that was dropped, which anyio would take for a leak; it holds memory only."""
        self._send.close()
        self._receive.close()

    def __len__(self) -> int:
        """Return how many messages wait."""
        return self._waiting

    @property
    def is_closed(self) -> bool:
        """Whether it takes no more messages."""
        return self._is_closed

    def post(self, message: M) -> None:
        """Add a message without waiting.

        Raises:
            MailboxClosed: nobody will read it.
        """
        if self._is_closed:
            raise MailboxClosed
        self._send.send_nowait(message)
        self._waiting += 1
        self._posted += 1
        self._wake_reader()

    async def put(self, message: M) -> None:
        """Add a message once there is room; those who wait take their turns.

        Raises:
            MailboxClosed: nobody will read it.

        Cancellation: the message is not added, unless its turn had come already.
        """
        if self._is_closed or self._waiting < self.capacity:
            self.post(message)
            return
        turn = anyio.Event()
        self._senders[turn] = message
        try:
            await turn.wait()
        finally:
            is_left = turn in self._senders
            self._senders.pop(turn, None)
        if is_left:
            raise MailboxClosed

    async def drain(self, limit: int) -> list[M]:
        """Return what is there, at least one message and at most `limit`, waiting for the first.

        One actor waits at a time.

        Raises:
            MailboxClosed: it is closed and empty.

        Cancellation: no message is lost.
        """
        while not self._waiting:
            if self._is_closed:
                raise MailboxClosed
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self.drain_nowait(limit)

    def drain_nowait(self, limit: int) -> list[M]:
        """Return what is there, at most `limit` messages, without waiting."""
        take = self._receive.receive_nowait
        messages = [take() for _ in range(min(limit, self._waiting))]
        self._waiting -= len(messages)
        self._end_if_empty()
        while self._senders and self._waiting < self.capacity and not self._is_closed:
            turn, message = self._senders.popitem(last=False)
            self.post(message)
            turn.set()
        return messages

    def close(self) -> None:
        """Take no more messages; those waiting can still be drained."""
        self._is_closed = True
        self._send.close()
        self._end_if_empty()
        self._wake_reader()
        for turn in self._senders:
            turn.set()

    def discard(self) -> list[M]:
        """Close it and return the messages nobody will read, so that their senders can be told."""
        self.close()
        return self.drain_nowait(self._waiting)

    def _end_if_empty(self) -> None:
        if self._is_closed and not self._waiting:
            self._receive.close()

    def _wake_reader(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    def statistics(self) -> MailboxStatistics:
        """Return what it holds."""
        return MailboxStatistics(name=self.name, waiting=self._waiting, capacity=self.capacity, posted=self._posted)
