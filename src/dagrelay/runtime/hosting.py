"""Carries attempts: a bounded set of host tasks takes them one after another.

A user can't tell it from a task each: context variables are isolated, timeouts and task groups inside a handler work, and what one
handler does to its task (a `cancel()` of its own, say) is undone before the next comes. A handler's first step runs at once;
another host wakes only when it suspends, so that handlers that never wait cost no switch.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import anyio
import attrs
from anyio import lowlevel

from dagrelay.log import get_logger
from dagrelay.runtime.attempt import CancelReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from dagrelay.runtime.admission import Admission
    from dagrelay.runtime.attempt import Attempt
    from dagrelay.runtime.timers import Timers

__all__ = ("Hosting", "HostingStatistics", "Job")

_STEPS_BETWEEN_CHECKPOINTS: Final = 16
"""Attempts that a host carries without waiting before it lets others run."""


@attrs.frozen(eq=False)
class Job:
    """An attempt on its way through admission and hosting, and whom to tell."""

    owner: object
    """Whose line it stands in."""
    attempt: Attempt
    """What to carry out."""
    on_end: Callable[[Attempt, bool], None]
    """Called after it: the attempt, and whether the broker took its outcome."""


@attrs.frozen(kw_only=True)
class HostingStatistics:
    """The hosts."""

    hosts: int
    """Host tasks alive."""
    idle: int
    """Those without an attempt."""


class Hosting:
    """The hosts of one runtime.

    Args:
        admission: what grants slots.
        timers: for the patience with stubborn handlers.
        grace_s: seconds after which a handler that goes on in spite of its cancellation is named in a warning.
    """

    def __init__(self, admission: Admission[Job], timers: Timers, *, grace_s: float) -> None:
        """Start without hosts; they come as they are needed."""
        self._admission = admission
        self._timers = timers
        self._grace_s = grace_s
        self._task_group: TaskGroup | None = None
        self._idle: list[anyio.Event] = []
        self._hosts = 0
        # Hosts that were woken or spawned and have not looked for work yet: one is enough to take the next attempt.
        self._searching = 0
        self._is_closed = False
        self._on_asyncio = False

    def open(self, task_group: TaskGroup) -> None:
        """Take the task group to spawn hosts in."""
        self._task_group = task_group
        self._on_asyncio = _runs_on_asyncio()

    def close(self) -> None:
        """Let idle hosts end, and busy ones after their attempt."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().set()

    def submit(self, job: Job) -> None:
        """Queue an attempt."""
        self._admission.add(job.owner, job)
        self.wake()

    def wake(self) -> None:
        """Have a host look for work, if there is some and none is looking."""
        if self._searching or not self._admission.has_grantable:
            return
        self._searching += 1
        if self._idle:
            self._idle.pop().set()
        else:
            assert self._task_group is not None  # noqa: S101 - `open` comes first
            self._hosts += 1
            self._task_group.start_soon(self._host, name=f"host {self._hosts}")

    def cancel(self, attempt: Attempt, reason: CancelReason) -> None:
        """Cancel a hosted attempt, and watch that it ends."""
        attempt.cancel(reason)
        self._timers.after(self._grace_s, lambda: self._warn_if_alive(attempt))

    def _warn_if_alive(self, attempt: Attempt) -> None:
        if not attempt.is_closed:
            get_logger().warning(
                "attempt.ignores_cancellation",
                run_id=attempt.instance.run_id,
                task_id=attempt.instance.task_id,
                attempt=attempt.number,
                reason=str(attempt.cancel_reason),
                grace_s=self._grace_s,
            )

    # --------------------------------------------------------------------------------------------------------- host

    async def _host(self) -> None:
        """Carry attempts until closed.

        Shielded: what the host application cancels is the run, and the run cancels its attempts, with a reason. A cancellation
        that comes without one is the handler's own doing, or the loop's at its end.
        """
        is_alive = True
        with anyio.CancelScope(shield=True):
            while is_alive:
                # One scope for many attempts, entered anew only after it was used: a scope each is a tenth of a task's cost.
                with anyio.CancelScope() as scope:
                    is_alive = await self._carry_until_cancelled(scope)
        self._hosts -= 1

    async def _carry_until_cancelled(self, scope: anyio.CancelScope) -> bool:
        steps = 0
        while not scope.cancel_called:
            self._searching = 0
            job = self._admission.take()
            if job is None:
                steps = 0
                if not await self._rest():
                    return False
                continue
            await self._carry(job, scope)
            steps += 1
            if steps == _STEPS_BETWEEN_CHECKPOINTS and not scope.cancel_called:
                steps = 0
                self.wake()
                await lowlevel.cancel_shielded_checkpoint()
        return True

    async def _rest(self) -> bool:
        """Wait for work; return False once closed."""
        if self._is_closed:
            return False
        event = anyio.Event()
        self._idle.append(event)
        try:
            await event.wait()
        except BaseException:
            if event in self._idle:
                self._idle.remove(event)
            self._hosts -= 1
            raise
        return not self._is_closed or self._admission.has_grantable

    async def _carry(self, job: Job, scope: anyio.CancelScope) -> None:
        attempt = job.attempt
        attempt.scope = scope
        is_taken = False
        try:
            is_taken = await attempt.carry_out(self.wake)
        finally:
            attempt.scope = None
            self._admission.release(job.owner)
            job.on_end(attempt, is_taken)
        if self._on_asyncio and not scope.cancel_called:
            await _forget_own_cancellation()

    def statistics(self) -> HostingStatistics:
        """Return the hosts."""
        return HostingStatistics(hosts=self._hosts, idle=len(self._idle))


def _runs_on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _forget_own_cancellation() -> None:
    """Undo what a handler did by cancelling its own asyncio task, so that the next handler on this host is not hit by it."""
    task = asyncio.current_task()
    if task is None or not task.cancelling():
        return
    try:
        await asyncio.sleep(0)  # A cancellation not delivered yet comes out here.
    except asyncio.CancelledError:
        pass
    while task.cancelling():
        task.uncancel()
