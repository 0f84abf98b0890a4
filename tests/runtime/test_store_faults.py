"""A store that fails in mid-run (G28): nothing hangs, nobody is blamed, and the run goes on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    RunFinished,
    RunState,
    Runtime,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    TaskContext,
    TaskState,
    TaskStateChanged,
    TriggerRule,
)
from tests.runtime.failing import Faults, failing_stores
from tests.runtime.probes import PATIENCE_S, Probe, agree, retried

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay import Durability

pytestmark = pytest.mark.parametrize("kind", ["memory", "sqlite"])


def work(probe: Probe) -> DAG:
    """Return a DAG with fan-out, a retry, a failure, a clean-up, pushes and checkpoints."""
    dag = DAG("work")

    @dag.task
    async def root(ctx: TaskContext) -> int:
        probe.note("root")
        await ctx.xcom.push("k", "root's")
        return 1

    async def side(ctx: TaskContext) -> str:
        probe.note(ctx.task_id)
        await anyio.lowlevel.checkpoint()
        return f"{ctx.task_id} {await ctx.xcom.pull('root')}"

    for task_id in ("left", "right"):
        dag.add(side, id=task_id, depends_on=root)

    @dag.task(retries=retried(1), depends_on=root)
    async def flaky(ctx: TaskContext) -> str:
        probe.note("flaky")
        await ctx.xcom.push("seen", ctx.attempt, lifetime="task")
        if await ctx.xcom.pull("root", "k") and not probe.door("failed").is_set():
            probe.open("failed")
            raise ValueError("once")
        return "flaky"

    @dag.task(depends_on=["left", "right", flaky], trigger_rule=TriggerRule.ALL_DONE)
    async def join(ctx: TaskContext) -> dict[str, Any]:
        probe.note("join")
        return await ctx.xcom.pull(["left", "right", "flaky"])

    del join
    return dag


EXPECTED = {"left": "left 1", "right": "right 1", "flaky": "flaky"}


async def committed(runtime: Runtime) -> set[str]:
    """Return the tasks whose success is stored."""
    if not await runtime.runs():
        return set()
    return {row.task_id for row in await runtime.task_instances("r", state=TaskState.SUCCESS)}


async def check_going_on(runtime: Runtime, dag: DAG, probe: Probe) -> None:
    """Run the DAG to its end, and check that what was committed is not done again and all is as in an undisturbed run."""
    done = await committed(runtime)
    for row in await runtime.task_instances("r") if await runtime.runs() else []:
        assert row.state is not TaskState.FAILED
    before = probe.counts
    result = await runtime.run(dag, run_id="r")
    await agree(runtime, result)
    assert result["join"] == EXPECTED
    assert result.state is RunState.SUCCESS
    assert {task_id for task_id in done if probe.counts[task_id] != before[task_id]} == set()
    values = [(row.task_id, row.key, row.value) for row in await runtime.xcom.list("r", include_values=True) if row.key != "seen"]
    assert sorted(values, key=str) == sorted(
        [
            ("root", "k", "root's"),
            ("root", "return_value", 1),
            ("left", "return_value", "left 1"),
            ("right", "return_value", "right 1"),
            ("flaky", "return_value", "flaky"),
            ("join", "return_value", EXPECTED),
        ],
        key=str,
    )


async def run_with_fault(runtime: Runtime, dag: DAG, faults: Faults) -> None:
    """Run the DAG while a fault is planted: it completes, or raises that fault as its very own kind of error."""
    raised: StoreError | None = None
    try:
        result = await runtime.run(dag, run_id="r")
        assert result["join"] == EXPECTED
    except StoreError as error:
        raised = error
    if raised is not None:
        assert type(raised) is (StoreFullError if faults.is_full else StoreError)
        assert "planted" in str(raised)
        assert faults.fired


@pytest.mark.parametrize("is_for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("where", ["same runtime", "later runtime"])
async def test_a_write_that_fails_at_any_place_stops_the_run_and_it_goes_on_later(
    kind: str, tmp_path: Path, durability: Durability, is_for_ever: bool, where: str
) -> None:
    """For every n until no fault fires: `run` raises that error (or completes), and the run can be taken up again."""
    first = 0
    while True:
        first += 1
        assert first < 60
        probe, faults = Probe(), Faults()
        dag = work(probe)
        open_store = failing_stores(kind, tmp_path / f"{first}.db", faults)
        with anyio.fail_after(PATIENCE_S):
            async with Runtime(open_store(), durability=durability) as runtime:
                faults.arm(first, is_for_ever=is_for_ever, is_full=bool(first % 2))
                await run_with_fault(runtime, dag, faults)
                faults.disarm()
                if where == "same runtime":
                    await check_going_on(runtime, dag, probe)
            async with Runtime(open_store()) as runtime:
                await check_going_on(runtime, dag, probe)
        if not faults.fired:
            break
    assert first > 3


async def test_a_fault_is_raised_by_the_push_it_hit_and_consumes_no_retry(
    kind: str, tmp_path: Path, durability: Durability
) -> None:
    """Even by a handler that goes on as if nothing had been: its outcome would not be stored either."""
    dag, probe, faults = DAG("d"), Probe(), Faults()

    @dag.task(retries=retried(5))
    async def task(ctx: TaskContext) -> str:
        probe.note(ctx.attempt)
        if ctx.attempt == 1:
            await ctx.xcom.push("before", 1)
            faults.arm(1, is_for_ever=False, is_full=True)
            with pytest.raises(StoreFullError):
                await ctx.xcom.push("k", 1)
            probe.note("went on")
        return "done"

    async with Runtime(failing_stores(kind, tmp_path / "runs.db", faults)(), durability=durability) as runtime:
        with anyio.fail_after(PATIENCE_S), pytest.raises(StoreFullError):
            await runtime.run(dag, run_id="r")
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        (row,) = await runtime.task_instances("r")
        assert row.state is TaskState.INTERRUPTED
        assert (await runtime.resume("r", dag))[task] == "done"
        states = [event.state async for event in runtime.events("r") if isinstance(event, TaskStateChanged)]
    assert TaskState.UP_FOR_RETRY not in states
    assert probe.notes == [1, "went on", 2]


async def test_a_run_beside_one_whose_write_was_refused_goes_on(kind: str, tmp_path: Path, durability: Durability) -> None:
    """A fault that has passed concerns only those whose writes it hit."""
    dag, other, probe, faults = DAG("d"), DAG("other"), Probe(), Faults()

    @dag.task
    async def hit(ctx: TaskContext) -> None:
        await probe.hold("hit")
        faults.arm(1, is_for_ever=False, is_full=True)
        await ctx.xcom.push("k", 1)

    @other.task
    async def waits() -> str:
        await probe.hold("waits")
        return "unhurt"

    async with Runtime(failing_stores(kind, tmp_path / "runs.db", faults)(), durability=durability) as runtime:
        unhurt = await runtime.start(other)
        struck = await runtime.start(dag)
        await probe.reach("waits")
        probe.let_go("hit")
        with anyio.fail_after(PATIENCE_S), pytest.raises(StoreFullError):
            await struck.result()
        probe.let_go("waits")
        with anyio.fail_after(PATIENCE_S):
            assert (await unhurt.result())[waits] == "unhurt"


@pytest.mark.parametrize("what", ["input", "pull"])
@pytest.mark.parametrize("error", [StoreError, StoreCorruptError], ids=["any", "corrupt"])
async def test_a_fault_of_a_read_is_no_failure_of_the_task(kind: str, tmp_path: Path, what: str, error: type[StoreError]) -> None:
    """No retry is consumed: the run stops with the store's error, and goes on once the store can be read."""
    dag, faults = DAG("d"), Faults()
    bind: dict[str, Any] = {}

    @dag.task(auto_push=False)
    async def source() -> None:
        faults.read_error = error("planted", "row 1") if error is StoreCorruptError else error("planted")

    async def reader(ctx: TaskContext, value: int = 0) -> int:
        total: int = value + await ctx.xcom.pull("source", "none", default=5)
        return total

    if what == "input":
        bind["value"] = source.output_or(1)
    dag.add(reader, id="reader", depends_on=source, bind=bind, retries=retried(3))
    async with Runtime(failing_stores(kind, tmp_path / "runs.db", faults)()) as runtime:
        with anyio.fail_after(PATIENCE_S), pytest.raises(error, match="planted"):
            await runtime.run(dag, run_id="r")
        faults.read_error = None
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        (row,) = await runtime.task_instances("r", task_id="reader")
        assert (row.state, row.attempt) == (TaskState.INTERRUPTED, 1)
        result = await runtime.resume("r", dag)
        assert result["reader"] == (6 if what == "input" else 5)
        await agree(runtime, result)


async def test_a_follower_of_a_run_whose_end_cannot_be_recorded_is_not_left_waiting(
    kind: str, tmp_path: Path, durability: Durability
) -> None:
    """The timeline just ends."""
    dag, probe, faults = DAG("d"), Probe(), Faults()

    @dag.task
    async def task() -> None:
        await probe.hold("task")
        faults.arm(1, is_for_ever=True, is_full=False)

    async with Runtime(failing_stores(kind, tmp_path / "runs.db", faults)(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("task")
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:

                async def follow() -> None:
                    probe.notes.extend([event async for event in handle.events()])

                tasks.start_soon(follow)
                await anyio.wait_all_tasks_blocked()
                probe.let_go("task")
            with pytest.raises(StoreError, match="planted"):
                await handle.result()
        faults.disarm()
    assert not any(isinstance(event, RunFinished) for event in probe.notes)
