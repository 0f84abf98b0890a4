"""Looking back: runs, tasks, timelines, pruning, statistics."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from dagrelay import (
    DAG,
    Limits,
    RunFinished,
    RunNotFoundError,
    RunStarted,
    RunState,
    RunStateError,
    Runtime,
    TaskContext,
    TaskState,
    TaskStateChanged,
    XComDeleted,
    XComPushed,
)
from dagrelay.runtime.environment import Environment
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe, chain_of, reached

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Event, Store

START = datetime(2030, 1, 1, tzinfo=UTC)


def clocked() -> tuple[Environment, list[int]]:
    """Return an environment whose wall clock is a list's only item."""
    now = [int(START.timestamp()) * 1_000_000]
    return Environment(now_us=lambda: now[0], random=Random(1)), now


def tagged(dag_id: str, *tags: str, fails: bool = False) -> DAG:
    """Return a DAG of one task."""
    dag = DAG(dag_id, tags=tags)

    @dag.task
    async def only() -> None:
        if fails:
            raise ValueError("no")

    del only
    return dag


async def timeline(runtime: Runtime, run_id: str = "r") -> list[Event]:
    """Return a run's timeline."""
    return [event async for event in runtime.events(run_id)]


def shown(events: list[Event]) -> list[tuple[Any, ...]]:
    """Return events as short tuples."""
    rows: list[tuple[Any, ...]] = []
    for event in events:
        match event:
            case RunStarted():
                rows.append(("started", event.dag_id))
            case RunFinished():
                rows.append(("finished", str(event.state)))
            case TaskStateChanged():
                rows.append((event.task_id, event.attempt, str(event.state)))
            case XComPushed():
                rows.append(("push", event.task_id, event.attempt, event.key, event.size_bytes))
            case XComDeleted():
                rows.append(("delete", event.task_id, event.key, event.count))
    return rows


async def test_runs_are_listed_newest_first_by_every_filter(open_store: Callable[[], Store]) -> None:
    """All conditions must hold; limit and offset page."""
    environment, now = clocked()
    async with Runtime(open_store(), environment=environment) as runtime:
        for number, dag in enumerate(
            [tagged("a", "x", "y"), tagged("b", "x"), tagged("a", "y"), tagged("b", "x", fails=True), tagged("a")]
        ):
            await runtime.run(dag, run_id=f"r{number}", raise_on_failure=False)
            now[0] += 60_000_000

        async def ids(**query: Any) -> list[str]:
            return [run.run_id for run in await runtime.runs(**query)]

        assert await ids() == ["r4", "r3", "r2", "r1", "r0"]
        assert await ids(dag_id="a") == ["r4", "r2", "r0"]
        assert await ids(state=RunState.FAILED) == ["r3"]
        assert await ids(tags=["x"]) == ["r3", "r1", "r0"]
        assert await ids(tags=["x", "y"]) == ["r0"]
        assert await ids(since=START + timedelta(minutes=1), until=START + timedelta(minutes=3)) == ["r2", "r1"]
        assert await ids(limit=2) == ["r4", "r3"]
        assert await ids(limit=2, offset=2) == ["r2", "r1"]
        assert await ids(dag_id="a", tags=["y"], limit=1, offset=1) == ["r0"]
        assert await ids(dag_id="none") == []
        assert await ids(limit=0) == []


async def test_a_runs_record_has_its_facts(open_store: Callable[[], Store]) -> None:
    """Params, tags, times; started_at is that of the last resume."""
    environment, now = clocked()
    probe = Probe()
    dag = DAG("d", tags=("t",), params={"n": 1})

    @dag.task
    async def task(n: int) -> int:
        await probe.hold("task")
        return n

    async with Runtime(open_store(), environment=environment, on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r", params={"n": 2})
        await probe.reach("task")
        run = await runtime.get_run("r")
        assert (run.run_id, run.dag_id, run.state, run.params, run.tags) == ("r", "d", RunState.RUNNING, {"n": 2}, ("t",))
        assert (run.created_at, run.started_at, run.ended_at) == (START, START, None)
        now[0] += 1_000_000
    probe.let_go("task")
    async with Runtime(open_store(), environment=environment) as runtime:
        assert (await runtime.get_run("r")).ended_at == START + timedelta(seconds=1)
        now[0] += 1_000_000
        result = await runtime.resume("r", dag)
        run = await runtime.get_run("r")
    assert (run.created_at, run.started_at, run.ended_at) == (START, *[START + timedelta(seconds=2)] * 2)
    assert (result.started_at, result.ended_at, result[task]) == (run.created_at, run.ended_at, 2)


async def test_task_instances_list_untouched_tasks_too(open_store: Callable[[], Store]) -> None:
    """In topological order, by id and by state."""
    probe = Probe()
    dag = chain_of(probe, "z", "y", "x", held="y")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("y")
        await reached(runtime, TaskState.RUNNING, "y")
        rows = await runtime.task_instances("r")
        assert [str(row.state) for row in rows] == ["success", "running", "pending"]
        assert [(row.task_id, row.attempt, row.ended_at is None) for row in rows] == [
            ("z", 1, False),
            ("y", 1, True),
            ("x", 0, True),
        ]
        assert [row.task_id for row in await runtime.task_instances("r", state=TaskState.PENDING)] == ["x"]
        assert [row.task_id for row in await runtime.task_instances("r", task_id="y")] == ["y"]
        assert await runtime.task_instances("r", task_id="unknown") == []
        assert await runtime.task_instances("r", task_id="y", state=TaskState.SUCCESS) == []
        probe.let_go("y")
        await handle.result()


def eventful(probe: Probe) -> DAG:
    """Return a DAG in whose run every kind of event happens."""
    dag = DAG("eventful")

    @dag.task(retries=AT_ONCE)
    async def flaky(ctx: TaskContext) -> str:
        await ctx.xcom.push("k", "v")
        if ctx.attempt == 1:
            raise ValueError("once")
        await ctx.xcom.push("gone", 1)
        assert await ctx.xcom.delete("gone") == 1
        return "ok"

    @dag.task(depends_on=flaky)
    async def bad() -> None:
        await probe.hold("bad")
        raise ValueError("no")

    @dag.task(depends_on=bad)
    async def never() -> None:
        raise AssertionError

    del never
    return dag


async def test_the_timeline_holds_every_change_and_is_the_same_live_and_stored(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """Whoever follows from the start, joins in the middle, or reads later, in another runtime, sees one order."""
    probe, live, joined = Probe(), list["Event"](), list["Event"]()
    dag = eventful(probe)

    async def follow(into: list[Event]) -> None:
        into.extend([event async for event in handle.events()])

    async with Runtime(open_store(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, live)
                await probe.reach("bad")
                tasks.start_soon(follow, joined)
                await anyio.wait_all_tasks_blocked()
                probe.let_go("bad")
        await handle.result(raise_on_failure=False)
        stored = await timeline(runtime)
    async with Runtime(open_store()) as runtime:
        assert await timeline(runtime) == stored
    assert shown(stored) == [
        ("started", "eventful"),
        ("flaky", 1, "running"),
        ("push", "flaky", 1, "k", 3),
        ("flaky", 1, "up_for_retry"),
        ("flaky", 2, "running"),
        ("push", "flaky", 2, "k", 3),
        ("delete", "flaky", "gone", 1),
        ("push", "flaky", 2, "return_value", 4),
        ("flaky", 2, "success"),
        ("bad", 1, "running"),
        ("bad", 1, "failed"),
        ("never", 0, "upstream_failed"),
        ("finished", "failed"),
    ]
    assert [event.seq for event in stored] == sorted({event.seq for event in stored})
    without_gone = [event for event in live if not (isinstance(event, XComPushed) and event.key == "gone")]
    assert without_gone == stored
    assert len(live) == len(stored) + 1
    assert [event for event in joined if not (isinstance(event, XComPushed) and event.key == "gone")] == stored
    failure = next(event for event in stored if isinstance(event, TaskStateChanged) and event.state is TaskState.FAILED)
    assert str(failure.error) == "ValueError: no"


async def test_the_timeline_goes_on_over_resume_and_retry(open_store: Callable[[], Store]) -> None:
    """Each going-on is a RunStarted; what happened before stays."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="b")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("b")
    probe.let_go("b")
    async with Runtime(open_store()) as runtime:
        await runtime.resume("r", dag)
        await runtime.retry("r", "b", dag)
        rows = [row for row in shown(await timeline(runtime)) if row[0] != "push"]
    assert rows == [
        ("started", "chain"),
        ("a", 1, "running"),
        ("a", 1, "success"),
        ("b", 1, "running"),
        ("b", 1, "interrupted"),
        ("finished", "interrupted"),
        ("started", "chain"),
        ("b", 2, "running"),
        ("b", 2, "success"),
        ("finished", "success"),
        ("started", "chain"),
        ("b", 2, "pending"),
        ("b", 3, "running"),
        ("b", 3, "success"),
        ("finished", "success"),
    ]


async def test_a_timeline_longer_than_a_page_comes_whole(open_store: Callable[[], Store]) -> None:
    """1,200 pushes are more than one page."""
    dag = DAG("d")

    @dag.task
    async def pusher(ctx: TaskContext) -> None:
        await ctx.xcom.push_many({f"key-{number:04}": number for number in range(1_200)})

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r")
        keys = [event.key for event in await timeline(runtime) if isinstance(event, XComPushed)]
    assert keys == [*(f"key-{number:04}" for number in range(1_200)), "return_value"]


async def test_a_follower_may_leave_at_any_time(open_store: Callable[[], Store]) -> None:
    """A loop left over a timeline leaves nothing to be closed, and the run goes on."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        async for event in handle.events():
            assert isinstance(event, RunStarted)
            break
        await probe.reach("a")
        events = handle.events()
        with anyio.move_on_after(0.01):
            while True:
                await anext(events)
        probe.let_go("a")
        rest = [event async for event in events]
        assert isinstance(rest[-1], RunFinished)
        assert (await handle.result())["b"] == "ab"


async def test_a_deleted_run_is_gone_with_all_it_had(open_store: Callable[[], Store]) -> None:
    """But not while it runs."""
    probe = Probe()
    dag = chain_of(probe, "a", held="a")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("a")
        with pytest.raises(RunStateError, match="run 'r' is running"):
            await runtime.delete_run("r")
        probe.let_go("a")
        await handle.result()
        await runtime.delete_run("r")
        assert await runtime.runs() == []
        assert await runtime.xcom.list("r") == []
        with pytest.raises(RunNotFoundError):
            await runtime.delete_run("r")
        with pytest.raises(RunNotFoundError):
            await timeline(runtime)


async def test_history_beyond_max_runs_per_dag_is_pruned_oldest_first(open_store: Callable[[], Store]) -> None:
    """Per DAG; runs that are not finished don't count and stay."""
    probe = Probe()
    held = chain_of(probe, "a", held="a")
    free = chain_of(Probe(), "a")
    async with Runtime(open_store(), max_runs_per_dag=2, on_exit="interrupt") as runtime:
        await runtime.start(held, run_id="live")
        await probe.reach("a")
        await runtime.run(chain_of(Probe(), "a", dag_id="other"), run_id="other")
        for number in range(4):
            await runtime.run(free, run_id=f"r{number}")
            await runtime.get_run(f"r{number}")
        await anyio.wait_all_tasks_blocked()
        assert [run.run_id for run in await runtime.runs()] == ["r3", "r2", "other", "live"]
        assert await runtime.xcom.list("r0") == []


async def test_statistics_tell_what_is_held_and_was_done(open_store: Callable[[], Store]) -> None:
    """Mailboxes, broker, store, slots, hosts."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")
    async with Runtime(open_store(), max_concurrency=7) as runtime:
        handle = await runtime.start(dag)
        await probe.reach("a")
        busy = runtime.statistics()
        probe.let_go("a")
        await handle.result()
        idle = runtime.statistics()
    assert attrs.asdict(busy.admission) == {"slots": 7, "running": 1, "queued": 0, "returning": 0, "pools": {}}
    assert busy.broker.live_runs == 1
    assert attrs.asdict(idle.admission) == {"slots": 7, "running": 0, "queued": 0, "returning": 0, "pools": {}}
    assert idle.broker.pending_bytes == 0
    assert idle.store.operations >= 4
    assert idle.broker.batches >= 2
    assert idle.hosting.hosts >= 1


async def test_an_iterator_that_is_not_read_is_sent_to_the_store(open_store: Callable[[], Store]) -> None:
    """It holds a mailbox of events at the most, and misses none."""
    dag = DAG("d")
    probe = Probe()

    @dag.task
    async def first() -> None:
        await probe.hold("first")

    @dag.task(depends_on=first)
    async def second(ctx: TaskContext) -> None:
        for number in range(20):
            await ctx.xcom.push(f"k{number}", number)
        await probe.hold("second")

    async with Runtime(open_store(), limits=Limits(mailbox_capacity=4)) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("first")
        lagging = handle.events()
        seen = [await anext(lagging)]
        probe.let_go("first")
        await probe.reach("second")
        probe.let_go("second")
        await handle.result()
        seen += [event async for event in lagging]
        assert seen == await timeline(runtime)
        assert len(seen) > 20
