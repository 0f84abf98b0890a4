"""What goes into a run's machine and what comes out: events and commands, closed unions of frozen data.

A *unit* names what attempts are made of: a task of the plan, by its topological index, or an element of a mapped task, by an
index above those, which the machine gives out when the task is expanded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from dagrelay.model.quick import quick_frozen

if TYPE_CHECKING:
    from dagrelay.model.states import RunState, TaskState

__all__ = (
    "AttemptEnded",
    "AttemptStarted",
    "Begin",
    "CancelAttempts",
    "CancelRequested",
    "Command",
    "EndMap",
    "EndRun",
    "Event",
    "ExpandTask",
    "Expanded",
    "InterruptRequested",
    "MarkTask",
    "PauseRequested",
    "RetryDue",
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

    unit: int
    """The task or element."""
    state: TaskState
    """success, failed, skipped, up_for_retry, cancelled or interrupted."""
    retry_us: int | None = None
    """With up_for_retry: when the next attempt may start."""
    follows: tuple[int, ...] | None = None
    """Of a task that chooses: the direct downstreams to follow; None where all are."""


@attrs.frozen
class AttemptStarted:
    """An attempt of a task that others follow by `after_start` began."""

    index: int
    """The task's topological index."""


@attrs.frozen
class Expanded:
    """A mapped task has its elements, and that is on record, or on its way there."""

    index: int
    """The task's topological index."""
    length: int
    """How many there are."""


@attrs.frozen
class RetryDue:
    """The time of a waiting retry has come."""

    unit: int
    """The task or element."""


@attrs.frozen
class CancelRequested:
    """The run shall end as cancelled."""


@attrs.frozen
class InterruptRequested:
    """The run shall stop now, to be resumed later."""


@attrs.frozen
class PauseRequested:
    """No further task shall start; once what runs has ended, the run stops, to be resumed later."""


Event: TypeAlias = (
    Begin | AttemptEnded | AttemptStarted | Expanded | RetryDue | CancelRequested | InterruptRequested | PauseRequested
)


# -------------------------------------------------------------------------------------------------------------- commands


@quick_frozen
class StartTask:
    """Start an attempt."""

    unit: int
    """The task or element."""
    attempt: int
    """The attempt's number."""


@attrs.frozen
class ExpandTask:
    """Find out how many elements a mapped task has, record it as an attempt of the task, and report Expanded or its failure."""

    index: int
    """The task's topological index."""
    attempt: int
    """The attempt's number."""


@attrs.frozen
class EndMap:
    """Record how a mapped task ended as a whole, and report that as the end of its attempt."""

    index: int
    """The task's topological index."""
    state: TaskState
    """success, failed, skipped, cancelled or interrupted."""


@attrs.frozen
class MarkTask:
    """Record a final state of a task that is not running."""

    unit: int
    """The task or element."""
    state: TaskState
    """skipped, upstream_failed, cancelled, or failed (interrupted too often)."""


@attrs.frozen
class WaitForRetry:
    """Send RetryDue at a time."""

    unit: int
    """The task or element."""
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


Command: TypeAlias = StartTask | ExpandTask | EndMap | MarkTask | WaitForRetry | CancelAttempts | WithdrawAttempts | EndRun


# -------------------------------------------------------------------------------------------------------------- progress


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
    """With up_for_retry: when the next attempt may start; of one that waited for a value from outside: its deadline."""
    length: int | None = None
    """Of a mapped task as a whole: how many elements it has."""
    follows: tuple[int, ...] | None = None
    """Of a task that chose: the direct downstreams to follow."""
