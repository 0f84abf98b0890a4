"""What a store does across runs: forks, earlier values, statistics, and which runs are pruned."""

# ruff: noqa: PLR2004 - the number expected is clearest where it is expected

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from dagrelay.errors import RunIdConflictError, RunNotFoundError
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.base import RunQuery
from dagrelay.stores.operations import OUTSIDE, RETURN_VALUE, TASK_LIFETIME
from dagrelay.testing.store_conformance.contract import ERROR, StoreContract, accept, find, instance_of, refusal, summary
from dagrelay.testing.story import Story, plan_of

if TYPE_CHECKING:
    from dagrelay.stores.base import Store

__all__ = ("AcrossTests",)


class AcrossTests(StoreContract):
    """What concerns several runs."""

    # ---------------------------------------------------------------------------------------------- forks

    async def test_a_fork_begins_with_what_was_copied(self, store: Store) -> None:
        """Rows and visible entries of the tasks named, as they are; the source is not touched; others are left out."""
        story, fork = Story(), Story("fork")
        await accept(
            store,
            story.create("a", "b", "c"),
            story.finish("a", state=TaskState.UP_FOR_RETRY, values={RETURN_VALUE: b"old"}, error=ERROR),
            story.put("a", {"life": b"life"}, slot=TASK_LIFETIME, attempt=2),
            story.put("a", {"out": b"out", RETURN_VALUE: b"hidden"}),
            story.finish("a", 2, values={RETURN_VALUE: b"new"}, failures=1, follows=("b",), lineage="[1]"),
            story.finish("b", state=TaskState.FAILED, values={RETURN_VALUE: b"never"}, error=ERROR),
            story.finish("c", values={RETURN_VALUE: b"other"}),
            story.end(RunState.FAILED),
        )
        before = await store.load_run("run"), await store.events("run"), await store.entries("run", all_attempts=True)
        assert await accept(store, fork.fork("run", "a", "b", "none", tasks=("a", "b", "c"))) == [1]
        after = await store.load_run("run"), await store.events("run"), await store.entries("run", all_attempts=True)
        assert after == before
        image = await store.load_run("fork")
        assert image is not None
        assert (image.stored.run.state, image.stored.run.dag_id, image.plan) == (RunState.RUNNING, "dag", plan_of("a", "b", "c"))
        source = {each.instance.task_id: each for each in await store.instances("run")}
        copied = {attrs.evolve(source[task_id], instance=fork.key(task_id)) for task_id in ("a", "b")}
        assert set(image.instances) == copied
        entries = [(entry.task_id, entry.key, entry.attempt) for entry, _ in await store.entries("fork", all_attempts=True)]
        assert entries == [("a", "life", 2), ("a", "out", 0), ("a", RETURN_VALUE, 0), ("a", RETURN_VALUE, 2)]
        assert await find(store, fork.key("a"), RETURN_VALUE) == b"new"
        assert image.stored_bytes == len(b"lifeouthiddennew")
        assert image.highest_attempts == {}
        events = summary(await store.events("fork"))
        assert events[0] == (1, "run started")
        assert [seq for seq, _ in events] == sorted({seq for seq, _ in events})
        assert image.next_seq == events[-1][0] + 1

    async def test_a_fork_goes_on_like_any_run(self, store: Store) -> None:
        """Its copies are fenced, cleared and read as its own, and it ends."""
        story, fork = Story(), Story("fork")
        await accept(store, story.create("a", "b"), story.finish("a", values={RETURN_VALUE: b"1"}), story.end())
        await accept(store, fork.fork("run", "a", tasks=("a", "b")))
        fork.seq = await store.next_seq("fork")
        assert await refusal(store, fork.finish("a")) is not None
        await accept(store, fork.finish("b", values={RETURN_VALUE: b"2"}), fork.end(), fork.reopen(fork.key("a")))
        assert await find(store, fork.key("a"), RETURN_VALUE) is None
        assert await find(store, story.key("a"), RETURN_VALUE) == b"1"
        await accept(store, fork.finish("a", 2, values={RETURN_VALUE: b"3"}), fork.end(), story.delete_run())
        assert await find(store, fork.key("a"), RETURN_VALUE) == b"3"
        events = [gist for _, gist in summary(await store.events("fork"))]
        ends = [gist for gist in events if "success" in gist]
        assert ends == ["a success 1", "b success 1", "run success", "a success 2", "run success"]

    async def test_a_fork_copies_elements_of_what_has_ended(self, store: Store) -> None:
        """Of a mapped task with its elements, or none; what waits or runs begins anew, but keeps what came from outside."""
        story, fork = Story(), Story("fork")
        await accept(
            store,
            story.create("a", "b", "c"),
            story.start("a", length=40),
            *(story.finish("a", map_index=index, values={RETURN_VALUE: b"%d" % index}) for index in range(40)),
            story.finish("a"),
            story.start("b", length=2),
            story.finish("b", map_index=0, values={RETURN_VALUE: b"half"}),
            story.put("b", {"k": b"outside"}, map_index=0),
            story.wait("c", deadline_us=9),
            story.put("c", {"p": b"1"}, slot=1, published=True),
            story.provide("c", b"given"),
        )
        await accept(store, fork.fork("run", "a", "b", "c", tasks=("a", "b", "c")))
        found = [(each.instance.map_index, each.state, each.length) for each in await store.instances("fork")]
        assert found == [(None, TaskState.SUCCESS, 40), *((index, TaskState.SUCCESS, None) for index in range(40))]
        entries = [(entry.task_id, entry.map_index, entry.key) for entry, _ in await store.entries("fork", task_ids=["b", "c"])]
        assert entries == [("b", 0, "k"), ("c", None, RETURN_VALUE)]
        assert await find(store, fork.key("a", 39), RETURN_VALUE) == b"39"

    async def test_a_fork_is_refused_where_it_can_not_be_made(self, store: Store) -> None:
        """For an id that is taken, and for a source that is not there, or only as a tombstone or a holder of entries."""
        story, gone, held = Story(), Story("gone"), Story("held")
        await accept(store, story.create("a"), gone.create("a"), gone.end(), gone.delete_run(), held.put("a", {"k": b"1"}))
        for taken in ("run", "gone"):
            assert isinstance(await refusal(store, Story(taken).fork("run", "a")), RunIdConflictError)
        for source in ("none", "gone", "held", "fork"):
            refused = await refusal(store, Story("fork").fork(source, "a"))
            assert isinstance(refused, RunNotFoundError)
            assert refused.run_id == source
        assert await store.find_run("fork") is None

    async def test_a_fork_adopts_what_was_pushed_under_its_id(self, store: Store) -> None:
        """That stays where a copy would take its place; and the copies come after the start of the run."""
        story, fork = Story(), Story("fork")
        await accept(
            store,
            story.put("a", {"k": b"copied", "l": b"copied"}),
            fork.put("a", {"k": b"own"}),
            story.create("a"),
            story.finish("a", values={RETURN_VALUE: b"1"}),
        )
        await accept(store, fork.fork("run", "a"))
        assert [await find(store, fork.key("a"), key, (OUTSIDE,)) for key in "kl"] == [b"own", b"copied"]
        events = summary(await store.events("fork"))
        assert [gist for _, gist in events] == [
            "a pushed k",
            "run started",
            "a pushed l",
            "a running 1",
            "a success 1",
            "a pushed return_value",
        ]
        assert len({seq for seq, _ in events}) == 6
        assert await store.next_seq("fork") == events[-1][0] + 1

    async def test_a_fork_of_nothing_is_a_new_run(self, store: Store) -> None:
        """Without tasks, or with such as were never touched."""
        await accept(store, Story().create("a"), Story("x").fork("run"), Story("y").fork("run", "a"))
        assert [run.run_id for run in await store.find_runs(RunQuery(state=RunState.RUNNING))] == ["y", "x", "run"]
        assert await store.instances("y") == []

    # ---------------------------------------------------------------------------------------------- earlier values

    async def test_earlier_values_come_newest_first(self, store: Store) -> None:
        """Of runs of the DAG created before, where the entry is visible."""
        runs = [Story(f"run{number}") for number in range(6)]
        for number, run in enumerate(runs):
            await accept(
                store, run.create("a", dag_id="other" if number == 2 else "dag", created_us=[0, 10, 20, 30, 30, 50][number])
            )
            state = TaskState.FAILED if number == 3 else TaskState.SUCCESS
            await accept(store, run.finish("a", state=state, values={RETURN_VALUE: b"%d" % number}))
            await accept(store, run.finish("a", map_index=0, values={"k": b"element"}))

        async def earlier(run_id: str, limit: int = 10, key: str = RETURN_VALUE, task: str = "a") -> list[tuple[str, bytes]]:
            found = await store.previous("dag", task, key, before_run=run_id, limit=limit)
            return [(name, entry.value) for name, entry in found]

        assert await earlier("run5") == [("run4", b"4"), ("run1", b"1"), ("run0", b"0")]
        assert await earlier("run5", 2) == [("run4", b"4"), ("run1", b"1")]
        assert await earlier("run4") == [("run1", b"1"), ("run0", b"0")]
        assert await earlier("run2") == [("run1", b"1"), ("run0", b"0")]
        assert await earlier("run0") == await earlier("none") == await earlier("run5", 0) == []
        assert await earlier("run5", key="k") == await earlier("run5", key="none") == await earlier("run5", task="none") == []
        await accept(store, runs[3].put("a", {RETURN_VALUE: b"outside"}), runs[4].end(), runs[4].delete_run())
        assert await earlier("run5", 1) == [("run3", b"outside")]
        assert await earlier("run4", 1) == [("run3", b"outside")]
        (found,) = await store.previous("dag", "a", RETURN_VALUE, before_run="run1", limit=1)
        assert (found[1].slot, found[1].serializer) == (1, "json")

    async def test_a_place_holder_has_no_earlier_runs(self, store: Store) -> None:
        """An id that only holds entries is no run, and was not created."""
        story, held = Story(), Story("held")
        await accept(store, story.create("a"), story.finish("a", values={"k": b"1"}), held.put("a", {"k": b"2"}))
        assert await store.previous("dag", "a", "k", before_run="held", limit=1) == []

    # ---------------------------------------------------------------------------------------------- statistics

    async def test_attempts_are_listed_over_all_runs_of_a_dag(self, store: Store) -> None:
        """By creation of the runs, then as in each of them."""
        late, early, other, gone = Story("late"), Story("early"), Story("other"), Story("gone")
        await accept(
            store,
            late.create("b", "a", created_us=20),
            late.finish("a"),
            late.finish("b", 3, state=TaskState.FAILED, error=ERROR, failures=3),
            early.create("b", "a", created_us=10),
            early.start("a", length=1),
            early.finish("a", map_index=0),
            other.create("a", dag_id="other"),
            other.finish("a"),
            gone.create("a"),
            gone.finish("a"),
            gone.end(),
            gone.delete_run(),
        )
        every = await store.attempts("dag")
        assert [each.instance for each in every] == [
            early.key("a"),
            early.key("a", 0),
            late.key("b"),
            late.key("a"),
        ]
        assert every[2] == await instance_of(store, late.key("b"))
        assert [each.instance for each in await store.attempts("dag", task_id="b")] == [late.key("b")]
        assert await store.attempts("none") == await store.attempts("dag", task_id="none") == []

    # ---------------------------------------------------------------------------------------------- pruning by age

    @pytest.mark.parametrize(
        ("keep", "before_us", "left"),
        [
            (None, None, "01234"),
            (None, 300, "0234"),
            (None, 301, "034"),
            (None, 10_000, "0"),
            (1, None, "04"),
            (3, 300, "0234"),
            (2, 301, "034"),
            (1, 10_000, "0"),
            (0, 0, "0"),
        ],
    )
    async def test_runs_are_pruned_by_number_and_age(
        self, store: Store, keep: int | None, before_us: int | None, left: str
    ) -> None:
        """Finished ones of the DAG that are too many, or ended before the moment; each is counted once."""
        for number in range(5):
            run = Story(f"run{number}")
            await accept(store, run.create("a", created_us=number), run.finish("a"))
            if number:
                state = RunState.FAILED if number == 2 else RunState.SUCCESS
                await accept(store, attrs.evolve(run.end(state), at_us=100 + 100 * number))
        other = Story("other")
        await accept(store, other.create("a", dag_id="other", created_us=9), attrs.evolve(other.end(), at_us=1))
        (count,) = await accept(store, Story().prune(keep, before_us=before_us))
        found = [run.run_id for run in await store.find_runs(RunQuery(dag_id="dag"))]
        assert "".join(sorted(name[3:] for name in found)) == left
        assert count == 5 - len(left)
        assert len(await store.find_runs(RunQuery(dag_id="other"))) == 1
