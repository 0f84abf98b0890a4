"""Random DAGs, what their tasks do, and an oracle that says how each must end, whatever the order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
from hypothesis import strategies as st

from dagrelay import TaskState, TriggerRule

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("ENDINGS", "TIMELESS", "Shape", "predict", "shapes")

S = TaskState
R = TriggerRule

ENDINGS: Final = (S.SUCCESS, S.SUCCESS, S.SUCCESS, S.FAILED, S.SKIPPED)
"""How a task that runs ends; most succeed."""
TIMELESS: Final = tuple(rule for rule in R if rule is not R.ALWAYS)
"""Rules of tasks whose upstreams have all that is needed to decide; `always` asks for nothing."""

_FAILED: Final = frozenset({S.FAILED, S.UPSTREAM_FAILED})


@attrs.frozen
class Shape:
    """A DAG of tasks t0, t1, ...: its edges, rules, and how each task would end if it ran."""

    upstream: tuple[tuple[int, ...], ...]
    """For each task its direct upstreams, all with lower numbers."""
    rules: tuple[TriggerRule, ...]
    """For each task its trigger rule."""
    endings: tuple[TaskState, ...]
    """For each task how it ends if it runs."""
    failures: tuple[int, ...]
    """For each task how many attempts fail before the one that ends it."""

    def __len__(self) -> int:
        """Return how many tasks there are."""
        return len(self.upstream)


@st.composite
def shapes(draw: st.DrawFn, *, max_tasks: int = 12) -> Shape:
    """Return random DAGs."""
    count = draw(st.integers(0, max_tasks))
    upstream = [tuple(sorted(draw(st.sets(st.integers(0, number - 1), max_size=4)))) if number else () for number in range(count)]
    some = st.lists(st.sampled_from([R.ALL_SUCCESS, R.ALL_SUCCESS, *R]), min_size=count, max_size=count)
    endings = st.lists(st.sampled_from(ENDINGS), min_size=count, max_size=count)
    failures = st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=count, max_size=count)
    return Shape(tuple(upstream), tuple(draw(some)), tuple(draw(endings)), tuple(draw(failures)))


def predict(shape: Shape) -> tuple[TaskState, ...]:
    """Return each task's final state, judged on all of its upstreams' final states, as Airflow's documentation has it."""
    states: list[TaskState] = []
    for above, rule, ending in zip(shape.upstream, shape.rules, shape.endings, strict=True):
        states.append(_final(rule, [states[number] for number in above], ending))
    return tuple(states)


def _final(rule: TriggerRule, above: Sequence[TaskState], ending: TaskState) -> TaskState:
    if not above:
        return ending
    succeeded = [state is S.SUCCESS for state in above]
    failed = [state in _FAILED for state in above]
    skipped = [state is S.SKIPPED for state in above]
    # What the rule asks for; whether a failure, where it is not met, is passed on; else the task is skipped.
    is_met, passes_on = {
        R.ALL_SUCCESS: (all(succeeded), True),
        R.ALL_FAILED: (all(failed), False),
        R.ALL_DONE: (True, False),
        R.ONE_SUCCESS: (any(succeeded), True),
        R.ONE_FAILED: (any(failed), False),
        R.ONE_DONE: (any(state in {S.SUCCESS, S.FAILED} for state in above), False),
        R.NONE_FAILED: (not any(failed), True),
        R.NONE_SKIPPED: (not any(skipped), False),
        R.NONE_FAILED_MIN_ONE_SUCCESS: (not any(failed) and any(succeeded), True),
        R.ALL_SKIPPED: (all(skipped), False),
        R.ALWAYS: (True, False),
    }[rule]
    if is_met:
        return ending
    return S.UPSTREAM_FAILED if passes_on and any(failed) else S.SKIPPED
