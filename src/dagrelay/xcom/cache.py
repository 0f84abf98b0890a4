"""Values at hand: an overlay of what is accepted but not yet committed, over a cache of committed bytes.

A resident value is a dict lookup, a hundred to five hundred times cheaper than a SELECT, so it needs no message. Bytes are kept and
not objects: every puller decodes its own copy. Keys include the slot, so an entry changes only by a write that passes through here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import attrs

if TYPE_CHECKING:
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import NewEntry

__all__ = ("CacheStatistics", "EntryKey", "Resident", "ValueCache")

_ENTRY_OVERHEAD = 200
"""Bytes that the key and the books of one cached value cost, roughly."""


class EntryKey(NamedTuple):
    """What names one stored entry."""

    instance: InstanceKey
    slot: int
    key: str


class Resident(NamedTuple):
    """An encoded value at hand."""

    value: bytes
    serializer: str


@attrs.frozen(kw_only=True)
class CacheStatistics:
    """What the cache holds and has done."""

    entries: int
    """Committed values held."""
    bytes: int
    """Their encoded size."""
    pending: int
    """Values accepted and not yet committed."""
    hits: int
    """Lookups answered from memory."""
    misses: int
    """Lookups that needed the store."""


class ValueCache:
    """The overlay and the cache.

    Args:
        capacity_bytes: how much of committed values to keep; the least recently used go first. Overlaid values are pinned.
    """

    def __init__(self, capacity_bytes: int) -> None:
        """Start empty."""
        self._capacity = capacity_bytes
        self._overlay: dict[EntryKey, Resident] = {}
        self._committed: OrderedDict[EntryKey, Resident] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: EntryKey, *, committed_only: bool = False) -> Resident | None:
        """Return a value at hand; with `committed_only` not one whose commit is still under way."""
        if not committed_only:
            found = self._overlay.get(key)
            if found is not None:
                self._hits += 1
                return found
        elif key in self._overlay:
            # The committed value is about to change: let the store say what holds now.
            self._misses += 1
            return None
        found = self._committed.get(key)
        if found is None:
            self._misses += 1
            return None
        self._committed.move_to_end(key)
        self._hits += 1
        return found

    def pending(self, key: EntryKey) -> Resident | None:
        """Return a value whose commit is under way."""
        return self._overlay.get(key)

    def accept(self, instance: InstanceKey, slot: int, entry: NewEntry) -> None:
        """Hold a value until its commit is over."""
        self._overlay[EntryKey(instance, slot, entry.key)] = Resident(entry.value, entry.serializer)

    def commit(self, instance: InstanceKey, slot: int, entry: NewEntry) -> None:
        """Move a value from the overlay to the cache, unless a later push has overlaid it."""
        key = EntryKey(instance, slot, entry.key)
        held = self._overlay.get(key)
        if held is not None and held.value is entry.value:
            del self._overlay[key]
            self.keep(key, held)
        else:
            self._forget(key)

    def drop(self, instance: InstanceKey, slot: int, entry: NewEntry) -> None:
        """Forget a value whose commit failed."""
        key = EntryKey(instance, slot, entry.key)
        held = self._overlay.get(key)
        if held is not None and held.value is entry.value:
            del self._overlay[key]

    def keep(self, key: EntryKey, value: Resident) -> None:
        """Keep a committed value, letting the least recently used ones go."""
        self._forget(key)
        size = len(value.value) + _ENTRY_OVERHEAD
        if size > self._capacity:
            return
        self._committed[key] = value
        self._bytes += size
        while self._bytes > self._capacity:
            _, gone = self._committed.popitem(last=False)
            self._bytes -= len(gone.value) + _ENTRY_OVERHEAD

    def forget_task(self, run_id: str, task_id: str, key: str | None) -> None:
        """Forget the committed values of a task (of one key, or all) after a deletion; O(cached values), and rare."""
        doomed = [
            known
            for known in self._committed
            if known.instance.run_id == run_id and known.instance.task_id == task_id and (key is None or known.key == key)
        ]
        for known in doomed:
            self._forget(known)

    def forget_run(self, run_id: str) -> None:
        """Forget the committed values of a run; O(cached values), and rare."""
        for known in [known for known in self._committed if known.instance.run_id == run_id]:
            self._forget(known)

    def _forget(self, key: EntryKey) -> None:
        gone = self._committed.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.value) + _ENTRY_OVERHEAD

    def statistics(self) -> CacheStatistics:
        """Return what is held."""
        return CacheStatistics(
            entries=len(self._committed), bytes=self._bytes, pending=len(self._overlay), hits=self._hits, misses=self._misses
        )
