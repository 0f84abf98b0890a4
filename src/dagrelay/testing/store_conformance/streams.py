"""What a store does with streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.errors import RunNotFoundError, StaleAttemptError, XComConflictError
from dagrelay.model.events import XComPushed
from dagrelay.model.states import TaskState
from dagrelay.stores.operations import TASK_LIFETIME
from dagrelay.stores.stream_records import StreamPosition, StreamQuery, unpack_items
from dagrelay.testing.store_conformance.contract import StoreContract, accept, find, refusal
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from dagrelay.stores.base import Store
    from dagrelay.stores.stream_records import StreamPage

__all__ = ("StreamTests",)


async def _read(store: Store, story: Story, *, generation: int = 1, from_seq: int = 0, max_bytes: int = 1_000) -> StreamPage:
    """Read the stream `rows` of task `a`, and the position of task `b` in it."""
    query = StreamQuery(
        producer=story.key("a"),
        key="rows",
        consumer=story.key("b"),
        generation=generation,
        from_seq=from_seq,
        max_bytes=max_bytes,
    )
    return await store.stream(query)


def _firsts_of(page: StreamPage) -> list[int]:
    """Return where the chunks of a page begin."""
    return [chunk.first_seq for chunk in page.chunks]


def _items_of(page: StreamPage) -> list[tuple[int, bytes]]:
    """Return each item of a page with its seq."""
    return [
        (seq, item) for chunk in page.chunks for seq, item in enumerate(unpack_items(chunk.count, chunk.items), chunk.first_seq)
    ]


class StreamTests(StoreContract):
    """Streams: chunks, generations and positions."""

    async def test_items_are_read_in_their_order(self, store: Store) -> None:
        """Chunks follow one another, numbers may be left out between them, and each tells how far the stream has come."""
        story = Story()
        await accept(
            store,
            story.create("a", "b"),
            story.start("a"),
            story.append("a", "rows", [b"0", b"", b"22"]),
            story.append("a", "rows", [b"3"], first_seq=7, is_numbered=True),
        )
        page = await _read(store, story)
        assert _items_of(page) == [(0, b"0"), (1, b""), (2, b"22"), (7, b"3")]
        assert [chunk.serializer for chunk in page.chunks] == ["json", "json"]
        assert page.head is not None
        assert (page.head.generation, page.head.next_seq, page.head.attempt, page.head.count) == (1, 8, 1, 4)
        assert page.head.is_numbered
        assert page.position is None

    async def test_a_fork_has_the_streams_of_what_was_copied(self, store: Store) -> None:
        """Of tasks that have ended; what was acknowledged is not copied, and the source keeps all it has."""
        story, fork = Story(), Story("fork")
        await accept(
            store,
            story.create("a", "b", "c"),
            story.start("a"),
            story.append("a", "rows", [b"0", b"1"]),
            story.append("a", "rows", [b"2"], first_seq=2),
            story.finish("a"),
            story.start("b"),
            story.ack("b", "a", "rows", 1),
            story.start("c"),
            story.append("c", "rows", [b"c"]),
        )
        before = await _read(store, story)
        await accept(store, fork.fork("run", "a", "c", tasks=("a", "b", "c")))
        page = await _read(store, fork)
        assert (page.head, _items_of(page)) == (before.head, [(0, b"0"), (1, b"1"), (2, b"2")])
        assert page.position is None
        unfinished = StreamQuery(producer=fork.key("c"), key="rows", consumer=None, generation=1, from_seq=0, max_bytes=1)
        assert (await store.stream(unfinished)).head is None
        assert await _read(store, story) == before
        assert before.position == StreamPosition(generation=1, next_seq=1)
        assert before.head is not None
        assert await store.stored_bytes("fork") == before.head.size

    async def test_an_unknown_stream_is_empty(self, store: Store) -> None:
        """Whatever of its name is not known."""
        story = Story()
        for told in (None, story.create("a", "b"), story.append("a", "other", [b"1"])):
            await accept(store, *([] if told is None else [told]))
            page = await _read(store, story)
            assert (page.head, page.position, page.chunks) == (None, None, ())

    async def test_a_page_holds_what_was_asked_for(self, store: Store) -> None:
        """From the chunk with the item on, as many as fit, but always one; none of another generation."""
        story = Story()
        chunks = [story.append("a", "rows", [b"x" * 92, b"y"], first_seq=2 * n) for n in range(4)]
        await accept(store, story.create("a", "b"), *chunks)
        assert _firsts_of(await _read(store, story, from_seq=3, max_bytes=210)) == [2, 4]
        assert _firsts_of(await _read(store, story, from_seq=4, max_bytes=1)) == [4]
        assert _firsts_of(await _read(store, story, from_seq=8)) == []
        assert _firsts_of(await _read(store, story, generation=2)) == []
        gap = story.append("a", "rows", [b"z"], first_seq=20)
        await accept(store, gap)
        assert _firsts_of(await _read(store, story, from_seq=10)) == [20]

    async def test_a_place_is_taken_once(self, store: Store) -> None:
        """Nothing is overwritten, nor put between, nor added to a generation that is over."""
        story = Story()
        await accept(store, story.create("a", "b"), story.append("a", "rows", [b"0", b"1"], generation=2))
        for op in (
            story.append("a", "rows", [b"x"], generation=2),
            story.append("a", "rows", [b"x"], generation=2, first_seq=1),
            story.append("a", "rows", [b"x"], generation=1, first_seq=9),
        ):
            assert isinstance(await refusal(store, op), XComConflictError)
        assert _items_of(await _read(store, story, generation=2)) == [(0, b"0"), (1, b"1")]

    async def test_a_generation_takes_the_place_of_the_one_before(self, store: Store) -> None:
        """Its items go, and weigh nothing any more."""
        story = Story()
        await accept(store, story.create("a", "b"), story.append("a", "rows", [b"old"] * 100), story.append("a", "k", [b"other"]))
        before = await store.stored_bytes("run")
        await accept(store, story.append("a", "rows", [b"new"], generation=2))
        assert _items_of(await _read(store, story)) == []
        assert _items_of(await _read(store, story, generation=2)) == [(0, b"new")]
        assert await store.stored_bytes("run") == before - 99 * 7

    async def test_items_weigh_in_the_sum_of_a_run(self, store: Store) -> None:
        """Beside the entries, and in what is needed to go on."""
        story = Story()
        op = story.append("a", "rows", [b"0", b"11"])
        await accept(store, story.create("a", "b"), story.put("a", {"k": b"123"}), op)
        assert await store.stored_bytes("run") == 3 + len(op.items)
        image = await store.load_run("run")
        assert image is not None
        assert image.stored_bytes == 3 + len(op.items)

    async def test_a_position_is_stored_with_its_writes(self, store: Store) -> None:
        """The last one stands, for each consumer and stream; entries go where task-lifetime ones do, and are told of."""
        story = Story()
        await accept(
            store,
            story.create("a", "b"),
            story.start("b"),
            story.append("a", "rows", [b"0", b"1"]),
            story.ack("b", "a", "rows", 1, {"sum": b"0"}),
            story.ack("b", "a", "rows", 2, {"sum": b"1"}),
            story.ack("b", "a", "other", 9),
            story.ack("a", "a", "rows", 1),
        )
        assert (await _read(store, story)).position == StreamPosition(generation=1, next_seq=2)
        assert await find(store, story.key("b"), "sum", (TASK_LIFETIME,)) == b"1"
        pushes = [event for event in await store.events("run") if isinstance(event, XComPushed)]
        assert [(event.task_id, event.key, event.attempt) for event in pushes] == [("b", "sum", 1)]
        await accept(store, story.ack("b", "a", "rows", 0))
        assert (await _read(store, story)).position == StreamPosition(generation=1, next_seq=0)

    async def test_an_attempt_that_is_over_neither_appends_nor_acknowledges(self, store: Store) -> None:
        """It is refused whole, its writes included."""
        story = Story()
        await accept(
            store, story.create("a", "b"), story.append("a", "rows", [b"0"]), story.finish("a", state=TaskState.UP_FOR_RETRY)
        )
        for op in (story.append("a", "rows", [b"1"], first_seq=1), story.ack("a", "a", "rows", 1, {"k": b"1"})):
            assert isinstance(await refusal(store, op), StaleAttemptError)
        await accept(store, story.append("a", "rows", [b"1"], first_seq=1, attempt=2))
        assert _items_of(await _read(store, story)) == [(0, b"0"), (1, b"1")]
        assert await find(store, story.key("a"), "k", (TASK_LIFETIME,)) is None

    async def test_streams_belong_to_a_run_that_is_there(self, store: Store) -> None:
        """Nothing is appended without it, and it takes them with it."""
        story = Story()
        for op in (story.append("a", "rows", [b"0"]), story.ack("b", "a", "rows", 1)):
            assert isinstance(await refusal(store, op), RunNotFoundError)
        await accept(store, story.create("a", "b"), story.append("a", "rows", [b"0"]), story.ack("b", "a", "rows", 1))
        await accept(store, story.end(), story.delete_run())
        page = await _read(store, story)
        assert (page.head, page.position, page.chunks) == (None, None, ())
        assert await store.stored_bytes("run") == 0
        assert isinstance(await refusal(store, story.append("a", "rows", [b"0"])), RunNotFoundError)

    async def test_elements_have_streams_and_positions_of_their_own(self, store: Store) -> None:
        """Names are those of instances."""
        story = Story()
        await accept(
            store,
            story.create("a", "b"),
            story.append("a", "rows", [b"0"], map_index=3),
            story.ack("b", "a", "rows", 1, map_index=2),
        )
        query = StreamQuery(producer=story.key("a", 3), key="rows", consumer=story.key("b", 2), generation=1)
        assert _items_of(await store.stream(query)) == [(0, b"0")]
        assert (await _read(store, story)).head is None
