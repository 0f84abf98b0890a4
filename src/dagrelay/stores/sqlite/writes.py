"""What each operation changes in the database, inside a transaction that somebody else begins and ends.

Operations are judged by the rules on rows read within the transaction, and refused before they change anything. The rows they
change are held back in Changes and written many at a time, so that a start and its outcome in one batch cost one row.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeAlias, assert_never

from dagrelay.errors import RunNotFoundError, RunStateError, StoreCorruptError
from dagrelay.model.events import TaskStateChanged, XComDeleted
from dagrelay.model.records import InstanceKey
from dagrelay.model.states import LIVE_TASK_STATES, RunState
from dagrelay.stores import rules
from dagrelay.stores.operations import (
    OUTSIDE,
    CreateRun,
    DeleteEntries,
    DeleteRun,
    FinishAttempt,
    MarkInstance,
    PruneRuns,
    PutEntries,
    ReopenRun,
    SetRunState,
    StartAttempt,
)
from dagrelay.stores.sqlite import rows
from dagrelay.stores.sqlite.rows import RunFields

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from dagrelay.stores.operations import Operation, StoredPlan
    from dagrelay.stores.rules import InstanceRow, LoggedEvent, RunRow
    from dagrelay.stores.sqlite.rows import Place

__all__ = ("Attempted", "Changes", "Names", "carry_out", "interrupt_runs", "next_seq")

_KNOWN_NAMES: Final = 200_000
"""Names remembered at the most; then all are forgotten and read again as needed."""

_PUT_RUN: Final = """INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run_pk) DO UPDATE SET
    dag_id = excluded.dag_id, state = excluded.state, is_pruned = excluded.is_pruned, tags = excluded.tags,
    created_us = excluded.created_us, started_us = excluded.started_us, ended_us = excluded.ended_us,
    start_seq = excluded.start_seq, end_seq = excluded.end_seq, plan_pk = excluded.plan_pk, crc = excluded.crc,
    params = excluded.params"""
_GET_INSTANCE: Final = "SELECT * FROM instance WHERE run_pk = ? AND task_pk = ? AND map_index = ?"
_CHUNK: Final = 32
"""Instances read by one statement."""
_WORTH_A_CHUNK: Final = 4
"""Fewer rows than these are read singly."""
_GET_INSTANCES: Final = (
    "SELECT * FROM instance WHERE run_pk = ? AND map_index = -1 AND task_pk IN (?" + ", ?" * (_CHUNK - 1) + ")"
)
_PUT_INSTANCE: Final = """INSERT INTO instance VALUES {rows}
    ON CONFLICT (run_pk, task_pk, map_index) DO UPDATE SET
    state = excluded.state, attempt = excluded.attempt, started_us = excluded.started_us, ended_us = excluded.ended_us,
    start_seq = excluded.start_seq, seq = excluded.seq, error = excluded.error, failures = excluded.failures,
    interruptions = excluded.interruptions, retry_us = excluded.retry_us, crc = excluded.crc"""
# Never INSERT OR REPLACE: it deletes and inserts, which is five times dearer.
_PUT_ENTRY: Final = """INSERT INTO xcom VALUES {rows}
    ON CONFLICT (run_pk, task_pk, map_index, key, slot) DO UPDATE SET
    attempt = excluded.attempt, seq = excluded.seq, created_us = excluded.created_us, size = excluded.size,
    serializer = excluded.serializer, sensitive = excluded.sensitive, published = excluded.published,
    description = excluded.description, value_crc = excluded.value_crc, crc = excluded.crc, value = excluded.value"""
# The states are the finished ones of `rows`, written out: a partial index does not serve a question with parameters there.
_FINISHED_RUNS: Final = """SELECT run_id FROM run WHERE dag_id = ? AND is_pruned = 0 AND state IN (1, 2, 3)
    ORDER BY ended_us DESC, run_pk DESC LIMIT -1 OFFSET ?"""
_PUT_EVENT: Final = "INSERT INTO event VALUES {rows}"
_ROWS_AT_ONCE: Final = (64, 16, 4, 1)
"""Rows written by one statement. Each statement lets go of the interpreter's lock, and must wait to get it back from a busy loop
for as long as its switch interval, so a batch is written by as few as its size allows; and each size is compiled once."""

Attempted: TypeAlias = StartAttempt | FinishAttempt | MarkInstance | PutEntries


class Names:
    """The surrogate keys of run ids, task ids and plans that the writer has met lately.

    Invariant: each stands for a row that is stored, or was inserted by the transaction under way; a rollback forgets all.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.runs: dict[str, int] = {}
        self.tasks: dict[str, int] = {}

    def forget(self) -> None:
        """Drop everything."""
        self.runs.clear()
        self.tasks.clear()

    def trim(self) -> None:
        """Keep within bounds."""
        if len(self.runs) + len(self.tasks) > _KNOWN_NAMES:
            self.forget()


class Changes:
    """The rows one transaction has read and changed."""

    def __init__(self, cursor: sqlite3.Cursor, names: Names, path: str) -> None:
        """Take a cursor, what is known of names, and the database's path for error messages."""
        self.cursor = cursor
        self.path = path
        self._names = names
        self._instances: dict[Place, InstanceRow | None] = {}
        self._changed: dict[Place, InstanceRow] = {}
        self._entries: list[tuple[Any, ...]] = []
        self._events: list[tuple[Any, ...]] = []

    def flush(self) -> None:
        """Write what was held back."""
        if self._changed:
            _write_rows(self.cursor, _PUT_INSTANCE, [rows.encode_instance(place, row) for place, row in self._changed.items()])
            self._changed = {}
        if self._entries:
            _write_rows(self.cursor, _PUT_ENTRY, self._entries)
            self._entries = []
        if self._events:
            _write_rows(self.cursor, _PUT_EVENT, self._events)
            self._events = []

    # ---------------------------------------------------------------------------------------------- names

    def task(self, task_id: str) -> int:
        """Return the key of a task id, interning it."""
        known = self.known_task(task_id)
        if known is not None:
            return known
        task_pk: int = 1 + (self.cursor.execute("SELECT max(task_pk) FROM task").fetchone()[0] or 0)
        self.cursor.execute("INSERT INTO task VALUES (?, ?, ?)", rows.encode_task(task_pk, task_id))
        self._names.tasks[task_id] = task_pk
        return task_pk

    def known_task(self, task_id: str) -> int | None:
        """Return the key of a task id, None if it was never stored."""
        known = self._names.tasks.get(task_id)
        if known is not None:
            return known
        found = self.cursor.execute("SELECT * FROM task WHERE task_id = ?", (task_id,)).fetchone()
        if found is None:
            return None
        task_pk, _ = rows.decode_task(self.path, found)
        self._names.tasks[task_id] = task_pk
        return task_pk

    def task_id(self, task_pk: int) -> str:
        """Return the task id of a key."""
        found = self.cursor.execute("SELECT * FROM task WHERE task_pk = ?", (task_pk,)).fetchone()
        if found is None:
            raise StoreCorruptError(self.path, f"task {task_pk} is missing")
        return rows.decode_task(self.path, found)[1]

    def run_pk(self, run_id: str) -> int:
        """Return the key of a run that is there and not pruned.

        Raises:
            RunNotFoundError: it is not.
        """
        fields = self.run(run_id)
        if fields is None or fields.row is None or fields.row.is_pruned:
            raise RunNotFoundError(run_id)
        self._names.runs[run_id] = fields.run_pk
        return fields.run_pk

    def place(self, instance: InstanceKey) -> Place:
        """Return where an instance of a run that is there stands; see `run_pk`."""
        run_id, task_id, map_index = instance
        run_pk, task_pk = self._names.runs.get(run_id), self._names.tasks.get(task_id)
        return (
            self.run_pk(run_id) if run_pk is None else run_pk,
            self.task(task_id) if task_pk is None else task_pk,
            rows.UNMAPPED if map_index is None else map_index,
        )

    # ---------------------------------------------------------------------------------------------- rows

    def run(self, run_id: str) -> RunFields | None:
        """Return the row of a run id."""
        found = self.cursor.execute(rows.SELECT_RUN + "run_id = ?", (run_id,)).fetchone()
        return None if found is None else rows.decode_run(self.path, found)

    def existing_run(self, run_id: str) -> tuple[RunFields, RunRow]:
        """Return the row of a run that is there and not pruned.

        Raises:
            RunNotFoundError: it is not.
        """
        fields = self.run(run_id)
        if fields is None or fields.row is None or fields.row.is_pruned:
            raise RunNotFoundError(run_id)
        return fields, fields.row

    def put_run(self, fields: RunFields) -> None:
        """Insert or update the row of a run."""
        self.cursor.execute(_PUT_RUN, rows.encode_run(fields))

    def new_run_pk(self) -> int:
        """Return a key for a new row of table `run`."""
        highest: int | None = self.cursor.execute("SELECT max(run_pk) FROM run").fetchone()[0]
        return 1 + (highest or 0)

    def instance(self, place: Place) -> InstanceRow | None:
        """Return the row of an instance, None if it was never touched."""
        try:
            return self._instances[place]
        except KeyError:
            found = self.cursor.execute(_GET_INSTANCE, place).fetchone()
            row = None if found is None else rows.decode_instance(self.path, found)[1]
            self._instances[place] = row
            return row

    def foresee(self, instances: Iterable[InstanceKey]) -> None:
        """Read the rows of many instances at once, where their names are known; it changes nothing but the time it takes."""
        wanted: dict[int, list[int]] = {}
        for run_id, task_id, map_index in instances:
            run_pk, task_pk = self._names.runs.get(run_id), self._names.tasks.get(task_id)
            if run_pk is not None and task_pk is not None and map_index is None:
                wanted.setdefault(run_pk, []).append(task_pk)
        for run_pk, task_pks in wanted.items():
            # One statement of one length: a last chunk worth it is filled up with a key that it has already.
            rest = len(task_pks) % _CHUNK
            if rest >= _WORTH_A_CHUNK:
                task_pks.extend(task_pks[-1:] * (_CHUNK - rest))
            for first in range(0, len(task_pks) - _CHUNK + 1, _CHUNK):
                chunk = task_pks[first : first + _CHUNK]
                self._instances.update(dict.fromkeys([(run_pk, task_pk, rows.UNMAPPED) for task_pk in chunk]))
                for found in self.cursor.execute(_GET_INSTANCES, (run_pk, *chunk)):
                    place, row = rows.decode_instance(self.path, found)
                    self._instances[place] = row

    def put_instance(self, place: Place, row: InstanceRow) -> None:
        """Insert or update the row of an instance."""
        self._instances[place] = self._changed[place] = row

    def put_entries(self, op: PutEntries | FinishAttempt, place: Place, slot: int) -> None:
        """Insert or update the entries of an operation."""
        for entry in op.entries:
            self._entries.append(rows.encode_entry(place, slot, op.attempt, entry))

    def log(self, run_pk: int, events: Iterable[LoggedEvent]) -> None:
        """Insert events into the log."""
        for event in events:
            task_pk = self.task(event.task_id) if isinstance(event, (TaskStateChanged, XComDeleted)) else None
            self._events.append(rows.encode_event(run_pk, task_pk, event))

    def plan(self, plan: StoredPlan) -> int:
        """Return the key of a plan, storing it (and interning its task ids in their order) if it is new."""
        found = self.cursor.execute("SELECT plan_pk FROM plan WHERE fingerprint = ?", (plan.fingerprint,)).fetchone()
        if found is not None:
            plan_pk: int = found[0]
            return plan_pk
        for task_id in plan.task_ids:
            self.task(task_id)
        plan_pk = 1 + (self.cursor.execute("SELECT max(plan_pk) FROM plan").fetchone()[0] or 0)
        self.cursor.execute("INSERT INTO plan VALUES (?, ?, ?, ?, ?)", rows.encode_plan(plan_pk, plan))
        return plan_pk

    def drop_unused_plan(self, plan_pk: int | None) -> None:
        """Delete a plan that no run refers to any more."""
        self.cursor.execute(
            "DELETE FROM plan WHERE plan_pk = ? AND NOT EXISTS (SELECT 1 FROM run WHERE run.plan_pk = plan.plan_pk)", (plan_pk,)
        )

    def empty(self, run_id: str, run_pk: int) -> int:
        """Delete everything of a run but its row, and return how many entries it had."""
        self.flush()
        self._instances.clear()
        self._names.runs.pop(run_id, None)
        self.cursor.execute("DELETE FROM instance WHERE run_pk = ?", (run_pk,))
        self.cursor.execute("DELETE FROM event WHERE run_pk = ?", (run_pk,))
        return self.cursor.execute("DELETE FROM xcom WHERE run_pk = ?", (run_pk,)).rowcount


def _write_rows(cursor: sqlite3.Cursor, statement: str, found: list[tuple[Any, ...]]) -> None:
    """Write rows, in order, by few statements."""
    first, width = 0, len(found[0])
    for count in _ROWS_AT_ONCE:
        while len(found) - first >= count:
            cursor.execute(_with_rows(statement, count, width), list(chain.from_iterable(found[first : first + count])))
            first += count


@lru_cache(maxsize=64)
def _with_rows(statement: str, count: int, width: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.replace("{rows}", ", ".join([row] * count))


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
            changes.put_instance(place, rules.started(changes.instance(place), op))
        case MarkInstance():
            place = changes.place(op.instance)
            row = rules.marked(changes.instance(place), op)
            changes.put_instance(place, row)
            return row.attempt
        case CreateRun():
            _create(changes, op)
        case SetRunState():
            fields, run = changes.existing_run(op.run_id)
            changes.put_run(fields._replace(row=rules.ended_run(run, op)))
        case ReopenRun():
            _reopen(changes, op)
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
    rules.check_put(changes.instance(place), op)
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
        changes.log(fields.run_pk, (rules.deletion_event(op, count),))
    return count


# -------------------------------------------------------------------------------------------------- runs


def _create(changes: Changes, op: CreateRun) -> None:
    fields = changes.run(op.run_id)
    if fields is not None and fields.row is not None:
        raise rules.conflict(fields.row)
    run_pk = changes.new_run_pk() if fields is None else fields.run_pk
    changes.put_run(RunFields(run_pk, op.run_id, changes.plan(op.plan), rules.created_run(op)))


def _reopen(changes: Changes, op: ReopenRun) -> None:
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
    found = changes.cursor.execute(_FINISHED_RUNS, (op.dag_id, op.keep)).fetchall()
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
