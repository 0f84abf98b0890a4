"""What travels through the broker's mailbox, and how a drain of it is cut into batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from dagrelay.stores.operations import OUTSIDE, TASK_LIFETIME, AckItems, FinishAttempt, Operation, Provide, PutEntries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dagrelay.actors.reply import Reply
    from dagrelay.errors import DagrelayError
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import NewEntry
    from dagrelay.xcom.book import RunBook

__all__ = ("MAX_BATCH_BYTES", "MAX_BATCH_OPERATIONS", "Barrier", "Message", "Request", "entries_of", "split")

MAX_BATCH_OPERATIONS: Final = 1024
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024


@attrs.define(eq=False)
class Request:
    """One accepted operation on its way to the store."""

    operation: Operation
    """What to write."""
    book: RunBook | None
    """The page of its run; None for an operation on no run that may be live."""
    size: int = 0
    """Bytes of the values it carries."""
    reply: Reply[int] | None = None
    """Where its result goes; None for a cast."""
    with_start: bool = False
    """An outcome whose start was never cast, so that its events tell of it too."""
    is_settled: bool = False
    """Whether it was written, or has failed, and whoever waits was told."""
    on_settled: Callable[[DagrelayError | None], None] | None = None
    """Called then, with what it failed of, for somebody who does not wait."""

    def answer(self, result: int) -> None:
        """Tell that it is written."""
        if self.reply is not None:
            self.reply.answer(result)
        if self.on_settled is not None:
            self.on_settled(None)


@attrs.frozen
class Barrier:
    """Answered once everything before it is over."""

    reply: Reply[None]
    """Where to answer."""


Message: TypeAlias = Request | Barrier


def split(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Yield the messages in order, in batches of at most MAX_BATCH_BYTES (or of one that is larger)."""
    batch: list[Message] = []
    size = 0
    for message in messages:
        weight = message.size if isinstance(message, Request) else 0
        if batch and size + weight > MAX_BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += weight
    if batch:
        yield batch


def entries_of(operation: Operation) -> Iterator[tuple[InstanceKey, int, NewEntry]]:
    """Yield instance, slot and entry of each value that an operation stores."""
    match operation:
        case FinishAttempt():
            for entry in operation.entries:
                yield operation.instance, operation.attempt, entry
        case PutEntries():
            for entry in operation.entries:
                yield operation.instance, operation.slot, entry
        case AckItems():
            for entry in operation.entries:
                yield operation.instance, TASK_LIFETIME, entry
        case Provide():
            yield operation.instance, OUTSIDE, operation.entry
        case _:
            return
