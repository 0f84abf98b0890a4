"""Values from outside: given before, while and after they are waited for, in time or too late, once and only once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from dagrelay import (
    DAG,
    Approval,
    Limits,
    MemoryStore,
    RunFailedError,
    RunInterruptedError,
    RunNotFoundError,
    RunStateError,
    Runtime,
    TaskContext,
    TaskNotFoundError,
    TaskState,
    TaskStateChanged,
    XComConflictError,
    XComSerializationError,
    XComTypeError,
)
from dagrelay.runtime.environment import Environment
from dagrelay.runtime.errands import clear_stored
from dagrelay.testing import FaultyStore
from tests.runtime.probes import PATIENCE_S, Probe, reached, time_is_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Store


@dataclass
class Order:
    """A value of a type of its own."""

    item: str
    count: int


def asking(*, timeout_s: float | None = None, probe: Probe | None = None) -> DAG:
    """Return a DAG in which a task uses an order that comes from outside, once `before` has ended."""
    dag = DAG("asking")

    @dag.task
    async def before() -> None:
        if probe is not None:
            probe.note("before")
            await probe.hold("before")

    order = dag.external("order", as_type=Order, timeout_s=timeout_s, depends_on=before)

    @dag.task
    async def use(order: Order = order.output) -> str:
        assert type(order) is Order
        return f"{order.count} {order.item}"

    return dag


async def waits(runtime: Runtime, task_id: str = "order") -> None:
    """Return once a task stands as waiting."""
    with anyio.fail_after(PATIENCE_S):
        await reached(runtime, TaskState.WAITING, task_id)


async def test_a_value_given_while_it_is_waited_for(open_store: Callable[[], Store], durability: Durability) -> None:
    """The task stands as waiting until then, takes no slot, and succeeds with the value, typed."""
    dag = asking()
    async with Runtime(open_store(), durability=durability, max_concurrency=1) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await waits(runtime)
        rows = {row.task_id: row for row in await runtime.task_instances("r")}
        assert str(rows["order"].state) == "waiting"
        assert (rows["order"].attempt, rows["order"].started_at is None) == (1, False)
        assert runtime.statistics().admission.running == 0
        await runtime.provide("r", "order", Order("tea", 2))
        with anyio.fail_after(PATIENCE_S):
            result = await handle.result()
        assert result["use"] == "2 tea"
        assert await result.pull("order") == {"item": "tea", "count": 2}
        assert result.tasks["order"].state is TaskState.SUCCESS
        changes = [event async for event in runtime.events("r") if isinstance(event, TaskStateChanged)]
        assert [str(event.state) for event in changes if event.task_id == "order"] == ["waiting", "success"]


async def test_a_value_given_before_it_is_waited_for(open_store: Callable[[], Store], durability: Durability) -> None:
    """It is taken at once when the task is ready, and seen by nobody before."""
    probe = Probe()
    dag = asking(probe=probe)
    async with Runtime(open_store(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("before")
        await runtime.provide("r", "order", {"item": "tea", "count": 1})
        probe.let_go("before")
        with anyio.fail_after(PATIENCE_S):
            assert (await handle.result())["use"] == "1 tea"


async def test_a_value_is_given_once(open_store: Callable[[], Store]) -> None:
    """A second one is refused, whether the first was taken already or not; and so is one for a task that has ended."""
    probe = Probe()
    dag = asking(probe=probe)
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("before")
        await runtime.provide("r", "order", Order("first", 1))
        with pytest.raises(XComConflictError, match="was given its 'return_value' already"):
            await runtime.provide("r", "order", Order("second", 1))
        probe.let_go("before")
        assert (await handle.result())["use"] == "1 first"
        with pytest.raises(XComConflictError):
            await runtime.provide("r", "order", Order("third", 1))
        assert await runtime.xcom.pull("r", "order", as_type=Order) == Order("first", 1)


async def test_two_at_once_are_given_one(open_store: Callable[[], Store]) -> None:
    """Of many that give a value at one moment, one is taken, and the others are told so."""
    dag = asking()
    told: list[str] = []
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await waits(runtime)

        async def give(number: int) -> None:
            try:
                await runtime.provide("r", "order", Order("tea", number))
                told.append(f"{number} tea")
            except XComConflictError:
                told.append("refused")

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(give, number)
        assert told.count("refused") == 9
        told.remove("refused")
        assert (await handle.result())["use"] in told


async def test_what_is_not_of_the_type_is_refused(open_store: Callable[[], Store]) -> None:
    """The task goes on waiting; what can't be stored is refused too."""
    dag = asking()
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await waits(runtime)
        for wrong in ({"item": "tea"}, {"item": "tea", "count": "2"}, None, Approval(approved=True, by="me")):
            with pytest.raises(XComTypeError):
                await runtime.provide("r", "order", wrong)
        with pytest.raises(XComSerializationError):
            await runtime.provide("r", "order", float("nan"))
        assert str((await runtime.task_instances("r", task_id="order"))[0].state) == "waiting"
        await runtime.provide("r", "order", Order("tea", 2))
        assert (await handle.result())["use"] == "2 tea"


async def test_a_wrong_value_given_while_nobody_runs_fails_the_task(open_store: Callable[[], Store]) -> None:
    """Its type is not known then; the task that finds it tells, and a retry asks anew."""
    dag = asking()
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await waits(runtime)
    async with Runtime(open_store()) as runtime:
        await runtime.provide("r", "order", {"item": 3})
        result = await runtime.resume("r", dag, raise_on_failure=False)
        assert "XComTypeError" in str(result.errors["order"])
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(_give_once_waited, runtime, "order", Order("tea", 2))
                assert (await runtime.retry("r", "order", dag))["use"] == "2 tea"


async def _give_once_waited(runtime: Runtime, task_id: str, value: Any, attempt: int = 2) -> None:
    with anyio.fail_after(PATIENCE_S):
        while not await runtime.runs():
            await anyio.lowlevel.checkpoint()
    for _ in range(100_000):
        (row,) = await runtime.task_instances("r", task_id=task_id)
        if row.state is TaskState.WAITING and row.attempt >= attempt:
            await runtime.provide("r", task_id, value)
            return
        await anyio.lowlevel.checkpoint()
    raise AssertionError("it never waited")


async def test_nobody_else_takes_values_from_outside(open_store: Callable[[], Store]) -> None:
    """An unknown run, an unknown task, a task with a handler; while it runs and afterwards."""
    dag = asking()
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="run")
        for _ in range(2):
            with pytest.raises(RunNotFoundError, match="did you mean 'run'"):
                await runtime.provide("rum", "order", 1)
            with pytest.raises(TaskNotFoundError, match="did you mean 'order'"):
                await runtime.provide("run", "odrer", 1)
            with pytest.raises(RunStateError, match="task 'use' has a handler"):
                await runtime.provide("run", "use", 1)
            if await _is_running(runtime):
                await runtime.provide("run", "order", Order("tea", 1))
            await handle.result()


async def _is_running(runtime: Runtime) -> bool:
    return str((await runtime.get_run("run")).state) == "running"


async def test_an_approval_is_typed(open_store: Callable[[], Store]) -> None:
    """`approved`, `by` and `note`; a refusal fails nothing; and its type is known while nobody runs."""
    dag = DAG("d")
    approval = dag.approval("approve")

    @dag.branch
    async def choose(answer: Approval = approval.output) -> str:
        assert type(answer) is Approval
        return "go" if answer.approved else "stop"

    @dag.task(depends_on=choose)
    async def go(by: str = approval.output.by) -> str:
        return f"by {by}"

    @dag.task(depends_on=choose)
    async def stop(answer: Approval = approval.output) -> str:
        return answer.note

    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await waits(runtime, "approve")
    async with Runtime(open_store()) as runtime:
        with pytest.raises(XComTypeError):
            await runtime.provide("r", "approve", {"approved": "yes"})
        await runtime.provide("r", "approve", Approval(approved=False, by="Ada", note="not yet"))
        result = await runtime.resume("r", dag)
        assert (result[stop], str(result.tasks["go"].state)) == ("not yet", "skipped")
        async with anyio.create_task_group() as group:
            group.start_soon(_give_once_waited, runtime, "approve", {"approved": True, "by": "Bob"})
            again = await runtime.retry("r", "approve", dag)
            assert (again[go], str(again.tasks["stop"].state)) == ("by Bob", "skipped")


# ------------------------------------------------------------------------------------------------------------ deadlines


async def test_a_value_that_does_not_come_in_time(open_store: Callable[[], Store], durability: Durability) -> None:
    """The task fails by a timeout that names it; a value afterwards is refused; a retry waits the whole time again."""
    dag = asking(timeout_s=3600)
    async with Runtime(open_store(), durability=durability) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await waits(runtime)
        time_is_up(runtime)
        with pytest.raises(RunFailedError) as failed, anyio.fail_after(PATIENCE_S):
            await handle.result()
        told = "TaskTimeoutError: no value came from outside for attempt 1 of task 'order' within timeout_s=3600"
        assert told in str(failed.value.exceptions[0])
        with pytest.raises(XComConflictError):
            await runtime.provide("r", "order", Order("tea", 1))
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as group:
                group.start_soon(_give_once_waited, runtime, "order", Order("tea", 2))
                assert (await runtime.retry("r", "order", dag))["use"] == "2 tea"


async def test_a_value_on_its_way_when_time_is_up_is_taken() -> None:
    """Whoever gave it is told that it is stored; the task must not fail for want of it."""
    store, dag = FaultyStore(MemoryStore()), asking(timeout_s=3600)
    async with Runtime(store) as runtime, anyio.create_task_group() as group:
        handle = await runtime.start(dag, run_id="r")
        await waits(runtime)
        store.writes.shut()
        group.start_soon(runtime.provide, "r", "order", Order("tea", 3))
        await anyio.wait_all_tasks_blocked()
        time_is_up(runtime)
        await anyio.wait_all_tasks_blocked()
        store.writes.open()
        with anyio.fail_after(PATIENCE_S):
            assert (await handle.result())["use"] == "3 tea"


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        """Start long ago."""
        self.now = 1_700_000_000_000_000

    def __call__(self) -> int:
        """Return the time."""
        self.now += 1
        return self.now


def at(runtime: Runtime, clock: Clock) -> Runtime:
    """Return a runtime that goes by a clock."""
    runtime._environment = Environment(now_us=clock)  # pyright: ignore[reportPrivateUsage] - simulations inject it likewise
    return runtime


@pytest.mark.parametrize("is_given", [True, False], ids=["given", "not given"])
@pytest.mark.parametrize("slept_s", [30, 90])
async def test_a_deadline_is_absolute(open_store: Callable[[], Store], slept_s: int, is_given: bool) -> None:
    """It survives restarts, as often as there are; a value that came while nobody ran wins over a deadline passed meanwhile."""
    dag, clock = asking(timeout_s=60), Clock()
    async with at(Runtime(open_store(), on_exit="interrupt"), clock) as runtime:
        await runtime.start(dag, run_id="r")
        await waits(runtime)
    for _ in range(3):
        clock.now += slept_s * 250_000
        async with at(Runtime(open_store(), on_exit="interrupt"), clock) as runtime:
            if is_given:
                break
            handle = await runtime.start(dag, run_id="r")
            await anyio.wait_all_tasks_blocked()
    clock.now += slept_s * (1_000_000 if is_given else 250_000)
    async with at(Runtime(open_store()), clock) as runtime:
        if is_given:
            await runtime.provide("r", "order", Order("tea", 3))
        handle = await runtime.start(dag, run_id="r")
        if is_given:
            assert (await handle.result())["use"] == "3 tea"
        elif slept_s > 60:
            with pytest.raises(RunFailedError, match="failed"), anyio.fail_after(PATIENCE_S):
                await handle.result()
        else:
            await waits(runtime)
            delays = [due - anyio.current_time() for due, _, timer in _timers(runtime) if not timer.is_cancelled]
            assert max(delays) < 60 - slept_s + 1
            await runtime.provide("r", "order", Order("tea", 4))
            assert (await handle.result())["use"] == "4 tea"


def _timers(runtime: Runtime) -> list[Any]:
    return list(runtime._opened().services.timers._heap)  # pyright: ignore[reportPrivateUsage] - as `time_is_up` does


async def test_the_deadline_begins_when_the_task_is_ready(open_store: Callable[[], Store]) -> None:
    """Not when the run starts."""
    probe, clock = Probe(), Clock()
    dag = asking(timeout_s=60, probe=probe)
    async with at(Runtime(open_store()), clock) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("before")
        clock.now += 90_000_000
        probe.let_go("before")
        await waits(runtime)
        await runtime.provide("r", "order", Order("tea", 1))
        assert (await handle.result())["use"] == "1 tea"


# ----------------------------------------------------------------------------------------------- stopped and taken up


@pytest.mark.parametrize("how", ["interrupt", "cancel", "wind_down"])
@pytest.mark.parametrize("when", ["before", "while", "after"])
async def test_a_value_outlives_whatever_stops_the_run(
    open_store: Callable[[], Store], durability: Durability, how: str, when: str
) -> None:
    """Given before the task waited, while it waits, or while nobody runs: the resumed run takes it, and asks nobody again."""
    probe = Probe()
    dag = asking(probe=probe)
    value = Order("tea", 7)
    async with Runtime(open_store(), durability=durability, on_exit="interrupt") as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("before")
        if when == "before":
            await runtime.provide("r", "order", value)
        else:
            probe.let_go("before")
            await waits(runtime)
        if how == "cancel":
            await handle.cancel()
        elif how == "wind_down":
            runtime.wind_down()
            probe.let_go("before")
            with pytest.raises(RunInterruptedError), anyio.fail_after(PATIENCE_S):
                await handle.result()
    probe.let_go("before")
    async with Runtime(open_store()) as runtime:
        if when == "while":
            if how == "cancel":
                with pytest.raises(XComConflictError):  # Cancelled is an end; what is cancelled asks for nothing.
                    await runtime.provide("r", "order", value)
            else:
                await runtime.provide("r", "order", value)
                with pytest.raises(XComConflictError):
                    await runtime.provide("r", "order", value)
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as group:
                if when == "after" or (when, how) == ("while", "cancel"):
                    group.start_soon(_give_once_waited, runtime, "order", value)
                assert (await runtime.resume("r", dag))["use"] == "7 tea"


async def test_a_retry_of_what_is_above_asks_anew(open_store: Callable[[], Store]) -> None:
    """An answer was to the question as it was."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def draft(ctx: TaskContext) -> int:
        return ctx.attempt

    approval = dag.approval("approve", depends_on=draft)

    @dag.task
    async def publish(answer: Approval = approval.output, text: int = draft.output) -> list[Any]:
        probe.note(text)
        return [answer.by, text]

    async with Runtime(open_store()) as runtime, anyio.create_task_group() as group:
        group.start_soon(_give_once_waited, runtime, "approve", Approval(approved=True, by="Ada"), 1)
        with anyio.fail_after(PATIENCE_S):
            assert (await _run(runtime, dag))[publish] == ["Ada", 1]
        group.start_soon(_give_once_waited, runtime, "approve", Approval(approved=True, by="Bob"))
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.retry("r", "draft", dag))[publish] == ["Bob", 2]


async def _run(runtime: Runtime, dag: DAG) -> Any:
    return await (await runtime.start(dag, run_id="r")).result()


async def test_an_answer_is_forgotten_with_the_retry(open_store: Callable[[], Store]) -> None:
    """A kill between the retry and the forgetting must not have an old approval taken for a new one: both are one batch."""
    dag, store = DAG("d"), open_store()
    batches: list[list[str]] = []
    real = store.apply

    async def watched(batch: Any) -> Any:
        batches.append([type(operation).__name__ for operation in batch])
        return await real(batch)

    approval = dag.approval("approve")

    @dag.task
    async def publish(answer: Approval = approval.output) -> str:
        return answer.by

    setattr(store, "apply", watched)  # noqa: B010 - type checkers would not have it
    async with Runtime(store) as runtime, anyio.create_task_group() as group:
        group.start_soon(_give_once_waited, runtime, "approve", Approval(approved=True, by="Ada"), 1)
        await _run(runtime, dag)
        group.start_soon(_give_once_waited, runtime, "approve", Approval(approved=True, by="Bob"))
        assert (await runtime.retry("r", "approve", dag))[publish] == "Bob"
    (reopening,) = [batch for batch in batches if "ReopenRun" in batch]
    assert "DeleteEntries" in reopening


async def test_an_answer_is_forgotten_by_a_retry_without_the_dag(open_store: Callable[[], Store]) -> None:
    """As another process may ask for it while nobody here has the DAG: the tasks are cleared, and the resumed run asks anew."""
    dag = DAG("d")
    approval = dag.approval("approve")

    @dag.task
    async def publish(answer: Approval = approval.output) -> str:
        return answer.by

    async with Runtime(open_store()) as runtime, anyio.create_task_group() as group:
        group.start_soon(_give_once_waited, runtime, "approve", Approval(approved=True, by="Ada"), 1)
        assert (await _run(runtime, dag))[publish] == "Ada"
        services = runtime._opened().services  # pyright: ignore[reportPrivateUsage] - what carries out messages does it so
        image = await services.store.load_run("r")
        assert image is not None
        await clear_stored(services, image, "approve", "message")
        group.start_soon(_give_once_waited, runtime, "approve", Approval(approved=True, by="Bob"))
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.resume("r", dag))[publish] == "Bob"


async def test_interruptions_do_not_count(open_store: Callable[[], Store]) -> None:
    """A task that waits does nothing that could be to blame."""
    dag = asking()
    for _ in range(4):
        async with Runtime(open_store(), on_exit="interrupt", limits=Limits(max_interruptions=1)) as runtime:
            await runtime.start(dag, run_id="r")
            await anyio.wait_all_tasks_blocked()
    async with Runtime(open_store(), limits=Limits(max_interruptions=1)) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await runtime.provide("r", "order", Order("tea", 1))
        assert (await handle.result())["use"] == "1 tea"
