"""What awaits its commit is bounded over all runs together."""

from __future__ import annotations

import anyio

from dagrelay import Limits, MemoryStore
from tests.xcom.desk import at_work


async def test_many_polite_runs_fill_no_more_than_the_room() -> None:
    """Each alone would have its share; the last ones wait for a commit."""
    memory = MemoryStore()
    await memory.open(now_us=0)
    async with at_work(memory, limits=Limits(max_pending_bytes=100)) as desk:
        runs = [await desk.enter(f"run{number}") for number in range(5)]
        for run in runs:
            run.start()
        await desk.broker.barrier()
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            for run in runs:
                pushers.start_soon(run.push, {"k": b"x" * 40})
            await anyio.wait_all_tasks_blocked()
            assert desk.broker.statistics().pending_bytes == 80
            desk.store.writes.open()
        assert desk.broker.statistics().pending_bytes == 0
        assert [await memory.stored_bytes(run.book.run_id) for run in runs] == [40] * 5
    await memory.close()
