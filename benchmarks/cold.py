"""A fresh interpreter until it has done something, called as `cold.py WHAT FOLDER`; it prints a line when that is done.

Each imports what it needs and nothing else, so imports stand where they are timed.
"""

from __future__ import annotations

import sys
from pathlib import Path


def _import(folder: Path) -> None:
    del folder
    import dagrelay  # noqa: PLC0415 - timed

    print(f"{dagrelay.__name__} is imported", flush=True)


def _commit(folder: Path) -> None:
    """Commit a row through aiosqlite: the floor under a first durable task."""
    import asyncio  # noqa: PLC0415 - timed

    import aiosqlite  # noqa: PLC0415 - timed

    async def commit() -> None:
        async with aiosqlite.connect(folder / "rows.db") as connection:
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "CREATE TABLE xcom (task INT, value BLOB)"):
                await connection.execute(statement)
            await connection.execute("INSERT INTO xcom VALUES (?, ?)", (1, b'"done"'))
            await connection.commit()
            print("a row is committed", flush=True)

    asyncio.run(commit())


def _run(folder: Path) -> None:
    import anyio  # noqa: PLC0415 - timed

    from dagrelay import DAG, Runtime  # noqa: PLC0415 - timed

    dag = DAG("cold")

    @dag.task
    async def first() -> str:
        return "done"

    async def run() -> None:
        async with Runtime(folder / "runs.db") as runtime:
            result = await runtime.run(dag)
            print(f"a task is {result[first]}", flush=True)

    anyio.run(run)


if __name__ == "__main__":
    match sys.argv[1]:
        case "import":
            _import(Path(sys.argv[2]))
        case "commit":
            _commit(Path(sys.argv[2]))
        case "run":
            _run(Path(sys.argv[2]))
        case _:
            print("an interpreter is there", flush=True)
