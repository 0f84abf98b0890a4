"""The stores that this floor is tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.stores import MemoryStore, SqliteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dagrelay.stores.base import Store


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Give an open store of each kind."""
    store: Store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "runs.db", synchronous="NORMAL")
    await store.open(now_us=0)
    yield store
    await store.close()


@pytest.fixture
async def memory() -> AsyncIterator[Store]:
    """Give an open store in memory, where the kind does not matter."""
    store = MemoryStore()
    await store.open(now_us=0)
    yield store
    await store.close()
