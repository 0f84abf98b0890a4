"""What every error of the library has, and the few that belong to no part of it."""

from __future__ import annotations

import math
from typing import Any

__all__ = (
    "DagrelayError",
    "InvalidIdError",
    "InvalidTransitionError",
    "ProcessForkedError",
    "RetryAfter",
    "RuntimeClosedError",
    "Skip",
    "cut",
    "restore",
    "short",
)


def restore(cls: type[BaseException], args: tuple[Any, ...], facts: dict[str, Any]) -> BaseException:
    """Return a pickled error anew, without calling its constructor."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class DagrelayError(Exception):
    """Root of all errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle message and facts, as constructors take facts and not `args`."""
        return restore, (type(self), self.args, self.__dict__.copy())


class InvalidIdError(DagrelayError, ValueError):
    """A dag, task or run id, or a key, breaks its rule."""

    def __init__(self, kind: str, value: object, rule: str) -> None:
        """Take the `kind` of id, the offending `value` and the `rule` in words."""
        self.kind = kind
        self.value = value
        shown = ascii(value) if isinstance(value, str) else f"{type(value).__name__} {short(value)}"
        super().__init__(f"invalid {kind} {cut(shown)}: {rule}")


class InvalidTransitionError(DagrelayError, RuntimeError):
    """A change of state that the transition table does not have."""

    def __init__(self, kind: str, subject_id: str, old: str, new: str) -> None:
        """Take the `kind` ("task" or "run"), its id, and the two states."""
        self.kind = kind
        self.subject_id = subject_id
        self.old = old
        self.new = new
        super().__init__(f"{kind} {subject_id!r} can't go from {old!s} to {new!s}")


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


def short(value: object) -> str:
    """Return a value as ASCII to show, cut where it is long."""
    try:
        return cut(ascii(value))
    except Exception:  # noqa: BLE001 - a hostile __repr__ must not hide the error being told
        return "(unprintable)"


def cut(text: str, limit: int = 80) -> str:
    """Return a text, or its beginning and its length where it is long."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
