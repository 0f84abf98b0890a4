"""What a branch or short-circuit chose: which of its direct downstreams are followed, and the value it hands on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagrelay.dag.plan import TaskKind
from dagrelay.dag.references import NamedTask
from dagrelay.dag.task import several
from dagrelay.errors import BranchError

if TYPE_CHECKING:
    from dagrelay.dag.plan import Plan, PlannedTask

__all__ = ("choose",)

_LONGEST_SHOWN = 200


def choose(plan: Plan, task: PlannedTask, value: Any) -> tuple[tuple[str, ...], Any]:
    """Return the ids of the downstreams that a handler's value chooses, and the value to hand on.

    Raises:
        BranchError: it names something else than tasks directly downstream.
    """
    below = [plan.task_ids[index] for index in plan.downstream[task.index]]
    if task.kind is TaskKind.SHORT_CIRCUIT:
        return (tuple(below) if value else (), bool(value))
    chosen = () if value is None else several(value)
    follows = dict.fromkeys(_id(plan, task, each, below) for each in chosen)
    return tuple(follows), list(follows)


def _id(plan: Plan, task: PlannedTask, each: Any, below: list[str]) -> str:
    task_id = each.id if isinstance(each, NamedTask) else each
    if not isinstance(task_id, str) or task_id not in below or (isinstance(each, NamedTask) and not _is_of(plan, each)):
        shown = repr(each)
        raise BranchError(task.task_id, shown[:_LONGEST_SHOWN], below)
    return task_id


def _is_of(plan: Plan, task: NamedTask) -> bool:
    return getattr(task.owner, "dag_id", None) == plan.dag_id
