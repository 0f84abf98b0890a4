"""A wide run whose process is killed half-way, and how long it then takes to go on, beside a run from its beginning."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio

from aside import ask, tell
from dagrelay import DAG, RunState, Runtime, TaskContext
from figures import Part, divided, spread
from workloads import Value, body

if TYPE_CHECKING:
    from dagrelay import Task

__all__ = ("measure",)

_SIZE: Final = 100_000
_QUICK_SIZE: Final = 10_000
_ROUNDS: Final = 3
_RUN_ID: Final = "half-way"
_KILLED: Final = 9
"""The exit status of the process that ends half-way."""


def measure(folder: Path, *, is_quick: bool) -> Part:
    """Measure interruptions, each turn in a process of its own."""
    size = _QUICK_SIZE if is_quick else _SIZE
    fresh: list[Any] = []
    resumed: list[Any] = []
    for _ in range(_ROUNDS):
        for way, turns in (("fresh", fresh), ("resume", resumed)):
            own = folder / way
            own.mkdir()
            if way == "resume":
                ask(__file__, "kill", size, own, status=_KILLED)
            turns.append(ask(__file__, way, size, own))
            shutil.rmtree(own)
    return Part(
        title=f"resume: a source and {size:,} tasks on it, STRICT, killed half-way",
        head=("what", "resumed", "min-max", "a new run", "min-max"),
        rows=[
            (title, *spread([turn[name] for turn in resumed], show), *spread([turn[name] for turn in fresh], show))
            for name, title, show in (
                ("opening_s", "opening the store, ms", _milliseconds),
                ("first_s", "call until the first new task starts, ms", _milliseconds),
                ("all_s", "call until it returns, ms", _milliseconds),
                ("handled", "tasks run in it", "{:,.0f}".format),
            )
        ],
        ratios={
            "until the first new task: resume / a new run": divided(_each(resumed, "first_s"), _each(fresh, "first_s")),
            "in all: resume / a new run": divided(_each(resumed, "all_s"), _each(fresh, "all_s")),
        },
        samples={"fresh": fresh, "resumed": resumed},
        notes=("building the DAG is in none of it; planning it, checking it and reading what is stored are",),
    )


def _each(turns: list[Any], name: str) -> list[float]:
    return [turn[name] for turn in turns]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f}"


# ----------------------------------------------------------------------------------------------- the process of its own


class _Run:
    """A wide DAG that counts its tasks as they start."""

    def __init__(self, size: int, *, killed_after: int | None = None) -> None:
        self.dag = DAG("resumed")
        self.handled = 0
        self.first_at = 0.0
        self.last: Task[Value]
        self._killed_after = killed_after
        source = self.dag.add(self._source, id="source")
        for number in range(size):
            self.last = self.dag.add(self._follow, id=f"t{number}", bind={"first": source.output})

    async def _source(self) -> Value:
        self._count()
        return body([])

    async def _follow(self, ctx: TaskContext, first: Value) -> Value:
        self._count()
        if self.handled == self._killed_after:
            await ctx.xcom.push("reached", self.handled)  # Written in turn: once it is on disk, all that ended before it is.
            tell({"handled": self.handled})
            os._exit(_KILLED)
        return body([first])

    def _count(self) -> None:
        if not self.handled:
            self.first_at = time.perf_counter()
        self.handled += 1


async def _main(way: str, size: int, folder: Path) -> None:
    run = _Run(size, killed_after=size // 2 if way == "kill" else None)
    start = time.perf_counter()
    async with Runtime(folder / "runs.db") as runtime:
        opened = time.perf_counter()
        if way == "resume":
            result = await runtime.resume(_RUN_ID, run.dag)
        else:
            result = await runtime.run(run.dag, run_id=_RUN_ID)
        ended = time.perf_counter()
        value = result[run.last]
    if result.state is not RunState.SUCCESS or value["n"] != 1 or (way == "resume") != (run.handled <= size):
        raise SystemExit(f"{way} came to {result.state}, {value}, {run.handled} tasks")
    tell({"opening_s": opened - start, "first_s": run.first_at - opened, "all_s": ended - opened, "handled": run.handled})


if __name__ == "__main__":
    anyio.run(_main, sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
