"""Errors of XComs: a value is not there, can't be stored, or must not be written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.errors.base import DagrelayError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "NotUpstreamError",
    "StaleAttemptError",
    "XComConflictError",
    "XComError",
    "XComNotFoundError",
    "XComSerializationError",
    "XComTooLargeError",
    "XComTypeError",
)


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
