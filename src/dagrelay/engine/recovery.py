"""Going on with a recorded run: what of it still holds under the DAG given, and what a retry clears."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.dag.plan import parse_body
from dagrelay.errors import DAGChangedError
from dagrelay.model.states import ENDED_TASK_STATES, TaskState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagrelay.dag.plan import Plan
    from dagrelay.engine.protocol import TaskProgress
    from dagrelay.model.records import InstanceKey

__all__ = ("check_unchanged", "downstream_closure", "place_progress")


def check_unchanged(run_id: str, stored_body: bytes, plan: Plan, states: Mapping[str, TaskState]) -> None:
    """Refuse to go on with a plan in which a finished task vanished or was rewired.

    New tasks, unfinished ones however changed, and edited handlers, templates and options simply apply. A task given a new
    upstream counts as rewired: its recorded outcome did not depend on it.

    Args:
        run_id: the run, for the message.
        stored_body: the plan it was last run with, as `Plan.body` had it.
        plan: the plan to go on with.
        states: recorded states by task id.

    Raises:
        DAGChangedError: listing what changed.
    """
    changes: list[str] = []
    for task_id, kind, upstream in parse_body(stored_body):
        if states.get(task_id, TaskState.PENDING) not in ENDED_TASK_STATES:
            continue
        index = plan.index.get(task_id)
        if index is None:
            changes.append(f"finished task {task_id!r} is gone")
            continue
        task = plan.tasks[index]
        if task.kind is not kind:
            changes.append(f"finished task {task_id!r} was {kind!s} and is {task.kind!s}")
        now = {plan.tasks[i].task_id for i in task.upstream}
        if now != set(upstream):
            added = ", ".join(sorted(now - set(upstream)))
            lost = ", ".join(sorted(set(upstream) - now))
            detail = "; ".join(
                text for text in (f"new upstream {added}" if added else "", f"without {lost}" if lost else "") if text
            )
            changes.append(f"finished task {task_id!r} was rewired ({detail})")
    if changes:
        raise DAGChangedError(run_id, changes)


def place_progress(
    plan: Plan, known: Mapping[InstanceKey, TaskProgress]
) -> tuple[dict[int, TaskProgress], dict[int, dict[int, TaskProgress]]]:
    """Return recorded progress of tasks by topological index, and of elements by that and map index.

    What the plan no longer has is left out. Cleared elements are there too, as their attempt numbers go on.
    """
    tasks: dict[int, TaskProgress] = {}
    elements: dict[int, dict[int, TaskProgress]] = {}
    for (_, task_id, map_index), progress in known.items():
        index = plan.index.get(task_id)
        if index is None:
            continue
        if map_index is None:
            tasks[index] = progress
        else:
            elements.setdefault(index, {})[map_index] = progress
    return tasks, elements


def downstream_closure(plan: Plan, index: int) -> list[int]:
    """Return a task and all that is downstream of it or follows it, in topological order; O(edges).

    What a task that follows another one by `after_start` has read of its stream is no more there once that runs again.
    """
    seen = {index}
    pending = [index]
    while pending:
        above = pending.pop()
        for below in (*plan.downstream[above], *plan.followers.get(above, ())):
            if below not in seen:
                seen.add(below)
                pending.append(below)
    return sorted(seen)
