"""The marker by which binding (floor 4) knows a parameter that wants the task context (floor 9)."""

from __future__ import annotations

__all__ = ("Injected",)


class Injected:
    """Base of what the runtime passes to a handler by type: a parameter so annotated needs no wiring."""

    __slots__ = ()
