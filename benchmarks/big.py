"""100,000 tasks, wide and long, finish within a gigabyte: `python benchmarks/big.py`. Exits with 1 if one of them does not."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import anyio

from dagrelay import Durability, Runtime, TaskState
from measuring import peak_rss_bytes
from relay import make_dag
from workloads import Workload, chain, wide

_SIZE: Final = 100_000
_MAX_RSS_BYTES: Final = 2**30
_PATIENCE_S: Final = 300
_WORKLOADS: Final = {
    "wide": Workload("wide", f"source -> {_SIZE:,} tasks", wide(_SIZE)),
    "long": Workload("long", f"chain of {_SIZE:,}", chain(_SIZE)),
}
_CASES: Final = (("wide", "strict"), ("wide", "pipelined"), ("long", "pipelined"))


async def _run(workload: Workload, durability: Durability, folder: Path) -> None:
    """Run a workload once, check it, and tell the figures as one line of JSON."""
    start = time.perf_counter()
    dag, last = make_dag(workload)
    built_s = time.perf_counter() - start
    async with Runtime(folder / "runs.db", durability=durability) as runtime:
        start = time.perf_counter()
        result = await runtime.run(dag)
        run_s = time.perf_counter() - start
        value = await result.pull(last)
    if value["n"] != workload.expected or any(task.state is not TaskState.SUCCESS for task in result.tasks.values()):
        raise SystemExit(f"{workload.name}: a wrong result")
    sys.stdout.write(json.dumps({"built_s": built_s, "run_s": run_s, "peak_rss_bytes": peak_rss_bytes()}) + "\n")


def _measure(name: str, durability: str) -> bool:
    """Run a case in a process of its own, print its line, and return whether it kept within bounds."""
    workload = _WORKLOADS[name]
    title = f"{workload.title}, {durability.upper()}"
    with tempfile.TemporaryDirectory(prefix="dagrelay-big-") as folder:
        try:
            command = [sys.executable, __file__, name, durability, folder]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
        except subprocess.TimeoutExpired:
            print(f"{title}: not finished after {_PATIENCE_S} s", flush=True)
            return False
        except subprocess.CalledProcessError as error:
            print(f"{title}: failed: {error.stderr.strip()[-800:]}", flush=True)
            return False
    figures = json.loads(done.stdout)
    is_within = int(figures["peak_rss_bytes"]) < _MAX_RSS_BYTES
    print(
        f"{title}: {workload.size / figures['run_s']:,.0f} tasks/s, planning included ({figures['run_s']:.1f} s;"
        f" building the DAG took {figures['built_s']:.1f} s), peak RSS {figures['peak_rss_bytes'] / 2**20:,.0f} MiB"
        f"{'' if is_within else ': TOO MUCH'}",
        flush=True,
    )
    return is_within


def main() -> int:
    """Measure every case and return 1 if one failed, or run the case named on the command line."""
    match sys.argv[1:]:
        case [name, durability, folder]:
            anyio.run(_run, _WORKLOADS[name], Durability(durability), Path(folder))
            return 0
        case _:
            results = [_measure(name, durability) for name, durability in _CASES]
            return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
