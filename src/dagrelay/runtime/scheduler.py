"""One run's actor: feeds what happens to the pure machine and carries out its commands."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, assert_never

import anyio
import attrs

from dagrelay.engine.machine import (
    AttemptEnded,
    Begin,
    CancelAttempts,
    CancelRequested,
    Command,
    EndRun,
    InterruptRequested,
    MarkTask,
    PauseRequested,
    RetryDue,
    RunMachine,
    StartTask,
    WaitForRetry,
    WithdrawAttempts,
)
from dagrelay.errors import DagrelayError, StoreError
from dagrelay.log import get_logger
from dagrelay.model.records import ErrorRecord
from dagrelay.model.states import FINISHED_RUN_STATES, RunState, TaskState
from dagrelay.runtime.attempt import Attempt, CancelReason
from dagrelay.stores.operations import FinishAttempt, MarkInstance, PruneRuns, SetRunState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.runtime.admission import Admission
    from dagrelay.runtime.attempt import RunFacts
    from dagrelay.runtime.hosting import Hosting
    from dagrelay.runtime.timers import Timer

__all__ = ("Scheduler", "TaskEnd")


@attrs.frozen
class _Begin:
    pass


@attrs.frozen
class _Outcomes:
    outcomes: Sequence[FinishAttempt]


@attrs.frozen
class _StoreFailed:
    error: StoreError
    lost: Sequence[FinishAttempt]


@attrs.frozen
class _AttemptLost:
    index: int
    state: TaskState = TaskState.INTERRUPTED


@attrs.frozen
class _Retry:
    index: int


@attrs.frozen
class _Cancel:
    pass


@attrs.frozen
class _Interrupt:
    pass


@attrs.frozen
class _Pause:
    pass


_Message: TypeAlias = _Begin | _Outcomes | _StoreFailed | _AttemptLost | _Retry | _Cancel | _Interrupt | _Pause

_REASONS = {TaskState.CANCELLED: CancelReason.CANCELLED, TaskState.INTERRUPTED: CancelReason.INTERRUPTED}


class TaskEnd(NamedTuple):
    """How a task's latest attempt, or the task without one, ended."""

    attempt: int
    """The attempt; 0 if there was none."""
    started_us: int | None
    """When it started."""
    ended_us: int | None
    """When it ended; None if its owner died."""
    error: ErrorRecord | None
    """Why it ended badly."""


class Scheduler:
    """Runs one run. Its methods post messages, which it handles one at a time, each to its end, within the step that posts them.

    Nothing that it does for a message waits or runs a handler, so a switch to a task of its own would cost time and gain nothing;
    a message that comes of handling another waits its turn.

    Args:
        facts: what the run's attempts share.
        machine: the run's machine, not begun.
        ends: how tasks that ended in an earlier part of the run ended, by topological index.
        admission: what grants slots.
        hosting: what carries attempts.
        keep_runs: finished runs of the DAG to keep when this one ends.
    """

    # ------------------------------------------------------------------------------------------------------- handle

    def __init__(
        self,
        facts: RunFacts,
        machine: RunMachine,
        *,
        ends: dict[int, TaskEnd],
        admission: Admission[Attempt],
        hosting: Hosting,
        keep_runs: int,
    ) -> None:
        """Set up; nothing starts before `run`."""
        self.facts = facts
        self.machine = machine
        self.ends = ends
        self.state: RunState = RunState.RUNNING
        self.ended: anyio.Event = anyio.Event()
        self.ended_us: int | None = None
        self.failure: BaseException | None = None
        """What stopped the run and is to be raised by whoever awaits it: a store's fault, or a KeyboardInterrupt."""
        self.causes: dict[int, BaseException] = {}
        """Exceptions of attempts that failed in this process, by topological index."""
        self._admission = admission
        self._hosting = hosting
        self._keep_runs = keep_runs
        self._messages: deque[_Message] = deque()
        self._is_busy = True  # Until it begins, messages wait as they do while another is handled.
        self._attempts: dict[int, Attempt] = {}
        self._retries: dict[int, Timer] = {}
        self._end_state: RunState | None = None
        self._bug: Exception | None = None
        self._done = anyio.Event()

    @property
    def run_id(self) -> str:
        """The run."""
        return self.facts.data.book.run_id

    def cancel(self) -> None:
        """Ask that the run end as cancelled."""
        self._post(_Cancel())

    def interrupt(self, error: BaseException | None = None) -> None:
        """Ask that the run stop, to be resumed; `error` is then what its awaiter gets."""
        if error is not None and self.failure is None:
            self.failure = error
        self._post(_Interrupt())

    def pause(self) -> None:
        """Ask that no further task start, and that the run stop, to be resumed, once what runs has ended."""
        self._post(_Pause())

    def outcomes(self, outcomes: Sequence[FinishAttempt]) -> None:
        """Take the broker's report that attempts ended."""
        self._post(_Outcomes(outcomes))

    def store_failed(self, error: StoreError, lost: Sequence[FinishAttempt]) -> None:
        """Take the broker's report that the run's writes fail."""
        self._post(_StoreFailed(error, lost))

    def _attempt_ended(self, attempt: Attempt, is_taken: bool) -> None:  # noqa: FBT001 - the shape of a host's report
        self._attempts.pop(attempt.index, None)
        if attempt.error is not None:
            if attempt.cancel_reason is CancelReason.INTERRUPTED:
                self.interrupt(attempt.error)  # A KeyboardInterrupt or a store's fault, which concern the whole run.
            else:
                self.causes[attempt.index] = attempt.error
        if not is_taken:
            self._post(_AttemptLost(attempt.index))

    # ----------------------------------------------------------------------------------------------------- messages

    def _post(self, message: _Message) -> None:
        """Have a message handled; one that comes after the run's end is too late for it."""
        self._messages.append(message)
        if not self._is_busy:
            self._handle_all()

    def _handle_all(self) -> None:
        self._is_busy = True
        try:
            while self._messages and self._end_state is None:
                self._handle(self._messages.popleft())
        except Exception as error:  # noqa: BLE001 - a bug of ours must reach whoever awaits the run, not whoever told of an end
            self._bug = error
        if self._end_state is None and self._bug is None:
            self._is_busy = False
        else:
            self._done.set()

    async def run(self) -> None:
        """Run to the end. Shields itself; it is stopped by `cancel` and `interrupt`."""
        book, broker = self.facts.data.book, self.facts.data.broker
        self._admission.enter(self, self.facts.data.plan.max_concurrency)
        with anyio.CancelScope(shield=True):
            try:
                self._messages.appendleft(_Begin())
                self._handle_all()
                await self._record_end(await self._end())
            except Exception as error:  # noqa: BLE001 - as above
                get_logger().exception("scheduler.died", run_id=self.run_id)
                self.failure = self.failure or error
                self.state = RunState.INTERRUPTED
                for attempt in self._attempts.values():
                    attempt.cancel(CancelReason.INTERRUPTED)
            finally:
                self._is_busy = True
                self._messages.clear()
                for retry in self._retries.values():
                    retry.cancel()
                self._admission.withdraw(self)
                self._admission.leave(self)
                broker.leave_run(book)
                self.ended.set()

    async def _end(self) -> RunState:
        await self._done.wait()
        if self._end_state is None:
            assert self._bug is not None
            raise self._bug
        return self._end_state

    def _handle(self, message: _Message) -> None:
        machine, index_of = self.machine, self.facts.data.plan.index
        match message:
            case _Outcomes(outcomes):
                for outcome in outcomes:
                    self._take_outcome(index_of[outcome.instance.task_id], outcome)
            case _Begin():
                self._carry_out(machine.step(Begin()))
            case _Retry(index):
                del self._retries[index]
                self._carry_out(machine.step(RetryDue(index)))
            case _AttemptLost(index, state):
                self._lose(index, state)
            case _Cancel():
                self._carry_out(machine.step(CancelRequested()))
            case _Interrupt():
                self._carry_out(machine.step(InterruptRequested()))
            case _Pause():
                self._carry_out(machine.step(PauseRequested()))
            case _StoreFailed(error, lost):
                self.failure = self.failure or error
                self._carry_out(machine.step(InterruptRequested()))
                for outcome in lost:
                    self._lose(index_of[outcome.instance.task_id], TaskState.INTERRUPTED)
            case _ as never:
                assert_never(never)

    def _take_outcome(self, index: int, outcome: FinishAttempt) -> None:
        self.ends[index] = TaskEnd(outcome.attempt, outcome.started_us, outcome.ended_us, outcome.error)
        if outcome.failures:
            self.machine.failures[index] = outcome.failures
        if outcome.interruptions:
            self.machine.interruptions[index] = outcome.interruptions
        self._carry_out(self.machine.step(AttemptEnded(index, outcome.state, outcome.retry_us)))

    def _lose(self, index: int, state: TaskState) -> None:
        """Give up an attempt whose outcome was not stored; under PIPELINED it may have been taken already."""
        if self.machine.is_active(index):
            self._carry_out(self.machine.step(AttemptEnded(index, state)))

    # ----------------------------------------------------------------------------------------------------- commands

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case StartTask(index, number):
                    self._start(index, number)
                case MarkTask(index, state):
                    self._mark(index, state)
                case WaitForRetry(index, retry_us):
                    delay_s = self._delay_us(index, retry_us) / 1_000_000
                    self._retries[index] = self.facts.timers.after(delay_s, partial(self._post, _Retry(index)))
                case CancelAttempts(state):
                    self._withdraw(state)
                    for running in list(self._attempts.values()):
                        running.cancel(_REASONS[state])
                case WithdrawAttempts():
                    self._withdraw(TaskState.INTERRUPTED)
                case EndRun(state):
                    self._end_state = state
                case _ as never:
                    assert_never(never)

    def _delay_us(self, index: int, retry_us: int) -> int:
        """Return how long a retry is still to wait, at most what it was given: the wall clock may have been set back since."""
        delay_us, end = retry_us - self.facts.environment.now_us(), self.ends.get(index)
        return delay_us if end is None or end.ended_us is None else min(delay_us, retry_us - end.ended_us)

    def _start(self, index: int, number: int) -> None:
        attempt = Attempt(
            self.facts,
            index,
            number,
            owner=self,
            on_end=self._attempt_ended,
            failures=self.machine.failures.get(index, 0),
            interruptions=self.machine.interruptions.get(index, 0),
        )
        self._attempts[index] = attempt
        self._hosting.submit(attempt)

    def _mark(self, index: int, state: TaskState) -> None:
        data, now_us = self.facts.data, self.facts.environment.now_us()
        error = None
        if state is TaskState.FAILED:
            error = ErrorRecord(
                type="TooManyInterruptions", message="interrupted more often than Limits.max_interruptions allows"
            )
        instance = data.instances[index]
        earlier = self.ends.get(index)
        self.ends[index] = (
            TaskEnd(0, None, now_us, error) if earlier is None else TaskEnd(earlier.attempt, earlier.started_us, now_us, error)
        )
        operation = MarkInstance(instance=instance, state=state, at_us=now_us, seq=data.book.next_seq(), error=error)
        try:
            data.broker.cast(data.book, operation)
        except DagrelayError as failure:
            self.interrupt(failure)

    def _withdraw(self, state: TaskState) -> None:
        for queued in self._admission.withdraw(self):
            self._attempts.pop(queued.index, None)
            # A queued attempt leaves no trace: its number is simply not used.
            self._post(_AttemptLost(queued.index, state))

    async def _record_end(self, state: RunState) -> None:
        """Record the run's end, or at least, where not all that led to it could be stored, that it stopped."""
        try:
            await self._write_end(state)
        except DagrelayError as error:
            self.failure = self.failure or error
            state = RunState.INTERRUPTED
            with suppress(DagrelayError):  # Then it stands there as running, and is brought to rest when it is taken up.
                await self._write_end(state)
        self.state = state

    async def _write_end(self, state: RunState) -> None:
        data = self.facts.data
        self.ended_us = self.facts.environment.now_us()
        operation = SetRunState(run_id=self.run_id, state=state, at_us=self.ended_us, seq=data.book.next_seq())
        await data.broker.write(operation, data.book, then=self._prune(state, self.ended_us))

    def _prune(self, state: RunState, at_us: int) -> PruneRuns | None:
        if state not in FINISHED_RUN_STATES:
            return None
        return PruneRuns(dag_id=self.facts.data.plan.dag_id, keep=self._keep_runs, at_us=at_us)
