"""The machine against an oracle: how tasks end depends on the DAG, and on no order, interruption or resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay import DAG, RunState, TaskState
from dagrelay.engine.machine import RunMachine
from dagrelay.engine.outcome import run_outcome
from dagrelay.engine.protocol import (
    AttemptEnded,
    Begin,
    CancelAttempts,
    CancelRequested,
    EndMap,
    EndRun,
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
from dagrelay.model.states import ENDED_TASK_STATES
from tests.property.graphs import Shape, predict, shapes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from dagrelay.dag.plan import Plan
    from dagrelay.engine.protocol import Command

pytestmark = pytest.mark.timeout(600)
S = TaskState


async def nothing() -> None:
    """Do nothing."""


def plan_of(shape: Shape) -> Plan:
    """Return a shape's plan."""
    dag = DAG("shape")
    for number, (above, rule) in enumerate(zip(shape.upstream, shape.rules, strict=True)):
        dag.add(nothing, id=f"t{number}", depends_on=[f"t{each}" for each in above], trigger_rule=rule)
    return dag.plan()


class Walk:
    """Carries out what a machine commands, in an order chosen by chance."""

    def __init__(self, shape: Shape, chance: Random, progress: dict[int, TaskProgress] | None = None) -> None:
        """Make the machine and begin."""
        self.shape = shape
        self.plan = plan_of(shape)
        self.chance = chance
        self.machine = RunMachine(self.plan, progress=progress)
        self.running: list[int] = []
        self.waiting: list[int] = []
        self.marks: dict[int, TaskState] = {}
        self.ended: RunState | None = None
        self.steps = 0
        self.starts: list[tuple[int, int]] = []
        self.failures = {} if progress is None else {index: known.failures for index, known in progress.items()}
        self._take(self.machine.step(Begin()))

    def number(self, index: int) -> int:
        """Return the task's number in the shape."""
        return int(self.plan.task_ids[index][1:])

    def _take(self, commands: Sequence[Command]) -> None:
        assert self.ended is None or not commands
        for command in commands:
            match command:
                case StartTask(index, attempt):
                    assert index not in self.running
                    self.running.append(index)
                    self.starts.append((index, attempt))
                case MarkTask(index, state):
                    assert index not in self.marks
                    self.marks[index] = state
                case WaitForRetry(index):
                    self.waiting.append(index)
                case CancelAttempts() | WithdrawAttempts():
                    pass
                case ExpandTask() | EndMap():
                    raise AssertionError("nothing is mapped here")
                case EndRun(state):
                    assert not self.running
                    self.ended = state

    def step(self) -> None:
        """End one attempt, or let one retry be due."""
        self.steps += 1
        choices = [*self.running, *self.waiting]
        index = self.chance.choice(choices)
        if index in self.waiting:
            self.waiting.remove(index)
            self._take(self.machine.step(RetryDue(index)))
            return
        self.running.remove(index)
        number = self.number(index)
        if self.failures.get(index, 0) < self.shape.failures[number]:
            self.failures[index] = self.failures.get(index, 0) + 1
            self._take(self.machine.step(AttemptEnded(index, S.UP_FOR_RETRY, 1)))
        else:
            self._take(self.machine.step(AttemptEnded(index, self.shape.endings[number])))

    def finish(self) -> None:
        """Go on to the end."""
        while self.ended is None:
            self.step()
            assert self.steps < 1_000

    def stop(self, event: InterruptRequested | CancelRequested | PauseRequested) -> RunState | None:
        """Interrupt, cancel or pause the run, report how what runs ends, and return how the run did."""
        self._take(self.machine.step(event))
        if isinstance(event, PauseRequested):
            for _ in range(self.chance.randrange(len(self.running) + 1)):
                index = self.running.pop(self.chance.randrange(len(self.running)))
                self._take(self.machine.step(AttemptEnded(index, self.shape.endings[self.number(index)])))
            if self.running:
                self._take(self.machine.step(InterruptRequested()))
        state = S.CANCELLED if isinstance(event, CancelRequested) else S.INTERRUPTED
        while self.running:
            index = self.running.pop(self.chance.randrange(len(self.running)))
            ends = self.chance.random() < 0.3  # It may have ended by itself just before.
            self._take(self.machine.step(AttemptEnded(index, self.shape.endings[self.number(index)] if ends else state)))
        return self.ended

    def states(self) -> tuple[TaskState, ...]:
        """Return states by the shape's numbers."""
        return tuple(self.machine.states[self.plan.index[f"t{number}"]] for number in range(len(self.shape)))

    def progress(self, *, keeps_marks: bool = True) -> dict[int, TaskProgress]:
        """Return what a store would have of it; without the marks if those were not written before the end."""
        return {
            index: TaskProgress(
                state=state,
                attempt=self.machine.attempts[index],
                failures=self.failures.get(index, 0),
                retry_us=1 if state is S.UP_FOR_RETRY else None,
            )
            for index, state in enumerate(self.machine.states)
            if state is not S.PENDING and (keeps_marks or index not in self.marks)
        }


@given(shape=shapes(), chance=st.randoms(use_true_random=False))
def test_every_task_ends_as_the_oracle_says_in_every_order(shape: Shape, chance: Random) -> None:
    """Order of ends, early verdicts and retries change nothing; the run's state follows from the tasks'."""
    walk = Walk(shape, chance)
    walk.finish()
    expected = predict(shape)
    assert walk.states() == expected
    assert walk.ended == run_outcome(walk.plan, walk.machine.states)
    attempts = {index: count for index, count in enumerate(walk.machine.attempts) if count}
    ran = {index: 1 + walk.failures.get(index, 0) for index in attempts}
    assert attempts == ran
    assert sorted(walk.starts) == sorted((index, attempt) for index, count in ran.items() for attempt in range(1, count + 1))
    never_ran = {index for index in range(len(shape)) if index not in attempts}
    assert set(walk.marks) == never_ran


@given(shape=shapes(), chance=st.randoms(use_true_random=False), steps=st.lists(st.integers(0, 12), min_size=1, max_size=3))
def test_a_resume_from_any_prefix_ends_the_same(shape: Shape, chance: Random, steps: list[int]) -> None:
    """Interrupted again and again: finished tasks never start again, numbers go on, and all ends as if undisturbed."""
    progress: dict[int, TaskProgress] | None = None
    for count in steps:
        walk = Walk(shape, chance, progress)
        for _ in range(count):
            if walk.ended is None:
                walk.step()
        if walk.ended is not None:
            break
        done = {index for index, state in enumerate(walk.machine.states) if state in ENDED_TASK_STATES}
        started = len(walk.starts)
        ended = walk.stop(PauseRequested() if chance.random() < 0.5 else InterruptRequested())
        assert len(walk.starts) == started
        if ended is not RunState.INTERRUPTED:  # What ran was all that was left.
            assert walk.states() == predict(shape)
            return
        assert all(walk.machine.states[index] in ENDED_TASK_STATES for index in done)
        progress = walk.progress(keeps_marks=chance.random() < 0.5)
    last = Walk(shape, chance, progress)
    for index, attempt in last.starts:
        known = (progress or {}).get(index)
        assert known is None or (known.state not in ENDED_TASK_STATES and attempt == known.attempt + 1)
    last.finish()
    assert last.states() == predict(shape)


@given(shape=shapes(), chance=st.randoms(use_true_random=False), steps=st.integers(0, 12))
def test_a_cancelled_run_starts_nothing_more_and_a_resume_ends_it_as_if_undisturbed(
    shape: Shape, chance: Random, steps: int
) -> None:
    """What had ended stays; what ran or waited is cancelled; cleared, it runs as it would have."""
    walk = Walk(shape, chance)
    for _ in range(steps):
        if walk.ended is None:
            walk.step()
    if walk.ended is not None:
        return
    started = len(walk.starts)
    walk.stop(CancelRequested())
    assert len(walk.starts) == started
    assert walk.ended is RunState.CANCELLED
    live = {S.QUEUED, S.RUNNING, S.WAITING, S.UP_FOR_RETRY, S.INTERRUPTED}
    assert live.isdisjoint(walk.machine.states)
    kept = {index: known for index, known in walk.progress().items() if known.state is not S.CANCELLED}
    again = Walk(shape, chance, kept)
    again.finish()
    assert again.states() == predict(shape)


@given(shape=shapes(max_tasks=30), chance=st.randoms(use_true_random=False))
def test_every_task_is_commanded_once_for_each_attempt(shape: Shape, chance: Random) -> None:
    """It starts, or is marked; nothing is commanded twice, however many upstreams end."""
    walk = Walk(shape, chance)
    walk.finish()
    assert len(walk.starts) + len(walk.marks) <= len(shape) + sum(shape.failures)
    assert len(walk.starts) == len(set(walk.starts))
