"""The layered workload on asyncio and on trio: what a task costs in time and memory, and what the other loop costs."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Final

from figures import Part, divided, spread
from report import as_json
from run import measure as take_turns
from systems import SYSTEMS
from workloads import WORKLOADS

if TYPE_CHECKING:
    from pathlib import Path

    from report import Figures

__all__ = ("measure",)

_ROUNDS: Final = 9
_QUICK_ROUNDS: Final = 3
_FLOORS: Final = ("R3-FULL", "R5-FULL")
_DURABILITIES: Final = ("STRICT", "PIPELINED")


def measure(folder: Path, *, is_quick: bool) -> Part:
    """Measure the workload as `run.py` does, each system in a process of its own."""
    workload = WORKLOADS["layered"]
    names = {*_FLOORS, *(f"dagrelay {durability} {loop}" for durability in _DURABILITIES for loop in ("asyncio", "trio"))}
    systems = {system: sys.executable for system in SYSTEMS if system.name in names}
    results = take_turns(workload, systems, rounds=_QUICK_ROUNDS if is_quick else _ROUNDS, folder=folder)
    figures = {system.name: each for system, each in results.items()}
    ratios: dict[str, list[float]] = {}
    for durability in _DURABILITIES:
        trio, asyncio = (figures[f"dagrelay {durability} {loop}"] for loop in ("trio", "asyncio"))
        if trio.failure is None and asyncio.failure is None:
            ratios[f"trio / asyncio, {durability}"] = divided(asyncio.wall_s, trio.wall_s)
    return Part(
        title=f"layered: {workload.title}",
        head=("system", "tasks/s", "min-max", "CPU us/task", "peak MiB"),
        rows=[_row(name, each, workload.size) for name, each in figures.items() if each.failure is None],
        ratios=ratios,
        samples=[as_json(workload, system, each) for system, each in results.items()],
        notes=[f"{name} failed: {each.failure}" for name, each in figures.items() if each.failure is not None],
    )


def _row(name: str, figures: Figures, size: int) -> tuple[str, ...]:
    return (
        name,
        *spread([size / wall_s for wall_s in figures.wall_s], "{:,.0f}".format),
        f"{statistics.median(figures.cpu_s) / size * 1e6:,.0f}",
        "-" if figures.peak_rss_bytes is None else f"{figures.peak_rss_bytes / 2**20:,.0f}",
    )
