"""Bringing runs to life: a new one recorded, or a stored one taken up again, each as a scheduler ready to run."""

from __future__ import annotations

import json
from contextvars import copy_context
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

from dagrelay.dag.params import check_param_types
from dagrelay.dag.plan import OUTSIDE_KINDS
from dagrelay.engine.machine import RunMachine
from dagrelay.engine.protocol import TaskProgress
from dagrelay.engine.recovery import check_unchanged, downstream_closure, place_progress
from dagrelay.errors import DAGChangedError, RunIdConflictError, RunNotFoundError, StoreCorruptError
from dagrelay.model.policies import Durability
from dagrelay.model.records import InstanceKey, to_us
from dagrelay.model.states import LIVE_TASK_STATES, RunState, TaskState
from dagrelay.runtime.leftovers import forget_given, settle
from dagrelay.runtime.run_facts import RunFacts, TaskEnd
from dagrelay.runtime.scheduler import Scheduler
from dagrelay.stores.operations import CreateRun, ReopenRun, SetRunState, StoredPlan
from dagrelay.xcom.run_data import RunData

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from dagrelay.dag.plan import Plan
    from dagrelay.runtime.services import Services
    from dagrelay.stores.base import RunImage, StoredInstance, StoredRun
    from dagrelay.xcom.book import RunBook

__all__ = (
    "Launch",
    "check_plan",
    "check_same_run",
    "create",
    "element_ends_of",
    "go_on",
    "reopen",
    "stored_plan",
    "task_ends",
    "task_states",
)


@attrs.frozen(kw_only=True)
class Launch:
    """A run that was started, joined, or found ended."""

    run_id: str
    """The run."""
    plan: Plan
    """The plan it was asked for with."""
    scheduler: Scheduler | None
    """What runs it here; None if it has ended before."""
    is_owner: bool
    """Whether whoever asked started it, so that its cancellation interrupts the run."""


async def create(services: Services, plan: Plan, params: Mapping[str, Any], *, run_id: str, is_new: bool) -> Scheduler:
    """Record a new run and return its scheduler.

    Raises:
        RunIdConflictError: the id is taken.
        DAGValidationError: a param is not of the type that a task asks for.

    Cancellation: the run may be recorded all the same, as running, and is found interrupted later.
    """
    encoded = services.door.params(params)
    plain: dict[str, Any] = json.loads(encoded)
    check_param_types(plan, plain)
    book = await services.broker.book(run_id, is_new=is_new)
    book.dag_id = plan.dag_id
    created_us = services.environment.now_us()
    operation = CreateRun(
        run_id=run_id,
        dag_id=plan.dag_id,
        params=encoded,
        tags=plan.tags,
        plan=stored_plan(plan),
        created_us=created_us,
        seq=book.next_seq(),
    )
    await services.broker.write(operation, book)
    machine = RunMachine(plan, max_interruptions=services.limits.max_interruptions)
    return _scheduler(services, book, machine, ends={}, element_ends={}, params=plain, created_us=created_us)


async def reopen(
    services: Services, plan: Plan, image: RunImage, *, clear_from: str | None = None, message_id: str | None = None
) -> Scheduler:
    """Take a stored run up again with a plan and return its scheduler.

    Args:
        services: the runtime's.
        plan: the plan to go on with.
        image: the run as stored.
        clear_from: a task id of the plan to run again, with everything downstream of it.
        message_id: the message from another process that this carries out, recorded in the same transaction.

    Raises:
        DAGChangedError: a finished task vanished or was rewired.
        StoreCorruptError: the stored plan is none.

    Cancellation: the run may be recorded as running all the same, and is found interrupted later.
    """
    run = image.stored.run
    cleared = _instances_to_clear(plan, image, clear_from)
    check_plan(services, plan, image, cleared)
    book = await services.broker.book(run.run_id)
    book.dag_id = plan.dag_id
    # A scheduler of this process may not have been able to record what ended, as the store failed.
    image = settle(services, book, image, TaskState.INTERRUPTED)
    at_us = services.environment.now_us()
    if run.state is RunState.RUNNING:
        stop = SetRunState(run_id=run.run_id, state=RunState.INTERRUPTED, at_us=at_us, seq=book.next_seq())
        await services.broker.write(stop, book)
    operation = ReopenRun(
        run_id=run.run_id,
        plan=None if image.plan.fingerprint == plan.fingerprint else stored_plan(plan),
        clear=tuple(cleared),
        at_us=at_us,
        seq=book.next_seq(1 + len(cleared)),
        message_id=message_id,
    )
    outside = {task.task_id for task in plan.tasks if task.kind in OUTSIDE_KINDS}
    await services.broker.write(operation, book, then=forget_given(book, image, cleared, outside, at_us=at_us))
    return go_on(services, plan, book, image, cleared)


def go_on(services: Services, plan: Plan, book: RunBook, image: RunImage, cleared: Container[InstanceKey]) -> Scheduler:
    """Return the scheduler of a run that is recorded as running, with what it has come to.

    Args:
        services: the runtime's.
        plan: the plan to go on with.
        book: the run's page.
        image: the run as stored, before some of it was cleared.
        cleared: the instances that were.
    """
    run = image.stored.run
    for each in image.instances:
        if each.instance in cleared:
            continue
        if each.state is TaskState.SUCCESS:
            book.note_success(each.instance, each.attempt)
        elif each.state is TaskState.FAILED:
            book.note_failure(each.instance, each.attempt)
    # A whole that was cancelled and runs again keeps its length, as long as it has elements that ended and hold.
    kept = [each.instance for each in image.instances if each.instance not in cleared]
    held = {instance.task_id for instance in kept if instance.map_index is not None}
    known = {each.instance: _progress(plan, each, image, cleared, held) for each in image.instances}
    progress, elements = place_progress(plan, known)
    machine = RunMachine(plan, progress=progress, elements=elements, max_interruptions=services.limits.max_interruptions)
    params = {**plan.params, **json.loads(image.stored.params)}
    created_us = to_us(run.created_at)
    ends = {
        index: end._replace(error=None) if InstanceKey(run.run_id, plan.task_ids[index]) in cleared else end
        for index, end in task_ends(plan, image.instances).items()
    }
    element_ends = element_ends_of(plan, image.instances)
    return _scheduler(
        services,
        book,
        machine,
        ends=ends,
        element_ends=element_ends,
        params=params,
        created_us=created_us,
        is_fork=run.forked_from is not None,
    )


def check_plan(services: Services, plan: Plan, image: RunImage, cleared: Container[InstanceKey]) -> None:
    """Check that a stored run, without what is cleared of it, can go on with a plan.

    Raises:
        DAGChangedError: a finished task vanished or was rewired.
        StoreCorruptError: the stored plan is none.
    """
    run_id = image.stored.run.run_id
    states = {
        each.instance.task_id: each.state
        for each in image.instances
        if each.instance.map_index is None and each.instance not in cleared
    }
    try:
        check_unchanged(run_id, image.plan.body, plan, states)
    except DAGChangedError:
        raise
    except (LookupError, ValueError, TypeError, RecursionError) as error:
        raise StoreCorruptError(services.store.name, f"the plan of run {run_id!r} can't be understood: {error!r}") from error


def _scheduler(
    services: Services,
    book: RunBook,
    machine: RunMachine,
    *,
    ends: dict[int, TaskEnd],
    element_ends: Mapping[int, Mapping[int, TaskEnd]],
    params: Mapping[str, Any],
    created_us: int,
    is_fork: bool = False,
) -> Scheduler:
    data = RunData(
        plan=machine.plan,
        book=book,
        broker=services.broker,
        store=services.store,
        door=services.door,
        states=machine.states,
        element_state=machine.element_state,
        lengths=machine.lengths,
        lineage_mark=book.run_id if is_fork else None,
    )
    facts = RunFacts(
        data=data,
        params=MappingProxyType(dict(params)),
        started_us=created_us,
        missing=services.missing,
        max_chars=services.limits.max_rendered_chars,
        max_map_length=services.limits.max_map_length,
        context=copy_context(),
        environment=services.environment,
        timers=services.timers,
        threads=services.threads,
    )
    scheduler = Scheduler(
        facts,
        machine,
        ends=ends,
        element_ends=element_ends,
        admission=services.admission,
        hosting=services.hosting,
        retention=services.retention,
    )
    services.broker.enter_run(book, scheduler, is_pipelined=services.durability is Durability.PIPELINED)
    return scheduler


def stored_plan(plan: Plan) -> StoredPlan:
    """Return the part of a plan that is stored."""
    return StoredPlan(fingerprint=plan.fingerprint, body=plan.body, task_ids=plan.task_ids)


def _instances_to_clear(plan: Plan, image: RunImage, clear_from: str | None) -> dict[InstanceKey, None]:
    """Return the stored instances that must run again: cancelled ones, and what was asked for, elements included."""
    again: set[str] = set()
    if clear_from is not None:
        again = {plan.task_ids[index] for index in downstream_closure(plan, plan.index[clear_from])}
    return {
        each.instance: None for each in image.instances if each.state is TaskState.CANCELLED or each.instance.task_id in again
    }


def _progress(
    plan: Plan, each: StoredInstance, image: RunImage, cleared: Container[InstanceKey], held: Container[str]
) -> TaskProgress:
    attempt = max(each.attempt, image.highest_attempts.get(each.instance, 0))
    if each.instance in cleared:
        length = each.length if each.instance.task_id in held else None
        return TaskProgress(state=TaskState.PENDING, attempt=attempt, length=length)
    lost = each.state in LIVE_TASK_STATES
    return TaskProgress(
        state=TaskState.INTERRUPTED if lost else each.state,
        attempt=attempt,
        failures=each.failures,
        interruptions=each.interruptions + lost,
        retry_us=each.retry_us,
        length=each.length,
        follows=None if each.follows is None else tuple(plan.index[name] for name in each.follows if name in plan.index),
    )


def task_states(plan: Plan, instances: Sequence[StoredInstance]) -> list[TaskState]:
    """Return stored states by the plan's topological index."""
    states = [TaskState.PENDING] * len(plan.tasks)
    for each in instances:
        index = plan.index.get(each.instance.task_id)
        if index is not None and each.instance.map_index is None:
            states[index] = each.state
    return states


def task_ends(plan: Plan, instances: Sequence[StoredInstance]) -> dict[int, TaskEnd]:
    """Return how stored attempts ended, by the plan's topological index."""
    return {
        plan.index[each.instance.task_id]: TaskEnd(each.attempt, each.started_us, each.ended_us, each.error)
        for each in instances
        if each.instance.map_index is None and each.instance.task_id in plan.index
    }


def element_ends_of(plan: Plan, instances: Sequence[StoredInstance]) -> dict[int, dict[int, TaskEnd]]:
    """Return how stored attempts of elements ended, by the plan's topological index and the map index."""
    ends: dict[int, dict[int, TaskEnd]] = {}
    for each in instances:
        _, task_id, map_index = each.instance
        if map_index is not None and task_id in plan.index:
            known = ends.setdefault(plan.index[task_id], {})
            known[map_index] = TaskEnd(each.attempt, each.started_us, each.ended_us, each.error)
    return ends


def check_same_run(stored: StoredRun | None, run_id: str, dag_id: str, params: bytes | None) -> StoredRun:
    """Return a stored run if it is the one meant.

    Args:
        stored: what the store has under the id.
        run_id: the id.
        dag_id: the DAG meant.
        params: the params meant, encoded; None for whatever it has.

    Raises:
        RunNotFoundError: there is none.
        RunIdConflictError: it is another DAG's, has other params, or was pruned.
    """
    if stored is None:
        raise RunNotFoundError(run_id)
    if stored.is_pruned:
        raise RunIdConflictError(run_id, "belonged to a run that was pruned or deleted, and is not used twice")
    if stored.run.dag_id != dag_id:
        raise RunIdConflictError(run_id, f"belongs to a run of DAG {stored.run.dag_id!r}, not {dag_id!r}")
    if params is not None and _canonical(params) != _canonical(stored.params):
        raise RunIdConflictError(run_id, "belongs to a run with other params")
    return stored


def _canonical(params: bytes) -> str:
    return json.dumps(json.loads(params), sort_keys=True)
