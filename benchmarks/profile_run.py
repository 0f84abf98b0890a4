"""Where a run's time goes: `python benchmarks/profile_run.py WORKLOAD [--durability strict|pipelined] [--backend asyncio|trio]`.

The profiler sees the loop's thread only, and makes calls dearer than they are: read the order, not the times.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio

from dagrelay import Durability, Runtime
from relay import make_dag
from workloads import WORKLOADS, Workload

_ROWS: Final = 40
_WARM_RUNS: Final = 2


async def _profile(workload: Workload, durability: Durability, runs: int, folder: Path) -> cProfile.Profile:
    dag, _ = make_dag(workload)
    profile = cProfile.Profile()
    async with Runtime(folder / "runs.db", durability=durability) as runtime:
        for _ in range(_WARM_RUNS):
            await runtime.run(dag)
        start = time.perf_counter()
        await runtime.run(dag)
        print(f"{workload.size / (time.perf_counter() - start):,.0f} tasks/s without the profiler")
        profile.enable()
        for _ in range(runs):
            await runtime.run(dag)
        profile.disable()
    return profile


def main() -> None:
    """Profile warm runs and print the costliest functions by their own time."""
    parser = argparse.ArgumentParser(description="Where a run's time goes.")
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--durability", choices=[str(durability) for durability in Durability], default=str(Durability.STRICT))
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--runs", type=int, default=1, help="how many runs to profile")
    parser.add_argument("--sort", choices=["tottime", "cumtime"], default="tottime")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dagrelay-profile-") as folder:
        profile = anyio.run(
            _profile,
            WORKLOADS[arguments.workload],
            Durability(arguments.durability),
            arguments.runs,
            Path(folder),
            backend=arguments.backend,
        )
    pstats.Stats(profile, stream=sys.stdout).sort_stats(arguments.sort).print_stats(_ROWS)


if __name__ == "__main__":
    main()
