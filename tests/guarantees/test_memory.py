"""G12: memory is bounded, and no run starves another."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from dagrelay import DAG, Limits, Runtime, SqliteStore, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable

_PUSHING: Final = """
import json, sys
import anyio
from dagrelay import DAG, Limits, Runtime, TaskContext

path, backend, (tasks, pushes, size) = sys.argv[1], sys.argv[2], map(int, sys.argv[3:])
dag = DAG("pushing")

async def push(ctx: TaskContext) -> int:
    for number in range(pushes):
        await ctx.xcom.push(f"k{number}", "x" * (size - 2))
    return pushes

for number in range(tasks):
    dag.add(push, id=f"t{number}")

def peak() -> int:
    # Not what getrusage says: that begins with the peak of the process that started this one, and hides all growth below it.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))

async def main() -> None:
    warm = DAG("warm")
    warm.add(push, id="t")
    async with Runtime(path, limits=Limits(max_run_xcom_bytes=2 << 30, cache_bytes=8 << 20)) as runtime:
        await runtime.run(warm)
        before = peak()
        await runtime.run(dag)
        print(json.dumps({"before_kib": before, "growth_kib": peak() - before}))

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.timeout(3_600)
def test_a_million_pushes_need_no_memory(
    tmp_path: Path, backend: str, is_full: bool, figure: Callable[[str], None], missing: Callable[[str], None]
) -> None:
    """1,000 tasks of 1,000 pushes of 1 KB each, in short 100 of 30 of 50 KB: at most 64 MB more than before."""
    if not Path("/proc/self/status").exists():
        missing("/proc")
    tasks, pushes, size = (1_000, 1_000, 1_024) if is_full else (100, 30, 51_200)
    command = [sys.executable, "-c", _PUSHING, str(tmp_path / "runs.db"), backend, str(tasks), str(pushes), str(size)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_500, check=False)
    assert done.returncode == 0, done.stderr
    growth_mib = json.loads(done.stdout)["growth_kib"] / 1024
    took = f"{time.monotonic() - began:.0f} s"
    figure(f"G12 {backend}: {tasks * pushes:,} pushes of {size:,} bytes: {growth_mib:.1f} MiB more, {took}")
    assert growth_mib <= 64


@pytest.mark.timeout(600)
async def test_a_flooder_does_not_starve_the_polite(tmp_path: Path, is_full: bool, figure: Callable[[str], None]) -> None:
    """Beside a run of thousands of pushing tasks, small runs take their turns: each ends while the flood goes on."""
    rounds, size = (50, 20_000) if is_full else (5, 2_000)
    flood, polite = DAG("flood"), DAG("polite")

    async def push(ctx: TaskContext) -> None:
        for number in range(20):
            await ctx.xcom.push(f"k{number}", "x" * 10_000)

    async def small(ctx: TaskContext) -> int:
        await ctx.xcom.push("k", 1)
        return 1

    for number in range(size):
        flood.add(push, id=f"t{number}")
    polite.add(small, id="small")
    limits = Limits(max_run_xcom_bytes=8 << 30, max_pending_bytes=1 << 20)
    async with Runtime(SqliteStore(tmp_path / "runs.db"), limits=limits, on_exit="interrupt", grace_s=30) as runtime:

        async def one() -> float:
            began = anyio.current_time()
            await runtime.run(polite)
            return anyio.current_time() - began

        alone = [await one() for _ in range(rounds)]
        handle = await runtime.start(flood)
        for _ in range(5):
            await anyio.wait_all_tasks_blocked()
        beside = [await one() for _ in range(rounds)]
        assert (await runtime.get_run(handle.run_id)).ended_at is None, "the flood went on all the time"
    if is_full:
        p50, p99 = (_percentile(beside, share) / _percentile(alone, share) for share in (50, 99))
        text = f"{_percentile(alone, 50) * 1e3:.1f} and {_percentile(alone, 99) * 1e3:.1f} ms"
        figure(f"G12 polite runs, median and p99: alone {text}; beside the flood {p50:.1f} x and {p99:.1f} x")


def _percentile(times: list[float], share: int) -> float:
    return quantiles(times, n=100, method="inclusive")[share - 1]
