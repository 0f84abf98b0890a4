"""What a store does with runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dagrelay.errors import (
    InvalidTransitionError,
    RunIdConflictError,
    RunNotFoundError,
)
from dagrelay.model.records import InstanceKey, from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.base import RunQuery
from dagrelay.stores.operations import RETURN_VALUE
from dagrelay.testing.store_conformance.contract import ERROR, StoreContract, accept, find, instance_of, refusal, summary
from dagrelay.testing.story import Story, plan_of

if TYPE_CHECKING:
    from dagrelay.stores.base import Store

__all__ = ("RunTests",)


class RunTests(StoreContract):
    """Runs: made, ended, taken up again, found, deleted."""

    # ---------------------------------------------------------------------------------------------- runs

    async def test_a_new_run_is_running(self, store: Store) -> None:
        """CreateRun stores the run as given."""
        story = Story()
        op = story.create("a", "b", dag_id="weather", params=b'{"n": [1, "\xc3\xa9"]}', tags=("x", "y"))
        await accept(store, op)
        found = await store.find_run("run")
        assert found is not None
        assert found.params == op.params
        assert not found.is_pruned
        run = found.run
        assert (run.run_id, run.dag_id, run.state, run.tags) == ("run", "weather", RunState.RUNNING, ("x", "y"))
        assert run.params == {"n": [1, "é"]}
        assert (run.created_at, run.started_at, run.ended_at) == (from_us(1_000), from_us(1_000), None)

    async def test_unknown_runs_have_nothing(self, store: Store) -> None:
        """Every question about an unknown run has an empty answer."""
        assert await store.find_run("none") is None
        assert await store.load_run("none") is None
        assert await store.instances("none") == []
        assert await store.entries("none") == []
        assert await store.events("none") == []
        assert await store.stored_bytes("none") == 0
        assert await store.next_seq("none") == 1
        assert await find(store, InstanceKey("none", "a"), "k") is None

    async def test_a_run_id_is_unique(self, store: Store) -> None:
        """The second CreateRun of an id is refused and changes nothing."""
        story = Story()
        await accept(store, story.create("a", dag_id="first"))
        assert isinstance(await refusal(store, story.create("b", dag_id="second")), RunIdConflictError)
        found = await store.find_run("run")
        assert found is not None
        assert found.run.dag_id == "first"

    async def test_a_run_ends_once(self, store: Store) -> None:
        """SetRunState needs a running run."""
        story = Story()
        await accept(store, story.create("a"), story.end(RunState.FAILED))
        assert isinstance(await refusal(store, story.end()), InvalidTransitionError)
        assert isinstance(await refusal(store, Story("none").end()), RunNotFoundError)
        found = await store.find_run("run")
        assert found is not None
        assert (found.run.state, found.run.ended_at) == (RunState.FAILED, from_us(2_000))

    async def test_a_run_can_not_end_as_running(self, store: Store) -> None:
        """`running` is no end."""
        story = Story()
        await accept(store, story.create("a"))
        assert isinstance(await refusal(store, story.end(RunState.RUNNING)), InvalidTransitionError)

    async def test_a_running_run_can_not_be_reopened(self, store: Store) -> None:
        """ReopenRun needs a run that is there and does not run."""
        story = Story()
        await accept(store, story.create("a"))
        assert isinstance(await refusal(store, story.reopen()), InvalidTransitionError)
        assert isinstance(await refusal(store, Story("none").reopen()), RunNotFoundError)

    async def test_reopening_clears_instances(self, store: Store) -> None:
        """A cleared instance is pending, keeps its attempt number, and loses error, counts and visible entries."""
        story = Story()
        await accept(
            store,
            story.create("a", "b", "c"),
            story.finish("a", attempt=2, state=TaskState.FAILED, error=ERROR, failures=2, interruptions=1),
            story.finish("b", values={"return_value": b"1"}),
            story.end(RunState.FAILED),
            story.reopen(story.key("a"), story.key("b"), story.key("c"), plan=plan_of("a", "b", "c", "d")),
        )
        image = await store.load_run("run")
        assert image is not None
        assert image.plan == plan_of("a", "b", "c", "d")
        assert (image.stored.run.state, image.stored.run.ended_at) == (RunState.RUNNING, None)
        assert image.stored.run.created_at < image.stored.run.started_at
        a, b = await instance_of(store, story.key("a")), await instance_of(store, story.key("b"))
        assert a is not None
        assert b is not None
        assert (a.state, a.attempt, a.error, a.failures, a.interruptions) == (TaskState.PENDING, 2, None, 0, 0)
        assert (b.state, b.attempt) == (TaskState.PENDING, 1)
        assert await instance_of(store, story.key("c")) is None
        assert await find(store, story.key("b"), RETURN_VALUE) is None

    async def test_clearing_a_running_instance_is_refused_whole(self, store: Store) -> None:
        """An instance whose attempt runs can't be cleared, and the run stays as it was."""
        story = Story()
        await accept(store, story.create("a", "b"), story.finish("a"), story.start("b"), story.end(RunState.INTERRUPTED))
        assert isinstance(await refusal(store, story.reopen(story.key("a"), story.key("b"))), InvalidTransitionError)
        found, a = await store.find_run("run"), await instance_of(store, story.key("a"))
        assert found is not None
        assert a is not None
        assert (found.run.state, a.state) == (RunState.INTERRUPTED, TaskState.SUCCESS)

    async def test_reopening_without_a_plan_keeps_the_stored_one(self, store: Store) -> None:
        """The plan is replaced only where one is given; other runs keep theirs."""
        story, other = Story(), Story("other")
        await accept(store, story.create("a"), other.create("a"), story.end(), story.reopen())
        image = await store.load_run("run")
        assert image is not None
        assert image.plan == plan_of("a")
        await accept(store, story.end(), story.reopen(plan=plan_of("b")))
        image = await store.load_run("other")
        assert image is not None
        assert image.plan == plan_of("a")

    async def test_a_pending_instance_is_cleared_without_a_trace(self, store: Store) -> None:
        """Clearing what is clear already is no change of state."""
        story = Story()
        await accept(store, story.create("a"), story.finish("a"), story.end(), story.reopen(story.key("a")), story.end())
        seq = story.seq
        await accept(store, story.reopen(story.key("a")))
        assert summary(await store.events("run", after_seq=seq)) == [(seq + 1, "run started")]

    # ---------------------------------------------------------------------------------------------- finding runs

    async def _many(self, store: Store) -> None:
        for number, (dag_id, state, tags) in enumerate(
            [
                ("x", RunState.SUCCESS, ("t",)),
                ("x", RunState.FAILED, ("t", "u")),
                ("y", RunState.SUCCESS, ()),
                ("x", None, ("u",)),
            ]
        ):
            story = Story(f"run{number}")
            await accept(store, story.create("a", dag_id=dag_id, tags=tags, created_us=100 * number))
            if state is not None:
                await accept(store, story.end(state))

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            (RunQuery(), "3210"),
            (RunQuery(limit=None), "3210"),
            (RunQuery(dag_id="x"), "310"),
            (RunQuery(state=RunState.SUCCESS), "20"),
            (RunQuery(state=RunState.RUNNING), "3"),
            (RunQuery(state=RunState.INTERRUPTED), ""),
            (RunQuery(tags=("t",)), "10"),
            (RunQuery(tags=("u", "t")), "1"),
            (RunQuery(since_us=100), "321"),
            (RunQuery(until_us=200), "10"),
            (RunQuery(since_us=100, until_us=300, dag_id="x"), "1"),
            (RunQuery(limit=2), "32"),
            (RunQuery(limit=2, offset=1), "21"),
            (RunQuery(limit=0), ""),
            (RunQuery(tags=("t",), limit=1, offset=1), "0"),
            (RunQuery(dag_id="z"), ""),
            (RunQuery(dag_id="x' OR 1=1 --"), ""),
        ],
    )
    async def test_runs_are_found_newest_first(self, store: Store, query: RunQuery, expected: str) -> None:
        """All conditions of a query hold for what it finds."""
        await self._many(store)
        assert [run.run_id for run in await store.find_runs(query)] == [f"run{number}" for number in expected]

    async def test_runs_of_one_moment_are_found_in_reverse_order_of_creation(self, store: Store) -> None:
        """Where times are equal the later one comes first."""
        for name in ("b", "a", "c"):
            await accept(store, Story(name).create("t", created_us=5))
        assert [run.run_id for run in await store.find_runs(RunQuery())] == ["c", "a", "b"]
