"""Pulls of one value, in memory and not, beside a SELECT and the decoding of its JSON through aiosqlite."""

from __future__ import annotations

import gc
import random
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiosqlite
import anyio

from aside import ask, tell
from dagrelay import DAG, Limits, Runtime, TaskContext
from figures import Part, divided, spread
from raw import SELECT_VALUE, RawStore, codec
from workloads import PAD

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from dagrelay import Task

__all__ = ("RESIDENT_RATIO", "measure")

RESIDENT_RATIO: Final = "a SELECT in the loop's thread / a resident pull"
"""The steadiest: no thread is waited for on either side."""
_ROUNDS: Final = 15
_QUICK_ROUNDS: Final = 5
_MANY: Final = 3000
_FEW: Final = 200
_ROWS: Final = 1000
_TITLES: Final = {
    "resident": "dagrelay: pull of a value in memory",
    "typed": "dagrelay: the same, as the dataclass that the task returns",
    "absent": "dagrelay: pull of a value not in memory",
    "select": "aiosqlite: execute_fetchall of a SELECT, and decode",
    "inline": "SQLite in the loop's own thread: SELECT, and decode",
}


@dataclass
class _Reading:
    n: int
    pad: str


def measure(folder: Path, *, is_quick: bool) -> Part:
    """Measure pulls in a process of its own."""
    turns: dict[str, list[float]] = ask(__file__, folder, _QUICK_ROUNDS if is_quick else _ROUNDS)
    return Part(
        title="pulls: `await ctx.xcom.pull(task)` of 200 B, one after another",
        head=("what", "us", "min-max"),
        rows=[(title, *spread(turns[name], lambda seconds: f"{seconds * 1e6:,.1f}")) for name, title in _TITLES.items()],
        ratios={
            "a SELECT through aiosqlite / a resident pull": divided(turns["select"], turns["resident"]),
            RESIDENT_RATIO: divided(turns["inline"], turns["resident"]),
            "a SELECT through aiosqlite / a resident typed pull": divided(turns["select"], turns["typed"]),
            "a SELECT through aiosqlite / a pull not in memory": divided(turns["select"], turns["absent"]),
        },
        samples=turns,
    )


# ----------------------------------------------------------------------------------------------- the process of its own


async def _take_turns(folder: Path, rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in _TITLES}
    async with (
        _within_a_handler(folder / "warm.db", Limits()) as (warm, warm_task),
        _within_a_handler(folder / "cold.db", Limits(cache_bytes=0)) as (cold, _),
        _selecting(folder / "raw.db") as (select, inline),
    ):
        turns: dict[str, tuple[int, Callable[[], Awaitable[Any]]]] = {
            "resident": (_MANY, lambda: warm.xcom.pull("source")),
            "typed": (_MANY, lambda: warm.xcom.pull(warm_task)),
            "absent": (_FEW, lambda: cold.xcom.pull("source")),
            "select": (_FEW, select),
            "inline": (_MANY, inline),
        }
        plain: dict[str, Any] = {"n": 1, "pad": PAD}
        for name, (_, pull) in turns.items():
            found = await pull()
            if found != (_Reading(**plain) if name == "typed" else plain):
                raise SystemExit(f"{name}: {found!r}")
        for number in range(rounds):
            names = list(turns)
            random.Random(number).shuffle(names)
            for name in names:
                count, pull = turns[name]
                gc.collect()
                start = time.perf_counter()
                for _ in range(count):
                    await pull()
                times[name].append((time.perf_counter() - start) / count)
    tell(times)


@asynccontextmanager
async def _within_a_handler(path: Path, limits: Limits) -> AsyncGenerator[tuple[TaskContext, Task[_Reading]]]:
    """Give the context of a handler that goes on for as long as this does, and a task upstream of it."""
    dag = DAG("pulls")
    entered, left = anyio.Event(), anyio.Event()
    contexts: list[TaskContext] = []

    @dag.task
    async def source() -> _Reading:
        return _Reading(1, PAD)

    @dag.task(depends_on=source)
    async def held(ctx: TaskContext) -> None:
        contexts.append(ctx)
        entered.set()
        await left.wait()

    assert held.id == "held"
    async with Runtime(path, limits=limits) as runtime:
        await runtime.start(dag)
        await entered.wait()
        try:
            yield contexts[0], source
        finally:
            left.set()


@asynccontextmanager
async def _selecting(path: Path) -> AsyncGenerator[tuple[Callable[[], Awaitable[Any]], Callable[[], Awaitable[Any]]]]:
    """Give what reads a row in the middle of others: through aiosqlite, and in this thread."""
    encode, decode = codec()
    data = encode({"n": 1, "pad": PAD})
    store = RawStore(path)
    store.write([(1, task, "return_value", 0.0, len(data), data) for task in range(_ROWS)])
    async with aiosqlite.connect(path) as connection:

        async def select() -> Any:
            ((value,),) = await connection.execute_fetchall(SELECT_VALUE, (1, _ROWS // 2, "return_value"))
            return decode(value)

        async def select_inline() -> Any:
            return decode(store.read_one(1, _ROWS // 2, "return_value"))

        yield select, select_inline
    store.close()


if __name__ == "__main__":
    anyio.run(_take_turns, Path(sys.argv[1]), int(sys.argv[2]))
