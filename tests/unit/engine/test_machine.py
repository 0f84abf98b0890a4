"""The machine: what starts, what is skipped, how a run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.engine.machine import RunMachine
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
from dagrelay.errors import InvalidTransitionError
from dagrelay.model.states import RunState, TaskState, TriggerRule
from tests.unit.engine.graphs import draw

if TYPE_CHECKING:
    from dagrelay.dag.plan import Plan
    from dagrelay.engine.protocol import Command

S = TaskState


class Driver:
    """A machine addressed by task ids."""

    def __init__(self, plan: Plan, **options: object) -> None:
        """Make the machine."""
        self.plan = plan
        self.machine = RunMachine(plan, **options)  # type: ignore[arg-type]

    def named(self, commands: list[Command]) -> list[object]:
        """Return commands as readable pairs."""
        shown: list[object] = []
        for command in commands:
            match command:
                case StartTask(index, attempt):
                    shown.append((self.plan.task_ids[index], attempt))
                case MarkTask(index, state):
                    shown.append((self.plan.task_ids[index], str(state)))
                case WaitForRetry(index, retry_us):
                    shown.append(("retry", self.plan.task_ids[index], retry_us))
                case CancelAttempts(state):
                    shown.append(("cancel attempts", str(state)))
                case WithdrawAttempts():
                    shown.append(("withdraw attempts",))
                case ExpandTask(index, attempt):
                    shown.append(("expand", self.plan.task_ids[index], attempt))
                case EndMap(index, state):
                    shown.append(("end map", self.plan.task_ids[index], str(state)))
                case EndRun(state):
                    shown.append(("end", str(state)))
        return shown

    def begin(self) -> list[object]:
        """Begin the run."""
        return self.named(self.machine.step(Begin()))

    def end(self, task_id: str, state: TaskState = S.SUCCESS, retry_us: int | None = None) -> list[object]:
        """Report the end of an attempt."""
        return self.named(self.machine.step(AttemptEnded(self.plan.index[task_id], state, retry_us)))


def test_an_empty_dag_succeeds_at_once() -> None:
    """Nothing to do is done."""
    assert Driver(draw("")).begin() == [("end", "success")]


def test_a_diamond_runs_its_sides_beside_each_other() -> None:
    """Readiness is per task: both sides start when the root succeeds, the join when both have."""
    run = Driver(draw("a > b c; b c > d"))
    assert run.begin() == [("a", 1)]
    assert run.end("a") == [("b", 1), ("c", 1)]
    assert run.end("c") == []
    assert run.end("b") == [("d", 1)]
    assert run.end("d") == [("end", "success")]


def test_a_failure_marks_everything_downstream_and_fails_the_run() -> None:
    """upstream_failed spreads transitively."""
    run = Driver(draw("a > b > c; x".replace("> b > c", "> b; b > c")))
    assert run.begin() == [("a", 1), ("x", 1)]
    assert run.end("a", S.FAILED) == [("b", "upstream_failed"), ("c", "upstream_failed")]
    assert run.end("x") == [("end", "failed")]


def test_a_skip_spreads_by_trigger_rule() -> None:
    """A task of the default rule is skipped with its upstream; one that only forbids failures runs."""
    run = Driver(draw("a > b c", {"c": TriggerRule.NONE_FAILED}))
    run.begin()
    assert run.end("a", S.SKIPPED) == [("b", "skipped"), ("c", 1)]
    assert run.end("c") == [("end", "success")]


def test_where_one_upstream_failed_and_another_was_skipped_the_failure_decides() -> None:
    """A join of both is upstream_failed, in either order."""
    for first, second in ((S.FAILED, S.SKIPPED), (S.SKIPPED, S.FAILED)):
        run = Driver(draw("a b > c"))
        run.begin()
        run.end("a", first)
        run.end("b", second)
        assert run.machine.states[run.plan.index["c"]] is S.UPSTREAM_FAILED
    run = Driver(draw("a b > c", {"c": TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS}))
    run.begin()
    run.end("a", S.SKIPPED)
    assert run.end("b", S.FAILED) == [("c", "upstream_failed"), ("end", "failed")]


def test_a_clean_up_leaf_masks_no_failure() -> None:
    """A leaf with all_done that succeeded counts as its upstreams, by the same rule upwards."""
    run = Driver(draw("a > b; b > tidy; tidy > last", {"tidy": TriggerRule.ALL_DONE, "last": TriggerRule.ALL_DONE}))
    run.begin()
    assert run.end("a", S.FAILED) == [("b", "upstream_failed"), ("tidy", 1)]
    assert run.end("tidy") == [("last", 1)]
    assert run.end("last") == [("end", "failed")]


def test_a_handled_failure_does_not_fail_the_run() -> None:
    """Only leaves decide: a leaf that runs because of a failure, and succeeds, ends the run well."""
    run = Driver(draw("a > rescue", {"rescue": TriggerRule.ALL_FAILED}))
    run.begin()
    assert run.end("a", S.FAILED) == [("rescue", 1)]
    assert run.end("rescue") == [("end", "success")]


def test_a_retry_waits_and_starts_the_next_attempt() -> None:
    """up_for_retry is neither an end nor a run at rest."""
    run = Driver(draw("a > b"))
    run.begin()
    assert run.end("a", S.UP_FOR_RETRY, 77) == [("retry", "a", 77)]
    assert run.named(run.machine.step(RetryDue(run.plan.index["a"]))) == [("a", 2)]
    assert run.end("a") == [("b", 1)]


def test_a_cancel_waits_for_what_runs() -> None:
    """A cancelled run ends once its last attempt has; a success that came first is kept, and starts nothing."""
    run = Driver(draw("a b > c"))
    run.begin()
    assert run.named(run.machine.step(CancelRequested())) == [("cancel attempts", "cancelled")]
    assert run.end("a") == []
    assert run.end("b", S.CANCELLED) == [("end", "cancelled")]
    assert run.machine.states == [S.SUCCESS, S.CANCELLED, S.PENDING]


def test_a_cancel_ends_waiting_retries() -> None:
    """A task between attempts is cancelled with its run."""
    run = Driver(draw("a b"))
    run.begin()
    run.end("a", S.UP_FOR_RETRY, 5)
    assert run.named(run.machine.step(CancelRequested())) == [("a", "cancelled"), ("cancel attempts", "cancelled")]
    assert run.end("b", S.UP_FOR_RETRY, 6) == [("b", "cancelled"), ("end", "cancelled")]


def test_an_interrupt_keeps_waiting_retries() -> None:
    """They go on where the run does."""
    run = Driver(draw("a b"))
    run.begin()
    run.end("a", S.UP_FOR_RETRY, 5)
    assert run.named(run.machine.step(InterruptRequested())) == [("cancel attempts", "interrupted")]
    assert run.end("b", S.INTERRUPTED) == [("end", "interrupted")]
    assert run.machine.states == [S.UP_FOR_RETRY, S.INTERRUPTED]


def test_a_cancel_wins_over_an_interrupt_in_either_order() -> None:
    """It was asked for by name."""
    for events in ((CancelRequested(), InterruptRequested()), (InterruptRequested(), CancelRequested())):
        run = Driver(draw("a"))
        run.begin()
        for event in events:
            run.machine.step(event)
        assert run.end("a", S.CANCELLED) == [("end", "cancelled")]


def test_stopping_a_run_at_rest_ends_it() -> None:
    """A run whose tasks all wait for retries has nothing to wait for."""
    run = Driver(draw("a"))
    run.begin()
    run.end("a", S.UP_FOR_RETRY, 5)
    assert run.named(run.machine.step(InterruptRequested()))[-1] == ("end", "interrupted")
    assert run.machine.step(InterruptRequested()) == []


def test_a_resumed_run_starts_what_is_left() -> None:
    """Finished tasks stay; attempt numbers go on; marks that were not recorded come out again."""
    progress = {
        0: TaskProgress(state=S.SUCCESS, attempt=1),
        1: TaskProgress(state=S.FAILED, attempt=3),
        3: TaskProgress(state=S.RUNNING, attempt=4),
    }
    run = Driver(draw("a; b > after; c"), progress=progress)
    assert run.plan.task_ids == ("a", "b", "after", "c")
    assert sorted(map(str, run.begin())) == sorted(map(str, [("c", 5), ("after", "upstream_failed")]))
    assert run.end("c") == [("end", "failed")]


def test_a_resumed_retry_keeps_its_time() -> None:
    """Waits are absolute."""
    run = Driver(draw("a"), progress={0: TaskProgress(state=S.UP_FOR_RETRY, attempt=2, retry_us=9)})
    assert run.begin() == [("retry", "a", 9)]
    assert run.named(run.machine.step(RetryDue(0))) == [("a", 3)]


def test_a_task_interrupted_too_often_fails() -> None:
    """A task that takes the process down with it must not do so for ever."""
    progress = {0: TaskProgress(state=S.INTERRUPTED, attempt=4, interruptions=3)}
    run = Driver(draw("a > b"), progress=progress, max_interruptions=2)
    assert run.begin() == [("a", "failed"), ("b", "upstream_failed"), ("end", "failed")]


def test_a_retry_due_too_late_starts_nothing() -> None:
    """Neither once the run is being stopped, nor twice."""
    run = Driver(draw("a b"))
    run.begin()
    run.end("a", S.UP_FOR_RETRY, 5)
    assert run.named(run.machine.step(RetryDue(0))) == [("a", 2)]
    assert run.machine.step(RetryDue(0)) == []
    run.machine.step(InterruptRequested())
    assert run.end("a", S.UP_FOR_RETRY, 6) == []
    assert run.machine.step(RetryDue(0)) == []
    assert run.end("b", S.INTERRUPTED) == [("end", "interrupted")]
    assert run.machine.states == [S.UP_FOR_RETRY, S.INTERRUPTED]


def test_an_interrupted_task_whose_upstreams_have_decided_otherwise_is_marked() -> None:
    """It ran before one of them was cleared, and does not run again where that has failed now."""
    progress = {0: TaskProgress(state=S.FAILED, attempt=2), 1: TaskProgress(state=S.INTERRUPTED, attempt=1)}
    run = Driver(draw("a > b"), progress=progress)
    assert run.begin() == [("b", "upstream_failed"), ("end", "failed")]


def test_an_outcome_of_nobody_is_refused() -> None:
    """A task that does not run can't end."""
    run = Driver(draw("a > b"))
    run.begin()
    with pytest.raises(InvalidTransitionError, match="'b' can't go from pending to success"):
        run.end("b")


def test_one_success_does_not_wait_and_runs_once() -> None:
    """Its other upstream's end changes nothing any more."""
    run = Driver(draw("a b > c", {"c": TriggerRule.ONE_SUCCESS}))
    run.begin()
    assert run.end("b") == [("c", 1)]
    assert run.end("a", S.FAILED) == []
    assert run.end("c") == [("end", "success")]


def test_active_matches_states() -> None:
    """What the machine counts as active is what is queued or running."""
    run = Driver(draw("a b > c"))
    run.begin()
    assert [run.machine.is_active(i) for i in range(3)] == [True, True, False]
    run.end("a")
    assert run.machine.active_count == 1
    assert not run.machine.is_ended
    assert not run.machine.is_stopping


@pytest.mark.timeout(120)
def test_a_long_chain_cascades_without_recursion(is_full: bool) -> None:
    """A failure at the root of a chain marks all of it."""
    length = 100_000 if is_full else 20_000
    run = Driver(draw(";".join(f"t{i} > t{i + 1}" for i in range(length - 1))))
    run.begin()
    commands = run.machine.step(AttemptEnded(0, S.FAILED))
    assert len(commands) == length
    assert commands[-1] == EndRun(RunState.FAILED)


def test_a_pause_lets_what_runs_end_and_starts_nothing_more() -> None:
    """Then the run is interrupted; an interruption cancels what still runs, and a pause after one changes nothing."""
    run = Driver(draw("a > c; b > d"))
    run.begin()
    assert run.named(run.machine.step(PauseRequested())) == [("withdraw attempts",)]
    assert run.named(run.machine.step(PauseRequested())) == []
    assert run.end("a") == []
    assert run.named(run.machine.step(InterruptRequested())) == [("cancel attempts", "interrupted")]
    assert run.named(run.machine.step(PauseRequested())) == []
    assert run.end("b") == [("end", "interrupted")]
    assert run.named(run.machine.step(PauseRequested())) == []


@pytest.mark.parametrize("event", [PauseRequested(), InterruptRequested()])
def test_a_run_of_which_nothing_is_left_ends_as_it_would_have(event: PauseRequested | InterruptRequested) -> None:
    """Whoever wanted it to stop was too late."""
    run = Driver(draw("a > b"))
    run.begin()
    run.end("a")
    run.machine.step(event)
    assert run.end("b") == [("end", "success")]


def test_a_paused_run_that_only_waits_ends_at_once() -> None:
    """A retry is not waited for."""
    run = Driver(draw("a > b"))
    run.begin()
    run.end("a", S.UP_FOR_RETRY, 5)
    assert run.named(run.machine.step(PauseRequested())) == [("withdraw attempts",), ("end", "interrupted")]
