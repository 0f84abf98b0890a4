"""Who may run next: slots granted over all runs, round-robin over runs, first come first served within one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ("Admission", "AdmissionStatistics")

W = TypeVar("W")


@attrs.frozen(kw_only=True)
class AdmissionStatistics:
    """What waits and what runs."""

    slots: int
    """Attempts that may run at once."""
    running: int
    """Attempts that do."""
    queued: int
    """Attempts waiting for a slot."""


@attrs.define(eq=False)
class _Line(Generic[W]):
    """One run's waiting attempts."""

    owner: Hashable
    limit: int | None
    waiting: deque[W] = attrs.field(factory=deque[W])
    running: int = 0
    is_in_ring: bool = False


class Admission(Generic[W]):
    """Grants slots. Not an actor: a plain structure that scheduler and hosts use within one step of the loop.

    Args:
        slots: attempts that may run at once, over all runs.
    """

    def __init__(self, slots: int) -> None:
        """Start with every slot free."""
        self._slots = slots
        self._running = 0
        self._lines: dict[Hashable, _Line[W]] = {}
        # Invariant: a line stands in the ring, once, if and only if it is grantable. (test_admission: ring holds grantable lines)
        self._ring: deque[_Line[W]] = deque()

    @property
    def has_grantable(self) -> bool:
        """Whether `take` would return something."""
        return self._running < self._slots and bool(self._ring)

    def enter(self, owner: Hashable, limit: int | None) -> None:
        """Open a line for a run, of which at most `limit` attempts run at once."""
        self._lines[owner] = _Line(owner, limit)

    def leave(self, owner: Hashable) -> None:
        """Close a run's line, which is empty by then."""
        self._lines.pop(owner, None)

    def add(self, owner: Hashable, work: W) -> None:
        """Queue an attempt of a run."""
        line = self._lines[owner]
        line.waiting.append(work)
        if not line.is_in_ring:
            self._enlist(line)

    def take(self) -> W | None:
        """Grant a slot to the attempt whose turn it is, and return it; None if there is no slot or no attempt."""
        if self._running >= self._slots or not self._ring:
            return None
        line = self._ring.popleft()
        line.is_in_ring = False
        work = line.waiting.popleft()
        line.running += 1
        self._running += 1
        if line.waiting:
            self._enlist(line)
        return work

    def release(self, owner: Hashable) -> None:
        """Give a run's slot back."""
        self._running -= 1
        line = self._lines.get(owner)
        if line is not None:
            line.running -= 1
            if line.waiting and not line.is_in_ring:
                self._enlist(line)

    def withdraw(self, owner: Hashable) -> list[W]:
        """Take a run's queued attempts out and return them."""
        line = self._lines[owner]
        withdrawn = list(line.waiting)
        line.waiting.clear()
        if line.is_in_ring:
            self._ring.remove(line)
            line.is_in_ring = False
        return withdrawn

    def _enlist(self, line: _Line[W]) -> None:
        """Give a line with somebody waiting in it its turn, unless its run has all the slots it may have."""
        if line.limit is None or line.running < line.limit:
            line.is_in_ring = True
            self._ring.append(line)

    def statistics(self) -> AdmissionStatistics:
        """Return what waits and runs."""
        queued = sum(len(line.waiting) for line in self._lines.values())
        return AdmissionStatistics(slots=self._slots, running=self._running, queued=queued)
