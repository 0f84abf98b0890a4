"""Carries attempts: a bounded set of host tasks takes them one after another.

A user can't tell it from a task each: context variables are isolated, timeouts and task groups inside a handler work, and
a host whose task was cancelled by somebody else (a handler its own, say) carries no further attempt. A handler's first step runs
at once; another host wakes only when it suspends, so that handlers that never wait cost no switch.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import attrs

from dagrelay.cancellation import runs_on_asyncio
from dagrelay.log import get_logger

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from dagrelay.runtime.admission import Admission
    from dagrelay.runtime.attempt import Attempt
    from dagrelay.runtime.timers import Timers

__all__ = ("Hosting", "HostingStatistics")

_STEPS_BETWEEN_CHECKPOINTS: Final = 64
"""Attempts that a host carries without waiting before it lets others run."""


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

    def __init__(self, admission: Admission[Attempt], timers: Timers, *, grace_s: float) -> None:
        """Start without hosts; they come as they are needed."""
        self._admission = admission
        self._timers = timers
        self._grace_s = grace_s
        self._task_group: TaskGroup | None = None
        self._idle: list[anyio.Event] = []
        self._hosts = 0
        # Whether a host was woken or spawned and has not looked for work yet: one is enough to take the next attempt.
        self._is_one_coming = False
        self._is_closed = False
        self._on_asyncio = False

    def open(self, task_group: TaskGroup) -> None:
        """Take the task group to spawn hosts in."""
        self._task_group = task_group
        self._on_asyncio = runs_on_asyncio()

    def close(self) -> None:
        """Let idle hosts end, and busy ones after their attempt."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().set()

    def submit(self, attempt: Attempt) -> None:
        """Queue an attempt."""
        self._admission.add(attempt.owner, attempt)
        if not self._is_one_coming:
            self.wake()

    def wake(self) -> None:
        """Have a host look for work, if there is some and none is looking."""
        if self._is_one_coming or not self._admission.has_grantable:
            return
        self._is_one_coming = True
        if self._idle:
            self._idle.pop().set()
        else:
            assert self._task_group is not None
            self._hosts += 1
            self._task_group.start_soon(self._host, name=f"host {self._hosts}")

    def _watch(self, attempt: Attempt) -> None:
        """Watch that a cancelled attempt ends, whoever cancelled it."""
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
                stack=attempt.stack,
            )

    # --------------------------------------------------------------------------------------------------------- host

    async def _host(self) -> None:
        """Carry attempts until closed.

        Shielded: what the host application cancels is the run, and the run cancels its attempts, with a reason. A cancellation
        that comes without one is the handler's own doing, or the loop's at its end.
        """
        with anyio.CancelScope(shield=True):
            try:
                await anyio.lowlevel.cancel_shielded_checkpoint()  # An eager task would run inside whoever spawned it.
                self._is_one_coming = False
                task = asyncio.current_task() if self._on_asyncio else None
                while await self._carry_in_one_scope(task):
                    pass
            except anyio.get_cancelled_exc_class():  # noqa: ASYNC103 - it is none of a scope's: that is what the shield is for
                self._is_one_coming = False  # Cancelled while it rested: only this host ends, and another looks for work.
            finally:
                self._hosts -= 1
                self.wake()

    async def _carry_in_one_scope(self, task: asyncio.Task[Any] | None) -> bool:
        """Carry attempts until one is cancelled; return False if this host ends.

        The scope serves many attempts and is entered anew only after it was used: one each is a tenth of a task's cost.
        """
        is_alive = True
        with anyio.CancelScope() as scope:
            is_alive = await self._carry_until_cancelled(scope, task)
        if not _is_spoilt(task):
            return is_alive
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)  # A cancellation not delivered yet comes out here, and not out of the task.
        return False

    async def _carry_until_cancelled(self, scope: anyio.CancelScope, task: asyncio.Task[Any] | None) -> bool:
        steps = 0
        while not _is_spoilt(task):
            attempt = self._admission.take()
            if attempt is None:
                steps = 0
                if not await self._rest():
                    return False
                continue
            await self._carry(attempt, scope)
            if attempt.cancel_reason is not None:
                break  # Only its cancellation can have used the scope.
            steps += 1
            if steps == _STEPS_BETWEEN_CHECKPOINTS:
                steps = 0
                await anyio.lowlevel.cancel_shielded_checkpoint()
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
            raise
        self._is_one_coming = False
        return not self._is_closed or self._admission.has_grantable

    async def _carry(self, attempt: Attempt, scope: anyio.CancelScope) -> None:
        attempt.scope = scope
        attempt.on_cancel = self._watch
        is_taken = False
        try:
            is_taken = await attempt.carry_out(self.wake)
        except Exception:  # noqa: BLE001 - whatever it is, it is logged, and the host lives on
            # An attempt judges whatever its handler raises, so this is a bug of ours; its run is told.
            get_logger().exception("attempt.lost", run_id=attempt.instance.run_id, task_id=attempt.instance.task_id)
        finally:
            attempt.scope = attempt.on_cancel = None
            self._admission.release(attempt.owner)
            attempt.on_end(attempt, is_taken)

    def statistics(self) -> HostingStatistics:
        """Return the hosts."""
        return HostingStatistics(hosts=self._hosts, idle=len(self._idle))


def _is_spoilt(task: asyncio.Task[Any] | None) -> bool:
    """Tell whether a host's asyncio task was cancelled by others: a handler its own, or the loop all at its end."""
    return task is not None and task.cancelling() > 0
