"""What each operation means for entries: who may write them, who sees them, and what is told of them.

Pure functions, as in `rules`, where the rows of runs and instances are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from dagrelay.errors import XComConflictError
from dagrelay.model.events import XComDeleted, XComPushed
from dagrelay.model.records import XComEntry, from_us
from dagrelay.model.states import ENDED_TASK_STATES, LIVE_TASK_STATES, TaskState
from dagrelay.stores.base import StoredEntry
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, TASK_LIFETIME
from dagrelay.stores.rules import check_writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dagrelay.model.events import TaskStateChanged
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import DeleteEntries, NewEntry, Provide, PutEntries
    from dagrelay.stores.rules import InstanceRow

__all__ = (
    "EntryRow",
    "attempt_state",
    "check_provided",
    "check_put",
    "deletion_event",
    "entry_record",
    "entry_row",
    "found",
    "is_copied",
    "is_visible",
    "picked",
    "push_event",
    "visible_slots",
)


class EntryRow(NamedTuple):
    """An entry but for its bytes."""

    key: str
    slot: int
    attempt: int
    seq: int
    created_us: int
    size: int
    serializer: str
    sensitive: bool
    published: bool
    description: str


def check_put(row: InstanceRow | None, op: PutEntries) -> None:
    """Check the fence of a push.

    Raises:
        StaleAttemptError: the attempt that writes is over.
        XComConflictError: a push from outside would replace what a finished task returned.
    """
    if op.slot != OUTSIDE:
        check_writer(op.instance, row, op.attempt)
    elif row is not None and row.state is TaskState.SUCCESS and any(entry.key == RETURN_VALUE for entry in op.entries):
        raise XComConflictError(op.instance.run_id, op.instance.task_id, RETURN_VALUE)


def check_provided(row: InstanceRow | None, op: Provide, *, is_there: bool) -> None:
    """Check that a value from outside is still wanted.

    Raises:
        XComConflictError: the instance has ended, or the entry `is_there` already.
    """
    run_id, task_id, _ = op.instance
    if is_there:
        raise XComConflictError(run_id, task_id, op.entry.key, is_there=True)
    if row is not None and row.state in ENDED_TASK_STATES:
        raise XComConflictError(run_id, task_id, op.entry.key)


def visible_slots(row: InstanceRow | None) -> tuple[int, ...]:
    """Return the slots a reader outside the attempt may find something in, the first to be preferred."""
    if row is not None and (row.state is TaskState.SUCCESS or row.state in LIVE_TASK_STATES):
        return (row.attempt, TASK_LIFETIME, OUTSIDE)
    return (OUTSIDE,)


def is_visible(row: InstanceRow | None, entry: EntryRow) -> bool:
    """Tell whether readers outside the attempt see an entry found in one of the `visible_slots`."""
    if entry.slot == OUTSIDE:
        return True
    if row is None or entry.slot not in (row.attempt, TASK_LIFETIME):
        return False
    if row.state is TaskState.SUCCESS:
        return True
    return entry.published and entry.attempt == row.attempt and row.state in LIVE_TASK_STATES


def is_copied(row: InstanceRow | None, entry: EntryRow) -> bool:
    """Tell whether a fork copies an entry; `row` is the instance's if that is copied too."""
    return entry.slot == OUTSIDE or (row is not None and is_visible(row, entry))


def picked(row: InstanceRow | None, entries: Iterable[EntryRow]) -> list[EntryRow]:
    """Return the one entry every reader sees among those of one instance and key, or nothing."""
    by_slot = {entry.slot: entry for entry in entries if is_visible(row, entry)}
    return [by_slot[slot] for slot in visible_slots(row) if slot in by_slot][:1]


def entry_row(new: NewEntry, *, slot: int, attempt: int) -> EntryRow:
    """Return the row of an entry on its way to the store."""
    return EntryRow(
        key=new.key,
        slot=slot,
        attempt=attempt,
        seq=new.seq,
        created_us=new.created_us,
        size=len(new.value),
        serializer=new.serializer,
        sensitive=new.sensitive,
        published=new.published,
        description=new.description,
    )


def deletion_event(op: DeleteEntries, count: int) -> XComDeleted:
    """Return the event to log for entries that were deleted."""
    return XComDeleted(
        run_id=op.run_id,
        seq=op.seq,
        time=from_us(op.at_us),
        task_id=op.task_id,
        map_index=None if op.slots is None else op.map_index,
        key=op.key,
        count=count,
    )


def push_event(instance: InstanceKey, entry: EntryRow) -> XComPushed:
    """Return the event derived from an entry."""
    return XComPushed(
        run_id=instance.run_id,
        seq=entry.seq,
        time=from_us(entry.created_us),
        task_id=instance.task_id,
        map_index=instance.map_index,
        attempt=entry.attempt,
        key=entry.key,
        size_bytes=entry.size,
    )


def attempt_state(row: InstanceRow | None, logged: Sequence[TaskStateChanged], attempt: int) -> TaskState | None:
    """Return the state of an attempt, by its instance's row and logged changes (in order); None for the outside, attempt 0."""
    if attempt == 0:
        return None
    if row is not None and row.attempt == attempt and row.state is not TaskState.PENDING:
        return row.state
    ends = [change.state for change in logged if change.attempt == attempt and change.state is not TaskState.PENDING]
    return ends[-1] if ends else TaskState.RUNNING


_LIFETIMES: Final = {TASK_LIFETIME: "task", OUTSIDE: "run"}


def entry_record(instance: InstanceKey, entry: EntryRow, *, dag_id: str | None, state: TaskState | None) -> XComEntry:
    """Return the entry as users see it, without its value."""
    return XComEntry(
        run_id=instance.run_id,
        dag_id=dag_id,
        task_id=instance.task_id,
        map_index=instance.map_index,
        key=entry.key,
        size_bytes=entry.size,
        timestamp=from_us(entry.created_us),
        attempt=entry.attempt,
        lifetime=_LIFETIMES.get(entry.slot, "attempt"),
        state=state,
        serializer=entry.serializer,
        description=entry.description,
        sensitive=entry.sensitive,
    )


def found(entry: EntryRow, value: bytes) -> StoredEntry:
    """Return the entry as `lookup` gives it."""
    return StoredEntry(value=value, serializer=entry.serializer, slot=entry.slot)
