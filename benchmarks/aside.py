"""A process of its own for what is measured: nothing it left in memory, in its loop or on its heap meets the next turn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from measuring import MARK, peak_rss_bytes

__all__ = ("ask", "held_bytes", "most_held_bytes", "tell")

_PATIENCE_S: Final = 300


def ask(script: str, *arguments: object, status: int = 0) -> Any:
    """Run a script of this folder to its end and return what it told last.

    Args:
        script: its full name, mostly the caller's `__file__`.
        arguments: what it is given, each as text.
        status: how it has to end.

    Raises:
        RuntimeError: it ended otherwise, or told nothing.
        TimeoutExpired: it did not end, and was killed.
    """
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode != status or not told:
        words = " ".join(command[2:])
        raise RuntimeError(f"{Path(script).name} {words} ended with {done.returncode}: {done.stderr.strip()[-800:]}")
    return json.loads(told[-1].removeprefix(MARK))


def tell(figures: Any) -> None:
    """Hand figures to whoever asked; JSON has to hold them."""
    sys.stdout.write(f"{MARK}{json.dumps(figures)}\n")
    sys.stdout.flush()


def held_bytes() -> int:
    """Return the memory this process holds now; where the system does not tell, the most it has held."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return peak_rss_bytes()
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def most_held_bytes() -> int:
    """Return the most memory this process has held. Unlike `ru_maxrss`, without what its parent held when it was started."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return peak_rss_bytes()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), peak_rss_bytes())
