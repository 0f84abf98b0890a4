"""Values at hand: an overlay of what is accepted but not yet committed, over a cache of committed bytes.

A resident value is a dict lookup, a hundred to five hundred times cheaper than a SELECT, so it needs no message. Bytes are kept
and not objects: every puller decodes its own copy. Keys include the slot, so an entry changes only by a write that passes here.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import NewEntry

__all__ = ("CacheStatistics", "Encoded", "EntryKey", "Resident", "ValueCache")

_ENTRY_OVERHEAD = 200
"""Bytes that the key and the books of one cached value cost, roughly."""


EntryKey: TypeAlias = "tuple[InstanceKey, int, str]"
"""What names one stored entry: whose it is, its slot, its key. A bare tuple, as five are made for each task."""


class Encoded(Protocol):
    """An encoded value, and what wrote it."""

    @property
    def value(self) -> bytes:
        """The bytes."""
        ...

    @property
    def serializer(self) -> str:
        """The serializer's name."""
        ...


class Resident(NamedTuple):
    """An encoded value at hand, without what else its entry says."""

    value: bytes
    serializer: str
    slot: int | None = None


@attrs.frozen(kw_only=True)
class CacheStatistics:
    """What the cache holds and has done."""

    entries: int
    """Committed values held."""
    bytes: int
    """Their encoded size, and that of what is kept with them."""
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
        self._overlay: dict[EntryKey, NewEntry] = {}
        self._committed: OrderedDict[EntryKey, Resident] = OrderedDict()
        # Reads of the store under way by key, and which of those keys were written meanwhile.
        self._being_read: dict[EntryKey, int] = {}
        self._outdated: set[EntryKey] = set()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def get(self, key: EntryKey) -> Encoded | None:
        """Return a value at hand."""
        found: Encoded | None = self._overlay.get(key)
        if found is None:
            found = self._committed.get(key)
            if found is None:
                self._misses += 1
                return None
            self._committed.move_to_end(key)
        self._hits += 1
        return found

    def pending(self, key: EntryKey) -> Encoded | None:
        """Return a value whose commit is under way."""
        return self._overlay.get(key)

    # ------------------------------------------------------------------------------------------------------- writes

    def accept(self, instance: InstanceKey, slot: int, entry: NewEntry) -> None:
        """Hold a value until its commit is over."""
        self._overlay[instance, slot, entry.key] = entry

    def commit(self, instance: InstanceKey, slot: int, entry: NewEntry) -> None:
        """Move a value from the overlay to the cache, unless a later push has overlaid it."""
        key = (instance, slot, entry.key)
        if self._being_read:
            self._outdate(key)
        if self._overlay.get(key) is entry:
            del self._overlay[key]
            self._keep(key, Resident(entry.value, entry.serializer, slot))
        else:
            self._forget(key)

    def drop(self, instance: InstanceKey, slot: int, entry: NewEntry) -> None:
        """Forget a value whose commit failed."""
        key = (instance, slot, entry.key)
        if self._overlay.get(key) is entry:
            del self._overlay[key]

    def forget_task(self, run_id: str, task_id: str, key: str | None) -> None:
        """Forget the committed values of a task (of one key, or all) after a deletion; O(cached values), and rare."""
        self._forget_all(
            lambda known: known[0][:2] == (run_id, task_id) and (key is None or known[2] == key),
        )

    def forget_run(self, run_id: str) -> None:
        """Forget the committed values of a run; O(cached values), and rare."""
        self._forget_all(lambda known: known[0].run_id == run_id)

    def _forget_all(self, is_meant: Callable[[EntryKey], bool]) -> None:
        for key in [key for key in self._committed if is_meant(key)]:
            self._forget(key)
        for key in filter(is_meant, self._being_read):
            self._outdate(key)

    def _forget(self, key: EntryKey) -> None:
        gone = self._committed.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.value) + _ENTRY_OVERHEAD

    def _keep(self, key: EntryKey, value: Resident) -> None:
        if key in self._committed:
            self._forget(key)
        size = len(value.value) + _ENTRY_OVERHEAD
        if size > self._capacity:
            return
        self._committed[key] = value
        self._bytes += size
        while self._bytes > self._capacity:
            _, gone = self._committed.popitem(last=False)
            self._bytes -= len(gone.value) + _ENTRY_OVERHEAD

    # -------------------------------------------------------------------------------------------------------- reads

    @contextmanager
    def reading(self, keys: Iterable[EntryKey]) -> Generator[Callable[[EntryKey, Resident], None]]:
        """Give, while values are read from the store, a function that keeps one for next time.

        It keeps only those of `keys`, and none that was written or deleted since: the read may have come before that.
        """
        watched = set(keys)
        for key in watched:
            self._being_read[key] = self._being_read.get(key, 0) + 1

        def keep(key: EntryKey, value: Resident) -> None:
            if key in watched and key not in self._outdated:
                self._keep(key, value)

        try:
            yield keep
        finally:
            for key in watched:
                self._being_read[key] -= 1
                if not self._being_read[key]:
                    del self._being_read[key]
                    self._outdated.discard(key)

    def _outdate(self, key: EntryKey) -> None:
        if key in self._being_read:
            self._outdated.add(key)

    def statistics(self) -> CacheStatistics:
        """Return what is held."""
        return CacheStatistics(
            entries=len(self._committed), bytes=self._bytes, pending=len(self._overlay), hits=self._hits, misses=self._misses
        )
