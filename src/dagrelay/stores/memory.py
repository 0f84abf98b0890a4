"""A store that forgets: the same meanings as on disk, kept in dicts for as long as the object lives."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, assert_never

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
from dagrelay.stores import entry_rules, rules
from dagrelay.stores.base import Lookup, RunImage, StoreStatistics
from dagrelay.stores.memory_tables import RunTables, matches, names
from dagrelay.stores.operations import (
    MESSAGE_DONE,
    MESSAGES_KEPT_US,
    OUTSIDE,
    TASK_LIFETIME,
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
from dagrelay.stores.stream_records import StreamPage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dagrelay.model.events import Event
    from dagrelay.model.records import Run, XComEntry
    from dagrelay.model.states import TaskState
    from dagrelay.stores.base import RunQuery, StoredEntry, StoredInstance, StoredRun
    from dagrelay.stores.operations import Operation, StoredPlan
    from dagrelay.stores.rules import InstanceRow, RunRow
    from dagrelay.stores.stream_records import StreamQuery

__all__ = ("MemoryStore",)


class MemoryStore:
    """Runs and values in this process's memory; a second runtime that opens the same object finds what the first left."""

    def __init__(self) -> None:
        """Start empty."""
        self._runs: dict[str, RunTables] = {}
        # Invariant: by DAG, the finished runs of `_runs` that are not pruned. (test_conformance: pruning)
        self._finished: dict[str, set[RunTables]] = {}
        # Task ids in the order in which they were first stored.
        self._tasks: dict[str, int] = {}
        # By message id, when it was noted and what became of it; in the order of noting, which is all but that of time.
        self._messages: dict[str, tuple[int, str]] = {}
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

    def _interrupt(self, run: RunTables, row: RunRow, now_us: int) -> None:
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
            case AppendItems() | AckItems():
                self._stream(op)
            case Provide():
                return self._provide(op)
            case NoteMessage():
                return self._note(op)
            case CreateRun() | ForkRun():
                self._create(op)
            case ReopenRun():
                return self._reopen(op)
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
            new, history = rules.started(old, op)
        else:
            new, history = rules.finished(old, op)
            run.store(op, op.attempt)
        run.log += history
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
            run = self._runs[run_id] = self._new_tables(run_id)
        elif run.row is not None and run.row.is_pruned:
            raise RunStateError(run_id, "pruned", "nothing can be pushed to it")
        self._intern(task_id)
        entry_rules.check_put(run.instances.get(op.instance), op)
        run.store(op, op.slot)

    def _stream(self, op: AppendItems | AckItems) -> None:
        run, _ = self._existing(op.instance.run_id)
        self._intern(op.instance.task_id)
        rules.check_writer(op.instance, run.instances.get(op.instance), op.attempt)
        if isinstance(op, AppendItems):
            run.streams.append(op)
        else:
            self._intern(op.producer.task_id)
            run.store(op, TASK_LIFETIME)
            run.streams.acknowledge(op)

    def _provide(self, op: Provide) -> int:
        if op.message_id in self._messages:
            return 0
        run_id, task_id, _ = op.instance
        run = self._runs.get(run_id)
        if run is None or run.row is None:
            raise RunNotFoundError(run_id)
        if run.row.is_pruned:
            raise RunStateError(run_id, "pruned", "nothing can be provided to it")
        self._intern(task_id)
        entries, slot = run.entries.get(op.instance, {}), (op.entry.key, OUTSIDE)
        entry_rules.check_provided(run.instances.get(op.instance), op, is_there=slot in entries)
        run.entries.setdefault(op.instance, {})[slot] = entry_rules.entry_row(op.entry, slot=OUTSIDE, attempt=0), op.entry.value
        self._note_done(op.message_id, op.entry.created_us)
        return 1

    def _note(self, op: NoteMessage) -> int:
        if op.message_id in self._messages:
            return 0
        self._put_message(op.message_id, op.at_us, op.result)
        return 1

    def _note_done(self, message_id: str | None, at_us: int) -> None:
        if message_id is not None:
            self._put_message(message_id, at_us, MESSAGE_DONE)

    def _put_message(self, message_id: str, at_us: int, result: str) -> None:
        oldest = at_us - MESSAGES_KEPT_US
        for old in [each for each, (noted_us, _) in self._messages.items() if noted_us < oldest]:
            del self._messages[old]
        self._messages[message_id] = at_us, result

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
            run.log.append(entry_rules.deletion_event(op, count))
        return count

    def _create(self, op: CreateRun | ForkRun) -> None:
        run = self._runs.get(op.run_id)
        if run is not None and run.row is not None:
            raise rules.conflict(run.row)
        source = self._existing(op.source_run_id)[0] if isinstance(op, ForkRun) else None
        if run is None:
            run = self._runs[op.run_id] = self._new_tables(op.run_id)
        self._take_plan(run, op.plan)
        self._put_row(run, rules.created_run(op))
        if isinstance(op, ForkRun) and source is not None:
            run.copy_from(source, op.task_ids, above=op.seq)

    def _reopen(self, op: ReopenRun) -> int:
        if op.message_id in self._messages:
            return 0
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
        self._note_done(op.message_id, op.at_us)
        return 1

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
        rows = [(run.row.ended_us or 0, run.order, run.run_id) for run in self._finished.get(op.dag_id, ()) if run.row]
        rows.sort(reverse=True)
        doomed = [] if op.keep is None else rows[op.keep :]
        if op.before_us is not None:
            doomed += [row for row in rows if row[0] < op.before_us]
        return sum(self._delete_run(run_id) for _, _, run_id in doomed)

    def _existing(self, run_id: str) -> tuple[RunTables, RunRow]:
        run = self._runs.get(run_id)
        if run is None or run.row is None or run.row.is_pruned:
            raise RunNotFoundError(run_id)
        return run, run.row

    def _put_row(self, run: RunTables, row: RunRow) -> None:
        run.row = row
        finished = self._finished.setdefault(row.dag_id, set())
        if row.state in FINISHED_RUN_STATES and not row.is_pruned:
            finished.add(run)
        else:
            finished.discard(run)

    def _new_tables(self, run_id: str) -> RunTables:
        self._created += 1
        return RunTables(run_id, self._created)

    def _take_plan(self, run: RunTables, plan: StoredPlan) -> None:
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

    async def _read(self, run_id: str) -> RunTables | None:
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
        found = [rules.run_record(row) for row in self._newest_first() if matches(row, query)]
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
            stored_bytes=run.stored_bytes(),
        )

    async def instances(self, run_id: str, *, task_id: str | None = None, state: TaskState | None = None) -> list[StoredInstance]:
        """Return task instances; see Store.instances."""
        run = await self._read(run_id)
        return [] if run is None else self._instances_of(run, task_id, state)

    def _instances_of(self, run: RunTables, task_id: str | None, state: TaskState | None) -> list[StoredInstance]:
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
        return None if run is None else run.find(wanted)

    async def previous(
        self, dag_id: str, task_id: str, key: str, *, before_run: str, limit: int
    ) -> list[tuple[str, StoredEntry]]:
        """Return values of earlier runs; see Store.previous."""
        before = await self._read(before_run)
        found: list[tuple[str, StoredEntry]] = []
        if before is None or before.row is None:
            return found
        for row in self._newest_first():
            if len(found) >= limit:
                break
            is_earlier = (row.created_us, self._runs[row.run_id].order) < (before.row.created_us, before.order)
            if row.dag_id == dag_id and is_earlier:
                value = self._find(Lookup(instance=InstanceKey(row.run_id, task_id), key=key))
                if value is not None:
                    found.append((row.run_id, value))
        return found

    async def attempts(self, dag_id: str, *, task_id: str | None = None) -> list[StoredInstance]:
        """Return the task instances of all runs; see Store.attempts."""
        await self._read("")
        runs = [self._runs[row.run_id] for row in reversed(self._newest_first()) if row.dag_id == dag_id]
        return [each for run in runs for each in self._instances_of(run, task_id, None)]

    async def message(self, message_id: str) -> str | None:
        """Return what has become of a message; see Store.message."""
        await self._read("")
        return self._messages[message_id][1] if message_id in self._messages else None

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
            logged = [event for event in run.log if isinstance(event, TaskStateChanged) and names(event, key)]
            for entry in run.shown(key, prefix, all_attempts=all_attempts):
                state = entry_rules.attempt_state(row, logged, entry.attempt) if all_attempts else None
                value = run.entries[key][entry.key, entry.slot][1]
                record = entry_rules.entry_record(key, entry, dag_id=dag_id, state=state)
                result.append((record, entry_rules.found(entry, value) if with_values else None))
        return result

    def _in_order(self, keys: Iterable[InstanceKey], task_ids: Sequence[str] | None) -> list[InstanceKey]:
        if task_ids is None:
            return sorted(keys, key=self._place)
        order = {task_id: place for place, task_id in enumerate(dict.fromkeys(task_ids))}
        wanted = [key for key in keys if key.task_id in order]
        return sorted(wanted, key=lambda key: (order[key.task_id], self._place(key)))

    async def stream(self, query: StreamQuery) -> StreamPage:
        """Return a page of a stream; see Store.stream."""
        run = await self._read(query.producer.run_id)
        return StreamPage(head=None, position=None, chunks=()) if run is None else run.streams.page(query)

    async def stored_bytes(self, run_id: str) -> int:
        """Return the sum of sizes; see Store.stored_bytes."""
        run = await self._read(run_id)
        return 0 if run is None else run.stored_bytes()

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
