"""G4: an outcome is there as a whole or not at all, also for whoever looks on from another process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import pytest

from dagrelay import DAG, Durability, Runtime, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_KEYS: Final = ["first", "return_value", "second"]
_LOOKING: Final = """
import json, sys
import anyio
from dagrelay import Runtime, SqliteStore

path, wanted, keys = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])

async def main() -> None:
    snapshots, whole, partial = 0, 0, []
    async with Runtime(SqliteStore(path, read_only=True)) as runtime:
        print("looking", flush=True)
        while snapshots < wanted or not whole:
            for run in await runtime.runs(limit=1):
                found = {}
                for entry in await runtime.xcom.list(run.run_id):
                    found.setdefault(entry.task_id, []).append(entry.key)
                snapshots += 1
                whole += len(found)
                partial += [held for held in found.values() if sorted(held) != keys]
    print(json.dumps({"snapshots": snapshots, "whole": whole, "partial": partial[:5]}))

anyio.run(main)
"""


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("durability", list(Durability))
async def test_nobody_sees_half_an_outcome(
    tmp_path: Path, durability: Durability, is_full: bool, figure: Callable[[str], None]
) -> None:
    """Of each task all it pushed and returned is listed, or nothing; in 100,000 snapshots, in short 500."""
    wanted = 25_000 if is_full else 250
    dag = DAG("d")

    async def push(ctx: TaskContext) -> int:
        await ctx.xcom.push("first", 1)
        await ctx.xcom.push("second", 2)
        return 3

    for number in range(30):
        dag.add(push, id=f"t{number}")
    command = [sys.executable, "-c", _LOOKING, str(tmp_path / "runs.db"), str(wanted), json.dumps(_KEYS)]
    async with Runtime(tmp_path / "runs.db", durability=durability) as runtime:
        await runtime.run(dag)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as looking:
            try:
                assert looking.stdout is not None
                assert await anyio.to_thread.run_sync(looking.stdout.readline) == "looking\n"
                while looking.poll() is None:
                    await runtime.run(dag)
                out, err = looking.communicate(timeout=10)
            finally:
                looking.kill()
    assert looking.returncode == 0, err
    told = json.loads(out)
    assert told["snapshots"] >= wanted
    assert told["whole"], "it saw outcomes"
    assert told["partial"] == []
    figure(f"G4  {told['snapshots']:,} snapshots beside a writer ({durability}): {told['whole']:,} whole outcomes, 0 partial")
