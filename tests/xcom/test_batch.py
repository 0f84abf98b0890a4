"""How a drain of the broker's mailbox is cut into batches."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.actors.reply import Reply
from dagrelay.model.records import InstanceKey
from dagrelay.testing.story import Story
from dagrelay.xcom.batch import MAX_BATCH_BYTES, Barrier, Message, Request, Turns, entries_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def weighing(size: int) -> Request:
    """Return a request that carries so many bytes."""
    return Request(Story().start("a"), None, size)


def batches_of(messages: list[Message], *, is_shared: bool = False) -> Iterator[list[Message]]:
    """Yield the batches in which messages drained at once are written."""
    turns = Turns()
    yield turns.next_batch(messages, is_shared=is_shared)
    while turns:
        yield turns.next_batch([], is_shared=is_shared)


@given(st.lists(st.integers(0, 6).map(lambda mib: mib * 1024 * 1024), min_size=1))
def test_batches_keep_order_and_stay_below_the_limit(sizes: list[int]) -> None:
    """Unless one message alone is larger; and no batch could have taken the next one's first."""
    messages: list[Message] = [weighing(size) for size in sizes]
    batches = list(batches_of(messages))
    assert [message for batch in batches for message in batch] == messages
    weights = [[message.size for message in batch if isinstance(message, Request)] for batch in batches]
    assert all(batch and (len(batch) == 1 or sum(batch) <= MAX_BATCH_BYTES) for batch in weights)
    assert all(sum(one) + two[0] > MAX_BATCH_BYTES for one, two in pairwise(weights))


def test_exactly_the_limit_is_one_batch() -> None:
    """One byte more are two; a barrier weighs nothing."""

    async def play() -> None:
        barrier = Barrier(Reply())
        assert len(list(batches_of([weighing(MAX_BATCH_BYTES - 1), weighing(1), barrier]))) == 1
        assert len(list(batches_of([weighing(MAX_BATCH_BYTES), weighing(1), barrier]))) == 2

    anyio.run(play)


def test_operations_tell_what_they_store() -> None:
    """With the slot it goes to."""
    story = Story("r")
    a = InstanceKey("r", "a", None)
    finish, put = story.finish("a", 2, values={"k": b"1"}), story.put("a", {"k": b"1"}, slot=-1, attempt=2)
    assert list(entries_of(finish)) == [(a, 2, finish.entries[0])]
    assert list(entries_of(put)) == [(a, -1, put.entries[0])]
    assert list(entries_of(story.end())) == []


def test_runs_of_little_come_before_those_that_flood() -> None:
    """In batches of their own; in each run the order stays, and history is pruned with the end after which it was asked for."""
    flood, small = Story("flood"), Story("small")
    put = [Request(flood.put("a", {"k": b"x"}), None, 40_000) for _ in range(4)]
    own = [Request(small.start("a"), None), Request(small.finish("a"), None, 10), Request(small.end(), None)]
    ends = [Request(flood.end(), None), Request(flood.prune(5), None)]
    prune = Request(small.prune(5), None)
    drained: list[Message] = [put[0], own[0], put[1], own[1], own[2], prune, put[2], put[3], *ends]
    assert list(batches_of(drained, is_shared=True)) == [[*own, prune], put[:3], [put[3], *ends]]
    assert list(batches_of(drained)) == [drained]


def test_who_floods_keeps_his_order_over_drains() -> None:
    """What he hands in later waits behind what of his waits already, however little it is; others go before both."""
    flood, small = Story("flood"), Story("small")
    turns = Turns()
    first: list[Message] = [Request(flood.put("a", {"k": b"x"}), None, 100_000) for _ in range(3)]
    assert turns.next_batch(first, is_shared=True) == [first[0]]
    later, other = Request(flood.end(), None), Request(small.start("a"), None)
    assert turns.next_batch([later, other], is_shared=True) == [other]
    assert turns.waiting() == [*first[1:], later]
    assert [turns.next_batch([], is_shared=True) for _ in range(2)] == [[first[1]], [first[2], later]]
    assert not turns


def test_what_may_be_about_other_runs_keeps_its_place() -> None:
    """So does all where everybody floods; a barrier comes after what was accepted before it."""
    flood, small = Story("flood"), Story("small")
    heavy, light = Request(flood.put("a", {"k": b"x"}), None, 100_000), Request(small.start("a"), None)
    fork = Request(small.fork("flood", "a"), None)
    assert list(batches_of([heavy, light, fork], is_shared=True)) == [[heavy, light, fork]]
    assert list(batches_of([light, light], is_shared=True)) == [[light, light]]

    async def play() -> None:
        barrier = Barrier(Reply())
        assert list(batches_of([heavy, light, barrier], is_shared=True)) == [[heavy, light, barrier]]

    anyio.run(play)
