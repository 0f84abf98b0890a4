"""A run that the runtime owns, as its starter sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dagrelay.dag.plan import Plan
    from dagrelay.model.events import Event
    from dagrelay.runtime.result import RunResult
    from dagrelay.runtime.runtime import Runtime
    from dagrelay.runtime.scheduler import Scheduler

__all__ = ("RunHandle",)


class RunHandle:
    """A started run. Dropping the handle changes nothing: the runtime owns the run."""

    def __init__(self, runtime: Runtime, run_id: str, plan: Plan, scheduler: Scheduler | None) -> None:
        """Take the runtime, the run, its plan, and what runs it (None if it had ended before)."""
        self._runtime = runtime
        self._plan = plan
        self._scheduler = scheduler
        self.run_id = run_id

    async def result(self, *, raise_on_failure: bool = True) -> RunResult:
        """Wait for the run to end and return its result.

        Raises:
            RunFailedError: it failed, unless `raise_on_failure` is false.
            RunCancelledError: it was cancelled.
            RunInterruptedError: it was interrupted.

        Cancellation: only the waiting ends; the run goes on.
        """
        return await self._runtime.result_of(self.run_id, self._plan, self._scheduler, raise_on_failure=raise_on_failure)

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
