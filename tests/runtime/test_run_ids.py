"""One run id means one run: found, joined, resumed, refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    DAGValidationError,
    InvalidIdError,
    MemoryStore,
    RunCancelledError,
    RunFailedError,
    RunIdConflictError,
    RunInterruptedError,
    RunNotFoundError,
    RunState,
    Runtime,
    RuntimeClosedError,
    SqliteStore,
    StoreReadOnlyError,
)
from dagrelay.testing.faulty import FaultyStore
from tests.runtime.probes import Probe, agree, chain_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import RunHandle, RunResult, Store


async def test_a_finished_run_is_returned_and_not_run_again(open_store: Callable[[], Store]) -> None:
    """In the same runtime and in a later one, with the same record, values and times."""
    probe = Probe()
    dag = chain_of(probe, "a", "b")
    async with Runtime(open_store()) as runtime:
        first = await runtime.run(dag, run_id="r")
        again = await runtime.run(dag, run_id="r")
        assert (again["b"], dict(again.tasks), again.ended_at) == ("ab", dict(first.tasks), first.ended_at)
        assert await again.pull("a") == "a"
    async with Runtime(open_store()) as runtime:
        later = await runtime.run(dag, run_id="r")
        await agree(runtime, later)
    assert (later["b"], dict(later.tasks), later.started_at) == ("ab", dict(first.tasks), first.started_at)
    assert probe.notes == ["a", "b"]


async def test_a_failed_run_raises_its_stored_error_again(open_store: Callable[[], Store]) -> None:
    """With the recorded reason; the original exception is a cause only where it happened."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def bad() -> None:
        probe.note("bad")
        raise ValueError("why")

    for _ in range(2):
        async with Runtime(open_store()) as runtime:
            for _ in range(2):
                with pytest.raises(RunFailedError, match="run 'r' of DAG 'd' failed") as failed:
                    await runtime.run(dag, run_id="r")
                assert [str(error) for error in failed.value.exceptions] == ["task 'bad' failed in attempt 1: ValueError: why"]
                await agree(runtime, failed.value.result)
            result = await runtime.run(dag, run_id="r", raise_on_failure=False)
            assert result.state is RunState.FAILED
    assert probe.notes == ["bad"]


async def test_a_cancelled_run_raises_that_it_was(open_store: Callable[[], Store]) -> None:
    """Also when it is asked for again; only `resume` takes it up."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("a")
        await handle.cancel()
        for wait in (handle.result(), runtime.run(dag, run_id="r"), runtime.run(dag, run_id="r", raise_on_failure=False)):
            with pytest.raises(RunCancelledError, match="'r' was cancelled"):
                await wait
        await runtime.cancel("r")
        probe.let_go("a")
        assert (await runtime.resume("r", dag))["b"] == "ab"
    assert probe.notes == ["a", "a", "b"]


async def test_a_running_run_is_joined(open_store: Callable[[], Store]) -> None:
    """All callers get the one result."""
    probe, results = Probe(), list["RunResult"]()
    dag = chain_of(probe, "a", held="a")

    async def join() -> None:
        results.append(await runtime.run(dag, run_id="r"))

    async with Runtime(open_store()) as runtime:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(join)
            await probe.reach("a")
            await anyio.wait_all_tasks_blocked()
            probe.let_go("a")
        assert [result["a"] for result in results] == ["a"] * 5
        assert len(await runtime.runs()) == 1
    assert probe.notes == ["a"]


async def test_cancelling_a_joined_call_only_leaves_it(open_store: Callable[[], Store]) -> None:
    """The run goes on for whoever started it."""
    probe = Probe()
    dag = chain_of(probe, "a", held="a")
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("a")
        with anyio.move_on_after(0.01) as scope:
            await runtime.run(dag, run_id="r")
        assert scope.cancelled_caught
        with anyio.move_on_after(0.01) as scope:
            await handle.result()
        assert scope.cancelled_caught
        probe.let_go("a")
        assert (await handle.result())["a"] == "a"


async def test_an_interrupted_run_is_resumed(open_store: Callable[[], Store]) -> None:
    """What had finished is not run again."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", "c", held="b")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("b")
    probe.let_go("b")
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        await agree(runtime, result)
    assert result["c"] == "abc"
    assert probe.notes == ["a", "b", "b", "c"]


async def test_another_dag_under_the_id_is_a_conflict(open_store: Callable[[], Store]) -> None:
    """Whatever state the run is in."""
    async with Runtime(open_store()) as runtime:
        await runtime.run(chain_of(Probe(), "a"), run_id="r")
        other = chain_of(Probe(), "a", dag_id="other")
        for ask in (runtime.run(other, run_id="r"), runtime.start(other, run_id="r"), runtime.resume("r", other)):
            with pytest.raises(RunIdConflictError, match="belongs to a run of DAG 'chain', not 'other'"):
                await ask


async def test_other_params_under_the_id_are_a_conflict(open_store: Callable[[], Store]) -> None:
    """The same params in another order, or a default spelt out, are the same params."""
    dag = DAG("d", params={"c": 3})

    @dag.task
    async def add(a: int, b: int, c: int) -> int:
        return a + b + c

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag, params={"a": 1, "b": 2}, run_id="r"))[add] == 6
        for same in ({"b": 2, "a": 1}, {"a": 1, "b": 2, "c": 3}):
            assert (await runtime.run(dag, params=same, run_id="r"))[add] == 6
        for other in ({"a": 1, "b": 3}, {"a": 1, "b": 2, "c": 4}, {"a": True, "b": 2}):
            with pytest.raises(RunIdConflictError, match="with other params"):
                await runtime.run(dag, params=other, run_id="r")


async def test_a_pruned_or_deleted_run_refuses_silent_reexecution(open_store: Callable[[], Store]) -> None:
    """Its id stays taken."""
    probe = Probe()
    dag = chain_of(probe, "a")
    async with Runtime(open_store(), max_runs_per_dag=1) as runtime:
        await runtime.run(dag, run_id="pruned")
        await runtime.run(dag, run_id="deleted")
        await runtime.delete_run("deleted")
    async with Runtime(open_store()) as runtime:
        for run_id in ("pruned", "deleted"):
            with pytest.raises(RunIdConflictError, match="pruned or deleted, and is not used twice"):
                await runtime.run(dag, run_id=run_id)
            for ask in (runtime.get_run(run_id), runtime.resume(run_id, dag), runtime.retry(run_id, "a", dag)):
                with pytest.raises(RunNotFoundError):
                    await ask
    assert probe.notes == ["a", "a"]


async def test_two_calls_at_once_with_one_id_are_one_run(open_store: Callable[[], Store]) -> None:
    """Neither finds nothing."""
    probe, results = Probe(), list["RunResult"]()
    dag = chain_of(probe, "a", "b")

    async def call() -> None:
        results.append(await runtime.run(dag, run_id="r"))

    async with Runtime(open_store()) as runtime, anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(call)
    assert [result["b"] for result in results] == ["ab"] * 10
    assert probe.notes == ["a", "b"]


async def test_fresh_ids_are_unlike_and_sort_by_age(open_store: Callable[[], Store]) -> None:
    """A run without an id gets one."""
    dag = chain_of(Probe(), "a")
    async with Runtime(open_store()) as runtime:
        ids = [(await runtime.run(dag)).run_id for _ in range(20)]
        assert len(set(ids)) == 20
        assert [run.run_id for run in await runtime.runs()] == ids[::-1]


@pytest.mark.parametrize("run_id", ["", "a/b", "../x", "-x", "a\n", "é", "x" * 251, "\ud800"], ids=ascii)
async def test_illegal_ids_are_refused_before_anything_happens(open_store: Callable[[], Store], run_id: str) -> None:
    """By every method that takes one."""
    dag = chain_of(Probe(), "a")
    async with Runtime(open_store()) as runtime:
        asks: list[Any] = [
            runtime.run(dag, run_id=run_id),
            runtime.start(dag, run_id=run_id),
            runtime.resume(run_id, dag),
            runtime.retry(run_id, "a", dag),
            runtime.cancel(run_id),
            runtime.get_run(run_id),
            runtime.task_instances(run_id),
            runtime.delete_run(run_id),
        ]
        for ask in asks:
            with pytest.raises(InvalidIdError):
                await ask
        with pytest.raises(InvalidIdError):
            runtime.events(run_id)
        assert await runtime.runs() == []


async def test_an_unknown_run_is_not_found_with_near_names(open_store: Callable[[], Store]) -> None:
    """By every method that asks for one."""
    dag = chain_of(Probe(), "a")
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="monday-1")
        asks: list[Any] = [
            runtime.resume("monday-2", dag),
            runtime.retry("monday-2", "a", dag),
            runtime.cancel("monday-2"),
            runtime.get_run("monday-2"),
            runtime.task_instances("monday-2"),
            runtime.delete_run("monday-2"),
            anext(aiter(runtime.events("monday-2"))),
        ]
        for ask in asks:
            with pytest.raises(RunNotFoundError, match=r"no run 'monday-2' in this store; did you mean 'monday-1'\?"):
                await ask


async def test_a_bad_dag_or_bad_params_leave_no_trace(open_store: Callable[[], Store]) -> None:
    """Every problem is listed, and nothing is recorded."""
    dag = DAG("d")

    @dag.task
    async def needs(path: str, other: int) -> None:
        raise AssertionError((path, other))

    async with Runtime(open_store()) as runtime:
        with pytest.raises(DAGValidationError) as bad:
            await runtime.run(dag, params={"pth": "x"}, run_id="r")
        assert len(bad.value.problems) >= 2
        assert await runtime.runs() == []


async def test_start_returns_once_the_run_is_recorded_and_the_handle_leads_to_it(open_store: Callable[[], Store]) -> None:
    """id, result, cancel, events; the run is the runtime's, whatever becomes of the handle."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="a")
    async with Runtime(open_store()) as runtime:
        handle: RunHandle | None = await runtime.start(dag, run_id="r")
        assert handle is not None
        assert (handle.run_id, repr(handle)) == ("r", "<RunHandle 'r'>")
        assert (await runtime.get_run("r")).state is RunState.RUNNING
        await probe.reach("a")
        handle = None
        probe.let_go("a")
        joined = await runtime.start(dag, run_id="r")
        kinds = [type(event).__name__ async for event in joined.events()]
        assert (kinds[0], kinds[-1]) == ("RunStarted", "RunFinished")
        assert (await joined.result())["b"] == "ab"
        await joined.cancel()
        assert (await runtime.get_run("r")).state is RunState.SUCCESS


async def test_a_failed_runs_handle_raises_unless_told_not_to(open_store: Callable[[], Store]) -> None:
    """As `run` does."""
    dag = DAG("d")

    @dag.task
    async def bad() -> None:
        raise ValueError("no")

    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag)
        with pytest.raises(RunFailedError):
            await handle.result()
        assert (await handle.result(raise_on_failure=False)).state is RunState.FAILED


async def test_recover_goes_on_with_all_interrupted_runs_of_the_dags_given(open_store: Callable[[], Store]) -> None:
    """Oldest first; not those of other DAGs, nor finished, failed or cancelled ones."""
    probe = Probe()
    dag, other = chain_of(probe, "a", "b", held="a"), chain_of(probe, "x", "y", held="x", dag_id="other")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        for run_id in ("r1", "r2", "r3"):
            await runtime.start(dag, run_id=run_id)
        await runtime.start(other, run_id="o1")
        await probe.reach("x")
        await runtime.cancel("r2")
    probe.let_go("a")
    async with Runtime(open_store()) as runtime:
        handles = await runtime.recover([dag])
        assert [handle.run_id for handle in handles] == ["r1", "r3"]
        assert [(await handle.result())["b"] for handle in handles] == ["ab", "ab"]
        states = {run.run_id: str(run.state) for run in await runtime.runs()}
        assert states == {"r1": "success", "r2": "cancelled", "r3": "success", "o1": "interrupted"}
        assert await runtime.recover([dag]) == []


async def test_a_runtime_is_used_while_it_is_entered(tmp_path: Path) -> None:
    """Before, after and twice it says so; a read-only store runs nothing."""
    dag = chain_of(Probe(), "a")
    runtime = Runtime(tmp_path / "runs.db")
    with pytest.raises(RuntimeClosedError):
        await runtime.run(dag)
    async with runtime:
        await runtime.run(dag, run_id="r")
    for ask in (runtime.run(dag), runtime.get_run("r")):
        with pytest.raises(RuntimeClosedError):
            await ask
    with pytest.raises(RuntimeClosedError, match="entered once"):
        await runtime.__aenter__()
    async with Runtime(SqliteStore(tmp_path / "runs.db", read_only=True)) as reader:
        assert (await reader.get_run("r")).state is RunState.SUCCESS
        with pytest.raises(StoreReadOnlyError):
            await reader.run(dag, run_id="r2")


async def test_a_handle_kept_beyond_its_runtime_tells_how_its_run_stopped(open_store: Callable[[], Store]) -> None:
    """Somebody waiting for a run that the runtime interrupted is told so."""
    probe, told = Probe(), list[BaseException]()
    dag = chain_of(probe, "a", held="a")

    async def wait(handle: RunHandle) -> None:
        try:
            await handle.result()
        except RunInterruptedError as error:
            told.append(error)

    async with anyio.create_task_group() as tasks, Runtime(open_store(), on_exit="interrupt") as runtime:
        tasks.start_soon(wait, await runtime.start(dag, run_id="r"))
        await probe.reach("a")
        await anyio.wait_all_tasks_blocked()
    assert [str(error) for error in told] == [
        "run 'r' was interrupted (its runtime was left); runtime.resume() takes it up again"
    ]


async def test_a_cancellation_that_comes_while_the_end_is_recorded_is_not_lost() -> None:
    """A run that came to rest as interrupted before it heard of the cancellation is cancelled on record."""
    probe = Probe()
    dag = chain_of(probe, "a", held="a")
    store = FaultyStore(MemoryStore())
    async with Runtime(store) as runtime, anyio.create_task_group() as tasks:
        caller = anyio.CancelScope()

        async def call() -> None:
            with caller:
                await runtime.run(dag, run_id="r")

        tasks.start_soon(call)
        await probe.reach("a")
        await anyio.wait_all_tasks_blocked()
        store.writes.shut()
        caller.cancel()
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(runtime.cancel, "r")
        await anyio.wait_all_tasks_blocked()
        store.writes.open()
    async with Runtime(store) as runtime:
        assert (await runtime.get_run("r")).state is RunState.CANCELLED


async def test_a_stored_failure_is_told_whatever_the_dag_at_hand_has(open_store: Callable[[], Store]) -> None:
    """The task that failed may be gone from it."""
    first, other = DAG("d"), DAG("d")

    @first.task
    async def gone() -> None:
        raise ValueError("once")

    @other.task
    async def new() -> None: ...

    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError):
            await runtime.run(first, run_id="r")
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(other, run_id="r")
    (error,) = failed.value.exceptions
    assert "'gone'" in str(error)
    assert "ValueError: once" in str(error)
