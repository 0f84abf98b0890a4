"""G15: readers never hurt the writer."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from dagrelay import DAG, Runtime, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_MOST_LOG_BYTES: Final = 64 << 20
_READING: Final = """
import sys
import anyio
from dagrelay import Runtime, SqliteStore

async def main() -> None:
    async with Runtime(SqliteStore(sys.argv[1], read_only=True)) as runtime:
        print("reading", flush=True)
        while True:
            for run in await runtime.runs(limit=3):
                await runtime.task_instances(run.run_id)
                await runtime.xcom.list(run.run_id, "t0")

anyio.run(main)
"""


async def test_four_readers_neither_stop_the_writer_nor_make_its_log_grow(
    tmp_path: Path, is_full: bool, figure: Callable[[str], None]
) -> None:
    """Other processes read all the time while runs are written; what was written is there, and the log stays short."""
    store, rounds = tmp_path / "runs.db", 60 if is_full else 3
    dag = DAG("d")

    async def push(ctx: TaskContext) -> int:
        for number in range(4):
            await ctx.xcom.push(f"k{number}", "x" * 10_000)
        return 1

    for number in range(50):
        dag.add(push, id=f"t{number}")
    log, longest = tmp_path / "runs.db-wal", 0

    async with Runtime(store) as runtime:
        await runtime.run(dag)

        async def write() -> float:
            nonlocal longest
            began = time.perf_counter()
            for _ in range(rounds):
                result = await runtime.run(dag)
                assert all(task.state == "success" for task in result.tasks.values())
                longest = max(longest, log.stat().st_size)
            return time.perf_counter() - began

        alone = await write()
        readers = [
            subprocess.Popen([sys.executable, "-c", _READING, str(store)], stdout=subprocess.PIPE, text=True) for _ in range(4)
        ]
        try:
            for reader in readers:
                assert reader.stdout is not None
                assert reader.stdout.readline() == "reading\n"
            beside = await write()
            assert all(reader.poll() is None for reader in readers), "they read to the end"
        finally:
            for reader in readers:
                reader.kill()
                reader.communicate()
    assert longest <= _MOST_LOG_BYTES
    if is_full:
        figure(f"writer beside four readers: {alone / beside:.0%} of its speed alone; log at most {longest / 2**20:.1f} MiB")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_reader_that_keeps_a_snapshot_open_is_not_waited_for(tmp_path: Path, backend: str) -> None:
    """A plain connection holds a read transaction: runs go on, and the log is brought in once it ends."""
    import sqlite3  # noqa: PLC0415 - the only test that speaks to SQLite

    import anyio  # noqa: PLC0415 - as above

    store = tmp_path / "runs.db"
    dag = DAG("d")
    dag.add(lambda: "x" * 10_000, id="t")

    async def write() -> None:
        async with Runtime(store) as runtime:
            await runtime.run(dag)
            reader = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
            reader.execute("BEGIN")
            (before,) = reader.execute("SELECT count(*) FROM run").fetchone()
            for _ in range(20):
                await runtime.run(dag)
            assert reader.execute("SELECT count(*) FROM run").fetchone() == (before,)
            reader.close()

    anyio.run(write, backend=backend)
