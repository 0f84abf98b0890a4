"""Pools bound what tasks share: how many use it at once, how often they start, and who goes first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from dagrelay import DAG, DAGValidationError, Limits, MemoryStore, Pool, RetryPolicy, RunState, Runtime, Skip
from dagrelay.testing.seeded import BACKENDS, Backend, run_seeded
from tests.runtime.probes import PATIENCE_S, Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dagrelay import Store


def test_a_number_stands_for_a_pool() -> None:
    """Of so many slots, without a rate."""
    limits = Limits(pools={"db": 3, "api": Pool(2, per_s=0.5, burst=4)})
    assert limits.pools == {"db": Pool(3), "api": Pool(2, per_s=0.5, burst=4)}
    assert (limits.pools["db"].per_s, limits.pools["db"].burst) == (None, 1)


@pytest.mark.parametrize(
    ("pools", "problem"),
    [
        ({"p": 0}, r"pools\['p'\] must be a Pool, or a whole number of slots >= 1, not 0"),
        ({"p": True}, r"pools\['p'\] must be a Pool"),
        ({"p": 1.5}, r"pools\['p'\] must be a Pool"),
        ({"": 1}, "pools has the name ''; name a pool by a text that is not empty"),
        ({1: 1}, "pools has the name 1"),
        ([("p", 1)], "pools must be a mapping of names to slots or Pools, not list"),
    ],
)
def test_pools_that_make_no_sense_are_refused(pools: Any, problem: str) -> None:
    """Where they are written."""
    with pytest.raises((ValueError, TypeError), match=problem):
        Limits(pools=pools)


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"slots": 0}, "slots of a Pool must be a whole number >= 1, not 0"),
        ({"slots": "2"}, "slots of a Pool"),
        ({"slots": 1, "burst": 0}, "burst of a Pool must be a whole number >= 1, not 0"),
        ({"slots": 1, "per_s": 0}, "per_s of a Pool must be a number of starts a second above 0, or None for no rate, not 0"),
        ({"slots": 1, "per_s": float("inf")}, "per_s of a Pool"),
        ({"slots": 1, "per_s": float("nan")}, "per_s of a Pool"),
        ({"slots": 1, "per_s": "1"}, "per_s of a Pool"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(facts: Mapping[str, Any], problem: str) -> None:
    """With a word on what is wanted."""
    with pytest.raises(ValueError, match=problem):
        Pool(**facts)


async def test_an_unknown_pool_is_told_before_the_run_is_recorded(open_store: Callable[[], Store]) -> None:
    """With each task that names one, and near names; to a run that is taken up as well."""
    dag, probe = DAG("d"), Probe()

    @dag.task(pool="data")
    async def one() -> None:
        await probe.hold("one")

    async with Runtime(open_store(), limits=Limits(pools={"data": 1}), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("one")
    async with Runtime(open_store(), limits=Limits(pools={"date": 1, "other": 2})) as runtime:
        wanted = (
            "task 'one' names the pool 'data', which the runtime does not have (did you mean 'date'?); it has date, other. "
            "Add it by Runtime(limits=Limits(pools={'data': ...}))"
        )
        with pytest.raises(DAGValidationError) as caught:
            await runtime.run(dag, run_id="new")
        assert caught.value.problems == (wanted,)
        with pytest.raises(DAGValidationError):
            await runtime.resume("r", dag)
        with pytest.raises(DAGValidationError):
            await runtime.retry("r", "one", dag)
        assert [(run.run_id, run.state) for run in await runtime.runs()] == [("r", RunState.INTERRUPTED)]
    async with Runtime(":memory:") as runtime:
        with pytest.raises(DAGValidationError, match="does not have; it has none"):
            await runtime.start(dag)


async def test_a_pool_bounds_its_tasks_over_all_runs_and_no_others() -> None:
    """However its attempts end, their slots come back."""
    running, peak, others = 0, 0, 0
    dag = DAG("d")

    async def use(how: str) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        try:
            await anyio.lowlevel.checkpoint()
            match how:
                case "fail":
                    raise LookupError
                case "skip":
                    raise Skip
                case "hang":
                    await anyio.sleep_forever()
                case _:
                    pass
        finally:
            running -= 1

    for number, how in enumerate(["fail", "skip", "hang", "end"] * 3):
        timeout_s = 0.01 if how == "hang" else None
        dag.add(use, id=f"u{number}", bind={"how": how}, pool="p", timeout_s=timeout_s, retries=RetryPolicy(2, delay_s=0))

    @dag.task
    async def free() -> None:
        nonlocal others
        others += 1

    async with Runtime(":memory:", limits=Limits(pools={"p": 2})) as runtime:
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as task_group:
                for _ in range(3):
                    task_group.start_soon(lambda: runtime.run(dag, raise_on_failure=False))
        pool = runtime.statistics().admission.pools["p"]
        assert (pool.slots, pool.running, pool.queued, pool.returning) == (2, 0, 0, 0)
    assert (peak, others) == (2, 3)


async def test_a_cancelled_run_gives_back_what_it_has_of_a_pool() -> None:
    """And what of it waits for the pool never starts."""
    dag, probe = DAG("d"), Probe()

    async def hang() -> None:
        probe.note("start")
        await probe.hold("hang")

    for number in range(3):
        dag.add(hang, id=f"h{number}", pool="p")

    async with Runtime(":memory:", limits=Limits(pools={"p": 1})) as runtime:
        handle = await runtime.start(dag)
        await probe.reach("hang")
        pool = runtime.statistics().admission.pools["p"]
        assert (pool.running, pool.queued) == (1, 2)
        await handle.cancel()
        pool = runtime.statistics().admission.pools["p"]
        assert (pool.running, pool.queued) == (0, 0)
    assert probe.notes == ["start"]


async def test_higher_priority_goes_first() -> None:
    """Over runs, too."""
    probe, order = Probe(), list[str]()
    first = DAG("first")

    @first.task
    async def hog() -> None:
        await probe.hold("hog")

    def of(name: str, priorities: list[int]) -> DAG:
        dag = DAG(name)
        for priority in priorities:

            async def run(label: str) -> None:
                order.append(label)

            dag.add(run, id=f"t{priority}", bind={"label": f"{name}{priority}"}, priority=priority)
        return dag

    async with Runtime(":memory:", max_concurrency=1) as runtime:
        await runtime.start(first)
        await probe.reach("hog")
        handles = [await runtime.start(of("a", [-1, 0, 2])), await runtime.start(of("b", [0, 1, 3]))]
        await anyio.wait_all_tasks_blocked()
        probe.let_go("hog")
        for handle in handles:
            await handle.result()
    assert order == ["b3", "a2", "b1", "a0", "b0", "a-1"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("waits", [False, True])
def test_a_rate_spreads_starts_and_retries(backend: Backend, waits: bool) -> None:
    """A burst at once, then one after another in virtual time, whether or not handlers wait; others don't wait for them."""
    starts: list[float] = []
    free: list[float] = []

    async def main() -> None:
        dag = DAG("d")

        async def call(number: int) -> None:
            starts.append(anyio.current_time() - began)
            if waits:
                await anyio.sleep(10)
            if number == 0 and len(starts) < 4:
                raise LookupError

        for number in range(4):
            dag.add(call, bind={"number": number}, id=f"c{number}", pool="api", retries=RetryPolicy(2, delay_s=0))

        @dag.task
        async def other() -> None:
            free.append(anyio.current_time() - began)

        limits = Limits(pools={"api": Pool(9, per_s=0.25, burst=2)})
        async with Runtime(MemoryStore(), limits=limits) as runtime:
            began = anyio.current_time()
            await runtime.run(dag, raise_on_failure=False)

    run_seeded(main, 1, backend=backend, limit_s=1_000)
    assert starts == pytest.approx([0, 0, 4, 8, 12][: len(starts)], abs=1e-3)
    assert len(starts) == (4 if waits else 5)
    assert free == pytest.approx([0], abs=1e-3)
