"""A run as a pure machine: `step(event) -> commands`, iterative, O(edges + elements) over a whole run.

The machine owns its state and mutates it: arrays by unit (a task's topological index, or an element's above those), counters of
ended upstreams instead of scans. It knows neither loop nor store nor clock; the scheduler feeds it events and carries out its
commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

from dagrelay.dag.plan import OUTSIDE_KINDS, TaskKind
from dagrelay.dag.trigger_rules import Verdict, evaluate
from dagrelay.engine.choices import Choices
from dagrelay.engine.maps import MapProgress
from dagrelay.engine.outcome import run_outcome
from dagrelay.engine.protocol import (
    AttemptEnded,
    AttemptStarted,
    Begin,
    CancelAttempts,
    CancelRequested,
    Command,
    EndMap,
    EndRun,
    Event,
    Expanded,
    ExpandTask,
    InterruptRequested,
    MarkTask,
    PauseRequested,
    RetryDue,
    StartTask,
    TaskProgress,
    WaitForRetry,
    WithdrawAttempts,
)
from dagrelay.model.states import (
    ENDED_TASK_STATES,
    LIVE_TASK_STATES,
    TASK_TRANSITIONS,
    RunState,
    TaskState,
    TriggerRule,
    check_task_transition,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dagrelay.dag.plan import Plan

__all__ = ("RunMachine",)


_RESTING: Final = frozenset({TaskState.PENDING, TaskState.INTERRUPTED})
_NEVER_TIRED: Final = OUTSIDE_KINDS | {TaskKind.MAPPED}
"""Kinds of tasks that do nothing themselves, so that being interrupted says nothing of them."""
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
        elements: what was recorded of elements of mapped tasks, by topological index and map index.
        max_interruptions: a task interrupted more often than that counts as failed.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        progress: Mapping[int, TaskProgress] | None = None,
        elements: Mapping[int, Mapping[int, TaskProgress]] | None = None,
        max_interruptions: int = 20,
    ) -> None:
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
        self._is_plain: list[bool] = [
            task.trigger_rule is TriggerRule.ALL_SUCCESS and not task.after_start for task in plan.tasks
        ]
        # Of each task that follows others by `after_start`: those not started yet; and how many ended without ever starting,
        # which its trigger rule takes for upstreams.
        self._unstarted: dict[int, set[int]] = {task.index: set(task.after_start) for task in plan.tasks if task.after_start}
        self._never_started: dict[int, int] = {}
        self._choices = Choices(plan)
        self.deadlines: dict[int, int] = {}
        """When the time of tasks that waited for a value from outside is up, by topological index."""
        self.lengths: dict[int, int] = {}
        """How many elements expanded tasks have, by topological index."""
        self.maps: dict[int, MapProgress] = {}
        """Tasks expanded in this part of the run, by topological index."""
        self._owners: list[MapProgress] = []  # Of each unit above the tasks' own.
        self._elements = elements or {}
        self._stopping: TaskState | None = None
        self._is_pausing = False
        self._ended = False
        for index, known in (progress or {}).items():
            self._restore(index, known)
            if known.length is not None:
                self.lengths[index] = known.length
            if known.retry_us is not None and plan.tasks[index].kind in OUTSIDE_KINDS:
                self.deadlines[index] = known.retry_us
            if known.follows is not None and known.state is TaskState.SUCCESS:
                self._choices.choose(index, known.follows)

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

    def is_active(self, unit: int) -> bool:
        """Whether a task or element is queued, running or waiting."""
        return unit in self._active

    def unit_of(self, index: int, map_index: int | None) -> int:
        """Return the unit of a task, or of an element of one that was expanded."""
        return index if map_index is None else self.maps[index].first + map_index

    def element_state(self, index: int, map_index: int) -> TaskState | None:
        """Return the state of an element; None if the task has no such element."""
        owner = self.maps.get(index)
        if owner is not None:
            return self.states[owner.first + map_index] if map_index < owner.length else None
        if map_index >= self.lengths.get(index, 0):
            return None
        known = self._elements.get(index, {}).get(map_index)
        return TaskState.PENDING if known is None else known.state

    def owner_of(self, unit: int) -> MapProgress | None:
        """Return the expanded task that an element belongs to; None for a task's own unit."""
        count = len(self.plan.tasks)
        return None if unit < count else self._owners[unit - count]

    def task_of(self, unit: int) -> int:
        """Return the topological index of the task that a unit belongs to."""
        owner = self.owner_of(unit)
        return unit if owner is None else owner.index

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
            case RetryDue(unit):
                if self._stopping is None and self.states[unit] is TaskState.UP_FOR_RETRY:
                    self._retry_us.pop(unit, None)
                    self._retry(unit, commands)
            case Expanded(index, length):
                self._expanded(index, length, commands)
            case AttemptStarted(index):
                self._leader_started(index, commands)
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
                self._choices.ended(index)
                self._count(index, state)
            if index in self.plan.followers and (self.attempts[index] or state in ENDED_TASK_STATES):
                self._note_leader(index)
        # All that no branch follows is skipped before anything is told of it, or what another branch skips would start.
        skipped: list[int] = []
        for index in self._choices:
            self._skip_others(index, commands, skipped)
        self._settle(skipped, commands)
        for index, state in enumerate(self.states):
            if state in _RESTING:
                if not self._unmet[index] or not self._is_plain[index]:
                    self._judge(index, commands)
            elif state is TaskState.UP_FOR_RETRY:
                commands.append(WaitForRetry(index, self._retry_us[index]))

    def _attempt_ended(self, event: AttemptEnded, commands: list[Command]) -> None:
        index, state = event.unit, event.state
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
        owner = self.owner_of(index)
        if owner is not None:
            self._element_ended(owner, state, commands)
        elif state in ENDED_TASK_STATES:
            self._left -= 1
            if event.follows is not None and state is TaskState.SUCCESS:
                self._choices.choose(index, event.follows)
            self._settle([index], commands)

    def _settle(self, ended: list[int], commands: list[Command]) -> None:
        """Tell the downstreams of ended tasks, and theirs in turn where a task ends without running."""
        unmet, states, is_plain = self._unmet, self.states, self._is_plain
        has_branches = self._choices.has_branches
        while ended:
            index = ended.pop()
            state = states[index]
            succeeded = state is TaskState.SUCCESS
            if has_branches:
                self._choices.ended(index)
                if index in self._choices and self._stopping is None:
                    self._skip_others(index, commands, ended)
            if index in self.plan.followers:
                self._note_leader(index, commands, ended)
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
        if self._choices.is_awaited(index):
            return
        task = self.plan.tasks[index]
        tally = self._tallies.get(index)
        if tally is None:
            met = len(task.upstream) - self._unmet[index]
            tally = [met, 0, 0, 0]
        verdict = evaluate(
            task.trigger_rule,
            upstream=len(task.upstream) + self._never_started.get(index, 0),
            success=tally[_SUCCESS],
            failed=tally[_FAILED],
            upstream_failed=tally[_UPSTREAM_FAILED],
            skipped=tally[_SKIPPED],
        )
        match verdict:
            case Verdict.WAIT:
                return
            case Verdict.READY:
                if not self._unstarted.get(index):
                    self._ready(index, commands, ended)
            case Verdict.SKIP:
                self._mark(index, TaskState.SKIPPED, commands, ended)
            case Verdict.UPSTREAM_FAILED:
                self._mark(index, TaskState.UPSTREAM_FAILED, commands, ended)
            case _ as never:
                assert_never(never)

    def _ready(self, index: int, commands: list[Command], ended: list[int] | None) -> None:
        if self.interruptions.get(index, 0) > self._max_interruptions and self.plan.tasks[index].kind not in _NEVER_TIRED:
            self._mark(index, TaskState.FAILED, commands, ended)
        else:
            self._start(index, commands)

    def _start(self, unit: int, commands: list[Command]) -> None:
        self._move(unit, TaskState.QUEUED)
        self._active.add(unit)
        self.attempts[unit] += 1
        is_whole = unit < len(self.plan.tasks) and self.plan.tasks[unit].kind is TaskKind.MAPPED
        commands.append((ExpandTask if is_whole else StartTask)(unit, self.attempts[unit]))

    def _mark(self, index: int, state: TaskState, commands: list[Command], ended: list[int] | None) -> None:
        if state is not TaskState.FAILED and self.states[index] is TaskState.INTERRUPTED:
            self._move(index, TaskState.PENDING)
        self._move(index, state)
        commands.append(MarkTask(index, state))
        owner = self.owner_of(index)
        if owner is not None:
            owner.count(state)
            return
        self._left -= 1
        if ended is None:
            self._settle([index], commands)
        else:
            ended.append(index)

    def _move(self, index: int, state: TaskState) -> None:
        old = self.states[index]
        if state not in TASK_TRANSITIONS[old]:
            check_task_transition(self.plan.task_ids[self.task_of(index)], old, state)
        self.states[index] = state

    # ----------------------------------------------------------------------------------------------------- choices

    def _skip_others(self, index: int, commands: list[Command], ended: list[int]) -> None:
        resting = [each for each in self.plan.downstream[index] if self.states[each] in _RESTING]
        for other in self._choices.left_out(index, resting):
            self._mark(other, TaskState.SKIPPED, commands, ended)

    def _leader_started(self, index: int, commands: list[Command]) -> None:
        for follower in self.plan.followers.get(index, ()):
            self._unstarted[follower].discard(index)
            if self._stopping is None and self.states[follower] in _RESTING:
                self._judge(follower, commands)

    def _note_leader(self, index: int, commands: list[Command] | None = None, ended: list[int] | None = None) -> None:
        """Let followers of a task that started, or ended, go on; one that never started counts for their trigger rules."""
        for follower in self.plan.followers[index]:
            unstarted = self._unstarted[follower]
            if index not in unstarted:
                continue
            unstarted.discard(index)
            if not self.attempts[index]:
                self._never_started[follower] = self._never_started.get(follower, 0) + 1
                self._tally(follower, self.states[index])
            if commands is not None and self._stopping is None and self.states[follower] in _RESTING:
                self._judge(follower, commands, ended)

    # ---------------------------------------------------------------------------------------------------- elements

    def _expanded(self, index: int, length: int, commands: list[Command]) -> None:
        self._move(index, TaskState.RUNNING)
        self.lengths[index] = length
        task = self.plan.tasks[index]
        owner = MapProgress(index=index, first=len(self.states), length=length, limit=task.max_concurrency, left=length)
        self.maps[index] = owner
        self.states.extend([TaskState.PENDING] * length)
        self.attempts.extend([0] * length)
        self._owners.extend([owner] * length)
        known = self._elements.get(index, {})
        for map_index, unit in enumerate(owner.units):
            if map_index not in known:
                owner.resting.append(unit)
                continue
            self._restore(unit, known[map_index])
            state = self.states[unit]
            if state in ENDED_TASK_STATES:
                owner.count(state)
            elif state is TaskState.UP_FOR_RETRY:
                commands.append(WaitForRetry(unit, self._retry_us[unit]))
            else:
                owner.resting.append(unit)
        self._leader_started(index, commands)
        self._start_elements(owner, commands)

    def _start_elements(self, owner: MapProgress, commands: list[Command]) -> None:
        """Start as many elements as may run, and end the whole once none is left."""
        while owner.resting and owner.has_room and self._stopping is None:
            unit = owner.resting.popleft()
            if self.interruptions.get(unit, 0) > self._max_interruptions:
                self._mark(unit, TaskState.FAILED, commands, None)
            else:
                owner.active += 1
                self._start(unit, commands)
        if owner.active or owner.is_ending or (owner.left and self._stopping is None):
            return
        owner.is_ending = True
        state = owner.outcome if not owner.left else self._stopping
        assert state is not None
        commands.append(EndMap(owner.index, state))

    def _element_ended(self, owner: MapProgress, state: TaskState, commands: list[Command]) -> None:
        owner.active -= 1
        if state in ENDED_TASK_STATES:
            owner.count(state)
        self._start_elements(owner, commands)

    def _retry(self, unit: int, commands: list[Command]) -> None:
        owner = self.owner_of(unit)
        if owner is None:
            self._start(unit, commands)
        else:
            owner.put_back([unit])
            self._start_elements(owner, commands)

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
        self._end_resting_maps(commands)

    def _pause(self, commands: list[Command]) -> None:
        if self._stopping is None and not self._ended:
            self._stopping, self._is_pausing = TaskState.INTERRUPTED, True
            commands.append(WithdrawAttempts())
            self._end_resting_maps(commands)

    def _end_resting_maps(self, commands: list[Command]) -> None:
        """End as a whole those mapped tasks of which nothing runs, as nothing will."""
        for owner in list(self.maps.values()):
            self._start_elements(owner, commands)

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
