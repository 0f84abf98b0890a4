"""A stream between two tasks that run, beside what it is made of: `python benchmarks/streams.py [--items N] [--rounds N]`.

Caveats first. One process, one loop, one machine: the reader and the writer of a stream share one core for Python, so that each
microsecond of either counts for both. Items are small JSON objects of about 60 bytes, encoded and decoded one by one. All but the
queue write each item to SQLite (WAL, synchronous=FULL) before it is handed over, and read it back from there. `chunks` is the
floor under a durable stream: the items of a moment in one row, through aiosqlite, without a window, positions, checksums, checks
of values, or anybody's failure; `rows` is the same with a row for each item. Each system runs in a process of its own, round by
round in turn, so that what the machine does otherwise meets all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiosqlite
import anyio
import orjson

from dagrelay import DAG, Durability, Runtime, TaskContext
from machine import describe
from measuring import MARK, peak_rss_bytes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PATIENCE_S: Final = 300
_SAMPLES: Final = 10
_WINDOW: Final = 10_000
"""Items that a producer may be ahead, in dagrelay by default too."""
_MIB: Final = 1024 * 1024


def _item(number: int) -> dict[str, Any]:
    return {"n": number, "text": "a row of some data, as tasks hand it on"}


class _Witness:
    """Checks the order of what is handed over, and looks at memory on the way."""

    def __init__(self, items: int) -> None:
        self._every = max(1, items // _SAMPLES)
        self.count = 0
        self.rss_bytes: list[int] = []

    def see(self, item: dict[str, Any]) -> None:
        if item["n"] != self.count:
            raise SystemExit(f"item {item['n']} came where {self.count} was to come")
        self.count += 1
        if self.count % self._every == 0:
            self.rss_bytes.append(_rss_bytes())


def _rss_bytes() -> int:
    """Return what this process holds in memory now; its peak where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
    except OSError:
        return peak_rss_bytes()


# ----------------------------------------------------------------------------------------------------------- systems


def _dagrelay(durability: Durability) -> Callable[[Path, _Witness, int], Awaitable[None]]:
    async def run(folder: Path, witness: _Witness, items: int) -> None:
        dag = DAG("streams")

        @dag.task
        async def produce(ctx: TaskContext) -> None:
            for number in range(items):
                await ctx.xcom.append("items", _item(number))

        @dag.task(after_start=[produce])
        async def consume(ctx: TaskContext) -> None:
            async for item in ctx.xcom.stream(produce, "items"):
                witness.see(item)

        del consume
        async with Runtime(folder / "stream.db", durability=durability) as runtime:
            await runtime.run(dag)

    return run


async def _queue(_: Path, witness: _Witness, items: int) -> None:
    """An asyncio.Queue of encoded items: nothing is stored."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_WINDOW)

    async def produce() -> None:
        for number in range(items):
            await queue.put(orjson.dumps(_item(number)))
        await queue.put(None)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        while (item := await queue.get()) is not None:
            witness.see(orjson.loads(item))


def _sqlite(*, chunked: bool) -> Callable[[Path, _Witness, int], Awaitable[None]]:
    """What gathers while a commit is under way is committed next; what is committed is read by another connection."""

    async def run(folder: Path, witness: _Witness, items: int) -> None:
        path = folder / "floor.db"
        pending: list[bytes] = []
        arrived, committed, has_ended = asyncio.Event(), asyncio.Event(), False
        stored = 0

        async def produce() -> None:
            nonlocal has_ended
            for number in range(items):
                pending.append(orjson.dumps(_item(number)))
                arrived.set()
                while len(pending) > _WINDOW:  # noqa: ASYNC110 - an event for each of the floor's sides would only slow it down
                    await asyncio.sleep(0)
                if number % 64 == 0:
                    await asyncio.sleep(0)
            has_ended = True
            arrived.set()

        async def write(connection: aiosqlite.Connection) -> None:
            nonlocal stored
            while pending or not has_ended:
                if not pending:
                    arrived.clear()
                    await arrived.wait()
                batch = pending[:]
                pending.clear()
                await connection.execute("BEGIN IMMEDIATE")
                if chunked:
                    await connection.execute("INSERT INTO item VALUES (?, ?)", (stored, b"\n".join(batch)))
                else:
                    await connection.executemany("INSERT INTO item VALUES (?, ?)", enumerate(batch, stored))
                await connection.execute("COMMIT")
                stored += len(batch)
                committed.set()

        async def consume(connection: aiosqlite.Connection) -> None:
            while witness.count < items:
                if witness.count == stored:
                    committed.clear()
                    await committed.wait()
                question = "SELECT data FROM item WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT 2000"
                async with connection.execute(question, (witness.count, stored)) as cursor:
                    for (data,) in await cursor.fetchall():
                        for item in data.split(b"\n"):
                            witness.see(orjson.loads(item))

        async with aiosqlite.connect(path, isolation_level=None) as writing, aiosqlite.connect(path) as reading:
            await writing.execute("PRAGMA journal_mode=WAL")
            await writing.execute("PRAGMA synchronous=FULL")
            await writing.execute("CREATE TABLE item (seq INTEGER PRIMARY KEY, data BLOB)")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce())
                tasks.create_task(write(writing))
                tasks.create_task(consume(reading))

    return run


_SYSTEMS: Final[dict[str, Callable[[Path, _Witness, int], Awaitable[None]]]] = {
    "queue": _queue,
    "rows": _sqlite(chunked=False),
    "chunks": _sqlite(chunked=True),
    "dagrelay strict": _dagrelay(Durability.STRICT),
    "dagrelay pipelined": _dagrelay(Durability.PIPELINED),
}


# --------------------------------------------------------------------------------------------------------- measuring


def _measure(name: str, items: int) -> None:
    """Run one system in this process and tell its figures."""
    witness = _Witness(items)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        anyio.run(_SYSTEMS[name], Path(folder), witness, items)
        wall_s = time.perf_counter() - start
    if witness.count != items:
        raise SystemExit(f"{witness.count} items came of {items}")
    figures = {"items_per_s": items / wall_s, "rss_bytes": witness.rss_bytes, "peak_rss_bytes": peak_rss_bytes()}
    sys.stdout.write(f"{MARK}{json.dumps(figures)}\n")


def _round(name: str, items: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", name, "--items", str(items)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE_S).stdout
    figures: dict[str, Any] = json.loads(told.rpartition(MARK)[2])
    return figures


def main() -> None:
    """Measure all systems in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(_SYSTEMS), help="names of systems, with commas between them")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        _measure(options.measure, options.items)
        return
    names: list[str] = options.only.split(",")
    assert __doc__ is not None
    sys.stdout.write(f"{__doc__}\n")
    with tempfile.TemporaryDirectory() as folder:
        for fact, text in describe(Path(folder)).items():
            sys.stdout.write(f"{fact}: {text}\n")
    sys.stdout.write(
        f"SQLite: {sqlite3.sqlite_version}; {options.items:,} items, median (and range) of {options.rounds} rounds\n\n"
    )
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            found[name].append(_round(name, options.items))
    sys.stdout.write(f"{'system':20} {'items/s':>10} {'range':>19} {'MiB at 10 %':>12} {'at the end':>11} {'peak':>6}\n")
    for name, rounds in found.items():
        rates = [figures["items_per_s"] for figures in rounds]
        first, last = (max(figures["rss_bytes"][at] for figures in rounds) / _MIB for at in (0, -1))
        peak = max(figures["peak_rss_bytes"] for figures in rounds) / _MIB
        spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
        sys.stdout.write(f"{name:20} {statistics.median(rates):>10,.0f} {spread:>19} {first:>12.0f} {last:>11.0f} {peak:>6.0f}\n")
    sys.stdout.write("\nThe order of all items was checked in each round.\n")


if __name__ == "__main__":
    main()
