"""Values at hand: accepted ones over committed ones, bounded by bytes, and never older than the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.model.records import InstanceKey
from dagrelay.stores.operations import NewEntry
from dagrelay.xcom.cache import Resident, ValueCache

if TYPE_CHECKING:
    from dagrelay.xcom.cache import Encoded

A = InstanceKey("run", "a", None)
OVERHEAD = 200


def entry(value: bytes, key: str = "k", serializer: str = "json") -> NewEntry:
    """Return an entry on its way."""
    return NewEntry(key=key, value=value, serializer=serializer, created_us=1, seq=1)


def told(found: Encoded | None) -> tuple[bytes, str] | None:
    """Return what is said of a value at hand."""
    return None if found is None else (found.value, found.serializer)


def name(key: str = "k", slot: int = 1, instance: InstanceKey = A) -> tuple[InstanceKey, int, str]:
    """Return the name of an entry."""
    return (instance, slot, key)


def commit(cache: ValueCache, value: bytes, key: str = "k", slot: int = 1, instance: InstanceKey = A) -> None:
    """Take a value all the way."""
    each = entry(value, key)
    cache.accept(instance, slot, each)
    cache.commit(instance, slot, each)


def test_an_accepted_value_is_at_hand_and_pending_until_its_commit() -> None:
    """Then it is just at hand."""
    cache = ValueCache(10_000)
    one = entry(b"1")
    assert cache.get(name()) is None
    cache.accept(A, 1, one)
    assert told(cache.get(name())) == told(cache.pending(name())) == (b"1", "json")
    cache.commit(A, 1, one)
    assert told(cache.get(name())) == (b"1", "json")
    assert cache.pending(name()) is None
    assert cache.get(name(slot=2)) is None


def test_a_later_push_overlays_an_earlier_one_through_its_commit() -> None:
    """Nobody sees an older value after a newer one, nor the cache's older one after either."""
    cache = ValueCache(10_000)
    commit(cache, b"0")
    one, two = entry(b"1"), entry(b"2")
    cache.accept(A, 1, one)
    cache.accept(A, 1, two)
    assert told(cache.get(name())) == (b"2", "json")
    cache.commit(A, 1, one)
    assert told(cache.get(name())) == (b"2", "json")
    cache.drop(A, 1, two)
    assert cache.get(name()) is None, "the store alone knows that 1 was committed"


def test_pushes_of_equal_bytes_are_not_confused() -> None:
    """Small bytes are one object in CPython; what counts is which push it was."""
    cache = ValueCache(10_000)
    one, two = entry(b"1"), entry(b"1", serializer="other")
    cache.accept(A, 1, one)
    cache.accept(A, 1, two)
    cache.commit(A, 1, one)
    assert told(cache.pending(name())) == (b"1", "other")
    cache.drop(A, 1, one)
    assert told(cache.pending(name())) == (b"1", "other")


def test_a_failed_commit_leaves_what_was_there_before() -> None:
    """The committed value is seen again."""
    cache = ValueCache(10_000)
    commit(cache, b"0")
    one = entry(b"1")
    cache.accept(A, 1, one)
    cache.drop(A, 1, one)
    cache.drop(A, 1, one)
    assert told(cache.get(name())) == (b"0", "json")


def test_the_least_recently_used_values_go_first() -> None:
    """By bytes, the books' own included; what is pending stays whatever it weighs."""
    cache = ValueCache(3 * (OVERHEAD + 100))
    for key in "abc":
        commit(cache, b"x" * 100, key)
    cache.get(name("a"))
    big = entry(b"x" * 10_000, "big")
    cache.accept(A, 1, big)
    commit(cache, b"x" * 100, "d")
    assert [key for key in "abcd" if cache.get(name(key))] == ["a", "c", "d"]
    assert cache.pending(name("big")) is not None
    assert cache.statistics().bytes == 3 * (OVERHEAD + 100)

    cache.commit(A, 1, big)
    assert cache.get(name("big")) is None, "larger than the whole cache"
    assert cache.statistics().entries == 3


def test_a_value_committed_again_is_counted_once() -> None:
    """Its old bytes are given back."""
    cache = ValueCache(10_000)
    for size in (100, 10, 50):
        commit(cache, b"x" * size)
    found = cache.statistics()
    assert (found.entries, found.bytes, found.pending) == (1, 50 + OVERHEAD, 0)


def test_hits_and_misses_are_counted() -> None:
    """For whoever sizes the cache."""
    cache = ValueCache(10_000)
    cache.get(name())
    commit(cache, b"1")
    cache.get(name())
    cache.accept(A, 1, entry(b"2"))
    cache.get(name())
    found = cache.statistics()
    assert (found.hits, found.misses) == (2, 1)


def test_deletions_forget_what_they_name() -> None:
    """A task's key, a task, or a run; other tasks and runs stay."""
    cache = ValueCache(100_000)
    other_task, other_run = InstanceKey("run", "b", None), InstanceKey("other", "a", None)

    def fill() -> None:
        for instance in (A, InstanceKey("run", "a", 3), other_task, other_run):
            for key in ("k", "l"):
                commit(cache, b"1", key, instance=instance)

    fill()
    cache.forget_task("run", "a", "k")
    assert cache.statistics().entries == 6
    assert cache.get(name()) is None
    assert cache.get(name("l")) is not None
    cache.forget_task("run", "a", None)
    assert cache.statistics().entries == 4
    cache.forget_run("run")
    assert cache.statistics().entries == 2
    assert cache.get(name(instance=other_run)) is not None


def test_what_was_read_is_kept_for_next_time() -> None:
    """If it was asked for, and only that."""
    cache = ValueCache(10_000)
    with cache.reading([name()]) as keep:
        keep(name(), Resident(b"1", "json"))
        keep(name("other"), Resident(b"1", "json"))
    assert told(cache.get(name())) == (b"1", "json")
    assert cache.get(name("other")) is None


def test_what_was_written_during_a_read_is_not_replaced_by_what_was_read() -> None:
    """The read may have come before the write."""
    cache = ValueCache(10_000)
    with cache.reading([name()]) as keep:
        commit(cache, b"2")
        keep(name(), Resident(b"1", "json"))
    assert told(cache.get(name())) == (b"2", "json")


@pytest.mark.parametrize("is_run", [False, True])
def test_what_was_deleted_during_a_read_is_not_kept(*, is_run: bool) -> None:
    """Nor after a deletion of the task, nor of the run, while any read of it is under way."""
    cache = ValueCache(10_000)
    with cache.reading([name(), name("l")]) as early:
        with cache.reading([name()]) as late:
            if is_run:
                cache.forget_run("run")
            else:
                cache.forget_task("run", "a", "k")
            late(name(), Resident(b"1", "json"))
        early(name(), Resident(b"1", "json"))
    assert cache.get(name()) is None
    with cache.reading([name()]) as keep:
        keep(name(), Resident(b"3", "json"))
    assert told(cache.get(name())) == (b"3", "json"), "a later read is trusted again"


def test_without_room_nothing_is_kept() -> None:
    """A cache of no bytes is legal."""
    cache = ValueCache(0)
    commit(cache, b"")
    assert cache.get(name()) is None
    assert cache.statistics().bytes == 0
