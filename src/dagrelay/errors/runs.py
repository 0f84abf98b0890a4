"""Errors of runs and tasks: how they ended, and what their state does not allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from dagrelay.errors.base import DagrelayError, restore

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "BranchError",
    "MapTooLongError",
    "RunCancelledError",
    "RunError",
    "RunFailedError",
    "RunIdConflictError",
    "RunInterruptedError",
    "RunNotFoundError",
    "RunStateError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TaskTimeoutError",
)


class RunError(DagrelayError):
    """Something went wrong with a run."""


class TaskFailedError(RunError, RuntimeError):
    """The last attempt of a task failed; `__cause__` is the handler's exception if it was raised in this process."""

    def __init__(self, task_id: str, *, map_index: int | None = None, attempt: int, reason: str) -> None:
        """Take the task instance, its last attempt and the recorded reason."""
        self.task_id = task_id
        self.map_index = map_index
        self.attempt = attempt
        self.reason = reason
        name = task_id if map_index is None else f"{task_id}[{map_index}]"
        super().__init__(f"task {name!r} failed in attempt {attempt}: {reason}")


class RunFailedError(RunError, ExceptionGroup[TaskFailedError]):
    """A run failed: a group of one TaskFailedError for each failed task; `result` is the RunResult."""

    run_id: str
    result: Any

    def __new__(cls, message: str, errors: Sequence[TaskFailedError], *, run_id: str = "", result: Any = None) -> Self:
        """Build the group (its message and errors are fixed at creation)."""
        self = super().__new__(cls, message, list(errors))
        self.run_id = run_id
        self.result = result
        return self

    def __init__(self, message: str, errors: Sequence[TaskFailedError], *, run_id: str = "", result: Any = None) -> None:  # noqa: ARG002 - kept by __new__
        """Take the message, the failed tasks' errors, the run's id and its result."""
        super().__init__(message, list(errors))

    def derive(self, excs: Sequence[Any]) -> Any:
        """Return a group of the same kind for `split` and `subgroup`."""
        return RunFailedError(self.message, excs, run_id=self.run_id, result=self.result)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the group without the result, which belongs to a runtime of this process."""
        return restore, (type(self), (self.message, list(self.exceptions)), {"run_id": self.run_id, "result": None})


class TaskTimeoutError(RunError, TimeoutError):
    """An attempt ran longer than its `timeout_s` and was cancelled, or no value came from outside within it."""

    def __init__(self, task_id: str, attempt: int, timeout_s: float, *, is_outside: bool = False) -> None:
        """Take the attempt and its limit in seconds; `is_outside` tells that it waited for a value from outside."""
        self.task_id = task_id
        self.attempt = attempt
        self.timeout_s = timeout_s
        self.is_outside = is_outside
        if is_outside:
            text = f"no value came from outside for attempt {attempt} of task {task_id!r} within timeout_s={timeout_s:g}"
        else:
            text = f"attempt {attempt} of task {task_id!r} ran longer than timeout_s={timeout_s:g}"
        super().__init__(text)


class MapTooLongError(RunError, ValueError):
    """A mapped task has more elements than it may; none of them ran."""

    def __init__(self, task_id: str, *, length: int, limit: int) -> None:
        """Take the task, how many elements it has, and how many it may have."""
        self.task_id = task_id
        self.length = length
        self.limit = limit
        super().__init__(
            f"task {task_id!r} is mapped over {length:,} elements, more than the limit of {limit:,}; map over batches of them, "
            "or raise Limits(max_map_length=...)"
        )


class BranchError(RunError, ValueError):
    """A branch chose something else than tasks directly downstream of it."""

    def __init__(self, task_id: str, chosen: str, downstream: Sequence[str]) -> None:
        """Take the branch, what it chose, as text, and what it can choose from."""
        self.task_id = task_id
        self.chosen = chosen
        self.downstream: tuple[str, ...] = tuple(downstream)
        super().__init__(
            f"branch {task_id!r} chose {chosen}; it can choose from the tasks directly downstream of it: "
            f"{', '.join(map(repr, self.downstream)) or 'there are none'}"
        )


class RunCancelledError(RunError, RuntimeError):
    """A run was cancelled by `cancel()`; `resume` takes it up again."""

    def __init__(self, run_id: str) -> None:
        """Take the run's id."""
        self.run_id = run_id
        super().__init__(f"run {run_id!r} was cancelled; runtime.resume() takes it up again")


class RunInterruptedError(RunError, RuntimeError):
    """A run was interrupted (its runtime was left, or its store failed); it can be resumed."""

    def __init__(self, run_id: str, reason: str = "its runtime was left") -> None:
        """Take the run's id and why it stopped."""
        self.run_id = run_id
        self.reason = reason
        super().__init__(f"run {run_id!r} was interrupted ({reason}); runtime.resume() takes it up again")


class RunNotFoundError(RunError, LookupError):
    """The store has no such run."""

    def __init__(self, run_id: str, near: Sequence[str] = ()) -> None:
        """Take the run's id and near ones."""
        self.run_id = run_id
        self.near: tuple[str, ...] = tuple(near)
        hint = f"; did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        super().__init__(f"no run {run_id!r} in this store{hint}")


class TaskNotFoundError(RunError, LookupError):
    """The DAG has no such task."""

    def __init__(self, dag_id: str, task_id: str, near: Sequence[str] = ()) -> None:
        """Take the DAG, the task's id and near ones."""
        self.dag_id = dag_id
        self.task_id = task_id
        self.near: tuple[str, ...] = tuple(near)
        hint = f"; did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        super().__init__(f"DAG {dag_id!r} has no task {task_id!r}{hint}")


class RunIdConflictError(RunError, ValueError):
    """A run id stands for something else already; run ids are unique in a store, for ever."""

    def __init__(self, run_id: str, reason: str) -> None:
        """Take the run's id and what it stands for."""
        self.run_id = run_id
        self.reason = reason
        super().__init__(f"run id {run_id!r} {reason}; choose another run_id")


class RunStateError(RunError, RuntimeError):
    """The state of a run or task does not allow what was asked."""

    def __init__(self, run_id: str, state: str, wanted: str) -> None:
        """Take the run, its state and what was wanted, as in `it can't be deleted`."""
        self.run_id = run_id
        self.state = state
        super().__init__(f"run {run_id!r} is {state!s}: {wanted}")
