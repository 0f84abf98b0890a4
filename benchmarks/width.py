"""A source and many tasks on it: speed, memory a task, and the share of the serial ideal.

The serial ideal is what is left without a runtime, one after the other: bare asyncio tasks with the same handler, and then two
rows for each in one thread: its value, encoded before, and its state. It has no retries, events, limits, checks or cancellation.
"""

from __future__ import annotations

import asyncio
import gc
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from aside import ask, held_bytes, most_held_bytes, tell
from dagrelay import Durability, Runtime
from figures import Part, divided, spread
from raw import RawStore, codec
from relay import make_dag
from workloads import WARM_UP, Value, Workload, body, wide

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("measure",)

_WIDTHS: Final = (1_000, 10_000, 100_000)
_QUICK_WIDTHS: Final = (1_000, 10_000)
_ROUNDS: Final = 5
_FEWER_ROUNDS: Final = 3
"""When it has to be quick, and for what takes long."""
_LONG: Final = 100_000
_IDEAL_WIDTH: Final = 10_000
_WARM_RUNS: Final = 3


def measure(folder: Path, *, is_quick: bool) -> Part:
    """Measure widths, each turn in a process of its own."""
    rows: list[tuple[str, ...]] = []
    samples: dict[str, list[Any]] = {}
    ratios: dict[str, list[float]] = {}
    for width in _QUICK_WIDTHS if is_quick else _WIDTHS:
        names = [*Durability, *(["ideal"] if width == _IDEAL_WIDTH else [])]
        turns: dict[str, list[Any]] = {name: [] for name in names}
        for number in range(_FEWER_ROUNDS if is_quick or width == _LONG else _ROUNDS):
            for name in names if number % 2 else reversed(names):
                turns[name].append(_turn(name, width, folder))
        rows += [_row(width, name, turns[name]) for name in Durability]
        samples |= {f"{width} {name}": each for name, each in turns.items()}
        if width == _IDEAL_WIDTH:
            ideals = [each["rows_s"] + each["bare_s"] for each in turns["ideal"]]
            rows.append((f"{width:,} serial ideal", *spread([width / ideal for ideal in ideals], "{:,.0f}".format), *["-"] * 4))
            for name in (Durability.PIPELINED, Durability.STRICT):
                shares = divided(ideals, [each["warm_s"] for each in turns[name]])
                ratios[f"{width:,} {name.upper()} / serial ideal"] = shares
    return Part(
        title="wide: a source and N tasks on it, 200 B each",
        head=("tasks", "tasks/s", "min-max", "first run", "peak MiB", "B/task", "of it DAG"),
        rows=rows,
        ratios=ratios,
        samples=samples,
        notes=(
            "tasks/s are those of a DAG that has run before; the first run plans it",
            "B/task: the most held in the first run, less what was held before the DAG was built and the encoded values",
        ),
    )


def _turn(name: str, width: int, folder: Path) -> Any:
    own = folder / "turn"
    own.mkdir()
    try:
        return ask(__file__, name, width, own)
    finally:
        shutil.rmtree(own)


def _row(width: int, name: Durability, turns: Sequence[dict[str, float]]) -> tuple[str, ...]:
    def median(figure: str) -> float:
        return statistics.median(turn[figure] for turn in turns)

    return (
        f"{width:,} {name.upper()}",
        *spread([width / turn["warm_s"] for turn in turns], "{:,.0f}".format),
        f"{width / median('first_s'):,.0f}",
        f"{median('peak_bytes') / 2**20:,.0f}",
        f"{median('grown_bytes') / width:,.0f}",
        f"{median('dag_bytes') / width:,.0f}",
    )


# ----------------------------------------------------------------------------------------------- the process of its own


def _workload(width: int) -> Workload:
    return Workload("wide", f"source -> {width:,} tasks", wide(width))


async def _run(durability: Durability, width: int, folder: Path) -> None:
    """Run it for the first time, which is when memory is looked at, and some times more."""
    workload = _workload(width)
    encode, _ = codec()
    async with Runtime(folder / "runs.db", durability=durability) as runtime:
        warm_up, _ = make_dag(WARM_UP)
        await runtime.run(warm_up)
        gc.collect()
        before = held_bytes()
        dag, last = make_dag(workload)
        built = held_bytes()
        times: list[float] = []
        peak = 0
        value: Value = {}
        for _ in range(1 + (_WARM_RUNS if width < _LONG else 1)):
            start = time.perf_counter()
            result = await runtime.run(dag)
            times.append(time.perf_counter() - start)
            peak = peak or most_held_bytes()
            value = result[last]
            if value["n"] != 1:
                raise SystemExit(f"a wrong result: {value}")
            del result
            gc.collect()
    tell(
        {
            "first_s": times[0],
            "warm_s": statistics.median(times[1:]),
            "peak_bytes": peak,
            "grown_bytes": peak - before - workload.size * len(encode(value)),
            "dag_bytes": built - before,
        }
    )


def _reach_ideal(width: int, folder: Path) -> None:
    workload = _workload(width)
    encode, _ = codec()
    data = encode(body([body([])]))
    raw = RawStore(folder / "raw.db")
    rows_s: list[float] = []
    bare_s: list[float] = []
    for number in range(_WARM_RUNS + 1):
        tasks = range(workload.size)
        values = [(number, task, "return_value", time.time(), len(data), data) for task in tasks]
        states = [(number, task, 2, time.time(), time.time()) for task in tasks]
        gc.collect()
        start = time.perf_counter()
        raw.write(values, states)
        rows_s.append(time.perf_counter() - start)
        gc.collect()
        bare_s.append(asyncio.run(_run_bare(width)))
    raw.close()
    tell({"rows_s": statistics.median(rows_s[1:]), "bare_s": statistics.median(bare_s[1:])})


async def _run_bare(width: int) -> float:
    """Return the seconds that the handlers take as asyncio tasks, all there at once."""
    values: list[Value] = []

    async def handle(inputs: list[Value]) -> None:
        values.append(body(inputs))

    start = time.perf_counter()
    await handle([])
    async with asyncio.TaskGroup() as tasks:
        for _ in range(width):
            tasks.create_task(handle(values[:1]))
    return time.perf_counter() - start


def _main(name: str, width: int, folder: Path) -> None:
    if name == "ideal":
        _reach_ideal(width, folder)
    else:
        anyio.run(_run, Durability(name), width, folder)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
