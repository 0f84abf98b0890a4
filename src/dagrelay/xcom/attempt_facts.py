"""What `ctx.xcom` asks of the attempt it is bound to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractAsyncContextManager

__all__ = ("AttemptFacts",)


class AttemptFacts(Protocol):
    """What `ctx.xcom`, and the streams it takes part in, ask of the attempt."""

    @property
    def number(self) -> int:
        """The attempt's number, from 1."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it timed out, was cancelled or has ended."""
        ...

    @property
    def has_time_limit(self) -> bool:
        """Whether it may go on by itself though what it waits for never comes, so that it is not stuck."""
        ...

    def ensure_started(self) -> None:
        """Have its start recorded before anything it writes."""
        ...

    def parked(self, *, keeps_room: bool = ...) -> AbstractAsyncContextManager[None]:
        """Hold no slot inside, or leave it to other runs only; leaving it waits for one."""
        ...

    def note_reads(self, texts: Iterable[str]) -> None:
        """Have reads stored with its outcome, as texts made by `lineage.read_text`."""
        ...

    def restart(self) -> None:
        """End it, so that another attempt begins at once; it uses up no retry."""
        ...
