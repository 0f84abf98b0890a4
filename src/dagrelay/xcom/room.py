"""How much may await its commit: bytes are bounded over all runs, and one run alone may fill no more than half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from dagrelay.xcom.book import RunBook

__all__ = ("Room",)


class Room:
    """Counts what awaits its commit, and lets producers wait for less.

    Args:
        limit: bytes that may await their commit.
    """

    def __init__(self, limit: int) -> None:
        """Start empty."""
        self._limit = limit
        self._less: anyio.Event | None = None
        self._is_closed = False
        self.pending_bytes = 0

    @property
    def is_congested(self) -> bool:
        """Whether so much awaits its commit that producers should wait."""
        return self.pending_bytes > self._limit and not self._is_closed

    async def wait(self) -> None:
        """Wait until it is congested no longer.

        Cancellation: nothing is left behind.
        """
        while self.is_congested:
            await self._wait_for_less()

    async def wait_for(self, book: RunBook, size: int) -> None:
        """Wait until `size` bytes of a run fit; whatever its size, a value fits where nothing else awaits its commit.

        Cancellation: nothing is left behind.
        """
        while not self.fits(book, size):
            await self._wait_for_less()

    def fits(self, book: RunBook, size: int) -> bool:
        """Whether `size` bytes of a run fit now, or nothing will be committed any more."""
        own = book.account.pending_bytes
        is_fair = own == 0 or own + size <= self._limit // 2
        return self._is_closed or (is_fair and (self.pending_bytes == 0 or self.pending_bytes + size <= self._limit))

    async def _wait_for_less(self) -> None:
        if self._less is None:
            self._less = anyio.Event()
        await self._less.wait()

    def tell(self) -> None:
        """Have those who wait look again."""
        if self._less is not None:
            self._less.set()
            self._less = None

    def close(self) -> None:
        """Let nobody wait any more: nothing will be committed."""
        self._is_closed = True
        self.tell()
