"""Reading from within a handler: pull and list XComs, bound to one attempt."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar, overload

from dagrelay.dag.plan import TaskKind
from dagrelay.dag.task import Task
from dagrelay.errors import XComTypeError
from dagrelay.ids import check_key
from dagrelay.model.missing import MISSING
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, TASK_LIFETIME
from dagrelay.xcom.bound import Bound
from dagrelay.xcom.finding import slot_of
from dagrelay.xcom.lineage import read_text
from dagrelay.xcom.manager import upstream_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.model.records import XComEntry
    from dagrelay.xcom.cache import Encoded

__all__ = ("TaskPulls",)

R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")


class TaskPulls(Bound):
    """Pull and list; see `TaskXCom`."""

    @overload
    async def pull(self, task: Task[R], *, include_failed: bool = ...) -> R: ...
    @overload
    async def pull(self, task: Task[R], *, default: D, include_failed: bool = ...) -> R | D: ...
    @overload
    async def pull(self, task: Task[Any] | str, key: str = ..., *, as_type: type[T], include_failed: bool = ...) -> T: ...
    @overload
    async def pull(
        self, task: Task[Any] | str, key: str = ..., *, default: D, as_type: type[T], include_failed: bool = ...
    ) -> T | D: ...
    @overload
    async def pull(self, task: Task[Any], key: str, *, default: Any = ..., include_failed: bool = ...) -> Any: ...
    @overload
    async def pull(self, task: str, key: str = ..., *, default: Any = ..., include_failed: bool = ...) -> Any: ...
    @overload
    async def pull(
        self, task: Sequence[str], key: str = ..., *, default: Any = ..., as_type: Any = ..., include_failed: bool = ...
    ) -> dict[str, Any]: ...
    async def pull(
        self,
        task: Task[Any] | str | Sequence[str],
        key: str = RETURN_VALUE,
        *,
        default: Any = MISSING,
        as_type: Any = MISSING,
        include_failed: bool = False,
    ) -> Any:
        """Return what an upstream task handed on, a fresh copy for each call.

        Args:
            task: a Task (its return value comes structured by its return annotation), a task id (plain JSON unless `as_type`), or
                a list of task ids (the result is a dict keyed by id, read in one go). The shape never depends on data.
            key: the key; by default what the handler returned.
            default: what to return if there is no such entry; a stored None is a value. For a list: in place of each missing one.
            as_type: a type to structure the value into, strictly.
            include_failed: see also what the last attempt of a finally failed task pushed.

        Raises:
            XComNotFoundError: there is no such entry, and no default.
            NotUpstreamError: the task is not upstream of this one.
            XComTypeError: the value is not of the type.

        Cancellation: nothing is left behind.
        """
        self._check_readable()
        key = check_key(key)
        if isinstance(task, (str, Task)):
            index = self._single_index(task)
            if as_type is MISSING and isinstance(task, Task) and key == RETURN_VALUE:
                as_type = self._data.plan.tasks[index].return_type
            (found,) = await self._find([index], key, include_failed=include_failed)
            return await self._value(index, key, found, default, as_type)
        indices = [self._single_index(each) for each in task]
        values = await self._find(indices, key, include_failed=include_failed)
        return {
            self._data.plan.tasks[index].task_id: await self._value(index, key, found, default, as_type)
            for index, found in zip(indices, values, strict=True)
        }

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
        """Return what the elements of an upstream mapped task handed on, as a list by map index, in one read.

        Args:
            task: a Task (its return values come structured by its return annotation) or its id.
            key: the key; by default what the handler returned.
            default: what stands in the place of an element that has no such entry, as it failed or was skipped.
            as_type: a type to structure each value into, strictly.

        Raises:
            XComNotFoundError: an element has no such entry, and there is no default; or the task was never expanded.
            NotUpstreamError: the task is not upstream of this one.
            XComTypeError: the task is not mapped, or a value is not of the type.

        Cancellation: nothing is left behind.
        """
        self._check_readable()
        data, key, index = self._data, check_key(key), self._upstream_index(task)
        planned = data.plan.tasks[index]
        if planned.expansion is None:
            raise XComTypeError(f"task {planned.task_id!r} is not mapped and has no list of outputs; use pull()", path="")
        if as_type is MISSING and isinstance(task, Task) and key == RETURN_VALUE:
            as_type = planned.return_type
        if index not in data.lengths:
            if default is MISSING:
                raise data.not_found(index, key, hint="it was never expanded, so it has no elements")
            return []
        slots_seen = data.book.slots_seen
        wanted = [Lookup(instance=each, key=key, slots=slots_seen(each)) for each in data.elements_of(index)]
        values: list[Any] = []
        rows = await data.broker.find(wanted)
        if any(found is not None for found in rows):
            self._attempt.note_reads([read_text(planned.task_id, None, key)])
        for place, found in enumerate(rows):
            if found is not None:
                values.append(data.door.decode(found.serializer, found.value, as_type))
            elif default is not MISSING:
                values.append(default)
            else:
                raise data.not_found(index, key, map_index=place)
        return values

    async def pull_own(self, key: str, *, default: Any = MISSING, as_type: Any = MISSING) -> Any:
        """Return what this attempt pushed under a key, or an earlier one with `lifetime="task"`, or somebody from outside.

        Raises:
            XComNotFoundError: there is no such entry, and no default.

        Cancellation: nothing is left behind.
        """
        self._check_readable()
        lookup = Lookup(instance=self._instance, key=check_key(key), slots=(self._attempt.number, TASK_LIFETIME, OUTSIDE))
        (found,) = await self._data.broker.find([lookup])
        return await self._value(self._index, key, found, default, as_type)

    async def pull_from_upstream(self, *, direct: bool = False) -> dict[str, dict[str, Any]]:
        """Return what all (or only the direct) upstream tasks have pushed.

        Returns:
            Mapping task id -> {key: value}, in topological order; a task without entries has an empty mapping. Of a mapped task
            each value is a list by map index, with None for elements without such an entry.

        Cancellation: nothing is left behind.
        """
        self._check_readable()
        data = self._data
        if data.book.is_pipelined:
            await data.broker.barrier()  # What the run's own tasks may see already is then on disk, where this reads.
        above = data.plan.upstream_of(self._index, direct=direct)
        lengths = {data.plan.task_ids[index]: data.lengths[index] for index in above if index in data.lengths}
        upstream = [data.plan.task_ids[index] for index in above]
        values, reads = await upstream_values(data.store, data.door, data.book.run_id, upstream, lengths)
        self._attempt.note_reads(reads)
        return values

    async def list(self) -> list[XComEntry]:
        """Return the entries of this task that this attempt sees: its own, task-lifetime ones, and those from outside; by key.

        Cancellation: nothing is left behind.
        """
        self._check_readable()
        rows = await self._data.store.entries(self._instance.run_id, task_ids=[self._instance.task_id], all_attempts=True)
        number = self._attempt.number
        rank = {"attempt": 0, "task": 1, "run": 2}
        seen: dict[str, XComEntry] = {}
        for entry, _ in sorted(rows, key=lambda row: rank[row[0].lifetime], reverse=True):
            if entry.map_index == self._instance.map_index and (entry.lifetime != "attempt" or entry.attempt == number):
                seen[entry.key] = entry
        return [seen[key] for key in sorted(seen)]

    async def _find(self, indices: Sequence[int], key: str, *, include_failed: bool) -> Sequence[Encoded | None]:
        data = self._data
        wanted: list[Lookup] = []
        for index in indices:
            instance = data.instances[index]
            wanted.append(Lookup(instance=instance, key=key, slots=data.book.slots_seen(instance, include_failed=include_failed)))
        found = await data.broker.find(wanted)
        self._attempt.note_reads(
            read_text(look.instance.task_id, slot_of(value, look.slots), key)
            for look, value in zip(wanted, found, strict=True)
            if value is not None
        )
        return found

    async def _value(self, index: int, key: str, found: Encoded | None, default: Any, as_type: Any) -> Any:
        if found is not None:
            return self._data.door.decode(found.serializer, found.value, as_type)
        if default is not MISSING:
            return default
        data = self._data
        rows = await data.store.entries(data.book.run_id, task_ids=[data.plan.tasks[index].task_id])
        raise data.not_found(index, key, near=get_close_matches(key, [entry.key for entry, _ in rows]))

    def _single_index(self, task: Task[Any] | str) -> int:
        """Return the topological index of an upstream task that has one value under a key, and not a list of them."""
        index = self._upstream_index(task)
        planned = self._data.plan.tasks[index]
        if planned.kind is TaskKind.MAPPED:
            raise XComTypeError(f"task {planned.task_id!r} is mapped and has a list of outputs; use pull_outputs()", path="")
        return index
