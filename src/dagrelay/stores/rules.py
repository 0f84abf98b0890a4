"""What each operation means, as pure functions from row to row; every store carries them out on its own medium.

A row is what a store keeps; a timeline event is either *derived* from a row, or *logged* once a later write would overwrite the
row it could be derived from. A row's `start_seq` is None when its start is logged (or never was).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from dagrelay.errors import InvalidTransitionError, RunIdConflictError, RunStateError, StaleAttemptError
from dagrelay.model.events import RunFinished, RunStarted, TaskStateChanged, XComDeleted
from dagrelay.model.records import Run, from_us
from dagrelay.model.states import (
    ENDED_TASK_STATES,
    LIVE_TASK_STATES,
    RunState,
    TaskState,
    check_run_transition,
    check_task_transition,
)
from dagrelay.stores.base import StoredInstance, StoredRun

if TYPE_CHECKING:
    from dagrelay.model.records import ErrorRecord, InstanceKey
    from dagrelay.stores.operations import (
        CreateRun,
        FinishAttempt,
        ForkRun,
        MarkInstance,
        ReopenRun,
        SetRunState,
        StartAttempt,
    )

__all__ = (
    "InstanceRow",
    "LoggedEvent",
    "RunRow",
    "buried_run",
    "check_deletable",
    "check_writer",
    "cleared",
    "conflict",
    "created_run",
    "derived_events",
    "ended_run",
    "finished",
    "interrupted",
    "interrupted_run",
    "is_copied",
    "marked",
    "moved",
    "reopened_run",
    "run_events",
    "run_finished",
    "run_record",
    "run_started",
    "started",
    "stored_instance",
    "stored_run",
)

_OUTCOMES: Final = (ENDED_TASK_STATES - {TaskState.UPSTREAM_FAILED}) | {TaskState.UP_FOR_RETRY, TaskState.INTERRUPTED}
_STARTS: Final = frozenset({TaskState.RUNNING, TaskState.WAITING})
_MARKS: Final = frozenset({TaskState.SKIPPED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED, TaskState.FAILED})


LoggedEvent: TypeAlias = RunStarted | RunFinished | TaskStateChanged | XComDeleted
"""What a log may hold; pushes are always derived from the entries."""


class RunRow(NamedTuple):
    """A run, or its tombstone."""

    run_id: str
    dag_id: str
    state: RunState
    is_pruned: bool
    tags: tuple[str, ...]
    params: bytes
    created_us: int
    started_us: int
    ended_us: int | None
    start_seq: int
    end_seq: int | None


class InstanceRow(NamedTuple):
    """A task instance that was touched."""

    state: TaskState
    attempt: int
    started_us: int | None
    ended_us: int | None
    start_seq: int | None
    seq: int
    error: ErrorRecord | None
    failures: int
    interruptions: int
    retry_us: int | None
    length: int | None = None
    follows: tuple[str, ...] | None = None
    lineage: str | None = None


# -------------------------------------------------------------------------------------------------- runs


def created_run(op: CreateRun | ForkRun) -> RunRow:
    """Return the row of a new run."""
    return RunRow(
        run_id=op.run_id,
        dag_id=op.dag_id,
        state=RunState.RUNNING,
        is_pruned=False,
        tags=op.tags,
        params=op.params,
        created_us=op.created_us,
        started_us=op.created_us,
        ended_us=None,
        start_seq=op.seq,
        end_seq=None,
    )


def conflict(row: RunRow) -> RunIdConflictError:
    """Return the error for a new run whose id is taken."""
    what = "belonged to a run that was deleted" if row.is_pruned else f"is that of a run of DAG {row.dag_id!r}"
    return RunIdConflictError(row.run_id, what)


def reopened_run(row: RunRow, op: ReopenRun) -> RunRow:
    """Return the row of a run that runs again.

    Raises:
        InvalidTransitionError: it is running.
    """
    check_run_transition(row.run_id, row.state, RunState.RUNNING)
    return row._replace(state=RunState.RUNNING, started_us=op.at_us, ended_us=None, start_seq=op.seq, end_seq=None)


def ended_run(row: RunRow, op: SetRunState) -> RunRow:
    """Return the row of a run that ended or was interrupted.

    Raises:
        InvalidTransitionError: it is not running.
    """
    if row.state is not RunState.RUNNING:
        raise InvalidTransitionError("run", row.run_id, row.state, op.state)
    check_run_transition(row.run_id, row.state, op.state)
    return row._replace(state=op.state, ended_us=op.at_us, end_seq=op.seq)


def interrupted_run(row: RunRow, *, now_us: int, seq: int) -> RunRow:
    """Return the row of a run whose owner is gone."""
    return row._replace(state=RunState.INTERRUPTED, ended_us=now_us, end_seq=seq)


def check_deletable(row: RunRow) -> None:
    """Raise RunStateError if the run is running."""
    if row.state is RunState.RUNNING:
        raise RunStateError(row.run_id, row.state, "it can't be deleted; cancel it first")


def buried_run(row: RunRow) -> RunRow:
    """Return the tombstone of a run."""
    return row._replace(is_pruned=True, tags=(), params=b"{}")


def run_events(row: RunRow) -> tuple[RunStarted | RunFinished, ...]:
    """Return the events derived from a run's row."""
    start = run_started(row.run_id, row.dag_id, row.start_seq, row.started_us)
    if row.end_seq is None or row.ended_us is None:
        return (start,)
    return start, run_finished(row.run_id, row.state, row.end_seq, row.ended_us)


def run_started(run_id: str, dag_id: str, seq: int, time_us: int) -> RunStarted:
    """Return the event of a run that began, or went on."""
    return RunStarted(run_id=run_id, seq=seq, time=from_us(time_us), dag_id=dag_id)


def run_finished(run_id: str, state: RunState, seq: int, time_us: int) -> RunFinished:
    """Return the event of a run that ended, or was interrupted."""
    return RunFinished(run_id=run_id, seq=seq, time=from_us(time_us), state=state)


def run_record(row: RunRow) -> Run:
    """Return the run as users see it.

    Raises:
        ValueError: the stored params are no JSON object.
    """
    params: dict[str, Any] = json.loads(row.params)
    if type(params) is not dict:
        raise ValueError("its params are no JSON object")
    return Run(
        run_id=row.run_id,
        dag_id=row.dag_id,
        state=row.state,
        params=params,
        tags=row.tags,
        created_at=from_us(row.created_us),
        started_at=from_us(row.started_us),
        ended_at=None if row.ended_us is None else from_us(row.ended_us),
    )


def stored_run(row: RunRow) -> StoredRun:
    """Return the run as `find_run` gives it."""
    return StoredRun(run=run_record(row), params=row.params, is_pruned=row.is_pruned)


# -------------------------------------------------------------------------------------------------- attempts and instances


def _check_attempt(instance: InstanceKey, row: InstanceRow | None, attempt: int, new: TaskState) -> None:
    if row is None:
        return
    if row.attempt > attempt or (row.attempt == attempt and row.state not in LIVE_TASK_STATES):
        raise StaleAttemptError(instance.run_id, instance.task_id, attempt)
    if row.attempt < attempt and (row.state in ENDED_TASK_STATES or row.state in LIVE_TASK_STATES):
        raise InvalidTransitionError("task", instance.task_id, row.state, new)


def check_writer(instance: InstanceKey, row: InstanceRow | None, attempt: int) -> None:
    """Raise StaleAttemptError if `attempt` is over, so that it can't write or delete entries."""
    if row is None:
        return
    is_over = row.attempt >= attempt and not (row.attempt == attempt and row.state in LIVE_TASK_STATES)
    if is_over or row.state in ENDED_TASK_STATES:
        raise StaleAttemptError(instance.run_id, instance.task_id, attempt)


def started(row: InstanceRow | None, op: StartAttempt) -> tuple[InstanceRow, tuple[TaskStateChanged, ...]]:
    """Return the row of an instance whose attempt runs or waits, and the events to log (as the row told of another start).

    Raises:
        StaleAttemptError: a later attempt is stored, or this one is over.
        InvalidTransitionError: an earlier attempt still runs, or ended the instance; or `op.state` is none to start in.
    """
    _check_attempt(op.instance, row, op.attempt, op.state)
    if op.state not in _STARTS:
        raise InvalidTransitionError("task", op.instance.task_id, TaskState.QUEUED, op.state)
    start = op.state, op.attempt, op.started_us, None, op.seq, op.seq, None
    if row is None:
        return InstanceRow(*start, 0, 0, op.deadline_us, op.length), ()
    length = row.length if op.length is None else op.length
    new = InstanceRow(*start, row.failures, row.interruptions, op.deadline_us, length)
    # What went from waiting to running, or back, is still the same attempt.
    return new, _start(op.instance, row) if row.state in LIVE_TASK_STATES and row.state is not op.state else ()


def finished(row: InstanceRow | None, op: FinishAttempt) -> tuple[InstanceRow, tuple[TaskStateChanged, ...]]:
    """Return the row of an instance whose attempt is over, and the events to log (as a next attempt will overwrite the row).

    Raises:
        StaleAttemptError: a later attempt is stored, or this one is over.
        InvalidTransitionError: an earlier attempt still runs, or ended the instance; or `op.state` is no outcome, or none of an
            attempt that waits.
    """
    _check_attempt(op.instance, row, op.attempt, op.state)
    if op.state not in _OUTCOMES:
        raise InvalidTransitionError("task", op.instance.task_id, TaskState.RUNNING, op.state)
    new = InstanceRow(
        op.state,
        op.attempt,
        op.started_us,
        op.ended_us,
        op.start_seq,
        op.seq,
        op.error,
        op.failures,
        op.interruptions,
        op.retry_us,
        None if row is None else row.length,
        op.follows,
        op.lineage,
    )
    if row is not None and row.state is TaskState.WAITING:
        return _waited(row, op, new)
    if op.state in ENDED_TASK_STATES:
        return new, ()
    return new._replace(start_seq=None), _history(op.instance, new)


def _waited(row: InstanceRow, op: FinishAttempt, new: InstanceRow) -> tuple[InstanceRow, tuple[TaskStateChanged, ...]]:
    """Return what `finished` does for an attempt that waited, of which the new row can't tell any more."""
    check_task_transition(op.instance.task_id, row.state, op.state)
    start = _start(op.instance, row)
    new = new._replace(start_seq=None)
    if op.state in ENDED_TASK_STATES:
        return new, start
    new = new._replace(retry_us=row.retry_us if op.retry_us is None else op.retry_us)
    return new, (*start, *_history(op.instance, new))


def marked(row: InstanceRow | None, op: MarkInstance) -> InstanceRow:
    """Return the row of an instance that ends without an attempt.

    Raises:
        InvalidTransitionError: it has ended already, or its attempt runs or waits.
    """
    old = TaskState.PENDING if row is None else row.state
    if old in ENDED_TASK_STATES or old in LIVE_TASK_STATES or op.state not in _MARKS:
        raise InvalidTransitionError("task", op.instance.task_id, old, op.state)
    if row is None:
        return InstanceRow(op.state, 0, None, op.at_us, None, op.seq, op.error, 0, 0, None)
    return row._replace(state=op.state, ended_us=op.at_us, seq=op.seq, error=op.error, retry_us=None)


def cleared(
    instance: InstanceKey, row: InstanceRow | None, *, at_us: int, seq: int
) -> tuple[InstanceRow | None, tuple[TaskStateChanged, ...]]:
    """Return the row of an instance that will run again, and the events to log; an untouched one stays so.

    Raises:
        InvalidTransitionError: its attempt runs.
    """
    if row is None or row.state is TaskState.PENDING:
        return row, ()
    if row.state in LIVE_TASK_STATES:
        raise InvalidTransitionError("task", instance.task_id, row.state, TaskState.PENDING)
    new = InstanceRow(TaskState.PENDING, row.attempt, row.started_us, row.ended_us, None, seq, None, 0, 0, None)
    return new, (*derived_events(instance, row), _change(instance, seq, at_us, row.attempt, TaskState.PENDING, None))


def interrupted(
    instance: InstanceKey, row: InstanceRow, *, now_us: int, seq: int
) -> tuple[InstanceRow, tuple[TaskStateChanged, ...]]:
    """Return the row of an instance whose owner is gone while it ran, and the events to log."""
    new = row._replace(state=TaskState.INTERRUPTED, ended_us=now_us, start_seq=None, seq=seq, interruptions=row.interruptions + 1)
    return new, (*_start(instance, row), *_history(instance, new))


def is_copied(whole: InstanceRow | None, row: InstanceRow) -> bool:
    """Tell whether a fork copies an instance, by the row of its task as a whole (the same one, if it is no element)."""
    return whole is not None and whole.state in ENDED_TASK_STATES and row.state in ENDED_TASK_STATES


def moved(row: InstanceRow, *, by: int) -> InstanceRow:
    """Return a row with its places in the timeline moved up."""
    return row._replace(start_seq=None if row.start_seq is None else row.start_seq + by, seq=row.seq + by)


def derived_events(instance: InstanceKey, row: InstanceRow) -> tuple[TaskStateChanged, ...]:
    """Return the events derived from an instance's row."""
    if row.state in ENDED_TASK_STATES:
        return _history(instance, row)
    return _start(instance, row)


def _history(instance: InstanceKey, row: InstanceRow) -> tuple[TaskStateChanged, ...]:
    end = _change(instance, row.seq, row.ended_us or 0, row.attempt, row.state, row.error)
    return (*_start(instance, row), end)


def _start(instance: InstanceKey, row: InstanceRow) -> tuple[TaskStateChanged, ...]:
    if row.start_seq is None:
        return ()
    state = TaskState.WAITING if row.state is TaskState.WAITING else TaskState.RUNNING
    return (_change(instance, row.start_seq, row.started_us or 0, row.attempt, state, None),)


def _change(
    instance: InstanceKey, seq: int, time_us: int, attempt: int, state: TaskState, error: ErrorRecord | None
) -> TaskStateChanged:
    return TaskStateChanged(
        run_id=instance.run_id,
        seq=seq,
        time=from_us(time_us),
        task_id=instance.task_id,
        map_index=instance.map_index,
        attempt=attempt,
        state=state,
        error=error,
    )


def stored_instance(instance: InstanceKey, row: InstanceRow) -> StoredInstance:
    """Return the instance as `Store.instances` gives it."""
    return StoredInstance(
        instance=instance,
        state=row.state,
        attempt=row.attempt,
        started_us=row.started_us,
        ended_us=row.ended_us,
        error=row.error,
        failures=row.failures,
        interruptions=row.interruptions,
        retry_us=row.retry_us,
        length=row.length,
        follows=row.follows,
        lineage=row.lineage,
    )
