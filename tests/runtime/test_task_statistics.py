"""How tasks have done over the runs of a DAG, and runs that go by age."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from dagrelay import DAG, InvalidIdError, RunNotFoundError, Runtime, Skip, SqliteStore, TaskContext, TaskStatistics, each
from dagrelay.runtime.environment import Environment
from tests.runtime.probes import PATIENCE_S, Probe, chain_of, retried

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store

SECOND = 1_000_000


class Clock:
    """A wall clock that stands still until it is set on."""

    def __init__(self) -> None:
        """Start somewhere."""
        self.us = 1_700_000_000 * SECOND

    def environment(self) -> Environment:
        """Return what a runtime takes its time from."""
        return Environment(now_us=lambda: self.us)


async def test_statistics_count_attempts_failures_and_retries(open_store: Callable[[], Store]) -> None:
    """Of each task over all runs of its DAG, elements one by one; durations by nearest rank."""
    clock, dag = Clock(), DAG("d", params={"took": 1, "bad": ""})

    @dag.task(retries=retried(1))
    async def work(ctx: TaskContext, took: int, bad: str) -> None:
        clock.us += took * SECOND
        if bad == "always" or (bad == "once" and ctx.attempt == 1):
            raise ValueError(bad)
        if bad == "skip":
            raise Skip

    @dag.task(depends_on=work)
    async def mapped(item: int = each([0, 1, 2])) -> None:
        if item == 2:
            raise ValueError("two")

    async with Runtime(open_store(), environment=clock.environment()) as runtime:
        for took, bad in ((1, ""), (2, ""), (3, "once"), (4, "always"), (5, "skip"), (6, "")):
            await runtime.run(dag, params={"took": took, "bad": bad}, raise_on_failure=False)
        await runtime.run(chain_of(Probe(), "work", dag_id="other"))
        work_, mapped_ = await runtime.task_statistics("d")
        assert await runtime.task_statistics("none") == []
        with pytest.raises(InvalidIdError):
            await runtime.task_statistics("/")
    assert work_ == TaskStatistics(
        task_id="work",
        runs=6,
        instances=6,
        attempts=8,
        p50_s=3.0,
        p90_s=6.0,
        p99_s=6.0,
        failure_rate=1 / 5,
        retry_rate=2 / 6,
    )
    assert attrs.asdict(mapped_) == {
        "task_id": "mapped",
        "runs": 4,
        "instances": 12,
        "attempts": 12,
        "p50_s": 0.0,
        "p90_s": 0.0,
        "p99_s": 0.0,
        "failure_rate": 1 / 3,
        "retry_rate": 0.0,
    }


async def test_interruptions_and_retries_by_hand_are_no_retries(open_store: Callable[[], Store]) -> None:
    """They are attempts; what has not ended has no duration."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", held="b")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("b")
        with anyio.fail_after(PATIENCE_S):  # Nobody waits for the record of a start.
            while len(told := await runtime.task_statistics("chain")) < 2:
                pass
        second = told[1]
        assert (second.task_id, second.runs, second.attempts, second.p50_s) == ("b", 1, 1, None)
        assert (second.failure_rate, second.retry_rate) == (0.0, 0.0)
    probe.let_go("b")
    async with Runtime(open_store()) as runtime:
        await runtime.resume("r", dag)
        await runtime.retry("r", "a", dag)
        first, second = await runtime.task_statistics("chain")
    assert (first.attempts, second.attempts) == (2, 3)
    assert (first.retry_rate, second.retry_rate, second.failure_rate) == (0.0, 0.0, 0.0)


async def test_what_a_fork_copied_is_counted_once(open_store: Callable[[], Store]) -> None:
    """In the run in which it was made; what ran again counts."""
    dag = chain_of(Probe(), "a", "b")
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r")
        await (await runtime.fork("r", dag, from_task="b")).result()
        counts = [(each.task_id, each.runs, each.attempts) for each in await runtime.task_statistics("chain")]
    assert counts == [("a", 1, 1), ("b", 2, 2)]


# ------------------------------------------------------------------------------------------------------------------ age


async def test_old_runs_go_when_one_of_their_dag_ends(open_store: Callable[[], Store]) -> None:
    """Finished ones, however few; exactly as old is kept. Another DAG's stay until the runtime is entered again."""
    clock, probe = Clock(), Probe()
    dag, other = chain_of(Probe(), "a"), chain_of(Probe(), "a", dag_id="other")
    held = chain_of(probe, "a", held="a")
    options: dict[str, Any] = {"max_run_age_s": 10, "environment": clock.environment(), "on_exit": "interrupt"}

    async def known(runtime: Runtime) -> list[str]:
        await anyio.wait_all_tasks_blocked()
        return sorted(run.run_id for run in await runtime.runs())

    async with Runtime(open_store(), **options) as runtime:
        await runtime.run(dag, run_id="oldest")
        await runtime.run(other, run_id="other")
        await runtime.start(held, run_id="held")
        await probe.reach("a")
        clock.us += 1
        await runtime.run(dag, run_id="old")
        clock.us += 10 * SECOND
        await runtime.run(dag, run_id="new")
        assert await known(runtime) == ["held", "new", "old", "other"]
        assert await runtime.xcom.list("oldest") == []
    clock.us += 10 * SECOND
    async with Runtime(open_store(), **options) as runtime:
        assert await known(runtime) == ["held", "new"]
        with pytest.raises(RunNotFoundError):
            await runtime.get_run("other")
    async with Runtime(open_store(), environment=clock.environment()) as runtime:
        clock.us += 1_000 * SECOND
        await runtime.run(dag, run_id="last")
        assert await known(runtime) == ["held", "last", "new"]


async def test_a_view_prunes_nothing(tmp_path: Path) -> None:
    """It may not write."""
    path, clock = tmp_path / "runs.db", Clock()
    async with Runtime(path, environment=clock.environment()) as runtime:
        await runtime.run(chain_of(Probe(), "a"), run_id="r")
    clock.us += SECOND
    async with Runtime(SqliteStore(path, read_only=True), max_run_age_s=0, environment=clock.environment()) as runtime:
        assert (await runtime.get_run("r")).run_id == "r"


@pytest.mark.parametrize("age", [-1, float("nan"), float("inf")])
def test_an_age_that_is_none_is_refused(age: float) -> None:
    """At once."""
    with pytest.raises(ValueError, match="max_run_age_s"):
        Runtime(":memory:", max_run_age_s=age)
