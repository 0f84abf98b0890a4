"""Slots go round the runs, first come first served within one, and none is lost."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dagrelay import Pool
from dagrelay.runtime.admission import Admission, AdmissionStatistics, Place, PoolStatistics

if TYPE_CHECKING:
    from collections.abc import Callable


def test_runs_take_turns() -> None:
    """Each in its own order, however much one has queued."""
    admission: Admission[str] = Admission(10)
    for run, count in (("a", 4), ("b", 1), ("c", 2)):
        admission.enter(run, None)
        for number in range(count):
            admission.add(run, f"{run}{number}")
    taken = [admission.take() for _ in range(8)]
    assert taken == ["a0", "b0", "c0", "a1", "c1", "a2", "a3", None]


def test_slots_bound_all_runs_together() -> None:
    """One freed is granted to whose turn it is."""
    admission: Admission[str] = Admission(2)
    for run in "ab":
        admission.enter(run, None)
        for number in range(2):
            admission.add(run, f"{run}{number}")
    assert (admission.take(), admission.take(), admission.take()) == ("a0", "b0", None)
    assert not admission.has_grantable
    assert admission.statistics() == AdmissionStatistics(slots=2, running=2, queued=2)
    admission.release("b")
    assert admission.has_grantable
    assert (admission.take(), admission.take()) == ("a1", None)


def test_a_run_may_have_a_limit_of_its_own() -> None:
    """The others are not held up by it."""
    admission: Admission[str] = Admission(10)
    admission.enter("a", 1)
    admission.enter("b", None)
    for number in range(3):
        admission.add("a", f"a{number}")
    admission.add("b", "b0")
    assert [admission.take() for _ in range(3)] == ["a0", "b0", None]
    admission.release("b")
    assert admission.take() is None
    admission.release("a")
    assert [admission.take() for _ in range(2)] == ["a1", None]


def test_what_is_queued_can_be_withdrawn() -> None:
    """In its order; what runs keeps its slot until it is released, even after its run has left."""
    admission: Admission[str] = Admission(1)
    admission.enter("a", 1)
    for number in range(3):
        admission.add("a", f"a{number}")
    assert admission.take() == "a0"
    assert admission.withdraw("a") == ["a1", "a2"]
    assert admission.withdraw("a") == []
    admission.leave("a")
    admission.leave("a")
    assert admission.statistics().running == 1
    admission.release("a")
    assert admission.statistics() == AdmissionStatistics(slots=1, running=0, queued=0)
    assert admission.take() is None


def test_a_withdrawn_run_takes_no_turn() -> None:
    """It is out of the ring."""
    admission: Admission[str] = Admission(1)
    for run in "ab":
        admission.enter(run, None)
        admission.add(run, run)
    assert admission.withdraw("a") == ["a"]
    assert admission.take() == "b"


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        """Start at some time."""
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def taken_from(admission: Admission[str]) -> list[str]:
    """Take all there is."""
    return list(iter(admission.take, None))


def test_higher_priorities_go_first_over_all_runs() -> None:
    """Also ahead of those without one, who go ahead of the negative; the same priority goes in turn."""
    admission: Admission[str] = Admission(20)
    for run in "ab":
        admission.enter(run, None)
        for priority in (-1, 0, 5, 5, 0, 9):
            admission.add(run, f"{run}{priority}", None, priority)
    assert taken_from(admission) == ["a9", "b9", "a5", "b5", "a5", "b5", "a0", "b0", "a0", "b0", "a-1", "b-1"]


def test_what_comes_with_a_higher_priority_overtakes() -> None:
    """In its own run, and the others'."""
    admission: Admission[str] = Admission(20)
    admission.enter("a", None)
    admission.enter("b", None)
    for number in range(2):
        admission.add("a", f"low{number}", None, 1)
    assert admission.take() == "low0"
    admission.add("b", "middle", None, 2)
    admission.add("a", "high", None, 3)
    assert taken_from(admission) == ["high", "middle", "low1"]


def test_runs_take_turns_in_a_pool_and_beside_it() -> None:
    """However much one has queued there."""
    admission: Admission[str] = Admission(20, {"p": Pool(9)})
    for run, count in (("a", 3), ("b", 1), ("c", 2)):
        admission.enter(run, None)
        for number in range(count):
            admission.add(run, f"{run}{number}", "p")
    admission.add("c", "c-plain")
    admission.add("a", "a-plain")
    assert taken_from(admission) == ["a0", "b0", "c0", "c-plain", "a-plain", "a1", "c1", "a2"]


def test_a_full_pool_holds_up_nobody_else() -> None:
    """Not those behind in the same run, nor other runs, nor other pools; a slot freed there goes to whose turn it is."""
    admission: Admission[str] = Admission(20, {"p": Pool(1), "q": Pool(1)})
    admission.enter("a", None)
    admission.enter("b", None)
    for number in range(3):
        admission.add("a", f"p{number}", "p", 7)
    admission.add("b", "b-p", "p")
    admission.add("a", "q0", "q", 7)
    admission.add("a", "plain")
    assert taken_from(admission) == ["p0", "q0", "plain"]
    assert not admission.has_grantable
    admission.release("a")
    assert not admission.has_grantable
    admission.release("a", "q")
    assert not admission.has_grantable
    admission.release("a", "p")
    assert admission.has_grantable
    assert taken_from(admission) == ["p1"]
    admission.release("a", "p")
    assert taken_from(admission) == ["p2"]
    admission.release("a", "p")
    assert taken_from(admission) == ["b-p"]


def test_a_run_without_room_holds_nobody_up_in_its_pool() -> None:
    """It gets its place there again when it has room."""
    admission: Admission[str] = Admission(20, {"p": Pool(9)})
    admission.enter("a", 2)
    admission.enter("b", None)
    admission.add("a", "a-plain0")
    for number in range(3):
        admission.add("a", f"a{number}", "p")
        admission.add("b", f"b{number}", "p")
    admission.add("a", "a-plain1")
    assert taken_from(admission) == ["a-plain0", "a0", "b0", "b1", "b2"]
    admission.add("a", "a-high", None, 1)
    assert not admission.has_grantable
    admission.release("a", "p")
    assert taken_from(admission) == ["a-high"]
    admission.release("a")
    admission.release("a")
    assert taken_from(admission) == ["a-plain1", "a1"]


def test_a_rate_bounds_starts() -> None:
    """A burst at once, then one whenever a token comes; a slot given back is no token."""
    clock = Clock()
    admission: Admission[str] = Admission(20, {"p": Pool(20, per_s=4, burst=2)}, clock=clock)
    admission.enter("a", None)
    for number in range(9):
        admission.add("a", f"p{number}", "p")
    assert admission.next_token_at is None, "nobody was held up yet"
    assert taken_from(admission) == ["p0", "p1"]
    admission.release("a", "p")
    assert not admission.has_grantable
    assert admission.next_token_at == 100.25
    clock.now = 100.2
    assert not admission.has_grantable
    for now, count in ((100.25, 1), (100.75, 2), (200, 2), (200.125, 0)):
        clock.now = now
        assert admission.has_grantable == bool(count)
        assert len(taken_from(admission)) == count
    assert admission.next_token_at == 200.25


def test_no_token_is_awaited_where_it_would_not_help() -> None:
    """While no slot is free, or nobody waits, others will look."""
    clock = Clock()
    admission: Admission[str] = Admission(2, {"p": Pool(5, per_s=1)}, clock=clock)
    admission.enter("a", None)
    for work in ("p0", "p1"):
        admission.add("a", work, "p")
    assert taken_from(admission) == ["p0"]
    assert admission.next_token_at == 101
    admission.add("a", "plain")
    assert taken_from(admission) == ["plain"]
    assert admission.next_token_at is None
    admission.release("a")
    assert admission.next_token_at == 101
    admission.withdraw("a")
    assert admission.next_token_at is None
    clock.now = 105
    assert not admission.has_grantable
    admission.add("a", "p2", "p")
    assert taken_from(admission) == ["p2"]


def test_who_comes_back_needs_a_slot_of_all_and_no_token() -> None:
    """It takes the slot of the runtime, of its run and of its pool."""
    clock = Clock()
    admission: Admission[str] = Admission(2, {"p": Pool(1, per_s=1)}, clock=clock)
    admission.enter("a", 1)
    admission.enter("b", None)
    admission.add("a", "one", "p")
    assert admission.take() == "one"
    assert admission.take_back() is None
    admission.release("a", "p")
    clock.now += 1
    admission.add("b", "two", "p")
    assert admission.take() == "two"
    admission.come_back("a", "one", "p")
    assert admission.has_returning
    assert admission.take_back() is None, "its pool is full"
    admission.add("a", "three")
    assert admission.take() == "three"
    admission.release("b", "p")
    assert admission.take_back() is None, "its run is full"
    assert admission.statistics() == AdmissionStatistics(
        slots=2, running=1, queued=0, returning=1, pools={"p": PoolStatistics(slots=1, running=0, queued=0, returning=1)}
    )
    admission.add("b", "four")
    admission.add("b", "five")
    assert admission.take() == "four"
    admission.release("a")
    admission.add("b", "six")
    assert admission.take() == "five"
    assert admission.take_back() is None, "the runtime is full"
    admission.release("b")
    assert admission.take_back() == "one"
    assert not admission.has_returning


def test_those_who_come_back_go_by_priority_and_may_give_up() -> None:
    """In any order; the others keep theirs."""
    admission: Admission[str] = Admission(1)
    admission.enter("a", None)
    admission.add("a", "runs")
    assert admission.take() == "runs"
    places = {
        name: admission.come_back("a", name, None, priority)
        for name, priority in zip("abcdefg", (0, 0, 0, 0, 1, 1, 2), strict=True)
    }
    for name in "bagc":
        admission.give_up(places[name])
    assert admission.statistics().returning == 3
    order: list[str | None] = []
    for _ in range(4):
        admission.release("a")
        order.append(admission.take_back())
    assert order == ["e", "f", "d", None]
    assert admission.statistics().returning == 0


def test_a_parked_attempt_outlives_its_run() -> None:
    """It is granted a slot, and gives it back, though its run keeps no line any more."""
    admission: Admission[str] = Admission(1, {"p": Pool(1)})
    admission.enter("a", 1)
    admission.leave("a")
    admission.come_back("a", "late", "p")
    assert admission.take_back() == "late"
    assert admission.statistics().running == 1
    admission.release("a", "p")
    assert admission.statistics().pools["p"].running == admission.statistics().running == 0


def test_what_waits_in_pools_can_be_withdrawn() -> None:
    """All of it, and the run goes on as a new one would."""
    admission: Admission[str] = Admission(20, {"p": Pool(1)})
    admission.enter("a", None)
    for number, (pool, priority) in enumerate([(None, 0), ("p", 0), ("p", 3), (None, 3)]):
        admission.add("a", str(number), pool, priority)
    assert sorted(admission.withdraw("a")) == ["0", "1", "2", "3"]
    assert admission.statistics().queued == 0
    assert not admission.has_grantable
    admission.add("a", "again", "p", 3)
    assert taken_from(admission) == ["again"]


def calls_of(step: Callable[[], object]) -> int:
    """Count the calls that a step makes, which is the same on any machine."""
    calls = 0

    def count(_frame: object, _event: str, _argument: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        step()
    finally:
        sys.setprofile(None)
    return calls


def test_a_long_queue_before_a_full_pool_costs_nothing() -> None:
    """With 50,000 for a full pool and 50,000 others, in one run with a limit, a grant takes as few steps as with eight."""
    costs: list[int] = []
    for size in (8, 50_000):
        admission: Admission[int] = Admission(20, {"p": Pool(1)})
        admission.enter("a", 4)
        for number in range(size):
            admission.add("a", number, "p")
            admission.add("a", number)
        for _ in range(4):
            admission.take()

        def step(admission: Admission[int] = admission) -> None:
            admission.release("a")
            assert admission.has_grantable
            assert admission.take() is not None

        costs.append(max(calls_of(step) for _ in range(4 if size == 8 else 500)))
    assert costs[1] <= costs[0]


def test_entries_out_of_date_are_cleared_out() -> None:
    """A lane that changes its place again and again, behind one that goes first, leaves nothing behind."""
    admission: Admission[int] = Admission(1, {"p": Pool(1)})
    admission.enter("a", None)
    admission.enter("b", None)
    for number in range(2_000):
        admission.add("a", number, "p", number)
    (gate,) = admission._starting  # pyright: ignore[reportPrivateUsage]
    assert len(gate.heap) <= 65
    assert admission.take() == 1_999


@attrs.define(eq=False)
class Work:
    """One attempt of the model."""

    run: int
    pool: str | None
    priority: int
    count: int


POOLS = {"p": Pool(1), "q": Pool(2, per_s=1, burst=2)}


class AdmissionMachine(RuleBasedStateMachine):
    """Whatever happens, all bounds hold, order holds, and what can be granted is: as by a scan of everything."""

    @initialize(slots=st.integers(1, 4), limits=st.lists(st.none() | st.integers(1, 3), min_size=1, max_size=4))
    def begin(self, slots: int, limits: list[int | None]) -> None:
        """Open some runs."""
        self.slots, self.limits, self.clock = slots, limits, Clock()
        self.admission: Admission[Work] = Admission(slots, POOLS, clock=self.clock)
        self.waiting: list[Work] = []
        self.running: list[Work] = []
        self.parked: list[Work] = []
        self.returning: dict[Work, Place[Work]] = {}
        self.tokens, self.count = 2.0, 0
        for run, limit in enumerate(limits):
            self.admission.enter(run, limit)

    def can_go_on(self, work: Work) -> bool:
        """Tell whether there is room for one."""
        limit = self.limits[work.run]
        return (
            len(self.running) < self.slots
            and (limit is None or sum(other.run == work.run for other in self.running) < limit)
            and (work.pool is None or sum(other.pool == work.pool for other in self.running) < POOLS[work.pool].slots)
        )

    def can_start(self, work: Work) -> bool:
        """Tell whether one may start."""
        return self.can_go_on(work) and (work.pool != "q" or self.tokens >= 1)

    @rule(data=st.data(), pool=st.sampled_from([None, "p", "q"]), priority=st.integers(-1, 1))
    def add(self, data: st.DataObject, pool: str | None, priority: int) -> None:
        """Queue something."""
        self.count += 1
        work = Work(data.draw(st.integers(0, len(self.limits) - 1)), pool, priority, self.count)
        self.waiting.append(work)
        self.admission.add(work.run, work, pool, priority)

    @rule()
    def take(self) -> None:
        """Take what is granted, if anything is."""
        taken = self.admission.take()
        startable = [work for work in self.waiting if self.can_start(work)]
        if taken is None:
            assert not startable
            return
        assert taken in startable
        assert taken.priority == max(work.priority for work in startable)
        assert taken is next(w for w in startable if (w.run, w.pool, w.priority) == (taken.run, taken.pool, taken.priority))
        self.waiting.remove(taken)
        self.running.append(taken)
        self.tokens -= taken.pool == "q"

    @precondition(lambda self: self.running)
    @rule(data=st.data(), parks=st.booleans())
    def release(self, data: st.DataObject, parks: bool) -> None:
        """Free a slot, for good or for a while."""
        work = data.draw(st.sampled_from(self.running))
        self.running.remove(work)
        if parks:
            self.parked.append(work)
        self.admission.release(work.run, work.pool)

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        """Have one that parks wait to go on."""
        work = data.draw(st.sampled_from(self.parked))
        self.parked.remove(work)
        self.returning[work] = self.admission.come_back(work.run, work, work.pool, work.priority)

    @rule()
    def take_back(self) -> None:
        """Let one go on, if one can."""
        taken = self.admission.take_back()
        able = [work for work in self.returning if self.can_go_on(work)]
        if taken is None:
            assert not able
            return
        assert taken in able
        assert taken.priority == max(work.priority for work in able)
        assert taken is next(w for w in able if (w.run, w.pool, w.priority) == (taken.run, taken.pool, taken.priority))
        del self.returning[taken]
        self.running.append(taken)

    @precondition(lambda self: self.returning)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Have one that waits to go on give up."""
        work = data.draw(st.sampled_from(list(self.returning)))
        self.admission.give_up(self.returning.pop(work))

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """Take a run's queue away."""
        run = data.draw(st.integers(0, len(self.limits) - 1))
        gone = [work for work in self.waiting if work.run == run]
        assert sorted(self.admission.withdraw(run), key=lambda work: work.count) == gone
        self.waiting = [work for work in self.waiting if work.run != run]

    @rule(halves=st.integers(1, 5))
    def pass_time(self, halves: int) -> None:
        """Let tokens come."""
        self.clock.now += halves / 2
        self.tokens = min(2, self.tokens + halves / 2)

    @invariant()
    def what_can_be_granted_is_known(self) -> None:
        """Neither more nor less; and if time is all that is lacking, until when."""
        startable = any(map(self.can_start, self.waiting))
        assert self.admission.has_grantable == startable
        assert self.admission.has_returning == bool(self.returning)
        if not startable and any(map(self.can_go_on, self.waiting)):
            assert self.admission.next_token_at == self.clock.now + 1 - self.tokens

    @invariant()
    def the_ring_holds_lines_with_room(self) -> None:
        """Each once, and no other."""
        admission = self.admission
        lines = [line for line in admission._lines.values() if line.waiting and line.running < line.limit]  # pyright: ignore[reportPrivateUsage]
        assert sorted(map(id, admission._ring)) == sorted(map(id, lines))  # pyright: ignore[reportPrivateUsage]
        assert {id(line) for line in lines} == {id(line) for line in admission._lines.values() if line.is_in_ring}  # pyright: ignore[reportPrivateUsage]

    @invariant()
    def statistics_count(self) -> None:
        """What waits and runs, by pool too."""
        assert self.admission.statistics() == AdmissionStatistics(
            slots=self.slots,
            running=len(self.running),
            queued=len(self.waiting),
            returning=len(self.returning),
            pools={
                name: PoolStatistics(
                    slots=pool.slots,
                    running=sum(work.pool == name for work in self.running),
                    queued=sum(work.pool == name for work in self.waiting),
                    returning=sum(work.pool == name for work in self.returning),
                )
                for name, pool in POOLS.items()
            },
        )


TestAdmissionMachine = AdmissionMachine.TestCase
