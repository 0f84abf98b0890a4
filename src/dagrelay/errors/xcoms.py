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
    "XComStreamError",
    "XComTooLargeError",
    "XComTypeError",
    "XComWaitError",
    "XComWaitTimeoutError",
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
        map_index: int | None = None,
        state: str | None = None,
        near: Sequence[str] = (),
        hint: str = "",
        dag_id: str | None = None,
    ) -> None:
        """Take where it was looked for, the `state` of the task or element if known, near names and a hint.

        With `dag_id` it was looked for in the runs of that DAG that are older than the run.
        """
        self.run_id = run_id
        self.task_id = task_id
        self.map_index = map_index
        self.key = key
        self.dag_id = dag_id
        self.state = state
        self.near: tuple[str, ...] = tuple(near)
        whose = f"task {task_id!r}" if map_index is None else f"element {map_index} of task {task_id!r}"
        where = f"in run {run_id!r}" if dag_id is None else f"in any run of DAG {dag_id!r} before run {run_id!r}"
        parts = [f"no XCom {key!r} of {whose} {where}"]
        if state:
            parts.append(f" (the {'task' if map_index is None else 'element'} is {state!s})")
        elif map_index is None and dag_id is None:
            parts.append(" (the run has no such task)")
        if self.near:
            parts.append(f"; did you mean {' or '.join(map(repr, self.near))}?")
        if hint:
            parts.append(f"; {hint}")
        super().__init__("".join(parts))


class NotUpstreamError(XComError, LookupError):
    """The task read from is not upstream of the reader, so that the read would be a race."""

    def __init__(
        self, task_id: str, upstream_id: str, *, known: bool = True, near: Sequence[str] = (), is_stream: bool = False
    ) -> None:
        """Take the reader and the task it read from, a stream or else a value; `known` tells whether the DAG has it at all."""
        self.task_id = task_id
        self.upstream_id = upstream_id
        self.near: tuple[str, ...] = tuple(near)
        if known and is_stream:
            text = (
                f"task {task_id!r} can't read a stream of {upstream_id!r}, which is not upstream of it: "
                f"add after_start={upstream_id!r}"
            )
        elif known:
            text = (
                f"task {task_id!r} can't pull from {upstream_id!r}, which is not upstream of it: add depends_on={upstream_id!r}, "
                "or use wait() for what a task beside it publishes"
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
    """A stored value is not of the type asked for, or is none where a list was, or the other way round."""

    def __init__(self, reason: str, *, path: str = "$") -> None:
        """Take the reason and the JSON path of the culprit; an empty one where no part of a value is to blame."""
        self.reason = reason
        self.path = path
        super().__init__(f"{reason} @ {path}" if path else reason)


class XComConflictError(XComError, ValueError):
    """A value would replace what a finished task returned, what was provided before, or another item of a stream."""

    def __init__(self, run_id: str, task_id: str, key: str, *, is_there: bool = False, seq: int | None = None) -> None:
        """Take where the value stands, and whether it came from outside too, to a task that has not finished.

        With `seq` it is an item of a stream.
        """
        self.run_id = run_id
        self.task_id = task_id
        self.key = key
        self.seq = seq
        if seq is not None:
            super().__init__(
                f"item {seq} can't be appended to stream {key!r} of task {task_id!r} in run {run_id!r}: what stands there, or "
                "was passed over, is not the same"
            )
            return
        if is_there:
            super().__init__(f"task {task_id!r} of run {run_id!r} was given its {key!r} already, which can't be replaced")
            return
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


class XComWaitError(XComError, LookupError):
    """What a task waits for can't come any more."""

    def __init__(self, task_id: str, awaited_id: str, key: str, reason: str) -> None:
        """Take who waits, whose value it waits for, under which key, and why that can't come, as a clause."""
        self.task_id = task_id
        self.awaited_id = awaited_id
        self.key = key
        self.reason = reason
        super().__init__(f"task {task_id!r} waits for XCom {key!r} of task {awaited_id!r}, which can't come: {reason}")


class XComWaitTimeoutError(XComError, TimeoutError):
    """What a task waits for did not come in time."""

    def __init__(self, task_id: str, awaited_id: str, key: str, timeout_s: float) -> None:
        """Take who waits, whose value it waits for, under which key, and how many seconds it waited."""
        self.task_id = task_id
        self.awaited_id = awaited_id
        self.key = key
        self.timeout_s = timeout_s
        super().__init__(f"task {task_id!r} waited {timeout_s:g} s for XCom {key!r} of task {awaited_id!r}, which did not come")


class XComStreamError(XComError, RuntimeError):
    """A stream can't be read, or not to its end, as its producer has not succeeded."""

    def __init__(self, task_id: str, producer_id: str, key: str, *, state: str | None = None, reason: str = "") -> None:
        """Take who reads or appends, whose stream, its key, and the state in which the producer ended, or another reason."""
        self.task_id = task_id
        self.producer_id = producer_id
        self.key = key
        self.state = state
        self.reason: str = reason or f"task {producer_id!r} is {state!s}, and what was appended has been handed out"
        super().__init__(f"stream {key!r} of task {producer_id!r} broke off for task {task_id!r}: {self.reason}")
