"""A one-shot reply that carries an outcome instead of raising: the asker may be gone, and an actor must not care."""

from __future__ import annotations

from typing import Generic, TypeVar

import anyio

__all__ = ("Reply",)

T = TypeVar("T")


class Reply(Generic[T]):
    """Where one answer arrives, once.

    A second answer is dropped, as is one whose asker was cancelled: both are races that harm nobody.
    """

    __slots__ = ("_future",)

    def __init__(self) -> None:
        """Wait for an answer, unanswered yet."""
        self._future: anyio.Future[T | Exception] = anyio.Future()

    @property
    def is_answered(self) -> bool:
        """Whether the answer has come."""
        return self._future.status is not anyio.Future.Status.PENDING

    def answer(self, value: T) -> None:
        """Give the answer."""
        if not self.is_answered:
            self._future.return_value = value

    def fail(self, error: Exception) -> None:
        """Give an error, raised where the answer is awaited."""
        if not self.is_answered:
            self._future.return_value = error

    async def wait(self) -> T:
        """Return the answer, or raise the error given instead.

        Cancellation: only the waiting ends; what was asked for goes on.
        """
        outcome = await self._future
        if isinstance(outcome, Exception):
            raise outcome
        return outcome
