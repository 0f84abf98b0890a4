"""Carries attempts: a bounded set of host tasks takes them one after another.

A user can't tell it from a task each: context variables are isolated, timeouts and task groups inside a handler work, and
a host whose task was cancelled by somebody else (a handler its own, say) carries no further attempt. A handler's first step runs
at once; another host wakes only when it suspends, so that handlers that never wait cost no switch.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import attrs

from dagrelay.cancellation import runs_on_asyncio
from dagrelay.log import get_logger

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from dagrelay.runtime.admission import Admission, Place
    from dagrelay.runtime.attempt import Attempt
    from dagrelay.runtime.timers import Timer, Timers

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
    parked: int
    """Attempts without a slot, as they wait for others."""


@attrs.define(eq=False)
class _Parked:
    """An attempt that has started and holds no slot."""

    keeps_room: bool
    """Whether it has only lent its slot, and others of its run can't start in its stead."""
    depth: int = 1
    """How many of its handler's tasks wait for others."""
    place: Place[Attempt] | None = None
    """Where it waits to go on; None while it does not."""
    is_decided: anyio.Event = attrs.field(factory=anyio.Event)
    """Set when it needn't wait to go on any longer."""


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
        # Invariant: an attempt that has started and not ended holds a slot if and only if it is not here. (test_slots: model)
        self._parked: dict[Attempt, _Parked] = {}
        self._token_timer: Timer | None = None
        self._token_at = inf

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
        task = attempt.task
        self._admission.add(attempt.owner, attempt, task.pool, task.priority)
        if not self._is_one_coming:
            self.wake()

    def wake(self) -> None:
        """Have a host look for work, if there is some and none is looking."""
        if self._is_one_coming:
            return
        if not self._admission.has_grantable:
            self._await_token()
            return
        self._is_one_coming = True
        if self._idle:
            self._idle.pop().set()
        else:
            assert self._task_group is not None
            self._hosts += 1
            self._task_group.start_soon(self._host, name=f"host {self._hosts}")

    def _await_token(self) -> None:
        """Look again when a pool's rate lets the next one start, if that is all that somebody waits for."""
        due = self._admission.next_token_at
        if due is None or due >= self._token_at:
            return
        if self._token_timer is not None:
            self._token_timer.cancel()
        self._token_at = due
        self._token_timer = self._timers.after(due - anyio.current_time(), self._take_token)

    def _take_token(self) -> None:
        self._token_timer, self._token_at = None, inf
        self.wake()

    # ------------------------------------------------------------------------------------------------------- parked

    def leave_slot(self, attempt: Attempt, *, keeps_room: bool) -> None:
        """Give the slots of a running attempt to others, as it waits for something; each call is followed by `regain_slot`.

        One that `keeps_room` gives them to other runs only: what waits holds a value, and a run may hold no more of them at once
        than its attempts may be.
        """
        if attempt.slot_keeper is None:
            return  # It has ended meanwhile, and somebody it left behind waits.
        parked = self._parked.get(attempt)
        if parked is None:
            self._parked[attempt] = _Parked(keeps_room)
            if keeps_room:
                self._admission.lend()
                self._let_go_on()
            else:
                self._release(attempt)
            self.wake()
        else:
            parked.depth += 1
            self._decide(parked)  # Another of its tasks was about to go on; it does, and needs no slot while this one waits.

    async def regain_slot(self, attempt: Attempt) -> None:
        """Wait for slots for a parked attempt, ahead of those that never started; whoever frees one hands it over.

        Cancellation: of the attempt, or a native one: it goes on without a slot. Any other waits for the next checkpoint.
        """
        parked = self._parked.get(attempt)
        if parked is None:
            return
        parked.depth -= 1
        if parked.depth:
            return
        if attempt.cancel_reason is None:
            task = attempt.task
            self._leave_room(attempt, parked)
            parked.is_decided = anyio.Event()
            parked.place = self._admission.come_back(attempt.owner, attempt, task.pool, task.priority)
            self._let_go_on()
            try:
                if not parked.is_decided.is_set():
                    # A part of the handler that was cancelled does not run on without a slot.
                    with anyio.CancelScope(shield=True):
                        await parked.is_decided.wait()
            finally:
                self._decide(parked)
        if attempt.cancel_reason is not None:
            await anyio.lowlevel.checkpoint_if_cancelled()

    def _let_go_on(self) -> None:
        """Hand free slots to those that wait to go on."""
        while (attempt := self._admission.take_back()) is not None:
            parked = self._parked.pop(attempt)
            parked.place = None
            parked.is_decided.set()

    def _decide(self, parked: _Parked) -> None:
        """Have an attempt that may wait to go on do so without a slot."""
        if parked.place is not None:
            self._admission.give_up(parked.place)
            parked.place = None
            parked.is_decided.set()

    def _leave_room(self, attempt: Attempt, parked: _Parked) -> None:
        """Give back what an attempt has kept that only lent its slot."""
        if parked.keeps_room:
            parked.keeps_room = False
            self._admission.leave_room(attempt.owner, attempt.task.pool)

    def _release(self, attempt: Attempt) -> None:
        """Take an attempt's slots back."""
        self._admission.release(attempt.owner, attempt.task.pool)
        if self._admission.has_returning:
            self._let_go_on()

    # ------------------------------------------------------------------------------------------------------ patience

    def _watch(self, attempt: Attempt) -> None:
        """Watch that a cancelled attempt ends, whoever cancelled it; it waits for no slot any longer."""
        parked = self._parked.get(attempt)
        if parked is not None:
            self._decide(parked)
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
                self._await_token()
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
        if self._is_closed or self._hosts > self._admission.slots + len(self._parked):
            return False  # More than that are never needed, but for those who carry parked attempts.
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
        attempt.slot_keeper = self
        is_taken = False
        try:
            is_taken = await attempt.carry_out(self.wake)
        except Exception:  # noqa: BLE001 - whatever it is, it is logged, and the host lives on
            # An attempt judges whatever its handler raises, so this is a bug of ours; its run is told.
            get_logger().exception("attempt.lost", run_id=attempt.instance.run_id, task_id=attempt.instance.task_id)
        finally:
            attempt.scope = attempt.on_cancel = attempt.slot_keeper = None
            parked = self._parked.pop(attempt, None)
            if parked is None:
                self._release(attempt)
            else:
                self._leave_room(attempt, parked)
                self._decide(parked)
            attempt.on_end(attempt, is_taken)

    def statistics(self) -> HostingStatistics:
        """Return the hosts."""
        return HostingStatistics(hosts=self._hosts, idle=len(self._idle), parked=len(self._parked))


def _is_spoilt(task: asyncio.Task[Any] | None) -> bool:
    """Tell whether a host's asyncio task was cancelled by others: a handler its own, or the loop all at its end."""
    return task is not None and task.cancelling() > 0
