"""Fails when dagrelay has become slower beside its floors: `python benchmarks/guard.py [--write]`.

Ratios are taken within this run, so the machine's speed cancels out, and compared with those of `baseline.json`. One that has
fallen by more than a third is measured again, up to three times, before it counts, as a neighbour on the machine may have been
noisy. `--write` makes the worse of two measurements the baseline; that is for whoever has changed the speed on purpose.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pulls
import rendering
from comparing import MAY_FALL_BY, better_of, compare, worse_of
from figures import divided
from run import measure as take_turns
from systems import SYSTEMS
from workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

_BASELINE: Final = Path(__file__).with_name("baseline.json")
_ROUNDS: Final = 3
_SECOND_LOOKS: Final = 3
_PAIRS: Final = {
    "layered": (("STRICT", "R3-FULL"),),
    "chain": (("STRICT", "R3-FULL"), ("PIPELINED", "R5-FULL")),
    "fan": (("STRICT", "R3-FULL"),),
}
"""Durabilities and their floors, by workload."""


def _measure_runs(workload: str, folder: Path) -> dict[str, float]:
    """Return a workload's speed on dagrelay relative to the floors."""
    pairs = _PAIRS[workload]
    names = {*(f"dagrelay {durability} asyncio" for durability, _ in pairs), *(floor for _, floor in pairs)}
    systems = {system: sys.executable for system in SYSTEMS if system.name in names}
    results = take_turns(WORKLOADS[workload], systems, rounds=_ROUNDS, folder=folder)
    figures = {system.name: each for system, each in results.items()}
    for name, each in figures.items():
        if each.failure is not None:
            raise SystemExit(f"{workload}: {name} failed: {each.failure}")
    return {
        _name(workload, durability, floor): statistics.median(
            divided(figures[floor].wall_s, figures[f"dagrelay {durability} asyncio"].wall_s)
        )
        for durability, floor in pairs
    }


def _measure_pulls(folder: Path) -> dict[str, float]:
    ratios = pulls.measure(folder, is_quick=True).ratios
    return {pulls.RESIDENT_RATIO: statistics.median(ratios[pulls.RESIDENT_RATIO])}


def _measure_templates(folder: Path) -> dict[str, float]:
    ratios = rendering.measure(folder, is_quick=True).ratios
    return {name: statistics.median(ratios[name]) for name in _TEMPLATES if name in ratios}


def _name(workload: str, durability: str, floor: str) -> str:
    return f"{workload}: {durability} / {floor}"


_TEMPLATES: Final = (rendering.RATIOS[10],)
_MEASURES: Final[dict[Callable[[Path], dict[str, float]], Collection[str]]] = {
    **{partial(_measure_runs, workload): [_name(workload, *pair) for pair in pairs] for workload, pairs in _PAIRS.items()},
    _measure_pulls: (pulls.RESIDENT_RATIO,),
    _measure_templates: _TEMPLATES,
}
"""What measures ratios, and which."""


def _measured(wanted: Collection[str] | None = None) -> dict[str, float]:
    """Measure the ratios wanted, and those that come with them; all by default."""
    ratios: dict[str, float] = {}
    for measure, names in _MEASURES.items():
        if wanted is None or not set(names).isdisjoint(wanted):
            with tempfile.TemporaryDirectory(prefix="dagrelay-guard-") as folder:
                ratios |= measure(Path(folder))
    return ratios


def _read() -> dict[str, float]:
    """Return the baseline."""
    ratios: dict[str, float] = json.loads(_BASELINE.read_text(encoding="utf-8"))["ratios"]
    return ratios


def _write(ratios: Mapping[str, float]) -> None:
    told = {"ratios": {name: float(f"{value:.3g}") for name, value in ratios.items()}}
    _BASELINE.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    """Measure, tell every ratio, and return 1 if one has fallen, or has no baseline."""
    parser = argparse.ArgumentParser(description="Fails when dagrelay has become slower beside its floors.")
    parser.add_argument("--write", action="store_true", help="make what is measured now the baseline")
    arguments = parser.parse_args()
    start = time.perf_counter()
    ratios = _measured()
    if arguments.write:
        ratios = worse_of(ratios, _measured())
        _write(ratios)
        print(*(f"{name}: {value:.3g}" for name, value in ratios.items()), f"written to {_BASELINE.name}", sep="\n")
        return 0
    baseline = _read()
    for _ in range(_SECOND_LOOKS):
        fallen = [verdict for verdict in compare(baseline, ratios) if verdict.has_fallen]
        if not fallen:
            break
        print("Measured again, as these have fallen:", *fallen, "", sep="\n", flush=True)
        ratios = better_of(ratios, _measured([verdict.name for verdict in fallen]))
    verdicts = compare(baseline, ratios)
    print(*verdicts, f"({time.perf_counter() - start:.0f} s; a ratio may fall by {MAY_FALL_BY:.0%})", sep="\n")
    return 1 if any(verdict.has_fallen or verdict.is_unguarded for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
