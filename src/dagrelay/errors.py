"""Every error of the library, in one tree.

::

    DagrelayError
    ├── InvalidIdError (ValueError)              an id or key breaks its rule
    ├── InvalidTransitionError (RuntimeError)    a state change the table does not have
    ├── DAGValidationError (ValueError)          planning found problems; `.problems` lists them all
    ├── DAGChangedError (ValueError)             a run can't go on with this DAG; `.changes`
    ├── TemplateError (ValueError)
    │   ├── TemplateSyntaxError                  `.column`
    │   ├── TemplateLimitError                   too long, too many references, too much text
    │   ├── TemplateValueError                   a value does not fit where a template puts it
    │   └── MissingReferenceError (LookupError)  a value is not there, and no default was given
    ├── XComError
    │   ├── XComNotFoundError (LookupError)      no such entry and no default
    │   ├── NotUpstreamError (LookupError)       the task read from is not upstream
    │   ├── XComTooLargeError (ValueError)       a value, or the run's sum, is over its limit
    │   ├── XComSerializationError (ValueError)  a value can't be stored exactly; ends in its JSON path
    │   ├── XComTypeError (TypeError)            a stored value is not of the type asked for; ends in its path
    │   ├── XComConflictError (ValueError)       an outside push would replace a finished task's return value
    │   └── StaleAttemptError (RuntimeError)     an attempt that is over tried to write
    ├── RunError
    │   ├── RunFailedError (ExceptionGroup)      a run failed; a group of TaskFailedError; `.result`
    │   ├── TaskFailedError (RuntimeError)       a task's last attempt failed; the original is its cause
    │   ├── TaskTimeoutError (TimeoutError)      an attempt ran over its time
    │   ├── RunCancelledError (RuntimeError)     a run was cancelled
    │   ├── RunInterruptedError (RuntimeError)   a run was interrupted and can be resumed
    │   ├── RunNotFoundError (LookupError)       no such run
    │   ├── TaskNotFoundError (LookupError)      the DAG has no such task
    │   ├── RunIdConflictError (ValueError)      the run id is taken by another DAG, other params or a pruned run
    │   └── RunStateError (RuntimeError)         the run's state does not allow what was asked
    ├── StoreError
    │   ├── StoreLockedError (OSError)           another process writes to it
    │   ├── StaleOwnerError                      another owner has taken it over
    │   ├── StoreFullError (OSError)             the disk is full
    │   ├── StoreCorruptError                    a stored row is not what was written
    │   ├── StoreVanishedError                   the file was moved or deleted
    │   ├── StoreReadOnlyError                   a write to a read-only store
    │   ├── StoreSchemaError                     written by a newer version, or no store of ours
    │   ├── StoreBackupError                     a backup was not made
    │   └── StoreClosedError                     used before opening or after closing
    ├── RuntimeClosedError (RuntimeError)        used before entering or after leaving it
    └── ProcessForkedError (RuntimeError)        an inherited runtime was used in a child process

    Skip, RetryAfter (Exception)                 signals a handler raises; no errors, and outside the tree

Constructors take facts and build the message: what, where, the limit, what to do. All are picklable.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "DAGChangedError",
    "DAGValidationError",
    "DagrelayError",
    "InvalidIdError",
    "InvalidTransitionError",
    "MissingReferenceError",
    "NotUpstreamError",
    "ProcessForkedError",
    "RetryAfter",
    "RunCancelledError",
    "RunError",
    "RunFailedError",
    "RunIdConflictError",
    "RunInterruptedError",
    "RunNotFoundError",
    "RunStateError",
    "RuntimeClosedError",
    "Skip",
    "StaleAttemptError",
    "StaleOwnerError",
    "StoreBackupError",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreReadOnlyError",
    "StoreSchemaError",
    "StoreVanishedError",
    "TaskFailedError",
    "TaskNotFoundError",
    "TaskTimeoutError",
    "TemplateError",
    "TemplateLimitError",
    "TemplateSyntaxError",
    "TemplateValueError",
    "XComConflictError",
    "XComError",
    "XComNotFoundError",
    "XComSerializationError",
    "XComTooLargeError",
    "XComTypeError",
)


def _restore(cls: type[BaseException], args: tuple[Any, ...], facts: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class DagrelayError(Exception):
    """Root of all errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle message and facts, as constructors take facts and not `args`."""
        return _restore, (type(self), self.args, self.__dict__.copy())


# -------------------------------------------------------------------------------------------------- names and states


class InvalidIdError(DagrelayError, ValueError):
    """A dag, task or run id, or a key, breaks its rule."""

    def __init__(self, kind: str, value: object, rule: str) -> None:
        """Take the `kind` of id, the offending `value` and the `rule` in words."""
        self.kind = kind
        self.value = value
        shown = ascii(value) if isinstance(value, str) else f"{type(value).__name__} {_short(value)}"
        super().__init__(f"invalid {kind} {_cut(shown)}: {rule}")


class InvalidTransitionError(DagrelayError, RuntimeError):
    """A change of state that the transition table does not have."""

    def __init__(self, kind: str, subject_id: str, old: str, new: str) -> None:
        """Take the `kind` ("task" or "run"), its id, and the two states."""
        self.kind = kind
        self.subject_id = subject_id
        self.old = old
        self.new = new
        super().__init__(f"{kind} {subject_id!r} can't go from {old!s} to {new!s}")


# -------------------------------------------------------------------------------------------------- DAGs and templates


class DAGValidationError(DagrelayError, ValueError):
    """Planning found problems; all of them are in `problems`, a tuple of sentences."""

    def __init__(self, dag_id: str, problems: Sequence[str]) -> None:
        """Take the DAG's id and every problem found."""
        self.dag_id = dag_id
        self.problems: tuple[str, ...] = tuple(problems)
        count = len(self.problems)
        head = f"DAG {dag_id!r} has {count} problem{'' if count == 1 else 's'}:"
        shown = [f"  - {problem}" for problem in self.problems[:50]]
        if count > len(shown):
            shown.append(f"  - and {count - len(shown)} more (see .problems)")
        super().__init__("\n".join([head, *shown]))


class DAGChangedError(DagrelayError, ValueError):
    """A stored run can't go on with the DAG given, as finished tasks vanished or were rewired."""

    def __init__(self, run_id: str, changes: Sequence[str]) -> None:
        """Take the run's id and every change that forbids it."""
        self.run_id = run_id
        self.changes: tuple[str, ...] = tuple(changes)
        listed = "; ".join(self.changes[:20])
        super().__init__(f"run {run_id!r} can't go on with this DAG: {listed}. Resume it with the DAG it was started with")


class TemplateError(DagrelayError, ValueError):
    """A template can't be compiled or rendered."""


class TemplateSyntaxError(TemplateError):
    """A template breaks the grammar."""

    def __init__(self, reason: str, *, column: int, text: str, path: str = "") -> None:
        """Take the reason, the `column` (from 1, in characters of `text`), the template's `text`, and its `path` in a config."""
        self.reason = reason
        self.column = column
        self.text = text
        self.path = path
        excerpt = text[max(0, column - 21) : column + 40]
        super().__init__(f"{reason} at column {column} of template, near {excerpt!r}" + (f" @ {path}" if path else ""))


class TemplateLimitError(TemplateError):
    """A template or its rendering is over a limit."""

    def __init__(self, what: str, *, actual: int, limit: int, setting: str) -> None:
        """Take what was measured, the two numbers and the name of the setting in `Limits`."""
        self.actual = actual
        self.limit = limit
        self.setting = setting
        super().__init__(f"{what}: {actual} exceeds the limit of {limit}; raise it by Limits({setting}=...)")


class TemplateValueError(TemplateError):
    """A value does not fit where a template puts it."""

    def __init__(self, reason: str, *, reference: str, text: str) -> None:
        """Take the reason, the `reference` (what stands between the braces) and the template's `text`."""
        self.reason = reason
        self.reference = reference
        self.text = text
        super().__init__(f"{{{{ {_cut(reference)} }}}} of template {_cut(text)!r}: {reason}")


class MissingReferenceError(TemplateError, LookupError):
    """A value that a template reads is not there, and no default was given."""

    def __init__(self, reference: str, *, text: str, hint: str = "") -> None:
        """Take the `reference` (what stands between the braces), the template's `text` and a hint."""
        self.reference = reference
        self.text = text
        more = f"; {hint}" if hint else ""
        where = f"{{{{ {_cut(reference)} }}}} of template {_cut(text)!r}"
        super().__init__(f"no value for {where}: add `| default(...)`, or take MissingPolicy.EMPTY{more}")


# -------------------------------------------------------------------------------------------------- XComs


class XComError(DagrelayError):
    """Something is wrong with a value handed on."""


class XComNotFoundError(XComError, LookupError):
    """There is no such entry, and no default was given."""

    def __init__(
        self,
        run_id: str,
        task_id: str,
        key: str,
        *,
        state: str | None = None,
        near: Sequence[str] = (),
        hint: str = "",
    ) -> None:
        """Take where it was looked for, the task's `state` if known, near names and a hint."""
        self.run_id = run_id
        self.task_id = task_id
        self.key = key
        self.state = state
        self.near: tuple[str, ...] = tuple(near)
        parts = [f"no XCom {key!r} of task {task_id!r} in run {run_id!r}"]
        parts.append(f" (the task is {state!s})" if state else " (the run has no such task)")
        if self.near:
            parts.append(f"; did you mean {' or '.join(map(repr, self.near))}?")
        if hint:
            parts.append(f"; {hint}")
        super().__init__("".join(parts))


class NotUpstreamError(XComError, LookupError):
    """The task read from is not upstream of the reader, so that the read would be a race."""

    def __init__(self, task_id: str, upstream_id: str, *, known: bool = True, near: Sequence[str] = ()) -> None:
        """Take the reader and the task it read from; `known` tells whether the DAG has it at all."""
        self.task_id = task_id
        self.upstream_id = upstream_id
        self.near: tuple[str, ...] = tuple(near)
        if known:
            text = (
                f"task {task_id!r} can't pull from {upstream_id!r}, which is not upstream of it: add depends_on={upstream_id!r}"
            )
        else:
            text = f"task {task_id!r} can't pull from {upstream_id!r}: the DAG has no such task"
            if self.near:
                text += f"; did you mean {' or '.join(map(repr, self.near))}?"
        super().__init__(text)


class XComTooLargeError(XComError, ValueError):
    """A value, or the sum of a run's values, is over its limit; nothing was stored."""

    def __init__(self, what: str, *, actual: int, limit: int, setting: str) -> None:
        """Take what was measured, its size in bytes (a lower bound when encoding was stopped early) and the limit."""
        self.actual = actual
        self.limit = limit
        self.setting = setting
        super().__init__(
            f"{what}: {actual:,} bytes exceed the limit of {limit:,}; store large data elsewhere and push its path, "
            f"or raise {setting}"
        )


class XComSerializationError(XComError, ValueError):
    """A value can't be stored so that the same value is pulled."""

    def __init__(self, reason: str, *, path: str = "$") -> None:
        """Take the reason and the JSON path of the culprit."""
        self.reason = reason
        self.path = path
        super().__init__(f"{reason} @ {path}")


class XComTypeError(XComError, TypeError):
    """A stored value is not of the type asked for."""

    def __init__(self, reason: str, *, path: str = "$") -> None:
        """Take the reason and the JSON path of the culprit."""
        self.reason = reason
        self.path = path
        super().__init__(f"{reason} @ {path}")


class XComConflictError(XComError, ValueError):
    """A push from outside would replace the return value of a finished task."""

    def __init__(self, run_id: str, task_id: str, key: str) -> None:
        """Take where the value stands."""
        self.run_id = run_id
        self.task_id = task_id
        self.key = key
        super().__init__(
            f"task {task_id!r} of run {run_id!r} has finished and its {key!r} can't be replaced: "
            "push under another key, or clear the task by retry"
        )


class StaleAttemptError(XComError, RuntimeError):
    """An attempt that is over (timed out, cancelled, finished, superseded) tried to write; nothing was stored."""

    def __init__(self, run_id: str, task_id: str, attempt: int) -> None:
        """Take the attempt."""
        self.run_id = run_id
        self.task_id = task_id
        self.attempt = attempt
        super().__init__(f"attempt {attempt} of task {task_id!r} in run {run_id!r} is over and can't write any more")


# -------------------------------------------------------------------------------------------------- runs


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
        return _restore, (type(self), (self.message, list(self.exceptions)), {"run_id": self.run_id, "result": None})


class TaskTimeoutError(RunError, TimeoutError):
    """An attempt ran longer than its `timeout_s` and was cancelled."""

    def __init__(self, task_id: str, attempt: int, timeout_s: float) -> None:
        """Take the attempt and its limit in seconds."""
        self.task_id = task_id
        self.attempt = attempt
        self.timeout_s = timeout_s
        super().__init__(f"attempt {attempt} of task {task_id!r} ran longer than timeout_s={timeout_s:g}")


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


# -------------------------------------------------------------------------------------------------- stores


class StoreError(DagrelayError):
    """The store can't do what it was asked; the driver's exception is the cause."""


class StoreLockedError(StoreError, OSError):
    """Another process (or another runtime of this one) writes to the store."""

    def __init__(self, path: str, *, pid: int | None, host: str | None, since: str | None) -> None:
        """Take the store's path and what its lock file says of the owner."""
        self.path = path
        self.pid = pid
        self.host = host
        self.since = since
        owner = f"process {pid} on {host} since {since}" if pid is not None else "another process"
        super().__init__(f"store {path!r} is in use by {owner}; one writer at a time (open it with read_only=True to look)")


class StaleOwnerError(StoreError):
    """Another owner has taken the store over since it was opened; nothing was written."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"store {path!r} has been taken over by another owner; nothing was written")


class StoreFullError(StoreError, OSError):
    """The disk, or the database's page limit, is full."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"no room left to write to store {path!r}; free some space and resume")


class StoreCorruptError(StoreError):
    """What was read is not what was written."""

    def __init__(self, path: str, what: str) -> None:
        """Take the store's path and what is damaged."""
        self.path = path
        self.what = what
        super().__init__(f"store {path!r} is damaged: {what}")


class StoreVanishedError(StoreError):
    """The database file was moved or deleted while open."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"the file of store {path!r} was moved or deleted while in use")


class StoreReadOnlyError(StoreError):
    """A write was asked of a store opened for reading, or of a file that can't be written."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"store {path!r} is read-only")


class StoreSchemaError(StoreError):
    """The file is no store of this library, or a newer version wrote it; it is left untouched."""

    def __init__(self, path: str, reason: str) -> None:
        """Take the store's path and the reason."""
        self.path = path
        self.reason = reason
        super().__init__(f"can't open store {path!r}: {reason}")


class StoreBackupError(StoreError):
    """A backup was not made; nothing stands under its name but what stood there before."""

    def __init__(self, path: str, target: str, reason: str) -> None:
        """Take the store's path, where the backup was to go, and why it did not."""
        self.path = path
        self.target = target
        self.reason = reason
        super().__init__(f"can't back up store {path!r} to {target!r}: {reason}")


class StoreClosedError(StoreError):
    """The store is not open."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"store {path!r} is not open")


# -------------------------------------------------------------------------------------------------- the runtime itself


class RuntimeClosedError(DagrelayError, RuntimeError):
    """The runtime was used before `async with` entered it, or after it was left."""

    def __init__(self, reason: str = "use it inside `async with Runtime(...) as runtime:`") -> None:
        """Take what to do about it."""
        super().__init__(f"the runtime is not running: {reason}")


class ProcessForkedError(DagrelayError, RuntimeError):
    """A runtime inherited through fork was used in the child; the parent's is unhurt."""

    def __init__(self, owner_pid: int, pid: int) -> None:
        """Take the two process ids."""
        self.owner_pid = owner_pid
        self.pid = pid
        super().__init__(
            f"this runtime belongs to process {owner_pid} and can't be used in its child {pid}; open a new one there"
        )


# -------------------------------------------------------------------------------------------------- signals


class Skip(Exception):  # noqa: N818 - a signal, no error
    """Raise it in a handler to end the task instance as skipped."""

    def __init__(self, reason: str = "") -> None:
        """Take why, for the record."""
        self.reason = reason
        super().__init__(reason)


class RetryAfter(Exception):  # noqa: N818 - a signal, no error
    """Raise it in a handler to fail the attempt and have the next one start no sooner than `seconds` from now.

    It counts as an attempt; without one left the task fails.
    """

    def __init__(self, seconds: float) -> None:
        """Take the seconds to wait, finite and not negative."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:  # pyright: ignore[reportUnnecessaryIsInstance] - not every caller is typed
            message = f"RetryAfter needs a finite number of seconds >= 0, not {seconds!r}"
            raise ValueError(message)
        self.seconds: float = float(seconds)
        super().__init__(self.seconds)


def _short(value: object) -> str:
    try:
        return _cut(ascii(value))
    except Exception:  # noqa: BLE001 - a hostile __repr__ must not hide the error being told
        return "(unprintable)"


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
