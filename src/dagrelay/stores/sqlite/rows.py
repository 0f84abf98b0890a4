"""Between rows of the database and rows of the rules: codes of states, checksums, and what a damaged row raises.

A checksum covers the whole row, its keys included, so that a row found in another's place does not pass.
"""

from __future__ import annotations

import json
import struct
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar, assert_never
from zlib import crc32

from dagrelay.errors import StoreCorruptError
from dagrelay.model.events import RunFinished, RunStarted, TaskStateChanged, XComDeleted
from dagrelay.model.records import ErrorRecord, InstanceKey, from_us, to_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.entry_rules import EntryRow
from dagrelay.stores.operations import StoredPlan
from dagrelay.stores.rules import InstanceRow, RunRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.model.events import Event
    from dagrelay.stores.operations import NewEntry
    from dagrelay.stores.rules import LoggedEvent

__all__ = (
    "RUN_STATE_CODES",
    "SELECT_ENTRY",
    "SELECT_RUN",
    "TASK_STATE_CODES",
    "UNMAPPED",
    "Place",
    "RunFields",
    "checksum",
    "copied_entry",
    "damaged",
    "decode_entry",
    "decode_event",
    "decode_instance",
    "decode_message",
    "decode_plan",
    "decode_run",
    "decode_task",
    "decode_value",
    "encode_entry",
    "encode_event",
    "encode_instance",
    "encode_message",
    "encode_plan",
    "encode_run",
    "encode_task",
    "instance_checksum",
    "instance_key",
    "understood",
    "verify",
)

P = ParamSpec("P")
T = TypeVar("T")

Place: TypeAlias = tuple[int, int, int]
"""run_pk, task_pk, map_index: what names an instance in the database."""

UNMAPPED: Final = -1
"""The map_index of an unmapped task's instance."""

TASK_STATE_CODES: Final = {
    TaskState.PENDING: 0,
    TaskState.QUEUED: 1,
    TaskState.RUNNING: 2,
    TaskState.WAITING: 3,
    TaskState.UP_FOR_RETRY: 4,
    TaskState.SUCCESS: 5,
    TaskState.FAILED: 6,
    TaskState.SKIPPED: 7,
    TaskState.UPSTREAM_FAILED: 8,
    TaskState.CANCELLED: 9,
    TaskState.INTERRUPTED: 10,
}
"""Never renumber: they stand in databases."""
RUN_STATE_CODES: Final = {
    RunState.RUNNING: 0,
    RunState.SUCCESS: 1,
    RunState.FAILED: 2,
    RunState.CANCELLED: 3,
    RunState.INTERRUPTED: 4,
}
"""Never renumber: they stand in databases."""

SELECT_RUN: Final = """SELECT
    run_pk, run_id, dag_id, state, is_pruned, tags, created_us, started_us, ended_us, start_seq, end_seq, plan_pk, crc, params
    FROM run WHERE """
"""The beginning of a question that `decode_run` understands the answer to."""
SELECT_ENTRY: Final = """SELECT
    run_pk, task_pk, map_index, key, slot, attempt, seq, created_us, size, serializer, sensitive, published, description,
    value_crc, crc FROM xcom WHERE run_pk = ?"""
"""The beginning of a question that `decode_entry` understands the answer to; it leaves out the values."""

_TASK_STATES: Final = {code: state for state, code in TASK_STATE_CODES.items()}
_RUN_STATES: Final = {code: state for state, code in RUN_STATE_CODES.items()}

_RUN_STARTED: Final = 1
_RUN_FINISHED: Final = 2
_TASK_CHANGED: Final = 3
_XCOM_DELETED: Final = 4


_INSTANCE_NUMBERS: Final = struct.Struct("<12q")
_ENTRY_NUMBERS: Final = struct.Struct("<10q")
_NOTHING_ADDED: Final = (None, None, None)
_NULL: Final = -(2**63)
"""Stands for NULL in what a checksum covers, as no number in a row is as low."""


def checksum(fields: tuple[Any, ...]) -> int:
    """Return the checksum of a row's fields, which must be as SQLite gives them back: int, str or None."""
    return crc32(repr(fields).encode("ascii", "backslashreplace"))


def instance_checksum(fields: tuple[Any, ...], added: tuple[Any, ...] = _NOTHING_ADDED) -> int:
    """Return the checksum of a row of table `instance`; packed, the numbers of a row take a quarter of the time of their text.

    The columns that version 2 has `added` count only where one of them is set, so that the rows of version 1 stay valid.
    """
    run_pk, task_pk, map_index, state, attempt, started_us, ended_us, start_seq, seq, error, failures, interruptions, retry_us = (
        fields
    )
    numbers = _INSTANCE_NUMBERS.pack(
        run_pk,
        task_pk,
        map_index,
        state,
        attempt,
        _NULL if started_us is None else started_us,
        _NULL if ended_us is None else ended_us,
        _NULL if start_seq is None else start_seq,
        seq,
        failures,
        interruptions,
        _NULL if retry_us is None else retry_us,
    )
    crc = crc32(b"" if error is None else error.encode(), crc32(numbers))
    length, follows, lineage = added
    if length is None and follows is None:
        # As below, but quickly, since most rows have a lineage and nothing else.
        return crc if lineage is None else crc32(("\0None\0None\0" + lineage).encode(), crc)
    return crc32(f"\0{length}\0{follows}\0{lineage}".encode(), crc)


def _entry_checksum(fields: tuple[Any, ...]) -> int:
    """Return the checksum of a row of table `xcom`, whose value has one of its own among the fields."""
    run_pk, task_pk, map_index, key, slot, attempt, seq, created_us, size, serializer, sensitive, published, text, crc = fields
    numbers = _ENTRY_NUMBERS.pack(
        run_pk, task_pk, map_index, slot, attempt, seq, created_us, size, sensitive << 1 | published, crc
    )
    return crc32(f"{key}\0{serializer}\0{text}".encode(), crc32(numbers))


def understood(decode: Callable[P, T]) -> Callable[P, T]:
    """Make a row that nobody can have written, though its checksum may be right, raise StoreCorruptError; `path` comes first."""

    @wraps(decode)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return decode(*args, **kwargs)
        except (LookupError, ValueError, TypeError, OverflowError, RecursionError, struct.error) as error:
            raise StoreCorruptError(str(args[0]), f"a row can't be understood: {error!r}") from error

    return guarded


def verify(path: str, table: str, fields: tuple[Any, ...], crc: int) -> None:
    """Raise StoreCorruptError unless the checksum is that of the fields."""
    if checksum(fields) != crc:
        raise damaged(path, table)


def _texts(text: str) -> list[str]:
    """Return the texts of a JSON list; a checksum that is right does not make anything else one."""
    found: list[Any] = json.loads(text)
    if type(found) is not list or not all(type(each) is str for each in found):
        raise ValueError("it is no list of texts")
    return found


def damaged(path: str, table: str) -> StoreCorruptError:
    """Return the error for a row that is not as it was written."""
    return StoreCorruptError(path, f"a row of table {table!r} does not match its checksum")


# -------------------------------------------------------------------------------------------------- tasks and plans


def encode_task(task_pk: int, task_id: str) -> tuple[Any, ...]:
    """Return the row as SQLite takes it."""
    return task_pk, task_id, checksum((task_pk, task_id))


def decode_task(path: str, found: tuple[Any, ...]) -> tuple[int, str]:
    """Return the key and the task id of the row SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    task_pk, task_id, crc = found
    verify(path, "task", (task_pk, task_id), crc)
    return task_pk, task_id


def encode_plan(plan_pk: int, plan: StoredPlan) -> tuple[Any, ...]:
    """Return the row as SQLite takes it."""
    task_ids = json.dumps(plan.task_ids)
    crc = checksum((plan_pk, plan.fingerprint, task_ids, crc32(plan.body)))
    return plan_pk, plan.fingerprint, task_ids, crc, plan.body


@understood
def decode_plan(path: str, found: tuple[Any, ...]) -> StoredPlan:
    """Return the plan in the row SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    plan_pk, fingerprint, task_ids, crc, body = found
    verify(path, "plan", (plan_pk, fingerprint, task_ids, crc32(body)), crc)
    return StoredPlan(fingerprint=fingerprint, body=body, task_ids=tuple(_texts(task_ids)))


# -------------------------------------------------------------------------------------------------- runs


class RunFields(NamedTuple):
    """A row of table `run`: of a run, of its tombstone, or of an id that only holds entries (`row` is None)."""

    run_pk: int
    run_id: str
    plan_pk: int | None
    row: RunRow | None


def encode_run(fields: RunFields) -> tuple[Any, ...]:
    """Return the row as SQLite takes it."""
    run_pk, run_id, plan_pk, row = fields
    if row is None:
        head: tuple[Any, ...] = (run_pk, run_id, None, None, 0, "[]", None, None, None, None, None, None)
        params = b"{}"
    else:
        head = (
            run_pk,
            run_id,
            row.dag_id,
            RUN_STATE_CODES[row.state],
            int(row.is_pruned),
            json.dumps(row.tags),
            row.created_us,
            row.started_us,
            row.ended_us,
            row.start_seq,
            row.end_seq,
            plan_pk,
        )
        params = row.params
    return (*head, checksum((*head, crc32(params))), params)


@understood
def decode_run(path: str, found: tuple[Any, ...]) -> RunFields:
    """Return the row SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    *head, crc, params = found
    verify(path, "run", (*head, crc32(params)), crc)
    run_pk, run_id, dag_id, state, is_pruned, tags, created_us, started_us, ended_us, start_seq, end_seq, plan_pk = head
    if dag_id is None:
        return RunFields(run_pk, run_id, None, None)
    row = RunRow(
        run_id=run_id,
        dag_id=dag_id,
        state=_RUN_STATES[state],
        is_pruned=bool(is_pruned),
        tags=tuple(_texts(tags)),
        params=params,
        created_us=created_us,
        started_us=started_us,
        ended_us=ended_us,
        start_seq=start_seq,
        end_seq=end_seq,
    )
    return RunFields(run_pk, run_id, plan_pk, row)


# -------------------------------------------------------------------------------------------------- instances


def encode_instance(place: Place, row: InstanceRow) -> tuple[Any, ...]:
    """Return the row as SQLite takes it."""
    state, attempt, started_us, ended_us, start_seq, seq, error, failures, interruptions, retry_us, length, follows, lineage = row
    fields = (
        *place,
        TASK_STATE_CODES[state],
        attempt,
        started_us,
        ended_us,
        start_seq,
        seq,
        None if error is None else _encode_error(error),
        failures,
        interruptions,
        retry_us,
    )
    added = length, None if follows is None else json.dumps(follows), lineage
    return (*fields, instance_checksum(fields, added), *added)


@understood
def decode_instance(path: str, found: tuple[Any, ...]) -> tuple[Place, InstanceRow]:
    """Return the row SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    if instance_checksum(found[:13], found[14:]) != found[13]:
        raise damaged(path, "instance")
    run_pk, task_pk, map_index, state, attempt, started_us, ended_us, start_seq, seq, error, *rest = found
    failures, interruptions, retry_us, _, length, follows, lineage = rest
    row = InstanceRow(
        _TASK_STATES[state],
        attempt,
        started_us,
        ended_us,
        start_seq,
        seq,
        None if error is None else _decode_error(error),
        failures,
        interruptions,
        retry_us,
        length,
        None if follows is None else tuple(_texts(follows)),
        lineage,
    )
    return (run_pk, task_pk, map_index), row


def _encode_error(error: ErrorRecord) -> str:
    # In ASCII, since an exception's text may hold lone surrogates, which SQLite can't.
    return json.dumps([error.type, error.message, error.traceback])


def _decode_error(text: str) -> ErrorRecord:
    type_, message, traceback = _texts(text)
    return ErrorRecord(type=type_, message=message, traceback=traceback)


# -------------------------------------------------------------------------------------------------- entries


def encode_entry(place: Place, slot: int, attempt: int, entry: NewEntry) -> tuple[Any, ...]:
    """Return the row as SQLite takes it."""
    value = entry.value
    fields = (
        *place,
        entry.key,
        slot,
        attempt,
        entry.seq,
        entry.created_us,
        len(value),
        entry.serializer,
        1 if entry.sensitive else 0,
        1 if entry.published else 0,
        entry.description,
        crc32(value),
    )
    return (*fields, _entry_checksum(fields), value)


def copied_entry(found: tuple[Any, ...], run_pk: int, *, by: int) -> tuple[Any, ...]:
    """Return the row, value and all, as SQLite takes it for another run, its place in the timeline moved up."""
    fields = (run_pk, *found[1:6], found[6] + by, *found[7:14])
    return (*fields, _entry_checksum(fields), found[15])


@understood
def decode_entry(path: str, found: tuple[Any, ...]) -> tuple[Place, EntryRow]:
    """Return the row SQLite gave, up to and without its value.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    fields = found[:14]
    if _entry_checksum(fields) != found[14]:
        raise damaged(path, "xcom")
    run_pk, task_pk, map_index, key, slot, attempt, seq, created_us, size, serializer, sensitive, published, text, _ = fields
    row = EntryRow(key, slot, attempt, seq, created_us, size, serializer, bool(sensitive), bool(published), text)
    return (run_pk, task_pk, map_index), row


def decode_value(path: str, found: tuple[Any, ...]) -> bytes:
    """Return the value of the entry SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    value: bytes = found[15]
    if crc32(value) != found[13] or len(value) != found[8]:
        raise StoreCorruptError(path, f"the value of XCom {found[3]!r} does not match its checksum or size")
    return value


# -------------------------------------------------------------------------------------------------- messages


def encode_message(message_id: str, at_us: int, result: str) -> tuple[Any, ...]:
    """Return the row as SQLite takes it."""
    fields = message_id, at_us, result
    return (*fields, checksum(fields))


def decode_message(path: str, found: tuple[Any, ...]) -> str:
    """Return the result in the row SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    *fields, crc = found
    verify(path, "inbox", tuple(fields), crc)
    result: str = found[2]
    return result


# -------------------------------------------------------------------------------------------------- events


def encode_event(run_pk: int, task_pk: int | None, event: LoggedEvent) -> tuple[Any, ...]:
    """Return the row of a logged event as SQLite takes it."""
    body: tuple[Any, ...]
    match event:
        case RunStarted():
            body = (_RUN_STARTED, to_us(event.time), None, None, None, None, event.dag_id, None)
        case RunFinished():
            body = (_RUN_FINISHED, to_us(event.time), None, None, None, RUN_STATE_CODES[event.state], None, None)
        case TaskStateChanged():
            error = None if event.error is None else _encode_error(event.error)
            state = TASK_STATE_CODES[event.state]
            body = (_TASK_CHANGED, to_us(event.time), task_pk, _index(event.map_index), event.attempt, state, error, None)
        case XComDeleted():
            body = (_XCOM_DELETED, to_us(event.time), task_pk, _index(event.map_index), None, None, event.key, event.count)
        case _:
            assert_never(event)
    fields = (run_pk, event.seq, *body)
    return (*fields, checksum(fields))


@understood
def decode_event(path: str, run_id: str, task_id: str | None, found: tuple[Any, ...]) -> Event:
    """Return the logged event SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    fields = found[:-1]
    verify(path, "event", fields, found[-1])
    _, seq, kind, time_us, _, map_index, attempt, state, text, count = fields
    time = from_us(time_us)
    if kind == _RUN_STARTED:
        return RunStarted(run_id=run_id, seq=seq, time=time, dag_id=text)
    if kind == _RUN_FINISHED:
        return RunFinished(run_id=run_id, seq=seq, time=time, state=_RUN_STATES[state])
    if task_id is None:
        raise ValueError("an event of a task names none")
    index = None if map_index == UNMAPPED else map_index
    if kind == _XCOM_DELETED:
        return XComDeleted(run_id=run_id, seq=seq, time=time, task_id=task_id, map_index=index, key=text, count=count)
    return TaskStateChanged(
        run_id=run_id,
        seq=seq,
        time=time,
        task_id=task_id,
        map_index=index,
        attempt=attempt,
        state=_TASK_STATES[state],
        error=None if text is None else _decode_error(text),
    )


def _index(map_index: int | None) -> int:
    return UNMAPPED if map_index is None else map_index


def instance_key(run_id: str, task_id: str, place: Place) -> InstanceKey:
    """Return the public name of an instance."""
    return InstanceKey(run_id, task_id, None if place[2] == UNMAPPED else place[2])
