"""A cancelled batch is whole or not there, and leaves no transaction behind."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.stores import SqliteStore
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from dagrelay.stores.operations import Operation

on_asyncio = pytest.mark.parametrize("anyio_backend", [pytest.param(("asyncio", {"debug": True}), id="asyncio")])
SIZE = 200


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Give an open store."""
    store = SqliteStore(tmp_path / "runs.db")
    await store.open(now_us=0)
    yield store
    await store.close()


def batch_of(number: int) -> list[Operation]:
    """Return a batch that takes a moment."""
    story = Story(f"run{number}")
    tasks = [f"t{index}" for index in range(SIZE)]
    return [story.create(*tasks), *(story.finish(task, values={"k": b"1"}) for task in tasks)]


async def check(store: SqliteStore, number: int) -> None:
    """Check that a batch is whole or not there, and that the store works on."""
    assert len(await store.instances(f"run{number}")) in (0, SIZE)
    assert await store.stored_bytes(f"run{number}") in (0, SIZE)
    assert store._writing is not None
    assert not await store._writing.run(lambda connection: connection.in_transaction)
    assert await store.apply([Story(f"next{number}").create("a")]) == [1]


@pytest.mark.parametrize("patience", [0, 1, 2, 5, 20, 100])
async def test_a_batch_in_a_cancelled_scope(store: SqliteStore, patience: int) -> None:
    """The cancellation waits for the unit of work."""
    for number in range(5):
        async with anyio.create_task_group() as group:
            group.start_soon(store.apply, batch_of(number))
            for _ in range(patience):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await check(store, number)


@on_asyncio
@pytest.mark.parametrize("patience", [0, 1, 2, 5, 20, 100])
async def test_a_batch_in_a_natively_cancelled_task(store: SqliteStore, patience: int) -> None:
    """As asyncio's own cancellation does, although no shield stops it."""
    for number in range(5):
        task = asyncio.ensure_future(store.apply(batch_of(number)))
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await check(store, number)


@on_asyncio
async def test_a_batch_that_was_begun_is_whole_when_its_cancellation_comes_out(store: SqliteStore) -> None:
    """Whoever sees CancelledError can rely on what is stored."""
    task = asyncio.ensure_future(store.apply(batch_of(0)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.stored_bytes("run0") == SIZE


async def test_readers_see_whole_batches(store: SqliteStore) -> None:
    """Reads beside a batch see all of it or nothing."""
    seen: set[int] = set()
    is_over = anyio.Event()

    async def read() -> None:
        while not is_over.is_set():
            seen.add(len(await store.instances("run0")))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await store.apply(batch_of(0))
        is_over.set()
    assert seen <= {0, SIZE}
    assert len(await store.instances("run0")) == SIZE
