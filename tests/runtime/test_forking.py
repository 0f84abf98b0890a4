"""Forks: what is copied, what runs again, what is refused, and that the run they are made of stays as it is."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    DAGChangedError,
    DagrelayError,
    DAGValidationError,
    InvalidIdError,
    RunFailedError,
    RunIdConflictError,
    RunNotFoundError,
    RunStarted,
    RunState,
    Runtime,
    RuntimeClosedError,
    SqliteStore,
    StoreReadOnlyError,
    TaskContext,
    TaskNotFoundError,
    TaskState,
    XComNotFoundError,
    XComOptions,
    XComTypeError,
)
from dagrelay.errors import StoreFullError
from dagrelay.stores.operations import ForkRun
from dagrelay.testing import FaultyStore
from tests.runtime.probes import Probe, chain_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Durability, RunHandle, Store

READ = XComOptions(description="from outside")


def summing(probe: Probe, *, factor: int = 1) -> DAG:
    """Return a DAG of a load, a side branch, a mapped middle and a sum that is multiplied."""
    dag = DAG("summing", params={"by": 1}, tags=["nightly"])

    @dag.task
    async def load(ctx: TaskContext, by: int) -> list[int]:
        probe.note("load")
        await ctx.xcom.push("kept", by, lifetime="task")
        return [by, 2 * by]

    @dag.task
    async def side(rows: list[int] = load.output) -> int:
        probe.note("side")
        return len(rows)

    @dag.task
    async def twice(ctx: TaskContext, row: int = load.each) -> int:
        probe.note(f"twice[{ctx.map_index}]")
        return 2 * row

    @dag.task
    async def total(by: int, rows: list[int] = twice.outputs) -> int:
        probe.note("total")
        return sum(rows) * by * factor

    return dag


async def ended(handle: RunHandle) -> Any:
    """Return the values of a fork's leaves that succeeded."""
    result = await handle.result(raise_on_failure=False)
    return {task_id: result[task_id] for task_id in result.tasks if task_id in {"side", "total"}}


async def image(runtime: Runtime, run_id: str) -> tuple[Any, ...]:
    """Return all that is seen of a run."""
    events = [event async for event in runtime.events(run_id)]
    entries = await runtime.xcom.list(run_id, all_attempts=True, include_values=True)
    return await runtime.get_run(run_id), await runtime.task_instances(run_id), entries, events


async def test_what_is_upstream_is_copied_and_the_rest_runs(open_store: Callable[[], Store], durability: Durability) -> None:
    """A mapped task with its elements; with the DAG as it is now. The run forked from stays as it is."""
    probe = Probe()
    async with Runtime(open_store(), durability=durability) as runtime:
        await runtime.run(summing(probe), params={"by": 3}, run_id="old")
        await runtime.xcom.push("old", "load", "note", "hand", options=READ)
        before = await image(runtime, "old")
        probe.notes.clear()
        handle = await runtime.fork("old", summing(probe, factor=10), from_task="total", new_run_id="new")
        assert await ended(handle) == {"side": 2, "total": 18 * 3 * 10}
        assert probe.notes == ["total"]
        assert await image(runtime, "old") == before
        pull = runtime.xcom.pull
        assert [await pull("new", "load", key) for key in ("return_value", "kept", "note")] == [[3, 6], 3, "hand"]
        assert [await pull("new", "twice", map_index=index) for index in range(2)] == [6, 12]
        run = await runtime.get_run("new")
        assert (run.state, run.params, run.forked_from, run.tags) == (
            RunState.SUCCESS,
            {"by": 3},
            "old",
            ("nightly", "fork-of:old"),
        )
        assert before[0].forked_from is None
        assert [found.run_id for found in await runtime.runs(tags=["fork-of:old"])] == ["new"]


async def test_a_fork_begins_its_timeline_with_what_was_copied(open_store: Callable[[], Store]) -> None:
    """All places differ, and what it does itself comes after."""
    probe = Probe()
    async with Runtime(open_store()) as runtime:
        await runtime.run(summing(probe), run_id="old")
        handle = await runtime.fork("old", summing(probe), from_task="total")
        live = [event async for event in handle.events()]
        stored = [event async for event in runtime.events(handle.run_id)]
    assert live == stored
    assert isinstance(stored[0], RunStarted)
    places = [event.seq for event in stored]
    assert places == sorted(set(places))
    last = [event for event in stored if getattr(event, "task_id", None) == "total"]
    assert min(event.seq for event in last) > max(event.seq for event in stored if getattr(event, "task_id", "total") != "total")


async def test_params_go_on_top_of_the_old_ones(open_store: Callable[[], Store]) -> None:
    """What is copied was made with the old ones; those that the DAG no longer has are dropped."""
    probe = Probe()
    old = summing(probe)
    async with Runtime(open_store()) as runtime:
        await runtime.run(old, params={"by": 3}, run_id="old")
        handle = await runtime.fork("old", old, from_task=old.tasks["total"], params={"by": 5})
        assert await ended(handle) == {"side": 2, "total": 18 * 5}
        for params, words in (({"bye": 1}, "param 'bye'"), ({"by": "x"}, "can't fill parameter 'by'")):
            with pytest.raises(DAGValidationError, match=words):
                await runtime.fork("old", old, from_task="total", params=params, new_run_id="never")
        assert len(await runtime.runs()) == 2
        new = DAG("summing")

        @new.task
        async def other() -> int:
            return 1

        handle = await runtime.fork("old", new, from_task="other")
        assert (await handle.result())[other] == 1
        assert (await runtime.get_run(handle.run_id)).params == {}


async def test_a_fork_of_the_first_task_is_a_run_with_the_same_params(open_store: Callable[[], Store]) -> None:
    """Nothing is copied then, and a fork can be forked."""
    probe = Probe()
    async with Runtime(open_store()) as runtime:
        await runtime.run(summing(probe), params={"by": 2}, run_id="old")
        first = await runtime.fork("old", summing(probe), from_task="load", new_run_id="first")
        assert await ended(first) == {"side": 2, "total": 24}
        second = await runtime.fork("first", summing(probe), from_task="side")
        assert await ended(second) == {"side": 2, "total": 24}
        assert (await runtime.get_run(second.run_id)).forked_from == "first"
    assert probe.counts["load"] == 2
    assert probe.counts["side"] == 3


async def test_failures_outside_are_copied_and_those_inside_run_again(open_store: Callable[[], Store]) -> None:
    """As are skips, with what they make of what follows."""
    probe, dag = Probe(), DAG("d")
    broken = ["a", "b"]

    def failing(name: str) -> Any:
        async def fail() -> str:
            probe.note(name)
            if name in broken:
                raise ValueError(name)
            return name

        return fail

    for name in ("a", "b"):
        dag.add(failing(name), id=name)
        dag.add(failing(f"after_{name}"), id=f"after_{name}", depends_on=name)
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="old", raise_on_failure=False)
        broken.clear()
        probe.notes.clear()
        handle = await runtime.fork("old", dag, from_task="a", new_run_id="new")
        with pytest.raises(RunFailedError) as caught:
            await handle.result()
        assert [str(error) for error in caught.value.exceptions] == ["task 'b' failed in attempt 1: ValueError: b"]
        assert [task.state for task in await runtime.task_instances("new")] == [
            TaskState.SUCCESS,
            TaskState.SUCCESS,
            TaskState.FAILED,
            TaskState.UPSTREAM_FAILED,
        ]
        assert probe.notes == ["a", "after_a"]
        await runtime.retry("new", "b", dag)
        assert (await runtime.get_run("new")).state is RunState.SUCCESS


async def test_what_has_not_ended_or_was_cancelled_runs(open_store: Callable[[], Store]) -> None:
    """Of a run that is running, in the fork only; of a cancelled one too."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", "c", held="b")
    async with Runtime(open_store()) as runtime:
        await runtime.start(dag, run_id="old")
        await probe.reach("b")
        probe.shut("b")
        handle = await runtime.fork("old", dag, from_task="c", new_run_id="new")
        await probe.reach("b")
        assert probe.notes == ["a", "b", "b"]
        assert (await runtime.get_run("old")).state is RunState.RUNNING
        await runtime.cancel("old")
        probe.let_go("b")
        await handle.result()
        again = await runtime.fork("old", dag, from_task="c")
        await again.result()
    assert probe.notes == ["a", "b", "b", "c", "b", "c"]


async def test_branches_are_copied_with_what_they_chose(open_store: Callable[[], Store]) -> None:
    """So that what was not chosen stays skipped."""
    dag, chosen = DAG("d"), ["left"]

    @dag.branch
    async def choose() -> list[str]:
        return chosen

    @dag.task(depends_on=choose)
    async def left() -> int:
        return 1

    @dag.task(depends_on=choose)
    async def right() -> int:
        return 2

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="old")
        chosen[:] = ["right"]
        kept = await (await runtime.fork("old", dag, from_task="left")).result()
        anew = await (await runtime.fork("old", dag, from_task="choose")).result()
    assert [kept.tasks[name].state for name in ("left", "right")] == [TaskState.SUCCESS, TaskState.SKIPPED]
    assert [anew.tasks[name].state for name in ("left", "right")] == [TaskState.SKIPPED, TaskState.SUCCESS]


async def test_what_was_given_from_outside_is_copied_with_its_task(open_store: Callable[[], Store]) -> None:
    """One that runs again waits anew."""
    dag = DAG("d")
    consent = dag.external("consent", as_type=str)

    @dag.task
    async def act(word: str = consent.output) -> str:
        return word

    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="old")
        await runtime.provide("old", "consent", "yes")
        await handle.result()
        fork = await runtime.fork("old", dag, from_task="act")
        assert (await fork.result())[act] == "yes"
        fork = await runtime.fork("old", dag, from_task="consent")
        await runtime.provide(fork.run_id, "consent", "no")
        assert (await fork.result())[act] == "no"


async def test_who_starts_after_a_task_runs_again_with_it(open_store: Callable[[], Store]) -> None:
    """As its stream begins anew; alone it reads the copied one."""
    probe, dag = Probe(), DAG("d")

    @dag.task
    async def before() -> int:
        probe.note("before")
        return 2

    @dag.task
    async def produce(ctx: TaskContext, count: int = before.output) -> None:
        probe.note("produce")
        for item in range(count):
            await ctx.xcom.append("items", item)

    @dag.task(after_start=produce)
    async def consume(ctx: TaskContext) -> list[int]:
        probe.note("consume")
        return [item async for item in ctx.xcom.stream(produce, "items")]

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="old")
        for task, again in ((produce, ["consume", "produce"]), (consume, ["consume"])):
            probe.notes.clear()
            fork = await runtime.fork("old", dag, from_task=task)
            assert (await fork.result())[consume] == [0, 1]
            assert sorted(probe.notes) == again


async def test_the_stream_of_a_copied_task_is_read_in_the_fork(open_store: Callable[[], Store]) -> None:
    """It was copied with the task, which does not run again, and is there when the other run is gone."""
    probe, dag = Probe(), DAG("d")

    @dag.task
    async def produce(ctx: TaskContext) -> None:
        probe.note("produce")
        for item in range(3):
            await ctx.xcom.append("items", item)

    @dag.task(depends_on=produce)
    async def consume(ctx: TaskContext) -> list[int]:
        return [item async for item in ctx.xcom.stream(produce, "items")]

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="old")
        handle = await runtime.fork("old", dag, from_task=consume, new_run_id="new")
        assert (await handle.result())[consume] == [0, 1, 2]
        await runtime.delete_run("old")
        assert (await runtime.retry("new", "consume", dag))[consume] == [0, 1, 2]
    assert probe.notes == ["produce"]


async def test_a_task_that_would_be_copied_must_be_wired_as_it_was(open_store: Callable[[], Store]) -> None:
    """One that vanished is not copied; one that runs again may be wired anew."""

    def wired(*edges: tuple[str, str], without: str = "") -> DAG:
        dag = DAG("d")
        for name in "abcd":
            if name != without:
                dag.add(one, id=name, depends_on=[above for above, below in edges if below == name])
        return dag

    async def one() -> int:
        return 1

    async with Runtime(open_store()) as runtime:
        await runtime.run(wired(("a", "b"), ("b", "c")), run_id="old")
        with pytest.raises(DAGChangedError) as caught:
            await runtime.fork("old", wired(("d", "b"), ("b", "c")), from_task="c", new_run_id="never")
        assert caught.value.changes == ("finished task 'b' was rewired (new upstream d; without a)",)
        with pytest.raises(DAGChangedError):
            await runtime.fork("old", wired(("b", "c"), without="a"), from_task="c")
        for dag, task in ((wired(("a", "b"), ("d", "c")), "c"), (wired(("a", "b"), ("b", "c"), without="d"), "b")):
            result = await (await runtime.fork("old", dag, from_task=task)).result()
            assert result.state is RunState.SUCCESS
        with pytest.raises(RunNotFoundError):
            await runtime.get_run("never")


async def test_a_fork_that_can_not_be_made_is_refused(open_store: Callable[[], Store], tmp_path: Path) -> None:
    """And nothing is recorded."""
    probe = Probe()
    dag = summing(probe)
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="old")
        await runtime.run(dag, run_id="gone")
        await runtime.delete_run("gone")
        refusals: list[tuple[type[Exception], dict[str, Any]]] = [
            (RunNotFoundError, {"run_id": "another"}),
            (RunNotFoundError, {"run_id": "gone"}),
            (RunIdConflictError, {"dag": chain_of(probe, "total")}),
            (RunIdConflictError, {"new_run_id": "old"}),
            (RunIdConflictError, {"new_run_id": "gone"}),
            (TaskNotFoundError, {"from_task": "totl"}),
            (InvalidIdError, {"from_task": "/"}),
            (InvalidIdError, {"run_id": "/"}),
            (InvalidIdError, {"new_run_id": "/"}),
            (DAGValidationError, {"params": {"x": 1}}),
        ]
        for error, options in refusals:
            usual: dict[str, Any] = {"run_id": "old", "dag": dag, "from_task": "total"}
            with pytest.raises(error):
                await runtime.fork(**{**usual, **options})
        assert [run.run_id for run in await runtime.runs()] == ["old"]
    with pytest.raises(RuntimeClosedError):
        await runtime.fork("old", dag, from_task="total")
    path = tmp_path / "read.db"
    async with Runtime(path) as runtime:
        await runtime.run(dag, run_id="old")
    async with Runtime(SqliteStore(path, read_only=True)) as runtime:
        with pytest.raises(StoreReadOnlyError):
            await runtime.fork("old", dag, from_task="total")


async def test_a_fork_that_the_store_can_not_take_is_not_there(open_store: Callable[[], Store]) -> None:
    """The error is that of the store; the next one can be made."""
    probe = Probe()
    store = FaultyStore(open_store())
    async with Runtime(store) as runtime:
        await runtime.run(summing(probe), run_id="old")
        await anyio.wait_all_tasks_blocked()
        fault = store.fail(StoreFullError("here"))
        with pytest.raises(StoreFullError):
            await runtime.fork("old", summing(probe), from_task="total", new_run_id="new")
        with pytest.raises(RunNotFoundError):
            await runtime.get_run("new")
        assert fault.fired == 1
        assert isinstance(store.batches[-1][0], ForkRun)
        handle = await runtime.fork("old", summing(probe), from_task="total", new_run_id="new")
        assert (await ended(handle))["total"] == 6


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_leaves_no_fork_or_a_whole_one(open_store: Callable[[], Store], when: Any) -> None:
    """Before and after each call of the store: there is nothing of it, or it is resumed and ends as it should."""
    forks = 0
    for at in range(1, 100):
        probe = Probe()
        names = {"old": f"old-{when}-{at}", "new": f"new-{when}-{at}"}
        async with Runtime(open_store()) as runtime:
            await runtime.run(summing(probe), run_id=names["old"])
        store = FaultyStore(open_store())
        probe.notes.clear()
        fault = None
        with suppress(DagrelayError, ExceptionGroup):
            async with Runtime(store, on_exit="interrupt") as runtime:
                fault = store.kill(at=at, on="any", when=when)
                handle = await runtime.fork(names["old"], summing(probe), from_task="total", new_run_id=names["new"])
                await handle.result()
        assert fault is not None
        store.heal()
        with suppress(DagrelayError):
            await store.close()
        async with Runtime(open_store()) as runtime:
            found = [run.run_id for run in await runtime.runs(tags=[f"fork-of:{names['old']}"])]
            if found:
                forks += 1
                result = await runtime.resume(names["new"], summing(probe))
                assert (result["side"], result["total"]) == (2, 6)
                assert set(probe.notes) <= {"total"}
            else:
                assert await runtime.xcom.list(names["new"]) == []
                assert probe.notes == []
        if not fault.fired:
            break
    else:
        raise AssertionError("it was to come to an end without meeting the fault")
    assert 1 < forks < at


async def test_a_fork_goes_on_in_another_runtime(open_store: Callable[[], Store]) -> None:
    """As any run that was interrupted; what was copied does not run again."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="b")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        probe.let_go("b")
        await runtime.run(dag, run_id="old")
        probe.shut("b:go")
        probe.shut("b")
        await runtime.fork("old", dag, from_task="b", new_run_id="new")
        await probe.reach("b")
    probe.let_go("b")
    async with Runtime(open_store()) as runtime:
        (handle,) = await runtime.recover([dag])
        assert handle.run_id == "new"
        await handle.result()
    assert probe.notes == ["a", "b", "b", "b"]


async def test_values_are_missing_and_typed_in_a_fork_as_in_any_run(open_store: Callable[[], Store]) -> None:
    """What failed before it was copied has no value; what a handler makes of it now is judged now."""
    dag = DAG("d")

    @dag.task
    async def a() -> int:
        return 1

    @dag.task
    async def b(x: int = a.output) -> int:
        return x

    new = DAG("d")

    @new.task(id="a")
    async def new_a() -> int:
        return 1

    @new.task(id="b")
    async def new_b(ctx: TaskContext, x: int = new_a.output) -> int:
        with pytest.raises(XComNotFoundError):
            await ctx.xcom.pull(new_a, "nothing")
        await ctx.xcom.pull(new_a, as_type=str)
        return x

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="old")
        handle = await runtime.fork("old", new, from_task="b")
        with pytest.raises(RunFailedError) as caught:
            await handle.result()
    assert isinstance(caught.value.exceptions[0].__cause__, XComTypeError)


async def test_a_fork_reads_the_stream_of_a_task_that_was_copied(open_store: Callable[[], Store]) -> None:
    """From its beginning, whatever the original has read of it."""
    dag = DAG("d")
    read: list[list[int]] = []

    @dag.task
    async def write(ctx: TaskContext) -> None:
        for number in range(5):
            await ctx.xcom.append("rows", number)

    @dag.task(after_start=[write])
    async def total(ctx: TaskContext) -> int:
        read.append([item async for item in ctx.xcom.stream(write, "rows", as_type=int)])
        return sum(read[-1])

    async with Runtime(open_store()) as runtime:
        original = await runtime.run(dag)
        fork = await (await runtime.fork(original.run_id, dag, from_task="total")).result()
        assert (original[total], fork[total]) == (10, 10)
        assert read == [[0, 1, 2, 3, 4]] * 2
        assert (await runtime.task_instances(fork.run_id, task_id="write"))[0].attempt == 1
