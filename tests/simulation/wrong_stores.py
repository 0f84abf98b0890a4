"""Stores that are wrong on purpose, each in one way, to show that the sweep would notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dagrelay import SqliteStore
from dagrelay.errors import StoreError
from dagrelay.testing import FaultyStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from dagrelay import Store
    from dagrelay.errors import DagrelayError
    from dagrelay.stores.operations import Operation
    from dagrelay.testing.faulty import StoreCall

__all__ = ("AcksBeforeCommit", "KeepsTheWrongPart", "WithoutFence")

T = TypeVar("T")


class AcksBeforeCommit(FaultyStore):
    """Says that a batch is stored, and stores it when it is next asked for anything."""

    def __init__(self, inner: Store) -> None:
        """Take the store that is late."""
        super().__init__(inner)
        self._late: list[Operation] = []

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Store the batch before, and promise this one."""
        await self._catch_up()
        self._late = list(batch)
        return [1] * len(batch)

    async def _catch_up(self) -> None:
        late, self._late = self._late, []
        if late:
            await self.inner.apply(late)

    async def _through(self, call: StoreCall, work: Callable[[], Awaitable[T]]) -> T:
        if call not in {"open", "maintain"}:
            await self._catch_up()
        return await work()


class KeepsTheWrongPart(FaultyStore):
    """Now and then fails in the middle of a batch, says that nothing of it was stored, and has stored its second half."""

    def __init__(self, inner: Store, random: Random) -> None:
        """Take the store whose batches are torn, and chance."""
        super().__init__(inner)
        self._random = random

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Store the batch, or half of it."""
        if len(batch) > 1 and self._random.random() < 0.3:
            await self.inner.apply(batch[len(batch) // 2 :])
            raise StoreError("the medium failed")
        return await self.inner.apply(batch)


class WithoutFence(SqliteStore):
    """Goes on writing after another owner has taken over, as whoever the file names."""

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply a batch under the epoch found."""
        assert self._writing is not None
        found = await self._writing.run(lambda connection: connection.execute("SELECT epoch FROM owner").fetchone())
        self._writer._epoch = found[0]  # pyright: ignore[reportPrivateUsage] - no public door leads there
        return await super().apply(batch)
