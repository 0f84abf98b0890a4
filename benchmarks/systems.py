"""What is measured: each system's command, and what it promises of a task's value. More systems are more rows here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from workloads import Workload

__all__ = ("GROUPS", "PEERS", "SYSTEMS", "System")

_HERE: Final = Path(__file__).parent

_MEMORY: Final = "memory"
_FILES: Final = "files"
_BEFORE: Final = "before"
_BEHIND: Final = "behind"

GROUPS: Final = {
    _MEMORY: "In memory only: nothing survives",
    _FILES: "In files before dependants, not synced: every finished task survives the process, not a power cut",
    _BEFORE: "Commit before dependants: every finished task survives a power cut (SQLite, synchronous=FULL)",
    _BEHIND: "Commit behind dependants: all of it is on disk when run() returns (SQLite, synchronous=FULL)",
}
"""Promises, by name. Systems of different promises are never ranked against each other."""


@dataclass(frozen=True, kw_only=True)
class System:
    """One row of the tables."""

    name: str
    """Its name in the tables and in `--only`."""
    group: str
    """Its promise, a key of `GROUPS`."""
    script: str
    """The script beside this file that runs it; it is given `arguments`, the workload's name and an empty folder."""
    arguments: tuple[str, ...]
    """What the script is told."""
    floor: str | None = None
    """The floor that promises the same through the same driver."""
    pins: str | None = None
    """For a peer: which of `peers/requirements` its environment is made from."""
    keeps: str = ""
    """For a peer: what it keeps of a task, in a few words."""
    most_rounds: int | None = None
    """A slow one takes part in no more than these, the last ones; its sync calls are counted on small workloads only."""
    patience_s: float = 120
    """How long one answer may take before its process is killed."""
    only_chains: bool = False
    """Whether it has no joins."""
    not_mapped: bool = False
    """Whether its script does not map over a list, and 10,000 single tasks take it longer than is worth waiting for."""

    def command(self, python: str = sys.executable) -> list[str]:
        """Return what to start with an interpreter, but for the workload and the folder."""
        return [python, str(_HERE / self.script), *self.arguments]

    def first_of(self, rounds: int) -> int:
        """Return the first of so many rounds, counted from 0, that it takes part in."""
        return 0 if self.most_rounds is None else max(0, rounds - self.most_rounds)

    def reason_to_skip(self, workload: Workload) -> str | None:
        """Return why it does not run a workload; None if it does."""
        if self.only_chains and not workload.is_chain:
            return "it runs chains only"
        if self.not_mapped and workload.is_mapped:
            return "its script does not map over a list, and 10,000 single tasks are too many for it"
        return None


def _floor(name: str, group: str) -> System:
    return System(name=name, group=group, script="floors.py", arguments=(name,))


def _dagrelay(durability: str, backend: str, group: str, floor: str) -> System:
    name = f"dagrelay {durability.upper()} {backend}"
    return System(name=name, group=group, script="relay.py", arguments=(durability, backend), floor=floor)


SYSTEMS: Final = (
    _floor("R0", _MEMORY),
    _floor("R2-FULL", _BEFORE),
    _floor("R3-FULL", _BEFORE),
    _dagrelay("strict", "asyncio", _BEFORE, "R3-FULL"),
    _dagrelay("strict", "trio", _BEFORE, "R3-FULL"),
    _floor("R5-FULL", _BEHIND),
    _dagrelay("pipelined", "asyncio", _BEHIND, "R5-FULL"),
    _dagrelay("pipelined", "trio", _BEHIND, "R5-FULL"),
)

PEERS: Final = (
    System(
        name="Hamilton async",
        group=_MEMORY,
        script="peers/hamilton_async.py",
        arguments=(),
        pins="hamilton",
        keeps="nothing",
        not_mapped=True,
    ),
    System(
        name="pydantic-graph",
        group=_MEMORY,
        script="peers/pydantic_graph_layers.py",
        arguments=(),
        pins="pydantic-graph",
        keeps="nothing",
    ),
    System(
        name="Prefect",
        group=_FILES,
        script="peers/prefect_flow.py",
        arguments=(),
        pins="prefect",
        keeps="a file a task, not synced; states in its server's SQLite (WAL, NORMAL)",
        most_rounds=1,
        patience_s=300,
        not_mapped=True,
    ),
    System(
        name="Dagster",
        group=_FILES,
        script="peers/dagster_job.py",
        arguments=(),
        pins="dagster",
        keeps="a pickle file a task, not synced; events in SQLite, synced",
        most_rounds=1,
        patience_s=600,
        not_mapped=True,
    ),
    System(
        name="LangGraph graph",
        group=_BEFORE,
        script="peers/langgraph_forms.py",
        arguments=("graph",),
        floor="R3-FULL",
        pins="langgraph",
        keeps="the whole state a step (WAL, FULL)",
        most_rounds=3,
        not_mapped=True,
    ),
    System(
        name="DBOS",
        group=_BEFORE,
        script="peers/dbos_workflow.py",
        arguments=(),
        pins="dbos",
        keeps="a step's output (SQLite's defaults: DELETE, FULL)",
        most_rounds=3,
        patience_s=300,
        not_mapped=True,
    ),
    System(
        name="Burr",
        group=_BEFORE,
        script="peers/burr_machine.py",
        arguments=(),
        floor="R3-FULL",
        pins="burr",
        keeps="the whole state an action (SQLite's defaults: DELETE, FULL)",
        most_rounds=3,
        only_chains=True,
    ),
    System(
        name="LangGraph functional",
        group=_BEHIND,
        script="peers/langgraph_forms.py",
        arguments=("functional",),
        floor="R5-FULL",
        pins="langgraph",
        keeps="a task's value, written behind the tasks that use it (WAL, FULL)",
        most_rounds=3,
        not_mapped=True,
    ),
)
"""What one might run instead. Measured only when asked for."""
