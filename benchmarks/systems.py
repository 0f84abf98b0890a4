"""What is measured: each system's command, and what it promises of a task's value. More systems are more rows here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ("GROUPS", "SYSTEMS", "System")

_HERE: Final = Path(__file__).parent

_MEMORY: Final = "memory"
_BEFORE: Final = "before"
_BEHIND: Final = "behind"

GROUPS: Final = {
    _MEMORY: "In memory only: nothing survives",
    _BEFORE: "Commit before dependants: every finished task survives a power cut (WAL, synchronous=FULL)",
    _BEHIND: "Commit behind dependants: all of it is on disk when run() returns (WAL, synchronous=FULL)",
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
    python: str = sys.executable
    """The interpreter; a peer has one in a venv of its own."""

    @property
    def command(self) -> list[str]:
        """What to start, but for the workload and the folder."""
        return [self.python, str(_HERE / self.script), *self.arguments]


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
