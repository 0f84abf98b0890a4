"""A run as a pure machine: `step(event) -> commands`, iterative, O(edges) over a whole run.

The machine owns its state and mutates it: arrays by topological index, counters of ended upstreams instead of scans. It knows
neither loop nor store nor clock; the scheduler feeds it events and carries out its commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

import attrs

from dagrelay.dag.trigger_rules import Verdict, evaluate
from dagrelay.engine.outcome import run_outcome
from dagrelay.model.quick import quick_frozen
from dagrelay.model.states import ENDED_TASK_STATES, LIVE_TASK_STATES, RunState, TaskState, TriggerRule, check_task_transition

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dagrelay.dag.plan import Plan

__all__ = (
    "AttemptEnded",
    "Begin",
    "CancelAttempts",
    "CancelRequested",
    "Command",
    "EndRun",
    "Event",
    "InterruptRequested",
    "MarkTask",
    "PauseRequested",
    "RetryDue",
    "RunMachine",
    "StartTask",
    "TaskProgress",
    "WaitForRetry",
    "WithdrawAttempts",
)


# ---------------------------------------------------------------------------------------------------------------- events


@attrs.frozen
class Begin:
    """The run starts or goes on: everything that can start should."""


@quick_frozen
class AttemptEnded:
    """An attempt ended."""

    index: int
    """The task's topological index."""
    state: TaskState
    """success, failed, skipped, up_for_retry, cancelled or interrupted."""
    retry_us: int | None = None
    """With up_for_retry: when the next attempt may start."""


@attrs.frozen
class RetryDue:
    """The time of a waiting retry has come."""

    index: int
    """The task's topological index."""


@attrs.frozen
class CancelRequested:
    """The run shall end as cancelled."""


@attrs.frozen
class InterruptRequested:
    """The run shall stop now, to be resumed later."""


@attrs.frozen
class PauseRequested:
    """No further task shall start; once what runs has ended, the run stops, to be resumed later."""


Event: TypeAlias = Begin | AttemptEnded | RetryDue | CancelRequested | InterruptRequested | PauseRequested


# -------------------------------------------------------------------------------------------------------------- commands


@quick_frozen
class StartTask:
    """Start an attempt."""

    index: int
    """The task's topological index."""
    attempt: int
    """The attempt's number."""


@attrs.frozen
class MarkTask:
    """Record a final state of a task that is not running."""

    index: int
    """The task's topological index."""
    state: TaskState
    """skipped, upstream_failed, cancelled, or failed (interrupted too often)."""


@attrs.frozen
class WaitForRetry:
    """Send RetryDue at a time."""

    index: int
    """The task's topological index."""
    retry_us: int
    """When."""


@attrs.frozen
class CancelAttempts:
    """Cancel what runs and withdraw what is queued; each still reports its end."""

    state: TaskState
    """How they end: cancelled or interrupted."""


@attrs.frozen
class WithdrawAttempts:
    """Withdraw what is queued, and let what runs go on; each still reports its end."""


@attrs.frozen
class EndRun:
    """Nothing is left to do."""

    state: RunState
    """The run's final state, or interrupted."""


Command: TypeAlias = StartTask | MarkTask | WaitForRetry | CancelAttempts | WithdrawAttempts | EndRun


# --------------------------------------------------------------------------------------------------------------- machine


@attrs.frozen(kw_only=True)
class TaskProgress:
    """Where a task stood when its run was recorded."""

    state: TaskState
    """Its state."""
    attempt: int
    """The highest attempt number ever used."""
    failures: int = 0
    """Attempts that count against the retry budget."""
    interruptions: int = 0
    """How often it was interrupted."""
    retry_us: int | None = None
    """With up_for_retry: when the next attempt may start."""


_RESTING: Final = frozenset({TaskState.PENDING, TaskState.INTERRUPTED})
_SUCCESS, _FAILED, _SKIPPED, _UPSTREAM_FAILED = range(4)
_TALLY: Final = {
    TaskState.SUCCESS: _SUCCESS,
    TaskState.FAILED: _FAILED,
    TaskState.CANCELLED: _FAILED,
    TaskState.SKIPPED: _SKIPPED,
    TaskState.UPSTREAM_FAILED: _UPSTREAM_FAILED,
}


class RunMachine:
    """One run's state and rules.

    Args:
        plan: what to run.
        progress: what was recorded of an earlier part of the run, by topological index.
        max_interruptions: a task interrupted more often than that counts as failed.
    """

    def __init__(self, plan: Plan, *, progress: dict[int, TaskProgress] | None = None, max_interruptions: int = 20) -> None:
        """Set up the arrays; nothing starts before `Begin`."""
        count = len(plan.tasks)
        self.plan = plan
        self.states: list[TaskState] = [TaskState.PENDING] * count
        self.attempts: list[int] = [0] * count
        self.failures: dict[int, int] = {}
        self.interruptions: dict[int, int] = {}
        self._retry_us: dict[int, int] = {}
        self._max_interruptions = max_interruptions
        # Invariant: `_active` holds the indices that are queued, running or waiting. (test_machine: active matches states)
        self._active: set[int] = set()
        # Invariant: `_left` counts the tasks not in an ended state.
        self._left = count
        # How many direct upstreams have not succeeded yet: enough to serve the default rule without a tally.
        self._unmet: list[int] = [len(task.upstream) for task in plan.tasks]
        # Ended upstreams by kind (success, failed, skipped, upstream_failed), only for tasks that need more than `_unmet`.
        self._tallies: dict[int, list[int]] = {}
        # Invariant: plain are the tasks of the default rule without a tally.
        self._is_plain: list[bool] = [task.trigger_rule is TriggerRule.ALL_SUCCESS for task in plan.tasks]
        self._stopping: TaskState | None = None
        self._is_pausing = False
        self._ended = False
        for index, known in (progress or {}).items():
            self._restore(index, known)

    def _restore(self, index: int, known: TaskProgress) -> None:
        # Rows of an owner that died show `running`; opening the store marks them, but a plain image must not hang either.
        state = TaskState.INTERRUPTED if known.state in LIVE_TASK_STATES else known.state
        self.states[index] = state
        self.attempts[index] = known.attempt
        if known.failures:
            self.failures[index] = known.failures
        if known.interruptions:
            self.interruptions[index] = known.interruptions
        if state is TaskState.UP_FOR_RETRY:
            self._retry_us[index] = known.retry_us or 0

    @property
    def is_ended(self) -> bool:
        """Whether EndRun has been issued."""
        return self._ended

    @property
    def is_stopping(self) -> bool:
        """Whether the run was cancelled or interrupted."""
        return self._stopping is not None

    def is_active(self, index: int) -> bool:
        """Whether a task is queued, running or waiting."""
        return index in self._active

    @property
    def active_count(self) -> int:
        """How many tasks are queued, running or waiting."""
        return len(self._active)

    def step(self, event: Event) -> list[Command]:
        """Take one event and return the commands it leads to, in order.

        Raises:
            InvalidTransitionError: the event asks for a change that the table does not have.
        """
        commands: list[Command] = []
        match event:
            case AttemptEnded():
                self._attempt_ended(event, commands)
            case Begin():
                self._begin(commands)
            case RetryDue(index):
                if self._stopping is None and self.states[index] is TaskState.UP_FOR_RETRY:
                    self._retry_us.pop(index, None)
                    self._start(index, commands)
            case CancelRequested():
                self._stop(TaskState.CANCELLED, commands)
            case InterruptRequested():
                self._stop(TaskState.INTERRUPTED, commands)
            case PauseRequested():
                self._pause(commands)
            case _ as never:
                assert_never(never)
        self._end_if_done(commands)
        return commands

    # ------------------------------------------------------------------------------------------------------------ rules

    def _begin(self, commands: list[Command]) -> None:
        """Count what has ended, then judge every resting task once, upstreams first.

        Marks that were not recorded before a crash come out again, as they follow from what was.
        """
        for index, state in enumerate(self.states):
            if state in ENDED_TASK_STATES:
                self._left -= 1
                self._count(index, state)
        for index, state in enumerate(self.states):
            if state in _RESTING:
                if not self._unmet[index] or not self._is_plain[index]:
                    self._judge(index, commands)
            elif state is TaskState.UP_FOR_RETRY:
                commands.append(WaitForRetry(index, self._retry_us[index]))

    def _attempt_ended(self, event: AttemptEnded, commands: list[Command]) -> None:
        index, state = event.index, event.state
        if self.states[index] is TaskState.QUEUED and state is not TaskState.INTERRUPTED and state is not TaskState.CANCELLED:
            self.states[index] = TaskState.RUNNING  # As the table has it; the start was not reported apart.
        self._move(index, state)
        self._active.discard(index)
        if state is TaskState.UP_FOR_RETRY:
            if self._stopping is None:
                retry_us = event.retry_us or 0
                self._retry_us[index] = retry_us
                commands.append(WaitForRetry(index, retry_us))
            elif self._stopping is TaskState.CANCELLED:
                self._mark(index, TaskState.CANCELLED, commands, None)
        elif state is not TaskState.INTERRUPTED:
            self._left -= 1
            self._settle([index], commands)

    def _settle(self, ended: list[int], commands: list[Command]) -> None:
        """Tell the downstreams of ended tasks, and theirs in turn where a task ends without running."""
        unmet, states, is_plain = self._unmet, self.states, self._is_plain
        while ended:
            index = ended.pop()
            state = states[index]
            succeeded = state is TaskState.SUCCESS
            for downstream in self.plan.downstream[index]:
                if succeeded and is_plain[downstream]:
                    unmet[downstream] -= 1
                    if unmet[downstream] == 0 and self._stopping is None and states[downstream] in _RESTING:
                        self._ready(downstream, commands, ended)
                    continue
                self._tally(downstream, state)
                if self._stopping is None and states[downstream] in _RESTING:
                    self._judge(downstream, commands, ended)

    def _count(self, index: int, state: TaskState) -> None:
        for downstream in self.plan.downstream[index]:
            if state is TaskState.SUCCESS and self._is_plain[downstream]:
                self._unmet[downstream] -= 1
            else:
                self._tally(downstream, state)

    def _tally(self, index: int, state: TaskState) -> None:
        tally = self._tallies.get(index)
        if tally is None:
            met = len(self.plan.tasks[index].upstream) - self._unmet[index]
            tally = self._tallies[index] = [met, 0, 0, 0]
            self._is_plain[index] = False
        tally[_TALLY[state]] += 1

    def _judge(self, index: int, commands: list[Command], ended: list[int] | None = None) -> None:
        """Start a resting task, give it its final state, or leave it waiting, as its trigger rule says."""
        task = self.plan.tasks[index]
        tally = self._tallies.get(index)
        if tally is None:
            met = len(task.upstream) - self._unmet[index]
            tally = [met, 0, 0, 0]
        verdict = evaluate(
            task.trigger_rule,
            upstream=len(task.upstream),
            success=tally[_SUCCESS],
            failed=tally[_FAILED],
            upstream_failed=tally[_UPSTREAM_FAILED],
            skipped=tally[_SKIPPED],
        )
        match verdict:
            case Verdict.WAIT:
                return
            case Verdict.READY:
                self._ready(index, commands, ended)
            case Verdict.SKIP:
                self._mark(index, TaskState.SKIPPED, commands, ended)
            case Verdict.UPSTREAM_FAILED:
                self._mark(index, TaskState.UPSTREAM_FAILED, commands, ended)
            case _ as never:
                assert_never(never)

    def _ready(self, index: int, commands: list[Command], ended: list[int] | None) -> None:
        if self.interruptions.get(index, 0) > self._max_interruptions:
            self._mark(index, TaskState.FAILED, commands, ended)
        else:
            self._start(index, commands)

    def _start(self, index: int, commands: list[Command]) -> None:
        self._move(index, TaskState.QUEUED)
        self._active.add(index)
        self.attempts[index] += 1
        commands.append(StartTask(index, self.attempts[index]))

    def _mark(self, index: int, state: TaskState, commands: list[Command], ended: list[int] | None) -> None:
        if state is not TaskState.FAILED and self.states[index] is TaskState.INTERRUPTED:
            self._move(index, TaskState.PENDING)
        self._move(index, state)
        self._left -= 1
        commands.append(MarkTask(index, state))
        if ended is None:
            self._settle([index], commands)
        else:
            ended.append(index)

    def _move(self, index: int, state: TaskState) -> None:
        check_task_transition(self.plan.tasks[index].task_id, self.states[index], state)
        self.states[index] = state

    # ------------------------------------------------------------------------------------------------------- the end

    def _stop(self, state: TaskState, commands: list[Command]) -> None:
        # A cancel outlives an interrupt that comes before or after it: it was asked for by name.
        if self._ended or self._stopping is TaskState.CANCELLED or (self._stopping is state and not self._is_pausing):
            return
        self._stopping, self._is_pausing = state, False
        if state is TaskState.CANCELLED:
            self._mark_all(self._retry_us, commands)
            self._mark_all([i for i, known in enumerate(self.states) if known is TaskState.INTERRUPTED], commands)
        commands.append(CancelAttempts(state))

    def _pause(self, commands: list[Command]) -> None:
        if self._stopping is None and not self._ended:
            self._stopping, self._is_pausing = TaskState.INTERRUPTED, True
            commands.append(WithdrawAttempts())

    def _mark_all(self, indices: Iterable[int], commands: list[Command]) -> None:
        for index in list(indices):
            self._retry_us.pop(index, None)
            self._mark(index, TaskState.CANCELLED, commands, [])

    def _end_if_done(self, commands: list[Command]) -> None:
        if self._ended or self._active:
            return
        if self._stopping is TaskState.CANCELLED:
            end = RunState.CANCELLED
        elif self._left == 0:
            end = run_outcome(self.plan, self.states)  # Whoever wanted it to stop was too late.
        elif self._stopping is not None:
            end = RunState.INTERRUPTED
        else:
            return
        self._ended = True
        commands.append(EndRun(end))
