"""Followers: they start once what they follow has started, and its outcome does not matter to their trigger rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from dagrelay import DAG, DAGValidationError, Runtime, TaskContext, each
from dagrelay.runtime.errands import clear_stored
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, RunResult, Store


async def nothing() -> None:
    """Do nothing."""
    await anyio.lowlevel.checkpoint()


def states(result: RunResult) -> dict[str, str]:
    """Return the state of each task."""
    return {task_id: str(task.state) for task_id, task in result.tasks.items()}


async def test_a_follower_starts_when_what_it_follows_has(open_store: Callable[[], Store], durability: Durability) -> None:
    """Not before, and not only at its end; over one slot too, as whoever waits for the other holds none."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def gate() -> None:
        await probe.hold("gate")

    @dag.task(depends_on=gate)
    async def producer(ctx: TaskContext) -> None:
        probe.note("producer")
        await ctx.xcom.wait("follower", "ready")

    @dag.task(after_start=[producer])
    async def follower(ctx: TaskContext) -> None:
        probe.note("follower")
        await ctx.xcom.push("ready", 1, publish=True)

    async with Runtime(open_store(), durability=durability, max_concurrency=1) as runtime:
        handle = await runtime.start(dag)
        await probe.reach("gate")
        await anyio.wait_all_tasks_blocked()
        assert probe.notes == []
        probe.let_go("gate")
        with anyio.fail_after(PATIENCE_S):
            result = await handle.result()
    assert probe.notes == ["producer", "follower"]
    assert set(states(result).values()) == {"success"}


@pytest.mark.parametrize("options", [{}, {"retries": AT_ONCE}])
async def test_its_failure_does_not_matter(open_store: Callable[[], Store], options: dict[str, Any]) -> None:
    """A producer that started and failed, or is tried again, counts for no trigger rule; the follower runs once."""
    dag, probe = DAG("d"), Probe()

    @dag.task(**options)
    async def producer() -> None:
        probe.note("producer")
        raise ValueError("no")

    @dag.task(after_start=producer)
    async def follower() -> None:
        probe.note("follower")

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert states(result) == {"producer": "failed", "follower": "success"}
    assert probe.counts["follower"] == 1


@pytest.mark.parametrize(
    ("rule", "skipped", "failed"),
    [
        ("all_success", "skipped", "upstream_failed"),
        ("all_done", "success", "success"),
        ("none_failed", "success", "upstream_failed"),
    ],
)
async def test_a_producer_that_never_starts_counts(open_store: Callable[[], Store], rule: str, skipped: str, failed: str) -> None:
    """Skipped or upstream_failed, it gives the trigger rule its state; besides direct upstreams as well as without any."""
    dag = DAG("d")

    @dag.short_circuit
    async def no() -> bool:
        return False

    @dag.task
    async def bad() -> None:
        raise ValueError("no")

    dag.add(nothing, id="ok")
    for name, above in (("skipped", no), ("failed", bad)):
        dag.add(nothing, id=name, depends_on=above)
        dag.add(nothing, id=f"after_{name}", after_start=name, trigger_rule=rule)
        dag.add(nothing, id=f"beside_{name}", after_start=name, depends_on="ok", trigger_rule=rule)
    async with Runtime(open_store()) as runtime:
        found = states(await runtime.run(dag, raise_on_failure=False))
    assert (found["after_skipped"], found["beside_skipped"]) == (skipped, skipped)
    assert (found["after_failed"], found["beside_failed"]) == (failed, failed)


async def test_mapped_and_outside_tasks_are_followed(open_store: Callable[[], Store]) -> None:
    """A mapped one once it is expanded, one whose value comes from outside once it waits."""
    dag, probe = DAG("d"), Probe()

    async def work(item: int) -> None:  # noqa: ARG001 - what it is mapped over
        await probe.reach("go")

    mapped = dag.add(work, id="mapped", bind={"item": each([1, 2])})
    outside = dag.external("outside")

    @dag.task(after_start=[mapped, outside])
    async def follower() -> None:
        probe.open("go")

    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("go")
        await runtime.provide("r", "outside", 1)
        with anyio.fail_after(PATIENCE_S):
            assert set(states(await handle.result()).values()) == {"success"}


async def test_an_empty_map_is_followed_too(open_store: Callable[[], Store]) -> None:
    """It was expanded, and has nothing to do."""
    dag = DAG("d")

    async def work(item: int) -> int:
        return item

    dag.add(work, id="mapped", bind={"item": each([])})
    dag.add(nothing, id="follower", after_start="mapped")
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert set(states(await runtime.run(dag)).values()) == {"success"}


def test_followers_in_a_circle_are_refused() -> None:
    """With edges and without; following oneself too; what is an upstream already is followed as such."""
    dag = DAG("d")
    dag.add(nothing, id="a", after_start="c")
    dag.add(nothing, id="b", depends_on="a")
    dag.add(nothing, id="c", after_start="b")
    dag.add(nothing, id="me", after_start="me")
    with pytest.raises(DAGValidationError) as refused:
        dag.plan()
    told = "\n".join(refused.value.problems)
    assert "in a cycle: " in told
    assert "task 'me': after_start names the task itself" in told
    both = DAG("both")
    both.add(nothing, id="a")
    both.add(nothing, id="b", depends_on="a", after_start="a")
    plan = both.plan()
    assert plan.tasks[plan.index["b"]].upstream == (plan.index["a"],)


@pytest.mark.parametrize("held", ["producer", "follower"])
async def test_a_resume_starts_both_again_or_the_one_left(
    open_store: Callable[[], Store], durability: Durability, held: str
) -> None:
    """A producer that is done need not start again for its follower to go on; one that is not must."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def producer() -> None:
        probe.note("producer")
        if held == "producer":
            await probe.hold("held")

    @dag.task(after_start=producer)
    async def follower() -> None:
        probe.note("follower")
        if held == "follower":
            await probe.hold("held")

    async with Runtime(open_store(), durability=durability, on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("held")
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(PATIENCE_S):
            other = "follower" if held == "producer" else "producer"
            while str((await runtime.task_instances("r", task_id=other))[0].state) != "success":
                await anyio.lowlevel.checkpoint()
    probe.let_go("held")
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.resume("r", dag)
        assert set(states(result).values()) == {"success"}
    assert probe.counts[held] == 2
    assert probe.counts["follower" if held == "producer" else "producer"] == 1


async def test_who_follows_a_task_runs_again_with_it(open_store: Callable[[], Store]) -> None:
    """What it has read of a stream is no more there; by the DAG at hand, and by the plan that is stored."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def producer() -> None:
        probe.note("producer")

    @dag.task(after_start=producer)
    async def follower() -> None:
        probe.note("follower")

    @dag.task
    async def stranger() -> None:
        probe.note("stranger")

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r")
        await runtime.retry("r", "producer", dag)
        assert probe.counts == {"producer": 2, "follower": 2, "stranger": 1}
        services = runtime._opened().services  # pyright: ignore[reportPrivateUsage] - as the inbox does
        image = await services.store.load_run("r")
        assert image is not None
        await clear_stored(services, image, "producer", "a message")
        rows = {row.task_id: str(row.state) for row in await runtime.task_instances("r")}
        assert rows == {"producer": "pending", "follower": "pending", "stranger": "success"}
