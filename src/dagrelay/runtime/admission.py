"""Who may run next: by priority over all runs, in turn among runs, first come first served in each, and none beyond its bounds.

An attempt needs a slot of the runtime, room in its run, and, where its task names a pool, a slot of that pool and leave of its
rate. Nobody is looked at again and again: a *lane* holds what of one run waits for one pool; a *gate* of the pool keeps its lanes
in order; and a gate that nobody can pass is left out until something changes there.
"""

from __future__ import annotations

from collections import Counter, deque
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import anyio
import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from dagrelay.model.policies import Pool

__all__ = ("Admission", "AdmissionStatistics", "Place", "PoolStatistics", "Rate")

W = TypeVar("W")

_Entry: TypeAlias = "tuple[int, int, int, _Lane[W]]"
"""A lane's place in its gate: its first attempt's priority, negated; its run's turn; when that attempt came; the lane."""
_COMPACT_ABOVE = 64


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """What waits for a pool, and what uses it."""

    slots: int
    """Attempts that may use it at once."""
    running: int
    """Attempts that do."""
    queued: int
    """Attempts that wait to start."""
    returning: int
    """Parked attempts that wait to go on."""


@attrs.frozen(kw_only=True)
class AdmissionStatistics:
    """What waits and what runs."""

    slots: int
    """Attempts that may run at once."""
    running: int
    """Attempts that do."""
    queued: int
    """Attempts waiting for a slot to start."""
    returning: int = 0
    """Parked attempts waiting for a slot to go on."""
    pools: Mapping[str, PoolStatistics] = attrs.field(factory=dict[str, PoolStatistics])
    """The same by name of pool."""


class Rate:
    """Leave to start: `per_s` times a second on average, `burst` times at once after a quiet while.

    A bucket of tokens told by one number: when it would be full again.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        """Start with a full bucket."""
        self._interval_s = 1 / per_s
        self._leeway_s = (burst - 1) / per_s
        self._full_at = -inf

    @property
    def next_at(self) -> float:
        """When the next start is allowed; in the past if it is now."""
        return self._full_at - self._leeway_s

    def use(self, now: float) -> None:
        """Take a token."""
        self._full_at = max(self._full_at, now) + self._interval_s


class _Pool(Generic[W]):
    """A pool at work; the one of the tasks that name none is endless."""

    def __init__(self, slots: float, rate: Rate | None) -> None:
        self.slots = slots
        self.running = 0
        self.starts: _Gate[W] = _Gate(self, rate)
        self.returns: _Gate[W] = _Gate(self, None)


class _Gate(Generic[W]):
    """Where attempts wait for a pool: to start, or to go on."""

    def __init__(self, pool: _Pool[W], rate: Rate | None) -> None:
        self.pool = pool
        self.rate = rate
        self.heap: list[_Entry[W]] = []
        """Entries of lanes, some of them out of date: one counts if its lane names it."""
        self.is_offering = False
        """Whether it is looked at. Invariant: it is, or it waits for a token, if somebody can pass. (test_admission: model)"""
        self.is_dry = False
        """Whether somebody waits there for nothing but a token."""


@attrs.define(eq=False)
class _Line(Generic[W]):
    """One run."""

    limit: float
    turn: int
    """When it was last granted something: who waits longest is next."""
    running: int = 0
    starts: dict[str | None, _Lane[W]] = attrs.field(factory=dict["str | None", "_Lane[W]"])
    """Its lanes of attempts to start, by pool."""
    returns: dict[str | None, _Lane[W]] = attrs.field(factory=dict["str | None", "_Lane[W]"])
    """Its lanes of attempts to go on, by pool."""


class _Lane(Generic[W]):
    """What of one run waits at one gate. Invariant: the first of each of its queues has not given up."""

    def __init__(self, line: _Line[W], gate: _Gate[W]) -> None:
        self.line = line
        self.gate = gate
        self.priorities: list[int] = []
        """A heap of those that somebody waits with, negated."""
        self.queues: dict[int, deque[tuple[int, W]]] = {}
        """By priority, negated: when each came, and the attempt."""
        self.gone: set[int] = set()
        """Those in it that gave up, by when they came."""
        self.entry: _Entry[W] | None = None
        """Its place at the gate; None while nobody waits, and may be None while its run has no room."""

    def __len__(self) -> int:
        return sum(map(len, self.queues.values())) - len(self.gone)

    def drop_gone(self, priority: int) -> None:
        """Restore the invariant of a queue, and forget its priority if it is empty."""
        queue = self.queues[priority]
        while queue and queue[0][0] in self.gone:
            self.gone.remove(queue.popleft()[0])
        if not queue:
            if self.priorities[0] == priority:
                heappop(self.priorities)
            else:
                self.priorities.remove(priority)
                heapify(self.priorities)


@attrs.frozen(eq=False)
class Place(Generic[W]):
    """A parked attempt's place among those that wait to go on."""

    lane: _Lane[W]
    """Where it waits."""
    priority: int
    """Its priority, negated."""
    order: int
    """When it came."""


class Admission(Generic[W]):
    """Grants slots. Not an actor: a plain structure that scheduler and hosts use within one step of the loop.

    Args:
        slots: attempts that may run at once, over all runs.
        pools: what tasks share, by name.
        clock: tells seconds, for the pools' rates.
    """

    def __init__(
        self, slots: int, pools: Mapping[str, Pool] | None = None, *, clock: Callable[[], float] = anyio.current_time
    ) -> None:
        """Start with every slot free."""
        self.slots = slots
        self._clock = clock
        self._running = 0
        self._returning = 0
        self._turn = 0
        self._order = 0
        self._lines: dict[Hashable, _Line[W]] = {}
        self._pools: dict[str | None, _Pool[W]] = {None: _Pool(inf, None)}
        for name, pool in (pools or {}).items():
            self._pools[name] = _Pool(pool.slots, None if pool.per_s is None else Rate(pool.per_s, pool.burst))
        self._plain = self._pools[None]
        self._starting: list[_Gate[W]] = []
        self._going_on: list[_Gate[W]] = []
        self._dry: list[_Gate[W]] = []

    # ------------------------------------------------------------------------------------------------- runs, queues

    def enter(self, owner: Hashable, limit: int | None) -> None:
        """Open a line for a run, of which at most `limit` attempts run at once."""
        self._turn += 1
        self._lines[owner] = _Line(inf if limit is None else limit, self._turn)

    def leave(self, owner: Hashable) -> None:
        """Close a run's line, in which none waits to start by then."""
        line = self._lines.pop(owner, None)
        if line is not None:
            line.starts.clear()
            line.returns.clear()

    def add(self, owner: Hashable, work: W, pool: str | None = None, priority: int = 0) -> None:
        """Queue an attempt of a run."""
        line = self._lines[owner]
        lane = line.starts.get(pool)
        if lane is None:
            lane = line.starts[pool] = _Lane(line, self._pools[pool].starts)
        self._queue(lane, work, -priority)

    def withdraw(self, owner: Hashable) -> list[W]:
        """Take a run's attempts that wait to start out, and return them in the order they came."""
        withdrawn: list[tuple[int, W]] = []
        for lane in self._lines[owner].starts.values():
            for queue in lane.queues.values():
                withdrawn += queue
                queue.clear()
            lane.priorities.clear()
            lane.entry = None
        withdrawn.sort(key=_order)
        return [work for _, work in withdrawn]

    def _queue(self, lane: _Lane[W], work: W, priority: int) -> int:
        """Put an attempt into its lane, and the lane to its gate if that changes its place there."""
        self._order = order = self._order + 1
        queue = lane.queues.get(priority)
        if queue is None:
            queue = lane.queues[priority] = deque()
        if not queue:
            heappush(lane.priorities, priority)
        queue.append((order, work))
        if lane.entry is None or priority < lane.entry[0]:
            self._enlist(lane)
        return order

    def _enlist(self, lane: _Lane[W]) -> None:
        """Give a lane with somebody waiting in it its place at the gate, unless its run has all the slots it may have."""
        line, gate = lane.line, lane.gate
        if line.running >= line.limit:
            lane.entry = None
            return
        priority = lane.priorities[0]
        entry = lane.entry = (priority, line.turn, lane.queues[priority][0][0], lane)
        heap = gate.heap
        heappush(heap, entry)
        if not gate.is_offering:
            self._offer(gate)
        if len(heap) > _COMPACT_ABOVE and len(heap) > 2 * len(self._lines):
            heap[:] = [entry for entry in heap if entry[3].entry is entry]
            heapify(heap)

    # ------------------------------------------------------------------------------------------------------- grants

    @property
    def has_grantable(self) -> bool:
        """Whether `take` would return something."""
        return self._running < self.slots and self._next_start() is not None

    def take(self) -> W | None:
        """Grant a slot to the attempt whose turn it is to start, and return it; None if there is no slot or no attempt.

        Those who wait to go on come before: while there is one that `take_back` would return, this is not called.
        """
        if self._running >= self.slots:
            return None
        entry = self._next_start()
        if entry is None:
            return None
        rate = entry[3].gate.rate
        if rate is not None:
            rate.use(self._clock())
        return self._grant(entry[3])

    def release(self, owner: Hashable, pool: str | None = None) -> None:
        """Give the slot of a run's attempt back."""
        self._running -= 1
        line = self._lines.get(owner)
        if line is not None:
            line.running -= 1
            if line.running + 1 >= line.limit:
                self._enlist_again(line)
        if pool is not None:
            shared = self._pools[pool]
            shared.running -= 1
            self._offer(shared.starts)
            self._offer(shared.returns)

    def _enlist_again(self, line: _Line[W]) -> None:
        for lane in (*line.starts.values(), *line.returns.values()):
            if lane.priorities and lane.entry is None:
                self._enlist(lane)

    def _next_start(self) -> _Entry[W] | None:
        if self._dry:
            self._let_drip()
        return self._first(self._starting)

    def _first(self, gates: list[_Gate[W]]) -> _Entry[W] | None:
        """Return the entry of all these gates whose turn it is, and leave out the gates that nobody can pass."""
        first: _Entry[W] | None = None
        is_one_shut = False
        for gate in gates:
            entry = self._head(gate)
            if entry is None:
                if gate.pool is not self._plain:  # That one is shut only as it is empty, and seldom for long.
                    gate.is_offering = False
                    is_one_shut = True
            elif first is None or entry < first:
                first = entry
        if is_one_shut:
            gates[:] = [gate for gate in gates if gate.is_offering]
        return first

    def _head(self, gate: _Gate[W]) -> _Entry[W] | None:
        """Return the entry of a gate whose turn it is, brought up to date; None if none can pass."""
        pool, heap = gate.pool, gate.heap
        if pool.running >= pool.slots:
            return None
        while heap:
            entry = heap[0]
            lane = entry[3]
            line = lane.line
            if lane.entry is not entry:
                heappop(heap)
            elif line.running >= line.limit:
                heappop(heap)
                lane.entry = None
            elif entry[1] != line.turn:  # It had its turn at another gate.
                lane.entry = (entry[0], line.turn, entry[2], lane)
                heapreplace(heap, lane.entry)
            elif gate.rate is not None and gate.rate.next_at > self._clock():
                gate.is_dry = True
                self._dry.append(gate)
                return None
            else:
                return entry
        return None

    def _grant(self, lane: _Lane[W]) -> W:
        """Give the first of a lane, whose entry is its gate's first, a slot."""
        line, gate = lane.line, lane.gate
        priority = lane.priorities[0]
        queue = lane.queues[priority]
        work = queue.popleft()[1]
        if not queue or lane.gone:
            lane.drop_gone(priority)
        self._turn = line.turn = self._turn + 1
        line.running += 1
        self._running += 1
        gate.pool.running += 1
        if lane.priorities and line.running < line.limit:
            priority = lane.priorities[0]
            lane.entry = (priority, line.turn, lane.queues[priority][0][0], lane)
            heapreplace(gate.heap, lane.entry)
        else:
            heappop(gate.heap)
            lane.entry = None
        return work

    def _offer(self, gate: _Gate[W]) -> None:
        """Have a gate looked at again, as somebody may pass now."""
        if gate.heap and not gate.is_offering and not gate.is_dry:
            gate.is_offering = True
            (self._starting if gate is gate.pool.starts else self._going_on).append(gate)

    # ------------------------------------------------------------------------------------------------------- parked

    @property
    def has_returning(self) -> bool:
        """Whether a parked attempt waits to go on."""
        return self._returning > 0

    def come_back(self, owner: Hashable, work: W, pool: str | None = None, priority: int = 0) -> Place[W]:
        """Queue a parked attempt, whose slot was released, to go on; it takes no token."""
        line = self._lines.get(owner)
        if line is None:
            line = _Line[W](inf, self._turn)  # Its run has left it behind.
        lane = line.returns.get(pool)
        if lane is None:
            lane = line.returns[pool] = _Lane(line, self._pools[pool].returns)
        self._returning += 1
        return Place(lane, -priority, self._queue(lane, work, -priority))

    def take_back(self) -> W | None:
        """Grant a slot to the parked attempt whose turn it is to go on, and return it; None if there is no slot or no attempt."""
        if not self._returning or self._running >= self.slots:
            return None
        entry = self._first(self._going_on)
        if entry is None:
            return None
        self._returning -= 1
        return self._grant(entry[3])

    def give_up(self, place: Place[W]) -> None:
        """Take a parked attempt that was not granted a slot out again."""
        lane = place.lane
        self._returning -= 1
        lane.gone.add(place.order)
        if lane.queues[place.priority][0][0] == place.order:
            lane.drop_gone(place.priority)
            lane.entry = None
            if lane.priorities:
                self._enlist(lane)

    # -------------------------------------------------------------------------------------------------------- rates

    @property
    def next_token_at(self) -> float | None:
        """When a pool has a token for somebody who waits for nothing else; None if none does."""
        if not self._dry or self._running >= self.slots:
            return None
        return min(gate.rate.next_at for gate in self._dry if gate.rate is not None)

    def _let_drip(self) -> None:
        now = self._clock()
        for gate in self._dry:
            gate.is_dry = gate.rate is not None and gate.rate.next_at > now
            self._offer(gate)
        self._dry = [gate for gate in self._dry if gate.is_dry]

    # --------------------------------------------------------------------------------------------------- statistics

    def statistics(self) -> AdmissionStatistics:
        """Return what waits and runs."""
        queued, returning = Counter[str | None](), Counter[str | None]()
        for line in self._lines.values():
            queued.update({pool: len(lane) for pool, lane in line.starts.items()})
            returning.update({pool: len(lane) for pool, lane in line.returns.items()})
        return AdmissionStatistics(
            slots=self.slots,
            running=self._running,
            queued=queued.total(),
            returning=self._returning,
            pools={
                name: PoolStatistics(slots=int(pool.slots), running=pool.running, queued=queued[name], returning=returning[name])
                for name, pool in self._pools.items()
                if name is not None
            },
        )


def _order(waiting: tuple[int, object]) -> int:
    return waiting[0]
