"""States change through one table, and the table is the machine that the documents draw."""

from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.errors import InvalidTransitionError
from dagrelay.model.states import (
    ENDED_TASK_STATES,
    FINISHED_RUN_STATES,
    RUN_TRANSITIONS,
    TASK_TRANSITIONS,
    RunState,
    TaskState,
    TriggerRule,
    check_run_transition,
    check_task_transition,
)

TASK_PAIRS: Final = [(old, new) for old in TaskState for new in TaskState]
RUN_PAIRS: Final = [(old, new) for old in RunState for new in RunState]


def test_every_state_stands_in_its_table() -> None:
    """No state is forgotten, and no transition goes to a state that is none."""
    assert set(TASK_TRANSITIONS) == set(TaskState)
    assert set(RUN_TRANSITIONS) == set(RunState)
    assert set().union(*TASK_TRANSITIONS.values()) == set(TaskState)
    assert set().union(*RUN_TRANSITIONS.values()) == set(RunState)


@pytest.mark.parametrize(("old", "new"), TASK_PAIRS)
def test_a_task_instance_moves_by_the_table_only(old: TaskState, new: TaskState) -> None:
    """Each of the 121 pairs is allowed or refused with both names."""
    if new in TASK_TRANSITIONS[old]:
        check_task_transition("load", old, new)
        return
    with pytest.raises(InvalidTransitionError) as caught:
        check_task_transition("load", old, new)
    assert str(caught.value) == f"task 'load' can't go from {old} to {new}"
    assert (caught.value.old, caught.value.new) == (old, new)


@pytest.mark.parametrize(("old", "new"), RUN_PAIRS)
def test_a_run_moves_by_the_table_only(old: RunState, new: RunState) -> None:
    """Each of the 25 pairs is allowed or refused with both names."""
    if new in RUN_TRANSITIONS[old]:
        check_run_transition("r1", old, new)
        return
    with pytest.raises(InvalidTransitionError) as caught:
        check_run_transition("r1", old, new)
    assert str(caught.value) == f"run 'r1' can't go from {old} to {new}"


@pytest.mark.parametrize("state", TaskState)
def test_no_task_state_leads_to_itself(state: TaskState) -> None:
    """A change that changes nothing is a bug somewhere."""
    assert state not in TASK_TRANSITIONS[state]


@pytest.mark.parametrize("state", sorted(ENDED_TASK_STATES))
def test_an_ended_task_instance_can_only_be_cleared(state: TaskState) -> None:
    """An outcome stands until `retry` or `resume` takes it back to pending."""
    assert TASK_TRANSITIONS[state] == {TaskState.PENDING}


@pytest.mark.parametrize("state", sorted(FINISHED_RUN_STATES))
def test_a_finished_run_can_only_run_again(state: RunState) -> None:
    """A result stands until `retry` or `resume` takes the run up."""
    assert RUN_TRANSITIONS[state] == {RunState.RUNNING}


def test_only_a_running_task_succeeds_or_retries() -> None:
    """Success needs an attempt (which may be parked at the time), and so does another one."""
    to_success = {old for old, news in TASK_TRANSITIONS.items() if TaskState.SUCCESS in news}
    to_retry = {old for old, news in TASK_TRANSITIONS.items() if TaskState.UP_FOR_RETRY in news}

    assert to_success == {TaskState.RUNNING, TaskState.WAITING}
    assert to_retry == {TaskState.RUNNING}


def test_upstream_failed_comes_from_pending_only() -> None:
    """A task that was admitted has an outcome of its own."""
    assert {old for old, news in TASK_TRANSITIONS.items() if TaskState.UPSTREAM_FAILED in news} == {TaskState.PENDING}


@given(st.data())
def test_every_walk_by_the_table_can_still_come_to_an_end(data: st.DataObject) -> None:
    """From wherever legal steps lead, an ended state is within reach: no task instance is stuck for ever."""
    state = TaskState.PENDING
    for _ in range(data.draw(st.integers(0, 20), label="steps")):
        new = data.draw(st.sampled_from(sorted(TASK_TRANSITIONS[state])), label="next")
        check_task_transition("load", state, new)
        state = new

    reached = {state}
    for _ in TaskState:
        reached |= set().union(*(TASK_TRANSITIONS[known] for known in reached))

    assert reached & ENDED_TASK_STATES
    assert TaskState.CANCELLED in reached


def test_the_trigger_rules_are_airflows() -> None:
    """The names are the ones its users know."""
    assert [str(rule) for rule in TriggerRule] == [
        "all_success",
        "all_failed",
        "all_done",
        "one_success",
        "one_failed",
        "one_done",
        "none_failed",
        "none_skipped",
        "none_failed_min_one_success",
        "all_skipped",
        "always",
    ]


@pytest.mark.parametrize("name", [str(state) for kind in (RunState, TaskState, TriggerRule) for state in kind])
def test_names_are_lower_case_text(name: str) -> None:
    """What is stored and shown is the name itself."""
    assert name == name.lower()
    assert name.replace("_", "").isalpha()
