"""G12: memory is bounded, and no run starves another."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from statistics import quantiles
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from dagrelay import DAG, Limits, Runtime, SqliteStore, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PUSHING: Final = """
import json, resource, sys
import anyio
from dagrelay import DAG, Limits, Runtime, TaskContext

path, backend, tasks, pushes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dag = DAG("pushing")

async def push(ctx: TaskContext) -> int:
    for number in range(pushes):
        await ctx.xcom.push(f"k{number}", "x" * 1022)
    return pushes

for number in range(tasks):
    dag.add(push, id=f"t{number}")

def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

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
def test_a_million_pushes_need_no_memory(tmp_path: Path, backend: str, is_full: bool, figure: Callable[[str], None]) -> None:
    """1,000 tasks of 1,000 pushes of 1 KB each, in short 100 of 60: at most 64 MB more than before."""
    tasks, pushes = (1_000, 1_000) if is_full else (100, 60)
    command = [sys.executable, "-c", _PUSHING, str(tmp_path / "runs.db"), backend, str(tasks), str(pushes)]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_500, check=False)
    assert done.returncode == 0, done.stderr
    growth_mib = json.loads(done.stdout)["growth_kib"] / 1024
    figure(f"{backend}: {tasks * pushes:,} pushes of 1 KB: {growth_mib:.1f} MiB more, {time.monotonic() - began:.0f} s")
    assert growth_mib <= 64


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
        factor = quantiles(beside, n=100)[98] / quantiles(alone, n=100)[98]
        figure(f"polite p99: {quantiles(alone, n=100)[98] * 1e3:.1f} ms alone, {factor:.1f} x beside the flood")
