"""Stores that are wrong on purpose, each in one way, to show that the sweep would notice."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import attrs

from dagrelay import SqliteStore
from dagrelay.errors import StoreError
from dagrelay.stores.operations import FinishAttempt, Provide, StartAttempt
from dagrelay.testing import FaultyStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from dagrelay import Store
    from dagrelay.errors import DagrelayError
    from dagrelay.stores.operations import Operation
    from dagrelay.testing.faulty import StoreCall

__all__ = (
    "AcksBeforeCommit",
    "ForgetsChoices",
    "KeepsTheWrongPart",
    "LosesExpansions",
    "WelcomesSecondValues",
    "WithoutFence",
)

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


class LosesExpansions(FaultyStore):
    """Does not store that a mapped task was expanded, and how many elements it has."""

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Store the rest of the batch."""
        kept = [each for each in batch if not (isinstance(each, StartAttempt) and each.length is not None)]
        results = iter(await self.inner.apply(kept))
        return [next(results) if each in kept else 1 for each in batch]


class ForgetsChoices(FaultyStore):
    """Does not store which tasks a branch has chosen."""

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Store the batch without choices."""
        return await self.inner.apply(
            [attrs.evolve(each, follows=None) if isinstance(each, FinishAttempt) else each for each in batch]
        )


class WelcomesSecondValues(FaultyStore):
    """Says that a value from outside is stored, though there was one before."""

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Store what can be stored."""
        results = await self.inner.apply(batch)
        return [1 if isinstance(each, Provide) else result for each, result in zip(batch, results, strict=True)]


class WithoutFence(SqliteStore):
    """Goes on writing after another owner has taken over, as whoever the file names."""

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply a batch under the epoch found."""
        assert self._writing is not None
        found = await self._writing.run(lambda connection: connection.execute("SELECT epoch FROM owner").fetchone())
        self._writer._epoch = found[0]  # pyright: ignore[reportPrivateUsage] - no public door leads there
        return await super().apply(batch)
