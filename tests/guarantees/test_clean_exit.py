"""G25: nothing stays behind, neither of a runtime that was left nor of one that was forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import anyio
import pytest

from dagrelay import DAG, Runtime

_ROUNDS: Final = 200
_FORGOTTEN: Final = """
import sys, warnings
import anyio
from dagrelay import DAG, Runtime, SqliteStore

warnings.simplefilter("error")
dag = DAG("d")

@dag.task
async def one() -> int:
    return 1

async def main() -> None:
    {body}

anyio.run(main, backend=sys.argv[2])
print("the loop is over", flush=True)
"""
_BODIES: Final = {
    "a runtime": "runtime = await Runtime(sys.argv[1]).__aenter__(); await runtime.run(dag)",
    "a store": "store = SqliteStore(sys.argv[1]); await store.open(now_us=0)",
}


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not looked at


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="files are counted by /proc")
async def test_two_hundred_runtimes_leave_no_thread_and_no_file(tmp_path: Path, is_full: bool) -> None:
    """On one store, each with a run."""
    dag = DAG("d")

    @dag.task
    async def one() -> int:
        return 1

    async def round_trip() -> None:
        async with Runtime(tmp_path / "runs.db") as runtime:
            assert (await runtime.run(dag))[one] == 1

    await round_trip()
    before = threading.active_count(), _open_files()
    for _ in range(_ROUNDS if is_full else 20):
        await round_trip()
    # Trio and anyio keep a worker or two for a while; what matters is that they don't add up.
    assert threading.active_count() <= before[0] + 1
    assert _open_files() <= before[1] + 2


@pytest.mark.parametrize("what", list(_BODIES))
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_was_forgotten_does_not_keep_the_process(tmp_path: Path, what: str, backend: str, is_full: bool) -> None:
    """The interpreter ends, soon after the loop does, and the file can be opened by the next."""
    store = tmp_path / "runs.db"
    is_refused = (what, backend) == ("a runtime", "trio")  # Trio lets nobody forget a nursery.
    command = [sys.executable, "-c", _FORGOTTEN.replace("{body}", _BODIES[what]), str(store), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == ("" if is_refused else "the loop is over\n")
            began = time.monotonic()
            process.communicate(timeout=30)
            assert (process.returncode == 0) is not is_refused
            assert time.monotonic() - began < (1 if is_full else 5), "with time to spare on a busy machine"
        finally:
            process.kill()

    async def look() -> None:
        async with Runtime(store) as runtime:
            await runtime.runs()

    anyio.run(look)
