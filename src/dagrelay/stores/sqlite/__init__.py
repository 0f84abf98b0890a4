"""The store on disk (floor 6)."""

from __future__ import annotations

from dagrelay.stores.sqlite.store import SqliteStore as SqliteStore

__all__ = ("SqliteStore",)
