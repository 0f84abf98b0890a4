"""Reading of other runs from within a handler: what earlier ones had, and one by its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from dagrelay.dag.task import Task
from dagrelay.errors import InvalidIdError, XComTypeError
from dagrelay.ids import check_key, check_run_id
from dagrelay.model.missing import MISSING
from dagrelay.stores.operations import RETURN_VALUE
from dagrelay.xcom.bound import Bound
from dagrelay.xcom.lineage import read_text
from dagrelay.xcom.other_run import OtherRun

if TYPE_CHECKING:
    from dagrelay.stores.base import StoredEntry

__all__ = ("TaskHistory",)

R = TypeVar("R")
T = TypeVar("T")
D = TypeVar("D")


class TaskHistory(Bound):
    """Read other runs; see `TaskXCom`."""

    @overload
    async def previous(self, task: Task[R]) -> R: ...
    @overload
    async def previous(self, task: Task[R], *, default: D) -> R | D: ...
    @overload
    async def previous(self, task: Task[Any] | str, key: str = ..., *, as_type: type[T]) -> T: ...
    @overload
    async def previous(self, task: Task[Any] | str, key: str = ..., *, default: D, as_type: type[T]) -> T | D: ...
    @overload
    async def previous(self, task: Task[Any] | str, key: str = ..., *, default: Any = ..., as_type: Any = ...) -> Any: ...
    async def previous(
        self, task: Task[Any] | str, key: str = RETURN_VALUE, *, default: Any = MISSING, as_type: Any = MISSING
    ) -> Any:
        """Return what a task of the DAG, this one as well, had in the newest earlier run that has such an entry.

        Earlier are the runs of the DAG that were created before this one, whatever state they are in; those in which the task did
        not succeed are passed over. The task need not be upstream, and no edge is made.

        Args:
            task: a Task (its return value comes structured by its return annotation, which a value of an earlier version of the
                DAG may not fit) or its id; not a mapped one.
            key: the key; by default what the handler returned.
            default: what to return if no earlier run has it, as for the first run of all; a stored None is a value.
            as_type: a type to structure the value into, strictly.

        Raises:
            XComNotFoundError: no earlier run has it, and there is no default.
            NotUpstreamError: the DAG has no such task.
            XComTypeError: the task is mapped (read it by `of_run`), or the value is not of the type.

        Cancellation: nothing is left behind.
        """
        self._check_readable()
        data, key, index = self._data, check_key(key), self._known_index(task)
        planned = data.plan.tasks[index]
        if planned.expansion is not None:
            raise XComTypeError(f"task {planned.task_id!r} is mapped; read it by ctx.xcom.of_run(run_id).pull_outputs()", path="")
        if as_type is MISSING and isinstance(task, Task) and key == RETURN_VALUE:
            as_type = planned.return_type
        rows: list[tuple[str, StoredEntry]] = await data.store.previous(
            data.plan.dag_id, planned.task_id, key, before_run=data.book.run_id, limit=1
        )
        for run_id, found in rows:
            self._attempt.note_reads([read_text(planned.task_id, found.slot, key, None, run_id)])
            return data.door.decode(found.serializer, found.value, as_type)
        if default is not MISSING:
            return default
        raise data.no_earlier(planned.task_id, key)

    def of_run(self, run_id: str) -> OtherRun:
        """Return a reader of another run of the same store; nothing is read before it is asked.

        Raises:
            InvalidIdError: it is no run id, or that of this run, in which only upstream tasks are read: use `pull`.
        """
        run_id = check_run_id(run_id)
        if run_id == self._data.book.run_id:
            raise InvalidIdError("id of another run", run_id, "it is this run's own; read it by ctx.xcom.pull")
        return OtherRun(self._data, self._attempt, run_id, self._check_readable)
