"""Where everybody finds values: in memory, else in the store by one read, with what awaits its commit laid over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.xcom.cache import Resident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.stores.base import Lookup
    from dagrelay.xcom.cache import Encoded, ValueCache
    from dagrelay.xcom.reading import Reader

__all__ = ("Finder", "slot_of")


class Finder:
    """Finds values.

    Args:
        cache: what is in memory.
        reader: reads what is not.
    """

    def __init__(self, cache: ValueCache, reader: Reader) -> None:
        """Take where to look."""
        self._cache = cache
        self._reader = reader

    async def find(self, wanted: Sequence[Lookup]) -> list[Encoded | None]:
        """Return the values wanted, in order, None where there is none: from memory, and what misses by one read.

        Cancellation: nothing is left behind.
        """
        found: list[Encoded | None] = [
            self._cache.get((look.instance, look.slots[0], look.key)) if look.slots else None for look in wanted
        ]
        places = [place for place, value in enumerate(found) if value is None]
        if not places:
            return found
        missing = [wanted[place] for place in places]
        with self._cache.reading((look.instance, look.slots[0], look.key) for look in missing if look.slots) as keep:
            stored = await self._reader.lookup(missing)
            for place, look, entry in zip(places, missing, stored, strict=True):
                value = None if entry is None else Resident(entry.value, entry.serializer, entry.slot)
                found[place] = self._overlaid(look, None if entry is None else entry.slot) or value
                if entry is not None and value is not None:
                    keep((look.instance, entry.slot, look.key), value)
        return found

    def _overlaid(self, look: Lookup, found_slot: int | None) -> Encoded | None:
        """Return a value that awaits its commit and stands under a slot before, or equal to, the stored one's."""
        for slot in look.slots or ():
            value = self._cache.pending((look.instance, slot, look.key))
            if value is not None:
                return Resident(value.value, value.serializer, slot)
            if slot == found_slot:
                return None
        return None


def slot_of(found: Encoded, slots: tuple[int, ...] | None) -> int | None:
    """Return the slot of a value that was found by looking into `slots`: a value without one was in the first of them."""
    if isinstance(found, Resident) and found.slot is not None:
        return found.slot
    return slots[0] if slots else None
