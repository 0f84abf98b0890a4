"""What the branches of a run chose, and which tasks that leaves out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dagrelay.dag.plan import CHOOSING_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dagrelay.dag.plan import Plan

__all__ = ("Choices",)


class Choices:
    """The choices of one run, by topological index.

    Args:
        plan: what is run.
    """

    def __init__(self, plan: Plan) -> None:
        """Start with nothing chosen."""
        self._plan = plan
        self._chosen: dict[int, frozenset[int]] = {}
        # Of tasks directly below branches, how many of those have not ended.
        choosing = [task.index for task in plan.tasks if task.kind in CHOOSING_KINDS]
        self.has_branches: bool = bool(choosing)
        """Whether there are any."""
        self._undecided: Counter[int] = Counter(below for index in choosing for below in plan.downstream[index])

    def __contains__(self, index: int) -> bool:
        """Tell whether a task has chosen."""
        return index in self._chosen

    def __iter__(self) -> Iterator[int]:
        """Iterate over the tasks that have chosen."""
        return iter(self._chosen)

    def choose(self, index: int, chosen: Iterable[int]) -> None:
        """Note which of its direct downstreams a task has chosen."""
        self._chosen[index] = frozenset(chosen)

    def ended(self, index: int) -> None:
        """Note that a task has ended, whether it chose or not."""
        if self.has_branches and self._plan.tasks[index].kind in CHOOSING_KINDS:
            self._undecided.subtract(self._plan.downstream[index])

    def is_awaited(self, index: int) -> bool:
        """Return whether a branch directly above may still leave a task out.

        Until then its trigger rule has no say, or it would depend on time whether it is skipped.
        """
        return self._undecided.get(index, 0) > 0

    def left_out(self, index: int, resting: Sequence[int]) -> list[int]:
        """Return those tasks that a branch has not chosen, and that nothing it has chosen leads to; O(edges on the way).

        Args:
            index: the branch.
            resting: its direct downstreams that have not started, ascending.
        """
        chosen = self._chosen[index]
        others = [each for each in resting if each not in chosen]
        followed = self._below(chosen, others[-1]) if others else set[int]()
        return [each for each in others if each not in followed]

    def _below(self, chosen: frozenset[int], last: int) -> set[int]:
        """Return all that is downstream of tasks, up to a topological index."""
        seen: set[int] = set()
        pending = list(chosen)
        while pending:
            for below in self._plan.downstream[pending.pop()]:
                if below <= last and below not in seen:
                    seen.add(below)
                    pending.append(below)
        return seen
