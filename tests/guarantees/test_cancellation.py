"""G9: a run cancelled at any moment ends soon, leaves no transaction open, and the runtime as good as before."""

from __future__ import annotations

import sqlite3
import time
from random import Random
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from dagrelay import DAG, RunState, Runtime, SqliteStore, TaskContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_GRACE_S: Final = 2.0


def _dag() -> DAG:
    dag = DAG("d")

    @dag.task
    async def source(ctx: TaskContext) -> int:
        await ctx.xcom.push("k", "x" * 1_000)
        return 1

    async def middle(ctx: TaskContext) -> int:
        await ctx.xcom.push_many({"a": 1, "b": 2})
        await anyio.lowlevel.checkpoint()
        return await ctx.xcom.pull(source) + 1

    sides = [dag.add(middle, id=f"middle{number}", depends_on=source) for number in range(5)]

    def sink(*, values: list[int]) -> int:
        return sum(values)

    dag.add(sink, id="sink", bind={"values": [side.output for side in sides]})
    return dag


async def test_a_thousand_random_moments(tmp_path: Path, is_full: bool, figure: Callable[[str], None]) -> None:
    """In real time, with real threads; each run goes on to its end afterwards, with the one right result."""
    chance, dag, path = Random(9), _dag(), tmp_path / "runs.db"
    slowest, seen = 0.0, set[RunState]()
    async with Runtime(SqliteStore(path), grace_s=_GRACE_S) as runtime:
        for number in range(1_000 if is_full else 30):
            run_id = f"r{number}"
            with anyio.move_on_after(chance.expovariate(1 / 0.004)) as scope:
                await runtime.run(dag, run_id=run_id)
            if scope.cancelled_caught:
                slowest = max(slowest, anyio.current_time() - scope.deadline)
            known = await runtime.runs(limit=1)
            if known and known[0].run_id == run_id:
                seen.add(known[0].state)
            began = time.monotonic()
            result = await runtime.run(dag, run_id=run_id)
            assert result["sink"] == 10
            assert time.monotonic() - began < 10
        statistics = runtime.statistics()
        assert statistics.broker.live_runs == statistics.broker.pending_bytes == statistics.admission.running == 0
        # Nobody holds the database: another connection gets its write lock at once.
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        other.close()
    assert seen <= {RunState.INTERRUPTED, RunState.SUCCESS}
    assert slowest <= _GRACE_S + 0.5
    if is_full:
        figure(f"1,000 cancellations: the slowest took {slowest:.2f} s")
