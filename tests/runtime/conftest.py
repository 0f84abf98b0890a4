"""What tests of the runtime share: a store of each kind, which a second runtime can open again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay import Durability, MemoryStore, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    """Return a function that gives the same store again and again: one in memory, or one file."""
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "runs.db")
    memory = MemoryStore()
    return lambda: memory


@pytest.fixture(params=list(Durability))
def durability(request: pytest.FixtureRequest) -> Durability:
    """Return each durability in turn."""
    kind: Durability = request.param
    return kind
