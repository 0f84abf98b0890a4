"""G3: whichever single operation on the disk fails, once or from then on, nothing is lost, half there, or stuck.

The shim fails the n-th {write, sync, read} of a child on the database's files with {EIO, ENOSPC}, for n = 1, 2, ... until a
child ends without having met its fault. Each child must end in time, in success or in an error of ours that carries its
cause; what it acknowledged must be there, and its run must go on to the usual end.
"""

from __future__ import annotations

import errno
import itertools
import json
import random
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from tests.crash.children import FAILED
from tests.crash.judging import judge_and_resume
from tests.crash.workload import Acks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.crash.judging import Values
    from tests.crash.nursery import Nursery

pytestmark = pytest.mark.crash

SORTS: Final = ("write", "sync", "read")
ERRORS: Final = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}
NEVER: Final = 10**9
KINDS: Final = (("asyncio", "strict"), ("trio", "pipelined"))
POINTS_IN_CI: Final = 8


@attrs.define
class Sweep:
    """Runs a child for each point, and counts what came of them."""

    nursery: Nursery
    folder: Path
    expected: Values
    points: int = 0
    succeeded: int = 0
    acked: int = 0

    def run(self, sort: str, error: str, at: int, *, is_forever: bool, kind: tuple[str, str]) -> dict[str, Any]:
        """Run one child and judge what it leaves; return what it told."""
        store, outcome = self.folder / "runs.db", self.folder / "outcome.json"
        where = f"{sort} {at} fails with {error} {'for ever' if is_forever else 'once'} on {'/'.join(kind)}"
        child = self.nursery.spawn(
            "work",
            store=str(store),
            backend=kind[0],
            durability=kind[1],
            runs=["r"],
            wal_bytes=60_000,
            fault=[SORTS.index(sort), at, ERRORS[error], int(is_forever)],
            outcome=str(outcome),
        )
        code = child.ended()
        assert code in {0, FAILED}, f"{where}: {child.complaints()}"
        told: dict[str, Any] = json.loads(outcome.read_text())
        if code == FAILED:
            assert told["is_ours"], f"{where}: {told}"
            assert told["causes"], f"{where}: {told}"
            assert told["error"] != "RunFailedError", f"{where}: {told}"
        assert told["threads"] == [], f"{where}: {told}"
        acks = Acks.read(self.folder / "runs.db.acks")

        async def judge() -> list[str]:
            return await judge_and_resume(store, acks, self.expected, durability=kind[1])

        try:
            assert anyio.run(judge, backend=kind[0]) == []
        except BaseException as caught:
            caught.add_note(where)
            raise
        for path in self.folder.glob("*"):
            path.unlink()
        if told["fired"]:
            self.points += 1
            self.succeeded += code == 0
            self.acked += len(acks.pushes) + len(acks.done) + len(acks.finished)
        return told


def every_point(sweep: Sweep, sort: str, error: str, *, is_forever: bool, kind: tuple[str, str], total: int) -> None:
    """Sweep until no fault fires."""
    for at in itertools.count(1):
        if not sweep.run(sort, error, at, is_forever=is_forever, kind=kind)["fired"]:
            assert at > total // 2, f"the {sort}s of a run ended at {at} of about {total}"
            return


def one_point(sweep: Sweep, sort: str, error: str, at: int, *, is_forever: bool, kind: tuple[str, str]) -> None:
    """Try a point; where this run was so much shorter that it did not meet it, one at half the way."""
    if not sweep.run(sort, error, at, is_forever=is_forever, kind=kind)["fired"]:
        told = sweep.run(sort, error, 1 + at // 2, is_forever=is_forever, kind=kind)
        assert told["fired"], f"neither {sort} {at} nor {1 + at // 2} was met"


def some_points(total: int, dice: random.Random) -> Iterator[int]:
    """Choose points over a run, each in a stretch of its own; the last are left out, as no two runs are of one length."""
    stretch = total * 0.8 / POINTS_IN_CI
    for number in range(POINTS_IN_CI):
        yield 1 + int(stretch * (number + dice.random()))


@pytest.mark.timeout(3600)
def test_a_failing_disk_loses_nothing(
    shimmed: Nursery, quick_folder: Path, expected: Values, is_full: bool, figure: Callable[[str], None]
) -> None:
    """Every point in full, on both loops, each in a durability of its own; eight for each combination else."""
    dice, sweep = random.Random(4), Sweep(shimmed, quick_folder, expected)
    for sort in SORTS:
        before = attrs.evolve(sweep)
        totals = {kind: sweep.run(sort, "EIO", NEVER, is_forever=False, kind=kind)["count"] for kind in KINDS}
        for number, (error, is_forever) in enumerate(itertools.product(ERRORS, (False, True))):
            for kind, total in totals.items():
                if is_full:
                    every_point(sweep, sort, error, is_forever=is_forever, kind=kind, total=total)
                    continue
                if KINDS.index(kind) != number % 2:
                    continue
                for at in some_points(total, dice):
                    one_point(sweep, sort, error, at, is_forever=is_forever, kind=kind)
        points = sweep.points - before.points
        figure(
            f"G3  {points} points of failing {sort}s: {sweep.acked - before.acked} acked, 0 lost, 0 half visible, 0 hangs; "
            f"{sweep.succeeded - before.succeeded} runs succeeded all the same, {points} resumed equal"
        )
