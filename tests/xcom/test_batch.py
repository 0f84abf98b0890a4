"""How a drain of the broker's mailbox is cut into batches."""

from __future__ import annotations

from itertools import pairwise

import anyio
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.actors.reply import Reply
from dagrelay.model.records import InstanceKey
from dagrelay.testing.story import Story
from dagrelay.xcom.batch import MAX_BATCH_BYTES, Barrier, Message, Request, entries_of, split


def weighing(size: int) -> Request:
    """Return a request that carries so many bytes."""
    return Request(Story().start("a"), None, size)


@given(st.lists(st.integers(0, 6).map(lambda mib: mib * 1024 * 1024)))
def test_batches_keep_order_and_stay_below_the_limit(sizes: list[int]) -> None:
    """Unless one message alone is larger; and no batch could have taken the next one's first."""
    messages: list[Message] = [weighing(size) for size in sizes]
    batches = list(split(messages))
    assert [message for batch in batches for message in batch] == messages
    weights = [[message.size for message in batch if isinstance(message, Request)] for batch in batches]
    assert all(batch and (len(batch) == 1 or sum(batch) <= MAX_BATCH_BYTES) for batch in weights)
    assert all(sum(one) + two[0] > MAX_BATCH_BYTES for one, two in pairwise(weights))


def test_exactly_the_limit_is_one_batch() -> None:
    """One byte more are two; a barrier weighs nothing."""

    async def play() -> None:
        barrier = Barrier(Reply())
        assert len(list(split([weighing(MAX_BATCH_BYTES - 1), weighing(1), barrier]))) == 1
        assert len(list(split([weighing(MAX_BATCH_BYTES), weighing(1), barrier]))) == 2

    anyio.run(play)


def test_operations_tell_what_they_store() -> None:
    """With the slot it goes to."""
    story = Story("r")
    a = InstanceKey("r", "a", None)
    finish, put = story.finish("a", 2, values={"k": b"1"}), story.put("a", {"k": b"1"}, slot=-1, attempt=2)
    assert list(entries_of(finish)) == [(a, 2, finish.entries[0])]
    assert list(entries_of(put)) == [(a, -1, put.entries[0])]
    assert list(entries_of(story.end())) == []
