"""G1: whenever a process is killed, what it was told is stored is there, nothing is half there, and its run goes on.

A child runs the workload and is sent SIGKILL at a random time. The judge opens its store, compares it with the side file of
acknowledgements, and takes the run to its end, which must be that of an undisturbed one.
"""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.crash.judging import judge_and_resume
from tests.crash.nursery import CAP_S
from tests.crash.workload import Acks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.judging import Values
    from tests.crash.nursery import Child, Nursery

pytestmark = pytest.mark.crash

KINDS = [(backend, durability) for backend in ("asyncio", "trio") for durability in ("strict", "pipelined")]


def start(nursery: Nursery, store: Path, kind: tuple[str, str]) -> Child:
    """Start the workload."""
    return nursery.spawn("work", store=str(store), backend=kind[0], durability=kind[1], runs=["r"])


def side_file(store: Path) -> Path:
    """Return where a store's acknowledgements stand."""
    return store.with_name(f"{store.name}.acks")


def wait_for_acks(store: Path, size: float) -> None:
    """Wait until so many bytes were acknowledged: however slow the machine is, the run is then in its midst."""
    end = time.monotonic() + CAP_S / 6
    while time.monotonic() < end and not (side_file(store).exists() and side_file(store).stat().st_size >= size):
        time.sleep(0.001)


@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_by_kills(
    nursery: Nursery, quick_folder: Path, expected: Values, is_full: bool, figure: Callable[[str], None]
) -> None:
    """500 kills in full, on both loops and in both durabilities."""
    wanted, chance = 500 if is_full else 25, random.Random(1)
    kills = acked = late = 0
    losses: list[str] = []
    lengths: dict[tuple[str, str], float] = {}
    sizes: dict[tuple[str, str], int] = {}
    for kind in KINDS:
        began = time.monotonic()
        child = start(nursery, quick_folder / f"whole-{'-'.join(kind)}.db", kind)
        assert child.ended() == 0, child.complaints()
        lengths[kind] = time.monotonic() - began
        sizes[kind] = side_file(quick_folder / f"whole-{'-'.join(kind)}.db").stat().st_size
    for trial in range(4 * wanted):
        if kills == wanted:
            break
        kind, store = KINDS[trial % len(KINDS)], quick_folder / f"{trial}.db"
        child = start(nursery, store, kind)
        if trial // len(KINDS) % 2:
            time.sleep(chance.random() * lengths[kind])  # A kill has no better place than any.
        else:
            wait_for_acks(store, chance.random() * 0.9 * sizes[kind])
            time.sleep(chance.random() * 0.005)
        child.signal(signal.SIGKILL)
        if child.ended() != -signal.SIGKILL:
            late += 1
            continue
        kills += 1
        acks = Acks.read(side_file(store))
        acked += len(acks.pushes) + len(acks.done) + len(acks.finished)
        judge = lambda: judge_and_resume(store, acks, expected, durability=kind[1])  # noqa: B023, E731 - called at once
        losses += anyio.run(judge, backend=kind[0])
        for path in quick_folder.glob(f"{trial}.db*"):
            path.unlink()
    figure(f"G1  {kills} kills ({late} came too late): {acked} acked, {len(losses)} lost, 0 half visible, {kills} resumed equal")
    assert not losses
    assert kills == wanted
    assert acked > wanted, "most kills should meet a run that had acknowledged something"
