"""Who may run next: by priority over all runs, in turn among runs, first come first served in each, and none beyond its bounds.

An attempt needs a slot of the runtime, room in its run, and, where its task names a pool, a slot of that pool and leave of its
rate. Most ask for none of the latter: the runs they wait in stand in a *ring*, each once, while they have room. What asks for a
pool, has a priority, or comes back from having been parked, waits in a *lane* for each run and pool; a *gate* of the pool keeps
the lanes in order, and is left out, when nobody can pass, until something changes there. So nobody is looked at again and again.
"""

from __future__ import annotations

from collections import Counter, deque
from heapq import heapify, heappop, heappush, heapreplace
from sys import maxsize
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import anyio
import attrs

from dagrelay.runtime.rate import Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from dagrelay.model.policies import Pool

__all__ = ("Admission", "AdmissionStatistics", "Place", "PoolStatistics")

W = TypeVar("W")
T = TypeVar("T")

_Entry: TypeAlias = "tuple[int, int, _Lane[T]]"
"""A lane's place at its gate: the highest priority in it, negated; its turn, which no other has; the lane. The lowest is next."""
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


class _Pool(Generic[W]):
    """A pool at work; the one of the tasks that name none has no end of slots."""

    def __init__(self, slots: int, rate: Rate | None) -> None:
        self.slots = slots
        self.running = 0
        self.starts: _Gate[W] = _Gate(self, rate)
        self.returns: _Gate[Place[W]] = _Gate(self, None)


class _Gate(Generic[T]):
    """Where lanes wait for a pool: for attempts to start, or to go on."""

    def __init__(self, pool: _Pool[Any], rate: Rate | None) -> None:
        self.pool = pool
        self.rate = rate
        self.heap: list[_Entry[T]] = []
        """Entries of lanes, some of them out of date: one counts if its lane names it."""
        self.is_offering = False
        """Whether it is looked at; it is, or is dry, if somebody can pass."""
        self.is_dry = False
        """Whether somebody waits there for nothing but a token."""


class _Lane(Generic[T]):
    """What of one run waits at one gate. The first of each of its queues has not given up."""

    def __init__(self, line: _Line[Any], gate: _Gate[T]) -> None:
        self.line = line
        self.gate = gate
        self.priorities: list[int] = []
        """A heap of those that somebody waits with, negated."""
        self.queues: dict[int, deque[T]] = {}
        """Who waits, by priority, negated."""
        self.entry: _Entry[T] | None = None
        """Its place at the gate; None while nobody waits, and may be None while its run has no room."""

    def __len__(self) -> int:
        return sum(map(len, self.queues.values()))


@attrs.define(eq=False)
class _Line(Generic[W]):
    """One run."""

    limit: int
    running: int = 0
    waiting: deque[W] = attrs.field(factory=deque[W])
    """Attempts without pool and priority that wait to start."""
    is_in_ring: bool = False
    turn: int = 0
    """When it joined the ring, for comparison with lanes; an earlier one if there was nothing to compare with."""
    starts: dict[str | None, _Lane[W]] = attrs.field(factory=dict["str | None", "_Lane[W]"])
    """Its lanes of attempts that wait to start, by pool."""
    returns: dict[str | None, _Lane[Place[W]]] = attrs.field(factory=dict["str | None", "_Lane[Place[W]]"])
    """Its lanes of attempts that wait to go on, by pool."""


@attrs.define(eq=False)
class Place(Generic[W]):
    """A parked attempt's place among those that wait to go on."""

    work: W
    """The attempt."""
    lane: _Lane[Place[W]]
    """Where it waits."""
    priority: int
    """Its priority, negated."""
    is_gone: bool = False
    """Whether it gave up."""


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
        self._lines: dict[Hashable, _Line[W]] = {}
        # Invariant: a line stands in the ring, once, if and only if somebody in its `waiting` has room. (test_admission: model)
        self._ring: deque[_Line[W]] = deque()
        self._pools: dict[str | None, _Pool[W]] = {None: _Pool(maxsize, None)}
        for name, pool in (pools or {}).items():
            self._pools[name] = _Pool(pool.slots, None if pool.per_s is None else Rate(pool.per_s, pool.burst))
        self._in_lanes = 0
        """Attempts that wait in lanes to start."""
        self._returning = 0
        self._turn = 0
        self._starting: list[_Gate[W]] = []
        self._going_on: list[_Gate[Place[W]]] = []
        self._dry: list[_Gate[W]] = []

    # ------------------------------------------------------------------------------------------------- runs, queues

    def enter(self, owner: Hashable, limit: int | None) -> None:
        """Open a line for a run, of which at most `limit` attempts run at once."""
        # No more than there are slots, so that one whose attempts have lent theirs out does not start all the more.
        self._lines[owner] = _Line(self.slots if limit is None else min(limit, self.slots))

    def leave(self, owner: Hashable) -> None:
        """Close a run's line, in which none waits to start by then."""
        line = self._lines.pop(owner, None)
        if line is not None:
            line.starts.clear()
            line.returns.clear()

    def add(self, owner: Hashable, work: W, pool: str | None = None, priority: int = 0) -> None:
        """Queue an attempt of a run."""
        line = self._lines[owner]
        if pool is None and priority == 0:
            line.waiting.append(work)
            if not line.is_in_ring and line.running < line.limit:
                self._join_ring(line)
            return
        lane = line.starts.get(pool)
        if lane is None:
            lane = line.starts[pool] = _Lane(line, self._pools[pool].starts)
        self._in_lanes += 1
        if _queue(lane, work, -priority):
            self._enlist(lane, self._starting)

    def withdraw(self, owner: Hashable) -> list[W]:
        """Take a run's attempts that wait to start out and return them."""
        line = self._lines[owner]
        withdrawn = list(line.waiting)
        line.waiting.clear()
        self._leave_ring(line)
        for lane in line.starts.values():
            for queue in lane.queues.values():
                withdrawn += queue
            self._in_lanes -= len(lane)
            lane.queues.clear()
            lane.priorities.clear()
            lane.entry = None
        return withdrawn

    def _join_ring(self, line: _Line[W]) -> None:
        self._turn += 1
        line.turn = self._turn
        line.is_in_ring = True
        self._ring.append(line)

    def _leave_ring(self, line: _Line[W]) -> None:
        if line.is_in_ring:
            line.is_in_ring = False
            self._ring.remove(line)

    def _enlist(self, lane: _Lane[T], gates: list[_Gate[T]]) -> None:
        """Give a lane with somebody waiting in it a place at its gate, unless its run has all the slots it may have."""
        line, gate = lane.line, lane.gate
        if line.running >= line.limit:
            lane.entry = None
            return
        self._turn += 1
        lane.entry = (lane.priorities[0], self._turn, lane)
        heap = gate.heap
        heappush(heap, lane.entry)
        if len(heap) > _COMPACT_ABOVE and len(heap) > 2 * len(self._lines):
            heap[:] = [entry for entry in heap if entry[2].entry is entry]
            heapify(heap)
        _offer(gate, gates)

    # ------------------------------------------------------------------------------------------------------- grants

    @property
    def has_grantable(self) -> bool:
        """Whether `take` would return something."""
        return self._running < self.slots and (bool(self._ring) or (self._in_lanes > 0 and self._next_start() is not None))

    def take(self) -> W | None:
        """Grant a slot to the attempt whose turn it is to start, and return it; None if there is no slot or no attempt.

        Those who wait to go on come before: while `take_back` would return one, this is not called.
        """
        if self._running >= self.slots:
            return None
        ring = self._ring
        if self._in_lanes:
            lane = self._next_start()
            if lane is not None and not (ring and _comes_before(ring[0], lane)):
                return self._start(lane)
        if not ring:
            return None
        line = ring.popleft()
        work = line.waiting.popleft()
        line.running += 1
        self._running += 1
        if line.waiting and line.running < line.limit:
            if self._in_lanes:
                self._turn += 1
                line.turn = self._turn
            ring.append(line)
        else:
            line.is_in_ring = False
        return work

    def release(self, owner: Hashable, pool: str | None = None) -> None:
        """Give the slot of a run's attempt back."""
        self._running -= 1
        self.leave_room(owner, pool)

    def lend(self) -> None:
        """Give the slot of an attempt to other runs; it keeps its run's room and its pool's until `leave_room`."""
        self._running -= 1

    def leave_room(self, owner: Hashable, pool: str | None = None) -> None:
        """Give back what an attempt has kept that lent its slot; it comes back, if it does, as any that was parked."""
        line = self._lines.get(owner)
        if line is not None:
            line.running -= 1
            if line.running + 1 == line.limit:
                self._let_wait(line)
        if pool is not None:
            shared = self._pools[pool]
            shared.running -= 1
            _offer(shared.starts, self._starting)
            _offer(shared.returns, self._going_on)

    def _let_wait(self, line: _Line[W]) -> None:
        """Give a run that has room again its places."""
        if line.waiting:
            self._join_ring(line)
        for start in line.starts.values():
            if start.priorities and start.entry is None:
                self._enlist(start, self._starting)
        for back in line.returns.values():
            if back.priorities and back.entry is None:
                self._enlist(back, self._going_on)

    def _next_start(self) -> _Lane[W] | None:
        """Return the lane whose turn it is to have an attempt started."""
        if self._dry:
            self._let_drip()
        return self._first(self._starting)

    def _start(self, lane: _Lane[W]) -> W:
        if lane.gate.rate is not None:
            lane.gate.rate.use(self._clock())
        self._in_lanes -= 1
        return self._grant(lane)

    def _first(self, gates: list[_Gate[T]]) -> _Lane[T] | None:
        """Return the lane at all these gates whose turn it is, and leave out the gates that nobody can pass."""
        first: _Entry[T] | None = None
        is_one_shut = False
        for gate in gates:
            entry = self._head(gate)
            if entry is None:
                gate.is_offering = False
                is_one_shut = True
            elif first is None or entry < first:
                first = entry
        if is_one_shut:
            gates[:] = [gate for gate in gates if gate.is_offering]
        return None if first is None else first[2]

    def _head(self, gate: _Gate[T]) -> _Entry[T] | None:
        """Return the entry of a gate whose turn it is; None if none can pass."""
        pool, heap = gate.pool, gate.heap
        if pool.running >= pool.slots:
            return None
        while heap:
            entry = heap[0]
            lane = entry[2]
            if lane.entry is not entry:
                heappop(heap)
            elif lane.line.running >= lane.line.limit:
                heappop(heap)
                lane.entry = None
            else:
                return None if self._is_dry(gate) else entry
        return None

    def _grant(self, lane: _Lane[T]) -> T:
        """Give the first of a lane, which is the first at its gate, a slot."""
        line, gate = lane.line, lane.gate
        queue = lane.queues[lane.priorities[0]]
        work = queue.popleft()
        if not queue:
            heappop(lane.priorities)
        line.running += 1
        self._running += 1
        gate.pool.running += 1
        if lane.priorities and line.running < line.limit:
            self._turn += 1
            lane.entry = (lane.priorities[0], self._turn, lane)
            heapreplace(gate.heap, lane.entry)
        else:
            heappop(gate.heap)
            lane.entry = None
        if line.running >= line.limit:
            self._leave_ring(line)
        return work

    # ------------------------------------------------------------------------------------------------------- parked

    @property
    def has_returning(self) -> bool:
        """Whether a parked attempt waits to go on."""
        return self._returning > 0

    def come_back(self, owner: Hashable, work: W, pool: str | None = None, priority: int = 0) -> Place[W]:
        """Queue a parked attempt, whose slot was released, to go on; it takes no token."""
        line = self._lines.get(owner)
        if line is None:
            line = _Line[W](maxsize)  # Its run has left it behind.
        lane = line.returns.get(pool)
        if lane is None:
            lane = line.returns[pool] = _Lane(line, self._pools[pool].returns)
        self._returning += 1
        place = Place(work, lane, -priority)
        if _queue(lane, place, -priority):
            self._enlist(lane, self._going_on)
        return place

    def take_back(self) -> W | None:
        """Grant a slot to the parked attempt whose turn it is to go on, and return it; None if there is no slot or no attempt."""
        if not self._returning or self._running >= self.slots:
            return None
        lane = self._first(self._going_on)
        if lane is None:
            return None
        self._returning -= 1
        priority = lane.priorities[0]
        place = self._grant(lane)
        self._forget_gone(lane, priority)
        return place.work

    def give_up(self, place: Place[W]) -> None:
        """Take a parked attempt that was not granted a slot out again."""
        self._returning -= 1
        place.is_gone = True
        self._forget_gone(place.lane, place.priority)

    def _forget_gone(self, lane: _Lane[Place[W]], priority: int) -> None:
        """Have somebody who has not given up be the first in a lane's queue, and the lane's place at its gate be his."""
        queue = lane.queues[priority]
        if not queue or not queue[0].is_gone:
            return
        while queue and queue[0].is_gone:
            queue.popleft()
        if not queue:
            lane.priorities.remove(priority)
            heapify(lane.priorities)
            lane.entry = None
            if lane.priorities:
                self._enlist(lane, self._going_on)

    # -------------------------------------------------------------------------------------------------------- rates

    @property
    def next_token_at(self) -> float | None:
        """When a pool has a token for somebody who waits for nothing else; None if none does."""
        if not self._dry or not self._in_lanes or self._running >= self.slots:
            return None
        return min(gate.rate.next_at for gate in self._dry if gate.rate is not None)

    def _is_dry(self, gate: _Gate[Any]) -> bool:
        """Tell whether a gate lets nobody pass until a token comes, and remember it then."""
        if gate.rate is None or gate.rate.next_at <= self._clock():
            return False
        gate.is_dry = True
        self._dry.append(gate)
        return True

    def _let_drip(self) -> None:
        """Have the gates looked at again that have a token now."""
        now = self._clock()
        for gate in self._dry:
            gate.is_dry = gate.rate is not None and gate.rate.next_at > now
            _offer(gate, self._starting)
        self._dry = [gate for gate in self._dry if gate.is_dry]

    # --------------------------------------------------------------------------------------------------- statistics

    def statistics(self) -> AdmissionStatistics:
        """Return what waits and runs."""
        queued, returning = Counter[str | None](), Counter[str | None]()
        for line in self._lines.values():
            queued[None] += len(line.waiting)
            queued.update({pool: len(lane) for pool, lane in line.starts.items()})
            returning.update(
                {
                    pool: sum(not place.is_gone for queue in lane.queues.values() for place in queue)
                    for pool, lane in line.returns.items()
                }
            )
        return AdmissionStatistics(
            slots=self.slots,
            running=self._running,
            queued=queued.total(),
            returning=self._returning,
            pools={
                name: PoolStatistics(slots=pool.slots, running=pool.running, queued=queued[name], returning=returning[name])
                for name, pool in self._pools.items()
                if name is not None
            },
        )


def _queue(lane: _Lane[T], work: T, priority: int) -> bool:
    """Put an attempt into its lane; return whether that gives the lane another place at its gate."""
    queue = lane.queues.get(priority)
    if queue is None:
        queue = lane.queues[priority] = deque()
    if not queue:
        heappush(lane.priorities, priority)
    queue.append(work)
    return lane.entry is None or priority < lane.entry[0]


def _offer(gate: _Gate[T], gates: list[_Gate[T]]) -> None:
    """Have a gate looked at again, as somebody may pass now."""
    if gate.heap and not gate.is_offering and not gate.is_dry:
        gate.is_offering = True
        gates.append(gate)


def _comes_before(line: _Line[W], lane: _Lane[W]) -> bool:
    """Tell whether the first of the ring comes before the first of the gates."""
    assert lane.entry is not None
    return (0, line.turn) < lane.entry[:2]
