"""Which entries a store shows to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.model.states import TaskState
from dagrelay.stores.base import Lookup, StoredEntry
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, TASK_LIFETIME
from dagrelay.testing.store_conformance.contract import StoreContract, accept, find
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from dagrelay.stores.base import Store

__all__ = ("VisibilityTests",)


class VisibilityTests(StoreContract):
    """Which entries are seen."""

    async def test_entries_of_an_attempt_are_seen_once_it_succeeds(self, store: Store) -> None:
        """Before, only who names the slot sees them."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), story.start("a"), story.put("a", {"k": b"1"}, slot=1))
        assert await find(store, a, "k") is None
        assert await find(store, a, "k", (1,)) == b"1"
        await accept(store, story.finish("a"))
        assert await find(store, a, "k") == b"1"

    @pytest.mark.parametrize("state", ["failed", "skipped", "up_for_retry", "cancelled", "interrupted"])
    async def test_entries_of_an_attempt_that_did_not_succeed_are_never_seen(self, store: Store, state: str) -> None:
        """Not even published ones, once it is over; who names the slot still finds them."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.create("a"),
            story.put("a", {"k": b"1"}, slot=1),
            story.put("a", {"p": b"2"}, slot=1, published=True),
            story.put("a", {"t": b"3"}, slot=TASK_LIFETIME, attempt=1, published=True),
            story.finish("a", state=TaskState(state), values={"return_value": b"4"}),
        )
        assert [await find(store, a, key) for key in ("k", "p", "t", RETURN_VALUE)] == [None] * 4
        assert await store.entries("run") == []
        assert await find(store, a, "k", (1,)) == b"1"

    async def test_only_the_succeeded_attempt_is_seen(self, store: Store) -> None:
        """A retry that succeeds shows its own entries and none of the failed attempt's."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.create("a"),
            story.put("a", {"old": b"1", "both": b"1"}, slot=1),
            story.finish("a", state=TaskState.UP_FOR_RETRY),
            story.put("a", {"both": b"2"}, slot=2),
            story.finish("a", 2),
        )
        assert await find(store, a, "old") is None
        assert await find(store, a, "both") == b"2"
        assert [entry.key for entry, _ in await store.entries("run")] == ["both"]

    async def test_published_entries_are_seen_while_their_attempt_runs(self, store: Store) -> None:
        """At once, and no longer when the next attempt runs."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), story.start("a"), story.put("a", {"p": b"1"}, slot=1, published=True))
        assert await find(store, a, "p") == b"1"
        assert [entry.key for entry, _ in await store.entries("run")] == ["p"]
        await accept(store, story.finish("a", state=TaskState.UP_FOR_RETRY), story.start("a", 2))
        assert await find(store, a, "p") is None

    async def test_task_lifetime_entries_outlive_their_attempt(self, store: Store) -> None:
        """They are kept for later attempts, and seen by others once the task has succeeded."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.create("a"),
            story.put("a", {"t": b"1"}, slot=TASK_LIFETIME, attempt=1),
            story.finish("a", state=TaskState.UP_FOR_RETRY),
            story.start("a", 2),
        )
        assert await find(store, a, "t") is None
        assert await find(store, a, "t", (2, TASK_LIFETIME)) == b"1"
        await accept(store, story.finish("a", 2))
        assert await find(store, a, "t") == b"1"
        ((entry, _),) = await store.entries("run")
        assert (entry.attempt, entry.lifetime) == (1, "task")

    async def test_precedence_is_attempt_then_task_then_outside(self, store: Store) -> None:
        """For one key the succeeded attempt's entry wins over the task's, and that over the outside one."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.create("a"),
            story.put("a", {"k": b"outside", "l": b"outside", "m": b"outside"}),
            story.put("a", {"k": b"task", "l": b"task"}, slot=TASK_LIFETIME, attempt=1),
            story.put("a", {"k": b"attempt"}, slot=1),
        )
        assert [await find(store, a, key) for key in "klm"] == [b"outside"] * 3
        await accept(store, story.finish("a"))
        assert [await find(store, a, key) for key in "klm"] == [b"attempt", b"task", b"outside"]
        listed = await store.entries("run", with_values=True)
        assert [value and value.value for _, value in listed] == [b"attempt", b"task", b"outside"]

    async def test_slots_are_looked_in_in_the_order_given(self, store: Store) -> None:
        """The first hit wins, whatever its visibility."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), story.put("a", {"k": b"0"}), story.put("a", {"k": b"1"}, slot=1))
        assert await find(store, a, "k", (1, 0)) == b"1"
        assert await find(store, a, "k", (0, 1)) == b"0"
        assert await find(store, a, "k", (7, 0)) == b"0"
        assert await find(store, a, "k", ()) is None

    async def test_a_lookup_answers_in_order(self, store: Store) -> None:
        """Found and missing ones of several runs and tasks, repeated ones too."""
        story, other = Story(), Story("other")
        await accept(
            store,
            story.create("a", "b"),
            story.finish("a", values={"x": b"1", "y": b"2"}),
            other.put("a", {"x": b"3"}),
        )
        wanted = [
            (story.key("a"), "y"),
            (story.key("b"), "x"),
            (other.key("a"), "x"),
            (story.key("a"), "x"),
            (story.key("a"), "y"),
        ]
        found = await store.lookup([Lookup(instance=instance, key=key) for instance, key in wanted])
        assert [value and value.value for value in found] == [b"2", None, b"3", b"1", b"2"]
        assert found[2] == StoredEntry(value=b"3", serializer="json", slot=OUTSIDE)
        assert await store.lookup([]) == []
