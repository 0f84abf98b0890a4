"""One actor for everything that happens at a time: timeouts, retries, and the patience with a stubborn handler."""

from __future__ import annotations

import heapq
from itertools import count
from math import inf
from typing import TYPE_CHECKING

import anyio

from dagrelay.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Timer", "Timers")

_COMPACT_ABOVE = 1024


class Timer:
    """A call to come; `cancel` it and it won't."""

    __slots__ = ("_timers", "action", "is_cancelled")

    def __init__(self, timers: Timers, action: Callable[[], None]) -> None:
        """Take what to call."""
        self._timers = timers
        self.action: Callable[[], None] = action
        self.is_cancelled: bool = False

    def cancel(self) -> None:
        """Don't call it after all; harmless afterwards."""
        if not self.is_cancelled:
            self.is_cancelled = True
            self.action = _nothing  # A long timeout must not keep alive what it was for.
            self._timers.note_cancelled()


def _nothing() -> None:
    """Do what a cancelled timer does."""


class Timers:
    """Calls functions at times of the event loop's clock, in order of time, then of registration.

    The functions post messages or cancel scopes; they neither wait nor raise.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._cancelled = 0
        self._wake = anyio.Event()
        self._is_closed = False

    def after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Call `action` in `delay_s` seconds, or as soon as possible if that is not positive."""
        timer = Timer(self, action)
        due = anyio.current_time() + max(0.0, delay_s)
        is_next = not self._heap or due < self._heap[0][0]
        heapq.heappush(self._heap, (due, next(self._order), timer))
        if is_next:
            self._wake.set()
        return timer

    def note_cancelled(self) -> None:
        """Count a dead timer, and clear them out when most are."""
        self._cancelled += 1
        if self._cancelled > _COMPACT_ABOVE and self._cancelled * 2 > len(self._heap):
            self._heap = [item for item in self._heap if not item[2].is_cancelled]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        """End `run`; what has not been called never is."""
        self._is_closed = True
        self._wake.set()

    async def run(self) -> None:
        """Serve until closed; shields itself."""
        with anyio.CancelScope(shield=True):
            while not self._is_closed:
                self._wake = anyio.Event()
                delay = self._fire(anyio.current_time())
                if not self._is_closed:
                    with anyio.move_on_after(None if delay == inf else delay):
                        await self._wake.wait()

    def _fire(self, now: float) -> float:
        while self._heap and self._heap[0][0] <= now:
            _, _, timer = heapq.heappop(self._heap)
            if timer.is_cancelled:
                self._cancelled -= 1
            else:
                timer.is_cancelled = True
                try:
                    timer.action()
                except Exception:  # noqa: BLE001 - a bug of one action's must not end everybody's timeouts
                    get_logger().exception("timer.failed")
        return self._heap[0][0] - now if self._heap else inf
