"""What those who look after tasks without a handler of their own report to the run's scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ("SideReports",)


@attrs.frozen(kw_only=True)
class SideReports:
    """Where happenings go; tasks are named by topological index. That one ended is reported by the broker, as for any attempt."""

    failed: Callable[[int, BaseException], None]
    """A task failed, of an exception."""
    lost: Callable[[int], None]
    """A task's end could not be recorded."""
    interrupt: Callable[[BaseException], None]
    """The store failed, and the run with it."""
    spawn: Callable[[Callable[[], Coroutine[Any, Any, None]]], None]
    """Have something done beside, until the run ends."""
