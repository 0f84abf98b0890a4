"""What each operation changes in the database, inside a transaction that somebody else begins and ends.

Operations are judged by the rules on rows read within the transaction, and refused before they change anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from dagrelay.errors import RunNotFoundError, RunStateError
from dagrelay.model.records import InstanceKey
from dagrelay.model.states import LIVE_TASK_STATES, RunState
from dagrelay.stores import entry_rules, rules
from dagrelay.stores.operations import (
    OUTSIDE,
    AckItems,
    AppendItems,
    CreateRun,
    DeleteEntries,
    DeleteRun,
    FinishAttempt,
    ForkRun,
    MarkInstance,
    NoteMessage,
    Provide,
    PruneRuns,
    PutEntries,
    ReopenRun,
    SetRunState,
    StartAttempt,
)
from dagrelay.stores.sqlite import rows
from dagrelay.stores.sqlite.forks import fork
from dagrelay.stores.sqlite.outside import is_noted, note, note_done, provide
from dagrelay.stores.sqlite.rows import RunFields
from dagrelay.stores.sqlite.streams import carry_out_on_stream

if TYPE_CHECKING:
    import sqlite3

    from dagrelay.stores.operations import Operation
    from dagrelay.stores.rules import InstanceRow, LoggedEvent
    from dagrelay.stores.sqlite.changes import Changes
    from dagrelay.stores.sqlite.rows import Place

__all__ = ("Attempted", "carry_out", "interrupt_runs", "next_seq")

# The states are the finished ones of `rows`, written out: a partial index does not serve a question with parameters there.
_FINISHED_RUNS: Final = """SELECT run_id FROM run WHERE dag_id = ? AND is_pruned = 0 AND state IN (1, 2, 3)
    ORDER BY ended_us DESC, run_pk DESC LIMIT -1 OFFSET ?"""
_FINISHED_BEFORE: Final = """SELECT run_id FROM run WHERE dag_id = ? AND is_pruned = 0 AND state IN (1, 2, 3)
    AND ended_us < ? ORDER BY ended_us DESC, run_pk DESC"""

Attempted: TypeAlias = StartAttempt | FinishAttempt | MarkInstance | PutEntries | AppendItems | AckItems | Provide
"""What needs the row of the instance it names."""


def carry_out(changes: Changes, op: Operation) -> int:
    """Carry out an operation and return its result.

    Raises:
        DagrelayError: it is refused, and nothing was changed.
    """
    match op:
        case FinishAttempt():
            return _finish(changes, op)
        case PutEntries():
            return _put(changes, op)
        case StartAttempt():
            place = changes.place(op.instance)
            row, history = rules.started(changes.instance(place), op)
            changes.put_instance(place, row)
            changes.log(place[0], history)
        case MarkInstance():
            place = changes.place(op.instance)
            row = rules.marked(changes.instance(place), op)
            changes.put_instance(place, row)
            return row.attempt
        case AppendItems() | AckItems():
            carry_out_on_stream(changes, op)
        case CreateRun():
            _create(changes, op)
        case ForkRun():
            fork(changes, op)
        case Provide():
            return provide(changes, op)
        case NoteMessage():
            return note(changes, op)
        case SetRunState():
            fields, run = changes.existing_run(op.run_id)
            changes.put_run(fields._replace(row=rules.ended_run(run, op)))
        case ReopenRun():
            return _reopen(changes, op)
        case DeleteEntries():
            return _delete_entries(changes, op)
        case DeleteRun():
            return _delete_run(changes, op.run_id)
        case PruneRuns():
            return _prune(changes, op)
        case _:
            assert_never(op)
    return 1


# -------------------------------------------------------------------------------------------------- attempts


def _finish(changes: Changes, op: FinishAttempt) -> int:
    place = changes.place(op.instance)
    row, history = rules.finished(changes.instance(place), op)
    changes.put_instance(place, row)
    if op.entries:
        changes.put_entries(op, place, op.attempt)
    if history:
        changes.log(place[0], history)
    return 1


def _put(changes: Changes, op: PutEntries) -> int:
    place = _place_of_push(changes, op)
    entry_rules.check_put(changes.instance(place), op)
    changes.put_entries(op, place, op.slot)
    return 1


def _place_of_push(changes: Changes, op: PutEntries) -> Place:
    try:
        return changes.place(op.instance)
    except RunNotFoundError:
        if op.slot != OUTSIDE:
            raise
    run_id, task_id, map_index = op.instance
    fields = changes.run(run_id)
    if fields is None:
        fields = RunFields(changes.new_run_pk(), run_id, None, None)
        changes.put_run(fields)
    elif fields.row is not None:
        raise RunStateError(run_id, "pruned", "nothing can be pushed to it")
    return fields.run_pk, changes.task(task_id), rows.UNMAPPED if map_index is None else map_index


def _delete_entries(changes: Changes, op: DeleteEntries) -> int:
    instance = InstanceKey(op.run_id, op.task_id, op.map_index)
    if op.attempt is not None:
        rules.check_writer(instance, changes.instance(changes.place(instance)), op.attempt)
    fields = changes.run(op.run_id)
    task_pk = changes.known_task(op.task_id)
    if fields is None or task_pk is None:
        return 0
    changes.flush()
    question = "DELETE FROM xcom WHERE run_pk = ? AND task_pk = ?"
    values: list[int | str] = [fields.run_pk, task_pk]
    if op.slots is not None:
        question += f" AND map_index = ? AND slot IN ({', '.join('?' * len(op.slots))})"
        values += [rows.UNMAPPED if op.map_index is None else op.map_index, *op.slots]
    if op.key is not None:
        question += " AND key = ?"
        values.append(op.key)
    count = changes.cursor.execute(question, values).rowcount
    if count:
        changes.log(fields.run_pk, (entry_rules.deletion_event(op, count),))
    return count


# -------------------------------------------------------------------------------------------------- runs


def _create(changes: Changes, op: CreateRun) -> None:
    fields = changes.run(op.run_id)
    if fields is not None and fields.row is not None:
        raise rules.conflict(fields.row)
    run_pk = changes.new_run_pk() if fields is None else fields.run_pk
    changes.put_run(RunFields(run_pk, op.run_id, changes.plan(op.plan), rules.created_run(op)))


def _reopen(changes: Changes, op: ReopenRun) -> int:
    if is_noted(changes, op.message_id):
        return 0
    fields, row = changes.existing_run(op.run_id)
    new = rules.reopened_run(row, op)
    cleared: list[tuple[Place, InstanceRow | None, tuple[LoggedEvent, ...]]] = []
    for seq, instance in enumerate(op.clear, op.seq + 1):
        place = changes.place(instance)
        cleared.append((place, *rules.cleared(instance, changes.instance(place), at_us=op.at_us, seq=seq)))
    changes.log(fields.run_pk, rules.run_events(row))
    for place, instance_row, history in cleared:
        if instance_row is not None:
            changes.put_instance(place, instance_row)
        changes.log(fields.run_pk, history)
    plan_pk = fields.plan_pk if op.plan is None else changes.plan(op.plan)
    changes.put_run(fields._replace(plan_pk=plan_pk, row=new))
    if plan_pk != fields.plan_pk:
        changes.drop_unused_plan(fields.plan_pk)
    note_done(changes, op.message_id, at_us=op.at_us)
    return 1


def _delete_run(changes: Changes, run_id: str) -> int:
    fields = changes.run(run_id)
    if fields is None or (fields.row is not None and fields.row.is_pruned):
        return 0
    if fields.row is None:
        count = changes.empty(run_id, fields.run_pk)
        changes.cursor.execute("DELETE FROM run WHERE run_pk = ?", (fields.run_pk,))
        return 1 if count else 0
    rules.check_deletable(fields.row)
    changes.empty(run_id, fields.run_pk)
    changes.put_run(fields._replace(plan_pk=None, row=rules.buried_run(fields.row)))
    changes.drop_unused_plan(fields.plan_pk)
    return 1


def _prune(changes: Changes, op: PruneRuns) -> int:
    found: list[tuple[str]] = []
    if op.before_us is not None:
        found += changes.cursor.execute(_FINISHED_BEFORE, (op.dag_id, op.before_us)).fetchall()
    if op.keep is not None:
        found += changes.cursor.execute(_FINISHED_RUNS, (op.dag_id, op.keep)).fetchall()
    return sum(_delete_run(changes, run_id) for (run_id,) in found)


def interrupt_runs(changes: Changes, *, now_us: int) -> None:
    """Mark what ran under an earlier owner as interrupted."""
    running = (rows.RUN_STATE_CODES[RunState.RUNNING],)
    found = changes.cursor.execute(rows.SELECT_RUN + "state = ?", running).fetchall()
    for run in found:
        _interrupt_run(changes, rows.decode_run(changes.path, run), now_us)


def _interrupt_run(changes: Changes, fields: RunFields, now_us: int) -> None:
    row = fields.row
    assert row is not None, "a place holder has no state"
    seq = next_seq(changes.cursor, fields.run_pk)
    live = [rows.TASK_STATE_CODES[state] for state in sorted(LIVE_TASK_STATES)]
    found = changes.cursor.execute(
        "SELECT * FROM instance WHERE run_pk = ? AND state IN (?, ?, ?)", (fields.run_pk, *live)
    ).fetchall()
    for instance in found:
        place, old = rows.decode_instance(changes.path, instance)
        key = rows.instance_key(row.run_id, changes.task_id(place[1]), place)
        new, history = rules.interrupted(key, old, now_us=now_us, seq=seq)
        changes.put_instance(place, new)
        changes.log(fields.run_pk, history)
        seq += 1
    changes.put_run(fields._replace(row=rules.interrupted_run(row, now_us=now_us, seq=seq)))


def next_seq(cursor: sqlite3.Cursor, run_pk: int) -> int:
    """Return one above the highest place taken in a run's timeline."""
    # The parts are asked one by one, as max() of several is NULL if any of them is.
    highest = 0
    for question in (
        "SELECT max(start_seq), max(end_seq) FROM run WHERE run_pk = ?",
        "SELECT max(start_seq), max(seq) FROM instance WHERE run_pk = ?",
        "SELECT max(seq), NULL FROM xcom WHERE run_pk = ?",
        "SELECT max(seq), NULL FROM event WHERE run_pk = ?",
    ):
        highest = max(highest, *(seq or 0 for seq in cursor.execute(question, (run_pk,)).fetchone()))
    return highest + 1
