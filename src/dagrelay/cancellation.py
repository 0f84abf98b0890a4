"""Work that must come to its end whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ("runs_on_asyncio", "to_its_end")

T = TypeVar("T")


def runs_on_asyncio() -> bool:
    """Return whether the loop that is running is asyncio's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work to its end and return its result.

    On asyncio it gets a task of its own: anyio's shield stops the cancellation of scopes, but not a native one (`task.cancel()`,
    `asyncio.timeout`, a loop at its end).

    Cancellation: a native one is raised once the work is over, and its result or error is lost; any other waits for the next
    checkpoint after this one.
    """
    results: list[T] = []
    with anyio.CancelScope(shield=True):
        results.append(await (_in_a_task(work) if runs_on_asyncio() else work))
    return results.pop()


async def _in_a_task(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(work)
    cancelled: BaseException | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:  # noqa: ASYNC103 - raised once the work is over
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # The cancellation outranks it; asking keeps the loop from reporting it as never retrieved.
        raise cancelled
    return task.result()
