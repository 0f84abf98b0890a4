"""What a store does when it is opened, closed and asked for housekeeping, and how it treats batches."""

# ruff: noqa: PLR2004 - the number expected is clearest where it is expected

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.errors import (
    StaleAttemptError,
    StoreClosedError,
    StoreLockedError,
)
from dagrelay.model.events import TaskStateChanged
from dagrelay.model.records import from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.operations import RETURN_VALUE
from dagrelay.testing.store_conformance.contract import StoreContract, accept, find, summary
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay.stores.base import Store

__all__ = ("OpeningTests",)


class OpeningTests(StoreContract):
    """Opening, closing, batches."""

    # ---------------------------------------------------------------------------------------------- opening and closing

    async def test_an_unopened_store_refuses_work(self, tmp_path: Path) -> None:
        """Before open and after close every call is a StoreClosedError."""
        store = self.make_store(tmp_path)
        with pytest.raises(StoreClosedError):
            await store.apply([Story().create("a")])
        await store.open(now_us=0)
        await store.close()
        with pytest.raises(StoreClosedError):
            await store.find_run("run")

    async def test_close_may_come_twice_and_before_open(self, tmp_path: Path) -> None:
        """Closing what is not open does nothing."""
        store = self.make_store(tmp_path)
        await store.close()
        await store.open(now_us=0)
        await store.close()
        await store.close()

    async def test_an_open_store_can_not_be_opened_again(self, store: Store) -> None:
        """The same object belongs to one runtime at a time, and stays usable for it."""
        with pytest.raises(StoreLockedError):
            await store.open(now_us=0)
        await accept(store, Story().create("a"))

    async def test_what_was_stored_is_there_after_reopening(self, tmp_path: Path) -> None:
        """A later store of the same place finds everything."""
        story = Story()
        first = self.make_store(tmp_path)
        await first.open(now_us=0)
        await accept(first, story.create("a"), story.finish("a", values={"return_value": b"1"}), story.end())
        before = await first.load_run("run"), await first.events("run")
        await first.close()
        second = self.make_store(tmp_path)
        await second.open(now_us=9)
        after = await second.load_run("run"), await second.events("run")
        value = await find(second, story.key("a"), RETURN_VALUE)
        await second.close()
        assert after == before
        assert value == b"1"

    async def test_reopening_marks_what_ran_as_interrupted(self, tmp_path: Path) -> None:
        """Running runs and their running instances are interrupted; what ended or waits for a retry stays."""
        story, done = Story(), Story("done")
        first = self.make_store(tmp_path)
        await first.open(now_us=0)
        await accept(
            first,
            story.create("a", "b", "c", "d"),
            story.finish("a"),
            story.start("b"),
            story.finish("c", state=TaskState.UP_FOR_RETRY, failures=1, retry_us=77),
            story.start("d", map_index=3),
            done.create("a"),
            done.end(),
        )
        await first.close()
        second = self.make_store(tmp_path)
        await second.open(now_us=5_000_000)
        image = await second.load_run("run")
        events = await second.events("run", after_seq=story.seq)
        finished = await second.find_run("done")
        await second.close()

        assert image is not None
        assert finished is not None
        assert image.stored.run.state is RunState.INTERRUPTED
        assert image.stored.run.ended_at == from_us(5_000_000)
        states = {each.instance[1:]: (each.state, each.interruptions, each.attempt) for each in image.instances}
        assert states == {
            ("a", None): (TaskState.SUCCESS, 0, 1),
            ("b", None): (TaskState.INTERRUPTED, 1, 1),
            ("c", None): (TaskState.UP_FOR_RETRY, 0, 1),
            ("d", 3): (TaskState.INTERRUPTED, 1, 1),
        }
        assert summary(events) == [
            (story.seq + 1, "b interrupted 1"),
            (story.seq + 2, "d interrupted 1"),
            (story.seq + 3, "run interrupted"),
        ]
        assert image.next_seq == story.seq + 4
        assert finished.run.state is RunState.SUCCESS

    async def test_a_store_has_a_name_and_can_be_written(self, store: Store) -> None:
        """The name stands in error messages."""
        assert store.name
        assert not store.is_read_only

    async def test_statistics_count_since_the_opening(self, store: Store) -> None:
        """Batches, applied operations and reads are counted; refused operations are not."""
        story = Story()
        await store.apply([story.create("a"), story.create("a"), story.end()])
        await store.find_run("run")
        statistics = store.statistics()
        assert (statistics.batches, statistics.operations, statistics.reads, statistics.replays) == (1, 2, 1, 0)

    async def test_maintenance_changes_nothing(self, store: Store) -> None:
        """Housekeeping may be asked for at any time."""
        await store.maintain(idle=True)
        await accept(store, Story().create("a"))
        await store.maintain(idle=False)
        await store.maintain(idle=True)
        assert await store.find_run("run") is not None

    async def test_an_empty_batch_is_applied(self, store: Store) -> None:
        """Nothing to do gives no result."""
        assert await store.apply([]) == []

    # ---------------------------------------------------------------------------------------------- batches

    async def test_a_refused_operation_stands_alone(self, store: Store) -> None:
        """Those before and after it are applied."""
        story = Story()
        results = await store.apply(
            [story.create("a", "b"), story.finish("a"), story.start("a"), story.finish("b", values={"k": b"1"}), story.end()]
        )
        assert [isinstance(result, StaleAttemptError) for result in results] == [False, False, True, False, False]
        assert await find(store, story.key("b"), "k") == b"1"

    async def test_later_operations_see_earlier_ones_of_the_batch(self, store: Store) -> None:
        """A whole run may be one batch."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.put("a", {"k": b"1"}),
            story.create("a"),
            story.start("a"),
            story.put("a", {"k": b"2"}, slot=1),
            story.finish("a", state=TaskState.UP_FOR_RETRY),
            story.start("a", 2),
            story.finish("a", 2, values={"k": b"3"}),
            story.end(),
        )
        assert await find(store, a, "k") == b"3"
        assert [type(event) for event in await store.events("run")].count(TaskStateChanged) == 4
