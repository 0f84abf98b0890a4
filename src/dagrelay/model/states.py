"""The states of runs and task instances, and the one table of legal transitions."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from dagrelay.errors import InvalidTransitionError

__all__ = (
    "ENDED_TASK_STATES",
    "FINISHED_RUN_STATES",
    "LIVE_TASK_STATES",
    "RUN_TRANSITIONS",
    "TASK_TRANSITIONS",
    "RunState",
    "TaskState",
    "TriggerRule",
    "check_run_transition",
    "check_task_transition",
)


class RunState(StrEnum):
    """The state of a run."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class TaskState(StrEnum):
    """The state of a task instance."""

    __hash__ = str.__hash__  # Enum's own is written in Python, and states are looked up in sets and tables all the time.

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"
    UP_FOR_RETRY = "up_for_retry"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class TriggerRule(StrEnum):
    """When a task may start, judged on its direct upstream tasks (the names and meanings are Airflow's)."""

    ALL_SUCCESS = "all_success"
    """Every upstream succeeded."""
    ALL_FAILED = "all_failed"
    """Every upstream failed or is upstream_failed."""
    ALL_DONE = "all_done"
    """Every upstream ended, however."""
    ONE_SUCCESS = "one_success"
    """At least one upstream succeeded; does not wait for the others."""
    ONE_FAILED = "one_failed"
    """At least one upstream failed or is upstream_failed; does not wait for the others."""
    ONE_DONE = "one_done"
    """At least one upstream succeeded or failed; does not wait for the others."""
    NONE_FAILED = "none_failed"
    """Every upstream succeeded or was skipped."""
    NONE_SKIPPED = "none_skipped"
    """No upstream was skipped; all ended."""
    NONE_FAILED_MIN_ONE_SUCCESS = "none_failed_min_one_success"
    """No upstream failed and at least one succeeded."""
    ALL_SKIPPED = "all_skipped"
    """Every upstream was skipped."""
    ALWAYS = "always"
    """At once, whatever the upstreams do."""


FINISHED_RUN_STATES: Final = frozenset({RunState.SUCCESS, RunState.FAILED, RunState.CANCELLED})
"""States whose result is final until `retry` or `resume` clears it; `interrupted` is not among them."""

ENDED_TASK_STATES: Final = frozenset(
    {TaskState.SUCCESS, TaskState.FAILED, TaskState.SKIPPED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED}
)
"""States in which a task instance stays until `retry` or `resume` clears it."""

LIVE_TASK_STATES: Final = frozenset({TaskState.QUEUED, TaskState.RUNNING, TaskState.WAITING})
"""States in which a task instance's latest attempt is not over; on record of a run that nobody runs, its end was not recorded."""

_T = TaskState

TASK_TRANSITIONS: Final[dict[TaskState, frozenset[TaskState]]] = {
    _T.PENDING: frozenset({_T.QUEUED, _T.SKIPPED, _T.UPSTREAM_FAILED, _T.CANCELLED}),
    _T.QUEUED: frozenset({_T.RUNNING, _T.CANCELLED, _T.INTERRUPTED}),
    _T.RUNNING: frozenset({_T.WAITING, _T.SUCCESS, _T.FAILED, _T.SKIPPED, _T.UP_FOR_RETRY, _T.CANCELLED, _T.INTERRUPTED}),
    _T.WAITING: frozenset({_T.RUNNING, _T.SUCCESS, _T.FAILED, _T.CANCELLED, _T.INTERRUPTED}),
    _T.UP_FOR_RETRY: frozenset({_T.QUEUED, _T.CANCELLED, _T.INTERRUPTED}),
    _T.SUCCESS: frozenset({_T.PENDING}),
    _T.FAILED: frozenset({_T.PENDING}),
    _T.SKIPPED: frozenset({_T.PENDING}),
    _T.UPSTREAM_FAILED: frozenset({_T.PENDING}),
    _T.CANCELLED: frozenset({_T.PENDING}),
    _T.INTERRUPTED: frozenset({_T.PENDING, _T.QUEUED, _T.FAILED, _T.CANCELLED}),
}
"""From each state, the states a task instance may go to. `-> pending` is `retry` or `resume` clearing it."""

RUN_TRANSITIONS: Final[dict[RunState, frozenset[RunState]]] = {
    RunState.RUNNING: frozenset({RunState.SUCCESS, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED}),
    RunState.INTERRUPTED: frozenset({RunState.RUNNING, RunState.CANCELLED}),
    RunState.CANCELLED: frozenset({RunState.RUNNING}),
    RunState.FAILED: frozenset({RunState.RUNNING}),
    RunState.SUCCESS: frozenset({RunState.RUNNING}),
}
"""From each state, the states a run may go to. `-> running` is `resume` or `retry`."""


def check_task_transition(task_id: str, old: TaskState, new: TaskState) -> None:
    """Raise InvalidTransitionError unless the table lets a task instance go from `old` to `new`."""
    if new not in TASK_TRANSITIONS[old]:
        raise InvalidTransitionError("task", task_id, old, new)


def check_run_transition(run_id: str, old: RunState, new: RunState) -> None:
    """Raise InvalidTransitionError unless the table lets a run go from `old` to `new`."""
    if new not in RUN_TRANSITIONS[old]:
        raise InvalidTransitionError("run", run_id, old, new)
