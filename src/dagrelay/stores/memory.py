"""A store that forgets: the same meanings as on disk, kept in dicts for as long as the object lives."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, TypeAlias, assert_never

import anyio.lowlevel

from dagrelay.errors import (
    DagrelayError,
    RunNotFoundError,
    RunStateError,
    StoreClosedError,
    StoreLockedError,
)
from dagrelay.model.events import TaskStateChanged
from dagrelay.model.records import InstanceKey, from_us
from dagrelay.model.states import FINISHED_RUN_STATES, LIVE_TASK_STATES, RunState
from dagrelay.stores import rules
from dagrelay.stores.base import RunImage, StoreStatistics
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dagrelay.model.events import Event
    from dagrelay.model.records import Run, XComEntry
    from dagrelay.model.states import TaskState
    from dagrelay.stores.base import Lookup, RunQuery, StoredEntry, StoredInstance, StoredRun
    from dagrelay.stores.operations import Operation, StoredPlan
    from dagrelay.stores.rules import EntryRow, InstanceRow, RunRow

__all__ = ("MemoryStore",)

_Slot: TypeAlias = tuple[str, int]
"""Key and slot: what names an entry of an instance."""


class _RunTables:
    """All there is under a run id."""

    def __init__(self, order: int) -> None:
        self.order = order
        self.row: RunRow | None = None  # None while there are only entries pushed from outside.
        self.plan: StoredPlan | None = None
        self.instances: dict[InstanceKey, InstanceRow] = {}
        self.entries: dict[InstanceKey, dict[_Slot, tuple[EntryRow, bytes]]] = {}
        self.log: list[Event] = []

    def empty(self) -> int:
        """Delete all but the row, and return how many entries there were."""
        count = sum(map(len, self.entries.values()))
        self.plan = None
        self.instances, self.entries, self.log = {}, {}, []
        return count

    def next_seq(self) -> int:
        """Return one above the highest place taken in the timeline."""
        taken = [event.seq for event in self.events()]
        taken += [row.seq for row in self.instances.values()]
        return max(taken, default=0) + 1

    def events(self) -> list[Event]:
        """Return the timeline in order."""
        events = list(self.log)
        if self.row is not None:
            events += rules.run_events(self.row)
        for key, row in self.instances.items():
            events += rules.derived_events(key, row)
        for key, entries in self.entries.items():
            events += [rules.push_event(key, entry) for entry, _ in entries.values()]
        return sorted(events, key=lambda event: event.seq)


class MemoryStore:
    """Runs and values in this process's memory; a second runtime that opens the same object finds what the first left."""

    def __init__(self) -> None:
        """Start empty."""
        self._runs: dict[str, _RunTables] = {}
        # Invariant: by DAG, the finished runs of `_runs` that are not pruned. (test_conformance: pruning)
        self._finished: dict[str, set[_RunTables]] = {}
        # Task ids in the order in which they were first stored.
        self._tasks: dict[str, int] = {}
        self._created = 0
        self._open_since: str | None = None
        self._batches = self._operations = self._reads = 0

    @property
    def name(self) -> str:
        """`:memory:`."""
        return ":memory:"

    @property
    def is_read_only(self) -> bool:
        """False."""
        return False

    def statistics(self) -> StoreStatistics:
        """Return what was done since the opening; see Store.statistics."""
        return StoreStatistics(batches=self._batches, operations=self._operations, reads=self._reads, replays=0)

    async def maintain(self, *, idle: bool) -> None:
        """Do nothing; see Store.maintain."""

    # ---------------------------------------------------------------------------------------------- opening and closing

    async def open(self, *, now_us: int) -> None:
        """Open the store; see Store.open."""
        await anyio.lowlevel.checkpoint()
        if self._open_since is not None:
            raise StoreLockedError(self.name, pid=os.getpid(), host=socket.gethostname(), since=self._open_since)
        self._open_since = from_us(now_us).isoformat()
        self._batches = self._operations = self._reads = 0
        for run in self._runs.values():
            if run.row is not None and run.row.state is RunState.RUNNING:
                self._interrupt(run, run.row, now_us)

    def _interrupt(self, run: _RunTables, row: RunRow, now_us: int) -> None:
        seq = run.next_seq()
        for key in sorted(run.instances, key=self._place):
            old = run.instances[key]
            if old.state in LIVE_TASK_STATES:
                run.instances[key], history = rules.interrupted(key, old, now_us=now_us, seq=seq)
                run.log += history
                seq += 1
        self._put_row(run, rules.interrupted_run(row, now_us=now_us, seq=seq))

    async def close(self) -> None:
        """Close the store; see Store.close."""
        self._open_since = None

    async def _enter(self) -> None:
        if self._open_since is None:
            raise StoreClosedError(self.name)
        await anyio.lowlevel.checkpoint()

    # ---------------------------------------------------------------------------------------------- writing

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply a batch; see Store.apply."""
        await self._enter()
        results: list[int | DagrelayError] = []
        for op in batch:
            try:
                results.append(self._carry_out(op))
            except DagrelayError as refusal:
                # Its traceback would lead back to the list it stands in.
                results.append(refusal.with_traceback(None))
        self._batches += 1
        self._operations += sum(not isinstance(result, DagrelayError) for result in results)
        return results

    def _carry_out(self, op: Operation) -> int:
        match op:
            case StartAttempt() | FinishAttempt():
                self._attempt(op)
            case MarkInstance():
                return self._mark(op)
            case PutEntries():
                self._put(op)
            case CreateRun():
                self._create(op)
            case ReopenRun():
                self._reopen(op)
            case SetRunState():
                run, row = self._existing(op.run_id)
                self._put_row(run, rules.ended_run(row, op))
            case DeleteEntries():
                return self._delete_entries(op)
            case DeleteRun():
                return self._delete_run(op.run_id)
            case PruneRuns():
                return self._prune(op)
            case _:
                assert_never(op)
        return 1

    def _attempt(self, op: StartAttempt | FinishAttempt) -> None:
        run, _ = self._existing(op.instance.run_id)
        self._intern(op.instance.task_id)
        old = run.instances.get(op.instance)
        if isinstance(op, StartAttempt):
            new = rules.started(old, op)
        else:
            new, history = rules.finished(old, op)
            run.log += history
            self._store(run, op, op.attempt)
        run.instances[op.instance] = new

    def _mark(self, op: MarkInstance) -> int:
        run, _ = self._existing(op.instance.run_id)
        self._intern(op.instance.task_id)
        new = run.instances[op.instance] = rules.marked(run.instances.get(op.instance), op)
        return new.attempt

    def _put(self, op: PutEntries) -> None:
        run_id, task_id, _ = op.instance
        run = self._runs.get(run_id)
        if op.slot != OUTSIDE:
            run, _ = self._existing(run_id)
        elif run is None:
            run = self._runs[run_id] = self._new_tables()
        elif run.row is not None and run.row.is_pruned:
            raise RunStateError(run_id, "pruned", "nothing can be pushed to it")
        self._intern(task_id)
        rules.check_put(run.instances.get(op.instance), op)
        self._store(run, op, op.slot)

    @staticmethod
    def _store(run: _RunTables, op: PutEntries | FinishAttempt, slot: int) -> None:
        if op.entries:
            entries = run.entries.setdefault(op.instance, {})
            for new in op.entries:
                entries[new.key, slot] = rules.entry_row(new, slot=slot, attempt=op.attempt), new.value

    def _delete_entries(self, op: DeleteEntries) -> int:
        instance = InstanceKey(op.run_id, op.task_id, op.map_index)
        run = self._runs.get(op.run_id)
        if op.attempt is not None:
            run, _ = self._existing(op.run_id)
            self._intern(op.task_id)
            rules.check_writer(instance, run.instances.get(instance), op.attempt)
        if run is None:
            return 0
        count = 0
        for key, entries in run.entries.items():
            if key.task_id != op.task_id or (op.slots is not None and key != instance):
                continue
            doomed = [
                (name, slot)
                for name, slot in entries
                if (op.key is None or name == op.key) and (op.slots is None or slot in op.slots)
            ]
            for each in doomed:
                del entries[each]
            count += len(doomed)
        if count:
            run.log.append(rules.deletion_event(op, count))
        return count

    def _create(self, op: CreateRun) -> None:
        run = self._runs.get(op.run_id)
        if run is not None and run.row is not None:
            raise rules.conflict(run.row)
        if run is None:
            run = self._runs[op.run_id] = self._new_tables()
        self._take_plan(run, op.plan)
        self._put_row(run, rules.created_run(op))

    def _reopen(self, op: ReopenRun) -> None:
        run, row = self._existing(op.run_id)
        new = rules.reopened_run(row, op)
        cleared: list[tuple[InstanceKey, InstanceRow | None, tuple[Event, ...]]] = []
        for seq, key in enumerate(op.clear, op.seq + 1):
            self._intern(key.task_id)
            cleared.append((key, *rules.cleared(key, run.instances.get(key), at_us=op.at_us, seq=seq)))
        run.log += rules.run_events(row)
        for key, instance_row, history in cleared:
            run.log += history
            if instance_row is not None:
                run.instances[key] = instance_row
        if op.plan is not None:
            self._take_plan(run, op.plan)
        self._put_row(run, new)

    def _delete_run(self, run_id: str) -> int:
        run = self._runs.get(run_id)
        if run is None or (run.row is not None and run.row.is_pruned):
            return 0
        if run.row is None:
            del self._runs[run_id]
            return 1 if run.empty() else 0
        rules.check_deletable(run.row)
        self._put_row(run, rules.buried_run(run.row))
        run.empty()
        return 1

    def _prune(self, op: PruneRuns) -> int:
        rows = [(run.row.ended_us or 0, run.order, run.row.run_id) for run in self._finished.get(op.dag_id, ()) if run.row]
        return sum(self._delete_run(run_id) for _, _, run_id in sorted(rows, reverse=True)[op.keep :])

    def _existing(self, run_id: str) -> tuple[_RunTables, RunRow]:
        run = self._runs.get(run_id)
        if run is None or run.row is None or run.row.is_pruned:
            raise RunNotFoundError(run_id)
        return run, run.row

    def _put_row(self, run: _RunTables, row: RunRow) -> None:
        run.row = row
        finished = self._finished.setdefault(row.dag_id, set())
        if row.state in FINISHED_RUN_STATES and not row.is_pruned:
            finished.add(run)
        else:
            finished.discard(run)

    def _new_tables(self) -> _RunTables:
        self._created += 1
        return _RunTables(self._created)

    def _take_plan(self, run: _RunTables, plan: StoredPlan) -> None:
        run.plan = plan
        for task_id in plan.task_ids:
            self._intern(task_id)

    def _intern(self, task_id: str) -> None:
        self._tasks.setdefault(task_id, len(self._tasks))

    def _place(self, key: InstanceKey) -> tuple[int, int]:
        return self._tasks[key.task_id], -1 if key.map_index is None else key.map_index

    def _newest_first(self) -> list[RunRow]:
        runs = sorted(self._runs.values(), key=lambda run: run.order, reverse=True)
        rows = [run.row for run in runs if run.row is not None and not run.row.is_pruned]
        return sorted(rows, key=lambda row: row.created_us, reverse=True)  # Stable, where times are equal.

    # ---------------------------------------------------------------------------------------------- reading

    async def _read(self, run_id: str) -> _RunTables | None:
        await self._enter()
        self._reads += 1
        return self._runs.get(run_id)

    async def find_run(self, run_id: str) -> StoredRun | None:
        """Return the run; see Store.find_run."""
        run = await self._read(run_id)
        return None if run is None or run.row is None else rules.stored_run(run.row)

    async def find_runs(self, query: RunQuery) -> list[Run]:
        """Return runs; see Store.find_runs."""
        await self._read("")
        found = [rules.run_record(row) for row in self._newest_first() if _matches(row, query)]
        return found[query.offset :][: query.limit]

    async def load_run(self, run_id: str) -> RunImage | None:
        """Return what is needed to go on; see Store.load_run."""
        run = await self._read(run_id)
        if run is None or run.row is None or run.plan is None:
            return None
        highest: dict[InstanceKey, int] = {}
        for key, entries in run.entries.items():
            row = run.instances.get(key)
            attempt = max((entry.attempt for entry, _ in entries.values()), default=0)
            if attempt > (0 if row is None else row.attempt):
                highest[key] = attempt
        return RunImage(
            stored=rules.stored_run(run.row),
            plan=run.plan,
            instances=tuple(rules.stored_instance(key, row) for key, row in run.instances.items()),
            highest_attempts=highest,
            next_seq=run.next_seq(),
            stored_bytes=_stored_bytes(run),
        )

    async def instances(self, run_id: str, *, task_id: str | None = None, state: TaskState | None = None) -> list[StoredInstance]:
        """Return task instances; see Store.instances."""
        run = await self._read(run_id)
        if run is None:
            return []
        return [
            rules.stored_instance(key, run.instances[key])
            for key in sorted(run.instances, key=self._place)
            if task_id in (None, key.task_id) and state in (None, run.instances[key].state)
        ]

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        """Return values; see Store.lookup."""
        await self._read("")
        return [self._find(each) for each in wanted]

    def _find(self, wanted: Lookup) -> StoredEntry | None:
        run = self._runs.get(wanted.instance.run_id)
        if run is None:
            return None
        row = run.instances.get(wanted.instance)
        entries = run.entries.get(wanted.instance, {})
        for slot in rules.visible_slots(row) if wanted.slots is None else wanted.slots:
            if (wanted.key, slot) in entries:
                entry, value = entries[wanted.key, slot]
                if wanted.slots is not None or rules.is_visible(row, entry):
                    return rules.found(entry, value)
        return None

    async def entries(
        self,
        run_id: str,
        *,
        task_ids: Sequence[str] | None = None,
        prefix: str | None = None,
        all_attempts: bool = False,
        with_values: bool = False,
    ) -> list[tuple[XComEntry, StoredEntry | None]]:
        """Return entries; see Store.entries."""
        run = await self._read(run_id)
        if run is None:
            return []
        dag_id = None if run.row is None else run.row.dag_id
        result: list[tuple[XComEntry, StoredEntry | None]] = []
        for key in self._in_order(run.entries, task_ids):
            row = run.instances.get(key)
            logged = [event for event in run.log if isinstance(event, TaskStateChanged) and _names(event, key)]
            for entry in _shown(run, key, prefix, all_attempts=all_attempts):
                state = rules.attempt_state(row, logged, entry.attempt) if all_attempts else None
                value = run.entries[key][entry.key, entry.slot][1]
                record = rules.entry_record(key, entry, dag_id=dag_id, state=state)
                result.append((record, rules.found(entry, value) if with_values else None))
        return result

    def _in_order(self, keys: Iterable[InstanceKey], task_ids: Sequence[str] | None) -> list[InstanceKey]:
        if task_ids is None:
            return sorted(keys, key=self._place)
        order = {task_id: place for place, task_id in enumerate(dict.fromkeys(task_ids))}
        wanted = [key for key in keys if key.task_id in order]
        return sorted(wanted, key=lambda key: (order[key.task_id], self._place(key)))

    async def stored_bytes(self, run_id: str) -> int:
        """Return the sum of sizes; see Store.stored_bytes."""
        run = await self._read(run_id)
        return 0 if run is None else _stored_bytes(run)

    async def next_seq(self, run_id: str) -> int:
        """Return the next place in the timeline; see Store.next_seq."""
        run = await self._read(run_id)
        return 1 if run is None else run.next_seq()

    async def events(self, run_id: str, *, after_seq: int = 0, limit: int = 1000) -> list[Event]:
        """Return a page of the timeline; see Store.events."""
        run = await self._read(run_id)
        if run is None or (run.row is not None and run.row.is_pruned):
            return []
        return [event for event in run.events() if event.seq > after_seq][:limit]


def _matches(row: RunRow, query: RunQuery) -> bool:
    return (
        query.dag_id in (None, row.dag_id)
        and query.state in (None, row.state)
        and (query.since_us is None or row.created_us >= query.since_us)
        and (query.until_us is None or row.created_us < query.until_us)
        and set(query.tags).issubset(row.tags)
    )


def _names(event: TaskStateChanged, key: InstanceKey) -> bool:
    return (event.task_id, event.map_index) == key[1:]


def _shown(run: _RunTables, key: InstanceKey, prefix: str | None, *, all_attempts: bool) -> list[EntryRow]:
    """Return the entries of one instance to be listed, by key, then slot."""
    found = [entry for _, (entry, _) in sorted(run.entries[key].items()) if prefix is None or entry.key.startswith(prefix)]
    if all_attempts:
        return found
    row = run.instances.get(key)
    names = dict.fromkeys(entry.key for entry in found)
    return [shown for name in names for shown in rules.picked(row, (entry for entry in found if entry.key == name))]


def _stored_bytes(run: _RunTables) -> int:
    return sum(entry.size for entries in run.entries.values() for entry, _ in entries.values())
