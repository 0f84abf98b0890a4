"""What a guard is: a line that keeps a promise, with what becomes of it without its guard."""

from __future__ import annotations

import attrs

__all__ = ("Guard",)


@attrs.frozen(kw_only=True)
class Guard:
    """One safety line, and how to take it away."""

    name: str
    """What it is called."""
    promise: str
    """What it guards, with the number of the guarantee where it has one."""
    file: str
    """Where it stands, below `src/dagrelay`."""
    safe: str
    """Its text, which stands there exactly once."""
    unsafe: str
    """What is put in its place."""
    tests: tuple[str, ...]
    """The tests of which at least one must fail then, as pytest takes them."""
