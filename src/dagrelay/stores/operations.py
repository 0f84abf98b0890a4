"""Every write as data: what the broker asks of a store, each operation atomic in itself and carrying its own fence.

Times are integer microseconds since 1970 (`*_us`), so that stores compare and return them exactly. `seq` is the operation's place
in the run's timeline, given out by the broker.

An entry's *slot* says under which visibility it stands: a number >= 1 is the attempt that wrote it; `OUTSIDE` (0) an entry pushed
from outside, seen at once; `TASK_LIFETIME` (-1) an entry kept over the task's attempts.

Whatever names a run that is not there, or is pruned, is refused with RunNotFoundError, unless it says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from dagrelay.model.quick import quick_frozen

if TYPE_CHECKING:
    from dagrelay.model.records import ErrorRecord, InstanceKey
    from dagrelay.model.states import RunState, TaskState

__all__ = (
    "OUTSIDE",
    "RETURN_VALUE",
    "TASK_LIFETIME",
    "CreateRun",
    "DeleteEntries",
    "DeleteRun",
    "FinishAttempt",
    "MarkInstance",
    "NewEntry",
    "Operation",
    "PruneRuns",
    "PutEntries",
    "ReopenRun",
    "SetRunState",
    "StartAttempt",
    "StoredPlan",
    "run_id_of",
)

OUTSIDE: Final = 0
"""Slot of entries pushed by the manager; they carry attempt 0."""
TASK_LIFETIME: Final = -1
"""Slot of `lifetime="task"` entries."""
RETURN_VALUE: Final = "return_value"
"""Key of what a handler returned."""


@attrs.frozen(kw_only=True)
class StoredPlan:
    """The part of a plan that a resume compares; equal plans of many runs may be stored once."""

    fingerprint: str
    """Digest of `body`."""
    body: bytes
    """JSON, opaque to the store but for `task_ids`."""
    task_ids: tuple[str, ...]
    """All task ids in topological order."""


@quick_frozen(kw_only=True)
class NewEntry:
    """One encoded value on its way to the store."""

    key: str
    """Its key."""
    value: bytes
    """Its encoded bytes."""
    serializer: str
    """Name of the serializer that wrote them."""
    description: str = ""
    """The pusher's words."""
    sensitive: bool = False
    """Whether faces mask it."""
    published: bool = False
    """Whether other tasks see it before its attempt has succeeded."""
    created_us: int
    """When it was pushed."""
    seq: int
    """Its place in the timeline."""


@attrs.frozen(kw_only=True)
class CreateRun:
    """Record a new run. Refused with RunIdConflictError if the id is known, pruned runs included."""

    run_id: str
    """The new id."""
    dag_id: str
    """The DAG."""
    params: bytes
    """The run's params as a JSON object."""
    tags: tuple[str, ...]
    """The DAG's tags."""
    plan: StoredPlan
    """What a resume compares."""
    created_us: int
    """When."""
    seq: int
    """Place of RunStarted."""


@attrs.frozen(kw_only=True)
class ReopenRun:
    """Take an ended or interrupted run up again: state running, `clear`ed instances pending.

    A cleared instance keeps its attempt number (numbers go on) and loses its error, retry time and counts; the entries of its
    attempts are thereby no longer visible. Refused with RunNotFoundError or InvalidTransitionError.
    """

    run_id: str
    """The run."""
    plan: StoredPlan | None
    """The new plan if it differs from the stored one."""
    clear: tuple[InstanceKey, ...]
    """Instances to clear."""
    at_us: int
    """When."""
    seq: int
    """Place of RunStarted; the changes of the cleared ones follow it, `seq + 1` onwards, one each."""


@attrs.frozen(kw_only=True)
class SetRunState:
    """End or interrupt a running run. Refused with InvalidTransitionError unless it is running."""

    run_id: str
    """The run."""
    state: RunState
    """success, failed, cancelled or interrupted."""
    at_us: int
    """When."""
    seq: int
    """Place of RunFinished."""


@quick_frozen(kw_only=True)
class StartAttempt:
    """Record that an attempt runs.

    Refused with StaleAttemptError if a later attempt is stored, or this one has ended; with InvalidTransitionError if an earlier
    attempt still runs, or has ended the instance.
    """

    instance: InstanceKey
    """The task instance."""
    attempt: int
    """The attempt, from 1."""
    started_us: int
    """When."""
    seq: int
    """Place of its TaskStateChanged."""


@quick_frozen(kw_only=True)
class FinishAttempt:
    """Record an attempt's outcome and, in the same transaction, what it returned.

    Its start need not be stored before. Refused as StartAttempt is, and with InvalidTransitionError if `state` is no outcome.
    """

    instance: InstanceKey
    """The task instance."""
    attempt: int
    """The attempt, from 1."""
    state: TaskState
    """success, failed, skipped, up_for_retry, cancelled or interrupted."""
    started_us: int
    """When it started."""
    ended_us: int
    """When it ended."""
    start_seq: int
    """Place of its start in the timeline."""
    seq: int
    """Place of its end."""
    entries: tuple[NewEntry, ...] = ()
    """The return value and its items, under the attempt's slot."""
    error: ErrorRecord | None = None
    """Why it ended badly."""
    retry_us: int | None = None
    """With up_for_retry: the time before which the next attempt must not start."""
    failures: int = 0
    """Attempts that count against the retry budget, this one included."""
    interruptions: int = 0
    """Interruptions of this task instance, this one included."""


@attrs.frozen(kw_only=True)
class MarkInstance:
    """Give an instance that is not running a final state; applying it returns the number of its latest attempt, 0 if it had none.

    Refused with InvalidTransitionError if it has one already, or is running.
    """

    instance: InstanceKey
    """The task instance."""
    state: TaskState
    """skipped, upstream_failed, cancelled or failed."""
    at_us: int
    """When."""
    seq: int
    """Place of its TaskStateChanged."""
    error: ErrorRecord | None = None
    """Why."""


@attrs.frozen(kw_only=True)
class PutEntries:
    """Store entries of one writer, all or none, replacing those of the same slot and key.

    Refused with StaleAttemptError if the writing attempt (>= 1) has ended or a later one is stored; with XComConflictError if an
    outside push names `return_value` of a task instance that succeeded; an outside push with RunStateError if the run is pruned.
    """

    instance: InstanceKey
    """The task instance they belong to; its run need not exist for an outside push."""
    slot: int
    """The attempt, OUTSIDE or TASK_LIFETIME."""
    attempt: int
    """The attempt that writes; 0 from outside."""
    entries: tuple[NewEntry, ...]
    """What to store."""


@attrs.frozen(kw_only=True)
class DeleteEntries:
    """Delete entries of a task; applying it returns how many.

    With `attempt` set it is fenced as PutEntries is.
    """

    run_id: str
    """The run."""
    task_id: str
    """The task."""
    map_index: int | None = None
    """The instance, where `slots` is given."""
    key: str | None
    """The key; None for all."""
    slots: tuple[int, ...] | None
    """The slots of the instance `map_index`; None for all slots of all instances of the task."""
    attempt: int | None = None
    """The attempt that deletes; None from outside."""
    at_us: int
    """When."""
    seq: int
    """Place of XComDeleted."""


@attrs.frozen(kw_only=True)
class DeleteRun:
    """Delete a run that is not running with all it has, leaving a tombstone that keeps its id taken.

    A run id that has entries but no run loses them. Applying it returns 1, or 0 if there was nothing.
    Refused with RunStateError if it is running.
    """

    run_id: str
    """The run."""
    at_us: int
    """When."""


@attrs.frozen(kw_only=True)
class PruneRuns:
    """Delete, as DeleteRun does, all finished runs of a DAG but the `keep` that ended last; applying it returns how many.

    Of those that ended at one moment the ones made later are kept.
    """

    dag_id: str
    """The DAG."""
    keep: int
    """Finished runs to keep."""
    at_us: int
    """When."""


Operation: TypeAlias = (
    CreateRun
    | ReopenRun
    | SetRunState
    | StartAttempt
    | FinishAttempt
    | MarkInstance
    | PutEntries
    | DeleteEntries
    | DeleteRun
    | PruneRuns
)


def run_id_of(operation: Operation) -> str | None:
    """Return the run an operation concerns; None if it concerns several."""
    match operation:
        case FinishAttempt() | StartAttempt() | MarkInstance() | PutEntries():
            return operation.instance.run_id
        case PruneRuns():
            return None
        case _:
            return operation.run_id
