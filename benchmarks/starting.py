"""How long a fresh process takes until its first durable task is done, beside what that is made of."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Timer
from typing import Final

from figures import Part, divided, spread

__all__ = ("measure",)

_ROUNDS: Final = 15
_QUICK_ROUNDS: Final = 5
_PATIENCE_S: Final = 60
_TITLES: Final = {
    "nothing": "an interpreter",
    "commit": "aiosqlite: a row committed to a new database",
    "import": "import dagrelay",
    "run": "dagrelay: run() of a task has returned, new database",
}


def measure(folder: Path, *, is_quick: bool) -> Part:
    """Measure starts, one process after another."""
    times: dict[str, list[float]] = {name: [] for name in _TITLES}
    for name in _TITLES:
        _start_s(name, folder)  # So that all files are in memory, and compiled.
    for number in range(_QUICK_ROUNDS if is_quick else _ROUNDS):
        for name in _TITLES if number % 2 else reversed(_TITLES):
            times[name].append(_start_s(name, folder))
    return Part(
        title="cold-start: from the start of a process until ...",
        head=("what", "ms", "min-max"),
        rows=[(title, *spread(times[name], lambda seconds: f"{seconds * 1000:,.0f}")) for name, title in _TITLES.items()],
        ratios={"first task done / a row committed through aiosqlite": divided(times["run"], times["commit"])},
        samples=times,
        notes=("all files are in the system's memory, and compiled",),
    )


def _start_s(what: str, folder: Path) -> float:
    """Return the seconds until a process says that it is done."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        command = [sys.executable, str(Path(__file__).with_name("cold.py")), what, own]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            timer = Timer(_PATIENCE_S, process.kill)
            timer.start()
            try:
                line = process.stdout.readline()
                seconds = time.perf_counter() - start
                process.wait()
            finally:
                timer.cancel()
    if not line or process.returncode:
        raise RuntimeError(f"cold.py {what} ended with {process.returncode}")
    return seconds
