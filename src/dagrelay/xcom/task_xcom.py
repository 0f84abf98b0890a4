"""A handler's face of the data: `ctx.xcom`, bound to one attempt."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, overload

import anyio

from dagrelay.dag.task import Task
from dagrelay.errors import XComWaitError, XComWaitTimeoutError
from dagrelay.ids import check_key
from dagrelay.model.missing import MISSING
from dagrelay.model.states import ENDED_TASK_STATES, TaskState
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE
from dagrelay.xcom.finding import slot_of
from dagrelay.xcom.lineage import read_text
from dagrelay.xcom.task_history import TaskHistory
from dagrelay.xcom.task_pulls import TaskPulls
from dagrelay.xcom.task_pushes import TaskPushes
from dagrelay.xcom.task_streams import TaskStreams
from dagrelay.xcom.waiting import Waiter

if TYPE_CHECKING:
    from dagrelay.xcom.cache import Encoded

__all__ = ("TaskXCom",)

R = TypeVar("R")
T = TypeVar("T")


class TaskXCom(TaskPulls, TaskPushes, TaskStreams, TaskHistory):
    """Push, pull, list, delete, wait for and stream XComs from within a handler, and read other runs.

    What an attempt pushes is seen by other tasks once it has succeeded; by itself at once. Every method may be called from the
    runtime's loop only; a sync handler, which runs in a worker thread, calls `anyio.from_thread.run(ctx.xcom.push, ...)`. Kept
    beyond its attempt it writes nothing more (StaleAttemptError), and reads until the runtime is left (RuntimeClosedError).
    """

    @overload
    async def wait(self, task: Task[R], *, timeout_s: float | None = ...) -> R: ...
    @overload
    async def wait(self, task: Task[Any] | str, key: str = ..., *, timeout_s: float | None = ..., as_type: type[T]) -> T: ...
    @overload
    async def wait(self, task: Task[Any] | str, key: str = ..., *, timeout_s: float | None = ..., as_type: Any = ...) -> Any: ...
    async def wait(
        self, task: Task[Any] | str, key: str = RETURN_VALUE, *, timeout_s: float | None = None, as_type: Any = MISSING
    ) -> Any:
        """Wait until a task of the DAG has a value under a key, and return it, a fresh copy.

        The task need not be upstream: it may run beside this one, and hand the value on by `push(..., publish=True)` before it
        ends, or by succeeding; or somebody pushes it from outside. While it waits the attempt holds no slot.

        Args:
            task: a Task, or its id; not a mapped one.
            key: the key; by default what its handler returns.
            timeout_s: how many seconds to wait; None for as long as the value can come.
            as_type: a type to structure the value into, strictly; by default, with a Task and without key, its return annotation.

        Raises:
            XComWaitError: the value can't come any more: the task ended without it, or all that runs waits, each for another.
            XComWaitTimeoutError: it did not come in time.
            NotUpstreamError: the DAG has no such task.
            XComTypeError: the value is not of the type.
            StaleAttemptError: this attempt is over, and perhaps its run, so that nothing might wake who waits.

        Cancellation: nothing is left behind.
        """
        self._check_writable()
        index, key = self._waitable_index(task), check_key(key)
        if as_type is MISSING and isinstance(task, Task) and key == RETURN_VALUE:
            as_type = self._data.plan.tasks[index].return_type
        waiting = self._data.book.waiting
        waiter = Waiter(self._instance, self._data.instances[index], key)
        waiting.add(waiter)
        try:
            found = await self._await_value(waiter, index, timeout_s)
        finally:
            waiting.remove(waiter)
        return self._data.door.decode(found.serializer, found.value, as_type)

    async def _await_value(self, waiter: Waiter, index: int, timeout_s: float | None) -> Encoded:
        deadline = None if timeout_s is None else anyio.current_time() + timeout_s
        while True:
            waiter.rearm()
            # Looked at before the value: if the task ends in between, the next round sees both.
            has_ended = self._data.states[index] in ENDED_TASK_STATES
            found = await self._find_awaited(waiter, index)
            if found is not None:
                return found
            if has_ended:
                state = self._data.states[index]
                waiter.reason = f"task {waiter.awaited.task_id!r} has ended without it ({state!s})"
            if waiter.reason:
                raise XComWaitError(self._instance.task_id, waiter.awaited.task_id, waiter.key, waiter.reason)
            if not waiter.is_woken and not await self._rest(waiter, deadline):
                assert timeout_s is not None
                raise XComWaitTimeoutError(self._instance.task_id, waiter.awaited.task_id, waiter.key, timeout_s)

    async def _find_awaited(self, waiter: Waiter, index: int) -> Encoded | None:
        """Return the value if it may be seen: in STRICT mode a value that was accepted and awaits its commit may not."""
        data = self._data
        slots = data.book.slots_seen(waiter.awaited) if data.states[index] is TaskState.SUCCESS else None
        if slots is None and data.states[index] in ENDED_TASK_STATES:
            slots = (OUTSIDE,)
        (found,) = await data.broker.find([Lookup(instance=waiter.awaited, key=waiter.key, slots=slots)])
        if found is not None:
            self._attempt.note_reads([read_text(waiter.awaited.task_id, slot_of(found, slots), waiter.key)])
        return found

    async def _rest(self, waiter: Waiter, deadline: float | None) -> bool:
        """Wait, without a slot, until something happens; return False if the time is up before."""
        waiting = self._data.book.waiting
        async with self._attempt.parked():
            waiting.rest(waiter, may_go_on=deadline is not None or self._attempt.has_time_limit)
            try:
                with anyio.CancelScope(deadline=inf if deadline is None else deadline):
                    await waiter.wait()
            finally:
                waiting.rise(waiter)
        return waiter.is_woken

    def _waitable_index(self, task: Task[Any] | str) -> int:
        index = self._known_index(task)
        planned = self._data.plan.tasks[index]
        own_id, awaited_id = self._instance.task_id, planned.task_id
        if index == self._index:
            raise XComWaitError(own_id, awaited_id, RETURN_VALUE, "a task can't wait for itself")
        if planned.expansion is not None:
            raise XComWaitError(own_id, awaited_id, RETURN_VALUE, "it is mapped, and has a list of values once all have ended")
        return index
