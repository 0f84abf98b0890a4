"""The floors: the least that each promise costs in Python, without a runtime around it.

Called as `floors.py FLOOR WORKLOAD FOLDER`. R0 keeps values in a dict. The others write one row a task to SQLite (WAL,
synchronous=FULL), those that ended in one moment in one transaction: R2 on the loop's own thread, R3 and R5 through aiosqlite.
In R2 and R3 dependants wait for the commit; in R5 only the end of the run does. None has states, retries, events or limits.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import aiosqlite

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Value, Workload, body

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS xcom (run INT, task INT, key TEXT, at REAL, size INT, value BLOB, PRIMARY KEY (run, task, key))"
)
_INSERT: Final = "INSERT INTO xcom VALUES (?, ?, ?, ?, ?, ?)"

_Row: TypeAlias = tuple[int, int, str, float, int, bytes]


def _encoder() -> Callable[[Value], bytes]:
    """Return what turns values into JSON: orjson where it is installed, as in dagrelay."""
    try:
        from orjson import dumps  # noqa: PLC0415 - optional
    except ImportError:
        return lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    return dumps


_encode: Final = _encoder()


class _Disk(Protocol):
    """Where rows go: all or none, and durable once this returns."""

    async def commit(self, rows: Sequence[_Row]) -> None: ...


class _Inline:
    """SQLite on the loop's own thread."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute(_CREATE)

    async def commit(self, rows: Sequence[_Row]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(_INSERT, rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


class _Threaded:
    """SQLite behind aiosqlite."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def commit(self, rows: Sequence[_Row]) -> None:
        await self._connection.executemany(_INSERT, rows)
        await self._connection.commit()


@asynccontextmanager
async def _disk_of(floor: str, folder: Path) -> AsyncGenerator[_Disk | None]:
    if floor == "R0":
        yield None
    elif floor.startswith("R2"):
        inline = _Inline(folder / "floor.db")
        try:
            yield inline
        finally:
            inline.close()
    else:
        async with aiosqlite.connect(folder / "floor.db") as connection:
            await connection.execute("PRAGMA journal_mode=WAL")
            await connection.execute("PRAGMA synchronous=FULL")
            await connection.execute(_CREATE)
            await connection.commit()
            yield _Threaded(connection)


class _Graph:
    """Runs a workload as plain asyncio tasks, one each, started when the last parent is through.

    Args:
        workload: what to run.
        disk: where values go as well; None to keep them in memory only.
        run_ids: gives each run its number.
        is_behind: dependants start before the commit.
    """

    def __init__(self, workload: Workload, disk: _Disk | None, run_ids: Iterator[int], *, is_behind: bool) -> None:
        self._workload = workload
        self._children = workload.children
        self._disk = disk
        self._is_behind = is_behind
        self._run_ids = run_ids

    async def run(self) -> int:
        """Run it once and return the `n` of the last task's value."""
        self._run_id = next(self._run_ids)
        self._unmet = [len(parents) for parents in self._workload.parents]
        self._left = self._workload.size
        self._values: dict[int, Value] = {}
        self._rows: list[_Row] = []
        self._wake = asyncio.Event()
        async with asyncio.TaskGroup() as self._tasks:
            if self._disk is not None:
                self._tasks.create_task(self._write(self._disk))
            for task, unmet in enumerate(self._unmet):
                if not unmet:
                    self._tasks.create_task(self._carry(task))
        return int(self._values[self._workload.size - 1]["n"])

    async def _carry(self, task: int) -> None:
        parents = self._workload.parents[task]
        value = self._values[task] = await self._handle([self._values[parent] for parent in parents])
        if self._disk is None:
            self._release(task)
            return
        data = _encode(value)
        self._rows.append((self._run_id, task, "return_value", time.time(), len(data), data))
        self._wake.set()
        if self._is_behind:
            self._release(task)

    async def _handle(self, values: list[Value]) -> Value:
        return body(values, is_big=self._workload.is_big)

    def _release(self, task: int) -> None:
        for child in self._children[task]:
            self._unmet[child] -= 1
            if not self._unmet[child]:
                self._tasks.create_task(self._carry(child))

    async def _write(self, disk: _Disk) -> None:
        """Take all that is there, commit it, and so on until every task's row is written."""
        while self._left:
            await self._wake.wait()
            self._wake.clear()
            rows, self._rows = self._rows, []
            await disk.commit(rows)
            self._left -= len(rows)
            if not self._is_behind:
                for row in rows:
                    self._release(row[1])


async def _main(floor: str, workload: Workload, folder: Path) -> None:
    run_ids, is_behind = itertools.count(1), floor.startswith("R5")
    async with _disk_of(floor, folder) as disk:
        await _Graph(WARM_UP, disk, run_ids, is_behind=is_behind).run()
        graph = _Graph(workload, disk, run_ids, is_behind=is_behind)
        await serve(workload, graph.run, read_line=lambda: asyncio.to_thread(sys.stdin.readline), sleep=asyncio.sleep)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], WORKLOADS[sys.argv[2]], Path(sys.argv[3])))
