"""Every write as data: what the broker asks of a store, each operation atomic in itself and carrying its own fence.

Times are integer microseconds since 1970 (`*_us`), so that stores compare and return them exactly. `seq` is the operation's place
in the run's timeline, given out by the broker.

An entry's *slot* says under which visibility it stands: a number >= 1 is the attempt that wrote it; `OUTSIDE` (0) an entry pushed
from outside, seen at once; `TASK_LIFETIME` (-1) an entry kept over the task's attempts.

Whatever names a run that is not there, or is pruned, is refused with RunNotFoundError, unless it says otherwise.

An operation that carries out a message from another process names it by `message_id`, and the message is noted as done in the
same transaction. If it is noted already, nothing is done and the result is 0: a message delivered twice is carried out once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import attrs

from dagrelay.model.quick import quick_frozen
from dagrelay.model.states import TaskState

if TYPE_CHECKING:
    from dagrelay.model.records import ErrorRecord, InstanceKey
    from dagrelay.model.states import RunState

__all__ = (
    "MESSAGES_KEPT_US",
    "MESSAGE_DONE",
    "OUTSIDE",
    "RETURN_VALUE",
    "TASK_LIFETIME",
    "AckItems",
    "AppendItems",
    "CreateRun",
    "DeleteEntries",
    "DeleteRun",
    "FinishAttempt",
    "ForkRun",
    "MarkInstance",
    "NewEntry",
    "NoteMessage",
    "Operation",
    "Provide",
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
MESSAGE_DONE: Final = "done"
"""The result noted of a message that an operation has carried out."""
MESSAGES_KEPT_US: Final = 30 * 24 * 60 * 60 * 1_000_000
"""How long a noted message is remembered; what is older goes when the next one is noted."""


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
class ForkRun:
    """Record a new run that begins with what some tasks of another one have come to; that one stays as it is.

    Of `task_ids` are copied the rows of all instances, elements included, where the task as a whole has ended (of the others
    none, so that they run anew) with what these have appended to streams, and of all of them the entries every reader may see.
    What consumers have acknowledged is not copied, as those that are not copied begin anew. The copies keep state, attempt,
    times, error, length, follows and lineage, and their places in the timeline; only if one of them would not be above `seq` are
    all of them moved up by the same number. What was pushed from outside under the new id stays, rather than be replaced by a
    copy.

    Refused as CreateRun is, and with RunNotFoundError if the source is not there or pruned.
    """

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
    """Place of RunStarted. The next free place is known only to the store then: `next_seq` or `load_run` tells it."""
    source_run_id: str
    """The run to copy from."""
    task_ids: tuple[str, ...]
    """The tasks to copy."""


@attrs.frozen(kw_only=True)
class ReopenRun:
    """Take an ended or interrupted run up again: state running, `clear`ed instances pending.

    A cleared instance keeps its attempt number (numbers go on) and loses its error, retry time, counts, length, follows and
    lineage; the entries of its attempts are thereby no longer visible. Refused with RunNotFoundError or InvalidTransitionError.
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
    message_id: str | None = None
    """The message this carries out."""


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
    """Record that an attempt runs, or waits for a value from outside.

    Refused with StaleAttemptError if a later attempt is stored, or this one has ended; with InvalidTransitionError if an earlier
    attempt still runs, or has ended the instance, or if `state` is none to start in.
    """

    instance: InstanceKey
    """The task instance."""
    attempt: int
    """The attempt, from 1."""
    started_us: int
    """When."""
    seq: int
    """Place of its TaskStateChanged."""
    state: TaskState = TaskState.RUNNING
    """running, or waiting."""
    deadline_us: int | None = None
    """With waiting: when it is to end at the latest. It is kept as the row's `retry_us`, over an interruption too."""
    length: int | None = None
    """Of a mapped task as a whole: how many elements it has. Without, a length that is stored stays."""


@quick_frozen(kw_only=True)
class FinishAttempt:
    """Record an attempt's outcome and, in the same transaction, what it returned.

    Its start need not be stored before. Refused as StartAttempt is, and with InvalidTransitionError if `state` is no outcome, or
    none of an attempt that waits (success, failed, cancelled and interrupted are). The row keeps its length and, if an
    attempt that waits is interrupted, the deadline.
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
    follows: tuple[str, ...] | None = None
    """Of a branch: the tasks directly downstream that are to be followed."""
    lineage: str | None = None
    """What the attempt has read, as compact JSON, which the store does not look into."""


@attrs.frozen(kw_only=True)
class MarkInstance:
    """Give an instance that is not running a final state; applying it returns the number of its latest attempt, 0 if it had none.

    Refused with InvalidTransitionError if it has one already, or is running or waiting.
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


@quick_frozen(kw_only=True)
class AppendItems:
    """Append items, which follow one another, to a stream of a task instance, as one chunk.

    Refused with StaleAttemptError if the attempt is over, and with XComConflictError if the place of the first item is taken
    already or the generation is over. A new generation takes the place of the one before, whose items go.
    """

    instance: InstanceKey
    """Who appends."""
    attempt: int
    """The attempt that does."""
    key: str
    """The stream's key."""
    generation: int
    """Its generation, from 1."""
    first_seq: int
    """The seq of the first item, from 0."""
    count: int
    """How many there are."""
    items: bytes
    """They themselves, as `pack_items` makes them."""
    serializer: str
    """Name of the serializer that wrote them."""
    is_numbered: bool
    """Whether the producer gave the numbers."""
    created_us: int
    """When the first was appended."""


@quick_frozen(kw_only=True)
class AckItems:
    """Move a consumer's position in a stream and, in the same transaction, store what it wrote for the items it leaves behind.

    Refused with StaleAttemptError if the consumer's attempt is over.
    """

    instance: InstanceKey
    """Who consumes."""
    attempt: int
    """The attempt that does."""
    producer: InstanceKey
    """Who appends to the stream."""
    key: str
    """The stream's key."""
    generation: int
    """Its generation."""
    next_seq: int
    """All items below are acknowledged, and no others."""
    entries: tuple[NewEntry, ...] = ()
    """What goes with it, into slot TASK_LIFETIME."""


@attrs.frozen(kw_only=True)
class Provide:
    """Store the value of a task that gets it from outside, in slot OUTSIDE with attempt 0, whatever its run is doing.

    Refused with XComConflictError if the instance has ended, or that entry is there already; with RunNotFoundError if there is
    no such run, and with RunStateError if it is pruned.
    """

    instance: InstanceKey
    """The task instance."""
    entry: NewEntry
    """Its value."""
    message_id: str | None = None
    """The message this carries out."""


@attrs.frozen(kw_only=True)
class NoteMessage:
    """Remember what has become of a message from another process; applying it returns 1, or 0 if it was noted before."""

    message_id: str
    """The message."""
    at_us: int
    """When."""
    result: str
    """What has become of it."""


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
    """Delete, as DeleteRun does, the finished runs of a DAG that are too many or too old; applying it returns how many.

    Of those that ended at one moment the ones made later are kept.
    """

    dag_id: str
    """The DAG."""
    keep: int | None
    """Finished runs to keep, those that ended last; None for all of them."""
    at_us: int
    """When."""
    before_us: int | None = None
    """Finished runs that ended before this go, however few there are."""


Operation: TypeAlias = (
    CreateRun
    | ForkRun
    | ReopenRun
    | SetRunState
    | StartAttempt
    | FinishAttempt
    | MarkInstance
    | PutEntries
    | AppendItems
    | AckItems
    | Provide
    | NoteMessage
    | DeleteEntries
    | DeleteRun
    | PruneRuns
)


def run_id_of(operation: Operation) -> str | None:
    """Return the run an operation concerns; None if it concerns several."""
    match operation:
        case FinishAttempt() | StartAttempt() | MarkInstance() | PutEntries() | AppendItems() | AckItems() | Provide():
            return operation.instance.run_id
        case PruneRuns() | NoteMessage():
            return None
        case _:
            return operation.run_id
