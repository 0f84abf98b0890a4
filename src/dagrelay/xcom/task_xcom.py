"""A handler's face of the data: `ctx.xcom`, bound to one attempt."""

from __future__ import annotations

import threading
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

import attrs

from dagrelay.dag.definition import Task
from dagrelay.errors import NotUpstreamError, RuntimeClosedError, StaleAttemptError, XComNotFoundError
from dagrelay.ids import check_key
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import XComOptions
from dagrelay.model.records import InstanceKey
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, TASK_LIFETIME, DeleteEntries
from dagrelay.xcom.door import entry_record
from dagrelay.xcom.manager import upstream_values

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from dagrelay.dag.plan import Plan
    from dagrelay.model.records import XComEntry
    from dagrelay.model.states import TaskState
    from dagrelay.stores.base import Store
    from dagrelay.stores.operations import NewEntry
    from dagrelay.xcom.book import RunBook
    from dagrelay.xcom.broker import Broker
    from dagrelay.xcom.cache import Encoded
    from dagrelay.xcom.door import Door

__all__ = ("AttemptFacts", "RunData", "TaskXCom")

R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")


class AttemptFacts(Protocol):
    """What `ctx.xcom` asks of the attempt it is bound to."""

    @property
    def number(self) -> int:
        """The attempt's number, from 1."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it timed out, was cancelled or has ended."""
        ...

    def ensure_started(self) -> None:
        """Have its start recorded before anything it writes."""
        ...

    def parked(self) -> AbstractAsyncContextManager[None]:
        """Hold no slot inside; leaving it waits for one."""
        ...


def _instances(data: RunData) -> tuple[InstanceKey, ...]:
    return tuple(InstanceKey(data.book.run_id, task_id, None) for task_id in data.plan.task_ids)


@attrs.frozen(kw_only=True)
class RunData:
    """What all attempts of one run share to reach its values."""

    plan: Plan
    """The run's plan."""
    book: RunBook
    """Its page."""
    broker: Broker
    """The broker."""
    store: Store
    """The store, for reads of many."""
    door: Door
    """Values in and out."""
    states: Sequence[TaskState]
    """The tasks' states by topological index, as they change."""
    instances: tuple[InstanceKey, ...] = attrs.field(default=attrs.Factory(_instances, takes_self=True))
    """The tasks' instances by topological index."""
    thread_id: int = attrs.field(factory=threading.get_ident)
    """The thread of the runtime's loop."""

    def not_found(self, index: int, key: str, *, near: Sequence[str] = (), hint: str = "") -> XComNotFoundError:
        """Return the error for a value that a task does not have."""
        task_id = self.plan.tasks[index].task_id
        return XComNotFoundError(self.book.run_id, task_id, key, state=self.states[index], near=near, hint=hint)


class TaskXCom:
    """Push, pull, list and delete XComs from within a handler.

    What an attempt pushes is seen by other tasks once it has succeeded; by itself at once. Every method may be called from the
    runtime's loop only; a sync handler, which runs in a worker thread, calls `anyio.from_thread.run(ctx.xcom.push, ...)`. Kept
    beyond its attempt it writes nothing more (StaleAttemptError), and reads until the runtime is left (RuntimeClosedError).
    """

    def __init__(self, data: RunData, index: int, attempt: AttemptFacts) -> None:
        """Bind to an attempt of the task with topological `index`."""
        self._data = data
        self._index = index
        self._attempt = attempt
        self._instance = data.instances[index]

    # ------------------------------------------------------------------------------------------------------ writing

    async def push(
        self,
        key: str,
        value: Any,
        *,
        serializer: str | None = None,
        max_bytes: int | None = None,
        description: str = "",
        lifetime: Literal["attempt", "task"] = "attempt",
        sensitive: bool = False,
        publish: bool = False,
    ) -> XComEntry:
        """Store a value; it is on disk when this returns. The value is serialised before the first checkpoint.

        Args:
            key: 1 to 250 printable characters; pushing a key again replaces its value.
            value: JSON values as they are; dataclasses, datetimes and the like through the converter.
            serializer: the name of a serializer registered with the runtime.
            max_bytes: a limit for this value instead of the runtime's.
            description: a few words for people.
            lifetime: `attempt`: gone if this attempt fails; `task`: kept for the task's later attempts (a checkpoint), and seen
                by other tasks only after success.
            sensitive: mask it in lists, logs and faces (it is not encrypted).
            publish: let other tasks see it at once, gone with the attempt if that fails.

        Raises:
            InvalidIdError: the key is not legal.
            XComSerializationError: the value can't be stored exactly; the message ends in its JSON path.
            XComTooLargeError: it is over a limit; nothing was stored.
            StaleAttemptError: this attempt is over; nothing was stored.

        Cancellation: once the call has begun to wait for the disk, the value may be stored all the same.
        """
        options = XComOptions(
            serializer=serializer, max_bytes=max_bytes, description=description, lifetime=lifetime, sensitive=sensitive
        )
        self._check_writable()
        draft = self._draft(key, value, options, published=publish)
        (entry,) = await self._put([draft], lifetime)
        return entry_record(self._instance, entry, attempt=self._attempt.number, lifetime=lifetime, dag_id=self._data.plan.dag_id)

    async def push_many(
        self, values: Mapping[str, Any], *, lifetime: Literal["attempt", "task"] = "attempt", sensitive: bool = False
    ) -> list[XComEntry]:
        """Store several values in one transaction, all or none.

        Args:
            values: mapping key -> value.
            lifetime: as for `push`.
            sensitive: as for `push`.

        Raises:
            DagrelayError: as for `push`, for the first value that can't be stored; nothing was.

        Cancellation: once the call has begun to wait for the disk, the values may be stored all the same.
        """
        options = XComOptions(lifetime=lifetime, sensitive=sensitive)
        self._check_writable()
        drafts = [self._draft(key, value, options) for key, value in values.items()]
        if not drafts:
            return []
        number, dag_id = self._attempt.number, self._data.plan.dag_id
        entries = await self._put(drafts, lifetime)
        return [entry_record(self._instance, entry, attempt=number, lifetime=lifetime, dag_id=dag_id) for entry in entries]

    async def delete(self, key: str) -> int:
        """Delete what this attempt, or the task with `lifetime="task"`, has pushed under a key; return how many entries.

        Raises:
            StaleAttemptError: this attempt is over.

        Cancellation: once the call has begun to wait for the disk, the entries may be deleted all the same.
        """
        self._check_writable()
        data, number = self._data, self._attempt.number
        key = check_key(key)
        self._attempt.ensure_started()
        operation = DeleteEntries(
            run_id=self._instance.run_id,
            task_id=self._instance.task_id,
            map_index=self._instance.map_index,
            key=key,
            slots=(number, TASK_LIFETIME),
            attempt=number,
            at_us=data.door.now_us(),
            seq=data.book.next_seq(),
        )
        return await data.broker.write(operation, data.book)

    def _draft(self, key: str, value: Any, options: XComOptions, *, published: bool = False) -> NewEntry:
        own = self._data.plan.tasks[self._index].serializer
        return self._data.door.draft(key, value, options=options, serializer=own, published=published)

    async def _put(self, drafts: Sequence[NewEntry], lifetime: str) -> tuple[NewEntry, ...]:
        data, number = self._data, self._attempt.number
        self._attempt.ensure_started()
        return await data.broker.push(
            data.book,
            instance=self._instance,
            slot=TASK_LIFETIME if lifetime == "task" else number,
            attempt=number,
            drafts=drafts,
        )

    # ------------------------------------------------------------------------------------------------------ reading

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
            index = self._upstream_index(task)
            if as_type is MISSING and isinstance(task, Task) and key == RETURN_VALUE:
                as_type = self._data.plan.tasks[index].return_type
            (found,) = await self._find([index], key, include_failed=include_failed)
            return await self._value(index, key, found, default, as_type)
        indices = [self._upstream_index(each) for each in task]
        values = await self._find(indices, key, include_failed=include_failed)
        return {
            self._data.plan.tasks[index].task_id: await self._value(index, key, found, default, as_type)
            for index, found in zip(indices, values, strict=True)
        }

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
            Mapping task id -> {key: value}, in topological order; a task without entries has an empty mapping.

        Cancellation: nothing is left behind.
        """
        self._check_readable()
        data = self._data
        if data.book.is_pipelined:
            await data.broker.barrier()  # What the run's own tasks may see already is then on disk, where this reads.
        upstream = [data.plan.tasks[i].task_id for i in data.plan.upstream_of(self._index, direct=direct)]
        return await upstream_values(data.store, data.door, data.book.run_id, upstream)

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
        return await data.broker.find(wanted)

    async def _value(self, index: int, key: str, found: Encoded | None, default: Any, as_type: Any) -> Any:
        if found is not None:
            return self._data.door.decode(found.serializer, found.value, as_type)
        if default is not MISSING:
            return default
        data = self._data
        rows = await data.store.entries(data.book.run_id, task_ids=[data.plan.tasks[index].task_id])
        raise data.not_found(index, key, near=get_close_matches(key, [entry.key for entry, _ in rows]))

    def _upstream_index(self, task: Task[Any] | str) -> int:
        plan = self._data.plan
        own_id, task_id = self._instance.task_id, task if isinstance(task, str) else task.id
        index = plan.index.get(task_id)
        if index is None:
            raise NotUpstreamError(own_id, task_id, known=False, near=get_close_matches(task_id, plan.task_ids))
        if not plan.is_upstream(index, self._index):
            raise NotUpstreamError(own_id, task_id)
        return index

    # ------------------------------------------------------------------------------------------------------- checks

    def _check_writable(self) -> None:
        self._check_thread()
        if self._attempt.is_over:
            raise StaleAttemptError(self._instance.run_id, self._instance.task_id, self._attempt.number)

    def _check_readable(self) -> None:
        self._check_thread()
        if self._data.broker.reader.is_closed:
            raise RuntimeClosedError  # Also of what is still in memory: whether a value is there must not depend on a cache.

    def _check_thread(self) -> None:
        if threading.get_ident() != self._data.thread_id:
            raise RuntimeClosedError(
                "ctx.xcom was used outside the runtime's event loop; in a sync handler call "
                "anyio.from_thread.run(ctx.xcom.push, ...)"
            )
