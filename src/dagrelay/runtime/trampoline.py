"""Runs a handler's coroutine inside the host's task but in a context of its own.

A task per attempt would cost more than all else the runtime does for it; a user can't tell the difference, as context variables
stay isolated, and timeouts and task groups inside the handler find the host's task as theirs.
"""

from __future__ import annotations

from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from contextvars import Context

__all__ = ("drive", "stack_of")

T = TypeVar("T")


@coroutine
def drive(handler: Coroutine[Any, Any, T], context: Context, on_suspend: Callable[[], None]) -> Generator[Any, Any, T]:
    """Run a coroutine to its end in `context` and return its value; `on_suspend` is called when it first suspends.

    Cancellation: goes into the coroutine like any exception, at the point where it waits.
    """
    step: Callable[[Any], Any] = handler.send
    given: Any = None
    is_suspended = False
    while True:
        try:
            wanted = context.run(step, given)
        except StopIteration as end:
            value: T = end.value
            return value
        if not is_suspended:
            is_suspended = True
            on_suspend()
        try:
            given = yield wanted
        except BaseException as error:  # noqa: ASYNC103, BLE001 - it is the handler's to catch, whatever it is
            step, given = handler.throw, error
        else:
            step = handler.send


def stack_of(handler: Coroutine[Any, Any, Any]) -> str:
    """Return where a suspended coroutine waits, outermost first, a line for each frame; empty for one that runs or is over."""
    lines: list[str] = []
    inner: Any = handler
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None) or getattr(inner, "ag_frame", None)
        if frame is None:
            break
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None) or getattr(inner, "ag_await", None)
    return "\n".join(lines)
