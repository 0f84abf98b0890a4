"""Giving a value to a task that waits for one from outside; it may be running, have yet to start, or be of a run at rest."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import attrs

from dagrelay.dag.plan import OUTSIDE_KINDS, TaskKind
from dagrelay.errors import RunStateError, StoreReadOnlyError, TaskNotFoundError
from dagrelay.ids import check_run_id, check_task_id
from dagrelay.model.missing import MISSING
from dagrelay.model.records import Approval, InstanceKey
from dagrelay.runtime.history import unknown_run
from dagrelay.stores.operations import RETURN_VALUE, Provide
from dagrelay.stores.plans import stored_tasks

if TYPE_CHECKING:
    from dagrelay.dag.plan import Plan
    from dagrelay.runtime.services import Services

__all__ = ("provide",)


async def provide(
    services: Services, run_id: str, task_id: str, value: Any, *, plan: Plan | None, message_id: str | None = None
) -> None:
    """Store a value for a task whose value comes from outside; it is on disk when this returns.

    Args:
        services: the runtime's.
        run_id: the run.
        task_id: the task.
        value: the value.
        plan: the run's plan if it runs here, whose type the value must then be of; else only an approval's is known.
        message_id: the message this carries out.

    Raises:
        RunNotFoundError: there is no such run.
        TaskNotFoundError: it has no such task.
        RunStateError: the task's value does not come from outside.
        XComConflictError: it has ended, or was given one already.
        XComTypeError: the value is not of the task's type.
        XComSerializationError: it can't be stored exactly.
        StoreCorruptError: the stored plan is none.

    Cancellation: once the call has begun to wait, the value may be stored all the same.
    """
    run_id, task_id = check_run_id(run_id), check_task_id(task_id)
    draft = services.door.draft(RETURN_VALUE, value)
    if services.store.is_read_only:
        raise StoreReadOnlyError(services.store.name)
    as_type = await _type_of(services, run_id, task_id, plan)
    services.door.decode(draft.serializer, draft.value, as_type)
    book = await services.broker.book(run_id)
    operation = Provide(
        instance=InstanceKey(run_id, task_id), entry=attrs.evolve(draft, seq=book.next_seq()), message_id=message_id
    )
    with book.waiting.giving(operation.instance):
        await services.broker.write(operation, book)


async def _type_of(services: Services, run_id: str, task_id: str, plan: Plan | None) -> Any:
    """Return what a task's value must be, as far as that is known."""
    if plan is not None:
        index = plan.index.get(task_id)
        if index is None:
            raise TaskNotFoundError(plan.dag_id, task_id, get_close_matches(task_id, plan.task_ids))
        _check_kind(run_id, task_id, plan.tasks[index].kind, "running")
        return plan.tasks[index].return_type
    image = await services.store.load_run(run_id)
    if image is None:
        raise await unknown_run(services.store, run_id)
    kinds = {known_id: kind for known_id, kind, _ in stored_tasks(services.store.name, image)}
    if task_id not in kinds:
        raise TaskNotFoundError(image.stored.run.dag_id, task_id, get_close_matches(task_id, kinds))
    _check_kind(run_id, task_id, kinds[task_id], image.stored.run.state)
    return Approval if kinds[task_id] is TaskKind.APPROVAL else MISSING


def _check_kind(run_id: str, task_id: str, kind: TaskKind, state: str) -> None:
    if kind not in OUTSIDE_KINDS:
        raise RunStateError(run_id, state, f"task {task_id!r} has a handler, and takes no value from outside")
