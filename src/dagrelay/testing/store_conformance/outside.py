"""What a store does with values from outside, and messages of other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.errors import InvalidTransitionError, RunNotFoundError, RunStateError, XComConflictError
from dagrelay.model.states import ENDED_TASK_STATES, RunState, TaskState
from dagrelay.stores.base import StoredEntry
from dagrelay.stores.operations import MESSAGE_DONE, MESSAGES_KEPT_US, OUTSIDE, RETURN_VALUE
from dagrelay.testing.store_conformance.contract import StoreContract, accept, find, instance_of, refusal, summary
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay.stores.base import Store
    from dagrelay.stores.operations import Operation

__all__ = ("OutsideTests",)


class OutsideTests(StoreContract):
    """Values that are provided, messages that are carried out once."""

    # ---------------------------------------------------------------------------------------------- provided values

    @pytest.mark.parametrize("run_state", [None, RunState.SUCCESS, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED])
    async def test_a_value_is_provided_whatever_its_run_does(self, store: Store, run_state: RunState | None) -> None:
        """It stands in the slot of the outside, under attempt 0, and is told as a push."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), *([] if run_state is None else [story.end(run_state)]))
        assert await accept(store, story.provide("a", b"1")) == [1]
        found = await find(store, a, RETURN_VALUE)
        assert found == b"1"
        ((entry, value),) = await store.entries("run", with_values=True)
        assert (entry.attempt, entry.lifetime, value) == (0, "run", StoredEntry(value=b"1", serializer="json", slot=OUTSIDE))
        assert summary(await store.events("run"))[-1] == (story.seq, "a pushed return_value")
        assert await instance_of(store, a) is None

    async def test_a_value_is_provided_once(self, store: Store) -> None:
        """A second one is refused, in the same batch too, and what was pushed counts; other keys and elements do not."""
        story = Story()
        results = await store.apply([story.create("a"), story.provide("a", b"1"), story.provide("a", b"2")])
        assert results[:2] == [1, 1]
        assert isinstance(results[2], XComConflictError)
        assert "was given its 'return_value' already" in str(results[2])
        assert isinstance(await refusal(store, story.provide("a", b"3")), XComConflictError)
        assert await find(store, story.key("a"), RETURN_VALUE) == b"1"
        await accept(store, story.provide("a", b"4", key="k"), story.provide("a", b"5", map_index=0))
        results = await store.apply([story.put("b", {RETURN_VALUE: b"6"}), story.provide("b", b"7")])
        assert isinstance(results[1], XComConflictError)

    @pytest.mark.parametrize("state", [*sorted(ENDED_TASK_STATES), "running", "waiting", "interrupted", "up_for_retry"])
    async def test_a_value_comes_too_late_for_what_has_ended(self, store: Store, state: str) -> None:
        """And for nothing else."""
        story = Story()
        create = story.create("a")
        match state:
            case "running":
                op: Operation = story.start("a")
            case "waiting":
                op = story.wait("a")
            case "upstream_failed":
                op = story.mark("a", TaskState.UPSTREAM_FAILED)
            case _:
                op = story.finish("a", state=TaskState(state))
        await accept(store, create, op)
        refused = await refusal(store, story.provide("a", b"1"))
        assert isinstance(refused, XComConflictError) == (state in ENDED_TASK_STATES)
        assert (await find(store, story.key("a"), RETURN_VALUE) is None) == (state in ENDED_TASK_STATES)

    async def test_a_value_needs_a_run(self, store: Store) -> None:
        """Unlike a push; a pruned one is told apart."""
        gone, held = Story("gone"), Story("held")
        await accept(store, gone.create("a"), gone.end(), gone.delete_run(), held.put("a", {"k": b"1"}))
        assert isinstance(await refusal(store, Story("none").provide("a", b"1")), RunNotFoundError)
        assert isinstance(await refusal(store, held.provide("a", b"1")), RunNotFoundError)
        assert isinstance(await refusal(store, gone.provide("a", b"1")), RunStateError)

    async def test_an_outcome_replaces_no_provided_value(self, store: Store) -> None:
        """They stand in two slots, of which readers see the attempt's."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), story.wait("a"), story.provide("a", b"1"))
        await accept(store, story.finish("a", values={RETURN_VALUE: b"2"}))
        assert await find(store, a, RETURN_VALUE) == b"2"
        assert await find(store, a, RETURN_VALUE, (OUTSIDE,)) == b"1"

    # ---------------------------------------------------------------------------------------------- messages

    async def test_a_message_is_noted_once(self, store: Store) -> None:
        """What was noted first stands."""
        story = Story()
        assert await store.message("m") is None
        assert await accept(store, story.note("m", "refused: é"), story.note("m", "other"), story.note("n")) == [1, 0, 1]
        assert await accept(store, story.note("m", "other")) == [0]
        assert [await store.message(each) for each in ("m", "n", "none")] == ["refused: é", MESSAGE_DONE, None]

    async def test_a_message_is_carried_out_once(self, store: Store) -> None:
        """Noted with what it does; delivered again, in the same batch or later, it does nothing and is no error."""
        story, a = Story(), Story().key("a")
        provide = story.provide("a", b"1", message_id="p")
        assert await accept(store, story.create("a"), provide, provide) == [1, 1, 0]
        await accept(store, story.finish("a", state=TaskState.FAILED), story.end(RunState.FAILED))
        reopen = story.reopen(a, message_id="r")
        assert await accept(store, reopen, reopen, provide) == [1, 0, 0]
        assert [await store.message(each) for each in "pr"] == [MESSAGE_DONE, MESSAGE_DONE]
        events = await store.events("run")
        await accept(store, story.end())
        assert await accept(store, reopen) == [0]
        found = await store.find_run("run")
        assert found is not None
        assert found.run.state is RunState.SUCCESS
        assert len(await store.events("run")) == len(events) + 1

    async def test_a_message_that_was_refused_is_not_noted(self, store: Store) -> None:
        """So that who sent it can be told why, or it can be tried again."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a"))
        assert isinstance(await refusal(store, story.provide("a", b"1", message_id="p")), XComConflictError)
        assert isinstance(await refusal(store, story.reopen(message_id="r")), InvalidTransitionError)
        assert isinstance(await refusal(store, Story("none").provide("a", b"1", message_id="q")), RunNotFoundError)
        assert [await store.message(each) for each in "prq"] == [None] * 3

    async def test_old_messages_are_forgotten(self, store: Store) -> None:
        """When one is noted that much later; none sooner."""
        story = Story()
        await accept(store, story.note("a", at_us=1_000), story.note("b", at_us=1_001))
        await accept(store, story.note("c", at_us=1_001 + MESSAGES_KEPT_US))
        assert [await store.message(each) for each in "abc"] == [None, MESSAGE_DONE, MESSAGE_DONE]

    async def test_messages_survive_a_reopening(self, tmp_path: Path) -> None:
        """And the deletion of their run."""
        story = Story()
        first = self.make_store(tmp_path)
        await first.open(now_us=0)
        await accept(first, story.create("a"), story.provide("a", b"1", message_id="p"), story.end(), story.delete_run())
        await first.close()
        second = self.make_store(tmp_path)
        await second.open(now_us=1)
        found = await second.message("p")
        await second.close()
        assert found == MESSAGE_DONE
