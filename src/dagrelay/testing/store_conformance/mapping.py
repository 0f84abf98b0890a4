"""What a store does with mapped tasks, decisions of branches, lineage, and attempts that wait."""

# ruff: noqa: PLR2004 - the number expected is clearest where it is expected

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import pytest

from dagrelay.errors import InvalidTransitionError, StaleAttemptError
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, TASK_LIFETIME
from dagrelay.testing.store_conformance.contract import ERROR, StoreContract, accept, find, instance_of, refusal, summary
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay.stores.base import Store

__all__ = ("MappingTests",)

_LINEAGE: Final = '[["a",null,"k",1],["é",3,"return_value",0]]'


class MappingTests(StoreContract):
    """Elements, decisions, lineage, waiting."""

    # ---------------------------------------------------------------------------------------------- mapped tasks

    @pytest.mark.parametrize("length", [0, 1, 10_000])
    async def test_an_expansion_is_kept_until_it_is_cleared(self, store: Store, length: int) -> None:
        """The length outlives the outcome, a later start that names none, and an interruption; not a clearing."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), story.start("a", length=length))
        for op in (
            story.finish("a", state=TaskState.INTERRUPTED),
            story.start("a", 2),
            story.finish("a", 2, state=TaskState.FAILED, error=ERROR),
            story.end(RunState.FAILED),
        ):
            await accept(store, op)
            found = await instance_of(store, a)
            assert found is not None
            assert found.length == length
        await accept(store, story.reopen(a))
        found = await instance_of(store, a)
        assert found is not None
        assert (found.state, found.length) == (TaskState.PENDING, None)

    async def test_a_later_expansion_replaces_the_length(self, store: Store) -> None:
        """What was expanded and interrupted may be expanded anew."""
        story = Story()
        await accept(
            store,
            story.create("a"),
            story.start("a", length=3),
            story.finish("a", state=TaskState.INTERRUPTED),
            story.start("a", 2, length=2),
        )
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert found.length == 2
        image = await store.load_run("run")
        assert image is not None
        assert [each.length for each in image.instances] == [2]

    async def test_a_mark_keeps_the_length(self, store: Store) -> None:
        """So that the elements there are stay within it."""
        story = Story()
        await accept(
            store,
            story.create("a"),
            story.start("a", length=3),
            story.finish("a", state=TaskState.INTERRUPTED),
            story.mark("a", TaskState.CANCELLED),
        )
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert (found.state, found.length) == (TaskState.CANCELLED, 3)

    async def test_elements_are_gathered_in_one_lookup(self, store: Store) -> None:
        """Whatever their order, gaps, repetitions, retries and outcomes: each answer is that of a lookup of its own."""
        story, other = Story(), Story("other")
        await accept(store, story.create("a"), story.start("a", length=300), other.create("a"), other.start("a", length=9))
        await accept(
            store,
            *(story.finish("a", map_index=index, values={RETURN_VALUE: b"%d" % index, "k": b"k"}) for index in range(0, 200, 2)),
            *(other.finish("a", map_index=index, values={RETURN_VALUE: b"o%d" % index}) for index in range(9)),
            story.finish("a", map_index=1, state=TaskState.FAILED, values={RETURN_VALUE: b"failed"}),
            story.finish("a", map_index=3, state=TaskState.UP_FOR_RETRY, values={RETURN_VALUE: b"first"}),
            story.finish("a", 2, map_index=3, values={RETURN_VALUE: b"second"}),
            story.put("a", {RETURN_VALUE: b"task"}, slot=TASK_LIFETIME, attempt=1, map_index=5),
            story.put("a", {RETURN_VALUE: b"outside"}, map_index=5),
            story.put("a", {RETURN_VALUE: b"outside"}, map_index=7),
            story.put("a", {RETURN_VALUE: b"live"}, slot=1, map_index=9, published=True),
            story.start("a", map_index=9),
            story.put("a", {RETURN_VALUE: b"hidden"}, slot=1, map_index=11),
            story.start("a", map_index=11),
        )
        keys = [
            *(story.key("a", index) for index in (*range(250), 3, 3, 10_000)),
            *(other.key("a", index) for index in range(3)),
            story.key("a"),
            Story("none").key("a", 1),
            *(story.key("none", index) for index in range(9)),
            *(Story("none").key("a", index) for index in range(9)),
        ]
        for slots in (None, (1,), (OUTSIDE, TASK_LIFETIME, 1, 2), (2, 1), ()):
            wanted = [Lookup(instance=key, key=RETURN_VALUE, slots=slots) for key in reversed(keys)]
            gathered = [value and value.value for value in await store.lookup(wanted)]
            assert gathered == [await find(store, key, RETURN_VALUE, slots) for key in reversed(keys)]
        assert await find(store, story.key("a", 3), RETURN_VALUE) == b"second"
        assert await find(store, story.key("a", 5), RETURN_VALUE) == b"outside"
        values = [
            value and value.value for value in await store.lookup([Lookup(instance=key, key=RETURN_VALUE) for key in keys[:12]])
        ]
        seen = [b"0", None, b"2", b"second", b"4", b"outside", b"6", b"outside", b"8", b"live", b"10", None]
        assert values == seen

    async def test_a_large_batch_of_elements_meets_what_is_stored(self, store: Store) -> None:
        """Elements are fenced one by one, however many there are."""
        story = Story()
        await accept(store, story.create("a"), story.start("a", length=200), story.finish("a", map_index=7))
        starts = await store.apply([story.start("a", map_index=index) for index in range(200)])
        assert [isinstance(result, StaleAttemptError) for result in starts] == [index == 7 for index in range(200)]
        ends = await store.apply([story.finish("a", map_index=index) for index in (*range(200), 150)])
        assert [isinstance(result, StaleAttemptError) for result in ends] == [index in (7, 200) for index in range(201)]

    # ---------------------------------------------------------------------------------------------- branches and lineage

    @pytest.mark.parametrize("follows", [None, (), ("b",), ("b", "é", "c")])
    @pytest.mark.parametrize("lineage", [None, "[]", _LINEAGE])
    async def test_a_decision_and_lineage_are_stored_with_the_outcome(
        self, store: Store, follows: tuple[str, ...] | None, lineage: str | None
    ) -> None:
        """They are read back as they were given, none and an empty one apart, and go when the instance is cleared."""
        story = Story()
        await accept(store, story.create("a", "b"), story.finish("a", follows=follows, lineage=lineage), story.end())
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert (found.follows, found.lineage) == (follows, lineage)
        await accept(store, story.reopen(story.key("a")))
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert (found.follows, found.lineage) == (None, None)

    async def test_the_next_attempt_has_read_nothing_yet(self, store: Store) -> None:
        """Lineage and decision are an attempt's own."""
        story = Story()
        await accept(
            store,
            story.create("a"),
            story.finish("a", state=TaskState.UP_FOR_RETRY, follows=("b",), lineage=_LINEAGE),
            story.start("a", 2),
        )
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert (found.follows, found.lineage) == (None, None)

    # ---------------------------------------------------------------------------------------------- waiting

    async def test_an_attempt_may_wait(self, store: Store) -> None:
        """Its start is told as waiting, before and after it has ended, and its deadline is kept as the retry time."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), story.wait("a", deadline_us=77))
        waiting = await instance_of(store, a)
        assert waiting is not None
        assert (waiting.state, waiting.attempt, waiting.retry_us) == (TaskState.WAITING, 1, 77)
        assert summary(await store.events("run"))[1:] == [(2, "a waiting 1")]
        await accept(store, attrs.evolve(story.finish("a", values={RETURN_VALUE: b"1"}), start_seq=2))
        ended = await instance_of(store, a)
        assert ended is not None
        assert (ended.state, ended.retry_us) == (TaskState.SUCCESS, None)
        assert summary(await store.events("run"))[1:] == [(2, "a waiting 1"), (4, "a success 1"), (5, "a pushed return_value")]

    @pytest.mark.parametrize("state", ["success", "failed", "cancelled", "interrupted"])
    async def test_an_attempt_that_waits_ends_as_others_do(self, store: Store, state: str) -> None:
        """And its start, as the row can't tell of it any more, is told by the timeline all the same."""
        story = Story()
        await accept(store, story.create("a"), story.wait("a"), story.finish("a", state=TaskState(state)))
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert found.state is TaskState(state)
        assert summary(await store.events("run"))[1:] == [(2, "a waiting 1"), (4, f"a {state} 1")]

    @pytest.mark.parametrize("state", ["skipped", "up_for_retry", "waiting", "running"])
    async def test_an_attempt_that_waits_neither_skips_nor_is_tried_again(self, store: Store, state: str) -> None:
        """Its outcome is refused, and it waits on."""
        story = Story()
        await accept(store, story.create("a"), story.wait("a"))
        assert isinstance(await refusal(store, story.finish("a", state=TaskState(state))), InvalidTransitionError)
        found = await instance_of(store, story.key("a"))
        assert found is not None
        assert found.state is TaskState.WAITING

    async def test_what_waits_can_neither_be_marked_nor_cleared_nor_overtaken(self, store: Store) -> None:
        """It ends by its attempt's outcome, as what runs does."""
        story = Story()
        await accept(store, story.create("a"), story.wait("a"), story.end(RunState.INTERRUPTED))
        for op in (story.mark("a", TaskState.CANCELLED), story.reopen(story.key("a")), story.start("a", 2)):
            assert isinstance(await refusal(store, op), InvalidTransitionError)

    async def test_what_waits_may_run_and_wait_again(self, store: Store) -> None:
        """It is one attempt, and each change is told."""
        story = Story()
        await accept(store, story.create("a"), story.wait("a"), story.start("a"), story.wait("a"), story.finish("a"))
        told = [gist for _, gist in summary(await store.events("run"))[1:]]
        assert told == ["a waiting 1", "a running 1", "a waiting 1", "a success 1"]

    @pytest.mark.parametrize("state", sorted(set(TaskState) - {TaskState.RUNNING, TaskState.WAITING}))
    async def test_an_attempt_starts_by_running_or_waiting(self, store: Store, state: TaskState) -> None:
        """In no other state."""
        story = Story()
        await accept(store, story.create("a"))
        assert isinstance(await refusal(store, attrs.evolve(story.start("a"), state=state)), InvalidTransitionError)
        assert await instance_of(store, story.key("a")) is None

    async def test_published_entries_are_seen_while_their_attempt_waits(self, store: Store) -> None:
        """As while it runs."""
        story = Story()
        await accept(store, story.create("a"), story.wait("a"), story.put("a", {"p": b"1"}, slot=1, published=True))
        assert await find(store, story.key("a"), "p") == b"1"

    async def test_reopening_the_store_keeps_the_deadline(self, tmp_path: Path) -> None:
        """What waited is interrupted, and waits for no longer than it was to."""
        story = Story()
        first = self.make_store(tmp_path)
        await first.open(now_us=0)
        await accept(first, story.create("a", "b"), story.wait("a", deadline_us=77), story.wait("b", deadline_us=88))
        await accept(first, story.finish("b", state=TaskState.INTERRUPTED, interruptions=1))
        await first.close()
        second = self.make_store(tmp_path)
        await second.open(now_us=5)
        found = [(each.state, each.retry_us, each.interruptions) for each in await second.instances("run")]
        events = summary(await second.events("run"))
        await second.close()
        assert found == [(TaskState.INTERRUPTED, 77, 1), (TaskState.INTERRUPTED, 88, 1)]
        assert [gist for _, gist in events] == [
            "run started",
            "a waiting 1",
            "b waiting 1",
            "b interrupted 1",
            "a interrupted 1",
            "run interrupted",
        ]
