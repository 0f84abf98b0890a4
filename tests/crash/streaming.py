"""The workload of streams that is killed: two producers, three readers, and a side file of what one of them was handed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import anyio

from dagrelay import DAG, Durability, Limits, Runtime, SqliteStore, TaskContext
from dagrelay.model.records import InstanceKey
from dagrelay.stores.stream_records import StreamQuery

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay.stores.stream_records import StreamPage

__all__ = ("HANDED_OUT", "WINDOW", "look_into", "make_dag", "stream", "take_to_its_end")

HANDED_OUT = ".handed-out"
"""Behind the store's name: the side file."""
WINDOW = 50
"""Items that a producer may be ahead, so that a kill finds all sides in their midst."""


def make_dag(store: str, items: int) -> DAG:
    """Return the DAG; its readers return what they have come to."""
    dag = DAG("streams")
    side_file = os.open(f"{store}{HANDED_OUT}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    @dag.task
    async def numbered(ctx: TaskContext) -> int:
        for number in range(items):
            await ctx.xcom.append("rows", {"n": number, "text": "x" * (number % 50)}, seq=number)
        return items

    @dag.task
    async def unnumbered(ctx: TaskContext) -> int:
        for number in range(items):
            await ctx.xcom.append("rows", [number, ctx.attempt])
        return ctx.attempt

    @dag.task(after_start=[numbered])
    async def writing(ctx: TaskContext) -> int:
        count: int = await ctx.xcom.pull_own("count", default=0)
        async for item in ctx.xcom.stream(numbered, "rows", resume=True):
            if item["n"] != count:
                raise AssertionError(f"item {item['n']} where {count} was to come")
            count += 1
            await ctx.xcom.push("count", count, lifetime="task")
        return count

    @dag.task(after_start=[numbered])
    async def reading(ctx: TaskContext) -> None:
        os.write(side_file, b"begin\n")
        async for item in ctx.xcom.stream(numbered, "rows", resume=True):
            os.write(side_file, f"{item['n']}\n".encode())

    @dag.task(after_start=[unnumbered])
    async def again(ctx: TaskContext) -> list[int]:
        attempts: set[int] = set()
        count = 0
        async for number, attempt in ctx.xcom.stream(unnumbered, "rows", resume=True):
            if number != count:
                raise AssertionError(f"item {number} where {count} was to come")
            count += 1
            attempts.add(attempt)
        return [count, *attempts]

    return dag


async def take_to_its_end(store: str, durability: str, items: int) -> Any:
    """Run it, or go on with it, and return what its tasks have come to."""
    limits = Limits(max_stream_window_items=WINDOW, max_interruptions=1_000)
    async with Runtime(SqliteStore(store), durability=Durability(durability), limits=limits) as runtime:
        result = await runtime.run(make_dag(store, items), run_id="r")
        return {task: await result.pull(task) for task in ("numbered", "unnumbered", "writing", "again")}


def stream(*, store: str, backend: str, durability: str, items: int) -> int:
    """Do so in a child."""
    anyio.run(take_to_its_end, store, durability, items, backend=backend)
    return 0


async def look_into(path: Path) -> tuple[StreamPage, StreamPage, int]:
    """Return what the store has for each of the two readers of the numbered stream, and the count that one has written."""
    store = SqliteStore(path, read_only=True)
    await store.open(now_us=0)
    try:
        pages = [
            await store.stream(
                StreamQuery(
                    producer=InstanceKey("r", "numbered", None),
                    key="rows",
                    consumer=InstanceKey("r", reader, None),
                    generation=1,
                    max_bytes=1 << 30,
                )
            )
            for reader in ("writing", "reading")
        ]
        rows = await store.entries("r", task_ids=["writing"], all_attempts=True, with_values=True)
    finally:
        await store.close()  # noqa: ASYNC102 - it shields itself
    counts = [int(value.value) for entry, value in rows if value is not None and entry.key == "count"]
    return pages[0], pages[1], counts[0] if counts else 0
