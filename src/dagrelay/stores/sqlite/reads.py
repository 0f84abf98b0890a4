"""Every question to the database, asked of a snapshot of one moment; what is read is verified."""

from __future__ import annotations

from contextlib import closing
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dagrelay.errors import StoreCorruptError
from dagrelay.model.events import TaskStateChanged
from dagrelay.model.records import InstanceKey
from dagrelay.model.states import LIVE_TASK_STATES, RunState, TaskState
from dagrelay.stores import entry_rules, rules
from dagrelay.stores.base import Lookup, RunImage
from dagrelay.stores.sqlite import rows
from dagrelay.stores.sqlite.gathering import grouped, read_elements
from dagrelay.stores.sqlite.streams import read_stream, stream_bytes
from dagrelay.stores.sqlite.writes import next_seq
from dagrelay.stores.stream_records import StreamPage

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from dagrelay.model.events import Event
    from dagrelay.model.records import Run, XComEntry
    from dagrelay.stores.base import RunQuery, StoredEntry, StoredInstance, StoredRun
    from dagrelay.stores.entry_rules import EntryRow
    from dagrelay.stores.operations import StoredPlan
    from dagrelay.stores.rules import InstanceRow
    from dagrelay.stores.sqlite.rows import Place, RunFields
    from dagrelay.stores.stream_records import StreamQuery

__all__ = ("KnownTasks", "Snapshot")

_KNOWN_TASKS: Final = 100_000
"""Task ids remembered at the most; then all are forgotten and read again as needed."""

_INSTANCE: Final = "SELECT * FROM instance WHERE run_pk = ? AND task_pk = ? AND map_index = ?"
_ENTRY: Final = "SELECT * FROM xcom WHERE run_pk = ? AND task_pk = ? AND map_index = ? AND key = ? AND slot = ?"

_EARLIER: Final = """SELECT run_id FROM run WHERE dag_id = :dag_id AND is_pruned = 0
    AND (created_us, run_pk) < (:at, :run_pk) AND EXISTS (SELECT 1 FROM xcom WHERE xcom.run_pk = run.run_pk
    AND xcom.task_pk = :task_pk AND xcom.map_index = -1 AND xcom.key = :key) ORDER BY created_us DESC, run_pk DESC"""
_RUN_IDS: Final = "SELECT run_id FROM run WHERE dag_id = ? AND is_pruned = 0 ORDER BY created_us, run_pk"

_OF_RUN: Final = 0
_OF_INSTANCE: Final = 1
_OF_ENTRY: Final = 2
_TIMELINE: Final = """
    SELECT start_seq AS seq, 0 AS source, 0 AS task_pk, 0 AS map_index, '' AS key, 0 AS slot
        FROM run WHERE run_pk = :run_pk AND start_seq > :after
    UNION ALL SELECT end_seq, 0, 0, 0, '', 0 FROM run WHERE run_pk = :run_pk AND end_seq > :after
    UNION ALL SELECT start_seq, 1, task_pk, map_index, '', 0 FROM instance WHERE run_pk = :run_pk AND start_seq > :after
    UNION ALL SELECT seq, 1, task_pk, map_index, '', 0
        FROM instance WHERE run_pk = :run_pk AND seq > :after AND state IN (5, 6, 7, 8, 9)
    UNION ALL SELECT seq, 2, task_pk, map_index, key, slot FROM xcom WHERE run_pk = :run_pk AND seq > :after
    UNION ALL SELECT seq, 3, 0, 0, '', 0 FROM event WHERE run_pk = :run_pk AND seq > :after
    ORDER BY seq LIMIT :limit"""
"""Where the events of a run are to be found, in their order: 3 is the log; the states are the ended ones of `rows`."""


class _Where(NamedTuple):
    """Where one event is to be found."""

    seq: int
    source: int
    task_pk: int
    map_index: int
    key: str
    slot: int


class KnownTasks:
    """Task ids and their keys, as met by earlier snapshots: they are never deleted or changed once they are committed."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.pks: dict[str, int] = {}
        self.ids: dict[int, str] = {}

    def add(self, task_pk: int, task_id: str) -> None:
        """Remember one, within bounds."""
        if len(self.ids) >= _KNOWN_TASKS:
            self.pks.clear()
            self.ids.clear()
        self.pks[task_id] = task_pk
        self.ids[task_pk] = task_id


class Snapshot:
    """The database at one moment; lives within one unit of work of the reading connection."""

    def __init__(self, cursor: sqlite3.Cursor, path: str, tasks: KnownTasks, *, shows_running: bool = True) -> None:
        """Take a cursor and the database's path for error messages.

        Without `shows_running` nobody owns the store: what is stored as running is shown as interrupted.
        """
        self._cursor = cursor
        self._path = path
        self._tasks = tasks
        self._shows_running = shows_running
        self._runs: dict[str, RunFields | None] = {}
        self._instances: dict[Place, InstanceRow | None] = {}

    # ---------------------------------------------------------------------------------------------- runs

    def find_run(self, run_id: str) -> StoredRun | None:
        """Answer Store.find_run."""
        fields = self._run(run_id)
        return None if fields is None or fields.row is None else self._stored(fields.row)

    def find_runs(self, query: RunQuery) -> list[Run]:
        """Answer Store.find_runs."""
        question = rows.SELECT_RUN + "dag_id IS NOT NULL AND is_pruned = 0"
        values: list[Any] = []
        for condition, value in (
            (" AND dag_id = ?", query.dag_id),
            (" AND created_us >= ?", query.since_us),
            (" AND created_us < ?", query.until_us),
        ):
            if value is not None:
                question += condition
                values.append(value)
        if query.state is not None:
            codes = [rows.RUN_STATE_CODES[state] for state in self._shown_as(query.state)]
            question += f" AND state IN ({', '.join('?' * len(codes))})"
            values += codes
        found = self._cursor.execute(question + " ORDER BY created_us DESC, run_pk DESC", values)
        runs = self._having_tags(found, query.tags)
        stop = None if query.limit is None else query.offset + query.limit
        return list(islice(runs, query.offset, stop))

    def _having_tags(self, found: sqlite3.Cursor, tags: tuple[str, ...]) -> Iterator[Run]:
        wanted = set(tags)
        for run in found:
            row = self._shown(rows.decode_run(self._path, run)).row
            if row is not None and wanted.issubset(row.tags):
                yield self._stored(row).run

    def _stored(self, row: rules.RunRow) -> StoredRun:
        try:
            return rules.stored_run(row)
        except (ValueError, OverflowError, RecursionError) as error:
            raise StoreCorruptError(self._path, f"run {row.run_id!r} can't be understood: {error}") from error

    def load_run(self, run_id: str) -> RunImage | None:
        """Answer Store.load_run."""
        fields = self._run(run_id)
        if fields is None or fields.row is None or fields.row.is_pruned:
            return None
        touched = self._instance_rows(fields.run_pk)
        return RunImage(
            stored=self._stored(fields.row),
            plan=self._plan(fields.plan_pk),
            instances=tuple(rules.stored_instance(self._key(run_id, place), row) for place, row in touched.items()),
            highest_attempts=self._highest_attempts(run_id, fields.run_pk, touched),
            next_seq=next_seq(self._cursor, fields.run_pk),
            stored_bytes=self.stored_bytes(run_id),
        )

    def _plan(self, plan_pk: int | None) -> StoredPlan:
        found = self._cursor.execute("SELECT * FROM plan WHERE plan_pk = ?", (plan_pk,)).fetchone()
        if found is None:
            raise StoreCorruptError(self._path, f"plan {plan_pk} is missing")
        return rows.decode_plan(self._path, found)

    def _highest_attempts(self, run_id: str, run_pk: int, touched: dict[Place, InstanceRow]) -> dict[InstanceKey, int]:
        found = self._cursor.execute(
            "SELECT task_pk, map_index, max(attempt) FROM xcom WHERE run_pk = ? GROUP BY task_pk, map_index", (run_pk,)
        ).fetchall()
        highest: dict[InstanceKey, int] = {}
        for task_pk, map_index, attempt in found:
            row = touched.get((run_pk, task_pk, map_index))
            if attempt > (0 if row is None else row.attempt):
                highest[self._key(run_id, (run_pk, task_pk, map_index))] = attempt
        return highest

    def next_seq(self, run_id: str) -> int:
        """Answer Store.next_seq."""
        fields = self._run(run_id)
        return 1 if fields is None else next_seq(self._cursor, fields.run_pk)

    # ---------------------------------------------------------------------------------------------- instances

    def instances(self, run_id: str, *, task_id: str | None, state: TaskState | None) -> list[StoredInstance]:
        """Answer Store.instances."""
        fields = self._run(run_id)
        if fields is None:
            return []
        touched = self._instance_rows(fields.run_pk, None if task_id is None else self._task_pk(task_id) or 0)
        return [
            rules.stored_instance(self._key(run_id, place), row)
            for place, row in touched.items()
            if state is None or row.state is state
        ]

    def attempts(self, dag_id: str, *, task_id: str | None) -> list[StoredInstance]:
        """Answer Store.attempts."""
        found = self._cursor.execute(_RUN_IDS, (dag_id,)).fetchall()
        return [each for (run_id,) in found for each in self.instances(run_id, task_id=task_id, state=None)]

    # ---------------------------------------------------------------------------------------------- entries

    def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        """Answer Store.lookup."""
        found: list[StoredEntry | None] = [None] * len(wanted)
        singles, groups = grouped(wanted)
        for position in singles:
            found[position] = self._find(wanted[position])
        for name, positions in groups:
            fields, task_pk = self._run(name.run_id), self._task_pk(name.task_id)
            if fields is not None and task_pk is not None:
                by_index = read_elements(
                    self._cursor, self._path, (fields.run_pk, task_pk), name, positions, shown=self._shown_instance
                )
                for index, places in positions.items():
                    for position in places:
                        found[position] = by_index.get(index)
        return found

    def _find(self, wanted: Lookup) -> StoredEntry | None:
        run_id, task_id, map_index = wanted.instance
        fields = self._run(run_id)
        task_pk = self._task_pk(task_id)
        if fields is None or task_pk is None:
            return None
        place = (fields.run_pk, task_pk, rows.UNMAPPED if map_index is None else map_index)
        if wanted.slots is not None:
            row, slots = None, wanted.slots
        else:
            row = self._instance(place)
            slots = entry_rules.visible_slots(row)
        for slot in slots:
            found = self._cursor.execute(_ENTRY, (*place, wanted.key, slot)).fetchone()
            if found is None:
                continue
            entry = rows.decode_entry(self._path, found)[1]
            if wanted.slots is not None or entry_rules.is_visible(row, entry):
                return entry_rules.found(entry, rows.decode_value(self._path, found))
        return None

    def previous(self, dag_id: str, task_id: str, key: str, *, before_run: str, limit: int) -> list[tuple[str, StoredEntry]]:
        """Answer Store.previous."""
        before, task_pk = self._run(before_run), self._task_pk(task_id)
        if before is None or before.row is None or task_pk is None:
            return []
        found: list[tuple[str, StoredEntry]] = []
        values = {"dag_id": dag_id, "at": before.row.created_us, "run_pk": before.run_pk, "task_pk": task_pk, "key": key}
        # A cursor of its own, as the run is looked into before the next one is asked for.
        with closing(self._cursor.connection.cursor()) as runs:
            for (run_id,) in runs.execute(_EARLIER, values):
                if len(found) >= limit:
                    break
                value = self._find(Lookup(instance=InstanceKey(run_id, task_id), key=key))
                if value is not None:
                    found.append((run_id, value))
        return found

    def entries(
        self, run_id: str, *, task_ids: Sequence[str] | None, prefix: str | None, all_attempts: bool, with_values: bool
    ) -> list[tuple[XComEntry, StoredEntry | None]]:
        """Answer Store.entries."""
        fields = self._run(run_id)
        if fields is None:
            return []
        dag_id = None if fields.row is None else fields.row.dag_id
        logged = self._logged_changes(run_id, fields.run_pk) if all_attempts else {}
        result: list[tuple[XComEntry, StoredEntry | None]] = []
        metas = self._metas(fields.run_pk, task_ids, prefix)
        for (place, _), group in groupby(metas, key=lambda meta: (meta[0], meta[1].key)):
            instance = self._key(run_id, place)
            row = self._instance(place)
            same = [entry for _, entry in group]
            for entry in same if all_attempts else entry_rules.picked(row, same):
                state = entry_rules.attempt_state(row, logged.get(place, ()), entry.attempt) if all_attempts else None
                record = entry_rules.entry_record(instance, entry, dag_id=dag_id, state=state)
                result.append((record, self._valued(place, entry) if with_values else None))
        return result

    def _metas(self, run_pk: int, task_ids: Sequence[str] | None, prefix: str | None) -> list[tuple[Place, EntryRow]]:
        conditions, values = "", list[Any]()
        if prefix is not None:
            # Not LIKE, to which `_`, `%` and case mean something.
            conditions, values = " AND substr(key, 1, ?) = ?", [len(prefix), prefix]
        order = " ORDER BY task_pk, map_index, key, slot"
        found: list[tuple[Any, ...]] = []
        if task_ids is None:
            found = self._cursor.execute(rows.SELECT_ENTRY + conditions + order, (run_pk, *values)).fetchall()
        else:
            for task_pk in map(self._task_pk, dict.fromkeys(task_ids)):
                found += self._cursor.execute(
                    rows.SELECT_ENTRY + " AND task_pk = ?" + conditions + order, (run_pk, task_pk, *values)
                )
        return [rows.decode_entry(self._path, meta) for meta in found]

    def _valued(self, place: Place, entry: EntryRow) -> StoredEntry:
        found = self._cursor.execute(_ENTRY, (*place, entry.key, entry.slot)).fetchone()
        return entry_rules.found(entry, rows.decode_value(self._path, found))

    def _logged_changes(self, run_id: str, run_pk: int) -> dict[Place, list[TaskStateChanged]]:
        changes: dict[Place, list[TaskStateChanged]] = {}
        for found in self._cursor.execute("SELECT * FROM event WHERE run_pk = ? ORDER BY seq", (run_pk,)).fetchall():
            event = self._logged(run_id, found)
            if isinstance(event, TaskStateChanged):
                changes.setdefault((run_pk, found[4], found[5]), []).append(event)
        return changes

    def stored_bytes(self, run_id: str) -> int:
        """Answer Store.stored_bytes."""
        fields = self._run(run_id)
        if fields is None:
            return 0
        size: int | None = self._cursor.execute("SELECT sum(size) FROM xcom WHERE run_pk = ?", (fields.run_pk,)).fetchone()[0]
        return (size or 0) + stream_bytes(self._cursor, fields.run_pk)

    def stream(self, query: StreamQuery) -> StreamPage:
        """Answer Store.stream."""
        producer = self._place(query.producer)
        consumer = None if query.consumer is None else self._place(query.consumer)
        if producer is None:
            return StreamPage(head=None, position=None, chunks=())
        return read_stream(self._cursor, self._path, producer, consumer, query)

    def _place(self, instance: InstanceKey) -> Place | None:
        run_id, task_id, map_index = instance
        fields, task_pk = self._run(run_id), self._task_pk(task_id)
        if fields is None or task_pk is None:
            return None
        return fields.run_pk, task_pk, rows.UNMAPPED if map_index is None else map_index

    # ---------------------------------------------------------------------------------------------- timeline

    def events(self, run_id: str, *, after_seq: int, limit: int) -> list[Event]:
        """Answer Store.events."""
        fields = self._run(run_id)
        if fields is None or (fields.row is not None and fields.row.is_pruned):
            return []
        values = {"run_pk": fields.run_pk, "after": after_seq, "limit": limit}
        found = self._cursor.execute(_TIMELINE, values).fetchall()
        return [self._event(run_id, fields, _Where(*where)) for where in found]

    def _event(self, run_id: str, fields: RunFields, where: _Where) -> Event:
        for event in self._events_of(run_id, fields, where):
            if event.seq == where.seq:
                return event
        raise StoreCorruptError(self._path, f"event {where.seq} of run {run_id!r} can't be told from its row")

    def _events_of(self, run_id: str, fields: RunFields, where: _Where) -> tuple[Event, ...]:
        place = (fields.run_pk, where.task_pk, where.map_index)
        if where.source == _OF_RUN:
            return () if fields.row is None else rules.run_events(fields.row)
        if where.source == _OF_INSTANCE:
            row = self._stored_instance(place)
            return () if row is None else rules.derived_events(self._key(run_id, place), row)
        if where.source == _OF_ENTRY:
            question = rows.SELECT_ENTRY + " AND task_pk = ? AND map_index = ? AND key = ? AND slot = ?"
            found = self._cursor.execute(question, (*place, where.key, where.slot)).fetchone()
            return (entry_rules.push_event(self._key(run_id, place), rows.decode_entry(self._path, found)[1]),)
        found = self._cursor.execute("SELECT * FROM event WHERE run_pk = ? AND seq = ?", (fields.run_pk, where.seq)).fetchone()
        return (self._logged(run_id, found),)

    def _logged(self, run_id: str, found: tuple[Any, ...]) -> Event:
        task_pk = found[4]
        return rows.decode_event(self._path, run_id, None if task_pk is None else self._task_id(task_pk), found)

    # ---------------------------------------------------------------------------------------------- messages

    def message(self, message_id: str) -> str | None:
        """Answer Store.message."""
        found = self._cursor.execute("SELECT * FROM inbox WHERE message_id = ?", (message_id,)).fetchone()
        return None if found is None else rows.decode_message(self._path, found)

    # ---------------------------------------------------------------------------------------------- rows and names

    def _run(self, run_id: str) -> RunFields | None:
        if run_id not in self._runs:
            found = self._cursor.execute(rows.SELECT_RUN + "run_id = ?", (run_id,)).fetchone()
            self._runs[run_id] = None if found is None else self._shown(rows.decode_run(self._path, found))
        return self._runs[run_id]

    def _shown(self, fields: RunFields) -> RunFields:
        if self._shows_running or fields.row is None or fields.row.state is not RunState.RUNNING:
            return fields
        return fields._replace(row=fields.row._replace(state=RunState.INTERRUPTED))

    def _shown_as(self, state: RunState) -> tuple[RunState, ...]:
        """Return the stored states that are shown as `state`."""
        if self._shows_running or state not in (RunState.RUNNING, RunState.INTERRUPTED):
            return (state,)
        return () if state is RunState.RUNNING else (RunState.RUNNING, RunState.INTERRUPTED)

    def _instance(self, place: Place) -> InstanceRow | None:
        row = self._stored_instance(place)
        return row if row is None else self._shown_instance(row)

    def _stored_instance(self, place: Place) -> InstanceRow | None:
        try:
            return self._instances[place]
        except KeyError:
            found = self._cursor.execute(_INSTANCE, place).fetchone()
            row = self._instances[place] = None if found is None else rows.decode_instance(self._path, found)[1]
            return row

    def _shown_instance(self, row: InstanceRow) -> InstanceRow:
        if self._shows_running or row.state not in LIVE_TASK_STATES:
            return row
        return row._replace(state=TaskState.INTERRUPTED)

    def _instance_rows(self, run_pk: int, task_pk: int | None = None) -> dict[Place, InstanceRow]:
        question, values = "SELECT * FROM instance WHERE run_pk = ?", [run_pk]
        if task_pk is not None:
            question += " AND task_pk = ?"
            values.append(task_pk)
        found = self._cursor.execute(question + " ORDER BY task_pk, map_index", values).fetchall()
        decoded = (rows.decode_instance(self._path, each) for each in found)
        return {place: self._shown_instance(row) for place, row in decoded}

    def _key(self, run_id: str, place: Place) -> InstanceKey:
        return rows.instance_key(run_id, self._task_id(place[1]), place)

    def _task_pk(self, task_id: str) -> int | None:
        known = self._tasks.pks.get(task_id)
        if known is not None:
            return known
        return self._learn("SELECT * FROM task WHERE task_id = ?", task_id)[0]

    def _task_id(self, task_pk: int) -> str:
        known = self._tasks.ids.get(task_pk)
        if known is not None:
            return known
        task_id = self._learn("SELECT * FROM task WHERE task_pk = ?", task_pk)[1]
        if task_id is None:
            raise StoreCorruptError(self._path, f"task {task_pk} is missing")
        return task_id

    def _learn(self, question: str, name: int | str) -> tuple[int, str] | tuple[None, None]:
        found = self._cursor.execute(question, (name,)).fetchone()
        if found is None:
            return None, None
        task_pk, task_id = rows.decode_task(self._path, found)
        self._tasks.add(task_pk, task_id)
        return task_pk, task_id
