"""Tasks whose values come from outside: without a slot they wait, over restarts too, until the value is there or time is up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs

from dagrelay.errors import DagrelayError, StaleAttemptError, StoreError, TaskTimeoutError
from dagrelay.model.states import TaskState
from dagrelay.runtime.failures import error_record
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, FinishAttempt, StartAttempt
from dagrelay.xcom.lineage import lineage_text

if TYPE_CHECKING:
    from dagrelay.model.records import ErrorRecord
    from dagrelay.runtime.run_facts import RunFacts
    from dagrelay.runtime.sides import SideReports
    from dagrelay.runtime.timers import Timer

__all__ = ("Outside",)


@attrs.define(eq=False, kw_only=True)
class _Wait:
    index: int
    attempt: int
    started_us: int
    start_seq: int
    timer: Timer | None = None
    is_late: bool = False
    news: int = 0  # How often it was told to look; whoever looks after that sees what there is to be seen.


class Outside:
    """Such tasks of one run.

    Args:
        facts: what the run's attempts share.
        reports: where what happens goes.
    """

    def __init__(self, facts: RunFacts, reports: SideReports) -> None:
        """Start with none."""
        self._facts = facts
        self._reports = reports
        self._waits: dict[int, _Wait] = {}

    @property
    def count(self) -> int:
        """How many wait."""
        return len(self._waits)

    def start(self, index: int, attempt: int, deadline_us: int | None) -> None:
        """Have a task wait.

        Args:
            index: its topological index.
            attempt: the attempt's number.
            deadline_us: when its time is up, if an earlier part of the run has begun to wait.
        """
        data, now_us = self._facts.data, self._facts.environment.now_us()
        task, instance = data.plan.tasks[index], data.instances[index]
        if deadline_us is None and task.timeout_s is not None:
            deadline_us = now_us + round(task.timeout_s * 1_000_000)
        wait = _Wait(index=index, attempt=attempt, started_us=now_us, start_seq=data.book.next_seq())
        self._waits[index] = wait
        data.book.open_attempt(instance, attempt)
        operation = StartAttempt(
            instance=instance,
            attempt=attempt,
            started_us=now_us,
            seq=wait.start_seq,
            state=TaskState.WAITING,
            deadline_us=deadline_us,
        )
        data.broker.cast(data.book, operation)
        look = partial(self._look_soon, wait)
        data.book.waiting.watch(instance, RETURN_VALUE, look)
        if deadline_us is not None:
            delay_s = max(0, deadline_us - now_us) / 1_000_000
            wait.timer = self._facts.timers.after(delay_s, partial(self._expire, wait))
        look()  # It may have come before.

    def end_all(self, state: TaskState) -> None:
        """End all that wait, as cancelled or interrupted."""
        for wait in list(self._waits.values()):
            self._finish(wait, state)

    def _look_soon(self, wait: _Wait) -> None:
        wait.news += 1
        self._reports.spawn(partial(self._look, wait))

    def _expire(self, wait: _Wait) -> None:
        wait.is_late = True
        self._look_soon(wait)

    async def _look(self, wait: _Wait) -> None:
        """Take the value if it is there, and see whether it is one of the task's type; if not, and time is up, fail."""
        data, news = self._facts.data, wait.news
        lookup = Lookup(instance=data.instances[wait.index], key=RETURN_VALUE, slots=(OUTSIDE,))
        try:
            (found,) = await data.broker.find([lookup])
            if found is None:
                # What is stored, or on its way there, by now is taken: whoever gave it was, or will be, told that it is.
                is_coming = wait.news != news or data.book.waiting.is_being_given(data.instances[wait.index])
                if wait.is_late and not is_coming:
                    task = data.plan.tasks[wait.index]
                    self._fail(wait, TaskTimeoutError(task.task_id, wait.attempt, task.timeout_s or 0.0, is_outside=True))
                return
            data.door.decode(found.serializer, found.value, data.plan.tasks[wait.index].return_type)
        except StoreError as error:
            self._reports.interrupt(error)
        except DagrelayError as error:
            self._fail(wait, error)
        else:
            if self._waits.get(wait.index) is wait:
                self._finish(wait, TaskState.SUCCESS)

    def _fail(self, wait: _Wait, error: DagrelayError) -> None:
        if self._waits.get(wait.index) is wait:
            self._reports.failed(wait.index, error)
            self._finish(wait, TaskState.FAILED, error_record(error))

    def _finish(self, wait: _Wait, state: TaskState, error: ErrorRecord | None = None) -> None:
        data = self._facts.data
        del self._waits[wait.index]
        instance = data.instances[wait.index]
        data.book.waiting.unwatch(instance, RETURN_VALUE)
        if wait.timer is not None:
            wait.timer.cancel()
        outcome = FinishAttempt(
            instance=instance,
            attempt=wait.attempt,
            state=state,
            started_us=wait.started_us,
            ended_us=self._facts.environment.now_us(),
            start_seq=wait.start_seq,
            seq=data.book.next_seq(),
            error=error,
            failures=int(state is TaskState.FAILED),
            lineage=lineage_text((), data.lineage_mark),
        )
        try:
            is_taken = data.broker.hand_in(data.book, outcome, is_start_written=True)
        except StaleAttemptError:
            is_taken = False
        if not is_taken:
            self._reports.lost(wait.index)
