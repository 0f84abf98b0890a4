"""Slots go round the runs, first come first served within one, and none is lost."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dagrelay.runtime.admission import Admission, AdmissionStatistics


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


class AdmissionMachine(RuleBasedStateMachine):
    """Whatever is done, slots and limits hold, order holds within a run, and what can be granted is."""

    @initialize(slots=st.integers(1, 4), limits=st.lists(st.none() | st.integers(1, 3), min_size=1, max_size=4))
    def begin(self, slots: int, limits: list[int | None]) -> None:
        """Open some runs."""
        self.slots, self.limits = slots, limits
        self.admission: Admission[tuple[int, int]] = Admission(slots)
        self.waiting: dict[int, list[tuple[int, int]]] = {run: [] for run in range(len(limits))}
        self.running: Counter[int] = Counter()
        self.count = 0
        for run, limit in enumerate(limits):
            self.admission.enter(run, limit)

    def can_run(self, run: int) -> bool:
        """Tell whether a run could be granted a slot."""
        limit = self.limits[run]
        return bool(self.waiting[run]) and (limit is None or self.running[run] < limit)

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        """Queue something."""
        run = data.draw(st.sampled_from(sorted(self.waiting)))
        self.count += 1
        self.waiting[run].append((run, self.count))
        self.admission.add(run, (run, self.count))

    @rule()
    def take(self) -> None:
        """Take what is granted, if anything is."""
        taken = self.admission.take()
        if taken is None:
            assert self.running.total() == self.slots or not any(map(self.can_run, self.waiting))
            return
        assert self.can_run(taken[0])
        assert self.waiting[taken[0]].pop(0) == taken
        self.running[taken[0]] += 1

    @precondition(lambda self: self.running.total())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Free a slot."""
        run = data.draw(st.sampled_from(sorted(+self.running)))
        self.running[run] -= 1
        self.admission.release(run)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """Take a run's queue away."""
        run = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.admission.withdraw(run) == self.waiting[run]
        self.waiting[run] = []

    @invariant()
    def what_can_be_granted_is_known(self) -> None:
        """Neither more nor less."""
        assert self.admission.has_grantable == (self.running.total() < self.slots and any(map(self.can_run, self.waiting)))


TestAdmissionMachine = AdmissionMachine.TestCase
