"""How a run ended, judged on its leaves, so that a clean-up task masks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagrelay.model.states import RunState, TaskState, TriggerRule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.dag.plan import Plan

__all__ = ("deciding_tasks", "run_outcome")

_BAD: Final = frozenset({TaskState.FAILED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED})
_CLEAN_UP: Final = frozenset({TriggerRule.ALL_DONE, TriggerRule.ALWAYS})


def run_outcome(plan: Plan, states: Sequence[TaskState]) -> RunState:
    """Return `failed` if a task that decides the run failed or is upstream_failed, else `success`.

    Cost: O(tasks + edges).
    """
    return RunState.FAILED if any(states[index] in _BAD for index in deciding_tasks(plan, states)) else RunState.SUCCESS


def deciding_tasks(plan: Plan, states: Sequence[TaskState]) -> list[int]:
    """Return the tasks whose states decide the run's: its leaves.

    A leaf with the rule all_done or always that succeeded is replaced by its direct upstreams, by the same rule upwards: it ran
    whatever they did, so its success says nothing of them.
    """
    deciding: list[int] = []
    seen = set(plan.leaves)
    pending = list(plan.leaves)
    while pending:
        index = pending.pop()
        task = plan.tasks[index]
        if states[index] is TaskState.SUCCESS and task.trigger_rule in _CLEAN_UP and task.upstream:
            fresh = [upstream for upstream in task.upstream if upstream not in seen]
            seen.update(fresh)
            pending.extend(fresh)
        else:
            deciding.append(index)
    return sorted(deciding)
