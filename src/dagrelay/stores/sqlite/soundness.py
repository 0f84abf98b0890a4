"""Which rows the rules can have written: each function names what is wrong with one row whose checksum is right.

Somebody may have edited a row and its checksum, or a version of this library may have been wrong. Encoding what was decoded finds
columns that nothing reads; the rest are the combinations that no operation leaves behind.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from dagrelay.model.events import XComDeleted, XComPushed
from dagrelay.model.states import ENDED_TASK_STATES, RunState, TaskState
from dagrelay.stores.operations import OUTSIDE, TASK_LIFETIME
from dagrelay.stores.sqlite import rows
from dagrelay.stores.sqlite.streams import encode_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagrelay.model.events import Event
    from dagrelay.stores.entry_rules import EntryRow
    from dagrelay.stores.rules import InstanceRow, RunRow
    from dagrelay.stores.sqlite.rows import Place, RunFields
    from dagrelay.stores.stream_rules import ChunkRow

__all__ = ("Owner", "chunk_flaws", "element_flaws", "entry_flaws", "event_flaws", "instance_flaws", "owner_of", "run_flaws")

_LIVE: Final = frozenset({TaskState.RUNNING, TaskState.WAITING})
_REWRITTEN: Final = "its columns are not as they are written"


class Owner:
    """What a row may hang on: the run in table `run`, and the task in table `task`."""

    def __init__(self, *, is_there: bool, is_run: bool, is_pruned: bool, has_task: bool) -> None:
        """Take whether the row of the run is there, is that of a run, and only its tombstone; and whether the task's is."""
        self.is_there = is_there
        self.is_run = is_run
        self.is_pruned = is_pruned
        self.has_task = has_task

    def flaws(self, *, needs_run: bool, needs_task: bool = True) -> Iterator[str]:
        """Name what is missing for a row that needs a run (or else only its id), and a task."""
        if not self.is_there:
            yield "its run is missing"
        elif self.is_pruned:
            yield "its run was pruned"
        elif needs_run and not self.is_run:
            yield "its run id is no run's"
        if needs_task and not self.has_task:
            yield "its task is missing"


def owner_of(joined: tuple[Any, ...]) -> Owner:
    """Return the owner told by the columns run_pk, dag_id and is_pruned of table `run`, and task_pk of table `task`."""
    run_pk, dag_id, is_pruned, task_pk = joined
    return Owner(is_there=run_pk is not None, is_run=dag_id is not None, is_pruned=bool(is_pruned), has_task=task_pk is not None)


def run_flaws(found: tuple[Any, ...], fields: RunFields) -> Iterator[str]:
    """Name what is wrong with a row of table `run`."""
    if rows.encode_run(fields) != found:
        yield _REWRITTEN
    row = fields.row
    if row is None:
        return
    if (row.state is RunState.RUNNING) != (row.ended_us is None) or (row.ended_us is None) != (row.end_seq is None):
        yield f"a run that is {row.state} can't have ended_us={row.ended_us} and end_seq={row.end_seq}"
    if not 1 <= row.start_seq < (row.start_seq + 1 if row.end_seq is None else row.end_seq):
        yield f"its places start_seq={row.start_seq}, end_seq={row.end_seq} are out of order"
    if not _is_object(row.params):
        yield "its params are no JSON object"
    if row.is_pruned:
        yield from _tombstone_flaws(fields, row)
    elif fields.plan_pk is None:
        yield "it has no plan"


def _tombstone_flaws(fields: RunFields, row: RunRow) -> Iterator[str]:
    if row.state is RunState.RUNNING:
        yield "it was pruned while it was running"
    if row.tags or row.params != b"{}" or fields.plan_pk is not None:
        yield "it was pruned and has kept more than its name"


def _is_object(params: bytes) -> bool:
    try:
        return isinstance(json.loads(params), dict)
    except (ValueError, RecursionError):
        return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def instance_flaws(found: tuple[Any, ...], place: Place, row: InstanceRow) -> Iterator[str]:
    """Name what is wrong with a row of table `instance`."""
    if rows.encode_instance(place, row) != found:
        yield _REWRITTEN
    if row.state is TaskState.QUEUED:
        yield f"state {row.state} is never stored"
    if row.seq < 1 or not 1 <= (1 if row.start_seq is None else row.start_seq) <= row.seq:
        yield f"its places start_seq={row.start_seq}, seq={row.seq} are out of order"
    if (row.attempt > 0) != (row.started_us is not None) or (row.attempt == 0 and row.start_seq is not None):
        yield f"attempt {row.attempt} can't have started_us={row.started_us} and start_seq={row.start_seq}"
    if row.failures < 0 or row.interruptions < 0:
        yield f"its counts failures={row.failures}, interruptions={row.interruptions} are negative"
    if row.length is not None and (row.length < 0 or place[2] != rows.UNMAPPED):
        yield f"it can't have length={row.length}"
    if row.lineage is not None and not _is_json(row.lineage):
        yield "its lineage is no JSON"
    yield from _state_flaws(row)


def _state_flaws(row: InstanceRow) -> Iterator[str]:
    needs_attempt = row.state in {*_LIVE, TaskState.UP_FOR_RETRY, TaskState.SUCCESS, TaskState.INTERRUPTED}
    if needs_attempt and row.attempt == 0:
        yield f"it is {row.state} without an attempt"
    if row.state in _LIVE and (row.ended_us, row.error, row.start_seq) != (None, None, row.seq):
        yield f"it is {row.state}, and has ended or was never started"
    kept = row.error, row.start_seq, row.retry_us, row.length, row.follows, row.lineage
    if row.state is TaskState.PENDING and any(each is not None for each in kept):
        yield "it is pending, and keeps something of an attempt"
    if row.state in _LIVE and (row.follows is not None or row.lineage is not None):
        yield f"it is {row.state}, and has decided or read already"
    if row.state in ENDED_TASK_STATES | {TaskState.UP_FOR_RETRY, TaskState.INTERRUPTED} and row.ended_us is None:
        yield f"it is {row.state}, and never ended"


def element_flaws(place: Place, row: InstanceRow, whole: tuple[Any, Any]) -> Iterator[str]:
    """Name what is wrong with an element of a mapped task, by state and length of the task as a whole (None if it has no row).

    Where the whole or the element is cleared, a new expansion is still to say how many there are.
    """
    state, length = whole
    pending = rows.TASK_STATE_CODES[TaskState.PENDING]
    if place[2] == rows.UNMAPPED or row.state is TaskState.PENDING:
        return
    if state is None:
        yield "it is an element of a task that was never expanded"
    elif state != pending and place[2] >= (length or 0):
        yield f"it is an element of a task of length {length or 0}"


def entry_flaws(found: tuple[Any, ...], row: EntryRow, length: int) -> Iterator[str]:
    """Name what is wrong with a row of table `xcom`, whose value has this length."""
    if row.size != length:
        yield f"its value has {length} bytes where {row.size} are noted"
    if not {found[10], found[11]} <= {0, 1}:
        yield _REWRITTEN
    if row.seq < 1:
        yield f"its place seq={row.seq} is none"
    wanted = {OUTSIDE: row.attempt == 0, TASK_LIFETIME: row.attempt > 0}
    if not wanted.get(row.slot, row.attempt == row.slot):
        yield f"attempt {row.attempt} can't have written to slot {row.slot}"


def chunk_flaws(found: tuple[Any, ...], place: Place, row: ChunkRow, items_crc: int, length: int) -> Iterator[str]:
    """Name what is wrong with a row of table `stream_chunk`, whose items have this length."""
    if encode_chunk(place, row, items_crc) != found:
        yield _REWRITTEN
    if row.size != length:
        yield f"its items have {length} bytes where {row.size} are noted"
    if length < 4 * row.item_count:
        yield f"its items can't be {row.item_count}"


def event_flaws(found: tuple[Any, ...], event: Event) -> Iterator[str]:
    """Name what is wrong with a row of table `event`."""
    if isinstance(event, XComPushed) or rows.encode_event(found[0], found[4], event) != found:
        yield _REWRITTEN
    if found[1] < 1:
        yield f"its place seq={found[1]} is none"
    if isinstance(event, XComDeleted) and event.count < 1:
        yield "it tells of the deletion of nothing"
