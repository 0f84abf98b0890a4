"""Mapped tasks as a whole: given their elements, which is recorded before those start, and ended once all of them have."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dagrelay.errors import DagrelayError, StoreError, XComTypeError
from dagrelay.model.states import TaskState
from dagrelay.runtime.expansion import elements_at_hand, read_elements
from dagrelay.runtime.failures import error_record
from dagrelay.stores.operations import FinishAttempt, StartAttempt
from dagrelay.xcom.lineage import lineage_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dagrelay.runtime.expansion import Split
    from dagrelay.runtime.run_facts import RunFacts
    from dagrelay.runtime.sides import SideReports

__all__ = ("Wholes",)


class Wholes:
    """The mapped tasks of one run.

    Args:
        facts: what the run's attempts share.
        lengths: how many elements tasks have that were expanded before, by topological index.
        reports: where happenings go.
        on_expanded: called with a task, by topological index, and how many elements it has.
    """

    def __init__(
        self,
        facts: RunFacts,
        lengths: Mapping[int, int],
        reports: SideReports,
        *,
        on_expanded: Callable[[int, int], None],
    ) -> None:
        """Start with none expanded."""
        self._facts = facts
        self._lengths = lengths
        self._reports = reports
        self._on_expanded = on_expanded
        self._starts: dict[int, StartAttempt] = {}
        self._lineages: dict[int, str | None] = {}
        self.being_read: int = 0
        """Tasks of which what they are mapped over is being read."""

    def expand(self, index: int, attempt: int) -> None:
        """Split what a task is mapped over: at once if it is in memory, as it mostly is, since it was just handed on."""
        try:
            split = elements_at_hand(self._facts, index, attempt)
        except DagrelayError as error:
            self._fail(index, attempt, error)
            return
        if split is not None:
            self._take(index, attempt, split)
        else:
            self.being_read += 1
            self._reports.spawn(partial(self._read, index, attempt))

    async def _read(self, index: int, attempt: int) -> None:
        try:
            split = await read_elements(self._facts, index, attempt)
        except StoreError as error:
            self._reports.interrupt(error)
            self._reports.lost(index)
        except DagrelayError as error:
            self._fail(index, attempt, error)
        else:
            self._take(index, attempt, split)
        finally:
            self.being_read -= 1

    def _take(self, index: int, attempt: int, split: Split) -> None:
        data, elements = self._facts.data, split.elements
        length, known, instance = elements.length, self._lengths.get(index), data.instances[index]
        if known is not None and known != length:
            changed = f"task {instance.task_id!r} was mapped over {known:,} elements, and is now over {length:,}; retry it"
            self._fail(index, attempt, XComTypeError(changed))
            return
        self._facts.elements[index] = elements
        self._lineages[index] = split.lineage
        start = StartAttempt(
            instance=instance,
            attempt=attempt,
            started_us=self._facts.environment.now_us(),
            seq=data.book.next_seq(),
            length=length,
        )
        self._starts[index] = start
        data.book.open_attempt(instance, attempt)
        try:
            # Nothing waits for its commit: what the elements write comes after it, and so is never there without it.
            data.broker.cast(data.book, start)
        except DagrelayError as error:
            self._reports.interrupt(error)
        self._on_expanded(index, length)

    def _fail(self, index: int, attempt: int, error: DagrelayError) -> None:
        self._reports.failed(index, error)
        self.end(index, attempt, TaskState.FAILED, error)

    def end(self, index: int, attempt: int, state: TaskState, error: DagrelayError | None = None) -> None:
        """Record how a task ended as a whole."""
        data, now_us = self._facts.data, self._facts.environment.now_us()
        self._facts.elements.pop(index, None)
        start = self._starts.pop(index, None)
        if start is None:
            data.book.open_attempt(data.instances[index], attempt)
        outcome = FinishAttempt(
            instance=data.instances[index],
            attempt=attempt,
            state=state,
            started_us=now_us if start is None else start.started_us,
            ended_us=now_us,
            start_seq=data.book.next_seq() if start is None else start.seq,
            seq=data.book.next_seq(),
            error=None if error is None else error_record(error),
            failures=int(error is not None),
            lineage=self._lineages.pop(index, None) or lineage_text((), data.lineage_mark),
        )
        if not data.broker.hand_in(data.book, outcome, is_start_written=start is not None):
            self._reports.lost(index)
