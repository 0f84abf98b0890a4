"""A program that runs the workload on a disk of a few MB that is full: `python -m tests.crash.small_disk FOLDER ACKS EVERY`.

It tells as lines of JSON what came of each run. Whoever starts it has mounted the disk at FOLDER, in a mount namespace of the
program's own, so that nobody else could judge what is on it. ACKS stands on another disk. Of all ways to run it takes every
so-and-so-many-th.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from dagrelay import Durability, SqliteStore, StoreError
from tests.crash.judging import judge_and_resume, lost
from tests.crash.workload import AckFile, Acks, carry, make_dag, make_runtime, values_of_an_undisturbed_run

if TYPE_CHECKING:
    from tests.crash.judging import Values

__all__ = ()

ROOMS: Final = (0, 1, 2, 5, 9, 14, 20, 30)
"""How many pages are left on the disk."""
_PAGE: Final = 4096


class Ballast:
    """A file of somebody else's that takes all the room but so many pages."""

    def __init__(self, folder: Path, room: int) -> None:
        """Fill the disk."""
        self._path = folder / "ballast"
        disk = os.statvfs(folder)
        with self._path.open("wb") as file:
            size = disk.f_bavail * disk.f_frsize - room * _PAGE
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
        assert os.statvfs(folder).f_bavail * disk.f_frsize == room * _PAGE

    def drop(self) -> None:
        """Make room."""
        self._path.unlink()


async def while_open(store: Path, acks: Path, expected: Values, durability: str, room: int) -> dict[str, Any]:
    """Run with the disk filled under an open store; with room again go on in the same runtime."""
    told: dict[str, Any] = {"errors": [], "lost": []}
    file = AckFile(str(acks))
    async with make_runtime(SqliteStore(store), durability) as runtime:
        ballast = Ballast(store.parent, room)
        try:
            await carry(runtime, make_dag(file), "r", file)
        except StoreError as error:
            told["errors"].append(type(error).__name__)
        told["lost"] += await lost(runtime, Acks.read(acks), expected)  # On the full disk, which can be read all the same.
        ballast.drop()
        await carry(runtime, make_dag(file), "r", file)
    return told


async def at_its_opening(store: Path, acks: Path, expected: Values, durability: str, room: int) -> dict[str, Any]:
    """Open a store on a full disk, and run if it opens; with room again go on in another runtime."""
    told: dict[str, Any] = {"errors": [], "lost": []}
    file = AckFile(str(acks))
    ballast = Ballast(store.parent, room)
    try:
        async with make_runtime(SqliteStore(store), durability) as runtime:
            await carry(runtime, make_dag(file), "r", file)
    except StoreError as error:
        told["errors"].append(type(error).__name__)
    ballast.drop()
    async with make_runtime(SqliteStore(store), durability) as runtime:
        told["lost"] += await lost(runtime, Acks.read(acks), expected)
        await carry(runtime, make_dag(file), "r", file)
    return told


def main(folder: Path, acks: Path, every: int) -> None:
    """Run, and tell what came of it."""
    expected = anyio.run(values_of_an_undisturbed_run)
    store = folder / "runs.db"
    ways = list(product((while_open, at_its_opening), ROOMS, ("asyncio", "trio"), Durability))
    for how, room, backend, durability in ways[::every]:
        told = anyio.run(how, store, acks, expected, durability, room, backend=backend)
        read = Acks.read(acks)
        told["acked"] = len(read.pushes) + len(read.done) + len(read.finished)
        judge = partial(judge_and_resume, store, read, expected, durability=durability)
        told["lost"] += anyio.run(judge, backend=backend)
        told["way"] = [how.__name__, room, backend, durability]
        print(json.dumps(told), flush=True)  # noqa: T201 - that is how it tells
        for path in (acks, *folder.iterdir()):
            path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
