"""What a store does with entries."""

# ruff: noqa: PLR2004 - the number expected is clearest where it is expected

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.errors import (
    RunIdConflictError,
    RunNotFoundError,
    RunStateError,
    XComConflictError,
)
from dagrelay.model.events import XComDeleted
from dagrelay.model.records import from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.base import RunQuery, StoredEntry
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, TASK_LIFETIME
from dagrelay.testing.store_conformance.contract import StoreContract, accept, find, instance_of, refusal, summary
from dagrelay.testing.story import Story, plan_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.stores.base import Store

__all__ = ("EntryTests",)


class EntryTests(StoreContract):
    """Entries: pushed, listed, deleted."""

    # ---------------------------------------------------------------------------------------------- pushes

    async def test_a_push_replaces_that_of_the_same_slot_and_key(self, store: Store) -> None:
        """The last one stands, with its own place in the timeline."""
        story, a = Story(), Story().key("a")
        await accept(store, story.create("a"), story.put("a", {"k": b"12345"}), story.put("a", {"k": b"67"}))
        assert await find(store, a, "k") == b"67"
        assert await store.stored_bytes("run") == 2
        ((entry, _),) = await store.entries("run")
        assert (entry.size_bytes, entry.timestamp) == (2, from_us(3_000))

    async def test_an_outside_push_needs_no_run(self, store: Store) -> None:
        """The entry is readable, but there is no run."""
        story = Story()
        await accept(store, story.put("a", {"k": b"1"}))
        assert await find(store, story.key("a"), "k") == b"1"
        assert await store.find_run("run") is None
        assert await store.load_run("run") is None
        assert await store.find_runs(RunQuery()) == []
        ((entry, _),) = await store.entries("run")
        assert (entry.dag_id, entry.attempt, entry.lifetime, entry.state) == (None, 0, "run", None)
        assert summary(await store.events("run")) == [(1, "a pushed k")]
        assert await store.next_seq("run") == 2

    async def test_outside_pushes_under_one_id_gather(self, store: Store) -> None:
        """Later ones find the place that the first one made."""
        story = Story()
        await accept(store, story.put("a", {"k": b"1"}))
        await accept(store, story.put("b", {"k": b"2"}), story.put("a", {"l": b"3"}))
        assert [(entry.task_id, entry.key) for entry, _ in await store.entries("run")] == [("a", "k"), ("a", "l"), ("b", "k")]

    async def test_a_run_adopts_what_was_pushed_under_its_id(self, store: Store) -> None:
        """A later CreateRun of the id is no conflict, and the entry is the run's."""
        story = Story()
        await accept(store, story.put("a", {"k": b"1"}))
        await accept(store, story.create("a"), story.finish("a"))
        assert await find(store, story.key("a"), "k") == b"1"
        ((entry, _),) = await store.entries("run")
        assert entry.dag_id == "dag"
        image = await store.load_run("run")
        assert image is not None
        assert (image.stored_bytes, image.next_seq) == (1, story.seq + 1)

    async def test_outside_pushes_survive_retries_and_clearing(self, store: Store) -> None:
        """They belong to no attempt."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.create("a"),
            story.put("a", {"k": b"1"}),
            story.finish("a", state=TaskState.FAILED),
            story.end(RunState.FAILED),
            story.reopen(a),
        )
        assert await find(store, a, "k") == b"1"

    async def test_an_outside_push_can_not_replace_a_finished_return_value(self, store: Store) -> None:
        """Neither alone nor among others; before success, and other keys, are fine."""
        story, a = Story(), Story().key("a")
        await accept(
            store, story.create("a"), story.put("a", {RETURN_VALUE: b"0"}), story.finish("a", values={RETURN_VALUE: b"1"})
        )
        assert isinstance(await refusal(store, story.put("a", {"k": b"2", RETURN_VALUE: b"2"})), XComConflictError)
        assert await find(store, a, "k") is None
        assert await find(store, a, RETURN_VALUE) == b"1"
        assert await refusal(store, story.put("a", {"k": b"2"})) is None

    async def test_an_attempt_may_push_before_its_start_is_stored(self, store: Store) -> None:
        """A start is written with its outcome where it can be."""
        story = Story()
        await accept(store, story.create("a"), story.put("a", {"k": b"1"}, slot=1))
        assert await instance_of(store, story.key("a")) is None
        ((entry, _),) = await store.entries("run", all_attempts=True)
        assert entry.state is TaskState.RUNNING

    @pytest.mark.parametrize("key", ["a b/ü", "日本語", "'; DROP TABLE xcom; --", "%_\\", "x" * 250, "🂡", "é", "e\u0301"])
    async def test_any_key_is_stored_as_it_is(self, store: Store, key: str) -> None:
        """Keys are text, never patterns or SQL."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a", values={key: b"1"}))
        assert await find(store, story.key("a"), key) == b"1"
        assert [entry.key for entry, _ in await store.entries("run", prefix=key)] == [key]

    @pytest.mark.parametrize("value", [b"", b"\x00\xff" * 3, b"x" * 300_000])
    async def test_any_bytes_are_stored_as_they_are(self, store: Store, value: bytes) -> None:
        """Empty, binary and large values come back exactly."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a", values={"k": value}))
        assert await find(store, story.key("a"), "k") == value
        assert await store.stored_bytes("run") == len(value)

    # ---------------------------------------------------------------------------------------------- listing

    async def test_entries_tell_everything_but_the_value(self, store: Store) -> None:
        """The record has all that was pushed, the value only on demand."""
        story = Story()
        await accept(store, story.create("a"))
        (entry,) = story.entries({"k": b"12"})
        op = story.put("a", {}, map_index=4)
        full = type(entry)(
            key="k",
            value=b"12",
            serializer="custom",
            description="how many ☃",
            sensitive=True,
            seq=entry.seq,
            created_us=entry.created_us,
        )
        await accept(store, type(op)(instance=op.instance, slot=OUTSIDE, attempt=0, entries=(full,)))
        ((listed, value),) = await store.entries("run")
        assert value is None
        assert (listed.run_id, listed.dag_id, listed.task_id, listed.map_index) == ("run", "dag", "a", 4)
        assert (listed.key, listed.value, listed.size_bytes, listed.timestamp) == ("k", None, 2, from_us(entry.created_us))
        assert (listed.serializer, listed.description, listed.sensitive) == ("custom", "how many ☃", True)
        ((_, value),) = await store.entries("run", with_values=True)
        assert value == StoredEntry(value=b"12", serializer="custom", slot=OUTSIDE)

    async def test_entries_are_ordered(self, store: Store) -> None:
        """By task as first stored, map index, key, slot; by the order asked for where tasks are."""
        story = Story()
        await accept(
            store,
            story.create("b", "a"),
            story.put("a", {"x": b"1"}),
            story.put("b", {"y": b"1", "x": b"1", "X": b"1"}),
            story.put("b", {"x": b"1"}, map_index=0),
            story.put("b", {"x": b"1"}, slot=1),
        )

        def names(listed: Sequence[tuple[object, object]]) -> list[tuple[str, int | None, str, str]]:
            return [(e.task_id, e.map_index, e.key, e.lifetime) for e, _ in listed]  # type: ignore[attr-defined]

        b = [
            ("b", None, "X", "run"),
            ("b", None, "x", "run"),
            ("b", None, "x", "attempt"),
            ("b", None, "y", "run"),
            ("b", 0, "x", "run"),
        ]
        assert names(await store.entries("run", all_attempts=True)) == [*b, ("a", None, "x", "run")]
        asked = await store.entries("run", all_attempts=True, task_ids=["a", "none", "b", "a"])
        assert names(asked) == [("a", None, "x", "run"), *b]
        assert names(await store.entries("run", task_ids=[])) == []

    async def test_a_prefix_is_matched_literally(self, store: Store) -> None:
        """`%`, `_`, `*` and case mean themselves."""
        story = Story()
        await accept(store, story.put("a", {"a_1": b"", "ab1": b"", "A_1": b"", "a%": b"", "a*": b""}))

        async def found(prefix: str) -> list[str]:
            return [entry.key for entry, _ in await store.entries("run", prefix=prefix)]

        assert await found("a_") == ["a_1"]
        assert await found("a%") == ["a%"]
        assert await found("a*") == ["a*"]
        assert await found("A") == ["A_1"]
        assert len(await found("")) == 5

    async def test_all_attempts_are_listed_with_their_state(self, store: Store) -> None:
        """Those that failed, were interrupted or cleared as well."""
        story, a = Story(), Story().key("a")
        await accept(
            store,
            story.create("a"),
            story.put("a", {"k": b"0"}),
            story.finish("a", 1, TaskState.UP_FOR_RETRY, values={"k": b"1"}),
            story.finish("a", 2, TaskState.INTERRUPTED, values={"k": b"2"}),
            story.finish("a", 3, values={"k": b"3"}),
            story.end(),
            story.reopen(a),
            story.start("a", 4),
            story.put("a", {"k": b"4"}, slot=4),
        )
        listed = await store.entries("run", all_attempts=True, with_values=True)
        assert [(entry.attempt, entry.state, value and value.value) for entry, value in listed] == [
            (0, None, b"0"),
            (1, TaskState.UP_FOR_RETRY, b"1"),
            (2, TaskState.INTERRUPTED, b"2"),
            (3, TaskState.SUCCESS, b"3"),
            (4, TaskState.RUNNING, b"4"),
        ]
        assert [entry.state for entry, _ in await store.entries("run")] == [None]

    async def test_the_image_tells_attempts_above_the_instances_own(self, store: Store) -> None:
        """An attempt known by its entries only must not be numbered again."""
        story = Story()
        await accept(
            store,
            story.create("a", "b", "c"),
            story.put("a", {"k": b"1"}, slot=2),
            story.finish("b", state=TaskState.UP_FOR_RETRY),
            story.put("b", {"k": b"1"}, slot=TASK_LIFETIME, attempt=2),
            story.finish("c", values={"k": b"1"}),
            story.put("c", {"k": b"1"}),
        )
        image = await store.load_run("run")
        assert image is not None
        assert image.highest_attempts == {story.key("a"): 2, story.key("b"): 2}

    # ---------------------------------------------------------------------------------------------- deletions

    async def test_entries_are_deleted_by_key_and_slot(self, store: Store) -> None:
        """What is deleted is counted, and nothing else goes."""
        story = Story()
        await accept(
            store,
            story.create("a", "b"),
            story.put("a", {"k": b"", "l": b""}),
            story.put("a", {"k": b""}, map_index=1),
            story.put("a", {"k": b""}, slot=1),
            story.put("b", {"k": b""}),
        )
        assert await accept(store, story.delete("a", "k", slots=(0, 7), map_index=1)) == [1]
        assert await accept(store, story.delete("a", "none")) == [0]
        assert await accept(store, story.delete("a", "k", slots=(1,), attempt=1)) == [1]
        assert await accept(store, story.delete("a", "k", slots=())) == [0]
        assert await accept(store, story.delete("a")) == [2]
        assert [entry.task_id for entry, _ in await store.entries("run", all_attempts=True)] == ["b"]
        assert await accept(store, Story("none").delete("a")) == [0]
        assert await accept(store, story.delete("unknown")) == [0]

    async def test_deletions_follow_the_order_of_the_batch(self, store: Store) -> None:
        """A push before a deletion goes, one after it stays."""
        story = Story()
        counts = await accept(
            store,
            story.create("a"),
            story.put("a", {"k": b"1"}),
            story.delete("a", "k"),
            story.put("a", {"k": b"2"}),
        )
        assert counts == [1, 1, 1, 1]
        assert await find(store, story.key("a"), "k") == b"2"

    async def test_a_deletion_is_an_event(self, store: Store) -> None:
        """Unless nothing was deleted."""
        story = Story()
        await accept(store, story.create("a"), story.put("a", {"k": b"1", "l": b"1"}, map_index=2))
        await accept(store, story.delete("a", "k", slots=(0,), map_index=2), story.delete("a", "k"), story.delete("a"))
        events = await store.events("run", after_seq=3)
        assert [(type(e), e.seq) for e in events] == [(XComDeleted, 4), (XComDeleted, 6)]
        assert events[0] == XComDeleted(run_id="run", seq=4, time=from_us(4_000), task_id="a", map_index=2, key="k", count=1)
        assert events[1] == XComDeleted(run_id="run", seq=6, time=from_us(6_000), task_id="a", map_index=None, key=None, count=1)

    async def test_a_deleted_run_leaves_a_tombstone(self, store: Store) -> None:
        """It has nothing any more, but its id stays taken."""
        story = Story()
        await accept(
            store, story.create("a", tags=("t",), params=b'{"a": 1}'), story.finish("a", values={"k": b"1"}), story.end()
        )
        assert await accept(store, story.delete_run()) == [1]
        assert await accept(store, story.delete_run()) == [0]
        found = await store.find_run("run")
        assert found is not None
        assert found.is_pruned
        assert (found.run.run_id, found.run.dag_id, found.run.created_at) == ("run", "dag", from_us(1_000))
        assert (found.run.params, found.run.tags) == ({}, ())
        assert await store.load_run("run") is None
        assert await store.find_runs(RunQuery()) == []
        assert await store.instances("run") == []
        assert await store.entries("run", all_attempts=True) == []
        assert await store.events("run") == []
        assert await find(store, story.key("a"), "k") is None
        assert await store.stored_bytes("run") == 0

    async def test_a_tombstone_refuses_everything(self, store: Store) -> None:
        """Neither a new run nor anything else may use its id."""
        story = Story()
        await accept(store, story.create("a"), story.end(), story.delete_run())
        assert isinstance(await refusal(store, story.create("a")), RunIdConflictError)
        assert isinstance(await refusal(store, story.put("a", {"k": b"1"})), RunStateError)
        for op in (story.reopen(), story.end(), story.start("a"), story.put("a", {"k": b"1"}, slot=1)):
            assert isinstance(await refusal(store, op), RunNotFoundError)

    async def test_a_running_run_can_not_be_deleted(self, store: Store) -> None:
        """It must be cancelled first."""
        story = Story()
        await accept(store, story.create("a"))
        assert isinstance(await refusal(store, story.delete_run()), RunStateError)
        assert await store.load_run("run") is not None

    async def test_deleting_an_id_without_a_run_deletes_its_entries(self, store: Store) -> None:
        """And leaves the id free."""
        story = Story()
        await accept(store, story.put("a", {"k": b"1"}))
        assert await accept(store, story.delete_run()) == [1]
        assert await accept(store, story.delete_run()) == [0]
        assert await store.entries("run") == []
        await accept(store, story.put("a", {"k": b"1"}), story.delete("a"))
        assert await accept(store, story.delete_run()) == [0]
        assert await refusal(store, story.create("a")) is None

    async def test_changes_of_a_batch_before_a_deletion_go_with_it(self, store: Store) -> None:
        """Nothing of a deleted run comes back from earlier in its batch."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a", values={"k": b"1"}), story.end(), story.delete_run())
        assert await store.instances("run") == []
        assert await store.entries("run", all_attempts=True) == []

    async def test_pruning_keeps_the_newest_finished_runs(self, store: Store) -> None:
        """Running, interrupted and other DAGs' runs are not touched; of runs that ended at one moment the first made go."""
        states = [RunState.SUCCESS, RunState.FAILED, RunState.INTERRUPTED, RunState.CANCELLED, None, RunState.SUCCESS]
        for number, state in enumerate(states):
            story = Story(f"run{number}")
            await accept(store, story.create("a", created_us=number))
            if state is not None:
                await accept(store, story.end(state))
        other = Story("other")
        await accept(store, other.create("a", dag_id="other", created_us=0), other.end())
        assert await accept(store, Story().prune(2)) == [2]
        assert await accept(store, Story().prune(2)) == [0]
        left = [run.run_id for run in await store.find_runs(RunQuery())]
        assert left == ["run5", "run4", "run3", "run2", "other"]
        pruned = await store.find_run("run0")
        assert pruned is not None
        assert pruned.is_pruned
        assert await accept(store, Story().prune(0)) == [2]

    async def test_pruning_keeps_the_runs_that_ended_last(self, store: Store) -> None:
        """A run that outlives many later ones does not go with its own end, nor does one that was taken up again."""
        slow, again = Story("slow"), Story("again")
        await accept(store, slow.create("a"), again.create("a"), again.end())
        for number in range(3):
            quick = Story(f"quick{number}", seq=10 * number)
            await accept(store, quick.create("a"), quick.end())
        slow.seq = again.seq = 100
        assert await accept(store, slow.end(), slow.prune(2)) == [1, 3]
        assert [run.run_id for run in await store.find_runs(RunQuery())] == ["quick2", "slow"]
        one, two = Story("one", seq=200), Story("two", seq=300)
        await accept(store, one.create("a"), two.create("a"), two.end(), one.end(), one.reopen())
        one.seq = 400
        assert await accept(store, one.end(), one.prune(1)) == [1, 3]
        assert [run.run_id for run in await store.find_runs(RunQuery())] == ["one"]

    async def test_a_plan_outlives_the_runs_that_share_it(self, store: Store) -> None:
        """Deleting one run leaves the plan to the other; a plan deleted with its last run can be stored anew."""
        one, two, three = Story("one"), Story("two"), Story("three")
        await accept(store, one.create("a"), two.create("a"), one.end(), one.delete_run())
        image = await store.load_run("two")
        assert image is not None
        assert image.plan == plan_of("a")
        await accept(store, two.end(), two.delete_run(), three.create("a"))
        image = await store.load_run("three")
        assert image is not None
        assert image.plan == plan_of("a")
