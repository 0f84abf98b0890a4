"""Going on with a recorded run: what forbids it, and what a retry clears."""

from __future__ import annotations

import pytest

from dagrelay.dag.plan import TaskKind, body_of
from dagrelay.engine.protocol import TaskProgress
from dagrelay.engine.recovery import check_unchanged, downstream_closure, place_progress
from dagrelay.errors import DAGChangedError
from dagrelay.model.records import InstanceKey
from dagrelay.model.states import TaskState
from tests.unit.engine.graphs import draw

S = TaskState
OLD = draw("a > b; b > c")


def changes(drawing: str, **states: TaskState) -> tuple[str, ...]:
    """Return what forbids to go on with a drawing."""
    try:
        check_unchanged("r", OLD.body, draw(drawing), states)
    except DAGChangedError as error:
        return error.changes
    return ()


def test_the_same_plan_is_unchanged() -> None:
    """Whatever has finished."""
    assert changes("a > b; b > c", a=S.SUCCESS, b=S.FAILED, c=S.UPSTREAM_FAILED) == ()


def test_what_has_not_finished_may_change_in_every_way() -> None:
    """Vanish, be rewired, be joined by others."""
    assert changes("a > c; new > a2", a=S.SUCCESS, b=S.INTERRUPTED, c=S.PENDING) == ()
    assert changes("x") == ()


@pytest.mark.parametrize("state", [S.SUCCESS, S.FAILED, S.SKIPPED, S.UPSTREAM_FAILED])
def test_a_finished_task_that_vanished_is_named(state: TaskState) -> None:
    """However it ended."""
    assert changes("a > c", a=S.SUCCESS, b=state) == ("finished task 'b' is gone",)


def test_every_change_is_named_at_once() -> None:
    """New and lost upstreams alike."""
    assert changes("b > c; x > c; x > a", a=S.SUCCESS, b=S.SUCCESS, c=S.SUCCESS) == (
        "finished task 'a' was rewired (new upstream x)",
        "finished task 'b' was rewired (without a)",
        "finished task 'c' was rewired (new upstream x)",
    )
    assert changes("a; x > b", b=S.SUCCESS) == ("finished task 'b' was rewired (new upstream x; without a)",)


def test_a_finished_task_of_another_kind_is_named() -> None:
    """What a branch decided is no value of a plain task."""
    stored = body_of([("a", TaskKind.BRANCH, (), ())])
    with pytest.raises(DAGChangedError) as refused:
        check_unchanged("r", stored, draw("a"), {"a": S.SUCCESS})
    assert refused.value.changes == ("finished task 'a' was branch and is plain",)


def test_another_order_of_tasks_is_no_change() -> None:
    """Upstreams are compared by id."""
    old, new = draw("a b > c"), draw("b a > c")
    assert old.body != new.body
    check_unchanged("r", old.body, new, dict.fromkeys("abc", S.SUCCESS))


def test_progress_is_placed_by_the_new_plans_indices() -> None:
    """What the plan no longer has is left out."""
    known = TaskProgress(state=S.SUCCESS, attempt=1)
    plan = draw("x > a")
    whole, element, gone = InstanceKey("r", "a"), InstanceKey("r", "a", 3), InstanceKey("r", "gone")
    assert place_progress(plan, dict.fromkeys([whole, element, gone], known)) == (
        {plan.index["a"]: known},
        {plan.index["a"]: {3: known}},
    )


def test_the_closure_is_a_task_and_all_below_it() -> None:
    """Each once, in topological order, without recursion."""
    plan = draw("a > b c; b c > d; x > d")
    assert [plan.task_ids[index] for index in downstream_closure(plan, plan.index["b"])] == ["b", "d"]
    assert {plan.task_ids[index] for index in downstream_closure(plan, plan.index["a"])} == {"a", "b", "c", "d"}
    long = draw(";".join(f"t{number} > t{number + 1}" for number in range(5_000)))
    assert downstream_closure(long, 1) == list(range(1, 5_001))
