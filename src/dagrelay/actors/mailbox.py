"""A bounded mailbox: an anyio memory object stream used the cheap way, `send_nowait` in and a drain of all that is there out.

An awaited send costs two and a half to three times as much and a reply stream per call three to eight times, by measurement; so
senders post without waiting, the actor takes messages in batches, and a reply is a one-shot future.
"""

from __future__ import annotations

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
        self._send, self._receive = anyio.create_memory_object_stream[Any](float("inf"))
        self._waiting = 0
        self._posted = 0
        self._has_room: anyio.Event | None = None
        self._is_closed = False

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

    async def put(self, message: M) -> None:
        """Add a message once there is room.

        Raises:
            MailboxClosed: nobody will read it.

        Cancellation: the message is not added.
        """
        while self._waiting >= self.capacity and not self._is_closed:
            if self._has_room is None:
                self._has_room = anyio.Event()
            await self._has_room.wait()
        self.post(message)

    async def drain(self, limit: int) -> list[M]:
        """Return what is there, at least one message and at most `limit`, waiting for the first.

        Raises:
            MailboxClosed: it is closed and empty.

        Cancellation: no message is lost.
        """
        messages = self.drain_nowait(limit)
        if not messages:
            try:
                messages.append(await self._receive.receive())
            except (anyio.EndOfStream, anyio.ClosedResourceError):
                raise MailboxClosed from None
            self._waiting -= 1
            messages.extend(self.drain_nowait(limit - 1))
        return messages

    def drain_nowait(self, limit: int) -> list[M]:
        """Return what is there, at most `limit` messages, without waiting."""
        messages: list[M] = []
        receive = self._receive.receive_nowait
        try:
            while len(messages) < limit:
                messages.append(receive())
        except (anyio.WouldBlock, anyio.EndOfStream, anyio.ClosedResourceError):
            pass
        self._waiting -= len(messages)
        if self._has_room is not None and self._waiting < self.capacity:
            self._has_room.set()
            self._has_room = None
        return messages

    def close(self) -> None:
        """Take no more messages; those waiting can still be drained."""
        if not self._is_closed:
            self._is_closed = True
            self._send.close()
            if self._has_room is not None:
                self._has_room.set()
                self._has_room = None

    def discard(self) -> list[M]:
        """Close it for good and return the messages nobody will read, so that their senders can be told."""
        self.close()
        left = self.drain_nowait(self._waiting)
        self._receive.close()
        return left

    def statistics(self) -> MailboxStatistics:
        """Return what it holds."""
        return MailboxStatistics(name=self.name, waiting=self._waiting, capacity=self.capacity, posted=self._posted)
