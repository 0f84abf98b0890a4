"""Every store of the library conforms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.stores import MemoryStore, SqliteStore
from dagrelay.testing import StoreConformance

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay.stores import Store


class TestMemoryStore(StoreConformance):
    """In memory."""

    _stores: dict[Path, MemoryStore] = {}  # noqa: RUF012 - shared on purpose: a place keeps its data

    def make_store(self, place: Path) -> Store:
        """Return the one store of the place."""
        return self._stores.setdefault(place, MemoryStore())


class TestSqliteStore(StoreConformance):
    """On disk."""

    def make_store(self, place: Path) -> Store:
        """Return a store on the place's file."""
        return SqliteStore(place / "runs.db", synchronous="NORMAL")
