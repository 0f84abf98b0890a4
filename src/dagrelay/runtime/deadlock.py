"""Finding, among waiters of which none can go on, one that waits in a circle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.model.states import ENDED_TASK_STATES

if TYPE_CHECKING:
    from dagrelay.dag.plan import Plan
    from dagrelay.engine.machine import RunMachine
    from dagrelay.model.records import InstanceKey
    from dagrelay.xcom.waiting import Waiter, Waiting

__all__ = ("find_circle",)

_MOST_SHOWN = 6


def find_circle(plan: Plan, machine: RunMachine, waiting: Waiting) -> tuple[Waiter, str]:
    """Return a waiter that is part of a circle, and what the circle is, as a clause.

    A task that has not started waits for its upstreams, and as those form no circle, each way through tasks and waiters comes
    back to a waiter that it came by. Cost: O(waiters and edges on the way).
    """
    way: dict[InstanceKey, Waiter] = {}
    waiter = next(waiting.resting())
    while waiter.waiting not in way:
        way[waiter.waiting] = waiter
        following = _next_waiter(plan, machine, waiting, waiter)
        if following is None:
            return waiter, f"nothing that still runs will bring it; task {waiter.awaited.task_id!r} has not started"
        waiter = following
    circle = list(way.values())[list(way).index(waiter.waiting) :]
    told = [f"task {each.waiting.task_id!r} waits for {each.awaited.task_id!r}" for each in circle]
    if len(told) > _MOST_SHOWN:
        told[_MOST_SHOWN - 1 :] = [f"({len(told) - _MOST_SHOWN + 1:,} more)"]
    return waiter, f"all that still runs waits for it in a circle: {', '.join(told)}"


def _next_waiter(plan: Plan, machine: RunMachine, waiting: Waiting, waiter: Waiter) -> Waiter | None:
    """Return who rests and keeps what a waiter waits for from coming."""
    found = waiting.waiter_of(waiter.awaited)
    seen: set[int] = set()
    pending = [plan.index[waiter.awaited.task_id]]
    while found is None and pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        task = plan.tasks[index]
        if machine.is_active(index):
            found = next((each for each in waiting.resting() if each.waiting.task_id == task.task_id), None)
        else:
            above = (*task.upstream, *task.after_start)
            pending += [leader for leader in above if machine.states[leader] not in ENDED_TASK_STATES]
    return found
