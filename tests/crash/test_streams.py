"""Whenever a process is killed, no item is lost to its reader, and none that was acknowledged comes again.

A child carries streams and is sent SIGKILL at a random time, again and again until its run has come to its end.
"""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.stores.stream_records import unpack_items
from tests.crash.nursery import CAP_S
from tests.crash.streaming import HANDED_OUT, look_into, take_to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.nursery import Nursery

pytestmark = pytest.mark.crash

ITEMS = 400
KINDS = [(backend, durability) for backend in ("asyncio", "trio") for durability in ("strict", "pipelined")]


def handed_out(store: Path) -> list[list[int]]:
    """Return what the reader that writes nothing was handed, by attempt."""
    path = store.with_name(f"{store.name}{HANDED_OUT}")
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    return [[int(line) for line in part.split()] for part in whole.split("begin\n")[1:]]


def wait_for(store: Path, count: int) -> None:
    """Wait until so many items were handed out: however slow the machine is, all sides are then in their midst."""
    end = time.monotonic() + CAP_S / 4
    while time.monotonic() < end and sum(map(len, handed_out(store))) < count:
        time.sleep(0.001)


def judge(store: Path) -> tuple[int, list[str]]:
    """Return how far the reader without writes has acknowledged, and what is wrong with what a kill has left."""
    try:
        writing, reading, count = anyio.run(look_into, store)
    except Exception as error:  # noqa: BLE001 - a store that can't be read is a finding, unless it was never made
        return 0, [] if not handed_out(store) else [f"it can't be read: {error!r}"]
    wrong: list[str] = []
    stored = 0 if writing.head is None else writing.head.next_seq
    seqs = [seq for chunk in writing.chunks for seq in range(chunk.first_seq, chunk.first_seq + chunk.count)]
    if seqs != list(range(stored)) or sum(len(unpack_items(each.count, each.items)) for each in writing.chunks) != stored:
        wrong.append("the stream has gaps")
    acked = 0 if writing.position is None else writing.position.next_seq
    if acked != count:
        wrong.append(f"{acked} items acknowledged, and {count} written")
    read = 0 if reading.position is None else reading.position.next_seq
    if max(acked, read) > stored:
        wrong.append(f"{acked} and {read} items acknowledged of {stored}")
    attempts = handed_out(store)
    got = [number for attempt in attempts for number in attempt]
    if max(got, default=-1) >= stored or max(got, default=-1) + 1 < read:
        wrong.append(f"{max(got, default=-1) + 1} items handed out of {stored}, and {read} acknowledged")
    return read, wrong


@pytest.mark.timeout(3600)
def test_no_item_is_lost_by_kills_and_none_acknowledged_twice(
    nursery: Nursery, quick_folder: Path, is_full: bool, figure: Callable[[str], None]
) -> None:
    """50 kills in full, on both loops and in both durabilities; each run is killed until it ends."""
    wanted, most_in_a_run, chance = 50 if is_full else 8, 6 if is_full else 2, random.Random(1)
    kills = runs = items = 0
    wrong: list[str] = []
    for kind in [*KINDS] * 25:
        if kills >= wanted:
            break
        backend, durability = kind
        store = quick_folder / f"{runs}.db"
        runs += 1
        for _ in range(most_in_a_run):
            before, found = judge(store) if store.exists() else (0, [])
            wrong += found
            begun = len(handed_out(store))
            so_far = sum(map(len, handed_out(store)))
            child = nursery.spawn("stream", store=str(store), backend=backend, durability=durability, items=ITEMS)
            wait_for(store, so_far + round(chance.random() * 0.6 * (ITEMS - before)))
            time.sleep(chance.random() * 0.01)
            child.signal(signal.SIGKILL)
            code = child.ended()
            assert code in (0, -signal.SIGKILL), child.complaints()
            kills += code != 0
            firsts = [attempt[0] for attempt in handed_out(store)[begun:] if attempt]
            if firsts and firsts[0] != before:
                wrong.append(f"{before} items were acknowledged, and the next one handed out was {firsts[0]}")
            if code == 0 or kills >= wanted:
                break
        wrong += judge(store)[1]
        ended = anyio.run(take_to_its_end, str(store), durability, ITEMS, backend=backend)
        if (ended["numbered"], ended["writing"], ended["again"]) != (ITEMS, ITEMS, [ITEMS, ended["unnumbered"]]):
            wrong.append(f"it came to {ended}")
        attempts = handed_out(store)
        if sorted({number for attempt in attempts for number in attempt}) != list(range(ITEMS)):
            wrong.append("items were never handed out")
        wrong += [f"not in order: {each}" for each in attempts if each != sorted(set(each))]
        items += sum(map(len, attempts))
        for path in quick_folder.glob(f"{runs - 1}.db*"):
            path.unlink()
    figure(f"streams  {kills} kills in {runs} runs: {items} items handed out, {len(wrong)} lost or acknowledged twice")
    assert not wrong
    assert kills >= wanted
