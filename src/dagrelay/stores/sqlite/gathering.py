"""Many elements of a mapped task read at once: one scan over their places in the table, rather than a question for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from dagrelay.stores import entry_rules
from dagrelay.stores.sqlite import rows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dagrelay.stores.base import Lookup, StoredEntry
    from dagrelay.stores.entry_rules import EntryRow
    from dagrelay.stores.rules import InstanceRow

__all__ = ("ElementsName", "grouped", "read_elements")

_WORTH_A_SCAN: Final = 4
"""Fewer elements than these are read singly."""
_WIDEST_GAP: Final = 4
"""How far apart two elements that are wanted may be to be read by one scan; what lies between is read in vain."""

_INSTANCES: Final = "SELECT * FROM instance WHERE run_pk = ? AND task_pk = ? AND map_index BETWEEN ? AND ?"
_ENTRIES: Final = "SELECT * FROM xcom WHERE run_pk = ? AND task_pk = ? AND map_index BETWEEN ? AND ? AND key = ?"

_Positions: TypeAlias = dict[int, list[int]]
"""By map index, where the element stands among the values wanted."""


class ElementsName(NamedTuple):
    """What the lookups of one scan have in common."""

    run_id: str
    task_id: str
    key: str
    slots: tuple[int, ...] | None


def grouped(wanted: Sequence[Lookup]) -> tuple[list[int], list[tuple[ElementsName, _Positions]]]:
    """Return the positions of what is to be read singly, and the groups of elements that are to be read by scans."""
    singles: list[int] = []
    groups: dict[ElementsName, _Positions] = {}
    for position, lookup in enumerate(wanted):
        run_id, task_id, map_index = lookup.instance
        if map_index is None:
            singles.append(position)
        else:
            name = ElementsName(run_id, task_id, lookup.key, lookup.slots)
            groups.setdefault(name, {}).setdefault(map_index, []).append(position)
    for name in [name for name, positions in groups.items() if len(positions) < _WORTH_A_SCAN]:
        singles.extend(position for places in groups.pop(name).values() for position in places)
    return singles, list(groups.items())


def read_elements(
    cursor: sqlite3.Cursor,
    path: str,
    task: tuple[int, int],
    name: ElementsName,
    wanted: Iterable[int],
    *,
    shown: Callable[[InstanceRow], InstanceRow],
) -> dict[int, StoredEntry]:
    """Return by map index what is found of the elements `wanted`.

    Args:
        cursor: at the moment of the snapshot.
        path: the database, for errors.
        task: run_pk and task_pk.
        name: what is wanted of them.
        wanted: their map indices.
        shown: how the row of an instance is shown.
    """
    found: dict[int, StoredEntry] = {}
    for first, last in _stretches(sorted(wanted)):
        instances: dict[int, InstanceRow] = {}
        if name.slots is None:
            for each in cursor.execute(_INSTANCES, (*task, first, last)):
                place, row = rows.decode_instance(path, each)
                instances[place[2]] = shown(row)
        best: dict[int, tuple[int, EntryRow, tuple[Any, ...]]] = {}
        for each in cursor.execute(_ENTRIES, (*task, first, last, name.key)):
            place, entry = rows.decode_entry(path, each)
            rank = _rank(name.slots, instances.get(place[2]), entry)
            if rank is not None and (place[2] not in best or rank < best[place[2]][0]):
                best[place[2]] = rank, entry, each
        for index, (_, entry, each) in best.items():
            found[index] = entry_rules.found(entry, rows.decode_value(path, each))
    return found


def _rank(slots: tuple[int, ...] | None, row: InstanceRow | None, entry: EntryRow) -> int | None:
    """Return how far an entry stands behind the one to be preferred; None if it is not to be seen."""
    if slots is None:
        return entry_rules.visible_slots(row).index(entry.slot) if entry_rules.is_visible(row, entry) else None
    return slots.index(entry.slot) if entry.slot in slots else None


def _stretches(indices: list[int]) -> Iterator[tuple[int, int]]:
    """Give first and last of each stretch of indices that lie close together."""
    first = last = indices[0]
    for index in indices[1:]:
        if index - last > _WIDEST_GAP:
            yield first, last
            first = index
        last = index
    yield first, last
