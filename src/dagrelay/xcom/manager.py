"""The runtime's face of the data: push, pull, list and delete XComs of any run, from outside its tasks."""

from __future__ import annotations

import threading
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import attrs

from dagrelay.errors import RuntimeClosedError, TaskNotFoundError
from dagrelay.ids import check_dag_id, check_key, check_map_index, check_run_id, check_task_id
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import Limits
from dagrelay.model.records import InstanceKey
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, DeleteEntries
from dagrelay.xcom.absent import not_found
from dagrelay.xcom.door import DEFAULT_OPTIONS, entry_record
from dagrelay.xcom.gathering import gather, many_found, refuse_single
from dagrelay.xcom.lineage import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagrelay.dag.definition import DAG
    from dagrelay.errors import XComNotFoundError
    from dagrelay.model.policies import XComOptions
    from dagrelay.model.records import XComEntry
    from dagrelay.stores.base import Store, StoredEntry
    from dagrelay.xcom.broker import Broker
    from dagrelay.xcom.door import Door

__all__ = ("XComManager", "upstream_values")

T = TypeVar("T")
D = TypeVar("D")

_LIMITS: Final = Limits()

_READ_CHUNK = 500
"""Task ids in one read of many tasks' entries."""


class XComManager:
    """XComs of any run, as everybody outside it sees them: committed values of succeeded attempts.

    It is `runtime.xcom`; there is no need to make one.
    """

    def __init__(self, store: Store, broker: Broker, door: Door, *, limits: Limits = _LIMITS) -> None:
        """Take what the runtime has."""
        self._store = store
        self._broker = broker
        self._door = door
        self._limits = limits
        self._thread_id = threading.get_ident()

    def _check_thread(self) -> None:
        if threading.get_ident() != self._thread_id:
            raise RuntimeClosedError(
                "runtime.xcom was used outside the thread and event loop that entered the runtime; from a worker thread of its "
                "own call anyio.from_thread.run(runtime.xcom.pull, ...)"
            )

    @property
    def limits(self) -> Limits:
        """The runtime's limits."""
        return self._limits

    async def push(
        self,
        run_id: str,
        task_id: str,
        key: str,
        value: Any,
        *,
        map_index: int | None = None,
        options: XComOptions | None = None,
    ) -> XComEntry:
        """Store a value from outside; it is on disk when this returns.

        The run need not exist. The entry carries attempt 0, is visible at once, survives retries, and yields to what a succeeded
        attempt pushed under the same key.

        Raises:
            InvalidIdError: an id, the key or the map index is not legal.
            XComSerializationError: the value can't be stored exactly.
            XComTooLargeError: it is over a limit.
            XComConflictError: it would replace the return value of a task that has succeeded.

        Cancellation: once the call has begun to wait, the value may be stored all the same.
        """
        self._check_thread()
        instance = _instance(run_id, task_id, map_index)
        key = check_key(key)
        # The snapshot comes before the first checkpoint; its place in the timeline after it, once the run's page is open.
        draft = self._door.draft(key, value, options=options or DEFAULT_OPTIONS)
        book = await self._broker.book(instance.run_id)
        (entry,) = await self._broker.push(book, instance=instance, slot=OUTSIDE, attempt=0, drafts=[draft])
        if not book.dag_id:
            found = await self._store.find_run(instance.run_id)
            book.dag_id = "" if found is None else found.run.dag_id
        return entry_record(instance, entry, attempt=0, lifetime="run", dag_id=book.dag_id or None)

    @overload
    async def pull(self, run_id: str, task_id: str, key: str = ..., *, as_type: type[T], map_index: int | None = ...) -> T: ...
    @overload
    async def pull(
        self, run_id: str, task_id: str, key: str = ..., *, default: D, as_type: type[T], map_index: int | None = ...
    ) -> T | D: ...
    @overload
    async def pull(
        self, run_id: str, task_id: str, key: str = ..., *, default: Any = ..., as_type: Any = ..., map_index: int | None = ...
    ) -> Any: ...
    async def pull(
        self,
        run_id: str,
        task_id: str,
        key: str = RETURN_VALUE,
        *,
        default: Any = MISSING,
        as_type: Any = MISSING,
        map_index: int | None = None,
    ) -> Any:
        """Return a value, a fresh copy for each call.

        Args:
            run_id: the run, running or not, of this or an earlier process.
            task_id: the task.
            key: the key.
            default: what to return if there is no such entry; a stored None is a value.
            as_type: a type to structure the plain JSON value into, strictly.
            map_index: the place in a mapped task.

        Raises:
            XComNotFoundError: there is no such entry, and no default.
            XComTypeError: the task is mapped, and `map_index` is not given; or the value is not of `as_type`.
            StoreCorruptError: what is stored is damaged.

        Cancellation: nothing is left behind.
        """
        self._check_thread()
        instance = _instance(run_id, task_id, map_index)
        key = check_key(key)
        (found,) = await self._broker.reader.lookup([Lookup(instance=instance, key=key)])
        if found is not None:
            return self._door.decode(found.serializer, found.value, as_type)
        await refuse_single(self._store, instance)
        if default is not MISSING:
            return default
        raise await self.not_found(instance, key)

    @overload
    async def pull_outputs(self, run_id: str, task_id: str, key: str = ..., *, as_type: type[T]) -> list[T]: ...
    @overload
    async def pull_outputs(self, run_id: str, task_id: str, key: str = ..., *, default: D, as_type: type[T]) -> list[T | D]: ...
    @overload
    async def pull_outputs(
        self, run_id: str, task_id: str, key: str = ..., *, default: Any = ..., as_type: Any = ...
    ) -> list[Any]: ...
    async def pull_outputs(
        self, run_id: str, task_id: str, key: str = RETURN_VALUE, *, default: Any = MISSING, as_type: Any = MISSING
    ) -> list[Any]:
        """Return what the elements of a mapped task have handed on, as a list by map index, their values in one read.

        Args:
            run_id: the run, running or not, of this or an earlier process.
            task_id: the task.
            key: the key.
            default: what stands in the place of an element that has no such entry, as it failed, was skipped, or runs. With it
                the list of a task that was never expanded is empty.
            as_type: a type to structure each value into, strictly.

        Raises:
            XComNotFoundError: an element has no such entry, and there is no default; or the task was never expanded.
            XComTypeError: the task is not mapped, or a value is not of `as_type`.
            StoreCorruptError: what is stored is damaged.

        Cancellation: nothing is left behind.
        """
        self._check_thread()
        whole, key = _instance(run_id, task_id, None), check_key(key)
        found = await gather(self._store, self._broker.reader, whole, key, has_default=default is not MISSING)
        decode = self._door.decode
        return [default if each is None else decode(each.serializer, each.value, as_type) for each in found]

    @overload
    async def previous(
        self, dag_id: str, task_id: str, key: str = ..., *, before_run: str, limit: int = ..., as_type: type[T]
    ) -> list[tuple[str, T]]: ...
    @overload
    async def previous(
        self, dag_id: str, task_id: str, key: str = ..., *, before_run: str, limit: int = ..., as_type: Any = ...
    ) -> list[tuple[str, Any]]: ...
    async def previous(
        self,
        dag_id: str,
        task_id: str,
        key: str = RETURN_VALUE,
        *,
        before_run: str,
        limit: int = 1,
        as_type: Any = MISSING,
    ) -> list[tuple[str, Any]]:
        """Return what a task had in earlier runs of its DAG, the newest first, as pairs of run id and value.

        Args:
            dag_id: the DAG.
            task_id: the task; of a mapped one there is nothing, as its elements have the values (see `pull_outputs`).
            key: the key.
            before_run: the run before which those that count were created, whatever state they are in. Those in which the task
                did not succeed, and has no such entry from outside either, are passed over.
            limit: at most so many values.
            as_type: a type to structure each value into, strictly.

        Returns:
            Pairs of run id and value, fewer than `limit` where there are no more; none if there never was a run `before_run`.

        Raises:
            ValueError: `limit` is below 1.
            XComTypeError: a value is not of `as_type`.
            StoreCorruptError: what is stored is damaged.

        Cancellation: nothing is left behind.
        """
        self._check_thread()
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit!r}")
        rows = await self._store.previous(
            check_dag_id(dag_id), check_task_id(task_id), check_key(key), before_run=check_run_id(before_run), limit=limit
        )
        return [(run_id, self._door.decode(entry.serializer, entry.value, as_type)) for run_id, entry in rows]

    async def pull_many(self, run_id: str, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        """Return the values of (task id, key) pairs that are there, as one read; the others are left out.

        Of a mapped task it is a list by map index, and left out unless each element has one; the elements of all such tasks are
        one read more.

        Cancellation: nothing is left behind.
        """
        self._check_thread()
        pairs = [(check_task_id(task_id), check_key(key)) for task_id, key in wanted]
        found = await many_found(self._store, self._broker.reader, check_run_id(run_id), pairs)
        decode = self._door.decode
        return {
            pair: [decode(each.serializer, each.value) for each in entries]
            if isinstance(entries, list)
            else decode(entries.serializer, entries.value)
            for pair, entries in found.items()
        }

    async def pull_from_upstream(self, run_id: str, task_id: str, dag: DAG, *, direct: bool = False) -> dict[str, dict[str, Any]]:
        """Return what the upstream tasks of a task have pushed.

        Args:
            run_id: the run.
            task_id: the task of `dag` to look up from.
            dag: the DAG, for its edges.
            direct: only the direct upstreams.

        Returns:
            Mapping task id -> {key: value}, in topological order; a task without entries has an empty mapping. Of a mapped task
            each value is a list by map index, with None for elements without such an entry.

        Raises:
            DAGValidationError: the DAG can't be planned.
            TaskNotFoundError: the DAG has no such task.

        Cancellation: nothing is left behind.
        """
        self._check_thread()
        run_id, task_id = check_run_id(run_id), check_task_id(task_id)
        plan = dag.plan(limits=self._limits)
        if task_id not in plan.index:
            raise TaskNotFoundError(plan.dag_id, task_id, get_close_matches(task_id, plan.task_ids))
        above = [plan.tasks[index] for index in plan.upstream_of(plan.index[task_id], direct=direct)]
        lengths: dict[str, int] = {}
        for mapped in (task.task_id for task in above if task.expansion is not None):
            wholes = await self._store.instances(run_id, task_id=mapped)
            lengths.update((mapped, each.length) for each in wholes if each.length is not None)
        values, _ = await upstream_values(self._store, self._door, run_id, [task.task_id for task in above], lengths)
        return values

    async def delete(self, run_id: str, task_id: str, key: str | None = None) -> int:
        """Delete a task's entries under one key, or all; of every attempt, and of every index of a mapped task.

        Returns:
            How many entries were deleted; 0 if there were none.

        Cancellation: once the call has begun to wait, the entries may be deleted all the same.
        """
        self._check_thread()
        run_id, task_id = check_run_id(run_id), check_task_id(task_id)
        key = None if key is None else check_key(key)
        book = await self._broker.book(run_id)
        operation = DeleteEntries(
            run_id=run_id, task_id=task_id, key=key, slots=None, at_us=self._door.now_us(), seq=book.next_seq()
        )
        return await self._broker.write(operation, book)

    async def list(
        self,
        run_id: str,
        task_id: str | None = None,
        *,
        prefix: str | None = None,
        all_attempts: bool = False,
        include_values: bool = False,
    ) -> list[XComEntry]:
        """Return a run's entries, by task, map index and key.

        Args:
            run_id: the run.
            task_id: only this task's.
            prefix: only keys beginning so.
            all_attempts: also those of failed and unfinished attempts, with the attempt's state.
            include_values: decode the values too; sensitive ones stay masked as None.

        Cancellation: nothing is left behind.
        """
        self._check_thread()
        tasks = None if task_id is None else [check_task_id(task_id)]
        rows = await self._store.entries(
            check_run_id(run_id), task_ids=tasks, prefix=prefix, all_attempts=all_attempts, with_values=include_values
        )
        return [self._with_value(entry, stored) for entry, stored in rows]

    def _with_value(self, entry: XComEntry, stored: StoredEntry | None) -> XComEntry:
        if stored is None or entry.sensitive:
            return entry
        return attrs.evolve(entry, value=self._door.decode(stored.serializer, stored.value))

    async def not_found(self, instance: InstanceKey, key: str, *, hint: str = "") -> XComNotFoundError:
        """Return the error for a missing entry, with the task's state and the keys or tasks that are near."""
        return await not_found(self._store, instance, key, hint=hint)


def _instance(run_id: str, task_id: str, map_index: object) -> InstanceKey:
    """Return the name of an instance whose parts are legal."""
    return InstanceKey(check_run_id(run_id), check_task_id(task_id), check_map_index(map_index))


async def upstream_values(
    store: Store, door: Door, run_id: str, upstream: Sequence[str], lengths: Mapping[str, int]
) -> tuple[dict[str, dict[str, Any]], dict[str, None]]:
    """Return {task id: {key: value}} of the tasks given, in that order, as every reader may see them, and what was read.

    Of a task in `lengths`, which are those of mapped ones, each value is a list by map index. What was read is in texts as
    `lineage.read_text` makes them, each once.
    """
    values: dict[str, dict[str, Any]] = {task_id: {} for task_id in upstream}
    reads: dict[str, None] = {}
    for start in range(0, len(upstream), _READ_CHUNK):
        rows = await store.entries(run_id, task_ids=upstream[start : start + _READ_CHUNK], with_values=True)
        for entry, stored in rows:
            assert stored is not None
            value, known = door.decode(stored.serializer, stored.value), values[entry.task_id]
            if entry.map_index is None:
                known[entry.key] = value
                reads[read_text(entry.task_id, stored.slot, entry.key)] = None
            elif entry.map_index < lengths.get(entry.task_id, 0):
                known.setdefault(entry.key, [None] * lengths[entry.task_id])[entry.map_index] = value
                reads[read_text(entry.task_id, None, entry.key)] = None
    return values, reads
