"""G2: a power cut costs nothing that was acknowledged, with synchronous=FULL; with NORMAL it costs the latest, and no more.

The shim logs every operation of an undisturbed child on the database's files. From the log the files are rebuilt as they may
be found after a cut at any place in it, as often as wanted: see `power`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import SqliteStore
from tests.crash.judging import judge_and_resume, lost, pushed_places
from tests.crash.power import cut_power, read_log
from tests.crash.workload import Acks, make_runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.crash.judging import Place, Values
    from tests.crash.nursery import Nursery
    from tests.crash.power import Operation

pytestmark = pytest.mark.crash

RUNS = ("first", "second")
"""Two sessions, so that cuts fall into the closing and the opening too."""
KINDS = [(backend, durability) for backend in ("asyncio", "trio") for durability in ("strict", "pipelined")]


def record(
    nursery: Nursery, folder: Path, kind: tuple[str, str], synchronous: str
) -> tuple[list[Operation], dict[str, list[Place]]]:
    """Return the operations of an undisturbed child, and the entries of its runs in the order of their timelines."""
    store, log = folder / f"{'-'.join(kind)}-{synchronous}.db", folder / "log"
    child = nursery.spawn(
        "work",
        store=str(store),
        backend=kind[0],
        durability=kind[1],
        runs=list(RUNS),
        synchronous=synchronous,
        log=str(log),
        wal_bytes=150_000,  # So that the log is brought in during the runs, too.
    )
    assert child.ended() == 0, child.complaints()

    async def places() -> dict[str, list[Place]]:
        async with make_runtime(SqliteStore(store), kind[1]) as runtime:
            return {run_id: await pushed_places(runtime, run_id) for run_id in RUNS}

    operations = read_log(log)
    assert sum(operation.what == "t" for operation in operations if operation.kind == "w") > 1, "no checkpoint within a run"
    return operations, anyio.run(places, backend=kind[0])


async def check_suffix(store: Path, whole: dict[str, list[Place]], runs: Sequence[str] = RUNS) -> None:
    """Check that what is there is what came first: nothing is missing before anything that is there."""
    is_cut = False
    async with make_runtime(SqliteStore(store), "strict") as runtime:
        for run_id in runs:
            places = await pushed_places(runtime, run_id)
            assert places == whole[run_id][: len(places)]
            assert not (is_cut and places), f"{run_id} is there, and an earlier run is not whole"
            is_cut = len(places) < len(whole[run_id])


@pytest.mark.timeout(600)
def test_full_loses_nothing_acknowledged(
    shimmed: Nursery, quick_folder: Path, expected: Values, is_full: bool, figure: Callable[[str], None]
) -> None:
    """200 cuts in full; what is left is a prefix, and the runs go on to their usual end."""
    wanted, dice = 200 if is_full else 16, random.Random(2)
    losses: list[str] = []
    acked = 0
    for kind in KINDS:
        operations, whole = record(shimmed, quick_folder, kind, "FULL")
        for _ in range(wanted // len(KINDS)):
            store = quick_folder / "cut.db"
            text = cut_power(operations[: dice.randint(1, len(operations))], dice, store)
            acks = Acks.of(text)
            acked += len(acks.pushes) + len(acks.done) + len(acks.finished)
            anyio.run(check_suffix, store, whole)
            judge = lambda: judge_and_resume(store, acks, expected, durability=kind[1], runs=RUNS)  # noqa: B023, E731 - called at once
            losses += anyio.run(judge, backend=kind[0])
            for path in quick_folder.glob("cut.db*"):
                path.unlink()
    figure(f"G2  {wanted} power cuts with FULL: {acked} acked, {len(losses)} lost, the rest a prefix")
    assert not losses
    assert acked > wanted


@pytest.mark.timeout(600)
def test_a_store_cut_off_while_it_is_made_is_made_again(
    shimmed: Nursery, quick_folder: Path, expected: Values, is_full: bool, figure: Callable[[str], None]
) -> None:
    """After every operation up to the first acknowledgement; its first transaction still has a rollback journal."""
    dice, store = random.Random(5), quick_folder / "cut.db"
    operations, _ = record(shimmed, quick_folder, ("asyncio", "strict"), "FULL")
    first_ack = next(place for place, operation in enumerate(operations) if operation.kind == "a" and operation.what == "w")
    assert any(operation.kind == "j" for operation in operations[:first_ack])
    cuts = list(range(1, first_ack + 1)) * (8 if is_full else 1)
    for end in cuts:
        acks = Acks.of(cut_power(operations[:end], dice, store))
        judge = lambda: judge_and_resume(store, acks, expected, durability="strict")  # noqa: B023, E731 - called at once
        assert anyio.run(judge) == []
        for path in quick_folder.glob("cut.db*"):
            path.unlink()
    figure(f"G2  {len(cuts)} power cuts while a store was made: each made again")


@pytest.mark.timeout(600)
def test_normal_loses_only_the_latest(
    shimmed: Nursery, quick_folder: Path, expected: Values, is_full: bool, figure: Callable[[str], None]
) -> None:
    """The control: by the same cuts something acknowledged is lost, which shows that they can find a loss."""
    wanted, dice = 100 if is_full else 12, random.Random(3)
    cuts_with_losses = 0
    operations, whole = record(shimmed, quick_folder, ("asyncio", "strict"), "NORMAL")
    for _ in range(wanted):
        store = quick_folder / "cut.db"
        acks = Acks.of(cut_power(operations[: dice.randint(1, len(operations))], dice, store))

        async def look() -> bool:
            async with make_runtime(SqliteStore(store), "strict") as runtime:  # noqa: B023 - called at once
                return bool(await lost(runtime, acks, expected, RUNS))  # noqa: B023 - called at once

        anyio.run(check_suffix, store, whole)
        cuts_with_losses += anyio.run(look)
        for path in quick_folder.glob("cut.db*"):
            path.unlink()
    figure(f"G2  {wanted} power cuts with NORMAL: {cuts_with_losses} lost a suffix, 0 anything else")
    assert cuts_with_losses > 0
