"""The manager: everybody outside a run sees committed values of succeeded attempts, and pushes beside them."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.references import template
from dagrelay.errors import (
    DAGValidationError,
    InvalidIdError,
    RunStateError,
    TaskNotFoundError,
    XComConflictError,
    XComNotFoundError,
    XComSerializationError,
    XComTooLargeError,
    XComTypeError,
)
from dagrelay.model.policies import Limits, XComOptions
from dagrelay.model.states import TaskState
from dagrelay.stores.operations import DeleteRun
from tests.xcom.desk import at_work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagrelay.stores.base import Store


async def test_what_is_pushed_is_pulled(store: Store) -> None:
    """Without any run; a stored None is a value; every puller gets a copy."""
    async with at_work(store) as desk:
        xcom = desk.manager
        entry = await xcom.push("r", "a", "k", {"rows": [1]}, options=XComOptions(description="d"))
        assert (entry.run_id, entry.dag_id, entry.task_id, entry.key) == ("r", None, "a", "k")
        assert (entry.attempt, entry.lifetime, entry.description, entry.size_bytes) == (0, "run", "d", 12)
        one, two = await xcom.pull("r", "a", "k"), await xcom.pull("r", "a", "k")
        assert one == two == {"rows": [1]}
        assert one is not two
        await xcom.push("r", "a", "return_value", None)
        assert await xcom.pull("r", "a", default=1) is None
        assert await xcom.pull("r", "a", "none", default=None) is None
        await xcom.push("r", "a", "day", date(2024, 1, 2))
        assert await xcom.pull("r", "a", "day", as_type=date) == date(2024, 1, 2)
        with pytest.raises(XComTypeError):
            await xcom.pull("r", "a", "day", as_type=int)


async def test_a_push_is_a_snapshot(memory: Store) -> None:
    """Taken at the call, before anything is waited for."""
    async with at_work(memory) as desk:
        value = [1]
        desk.store.reads.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(desk.manager.push, "r", "a", "k", value)
            await anyio.wait_all_tasks_blocked()
            value.append(2)
            desk.store.reads.open()
        assert await desk.manager.pull("r", "a", "k") == [1]


async def test_the_run_is_named_where_there_is_one(store: Store) -> None:
    """Looked up once."""
    async with at_work(store) as desk:
        run = await desk.enter()
        assert (await desk.manager.push("run", "a", "k", 1)).dag_id == "dag"
        await run.end()
        reads = store.statistics().reads
        assert (await desk.manager.push("run", "a", "k", 1)).dag_id == "dag"
        assert (await desk.manager.push("run", "a", "k", 1)).dag_id == "dag"
        assert store.statistics().reads == reads + 1


async def test_map_indices_are_apart(store: Store) -> None:
    """And none is none."""
    async with at_work(store) as desk:
        for index in (None, 0, 7):
            await desk.manager.push("r", "a", "k", index, map_index=index)
        for index in (None, 0, 7):
            assert await desk.manager.pull("r", "a", "k", map_index=index) == index
        with pytest.raises(XComNotFoundError):
            await desk.manager.pull("r", "a", "k", map_index=1)


@pytest.mark.parametrize("index", [-1, True, 1.0, "1"])
async def test_what_is_no_map_index_is_refused(memory: Store, index: Any) -> None:
    """On writes and reads; -1 must not pass for an unmapped task."""
    async with at_work(memory) as desk:
        with pytest.raises(InvalidIdError, match="map index"):
            await desk.manager.push("r", "a", "k", 1, map_index=index)
        with pytest.raises(InvalidIdError, match="map index"):
            await desk.manager.pull("r", "a", "k", map_index=index)


@pytest.mark.parametrize(("run_id", "task_id", "key"), [("a/b", "a", "k"), ("r", "..", "k"), ("r", "a", "\n"), (1, "a", "k")])
async def test_ids_are_checked_everywhere(memory: Store, run_id: Any, task_id: str, key: str) -> None:
    """Never repaired; nothing is stored or read."""
    async with at_work(memory) as desk:
        xcom = desk.manager
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: xcom.push(run_id, task_id, key, 1),
            lambda: xcom.pull(run_id, task_id, key),
            lambda: xcom.delete(run_id, task_id, key),
            lambda: xcom.pull_many(run_id, [(task_id, key)]),
        ]
        if key == "k":
            calls += [lambda: xcom.list(run_id, task_id), lambda: xcom.pull_from_upstream(run_id, task_id, DAG("d"))]
        for call in calls:
            with pytest.raises(InvalidIdError):
                await call()
        assert desk.store.batches == []
        assert desk.store.lookups == []


async def test_values_that_can_not_be_stored_are_refused(memory: Store) -> None:
    """Before anything happens."""
    async with at_work(memory, limits=Limits(max_xcom_bytes=10, max_run_xcom_bytes=12)) as desk:
        with pytest.raises(XComSerializationError):
            await desk.manager.push("r", "a", "k", float("nan"))
        with pytest.raises(XComTooLargeError):
            await desk.manager.push("r", "a", "k", "x" * 9)
        assert desk.store.batches == []
        await desk.manager.push("r", "a", "k", "x" * 8)
        with pytest.raises(XComTooLargeError, match="the values of run 'r'"):
            await desk.manager.push("r", "a", "l", "xx")


async def test_outside_pushes_yield_to_succeeded_attempts(store: Store) -> None:
    """They are seen at once, survive retries, and never replace a finished task's return value."""
    async with at_work(store) as desk:
        run, xcom = await desk.enter(), desk.manager
        await xcom.push("run", "a", "k", 0)
        run.finish("a", state=TaskState.UP_FOR_RETRY, values={"k": b"1"})
        await desk.broker.barrier()
        assert await xcom.pull("run", "a", "k") == 0
        run.finish("a", 2, values={"k": b"2", "return_value": b"2"})
        await desk.broker.barrier()
        assert await xcom.pull("run", "a", "k") == 2
        assert await xcom.pull("run", "a") == 2
        await xcom.push("run", "a", "other", 1)
        with pytest.raises(XComConflictError, match="'a' of run 'run' has finished"):
            await xcom.push("run", "a", "return_value", 1)
        assert await xcom.pull("run", "a") == 2


async def test_values_not_committed_yet_are_not_seen(memory: Store) -> None:
    """Everything outside the run sees committed values only."""
    async with at_work(memory) as desk:
        run = await desk.enter(is_pipelined=True)
        desk.store.writes.shut()
        run.finish("a", values={"k": b"1"})
        assert await desk.manager.pull("run", "a", "k", default="nothing yet") == "nothing yet"
        desk.store.writes.open()
        await desk.broker.barrier()
        assert await desk.manager.pull("run", "a", "k") == 1


async def test_many_are_one_read(store: Store) -> None:
    """Those that are there; of a task that lacks one it is looked up, once, whether it is mapped."""
    async with at_work(store) as desk:
        await desk.manager.push("r", "a", "k", 1)
        await desk.manager.push("r", "b", "l", None)
        reads = store.statistics().reads
        assert await desk.manager.pull_many("r", [("a", "k"), ("b", "l"), ("a", "k")]) == {("a", "k"): 1, ("b", "l"): None}
        assert store.statistics().reads == reads + 1
        assert await desk.manager.pull_many("r", [("b", "k"), ("a", "k"), ("b", "m"), ("b", "k")]) == {("a", "k"): 1}
        assert store.statistics().reads == reads + 3
        assert await desk.manager.pull_many("r", []) == {}


async def test_deletions_are_counted(store: Store) -> None:
    """Of every attempt and index."""
    async with at_work(store) as desk:
        run, xcom = await desk.enter(), desk.manager
        for index in (None, 0, 1):
            await xcom.push("run", "a", "k", 1, map_index=index)
        await xcom.push("run", "a", "l", 1)
        run.finish("a", values={"k": b"1"})
        await desk.broker.barrier()
        assert await xcom.delete("run", "a", "none") == 0
        assert await xcom.delete("none", "a") == 0
        assert await xcom.delete("run", "a", "k") == 4
        assert await xcom.delete("run", "a") == 1
        assert await xcom.list("run", all_attempts=True) == []


async def test_lists_show_what_everybody_sees(store: Store) -> None:
    """Or all attempts with their states; by task, prefix, with values."""
    async with at_work(store) as desk:
        run, xcom = await desk.enter(tasks="ab"), desk.manager
        await xcom.push("run", "a", "k", 0)
        await xcom.push("run", "b", "secret", "s3cret", options=XComOptions(sensitive=True))
        run.finish("a", state=TaskState.UP_FOR_RETRY, values={"k": b"1", "l": b"1"})
        run.finish("a", 2, values={"k": b"2"})
        await desk.broker.barrier()

        shown = await xcom.list("run")
        assert [(entry.task_id, entry.key, entry.attempt, entry.value) for entry in shown] == [
            ("a", "k", 2, None),
            ("b", "secret", 0, None),
        ]
        assert [entry.key for entry in await xcom.list("run", "a")] == ["k"]
        assert [entry.key for entry in await xcom.list("run", prefix="se")] == ["secret"]
        valued = await xcom.list("run", include_values=True)
        assert [(entry.key, entry.value, entry.sensitive) for entry in valued] == [("k", 2, False), ("secret", None, True)]
        everything = await xcom.list("run", "a", all_attempts=True, include_values=True)
        assert [(entry.key, entry.attempt, entry.state, entry.value) for entry in everything] == [
            ("k", 0, None, 0),
            ("k", 1, TaskState.UP_FOR_RETRY, 1),
            ("k", 2, TaskState.SUCCESS, 2),
            ("l", 1, TaskState.UP_FOR_RETRY, 1),
        ]
        assert await xcom.list("none") == []


# -------------------------------------------------------------------------------------------------------- not found


async def test_what_is_missing_is_told_with_all_that_helps(store: Store) -> None:
    """Run, task, key, the task's state, and near keys."""
    async with at_work(store) as desk:
        run, xcom = await desk.enter(tasks=["load", "stats"]), desk.manager
        run.finish("load", state=TaskState.FAILED)
        await desk.broker.barrier()
        await xcom.push("run", "load", "row_count", 1)
        with pytest.raises(XComNotFoundError) as caught:
            await xcom.pull("run", "load", "row_cuont")
        error = caught.value
        assert (error.run_id, error.task_id, error.key, error.state) == ("run", "load", "row_cuont", "failed")
        assert error.near == ("row_count",)
        assert str(error) == ("no XCom 'row_cuont' of task 'load' in run 'run' (the task is failed); did you mean 'row_count'?")


async def test_a_task_that_did_not_start_yet_is_pending(store: Store) -> None:
    """It is a task of the run all the same."""
    async with at_work(store) as desk:
        await desk.enter(tasks=["load", "stats"])
        with pytest.raises(XComNotFoundError, match=r"\(the task is pending\)"):
            await desk.manager.pull("run", "stats")


async def test_a_task_that_the_run_does_not_have_is_told_with_near_ones(store: Store) -> None:
    """By the run's plan."""
    async with at_work(store) as desk:
        await desk.enter(tasks=["load", "stats"])
        with pytest.raises(XComNotFoundError, match=r"the run has no such task\); did you mean 'stats'\?"):
            await desk.manager.pull("run", "stast")
        await desk.manager.push("run", "extra", "k", 1)
        with pytest.raises(XComNotFoundError, match=r"the run has no such task\); did you mean 'k'\?"):
            await desk.manager.pull("run", "extra", "kk")


async def test_a_run_that_is_not_there_is_told(store: Store) -> None:
    """Near keys too, where somebody pushed some."""
    async with at_work(store) as desk:
        with pytest.raises(XComNotFoundError, match="there is no run 'nope'"):
            await desk.manager.pull("nope", "a")
        await desk.manager.push("nope", "a", "key", 1)
        with pytest.raises(XComNotFoundError, match=r"did you mean 'key'\?; there is no run 'nope'"):
            await desk.manager.pull("nope", "a", "kex")


async def test_a_deleted_run_takes_no_pushes(store: Store) -> None:
    """Its id stays taken."""
    async with at_work(store) as desk:
        run = await desk.enter()
        await run.end()
        await desk.broker.write(DeleteRun(run_id="run", at_us=1))
        with pytest.raises(RunStateError):
            await desk.manager.push("run", "a", "k", 1)


# --------------------------------------------------------------------------------------------------------- upstream


def new_dag() -> DAG:
    """Return a chain and a stranger."""
    dag = DAG("dag")

    async def nothing() -> None:
        """Do nothing."""

    for task_id in ("one", "two", "three", "stranger"):
        dag.add(nothing, id=task_id)
    dag.chain(dag.tasks["one"], dag.tasks["two"], dag.tasks["three"])
    return dag


async def test_upstream_values_come_in_topological_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that everybody sees, of all upstreams or the direct ones; those without any are there too."""
    monkeypatch.setattr("dagrelay.xcom.manager._READ_CHUNK", 1)
    async with at_work(store) as desk:
        run = await desk.enter(tasks=["one", "two", "three", "stranger"])
        for number, task_id in enumerate(("stranger", "one")):
            run.finish(task_id, values={"k": b"%d" % number, "return_value": b"null"})
        run.finish("two", state=TaskState.FAILED, values={"k": b"7"})
        await desk.broker.barrier()
        dag, pull = new_dag(), desk.manager.pull_from_upstream
        found = await pull("run", "three", dag)
        assert found == {"one": {"k": 1, "return_value": None}, "two": {}}
        assert list(found) == ["one", "two"]
        assert await pull("run", "three", dag, direct=True) == {"two": {}}
        assert await pull("run", "one", dag) == {}


async def test_upstream_values_go_by_the_runtimes_plan(memory: Store) -> None:
    """A DAG planned under the runtime's limits stays so, and one that only these allow is no error."""
    limits = Limits(max_template_chars=2_000_000)
    dag = new_dag()
    large = DAG("large")

    @large.task
    async def long(text: str = template("x" * 1_500_000)) -> str:
        return text

    async with at_work(memory, limits=limits) as desk:
        plan = dag.plan(limits=limits)
        assert await desk.manager.pull_from_upstream("run", "one", dag) == {}
        assert dag.plan(limits=limits) is plan
        assert await desk.manager.pull_from_upstream("run", long.id, large) == {}


async def test_upstream_of_what_the_dag_does_not_have_is_an_error(memory: Store) -> None:
    """With near names; a bad DAG is told as such."""
    async with at_work(memory) as desk:
        with pytest.raises(TaskNotFoundError, match="did you mean 'three'"):
            await desk.manager.pull_from_upstream("run", "thre", new_dag())
        bad = new_dag()
        bad.chain(bad.tasks["three"], bad.tasks["one"])
        with pytest.raises(DAGValidationError):
            await desk.manager.pull_from_upstream("run", "three", bad)
