"""What a store tells of a run's history."""

# ruff: noqa: PLR2004 - the number expected is clearest where it is expected

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.model.events import RunFinished, RunStarted, TaskStateChanged, XComPushed
from dagrelay.model.records import from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.testing.store_conformance.contract import ERROR, StoreContract, accept, summary
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from dagrelay.model.events import Event
    from dagrelay.stores.base import Store

__all__ = ("TimelineTests",)


class TimelineTests(StoreContract):
    """The timeline."""

    async def test_the_timeline_tells_every_change(self, store: Store) -> None:
        """Starts, ends, retries, interruptions, clearings, pushes and deletions, in order, over a reopening."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.create("a", "b", "c"),
            story.start("a"),
            story.put("a", {"k": b"1"}, slot=1),
        )
        await accept(store, story.finish("a", state=TaskState.UP_FOR_RETRY, error=ERROR))
        await accept(store, story.finish("a", 2, values={"return_value": b"2"}), story.mark("b"))
        await accept(store, story.finish("c", state=TaskState.FAILED), story.end(RunState.FAILED))
        await accept(store, story.reopen(a, story.key("b"), story.key("c")))
        await accept(store, story.finish("a", 3), story.finish("c", 2, TaskState.INTERRUPTED), story.finish("c", 3), story.end())
        gists = [gist for _, gist in summary(await store.events("run"))]
        assert gists == [
            "run started",
            "a pushed k",
            "a running 1",
            "a up_for_retry 1",
            "a running 2",
            "a success 2",
            "a pushed return_value",
            "b skipped 0",
            "c running 1",
            "c failed 1",
            "run failed",
            "run started",
            "a pending 2",
            "b pending 0",
            "c pending 1",
            "a running 3",
            "a success 3",
            "c running 2",
            "c interrupted 2",
            "c running 3",
            "c success 3",
            "run success",
        ]

    async def test_events_carry_what_they_are_about(self, store: Store) -> None:
        """Each derived or logged event has all its fields."""
        story = Story()
        await accept(store, story.create("a", dag_id="weather"))
        await accept(store, story.finish("a", state=TaskState.UP_FOR_RETRY, error=ERROR, map_index=2, values={"k": b"123"}))
        await accept(store, story.end(RunState.CANCELLED), story.reopen())
        common = {"run_id": "run"}
        change = {"task_id": "a", "map_index": 2, "attempt": 1}
        assert await store.events("run") == [
            RunStarted(**common, seq=1, time=from_us(1_000), dag_id="weather"),
            TaskStateChanged(**common, **change, seq=2, time=from_us(2_000), state=TaskState.RUNNING),  # type: ignore[arg-type]
            TaskStateChanged(**common, **change, seq=3, time=from_us(3_000), state=TaskState.UP_FOR_RETRY, error=ERROR),  # type: ignore[arg-type]
            XComPushed(**common, **change, seq=4, time=from_us(4_000), key="k", size_bytes=3),  # type: ignore[arg-type]
            RunFinished(**common, seq=5, time=from_us(5_000), state=RunState.CANCELLED),
            RunStarted(**common, seq=6, time=from_us(6_000), dag_id="weather"),
        ]

    async def test_a_marked_attempt_keeps_its_history(self, store: Store) -> None:
        """The end an attempt had before the mark is told as well."""
        story = Story()
        await accept(
            store,
            story.create("a"),
            story.finish("a", state=TaskState.INTERRUPTED),
            story.mark("a", TaskState.FAILED),
            story.end(RunState.FAILED),
            story.reopen(story.key("a")),
        )
        gists = [gist for _, gist in summary(await store.events("run"))]
        assert gists[1:4] == ["a running 1", "a interrupted 1", "a failed 1"]
        assert gists[-1] == "a pending 1"

    async def test_the_timeline_is_paged(self, store: Store) -> None:
        """Pages follow each other without gap or repetition."""
        story = Story()
        await accept(store, story.create("a"))
        for number in range(10):
            await accept(store, story.finish("a", map_index=number, values={"k": b"1"}))
        await accept(store, story.end())
        whole = await store.events("run")
        pages: list[Event] = []
        while page := await store.events("run", after_seq=pages[-1].seq if pages else 0, limit=7):
            assert len(page) <= 7
            pages += page
        assert pages == whole
        assert len(whole) == 32

    async def test_the_next_place_is_above_all_taken(self, store: Store) -> None:
        """Whatever took the highest one."""
        story = Story()
        steps = (
            (story.create("a", "b", "c"), 1),
            (story.start("a"), 2),
            (story.put("a", {"k": b"1"}), 3),
            (story.finish("b"), 5),
            (story.finish("c", state=TaskState.UP_FOR_RETRY), 7),
            (story.delete("a"), 8),
            (story.end(), 9),
        )
        for op, highest in steps:
            await accept(store, op)
            assert await store.next_seq("run") == highest + 1
