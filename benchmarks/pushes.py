"""Durable pushes, by how many handlers push at once, beside the same rows written by SQLite alone."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from aside import ask, tell
from dagrelay import DAG, Runtime, TaskContext
from figures import Part, divided, spread
from raw import BATCH, RawStore, codec
from workloads import PAD

if TYPE_CHECKING:
    from raw import ValueRow

__all__ = ("measure",)

_ROUNDS: Final = 9
_QUICK_ROUNDS: Final = 3
_EACH: Final = {1: 300, 10: 100, 100: 50, 1000: 20}
"""Pushes of each handler, by how many handlers there are."""
_RAW: Final = "raw"
_THREAD: Final = "thread"
_TITLES: Final = {
    _RAW: f"SQLite alone: executemany, {BATCH:,} rows a transaction, encoded before",
    _THREAD: "SQLite alone: a row a transaction, each in a thread (asyncio.to_thread)",
    **{str(count): f"dagrelay: pushing handlers: {count:,}" for count in _EACH},
}


def measure(folder: Path, *, is_quick: bool) -> Part:
    """Measure pushes in a process of its own."""
    turns = ask(__file__, folder, _QUICK_ROUNDS if is_quick else _ROUNDS)
    rows = [_row(title, turns[name]) for name, title in _TITLES.items()]
    return Part(
        title="pushes: `await ctx.xcom.push` of 200 B, on disk when it returns (STRICT, WAL, FULL)",
        head=("who", "values/s", "min-max", "p50 ms", "p99 ms"),
        rows=rows,
        ratios={
            "values/s at 1,000 handlers / SQLite alone": divided(turns["1000"]["per_s"], turns[_RAW]["per_s"]),
            "values/s at 100 handlers / SQLite alone": divided(turns["100"]["per_s"], turns[_RAW]["per_s"]),
            "latency (p50) of one handler / a row in a thread": divided(turns["1"]["p50_s"], turns[_THREAD]["p50_s"]),
        },
        samples=turns,
        notes=(
            "latencies are medians over the rounds of each round's percentile",
            "a handler waits for each push before the next",
        ),
    )


def _row(title: str, turn: dict[str, list[float]]) -> tuple[str, ...]:
    if not turn["p50_s"]:
        return (title, *spread(turn["per_s"], "{:,.0f}".format), "-", "-")
    latencies = [f"{statistics.median(turn[name]) * 1000:.2f}" for name in ("p50_s", "p99_s")]
    return (title, *spread(turn["per_s"], "{:,.0f}".format), *latencies)


# ----------------------------------------------------------------------------------------------- the process of its own


async def _take_turns(folder: Path, rounds: int) -> None:
    turns: dict[str, dict[str, list[float]]] = {name: {"per_s": [], "p50_s": [], "p99_s": []} for name in _TITLES}
    run_ids = itertools.count(1)
    raw = RawStore(folder / "raw.db")
    async with Runtime(folder / "runs.db", max_concurrency=max(_EACH)) as runtime:
        await _push(runtime, 10, 10)
        for number in range(rounds):
            names = list(turns)
            random.Random(number).shuffle(names)
            for name in names:
                gc.collect()
                match name:
                    case "raw":
                        count = max(pushers * each for pushers, each in _EACH.items())
                        seconds, latencies = _write(raw, next(run_ids), count), list[float]()
                    case "thread":
                        count = _EACH[1]
                        seconds, latencies = await _write_in_thread(raw, next(run_ids), count)
                    case _:
                        pushers, each = int(name), _EACH[int(name)]
                        count = pushers * each
                        seconds, latencies = await _push(runtime, pushers, each)
                turns[name]["per_s"].append(count / seconds)
                if latencies:
                    turns[name]["p50_s"].append(statistics.median(latencies))
                    turns[name]["p99_s"].append(statistics.quantiles(latencies, n=100)[98])
    raw.close()
    tell(turns)


def _value(number: int) -> dict[str, Any]:
    return {"n": number, "pad": PAD}


async def _push(runtime: Runtime, pushers: int, each: int) -> tuple[float, list[float]]:
    """Have handlers push, all at once; return the seconds from the first push to the last, and how long each push took."""
    latencies: list[float] = []
    all_are_there = anyio.Event()
    arrived = 0
    began = ended = 0.0

    async def push(ctx: TaskContext) -> None:
        nonlocal arrived, began, ended
        await ctx.xcom.push("first", _value(0))  # With it goes the record of the attempt's start, which is no push's cost.
        arrived += 1
        if arrived == pushers:
            began = time.perf_counter()
            all_are_there.set()
        await all_are_there.wait()
        for number in range(each):
            start = time.perf_counter()
            await ctx.xcom.push(f"k{number}", _value(number))
            latencies.append(time.perf_counter() - start)
        ended = time.perf_counter()

    dag = DAG(f"push-{pushers}")
    for number in range(pushers):
        dag.add(push, id=f"t{number}")
    await runtime.run(dag)
    if len(latencies) != pushers * each:
        raise SystemExit(f"{len(latencies)} pushes, not {pushers * each}")
    return ended - began, latencies


def _rows(run_id: int, count: int) -> list[ValueRow]:
    """Return the rows of 1,000 handlers' pushes, in the order in which they come: each handler's next, in turn."""
    encode, _ = codec()
    handlers = max(_EACH)
    rows: list[ValueRow] = []
    for number in range(count):
        data = encode(_value(number // handlers))
        rows.append((run_id, number % handlers, f"k{number // handlers}", time.time(), len(data), data))
    return rows


def _write(raw: RawStore, run_id: int, count: int) -> float:
    rows = _rows(run_id, count)
    start = time.perf_counter()
    raw.write(rows)
    return time.perf_counter() - start


async def _write_in_thread(raw: RawStore, run_id: int, count: int) -> tuple[float, list[float]]:
    rows = _rows(run_id, count)
    latencies: list[float] = []
    for row in rows:
        start = time.perf_counter()
        await asyncio.to_thread(raw.write_one, row)
        latencies.append(time.perf_counter() - start)
    return sum(latencies), latencies


if __name__ == "__main__":
    anyio.run(_take_turns, Path(sys.argv[1]), int(sys.argv[2]))
