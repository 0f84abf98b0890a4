"""Figures of many rounds, and how they are shown."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from systems import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from systems import System
    from workloads import Workload

__all__ = ("CAVEATS", "PEER_CAVEATS", "Figures", "as_json", "table")

CAVEATS: Final = """\
Read this first.
- Tasks do nothing: the tables show what the runtime costs, not what your work costs. At 1 ms a task every row here looks alike.
- The floors are no competitors. They write one row a task and keep no states, retries, events, limits or templates; they show
  what a promise costs at least, on this disk, in this run.
- Rows of different promises are not comparable, so each promise has a table of its own.
- Figures that wait for commits measure the disk. Virtual disks often sync in a fraction of a real one's time.
- Only ratios within one run mean anything, and under 1.5x on a shared machine not much. Rounds are interleaved: each round
  has every system's turn, in another order, each in a process of its own that was warmed by a run of one task; a turn lasts
  0.4 s or one run, whichever is more, and its figures are the mean of its runs.
- dagrelay plans a DAG at its first run, which is the first round's; medians leave it out. Checkpoints that it makes when idle
  are in the bytes written, not in the time; the floors make theirs, SQLite's own, within their time.
- Sync calls are those of one run, counted by strace in a run of their own."""

PEER_CAVEATS: Final = """\
- Peers are other systems that can run the same graphs. Most do far more than dagrelay does, and none was made for tasks that do
  nothing. Each has an environment of its own, the same task body, and the settings that its script in peers/ tells.
- What each keeps of a task differs, and stands beside its ratios. DBOS runs on SQLite as it sets it up itself; in production it
  is meant to run on PostgreSQL, which is not measured. DBOS and Burr have SQLite's default journal, which syncs about four times
  a task. LangGraph's graph and Burr write their whole state each time. Prefect and Dagster write a file a task that nobody
  syncs. Hamilton's async driver and pydantic-graph keep nothing. What survives a crash was read from their sources, not tried.
- DBOS, Prefect, pydantic-graph and LangGraph's functional form gather a layer of tasks at a time: less to schedule than the DAG
  has, and more to wait for. Dagster runs one task after another. Burr runs chains only.
- A slow peer takes part in the last rounds only, so its medians are those of three rounds, or one: Prefect's and Dagster's are
  single runs. Ratios to a peer are medians over the rounds that both took part in, each against the same round.
- CPU, memory and bytes written are those of the peer's first process: Prefect's server is another, and is not in them."""


@dataclass(kw_only=True)
class Figures:
    """What one system did with one workload, round by round."""

    rounds: list[int] = field(default_factory=list[int])
    """Which rounds it took part in; the lists below have an entry for each."""
    wall_s: list[float] = field(default_factory=list[float])
    cpu_s: list[float] = field(default_factory=list[float])
    written_bytes: list[int] = field(default_factory=list[int])
    peak_rss_bytes: int | None = None
    sync_calls: int | None = None
    """fsync and fdatasync calls of one run; None if they were not counted."""
    failure: str | None = None
    skipped: str | None = None
    """Why it was not run at all."""


def as_json(workload: Workload, system: System, figures: Figures) -> dict[str, Any]:
    """Return figures as a row of the JSON file."""
    row: dict[str, Any] = {"workload": workload.name, "tasks": workload.size, "system": system.name, "group": system.group}
    if figures.wall_s:
        row["tasks_per_s"] = workload.size / statistics.median(figures.wall_s)
    return row | asdict(figures)


def table(workload: Workload, results: Mapping[System, Figures]) -> str:
    """Return one workload's tables, one for each promise, fastest first."""
    by_name = {system.name: figures for system, figures in results.items()}
    lines = [f"## {workload.name}: {workload.title}"]
    for group, promise in GROUPS.items():
        rows = [(system, figures) for system, figures in results.items() if system.group == group]
        if not rows:
            continue
        rows.sort(key=lambda row: statistics.median(row[1].wall_s) if row[1].wall_s else float("inf"))
        lines += ["", f"### {promise}", ""]
        lines += _aligned([_HEAD, *(_row(workload, system, figures, by_name) for system, figures in rows)])
        lines += [f"{system.name} failed: {figures.failure}" for system, figures in rows if figures.failure]
        lines += [f"{system.name} skipped: {figures.skipped}" for system, figures in rows if figures.skipped]
    return "\n".join([*lines, *_peer_lines(results)])


_OURS: Final = ("dagrelay STRICT asyncio", "dagrelay PIPELINED asyncio")


def _peer_lines(results: Mapping[System, Figures]) -> Iterator[str]:
    """Tell how many times as fast as each peer dagrelay is, and what the peer promises: in their order, as this is no ranking."""
    ours = {system.name: figures for system, figures in results.items() if system.name in _OURS}
    peers = [(system, figures) for system, figures in results.items() if system.pins and figures.wall_s]
    if not ours or not peers:
        return
    yield from ("", "### dagrelay / peer: how many times as fast, and what the peer keeps (no ranking: promises differ)", "")
    rows = [("peer", *(name.removeprefix("dagrelay ") for name in ours), "rounds", "promise")]
    for system, figures in peers:
        ratios = [_ratio(of_ours, figures) for of_ours in ours.values()]
        cells = ["-" if ratio is None else f"{ratio:,.{1 if ratio >= 1 else 2}f}x" for ratio in ratios]
        rows.append((system.name, *cells, str(len(figures.rounds)), system.group))
    lines = _aligned(rows)
    yield lines[0]
    for line, (system, _) in zip(lines[1:], peers, strict=True):
        yield f"{line}  {system.keeps}"


_HEAD: Final = (
    "system", "tasks/s", "min-max", "of its floor", "of R0", "CPU us/task", "syncs/task", "KiB written/run", "peak MiB",
)  # fmt: skip


def _row(workload: Workload, system: System, figures: Figures, by_name: Mapping[str, Figures]) -> tuple[str, ...]:
    if not figures.wall_s:
        return (system.name, "skipped" if figures.skipped else "failed", *["-"] * (len(_HEAD) - 2))
    slowest, fastest = (workload.size / wall_s for wall_s in (max(figures.wall_s), min(figures.wall_s)))
    return (
        system.name,
        f"{workload.size / statistics.median(figures.wall_s):,.0f}",
        f"{slowest:,.0f}-{fastest:,.0f}",
        _share(figures, by_name.get(system.floor or "")),
        _share(figures, by_name.get("R0")),
        f"{statistics.median(figures.cpu_s) / workload.size * 1e6:,.0f}",
        "-" if figures.sync_calls is None else f"{figures.sync_calls / workload.size:.3f}",
        f"{statistics.median(figures.written_bytes) / 1024:,.0f}",
        "-" if figures.peak_rss_bytes is None else f"{figures.peak_rss_bytes / 2**20:,.0f}",
    )


def _share(figures: Figures, floor: Figures | None) -> str:
    """Return the speed relative to a floor's."""
    ratio = None if floor is None or floor is figures else _ratio(figures, floor)
    return "-" if ratio is None else f"{ratio:.1%}"


def _ratio(figures: Figures, other: Figures) -> float | None:
    """Return how many times as fast as the other: the median over the rounds of both, each against the other's same round."""
    others = dict(zip(other.rounds, other.wall_s, strict=True))
    ratios = [others[number] / wall_s for number, wall_s in zip(figures.rounds, figures.wall_s, strict=True) if number in others]
    return statistics.median(ratios) if ratios else None


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines: the first column flush left, figures flush right."""
    first, *others = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines: list[str] = []
    for name, *cells in rows:
        figures = [cell.rjust(width) for cell, width in zip(cells, others, strict=True)]
        lines.append("  ".join([name.ljust(first), *figures]))
    return lines
