"""The timeline of a run as a closed union of frozen events."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from datetime import datetime

    from dagrelay.model.records import ErrorRecord
    from dagrelay.model.states import RunState, TaskState

__all__ = ("Event", "RunFinished", "RunStarted", "TaskStateChanged", "XComDeleted", "XComPushed")


@attrs.frozen(kw_only=True)
class _Event:
    run_id: str
    """The run it happened in."""
    seq: int
    """Its place in the run's timeline: rising, not without gaps."""
    time: datetime
    """When it happened (aware UTC); order is by `seq`, as clocks jump."""


@attrs.frozen(kw_only=True)
class RunStarted(_Event):
    """A run began, or went on after a resume or retry."""

    dag_id: str
    """The DAG."""


@attrs.frozen(kw_only=True)
class RunFinished(_Event):
    """A run ended, or was interrupted."""

    state: RunState
    """How."""


@attrs.frozen(kw_only=True)
class TaskStateChanged(_Event):
    """A task instance went into a state."""

    task_id: str
    """The task."""
    map_index: int | None
    """The place in a mapped task; None if unmapped."""
    attempt: int
    """The attempt; 0 if there was none."""
    state: TaskState
    """The state it went into."""
    error: ErrorRecord | None = None
    """Why, where it ended badly."""


@attrs.frozen(kw_only=True)
class XComPushed(_Event):
    """An entry was stored. It is seen by other tasks once its attempt has succeeded."""

    task_id: str
    """The task it belongs to."""
    map_index: int | None
    """The place in a mapped task; None if unmapped."""
    attempt: int
    """The attempt that wrote it; 0 if pushed from outside."""
    key: str
    """Its key."""
    size_bytes: int
    """Size of the encoded value."""


@attrs.frozen(kw_only=True)
class XComDeleted(_Event):
    """Entries were deleted."""

    task_id: str
    """The task they belonged to."""
    map_index: int | None
    """The place in a mapped task; None if unmapped."""
    key: str | None
    """The key; None if all of the task's entries went."""
    count: int
    """How many entries."""


Event: TypeAlias = RunStarted | RunFinished | TaskStateChanged | XComPushed | XComDeleted
