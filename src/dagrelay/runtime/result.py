"""What came of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs

from dagrelay.dag.task import Task
from dagrelay.errors import (
    RunCancelledError,
    RunFailedError,
    RunInterruptedError,
    TaskFailedError,
    TaskNotFoundError,
    XComNotFoundError,
    XComTypeError,
)
from dagrelay.model.missing import MISSING
from dagrelay.model.records import ErrorRecord, InstanceKey, TaskInstance, from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.runtime.launching import task_ends, task_states
from dagrelay.runtime.leftovers import shown_state
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import RETURN_VALUE
from dagrelay.xcom.cache import Resident

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dagrelay.dag.plan import Plan
    from dagrelay.runtime.run_facts import TaskEnd
    from dagrelay.runtime.scheduler import Scheduler
    from dagrelay.runtime.services import Services
    from dagrelay.stores.base import RunImage
    from dagrelay.xcom.cache import Encoded
    from dagrelay.xcom.door import Door
    from dagrelay.xcom.reading import Reader

__all__ = ("RunResult", "TaskTable", "conclude", "result_of_image", "result_of_scheduler")

R = TypeVar("R")
D = TypeVar("D")


class TaskTable(Mapping[str, TaskInstance]):
    """A run's tasks by id, in topological order; the records are made as they are asked for."""

    def __init__(
        self, run_id: str, run_state: RunState, plan: Plan, states: Sequence[TaskState], ends: Mapping[int, TaskEnd]
    ) -> None:
        """Take where the tasks stand, by topological index."""
        self._run_id = run_id
        self._run_state = run_state
        self._plan = plan
        self._states = states
        self._ends = ends

    def __getitem__(self, task: str | Task[Any]) -> TaskInstance:
        """Return a task's record; KeyError if the DAG has no such task."""
        index = self._plan.index[task if isinstance(task, str) else task.id]
        end = self._ends.get(index)
        return TaskInstance(
            run_id=self._run_id,
            task_id=self._plan.tasks[index].task_id,
            state=shown_state(self._run_state, self._states[index]),
            attempt=0 if end is None else end.attempt,
            started_at=None if end is None or end.started_us is None else from_us(end.started_us),
            ended_at=None if end is None or end.ended_us is None else from_us(end.ended_us),
            error=None if end is None else end.error,
        )

    def __iter__(self) -> Iterator[str]:
        """Iterate over task ids."""
        return iter(self._plan.index)

    def __len__(self) -> int:
        """Return how many tasks there are."""
        return len(self._plan.tasks)


@attrs.frozen(kw_only=True, eq=False)
class RunResult:
    """What came of a run: its state, its tasks, and the values of its leaves.

    `result[task]` is the value a leaf task returned, typed by its handler's return annotation; `await result.pull(task)` that of
    any task, for as long as the runtime is open.
    """

    run_id: str
    """The run."""
    dag_id: str
    """The DAG."""
    state: RunState
    """How it ended."""
    params: Mapping[str, Any]
    """Its params, the DAG's defaults included."""
    started_at: datetime
    """When it was recorded (aware UTC)."""
    ended_at: datetime | None
    """When it ended (aware UTC)."""
    tasks: Mapping[str, TaskInstance]
    """Its tasks by id, in topological order."""
    errors: Mapping[str, TaskFailedError]
    """The errors of failed tasks by task id, and of failed elements of mapped ones by `id[map index]`."""
    _plan: Plan = attrs.field(alias="plan", repr=False)
    _leaves: Mapping[int, Encoded] = attrs.field(alias="leaves", repr=False)
    _mapped_leaves: Mapping[int, Sequence[Encoded | None]] = attrs.field(alias="mapped_leaves", repr=False)
    _lengths: Mapping[int, int] = attrs.field(alias="lengths", repr=False)
    _door: Door = attrs.field(alias="door", repr=False)
    _reader: Reader = attrs.field(alias="reader", repr=False)

    @overload
    def __getitem__(self, task: Task[R]) -> R: ...
    @overload
    def __getitem__(self, task: str) -> Any: ...
    def __getitem__(self, task: Task[Any] | str) -> Any:
        """Return the value of a leaf task, a fresh copy for each call.

        Raises:
            XComNotFoundError: the task did not succeed, or pushes no return value.
            TaskNotFoundError: the DAG has no such task.
            LookupError: the task is no leaf; `await result.pull(task)` reads it.
        """
        index = self._single(task)
        found = self._leaves.get(index)
        if found is None:
            if self._plan.downstream[index]:
                task_id = self._plan.tasks[index].task_id
                raise LookupError(f"task {task_id!r} is no leaf of the DAG; use `await result.pull({task_id!r})`")
            raise self._not_found(index)
        return self._decode(index, found, task)

    @overload
    async def pull(self, task: Task[R]) -> R: ...
    @overload
    async def pull(self, task: str, key: str = ...) -> Any: ...
    async def pull(self, task: Task[Any] | str, key: str = RETURN_VALUE) -> Any:
        """Return the value of any task of the run, read from the store.

        Raises:
            XComNotFoundError: the task did not succeed, or pushed nothing under the key.
            RuntimeClosedError: the runtime has been left.

        Cancellation: nothing is left behind.
        """
        index = self._single(task)
        instance = InstanceKey(self.run_id, self._plan.tasks[index].task_id, None)
        (found,) = await self._reader.lookup([Lookup(instance=instance, key=key)])
        if found is None:
            raise self._not_found(index, key)
        return self._decode(index, Resident(found.value, found.serializer), task if key == RETURN_VALUE else "")

    @overload
    def outputs(self, task: Task[R]) -> list[R]: ...
    @overload
    def outputs(self, task: Task[R], *, default: D) -> list[R | D]: ...
    @overload
    def outputs(self, task: str, *, default: Any = ...) -> list[Any]: ...
    def outputs(self, task: Task[Any] | str, *, default: Any = MISSING) -> list[Any]:
        """Return the values of a mapped leaf task as a list by map index, fresh copies for each call.

        Args:
            task: the task.
            default: what stands in the place of an element that did not succeed.

        Raises:
            XComNotFoundError: an element did not succeed, and there is no default; or the task was never expanded.
            TaskNotFoundError: the DAG has no such task.
            XComTypeError: the task is not mapped.
            LookupError: the task is no leaf; `await result.pull_outputs(task)` reads it.
        """
        index = self._mapped(task)
        task_id = self._plan.task_ids[index]
        if self._plan.downstream[index]:
            raise LookupError(f"task {task_id!r} is no leaf of the DAG; use `await result.pull_outputs({task_id!r})`")
        return self._listed(index, self._mapped_leaves.get(index), task, default)

    @overload
    async def pull_outputs(self, task: Task[R]) -> list[R]: ...
    @overload
    async def pull_outputs(self, task: Task[R], *, default: D) -> list[R | D]: ...
    @overload
    async def pull_outputs(self, task: str, *, default: Any = ...) -> list[Any]: ...
    async def pull_outputs(self, task: Task[Any] | str, *, default: Any = MISSING) -> list[Any]:
        """Return the values of any mapped task of the run as a list by map index, read from the store in one go.

        Raises:
            XComNotFoundError: as for `outputs`.
            RuntimeClosedError: the runtime has been left.

        Cancellation: nothing is left behind.
        """
        index = self._mapped(task)
        length = self._lengths.get(index)
        found = None
        if length is not None:
            lookups = [Lookup(instance=each, key=RETURN_VALUE) for each in _elements(self.run_id, self._plan, index, length)]
            stored = await self._reader.lookup(lookups) if lookups else []
            found = [None if each is None else Resident(each.value, each.serializer) for each in stored]
        return self._listed(index, found, task, default)

    def _listed(self, index: int, found: Sequence[Encoded | None] | None, task: Task[Any] | str, default: Any) -> list[Any]:
        if found is None:
            if default is MISSING:
                raise self._not_found(index)
            return []
        values: list[Any] = []
        for map_index, each in enumerate(found):
            if each is None and default is MISSING:
                raise XComNotFoundError(self.run_id, self._plan.task_ids[index], RETURN_VALUE, map_index=map_index)
            values.append(default if each is None else self._decode(index, each, task))
        return values

    def _single(self, task: Task[Any] | str) -> int:
        index = self._index(task)
        if self._plan.tasks[index].expansion is not None:
            task_id = self._plan.task_ids[index]
            raise XComTypeError(f"task {task_id!r} is mapped and has a list of outputs; use result.outputs()", path="")
        return index

    def _mapped(self, task: Task[Any] | str) -> int:
        index = self._index(task)
        if self._plan.tasks[index].expansion is None:
            task_id = self._plan.task_ids[index]
            raise XComTypeError(f"task {task_id!r} is not mapped and has no list of outputs; use result[...]", path="")
        return index

    def _decode(self, index: int, found: Encoded, task: Task[Any] | str) -> Any:
        as_type = self._plan.tasks[index].return_type if isinstance(task, Task) else MISSING
        return self._door.decode(found.serializer, found.value, as_type)

    def _index(self, task: Task[Any] | str) -> int:
        task_id = task if isinstance(task, str) else task.id
        index = self._plan.index.get(task_id)
        if index is None:
            raise TaskNotFoundError(self.dag_id, task_id, get_close_matches(task_id, self._plan.task_ids))
        return index

    def _not_found(self, index: int, key: str = RETURN_VALUE) -> XComNotFoundError:
        task_id = self._plan.tasks[index].task_id
        return XComNotFoundError(self.run_id, task_id, key, state=self.tasks[task_id].state)


def _task_error(
    task_id: str, attempt: int, record: ErrorRecord | None, cause: BaseException | None, *, map_index: int | None = None
) -> TaskFailedError:
    reason = record or ErrorRecord(type="Unknown", message="no reason was recorded")
    error = TaskFailedError(task_id, attempt=attempt, reason=str(reason), map_index=map_index)
    error.__cause__ = cause
    return error


def _errors_of_scheduler(scheduler: Scheduler) -> dict[str, TaskFailedError]:
    """Return an error for each failed task, by id in topological order, with its cause where it happened in this process."""
    plan, machine, errors = scheduler.facts.data.plan, scheduler.machine, dict[str, TaskFailedError]()
    for index, state in enumerate(machine.states[: len(plan.tasks)]):
        if state is not TaskState.FAILED:
            continue
        task_id, end = plan.task_ids[index], scheduler.ends[index]
        for map_index in range(machine.lengths.get(index, 0)):
            if machine.element_state(index, map_index) is TaskState.FAILED:
                element, cause = scheduler.element_end(index, map_index)
                error = _task_error(task_id, element.attempt, element.error, cause, map_index=map_index)
                errors[_named(task_id, map_index)] = error
        if end.error is not None or index not in machine.lengths:
            errors[task_id] = _task_error(task_id, end.attempt, end.error, scheduler.causes.get(index))
    return errors


def _errors_of_image(image: RunImage) -> dict[str, TaskFailedError]:
    """Return an error for each failed task that is stored, by id: the plan at hand may be another."""
    errors: dict[str, TaskFailedError] = {}
    for each in image.instances:
        _, task_id, map_index = each.instance
        is_of_elements = each.length is not None and each.error is None
        if each.state is TaskState.FAILED and not is_of_elements:
            errors[_named(task_id, map_index)] = _task_error(task_id, each.attempt, each.error, None, map_index=map_index)
    return errors


def _named(task_id: str, map_index: int | None) -> str:
    return task_id if map_index is None else f"{task_id}[{map_index}]"


def _elements(run_id: str, plan: Plan, index: int, length: int) -> list[InstanceKey]:
    return [InstanceKey(run_id, plan.task_ids[index], map_index) for map_index in range(length)]


async def result_of_scheduler(services: Services, scheduler: Scheduler) -> RunResult:
    """Return the result of a run that ended in this process.

    Cancellation: nothing is left behind.
    """
    data, plan = scheduler.facts.data, scheduler.facts.data.plan
    states, ends = scheduler.machine.states, scheduler.ends
    lengths, slots_seen = scheduler.machine.lengths, data.book.slots_seen
    instances = [_instance(scheduler.run_id, plan, index) for index in plan.leaves]
    mapped = {index: data.elements_of(index) for index in plan.leaves if index in lengths}
    instances += [element for elements in mapped.values() for element in elements]
    wanted = [Lookup(instance=instance, key=RETURN_VALUE, slots=slots_seen(instance)) for instance in instances]
    found = await data.broker.find(wanted)
    return RunResult(
        run_id=scheduler.run_id,
        dag_id=plan.dag_id,
        state=scheduler.state,
        params=scheduler.facts.params,
        started_at=from_us(scheduler.facts.started_us),
        ended_at=None if scheduler.ended_us is None else from_us(scheduler.ended_us),
        tasks=TaskTable(scheduler.run_id, scheduler.state, plan, states, ends),
        errors=_errors_of_scheduler(scheduler),
        plan=plan,
        leaves=_present(plan, states, found[: len(plan.leaves)]),
        mapped_leaves=_by_task({index: len(elements) for index, elements in mapped.items()}, found[len(plan.leaves) :]),
        lengths=lengths,
        door=services.door,
        reader=services.broker.reader,
    )


async def result_of_image(services: Services, plan: Plan, image: RunImage) -> RunResult:
    """Return the result of a run that ended before, from what is stored.

    Cancellation: nothing is left behind.
    """
    run = image.stored.run
    states, ends = task_states(plan, image.instances), task_ends(plan, image.instances)
    lengths = {
        plan.index[each.instance.task_id]: each.length
        for each in image.instances
        if each.length is not None and each.instance.task_id in plan.index
    }
    mapped = {index: lengths[index] for index in plan.leaves if index in lengths}
    instances = [_instance(run.run_id, plan, index) for index in plan.leaves]
    instances += [each for index, length in mapped.items() for each in _elements(run.run_id, plan, index, length)]
    lookups = [Lookup(instance=instance, key=RETURN_VALUE) for instance in instances]
    stored = await services.broker.reader.lookup(lookups) if lookups else []
    found = [None if entry is None else Resident(entry.value, entry.serializer) for entry in stored]
    return RunResult(
        run_id=run.run_id,
        dag_id=plan.dag_id,
        state=run.state,
        params=run.params,
        started_at=run.created_at,
        ended_at=run.ended_at,
        tasks=TaskTable(run.run_id, run.state, plan, states, ends),
        errors=_errors_of_image(image),
        plan=plan,
        leaves=_present(plan, states, found[: len(plan.leaves)]),
        mapped_leaves=_by_task(mapped, found[len(plan.leaves) :]),
        lengths=lengths,
        door=services.door,
        reader=services.broker.reader,
    )


def _present(plan: Plan, states: Sequence[TaskState], found: Sequence[Encoded | None]) -> dict[int, Encoded]:
    return {
        index: value
        for index, value in zip(plan.leaves, found, strict=True)
        if value is not None and states[index] is TaskState.SUCCESS
    }


def _by_task(lengths: Mapping[int, int], found: Sequence[Encoded | None]) -> dict[int, Sequence[Encoded | None]]:
    """Return values that were found one task after another by topological index."""
    values = iter(found)
    return {index: list(islice(values, length)) for index, length in lengths.items()}


def _instance(run_id: str, plan: Plan, index: int) -> InstanceKey:
    return InstanceKey(run_id, plan.task_ids[index], None)


def conclude(result: RunResult, failure: BaseException | None, *, raise_on_failure: bool) -> RunResult:
    """Return a result, or raise what the run's end means to whoever awaited it.

    Args:
        result: what came of the run.
        failure: what stopped it: a store's fault, or a KeyboardInterrupt.
        raise_on_failure: whether a failed run raises.

    Raises:
        RunFailedError: it failed.
        RunCancelledError: it was cancelled.
        RunInterruptedError: it was interrupted without a failure to raise.
    """
    if result.state is RunState.CANCELLED:
        raise RunCancelledError(result.run_id)
    if result.state is RunState.INTERRUPTED or failure is not None:
        raise failure if failure is not None else RunInterruptedError(result.run_id)
    if result.state is RunState.FAILED and raise_on_failure:
        message = f"run {result.run_id!r} of DAG {result.dag_id!r} failed"
        raise RunFailedError(message, list(result.errors.values()), run_id=result.run_id, result=result)
    return result
