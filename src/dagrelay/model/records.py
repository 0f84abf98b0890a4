"""What the store remembers, as users see it: frozen records of runs, task instances and XCom entries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagrelay.model.states import RunState, TaskState

__all__ = (
    "FORK_TAG",
    "Approval",
    "AttemptReads",
    "EntryRead",
    "ErrorRecord",
    "InstanceKey",
    "Run",
    "TaskInstance",
    "TaskStatistics",
    "XComEntry",
    "XComValue",
    "from_us",
    "to_us",
)

XComValue: TypeAlias = "bool | int | float | str | list[XComValue] | dict[str, XComValue] | None"
"""What JSON can say exactly; other types reach it through the converter."""

FORK_TAG: Final = "fork-of:"
"""What the tag of a forked run begins with, before the id of the run that it was forked from."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def from_us(us: int) -> datetime:
    """Return the aware UTC datetime of a count of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def to_us(moment: datetime) -> int:
    """Return the microseconds since 1970 of an aware datetime, exactly (a float of seconds would round)."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


class InstanceKey(NamedTuple):
    """What names a task instance: a task in a run, and its place in a mapped task."""

    run_id: str
    task_id: str
    map_index: int | None = None


@attrs.frozen(kw_only=True)
class ErrorRecord:
    """Why an attempt ended badly, as text: no object is ever rebuilt from it."""

    type: str
    """Name of the exception's class, or of the reason ("Skip")."""
    message: str
    """`str()` of the exception."""
    traceback: str = ""
    """The formatted traceback from the handler's frame on; empty when there was none."""

    def __str__(self) -> str:
        """Return `Type: message`, as the last line of a traceback."""
        return f"{self.type}: {self.message}" if self.message else self.type


@attrs.frozen
class Approval:
    """Somebody's answer to a task made by `dag.approval`."""

    approved: bool
    """Whether they agreed."""
    by: str = ""
    """Who they are, as they said."""
    note: str = ""
    """Their words on it."""


@attrs.frozen(kw_only=True)
class Run:
    """A run of a DAG."""

    run_id: str
    """Unique in its store, for ever."""
    dag_id: str
    """The DAG it runs."""
    state: RunState
    """Where it stands."""
    params: Mapping[str, Any]
    """The params it was started with, as plain JSON values."""
    tags: tuple[str, ...] = ()
    """The DAG's tags at the start; of a fork also `fork-of:` and the id of the run that it was forked from."""
    created_at: datetime
    """When it was recorded (aware UTC)."""
    started_at: datetime
    """When it last began to run: the creation, or the latest resume or retry (aware UTC)."""
    ended_at: datetime | None = None
    """When it ended or was interrupted (aware UTC); None while it runs."""

    @property
    def forked_from(self) -> str | None:
        """The run that it was forked from; None if it was not. It is kept as a tag, `fork-of:` and the run's id."""
        return next((tag.removeprefix(FORK_TAG) for tag in reversed(self.tags) if tag.startswith(FORK_TAG)), None)


@attrs.frozen(kw_only=True)
class TaskInstance:
    """A task in a run."""

    run_id: str
    """The run."""
    task_id: str
    """The task."""
    map_index: int | None = None
    """The place in a mapped task; None if unmapped."""
    state: TaskState
    """Where it stands."""
    attempt: int = 0
    """The latest attempt, counted from 1; 0 before the first."""
    started_at: datetime | None = None
    """When the latest attempt started (aware UTC)."""
    ended_at: datetime | None = None
    """When the latest attempt ended (aware UTC)."""
    error: ErrorRecord | None = None
    """Why the latest attempt failed, was skipped or was interrupted."""


@attrs.frozen(kw_only=True)
class XComEntry:
    """One value handed on, without its bytes."""

    run_id: str
    """The run it belongs to."""
    dag_id: str | None
    """The run's DAG; None if it was pushed outside any run."""
    task_id: str
    """The task it belongs to."""
    map_index: int | None = None
    """The place in a mapped task; None if unmapped."""
    key: str
    """Its key; `return_value` for what a handler returned."""
    value: Any = None
    """The decoded value where it was asked for, else None; masked as None when sensitive."""
    size_bytes: int
    """Size of the encoded value."""
    timestamp: datetime
    """When it was pushed (aware UTC)."""
    attempt: int
    """The attempt that wrote it, counted from 1; 0 if pushed from outside."""
    lifetime: str = "attempt"
    """`attempt` or `task`; `run` for one pushed from outside."""
    state: TaskState | None = None
    """State of the attempt that wrote it (with `all_attempts`); None for one pushed from outside."""
    serializer: str
    """Name of the serializer that wrote it."""
    description: str = ""
    """The pusher's words on it."""
    sensitive: bool = False
    """Whether faces mask it."""


@attrs.frozen(kw_only=True)
class EntryRead:
    """An XCom entry that an attempt has read, by what names it."""

    run_id: str
    """The run it belongs to: the reader's own, an earlier one, or the one that the reader's was forked from."""
    task_id: str
    """The task it belongs to."""
    map_index: int | None = None
    """The place in a mapped task; None if unmapped, and for all its elements together."""
    key: str
    """Its key."""
    attempt: int | None
    """The attempt that wrote it; 0 if it was pushed from outside, -1 if it is kept over its task's attempts (`lifetime="task"`,
    or a stream with numbered items). None for what all elements of a mapped task have under the key, read as one list."""
    is_stream: bool = False
    """Whether it is no value but a stream, of which at least one item was read."""


@attrs.frozen(kw_only=True)
class AttemptReads:
    """What the latest attempt of a task instance has read: a part of a run's lineage."""

    run_id: str
    """The run of the attempt; in a fork, for what was copied, the run that it was forked from."""
    task_id: str
    """Its task."""
    map_index: int | None = None
    """The place in a mapped task. Without, of a mapped task: the reads of what it was mapped over."""
    attempt: int
    """Its number."""
    reads: tuple[EntryRead, ...]
    """What it has read, each entry once, in order."""
    left_out: int = 0
    """How many reads more there were, beyond the first thousand entries."""


@attrs.frozen(kw_only=True)
class TaskStatistics:
    """How a task has done over the runs of its DAG that the store still has; of a mapped task its elements are counted."""

    task_id: str
    """The task."""
    runs: int
    """Runs in which an attempt of it has started."""
    instances: int
    """Its instances of which an attempt has started: one a run, or of a mapped task its elements."""
    attempts: int
    """Attempts of these, whatever became of them."""
    p50_s: float | None
    """Median of the seconds that the last attempts took which succeeded or failed (nearest rank); None if there are none."""
    p90_s: float | None
    """Their 90th percentile."""
    p99_s: float | None
    """Their 99th percentile."""
    failure_rate: float
    """Share of instances that failed among those that succeeded or failed; 0 if there are none."""
    retry_rate: float
    """Share of instances that were retried after a failure of an attempt, among `instances`; 0 if there are none. Attempts that
    followed an interruption, or a call of `Runtime.retry`, are no retries."""
