"""How often something may start: a bucket of tokens, told by one number."""

from __future__ import annotations

from math import inf

__all__ = ("Rate",)


class Rate:
    """Leave to start: `per_s` times a second on average, `burst` times at once after a quiet while.

    Args:
        per_s: tokens that come in a second.
        burst: tokens that the bucket holds.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        """Start with a full bucket."""
        self._interval_s = 1 / per_s
        self._leeway_s = (burst - 1) / per_s
        self._full_at = -inf
        """When the bucket is full again."""

    @property
    def next_at(self) -> float:
        """When the next start is allowed; in the past if it is now."""
        return self._full_at - self._leeway_s

    def use(self, now: float) -> None:
        """Take a token."""
        self._full_at = max(self._full_at, now) + self._interval_s
