"""The measured side: a process that runs one workload on one system, one round whenever `run.py` asks for one.

It speaks by lines that begin with `MARK`: `{}` once it is warm, the figures of a round after each line it reads, and its own at
the end of its input. Standard library only, as peers import it in their own venvs.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from workloads import Workload

__all__ = ("MARK", "ROUND_S", "peak_rss_bytes", "serve", "written_bytes")

MARK: Final = "MEASURED "
ROUND_S: Final = 0.4
"""How long a round lasts at the least: runs shorter than this are repeated, as a floor's 25 ms alone measure mostly chance."""


async def serve(
    workload: Workload,
    run: Callable[[], Awaitable[int]],
    *,
    read_line: Callable[[], Awaitable[str]],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Run the workload for ROUND_S, or once, for each line read, and tell the figures of one run. The system has run a task.

    Args:
        workload: what `run` runs.
        run: runs it once, and returns the `n` of its last task's value as read from the system.
        read_line: reads a line of the standard input without holding up the loop.
        sleep: the loop's; what a system does when it is idle belongs to the round before, though not to its time.
    """
    expected = workload.expected
    _tell({})
    while await read_line():
        gc.collect()
        runs = 0
        written, cpu, start = written_bytes(), time.process_time(), time.perf_counter()
        while not runs or time.perf_counter() - start < ROUND_S:
            found = await run()
            runs += 1
            if found != expected:
                raise SystemExit(f"{workload.name} came to {found}, not {expected}")
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        await sleep(0.05)
        written = written_bytes() - written
        _tell({"runs": runs, "wall_s": wall_s / runs, "cpu_s": cpu_s / runs, "written_bytes": written // runs})
    _tell({"peak_rss_bytes": peak_rss_bytes()})


def _tell(figures: dict[str, Any]) -> None:
    sys.stdout.write(f"{MARK}{json.dumps(figures)}\n")
    sys.stdout.flush()


def written_bytes() -> int:
    """Return the bytes this process has caused to be written to disk (page granularity); 0 where /proc does not tell."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def peak_rss_bytes() -> int:
    """Return the most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
