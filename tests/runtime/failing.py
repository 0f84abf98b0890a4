"""Stores that fail where a test says so, and are whole again afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay import MemoryStore, SqliteStore
from dagrelay.errors import StoreError, StoreFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dagrelay.errors import DagrelayError
    from dagrelay.stores.base import Lookup, StoredEntry
    from dagrelay.stores.operations import Operation

__all__ = ("Faults", "failing_stores")


class Faults:
    """When writes fail: from the `first` call of `apply` on (from 1), once or for ever; not before a test says so."""

    def __init__(self) -> None:
        """Start without."""
        self.first = 0
        self.is_for_ever = False
        self.is_full = False
        self.calls = 0
        self.fired = 0
        self.read_error: StoreError | None = None
        """What lookups raise meanwhile."""

    def arm(self, first: int, *, is_for_ever: bool, is_full: bool) -> None:
        """Fail at the `first` call from now."""
        self.first, self.is_for_ever, self.is_full, self.calls, self.fired = first, is_for_ever, is_full, 0, 0

    def disarm(self) -> None:
        """Fail no more."""
        self.first = 0

    def check(self) -> None:
        """Raise if this call is to fail."""
        self.calls += 1
        if self.first and (self.calls == self.first or (self.is_for_ever and self.calls > self.first)):
            self.fired += 1
            raise StoreFullError("planted") if self.is_full else StoreError("planted")


class _FailingMemory(MemoryStore):
    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self._faults = faults

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        self._faults.check()
        return await super().apply(batch)

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        if self._faults.read_error is not None:
            raise self._faults.read_error
        return await super().lookup(wanted)


class _FailingSqlite(SqliteStore):
    def __init__(self, path: Path, faults: Faults) -> None:
        super().__init__(path)
        self._faults = faults

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        self._faults.check()
        return await super().apply(batch)

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        if self._faults.read_error is not None:
            raise self._faults.read_error
        return await super().lookup(wanted)


def failing_stores(kind: str, path: Path, faults: Faults) -> Callable[[], MemoryStore | SqliteStore]:
    """Return a function that gives the same store again and again, with planted faults."""
    if kind == "sqlite":
        return lambda: _FailingSqlite(path, faults)
    memory = _FailingMemory(faults)
    return lambda: memory
