"""What travels through the broker's mailbox, and how a drain of it is cut into batches."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

import attrs

from dagrelay.stores.operations import (
    OUTSIDE,
    TASK_LIFETIME,
    AckItems,
    CreateRun,
    FinishAttempt,
    MarkInstance,
    Operation,
    Provide,
    PruneRuns,
    PutEntries,
    SetRunState,
    StartAttempt,
    run_id_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dagrelay.actors.reply import Reply
    from dagrelay.errors import DagrelayError
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import NewEntry
    from dagrelay.xcom.book import RunBook

__all__ = ("MAX_BATCH_BYTES", "MAX_BATCH_OPERATIONS", "Barrier", "Message", "Request", "Turns", "entries_of")

MAX_BATCH_OPERATIONS: Final = 1024
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
_SHARED_BATCH_BYTES: Final = 128 * 1024
"""Bytes of a batch while several runs write; a commit takes a fifth of the time that writing so much does."""
_LIGHT_BYTES: Final = 64 * 1024
"""What a run may hand in at once and still have its turn before others that hand in more."""
_OF_ONE_RUN: Final = frozenset({FinishAttempt, StartAttempt, MarkInstance, PutEntries, CreateRun, SetRunState, PruneRuns})
"""Operations that depend on nothing of any other run, but for pruning: it goes with the end of a run that it follows."""


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
    size: ClassVar[int] = 0
    """It carries nothing."""


Message: TypeAlias = Request | Barrier


class Turns:
    """What was drained from the mailbox and waits to be written.

    Within a run the order stays. Among runs those that hand in little come before those that flood: else a small run, of which
    one commit follows on another, would wait each time until all that another one has handed in is written.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self._light: deque[Message] = deque()
        self._rest: deque[Message] = deque()
        # Invariant: no run has something in `_light` behind something of its own in `_rest`. (test_batch: order)
        self._in_rest: Counter[str | None] = Counter()

    def __len__(self) -> int:
        """Return how many messages wait."""
        return len(self._light) + len(self._rest)

    def waiting(self) -> list[Message]:
        """Return all that waits."""
        return [*self._light, *self._rest]

    def next_batch(self, drained: list[Message], *, is_shared: bool) -> list[Message]:
        """Take what was drained, at most MAX_BATCH_OPERATIONS, and return the next batch.

        It has as many operations at the most, and so many bytes (or one operation that has more).

        Args:
            drained: what came out of the mailbox, in order.
            is_shared: whether several runs write, so that each batch keeps others waiting, and is the smaller. With one alone
                all keeps its order.
        """
        if not is_shared and not self and sum([message.size for message in drained]) <= MAX_BATCH_BYTES:
            return drained  # As nearly always.
        self._take(drained, is_shared=is_shared)
        return self._cut(_SHARED_BATCH_BYTES if is_shared else MAX_BATCH_BYTES)

    def _take(self, messages: list[Message], *, is_shared: bool) -> None:
        last = self._runs_of_much(messages) if is_shared else None
        queue = self._rest
        for message in messages:
            run_id = _run_id_of(message)
            if run_id is not None or last is None:  # Else it prunes, and goes where the end before it went.
                queue = self._rest if last is None or run_id in last or run_id in self._in_rest else self._light
            queue.append(message)
            if queue is self._rest:
                self._in_rest[run_id] += 1

    def _runs_of_much(self, messages: list[Message]) -> set[str | None] | None:
        """Return the runs whose messages come last; None if all are to keep their order."""
        sizes: Counter[str | None] = Counter()
        for message in messages:
            if not isinstance(message, Request) or type(message.operation) not in _OF_ONE_RUN:
                return None  # It may be about what stands before it, of whatever run.
            sizes[run_id_of(message.operation)] += message.size
        return {run_id for run_id, size in sizes.items() if size > _LIGHT_BYTES}

    def _cut(self, max_bytes: int) -> list[Message]:
        queue = self._light or self._rest
        batch: list[Message] = []
        size = 0
        while queue and len(batch) < MAX_BATCH_OPERATIONS:
            message = queue[0]
            size += message.size
            if batch and size > max_bytes:
                break
            batch.append(queue.popleft())
            if queue is self._rest:
                self._forget(message)
        return batch

    def _forget(self, message: Message) -> None:
        run_id = _run_id_of(message)
        self._in_rest[run_id] -= 1
        if not self._in_rest[run_id]:
            del self._in_rest[run_id]


def _run_id_of(message: Message) -> str | None:
    return run_id_of(message.operation) if isinstance(message, Request) else None


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
