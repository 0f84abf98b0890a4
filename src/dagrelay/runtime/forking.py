"""A fork: a new run that begins with what the tasks of another one have come to, up to a task that it runs again.

Whatever reads what is run again is run again too: all that is downstream of it, or starts after it. The rest is copied where it
has ended, and runs where it has not.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dagrelay.dag.params import check_param_types, complete_params
from dagrelay.engine.recovery import downstream_closure
from dagrelay.errors import StoreError, TaskNotFoundError
from dagrelay.model.records import FORK_TAG
from dagrelay.model.states import ENDED_TASK_STATES, TaskState
from dagrelay.runtime.launching import check_plan, go_on, stored_plan
from dagrelay.stores.operations import ForkRun

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagrelay.dag.plan import Plan
    from dagrelay.runtime.scheduler import Scheduler
    from dagrelay.runtime.services import Services
    from dagrelay.stores.base import RunImage

__all__ = ("fork", "run_again")

_COPIED_STATES = ENDED_TASK_STATES - {TaskState.CANCELLED}


def run_again(plan: Plan, from_task: str) -> set[int]:
    """Return the topological indices of what a fork runs again whatever the run that it is made of has come to.

    Raises:
        TaskNotFoundError: the DAG has no such task.
    """
    if from_task not in plan.index:
        raise TaskNotFoundError(plan.dag_id, from_task, get_close_matches(from_task, plan.task_ids))
    return set(downstream_closure(plan, plan.index[from_task]))


async def fork(
    services: Services, plan: Plan, image: RunImage, again: set[int], given: Mapping[str, Any], *, run_id: str, is_new: bool
) -> Scheduler:
    """Record a new run with a copy of what another one's tasks have come to, in one transaction, and return its scheduler.

    Args:
        services: the runtime's.
        plan: the plan to go on with.
        image: the run to copy from, as stored.
        again: the tasks of the plan that must not be copied.
        given: params that take the place of that run's.
        run_id: the new run.
        is_new: whether the store can't know that id.

    Raises:
        RunIdConflictError: the id is taken.
        DAGChangedError: a task that would be copied was rewired.
        DAGValidationError: a param is unknown, missing or of the wrong type.

    Cancellation: the run may be recorded all the same, as running, and is found interrupted later.
    """
    source = image.stored.run
    copied = tuple(
        each.instance.task_id
        for each in image.instances
        if each.instance.map_index is None and each.state in _COPIED_STATES and _is_kept(plan, each.instance.task_id, again)
    )
    kept = set(copied)
    check_plan(services, plan, image, {each.instance for each in image.instances if each.instance.task_id not in kept})
    inherited = {name: value for name, value in source.params.items() if name in plan.param_names}
    encoded = services.door.params(complete_params(plan, {**inherited, **given}))
    check_param_types(plan, json.loads(encoded))
    book = await services.broker.book(run_id, is_new=is_new)
    book.dag_id = plan.dag_id
    operation = ForkRun(
        run_id=run_id,
        dag_id=plan.dag_id,
        params=encoded,
        tags=(*plan.tags, f"{FORK_TAG}{source.run_id}"),
        plan=stored_plan(plan),
        created_us=services.environment.now_us(),
        seq=book.next_seq(),
        source_run_id=source.run_id,
        task_ids=copied,
    )
    await services.broker.write(operation, book)
    begun = await services.store.load_run(run_id)
    if begun is None:
        raise StoreError(f"run {run_id!r} was deleted while it began")
    # Only the store knows what the copies weigh, and where their timeline ends.
    book.account.next_seq = max(book.account.next_seq, begun.next_seq)
    book.correct_bytes(begun.stored_bytes)
    return go_on(services, plan, book, begun, {})


def _is_kept(plan: Plan, task_id: str, again: set[int]) -> bool:
    return task_id in plan.index and plan.index[task_id] not in again
