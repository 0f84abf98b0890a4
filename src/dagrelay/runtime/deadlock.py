"""Finding circles among those who wait for one another: to let go a producer that only waits for room, or to tell one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from dagrelay.model.states import ENDED_TASK_STATES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from dagrelay.dag.plan import Plan
    from dagrelay.engine.machine import RunMachine
    from dagrelay.model.records import InstanceKey
    from dagrelay.xcom.waiting import Waiter, Waiting

__all__ = ("find_circle", "find_held", "work_beside")

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
        following = next(filter(waiting.is_resting, _still(plan, machine, waiting, waiter.awaited)), None)
        if following is None:
            return waiter, f"nothing that still runs will bring it; task {waiter.awaited.task_id!r} has not started"
        waiter = following
    circle = list(way.values())[list(way).index(waiter.waiting) :]
    told = [f"task {each.waiting.task_id!r} waits for {each.awaited.task_id!r}" for each in circle]
    if len(told) > _MOST_SHOWN:
        told[_MOST_SHOWN - 1 :] = [f"({len(told) - _MOST_SHOWN + 1:,} more)"]
    return waiter, f"all that still runs waits for it in a circle: {', '.join(told)}"


def work_beside(waiters: Iterable[Waiter]) -> bool:
    """Tell whether tasks of the loop that waiting handlers have started go on, and may bring what is waited for.

    They are known by their parents, as task groups of anyio and trio tell them; what `asyncio.create_task` or a TaskGroup of
    asyncio has started is not.
    """
    known = {waiter.loop_task_id for waiter in waiters}
    parents = {task.id: task.parent_id for task in anyio.get_running_tasks()}
    return any(task_id not in known and parent in known for task_id, parent in parents.items())


def find_held(plan: Plan, machine: RunMachine, waiting: Waiting, waiter: Waiter) -> Waiter | None:
    """Return one that can be let go, of a circle that a waiter closes by coming to rest; None if it closes none with such a one.

    None of a circle can go on whatever else the run does, so nothing is won by waiting until all of it has come to rest. Cost:
    O(waiters and edges on the way), and nothing to speak of where nobody waits who can be let go.
    """
    if not waiting.can_let_go:
        return None
    pending = [waiter]
    before: dict[Waiter, Waiter] = {}
    while pending:
        each = pending.pop()
        for following in _still(plan, machine, waiting, each.awaited):
            if following.waiting == waiter.waiting:
                held = _held_on_the_way(following, each, before)
                if held is not None:
                    return held
            elif following not in before:
                before[following] = each
                pending.append(following)
    return None


def _held_on_the_way(first: Waiter, last: Waiter, before: dict[Waiter, Waiter]) -> Waiter | None:
    """Return one that can be let go: who closes the circle, or one on the way that led there."""
    if first.let_go is not None:
        return first
    each: Waiter | None = last
    while each is not None and each.let_go is None:
        each = before.get(each)
    return each


def _still(plan: Plan, machine: RunMachine, waiting: Waiting, awaited: InstanceKey) -> Collection[Waiter]:
    """Return who must go on before an awaited instance can: its own waiters, or those of tasks that it has to await to start."""
    own = waiting.waiters_of(awaited)
    if own or awaited.map_index is not None:
        return own
    found: list[Waiter] = []
    seen: set[int] = set()
    pending = [plan.index[awaited.task_id]]
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        task = plan.tasks[index]
        if not machine.is_active(index):
            pending += [leader for leader in task.upstream if machine.states[leader] not in ENDED_TASK_STATES]
            # A task that starts once another one has started awaits it only until then.
            pending += [leader for leader in task.after_start if not machine.is_active(leader)]
        elif index in machine.maps:
            found += waiting.waiters_of_task(task.task_id)
        else:
            found += waiting.waiters_of(awaited._replace(task_id=task.task_id))
    return found
