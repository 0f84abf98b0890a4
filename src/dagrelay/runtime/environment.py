"""What the outside world gives a runtime: a wall clock, chance and run ids; injected, so that a test can replay them."""

from __future__ import annotations

import time
from random import Random, SystemRandom
from typing import TYPE_CHECKING

import attrs

from dagrelay.model.records import from_us

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("Environment",)


def _wall_clock_us() -> int:
    return time.time_ns() // 1000


@attrs.frozen(kw_only=True)
class Environment:
    """Sources of time, chance and run ids.

    Deadlines are kept by the event loop's own clock (`anyio.current_time()`), so that no jump of the wall clock fires one.
    """

    now_us: Callable[[], int] = _wall_clock_us
    """The wall clock, in microseconds since 1970; for records only."""
    random: Random = attrs.field(factory=SystemRandom)
    """Chance, for the jitter of retries and for run ids."""

    def new_run_id(self) -> str:
        """Return a fresh run id: the time, so that ids sort by age, and 48 random bits."""
        return f"{from_us(self.now_us()):%Y%m%dT%H%M%S}-{self.random.getrandbits(48):012x}"
