"""Where runs and their values are kept (floor 6)."""

from __future__ import annotations

from dagrelay.stores.base import Lookup as Lookup
from dagrelay.stores.base import RunImage as RunImage
from dagrelay.stores.base import RunQuery as RunQuery
from dagrelay.stores.base import Store as Store
from dagrelay.stores.base import StoredEntry as StoredEntry
from dagrelay.stores.base import StoredInstance as StoredInstance
from dagrelay.stores.base import StoredRun as StoredRun
from dagrelay.stores.base import StoreStatistics as StoreStatistics
from dagrelay.stores.memory import MemoryStore as MemoryStore
from dagrelay.stores.sqlite.store import SqliteStore as SqliteStore

__all__ = (
    "Lookup",
    "MemoryStore",
    "RunImage",
    "RunQuery",
    "SqliteStore",
    "Store",
    "StoreStatistics",
    "StoredEntry",
    "StoredInstance",
    "StoredRun",
)
