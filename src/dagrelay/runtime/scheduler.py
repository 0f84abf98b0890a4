"""One run's actor: feeds what happens to the pure machine and carries out its commands."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, assert_never

import anyio
import attrs

from dagrelay.dag.plan import OUTSIDE_KINDS, TaskKind
from dagrelay.engine.protocol import (
    AttemptEnded,
    AttemptStarted,
    Begin,
    CancelAttempts,
    CancelRequested,
    Command,
    EndMap,
    EndRun,
    Expanded,
    ExpandTask,
    InterruptRequested,
    MarkTask,
    PauseRequested,
    RetryDue,
    StartTask,
    WaitForRetry,
    WithdrawAttempts,
)
from dagrelay.errors import DagrelayError, StoreError
from dagrelay.log import get_logger
from dagrelay.model.records import ErrorRecord, InstanceKey
from dagrelay.model.states import ENDED_TASK_STATES, FINISHED_RUN_STATES, RunState, TaskState
from dagrelay.runtime.attempt import Attempt, CancelReason
from dagrelay.runtime.deadlock import find_circle, find_held, work_beside
from dagrelay.runtime.outside import Outside
from dagrelay.runtime.run_facts import RunFacts, TaskEnd
from dagrelay.runtime.sides import SideReports
from dagrelay.runtime.wholes import Wholes
from dagrelay.stores.operations import FinishAttempt, MarkInstance, SetRunState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from anyio.abc import TaskGroup

    from dagrelay.engine.machine import RunMachine
    from dagrelay.runtime.admission import Admission
    from dagrelay.runtime.hosting import Hosting
    from dagrelay.runtime.retention import Retention
    from dagrelay.runtime.timers import Timer
    from dagrelay.stores.operations import PruneRuns
    from dagrelay.xcom.waiting import Waiter

__all__ = ("Scheduler",)


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
class _AttemptStarted:
    index: int


@attrs.frozen
class _Expanded:
    index: int
    length: int


@attrs.frozen
class _AttemptLost:
    unit: int
    state: TaskState = TaskState.INTERRUPTED


@attrs.frozen
class _Retry:
    unit: int


@attrs.frozen
class _Cancel:
    pass


@attrs.frozen
class _Interrupt:
    pass


@attrs.frozen
class _Pause:
    pass


_Message: TypeAlias = (
    _Begin | _Outcomes | _StoreFailed | _AttemptStarted | _Expanded | _AttemptLost | _Retry | _Cancel | _Interrupt | _Pause
)

_LOOK_AGAIN_S: Final = 0.25
_REASONS = {TaskState.CANCELLED: CancelReason.CANCELLED, TaskState.INTERRUPTED: CancelReason.INTERRUPTED}


class Scheduler:
    """Runs one run. Its methods post messages, which it handles one at a time, each to its end, within the step that posts them.

    Nothing that it does for a message waits or runs a handler, so a switch to a task of its own would cost time and gain nothing;
    a message that comes of handling another waits its turn.

    Args:
        facts: what the run's attempts share.
        machine: the run's machine, not begun.
        ends: how tasks that ended in an earlier part of the run ended, by topological index.
        element_ends: how elements did, by topological index and map index.
        admission: what grants slots.
        hosting: what carries attempts.
        retention: what is kept of the DAG's finished runs when this one ends.
    """

    # ------------------------------------------------------------------------------------------------------- handle

    def __init__(
        self,
        facts: RunFacts,
        machine: RunMachine,
        *,
        ends: dict[int, TaskEnd],
        element_ends: Mapping[int, Mapping[int, TaskEnd]],
        admission: Admission[Attempt],
        hosting: Hosting,
        retention: Retention,
    ) -> None:
        """Set up; nothing starts before `run`."""
        self.facts = facts
        self.machine = machine
        self.ends = ends
        self._element_ends = element_ends
        self.state: RunState = RunState.RUNNING
        self.ended: anyio.Event = anyio.Event()
        self.ended_us: int | None = None
        self.failure: BaseException | None = None
        """What stopped the run and is to be raised by whoever awaits it: a store's fault, or a KeyboardInterrupt."""
        self.causes: dict[int, BaseException] = {}
        """Exceptions of attempts that failed in this process, by unit."""
        self._admission = admission
        self._hosting = hosting
        self._retention = retention
        self._messages: deque[_Message] = deque()
        self._is_busy = True  # Until it begins, messages wait as they do while another is handled.
        self._attempts: dict[int, Attempt] = {}
        self._retries: dict[int, Timer] = {}
        reports = SideReports(
            failed=self.causes.__setitem__,
            lost=lambda index: self._post(_AttemptLost(index)),
            interrupt=self.interrupt,
            spawn=self._spawn,
        )
        self._outside = Outside(facts, reports)
        self._wholes = Wholes(facts, machine.lengths, reports, on_expanded=lambda i, length: self._post(_Expanded(i, length)))
        self._task_group: TaskGroup | None = None
        self._end_state: RunState | None = None
        self._bug: Exception | None = None
        self._looks_again = False
        self._is_stuck = False  # Whether it stopped as all that ran while it paused waited for one another.
        self._done = anyio.Event()

    @property
    def run_id(self) -> str:
        """The run."""
        return self.facts.data.book.run_id

    def element_end(self, index: int, map_index: int) -> tuple[TaskEnd, BaseException | None]:
        """Return how an element ended, and of which exception if that was in this process."""
        if index in self.machine.maps:
            unit = self.machine.unit_of(index, map_index)
            return self.ends[unit], self.causes.get(unit)
        return self._element_ends[index][map_index], None

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
        self._attempts.pop(attempt.unit, None)
        if attempt.error is not None:
            if attempt.cancel_reason is CancelReason.INTERRUPTED:
                self.interrupt(attempt.error)  # A KeyboardInterrupt or a store's fault, which concern the whole run.
            else:
                self.causes[attempt.unit] = attempt.error
        if not is_taken:
            self._post(_AttemptLost(attempt.unit))

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
                if self.facts.data.book.waiting.resting_count:
                    self._break_deadlock()
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
        book.waiting.on_rest = self._look_for_deadlock
        with anyio.CancelScope(shield=True):
            try:
                async with anyio.create_task_group() as self._task_group:
                    self._messages.appendleft(_Begin())
                    self._handle_all()
                    await self._done.wait()
                    self._task_group.cancel_scope.cancel()
                await self._record_end(self._ended_as())
            except Exception as error:  # noqa: BLE001 - as above
                get_logger().exception("scheduler.died", run_id=self.run_id)
                self.failure = self.failure or error
                self.state = RunState.INTERRUPTED
                for attempt in self._attempts.values():
                    attempt.cancel(CancelReason.INTERRUPTED)
            finally:
                self._is_busy = True
                book.waiting.on_rest = None
                self._messages.clear()
                for retry in self._retries.values():
                    retry.cancel()
                self._admission.withdraw(self)
                self._admission.leave(self)
                broker.leave_run(book)
                self.ended.set()

    def _ended_as(self) -> RunState:
        if self._end_state is None:
            assert self._bug is not None
            raise self._bug
        return self._end_state

    def _handle(self, message: _Message) -> None:
        machine = self.machine
        match message:
            case _Outcomes(outcomes):
                for outcome in outcomes:
                    self._take_outcome(outcome)
            case _Begin():
                self._carry_out(machine.step(Begin()))
            case _Retry(unit):
                del self._retries[unit]
                self._carry_out(machine.step(RetryDue(unit)))
            case _AttemptStarted(index):
                self._carry_out(machine.step(AttemptStarted(index)))
            case _Expanded(index, length):
                self._take_elements(index, length)
            case _AttemptLost(unit, state):
                self._lose(unit, state)
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
                    self._lose(self._unit_of(outcome), TaskState.INTERRUPTED)
            case _ as never:
                assert_never(never)

    def _unit_of(self, outcome: FinishAttempt) -> int:
        _, task_id, map_index = outcome.instance
        index = self.facts.data.plan.index[task_id]
        return index if map_index is None else self.machine.unit_of(index, map_index)

    def _take_outcome(self, outcome: FinishAttempt) -> None:
        unit = self._unit_of(outcome)
        self.ends[unit] = TaskEnd(outcome.attempt, outcome.started_us, outcome.ended_us, outcome.error)
        if outcome.failures:
            self.machine.failures[unit] = outcome.failures
        if outcome.interruptions:
            self.machine.interruptions[unit] = outcome.interruptions
        follows = None
        if outcome.follows is not None:
            follows = tuple(map(self.facts.data.plan.index.__getitem__, outcome.follows))
        self._carry_out(self.machine.step(AttemptEnded(unit, outcome.state, outcome.retry_us, follows)))
        waiting = self.facts.data.book.waiting
        if waiting and outcome.state in ENDED_TASK_STATES:
            waiting.ended(outcome.instance)

    def _lose(self, unit: int, state: TaskState) -> None:
        """Give up an attempt whose outcome was not stored; under PIPELINED it may have been taken already."""
        if self.machine.is_active(unit):
            self._carry_out(self.machine.step(AttemptEnded(unit, state)))

    # ----------------------------------------------------------------------------------------------------- commands

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case StartTask(unit, number):
                    self._start(unit, number)
                case MarkTask(unit, state):
                    self._mark(unit, state)
                case ExpandTask(index, number):
                    self._wholes.expand(index, number)
                case EndMap(index, state):
                    self._wholes.end(index, self.machine.attempts[index], state)
                case WaitForRetry(unit, retry_us):
                    delay_s = self._delay_us(unit, retry_us) / 1_000_000
                    self._retries[unit] = self.facts.timers.after(delay_s, partial(self._post, _Retry(unit)))
                case CancelAttempts(state):
                    self._withdraw(state)
                    self._outside.end_all(state)
                    for running in list(self._attempts.values()):
                        running.cancel(_REASONS[state])
                case WithdrawAttempts():
                    self._withdraw(TaskState.INTERRUPTED)
                    self._outside.end_all(TaskState.INTERRUPTED)
                case EndRun(state):
                    self._end_state = state
                case _ as never:
                    assert_never(never)

    def _delay_us(self, unit: int, retry_us: int) -> int:
        """Return how long a retry is still to wait, at most what it was given: the wall clock may have been set back since."""
        delay_us, end = retry_us - self.facts.environment.now_us(), self.ends.get(unit)
        return delay_us if end is None or end.ended_us is None else min(delay_us, retry_us - end.ended_us)

    def _start(self, unit: int, number: int) -> None:
        plan = self.facts.data.plan
        index = self.machine.task_of(unit)
        kind = plan.tasks[index].kind
        if kind is not TaskKind.PLAIN and kind in OUTSIDE_KINDS:
            self._outside.start(index, number, self.machine.deadlines.get(index))
            if index in plan.followers:
                self._post(_AttemptStarted(index))
            return
        attempt = Attempt(
            self.facts,
            unit,
            number,
            index=index,
            owner=self,
            on_end=self._attempt_ended,
            failures=self.machine.failures.get(unit, 0),
            interruptions=self.machine.interruptions.get(unit, 0),
        )
        if index in plan.followers:
            attempt.on_start = partial(self._post, _AttemptStarted(index))
        self._attempts[unit] = attempt
        self._hosting.submit(attempt)

    def _mark(self, unit: int, state: TaskState) -> None:
        data, now_us = self.facts.data, self.facts.environment.now_us()
        error = None
        if state is TaskState.FAILED:
            error = ErrorRecord(
                type="TooManyInterruptions", message="interrupted more often than Limits.max_interruptions allows"
            )
        instance = data.instances[unit]
        earlier = self.ends.get(unit)
        self.ends[unit] = (
            TaskEnd(0, None, now_us, error) if earlier is None else TaskEnd(earlier.attempt, earlier.started_us, now_us, error)
        )
        operation = MarkInstance(instance=instance, state=state, at_us=now_us, seq=data.book.next_seq(), error=error)
        try:
            data.broker.cast(data.book, operation)
        except DagrelayError as failure:
            self.interrupt(failure)
        if data.book.waiting:
            data.book.waiting.ended(instance)

    def _withdraw(self, state: TaskState) -> None:
        for queued in self._admission.withdraw(self):
            self._attempts.pop(queued.unit, None)
            # A queued attempt leaves no trace: its number is simply not used.
            self._post(_AttemptLost(queued.unit, state))

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have something done beside, which ends with the run."""
        if self._task_group is not None:
            self._task_group.start_soon(work)

    def _take_elements(self, index: int, length: int) -> None:
        run_id, task_id, _ = self.facts.data.instances[index]
        first, known = len(self.machine.states), self._element_ends.get(index, {})
        self.facts.data.instances.extend(InstanceKey(run_id, task_id, map_index) for map_index in range(length))
        self.ends.update((first + map_index, end) for map_index, end in known.items())
        self._carry_out(self.machine.step(Expanded(index, length)))

    # ----------------------------------------------------------------------------------------------------- deadlock

    def _look_for_deadlock(self, waiter: Waiter) -> None:
        held = find_held(self.facts.data.plan, self.machine, self.facts.data.book.waiting, waiter)
        if held is not None and held.let_go is not None:
            held.let_go()
        elif not self._is_busy:
            self._break_deadlock()

    def _break_deadlock(self) -> None:
        """If all that runs waits for values of the run that none of it will bring, tell one of a circle so."""
        machine, waiting = self.machine, self.facts.data.book.waiting
        if self._messages or self._outside.count or self._wholes.being_read or self._end_state is not None:
            return
        if self._retries and not machine.is_stopping:
            return
        # A whole whose elements run does nothing itself; one whose end awaits its commit is about to let others start.
        wholes = sum(1 for index, owner in machine.maps.items() if not owner.is_ending and machine.is_active(index))
        if machine.active_count - wholes > waiting.resting_count or not waiting.resting_count:
            return
        if machine.is_stopping:
            if not self._is_stuck:
                self._is_stuck = True
                self.interrupt()  # Nothing more starts that could bring it, and the run can go on later.
            return  # Those at rest are on their way to their ends; asking again within this step would never let them go it.
        if not work_beside(waiting.resting()):
            waiting.give_up(*find_circle(self.facts.data.plan, machine, waiting))
        elif not self._looks_again:
            self._looks_again = True
            self.facts.timers.after(_LOOK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        """Look once more whether nothing goes on, as nobody tells when tasks that a handler has started are done."""
        self._looks_again = False
        if not self._is_busy:
            self._break_deadlock()

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

    def _prune(self, state: RunState, at_us: int) -> tuple[PruneRuns, ...]:
        if state not in FINISHED_RUN_STATES:
            return ()
        return (self._retention.prune(self.facts.data.plan.dag_id, at_us),)
