"""Who waits for what: wakes reach those they concern, and rest is counted by instance."""

from __future__ import annotations

from dagrelay.model.records import InstanceKey
from dagrelay.xcom.waiting import Waiter, Waiting

A, B, C = (InstanceKey("r", task_id, None) for task_id in "abc")


async def test_only_those_concerned_are_woken() -> None:
    """A value wakes waiters of its instance and key, an end all of its instance; those removed are not."""
    waiting = Waiting()
    k, j, other, gone = Waiter(A, C, "k"), Waiter(B, C, "j"), Waiter(A, B, "k"), Waiter(B, C, "k")
    for waiter in (k, j, other, gone):
        waiting.add(waiter)
    waiting.remove(gone)
    waiting.stored(C, "k")
    assert [each.is_woken for each in (k, j, other, gone)] == [True, False, False, False]
    k.rearm()
    assert not k.is_woken
    waiting.ended(C)
    assert [each.is_woken for each in (k, j, other, gone)] == [True, True, False, False]
    await k.wait()


async def test_it_is_empty_when_the_last_is_gone() -> None:
    """So that runs in which nobody waits pay nothing; removing twice is harmless."""
    waiting = Waiting()
    waiter = Waiter(A, B, "k")
    assert not waiting
    waiting.add(waiter)
    assert waiting
    for _ in range(2):
        waiting.remove(waiter)
        assert not waiting
    waiting.watch(A, "k", lambda: None)
    assert waiting
    waiting.unwatch(A, "k")
    waiting.unwatch(A, "k")
    assert not waiting


async def test_whoever_watches_is_called_for_each_value() -> None:
    """Of that instance and key, until it watches no more."""
    waiting = Waiting()
    calls: list[str] = []
    waiting.watch(A, "k", lambda: calls.append("k"))
    for key in ("k", "j", "k"):
        waiting.stored(A, key)
    waiting.unwatch(A, "k")
    waiting.stored(A, "k")
    assert calls == ["k", "k"]


async def test_instances_at_rest_are_counted_once() -> None:
    """However many of their waiters rest; one that is woken rests no more, and each new rest is told of."""
    waiting = Waiting()
    told: list[int] = []
    waiting.on_rest = lambda _: told.append(waiting.resting_count)
    first, second, third = Waiter(A, C, "k"), Waiter(A, C, "j"), Waiter(B, C, "k")
    for waiter in (first, second, third):
        waiting.add(waiter)
        waiting.rest(waiter)
    assert told == [1, 1, 2]
    assert list(waiting.resting()) == [first, third]
    assert [waiting.is_resting(each) for each in (first, third, Waiter(C, A, "k"))] == [True, True, False]
    waiting.stored(C, "k")
    assert list(waiting.resting()) == [second]
    waiting.give_up(second, "it won't")
    assert (waiting.resting_count, second.reason, second.is_woken) == (0, "it won't", True)
    waiting.rise(second)
    assert waiting.resting_count == 0


async def test_those_that_may_go_on_by_themselves_are_no_sign_of_rest() -> None:
    """They stand still all the same, for whoever could be let go."""
    waiting = Waiting()
    told: list[Waiter] = []
    waiting.on_rest = told.append
    limited, patient, held = Waiter(A, C, "k"), Waiter(A, C, "j"), Waiter(B, A, "k", let_go=lambda: None)
    element = Waiter(InstanceKey("r", "a", 1), C, "k")
    waiting.rest(limited, may_go_on=True)
    assert (told, waiting.resting_count, waiting.can_let_go) == ([limited], 0, False)
    assert (waiting.is_resting(limited), list(waiting.waiters_of(A)), list(waiting.waiters_of(C))) == (False, [limited], [])
    waiting.rest(patient)
    waiting.rest(element)
    waiting.rest(held, may_go_on=True)
    assert (waiting.resting_count, waiting.can_let_go) == (2, True)
    assert waiting.waiters_of_task("a") == [limited, patient, element]
    for waiter in (held, limited, patient, element):
        waiting.wake(waiter)
    assert (waiting.resting_count, waiting.can_let_go, waiting.waiters_of_task("a")) == (0, False, [])
