"""Mapped tasks of a run: which units their elements are, which of them may start, and how the whole has fared."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import attrs

from dagrelay.model.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("MapProgress",)


@attrs.define(eq=False, kw_only=True)
class MapProgress:
    """An expanded task."""

    index: int
    """The task's topological index."""
    first: int
    """The unit of its first element; the others follow."""
    length: int
    """How many elements it has."""
    limit: int | None
    """How many of them run at once."""
    resting: deque[int] = attrs.field(factory=deque[int])
    """Units that may start, in order of map index."""
    active: int = 0
    """How many are queued or running."""
    left: int = 0
    """How many have not ended."""
    is_ending: bool = False
    """Whether its end as a whole was asked for."""
    _failed: int = 0
    _cancelled: int = 0
    _skipped: int = 0

    @property
    def units(self) -> range:
        """The units of its elements."""
        return range(self.first, self.first + self.length)

    @property
    def has_room(self) -> bool:
        """Whether one more element may run."""
        return self.limit is None or self.active < self.limit

    def count(self, state: TaskState) -> None:
        """Count an element that ended."""
        self.left -= 1
        self._failed += state is TaskState.FAILED
        self._cancelled += state is TaskState.CANCELLED
        self._skipped += state is TaskState.SKIPPED

    def put_back(self, units: Iterable[int]) -> None:
        """Let elements start before those that never did."""
        self.resting.extendleft(units)

    @property
    def outcome(self) -> TaskState:
        """How the whole ended, once all of its elements have."""
        if self._cancelled:
            return TaskState.CANCELLED
        if self._failed:
            return TaskState.FAILED
        return TaskState.SKIPPED if self.length and self._skipped == self.length else TaskState.SUCCESS
