"""A run that the runtime owns, as its starter sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dagrelay.model.events import Event
    from dagrelay.runtime.launching import Launch
    from dagrelay.runtime.result import RunResult

__all__ = ("RunHandle", "RunOwner")


class RunOwner(Protocol):
    """What a handle asks of the runtime."""

    async def result_of(self, launch: Launch, *, raise_on_failure: bool = True) -> RunResult:
        """Return the result of a run once it has ended."""
        ...

    async def cancel(self, run_id: str) -> None:
        """End a run as cancelled."""
        ...

    def events(self, run_id: str) -> AsyncIterator[Event]:
        """Iterate over a run's timeline."""
        ...


class RunHandle:
    """A started run. Dropping the handle changes nothing: the runtime owns the run."""

    def __init__(self, runtime: RunOwner, launch: Launch) -> None:
        """Take the runtime and what it started."""
        self._runtime = runtime
        self._launch = launch

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._launch.run_id

    async def result(self, *, raise_on_failure: bool = True) -> RunResult:
        """Wait for the run to end and return its result.

        Raises:
            RunFailedError: it failed, unless `raise_on_failure` is false.
            RunCancelledError: it was cancelled.
            RunInterruptedError: it was interrupted.

        Cancellation: only the waiting ends; the run goes on.
        """
        return await self._runtime.result_of(self._launch, raise_on_failure=raise_on_failure)

    async def cancel(self) -> None:
        """Cancel the run and wait until that is recorded; nothing happens if it has ended.

        Cancellation: the run is cancelled all the same.
        """
        await self._runtime.cancel(self.run_id)

    def events(self) -> AsyncIterator[Event]:
        """Iterate over the run's timeline: what has happened, then what happens, until it ends."""
        return self._runtime.events(self.run_id)

    def __repr__(self) -> str:
        """Show the run."""
        return f"<RunHandle {self.run_id!r}>"
