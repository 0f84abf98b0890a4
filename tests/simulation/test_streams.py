"""Hundreds of worlds of streams a loop: whatever crashes, fails or is cancelled, each reader is handed each item, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.testing import simulate
from dagrelay.testing.seeded import BACKENDS
from tests.simulation.crashing import in_memory, on_disk
from tests.simulation.streaming import streaming

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.testing.seeded import Backend

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.timeout(300)]


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_each_reader_is_handed_each_item_whatever_comes_between(
    backend: Backend, where: str, is_full: bool, figure: Callable[[str], None]
) -> None:
    """With windows of one item, one slot for all, retries of both sides and stores that die: see `streaming`."""
    seeds, store = (600, in_memory) if where == "memory" else (200, on_disk)
    runs = simulate(streaming, range(seeds if is_full else seeds // 10), backend=backend, store=store, crashes=3)
    lives = sum(run.lives for run in runs)
    figure(f"streams  {len(runs)} simulated worlds on {backend}, {where}: {lives} lives, 0 items lost or handed out of order")
    assert lives > 1.5 * len(runs)
