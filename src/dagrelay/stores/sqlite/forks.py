"""A run that begins with a copy of what some tasks of another one have come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from dagrelay.stores import entry_rules, rules
from dagrelay.stores.sqlite import rows
from dagrelay.stores.sqlite.rows import RunFields
from dagrelay.stores.sqlite.streams import copy_streams

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dagrelay.stores.operations import ForkRun
    from dagrelay.stores.rules import InstanceRow
    from dagrelay.stores.sqlite.changes import Changes
    from dagrelay.stores.sqlite.rows import Place

__all__ = ("fork",)

_Named: TypeAlias = tuple[int, int, int, str, int]
"""Place, key and slot: what names an entry in the database."""

_INSTANCES: Final = "SELECT * FROM instance WHERE run_pk = ? AND task_pk = ? ORDER BY map_index"
_GIVEN: Final = "SELECT map_index, key, slot FROM xcom WHERE run_pk = ? AND task_pk = ?"
_METAS: Final = rows.SELECT_ENTRY + " AND task_pk = ? ORDER BY map_index, key, slot"
_ENTRY: Final = "SELECT * FROM xcom WHERE run_pk = ? AND task_pk = ? AND map_index = ? AND key = ? AND slot = ?"
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024
"""Bytes of values held in memory at the most, but for one value."""


def fork(changes: Changes, op: ForkRun) -> None:
    """Carry out a ForkRun.

    Raises:
        DagrelayError: it is refused, and nothing was changed.
    """
    fields = changes.run(op.run_id)
    if fields is not None and fields.row is not None:
        raise rules.conflict(fields.row)
    source, _ = changes.existing_run(op.source_run_id)
    changes.flush()
    run_pk = changes.new_run_pk() if fields is None else fields.run_pk
    changes.put_run(RunFields(run_pk, op.run_id, changes.plan(op.plan), rules.created_run(op)))
    tasks = [task_pk for task_pk in map(changes.known_task, dict.fromkeys(op.task_ids)) if task_pk is not None]
    instances: dict[Place, InstanceRow] = {}
    entries: dict[_Named, int] = {}
    for task_pk in tasks:
        instances.update(_copied_instances(changes, source.run_pk, task_pk))
        entries.update(_copied_entries(changes, (source.run_pk, run_pk), task_pk, instances))
    taken = [row.seq if row.start_seq is None else row.start_seq for row in instances.values()]
    by = max(0, op.seq + 1 - min([*taken, *entries.values()], default=op.seq + 1))
    for (_, task_pk, map_index), row in instances.items():
        changes.put_instance((run_pk, task_pk, map_index), rules.moved(row, by=by))
        copy_streams(changes, source.run_pk, (run_pk, task_pk, map_index))
    _copy_entries(changes, entries, run_pk, by=by)


def _copied_instances(changes: Changes, run_pk: int, task_pk: int) -> list[tuple[Place, InstanceRow]]:
    found = changes.cursor.execute(_INSTANCES, (run_pk, task_pk)).fetchall()
    decoded = [rows.decode_instance(changes.path, each) for each in found]
    whole = next((row for place, row in decoded if place[2] == rows.UNMAPPED), None)
    return [(place, row) for place, row in decoded if rules.is_copied(whole, row)]


def _copied_entries(
    changes: Changes, runs: tuple[int, int], task_pk: int, instances: dict[Place, InstanceRow]
) -> Iterator[tuple[_Named, int]]:
    """Give the names of a task's entries that are copied from one run to the other, and their places in the timeline."""
    source, target = runs
    given = set(changes.cursor.execute(_GIVEN, (target, task_pk)).fetchall())
    for found in changes.cursor.execute(_METAS, (source, task_pk)).fetchall():
        place, entry = rows.decode_entry(changes.path, found)
        if entry_rules.is_copied(instances.get(place), entry) and (place[2], entry.key, entry.slot) not in given:
            yield (*place, entry.key, entry.slot), entry.seq


def _copy_entries(changes: Changes, names: Iterable[_Named], run_pk: int, *, by: int) -> None:
    held = 0
    for name in names:
        found = changes.cursor.execute(_ENTRY, name).fetchone()
        held += len(rows.decode_value(changes.path, found))
        changes.put_encoded_entry(rows.copied_entry(found, run_pk, by=by))
        if held >= _BYTES_AT_ONCE:
            changes.flush()
            held = 0
