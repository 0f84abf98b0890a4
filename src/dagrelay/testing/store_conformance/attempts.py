"""What a store does with attempts and task instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.errors import (
    InvalidTransitionError,
    RunNotFoundError,
    StaleAttemptError,
)
from dagrelay.model.states import ENDED_TASK_STATES, TaskState
from dagrelay.stores.operations import TASK_LIFETIME
from dagrelay.testing.store_conformance.contract import ERROR, StoreContract, accept, find, instance_of, refusal
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from dagrelay.stores.base import Store

__all__ = ("AttemptTests",)


class AttemptTests(StoreContract):
    """Attempts, their fences, and marks."""

    # ---------------------------------------------------------------------------------------------- attempts

    async def test_an_attempt_is_stored_as_it_was_told(self, store: Store) -> None:
        """Start and outcome are read back."""
        story = Story()
        await accept(store, story.create("a"), story.start("a"))
        running = await instance_of(store, story.key("a"))
        assert running is not None
        assert (running.state, running.attempt, running.started_us, running.ended_us) == (TaskState.RUNNING, 1, 2_000, None)
        await accept(
            store,
            story.finish("a", state=TaskState.UP_FOR_RETRY, error=ERROR, retry_us=99, failures=1, interruptions=2),
        )
        ended = await instance_of(store, story.key("a"))
        assert ended is not None
        assert (ended.state, ended.attempt, ended.started_us, ended.ended_us) == (TaskState.UP_FOR_RETRY, 1, 3_000, 4_000)
        assert (ended.error, ended.retry_us, ended.failures, ended.interruptions) == (ERROR, 99, 1, 2)

    async def test_a_start_keeps_the_counts_and_drops_error_and_retry_time(self, store: Store) -> None:
        """What counts for the budget lives on; why the last attempt failed does not."""
        story = Story()
        await accept(
            store,
            story.create("a"),
            story.finish("a", state=TaskState.UP_FOR_RETRY, error=ERROR, retry_us=9, failures=1, interruptions=2),
            story.start("a", 2),
        )
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert (found.error, found.retry_us, found.failures, found.interruptions) == (None, None, 1, 2)

    @pytest.mark.parametrize("state", [*sorted(ENDED_TASK_STATES - {TaskState.UPSTREAM_FAILED}), "up_for_retry", "interrupted"])
    async def test_an_attempt_ends_once(self, store: Store, state: str) -> None:
        """Whatever an attempt ended with, it can neither start nor end nor write any more."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a", state=TaskState(state)))
        for op in (
            story.start("a"),
            story.finish("a", values={"k": b"2"}),
            story.put("a", {"k": b"3"}, slot=1),
            story.put("a", {"k": b"4"}, slot=TASK_LIFETIME, attempt=1),
            story.delete("a", slots=(1,), attempt=1),
        ):
            assert isinstance(await refusal(store, op), StaleAttemptError)
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert found.state is TaskState(state)
        assert await store.entries("run", all_attempts=True) == []

    async def test_an_earlier_attempt_is_stale(self, store: Store) -> None:
        """Once a later attempt is stored the earlier one can do nothing."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a", state=TaskState.UP_FOR_RETRY), story.start("a", 2))
        for op in (
            story.start("a", 1),
            story.finish("a", 1),
            story.put("a", {"k": b"1"}, slot=1),
            story.put("a", {"k": b"1"}, slot=TASK_LIFETIME, attempt=1),
            story.delete("a", slots=(1,), attempt=1),
        ):
            assert isinstance(await refusal(store, op), StaleAttemptError)

    async def test_a_stale_outcome_leaves_no_entry(self, store: Store) -> None:
        """An outcome and its values are refused together."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a", values={"k": b"1"}))
        await refusal(store, story.finish("a", values={"k": b"2", "l": b"3"}))
        assert await find(store, story.key("a"), "k") == b"1"
        assert await find(store, story.key("a"), "l") is None

    async def test_a_later_attempt_needs_the_earlier_one_to_be_over(self, store: Store) -> None:
        """The next attempt neither overtakes a running one nor follows a final state."""
        story = Story()
        await accept(store, story.create("a", "b"), story.start("a"), story.finish("b"))
        for op in (story.start("a", 2), story.finish("a", 2), story.start("b", 2), story.finish("b", 2)):
            assert isinstance(await refusal(store, op), InvalidTransitionError)
        assert isinstance(await refusal(store, story.put("b", {"k": b"1"}, slot=2)), StaleAttemptError)

    @pytest.mark.parametrize("state", [TaskState.PENDING, TaskState.QUEUED, TaskState.RUNNING, TaskState.UPSTREAM_FAILED])
    async def test_an_outcome_must_be_one(self, store: Store, state: TaskState) -> None:
        """An attempt can't end in a state that is no end of an attempt."""
        story = Story()
        await accept(store, story.create("a"))
        assert isinstance(await refusal(store, story.finish("a", state=state)), InvalidTransitionError)

    async def test_attempts_of_unknown_runs_are_refused(self, store: Store) -> None:
        """Nothing but outside pushes may name a run that is not there, or whose id only holds entries."""
        story, held = Story("none"), Story("held")
        await accept(store, held.put("a", {"k": b"1"}))
        for each in (story, held):
            for op in (
                each.start("a"),
                each.finish("a"),
                each.mark("a"),
                each.put("a", {"k": b"1"}, slot=1),
                each.put("a", {"k": b"1"}, slot=TASK_LIFETIME, attempt=1),
                each.delete("a", slots=(1,), attempt=1),
                each.end(),
                each.reopen(),
            ):
                assert isinstance(await refusal(store, op), RunNotFoundError)

    async def test_mapped_instances_stand_apart(self, store: Store) -> None:
        """Each map index has its own state and entries."""
        story = Story()
        await accept(
            store,
            story.create("a"),
            story.finish("a", map_index=0, values={"k": b"0"}),
            story.finish("a", map_index=1, state=TaskState.FAILED, values={"k": b"1"}),
            story.finish("a", values={"k": b"all"}),
        )
        assert await find(store, story.key("a", 0), "k") == b"0"
        assert await find(store, story.key("a", 1), "k") is None
        assert await find(store, story.key("a"), "k") == b"all"
        assert [each.instance.map_index for each in await store.instances("run")] == [None, 0, 1]

    # ---------------------------------------------------------------------------------------------- marks

    @pytest.mark.parametrize("state", [TaskState.SKIPPED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED, TaskState.FAILED])
    async def test_a_mark_ends_an_instance_once(self, store: Store, state: TaskState) -> None:
        """A mark needs no attempt; a second one is refused."""
        story = Story()
        await accept(store, story.create("a"), story.mark("a", state, error=ERROR))
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert (found.state, found.attempt, found.started_us, found.ended_us) == (state, 0, None, 2_000)
        assert found.error == ERROR
        assert isinstance(await refusal(store, story.mark("a")), InvalidTransitionError)
        assert isinstance(await refusal(store, story.start("a")), InvalidTransitionError)

    async def test_a_mark_ends_what_waits_for_another_attempt(self, store: Store) -> None:
        """up_for_retry and interrupted instances can be marked, and keep their attempt, which is the result, and counts."""
        story = Story()
        await accept(
            store,
            story.create("a", "b", "c"),
            story.finish("a", 2, state=TaskState.UP_FOR_RETRY, retry_us=5, failures=1),
            story.finish("b", state=TaskState.INTERRUPTED, interruptions=3),
        )
        marks = story.mark("a", TaskState.CANCELLED), story.mark("b", TaskState.FAILED), story.mark("c")
        assert await accept(store, *marks) == [2, 1, 0]
        a, b, _ = await store.instances("run")
        assert (a.state, a.attempt, a.retry_us, a.failures) == (TaskState.CANCELLED, 2, None, 1)
        assert (b.state, b.attempt, b.interruptions) == (TaskState.FAILED, 1, 3)

    async def test_a_running_instance_can_not_be_marked(self, store: Store) -> None:
        """What runs ends by its attempt's outcome."""
        story = Story()
        await accept(store, story.create("a"), story.start("a"))
        assert isinstance(await refusal(store, story.mark("a")), InvalidTransitionError)

    async def test_a_mark_must_be_final(self, store: Store) -> None:
        """An instance can't be marked as running."""
        story = Story()
        await accept(store, story.create("a"))
        assert isinstance(await refusal(store, story.mark("a", TaskState.RUNNING)), InvalidTransitionError)
        assert isinstance(await refusal(store, story.mark("a", TaskState.SUCCESS)), InvalidTransitionError)

    async def test_instances_are_filtered_and_ordered(self, store: Store) -> None:
        """They come by the place of their task, then map index."""
        story = Story()
        await accept(
            store,
            story.create("z", "a"),
            story.finish("a", map_index=1),
            story.mark("a", map_index=0),
            story.finish("z"),
        )
        found = [each.instance[1:] for each in await store.instances("run")]
        assert found == [("z", None), ("a", 0), ("a", 1)]
        assert [each.instance[1:] for each in await store.instances("run", task_id="a")] == [("a", 0), ("a", 1)]
        skipped = await store.instances("run", state=TaskState.SKIPPED)
        assert [each.instance[1:] for each in skipped] == [("a", 0)]
        assert await store.instances("run", task_id="none") == []
        assert await store.instances("run", task_id="z", state=TaskState.FAILED) == []
