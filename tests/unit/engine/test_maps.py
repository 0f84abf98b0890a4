"""Mapped tasks in the machine: expanded, run within limits, stopped, resumed and ended, at a cost linear in the elements."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.references import each
from dagrelay.engine.machine import RunMachine
from dagrelay.engine.protocol import (
    AttemptEnded,
    Begin,
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
)
from dagrelay.model.states import RunState, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

S = TaskState


async def work(item: Any) -> Any:
    """Return the element."""
    return item


async def nothing() -> None:
    """Do nothing."""


class Mapped:
    """A machine of a mapped task and one below it, driven by map index."""

    def __init__(self, *, limit: int | None = None, **options: Any) -> None:
        """Make the machine, and begin."""
        dag = DAG("d")
        mapped = dag.add(work, id="m", bind={"item": each([])}, max_concurrency=limit)
        dag.add(nothing, id="below", depends_on=mapped)
        self.machine = RunMachine(dag.plan(), **options)
        self.commands: list[Command] = []
        self.step(Begin())

    def step(self, event: Event) -> list[Command]:
        """Take an event, and return what it leads to."""
        self.commands = self.machine.step(event)
        return self.commands

    def expand(self, length: int) -> list[Command]:
        """Give the task its elements."""
        return self.step(Expanded(0, length))

    def end(self, map_index: int, state: TaskState = S.SUCCESS, retry_us: int | None = None) -> list[Command]:
        """End an element's attempt."""
        return self.step(AttemptEnded(self.machine.unit_of(0, map_index), state, retry_us))

    @property
    def started(self) -> list[tuple[int, int]]:
        """What the last event started: map indices and attempts."""
        first = self.machine.maps[0].first
        return [(command.unit - first, command.attempt) for command in self.commands if isinstance(command, StartTask)]


def test_a_task_is_expanded_before_its_elements_start() -> None:
    """Then each is an attempt of its own, the whole ends with the last, and what is below starts after that."""
    run = Mapped()
    assert run.commands == [ExpandTask(0, 1)]
    run.expand(2)
    assert run.started == [(0, 1), (1, 1)]
    assert run.end(1) == []
    assert run.end(0) == [EndMap(0, S.SUCCESS)]
    assert run.step(AttemptEnded(0, S.SUCCESS)) == [StartTask(1, 1)]
    assert run.step(AttemptEnded(1, S.SUCCESS)) == [EndRun(RunState.SUCCESS)]


def test_without_elements_it_ends_at_once() -> None:
    """As a success."""
    assert Mapped().expand(0) == [EndMap(0, S.SUCCESS)]


@pytest.mark.parametrize(
    ("ends", "outcome"),
    [
        ([S.SUCCESS, S.SUCCESS], S.SUCCESS),
        ([S.SKIPPED, S.SUCCESS], S.SUCCESS),
        ([S.SKIPPED, S.SKIPPED], S.SKIPPED),
        ([S.FAILED, S.SKIPPED], S.FAILED),
        ([S.FAILED, S.SUCCESS], S.FAILED),
    ],
)
def test_the_whole_ends_as_its_elements_do(ends: list[TaskState], outcome: TaskState) -> None:
    """In either order."""
    for order in ((0, 1), (1, 0)):
        run = Mapped()
        run.expand(2)
        for map_index in order:
            run.end(map_index, ends[map_index])
        assert run.commands == [EndMap(0, outcome)]


def test_a_limit_holds_and_retries_go_first() -> None:
    """An element that waits for its retry takes no place; once due it goes before those that never ran."""
    run = Mapped(limit=2)
    run.expand(5)
    assert run.started == [(0, 1), (1, 1)]
    run.end(0, S.UP_FOR_RETRY, 7)
    assert run.started == [(2, 1)]
    assert WaitForRetry(run.machine.unit_of(0, 0), 7) in run.commands
    run.step(RetryDue(run.machine.unit_of(0, 0)))
    assert run.started == []
    run.end(1)
    assert run.started == [(0, 2)]
    run.end(2)
    assert run.started == [(3, 1)]


@pytest.mark.parametrize(
    ("event", "state", "run_state"),
    [
        (CancelRequested(), S.CANCELLED, RunState.CANCELLED),
        (InterruptRequested(), S.INTERRUPTED, RunState.INTERRUPTED),
        (PauseRequested(), S.INTERRUPTED, RunState.INTERRUPTED),
    ],
)
def test_a_stopped_run_ends_its_maps(event: Event, state: TaskState, run_state: RunState) -> None:
    """Once what runs of them has ended, as a whole that is stopped too; nothing more starts."""
    run = Mapped(limit=2)
    run.expand(4)
    run.end(0, S.UP_FOR_RETRY, 7)
    run.step(event)
    assert run.started == []
    run.end(1, S.SUCCESS)
    assert run.end(2, state) == [EndMap(0, state)]
    assert run.step(AttemptEnded(0, state))[-1] == EndRun(run_state)


@pytest.mark.parametrize("event", [CancelRequested(), InterruptRequested(), PauseRequested()])
def test_a_map_of_which_nothing_runs_is_ended_by_a_stop(event: Event) -> None:
    """As all that is left of it waits for retries."""
    run = Mapped()
    run.expand(1)
    run.end(0, S.UP_FOR_RETRY, 7)
    run.step(event)
    assert [command.index for command in run.commands if isinstance(command, EndMap)] == [0]


def resumed(elements: Mapping[int, TaskProgress], **options: Any) -> Mapped:
    """Return a machine of a run of three elements that was interrupted."""
    whole = TaskProgress(state=S.INTERRUPTED, attempt=1, length=3)
    return Mapped(progress={0: whole}, elements={0: elements}, **options)


def test_a_resume_runs_what_is_left() -> None:
    """Ended elements are counted, attempts go on, retries are waited for."""
    run = resumed({0: TaskProgress(state=S.SUCCESS, attempt=2), 1: TaskProgress(state=S.UP_FOR_RETRY, attempt=1, retry_us=5)})
    assert run.commands == [ExpandTask(0, 2)]
    assert run.machine.element_state(0, 0) is S.SUCCESS
    assert run.machine.element_state(0, 2) is S.PENDING
    assert run.machine.element_state(0, 3) is None
    run.expand(3)
    assert run.started == [(2, 1)]
    assert WaitForRetry(run.machine.unit_of(0, 1), 5) in run.commands
    run.end(2)
    run.step(RetryDue(run.machine.unit_of(0, 1)))
    assert run.started == [(1, 2)]
    assert run.end(1) == [EndMap(0, S.SUCCESS)]


def test_all_elements_may_have_ended_before() -> None:
    """Only the end of the whole was lost: nothing runs again."""
    run = resumed(dict.fromkeys(range(3), TaskProgress(state=S.SUCCESS, attempt=1)))
    assert run.expand(3) == [EndMap(0, S.SUCCESS)]


def test_an_element_interrupted_too_often_fails() -> None:
    """It alone; and its whole fails at the end."""
    run = resumed({1: TaskProgress(state=S.INTERRUPTED, attempt=4, interruptions=4)}, max_interruptions=3)
    run.expand(3)
    assert run.started == [(0, 1), (2, 1)]
    assert MarkTask(run.machine.unit_of(0, 1), S.FAILED) in run.commands
    run.end(0)
    assert run.end(2) == [EndMap(0, S.FAILED)]


@pytest.mark.parametrize("size", [100_000])
def test_the_cost_is_linear_in_the_elements(size: int) -> None:
    """Lines executed for each element stay the same, however many there are."""
    costs = [_lines(lambda length=length: _run(length)) / length for length in (size // 100, size // 10)]
    assert costs[1] < costs[0] * 1.2
    assert _run(size) == size + 2


def _run(length: int) -> int:
    """Run a map to its end and return how many attempts there were, the whole's and that of the task below included."""
    run = Mapped(limit=64)
    run.expand(length)
    pending = [command.unit for command in run.commands if isinstance(command, StartTask)]
    attempts = 1
    for _ in range(2 * length + 10):
        if not pending:
            break
        attempts += 1
        for command in run.step(AttemptEnded(pending.pop(), S.SUCCESS)):
            match command:
                case StartTask(unit):
                    pending.append(unit)
                case EndMap(index, state):
                    pending += [each.unit for each in run.step(AttemptEnded(index, state)) if isinstance(each, StartTask)]
                case _:
                    assert isinstance(command, EndRun)
    assert run.machine.is_ended
    return attempts


def _lines(action: Any) -> int:
    """Return how many lines of Python an action executes: unlike seconds, the same on every machine."""
    count = 0

    def trace(_frame: Any, event: str, _arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


def test_a_decision_is_applied_whole_before_anything_starts() -> None:
    """On resume, with the marks of two branches lost: what the second skips is not started by what the first skips."""
    dag = DAG("d")
    for name in ("one", "two"):
        dag.branch(id=name)(_choose)
        dag.add(nothing, id=f"{name}_other", depends_on=name)
    dag.add(nothing, id="shared", depends_on=["one", "two", "one_other", "two_other"], trigger_rule="none_failed")
    plan = dag.plan()
    follows = {"one": (plan.index["shared"],), "two": ()}
    progress = {plan.index[name]: TaskProgress(state=S.SUCCESS, attempt=1, follows=chosen) for name, chosen in follows.items()}
    commands = RunMachine(plan, progress=progress).step(Begin())
    assert not [command for command in commands if isinstance(command, StartTask)]
    marked = {plan.task_ids[command.unit] for command in commands if isinstance(command, MarkTask)}
    assert marked == {"one_other", "two_other", "shared"}


async def _choose() -> None:
    """Choose nothing."""


def test_a_branch_over_thousands_is_quick() -> None:
    """What its choice leads to is walked once, not searched for each pair."""
    costs: list[float] = []
    for size in (200, 800):
        dag = DAG("d")
        branch = dag.branch(id="b")(_choose)
        for number in range(size):
            dag.add(nothing, id=f"t{number}", depends_on=branch)
        plan = dag.plan()
        machine = RunMachine(plan)
        machine.step(Begin())
        ended = AttemptEnded(0, S.SUCCESS, None, tuple(range(1, size + 1, 2)))
        costs.append(_lines(lambda machine=machine, ended=ended: machine.step(ended)) / size)
    assert all(after < before * 1.2 for before, after in pairwise(costs))
