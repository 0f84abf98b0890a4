"""What a store in memory keeps under one run id, and what is asked of it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from dagrelay.stores import entry_rules, rules
from dagrelay.stores.stream_tables import StreamTables

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dagrelay.model.events import Event, TaskStateChanged
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.base import Lookup, RunQuery, StoredEntry
    from dagrelay.stores.entry_rules import EntryRow
    from dagrelay.stores.operations import AckItems, FinishAttempt, PutEntries, StoredPlan
    from dagrelay.stores.rules import InstanceRow, RunRow

__all__ = ("RunTables", "matches", "names")

_Slot: TypeAlias = tuple[str, int]
"""Key and slot: what names an entry of an instance."""


class RunTables:
    """All there is under a run id."""

    def __init__(self, run_id: str, order: int) -> None:
        """Take the run id and its place in the order in which ids were first stored."""
        self.run_id = run_id
        self.order = order
        self.row: RunRow | None = None  # None while there are only entries pushed from outside.
        self.plan: StoredPlan | None = None
        self.instances: dict[InstanceKey, InstanceRow] = {}
        self.entries: dict[InstanceKey, dict[_Slot, tuple[EntryRow, bytes]]] = {}
        self.log: list[Event] = []
        self.streams: StreamTables = StreamTables()

    def empty(self) -> int:
        """Delete all but the row, and return how many entries there were."""
        count = sum(map(len, self.entries.values()))
        self.plan = None
        self.instances, self.entries, self.log = {}, {}, []
        self.streams = StreamTables()
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
            events += [entry_rules.push_event(key, entry) for entry, _ in entries.values()]
        return sorted(events, key=lambda event: event.seq)

    def stored_bytes(self) -> int:
        """Return the sum of the sizes of the entries, and of the items of streams."""
        return self.streams.stored_bytes + sum(entry.size for entries in self.entries.values() for entry, _ in entries.values())

    def store(self, op: PutEntries | FinishAttempt | AckItems, slot: int) -> None:
        """Insert or update the entries of an operation."""
        if op.entries:
            entries = self.entries.setdefault(op.instance, {})
            for new in op.entries:
                entries[new.key, slot] = entry_rules.entry_row(new, slot=slot, attempt=op.attempt), new.value

    def find(self, wanted: Lookup) -> StoredEntry | None:
        """Return a value."""
        row = self.instances.get(wanted.instance)
        entries = self.entries.get(wanted.instance, {})
        for slot in entry_rules.visible_slots(row) if wanted.slots is None else wanted.slots:
            if (wanted.key, slot) in entries:
                entry, value = entries[wanted.key, slot]
                if wanted.slots is not None or entry_rules.is_visible(row, entry):
                    return entry_rules.found(entry, value)
        return None

    def shown(self, key: InstanceKey, prefix: str | None, *, all_attempts: bool) -> list[EntryRow]:
        """Return the entries of one instance to be listed, by key, then slot."""
        found = [entry for _, (entry, _) in sorted(self.entries[key].items()) if prefix is None or entry.key.startswith(prefix)]
        if all_attempts:
            return found
        row = self.instances.get(key)
        keys = dict.fromkeys(entry.key for entry in found)
        return [picked for name in keys for picked in entry_rules.picked(row, (entry for entry in found if entry.key == name))]

    def copy_from(self, source: RunTables, task_ids: Iterable[str], *, above: int) -> None:
        """Take over what some tasks of another run have come to; see ForkRun."""
        wanted = set(task_ids)
        instances = {
            key: row
            for key, row in source.instances.items()
            if key.task_id in wanted and rules.is_copied(source.instances.get(key._replace(map_index=None)), row)
        }
        entries = [
            (key, slot, entry, value)
            for key, stored in source.entries.items()
            if key.task_id in wanted
            for slot, (entry, value) in stored.items()
            if entry_rules.is_copied(instances.get(key), entry) and slot not in self.entries.get(self._own(key), {})
        ]
        taken = [row.seq if row.start_seq is None else row.start_seq for row in instances.values()]
        by = max(0, above + 1 - min([*taken, *(entry.seq for _, _, entry, _ in entries)], default=above + 1))
        for key, row in instances.items():
            self.instances[self._own(key)] = rules.moved(row, by=by)
            self.streams.adopt(source.streams, key, self._own(key))
        for key, slot, entry, value in entries:
            self.entries.setdefault(self._own(key), {})[slot] = entry._replace(seq=entry.seq + by), value

    def _own(self, key: InstanceKey) -> InstanceKey:
        return key._replace(run_id=self.run_id)


def matches(row: RunRow, query: RunQuery) -> bool:
    """Tell whether a run is among those asked for."""
    return (
        query.dag_id in (None, row.dag_id)
        and query.state in (None, row.state)
        and (query.since_us is None or row.created_us >= query.since_us)
        and (query.until_us is None or row.created_us < query.until_us)
        and set(query.tags).issubset(row.tags)
    )


def names(event: TaskStateChanged, key: InstanceKey) -> bool:
    """Tell whether an event is of this instance."""
    return (event.task_id, event.map_index) == key[1:]
