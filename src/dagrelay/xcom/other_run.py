"""A handler's face of the data of another run: `ctx.xcom.of_run(run_id)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs

from dagrelay.dag.definition import DAG
from dagrelay.ids import check_key, check_map_index, check_task_id
from dagrelay.model.missing import MISSING
from dagrelay.model.records import InstanceKey
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import RETURN_VALUE
from dagrelay.xcom.absent import not_found
from dagrelay.xcom.gathering import gather, refuse_single
from dagrelay.xcom.lineage import read_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.dag.task import Task
    from dagrelay.model.records import XComEntry
    from dagrelay.xcom.attempt_facts import AttemptFacts
    from dagrelay.xcom.run_data import RunData

__all__ = ("OtherRun",)

R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")


class OtherRun:
    """What another run of the same store has handed on, of whatever DAG, while it runs or after.

    It sees what everybody outside that run sees: committed values of succeeded attempts, and what was published or came from
    outside. As nothing here waits for that run, what it finds may change from one call to the next until the run has ended.
    """

    def __init__(self, data: RunData, attempt: AttemptFacts, run_id: str, check: Callable[[], None]) -> None:
        """Take who reads, which run, and what raises where nothing may be read."""
        self._data = data
        self._attempt = attempt
        self._check = check
        self.run_id = run_id
        """The run that is read from."""

    @overload
    async def pull(self, task: Task[R], *, map_index: int | None = ...) -> R: ...
    @overload
    async def pull(self, task: Task[R], *, default: D, map_index: int | None = ...) -> R | D: ...
    @overload
    async def pull(self, task: Task[Any] | str, key: str = ..., *, as_type: type[T], map_index: int | None = ...) -> T: ...
    @overload
    async def pull(
        self, task: Task[Any] | str, key: str = ..., *, default: D, as_type: type[T], map_index: int | None = ...
    ) -> T | D: ...
    @overload
    async def pull(
        self, task: Task[Any] | str, key: str = ..., *, default: Any = ..., as_type: Any = ..., map_index: int | None = ...
    ) -> Any: ...
    async def pull(
        self,
        task: Task[Any] | str,
        key: str = RETURN_VALUE,
        *,
        default: Any = MISSING,
        as_type: Any = MISSING,
        map_index: int | None = None,
    ) -> Any:
        """Return a value of the run, a fresh copy for each call.

        Args:
            task: a Task (its return value comes structured by its return annotation; it may be of another DAG), or its id.
            key: the key; by default what the handler returned.
            default: what to return if there is no such entry; a stored None is a value.
            as_type: a type to structure the value into, strictly.
            map_index: the place in a mapped task.

        Raises:
            XComNotFoundError: there is no such entry, or no such run, and no default.
            XComTypeError: the task is mapped, and `map_index` is not given; or the value is not of the type.

        Cancellation: nothing is left behind.
        """
        self._check()
        instance, key = InstanceKey(self.run_id, _id(task), check_map_index(map_index)), check_key(key)
        (found,) = await self._data.broker.reader.lookup([Lookup(instance=instance, key=key)])
        if found is not None:
            self._attempt.note_reads([read_text(instance.task_id, found.slot, key, map_index, self.run_id)])
            return self._data.door.decode(found.serializer, found.value, self._type(task, key, as_type))
        await refuse_single(self._data.store, instance)
        if default is not MISSING:
            return default
        raise await not_found(self._data.store, instance, key)

    @overload
    async def pull_outputs(self, task: Task[R]) -> list[R]: ...
    @overload
    async def pull_outputs(self, task: Task[R], *, default: D) -> list[R | D]: ...
    @overload
    async def pull_outputs(self, task: Task[Any] | str, key: str = ..., *, default: Any = ..., as_type: type[T]) -> list[T]: ...
    @overload
    async def pull_outputs(
        self, task: Task[Any] | str, key: str = ..., *, default: Any = ..., as_type: Any = ...
    ) -> list[Any]: ...
    async def pull_outputs(
        self, task: Task[Any] | str, key: str = RETURN_VALUE, *, default: Any = MISSING, as_type: Any = MISSING
    ) -> list[Any]:
        """Return what the elements of a mapped task of the run handed on, as a list by map index, in one read.

        Args:
            task: a Task (its return values come structured by its return annotation) or its id.
            key: the key; by default what the handler returned.
            default: what stands in the place of an element that has no such entry.
            as_type: a type to structure each value into, strictly.

        Raises:
            XComNotFoundError: an element has no such entry, and there is no default; or the task was not expanded.
            XComTypeError: the task is not mapped, or a value is not of the type.

        Cancellation: nothing is left behind.
        """
        self._check()
        data, task_id, key = self._data, _id(task), check_key(key)
        whole = InstanceKey(self.run_id, task_id, None)
        found = await gather(data.store, data.broker.reader, whole, key, has_default=default is not MISSING)
        if any(each is not None for each in found):
            self._attempt.note_reads([read_text(task_id, None, key, None, self.run_id)])
        wanted = self._type(task, key, as_type)
        return [default if each is None else data.door.decode(each.serializer, each.value, wanted) for each in found]

    async def list(
        self, task: Task[Any] | str | None = None, *, prefix: str | None = None, include_values: bool = False
    ) -> list[XComEntry]:
        """Return the run's entries, or those of one task, by task, map index and key; none if there is no such run.

        Args:
            task: only this task's.
            prefix: only keys beginning so.
            include_values: decode the values too; sensitive ones stay masked as None.

        Cancellation: nothing is left behind.
        """
        self._check()
        tasks = None if task is None else [_id(task)]
        rows = await self._data.store.entries(self.run_id, task_ids=tasks, prefix=prefix, with_values=include_values)
        decode = self._data.door.decode
        return [
            entry if stored is None or entry.sensitive else attrs.evolve(entry, value=decode(stored.serializer, stored.value))
            for entry, stored in rows
        ]

    def _type(self, task: Task[Any] | str, key: str, as_type: Any) -> Any:
        """Return the type asked for: for a Task's return value that of its annotation."""
        if as_type is not MISSING or key != RETURN_VALUE or isinstance(task, str) or not isinstance(task.owner, DAG):
            return as_type
        plan = task.owner.plan(limits=self._data.door.limits)
        return plan.tasks[plan.index[task.id]].return_type


def _id(task: Task[Any] | str) -> str:
    return check_task_id(task if isinstance(task, str) else task.id)
