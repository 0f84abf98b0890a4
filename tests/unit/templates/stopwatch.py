"""How long something takes, measured so that a busy machine and a tracer disturb least."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("quickest",)

_TRIES = 5


def quickest(call: Callable[[], object], *, within: float) -> float:
    """Return the seconds of the quickest of a few calls; the first one that stays within the time is enough.

    They are seconds of this thread, so that other work on the machine does not count.

    Coverage and debuggers trace every line and take many times as long, so they are kept out.
    """
    best = float("inf")
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        for _ in range(_TRIES):
            began = time.thread_time()
            call()
            best = min(best, time.thread_time() - began)
            if best < within:
                break
    finally:
        sys.settrace(tracer)
    return best
