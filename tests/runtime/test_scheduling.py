"""Which task runs when: trigger rules, slots, fairness, readiness; and what the context tells a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    DAGValidationError,
    MissingPolicy,
    RunState,
    Runtime,
    Skip,
    TaskContext,
    TriggerRule,
    literal,
    template,
)
from tests.runtime.probes import Probe, agree

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import LogRecord

    from dagrelay import Durability, Store

R = TriggerRule


def ruled(rule: TriggerRule, upstream: dict[str, str]) -> DAG:
    """Return a DAG of a task with a rule below tasks that end as told."""
    dag = DAG("ruled")

    def ending(how: str) -> Callable[[], Any]:
        async def end() -> str:
            if how == "failed":
                raise ValueError("no")
            if how == "skipped":
                raise Skip
            return how

        return end

    for task_id, how in upstream.items():
        dag.add(ending(how), id=task_id)

    @dag.task(trigger_rule=rule, depends_on=list(upstream))
    async def join() -> str:
        return "ran"

    del join
    return dag


@pytest.mark.parametrize(
    ("rule", "ends", "expected", "run"),
    [
        (R.ALL_SUCCESS, "success success", "success", "success"),
        (R.ALL_SUCCESS, "success skipped", "skipped", "success"),
        (R.ALL_SUCCESS, "failed skipped", "upstream_failed", "failed"),
        (R.ALL_FAILED, "failed failed", "success", "success"),
        (R.ALL_FAILED, "failed success", "skipped", "success"),
        (R.ALL_DONE, "failed success", "success", "failed"),
        (R.ALL_DONE, "skipped success", "success", "success"),
        (R.ALWAYS, "failed success", "success", "failed"),
        (R.ONE_SUCCESS, "failed success", "success", "success"),
        (R.ONE_SUCCESS, "failed skipped", "upstream_failed", "failed"),
        (R.ONE_FAILED, "failed success", "success", "success"),
        (R.ONE_FAILED, "success success", "skipped", "success"),
        (R.ONE_DONE, "skipped success", "success", "success"),
        (R.NONE_FAILED, "skipped success", "success", "success"),
        (R.NONE_FAILED, "failed success", "upstream_failed", "failed"),
        (R.NONE_SKIPPED, "failed success", "success", "success"),
        (R.NONE_SKIPPED, "skipped success", "skipped", "success"),
        (R.NONE_FAILED_MIN_ONE_SUCCESS, "skipped skipped", "skipped", "success"),
        (R.ALL_SKIPPED, "skipped skipped", "success", "success"),
    ],
)
async def test_trigger_rules_end_to_end(rule: TriggerRule, ends: str, expected: str, run: str) -> None:
    """Airflow's names and meanings; a clean-up task masks no failure."""
    first, second = ends.split()
    async with Runtime(":memory:") as runtime:
        result = await runtime.run(ruled(rule, {"a": first, "b": second}), raise_on_failure=False)
        await agree(runtime, result)
    states = {task_id: str(row.state) for task_id, row in result.tasks.items()}
    assert states == {"a": first, "b": second, "join": expected}
    assert result.state == run


async def test_readiness_is_per_task_and_no_barrier(open_store: Callable[[], Store], durability: Durability) -> None:
    """A chain runs to its end while a task of the first layer has not even ended."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def slow() -> None:
        await probe.reach("chain has ended")

    def link(task_id: str) -> Callable[[], Any]:
        async def step() -> None:
            probe.note(task_id)
            if task_id == "c":
                probe.open("chain has ended")

        return step

    for task_id, above in (("a", []), ("b", ["a"]), ("c", ["b"])):
        dag.add(link(task_id), id=task_id, depends_on=above)

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag)
    assert result.state is RunState.SUCCESS
    assert probe.notes == ["a", "b", "c"]
    assert slow.id == "slow"


class Gauge:
    """Counts who is inside at once."""

    def __init__(self) -> None:
        """Start empty."""
        self.inside = 0
        self.highest = 0

    async def pass_through(self) -> None:
        """Be inside for a few steps of the loop."""
        self.inside += 1
        self.highest = max(self.highest, self.inside)
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        self.inside -= 1


async def test_the_runtimes_max_concurrency_holds_over_all_runs(open_store: Callable[[], Store]) -> None:
    """And is made use of."""
    dag, gauge = DAG("d"), Gauge()
    for number in range(12):
        dag.add(gauge.pass_through, id=f"t{number}")
    async with Runtime(open_store(), max_concurrency=3) as runtime, anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(runtime.run, dag)
    assert gauge.highest == 3


async def test_a_dags_max_concurrency_holds_for_each_run(open_store: Callable[[], Store]) -> None:
    """Two runs of it have twice as many."""
    dag, gauge = DAG("d", max_concurrency=2), Gauge()
    for number in range(12):
        dag.add(gauge.pass_through, id=f"t{number}")
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag)
        assert gauge.highest == 2
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(runtime.run, dag)
    assert gauge.highest == 4


async def test_a_large_run_does_not_starve_a_small_one(open_store: Callable[[], Store], durability: Durability) -> None:
    """They take turns."""
    large, small, probe = DAG("large"), DAG("small"), Probe()

    async def task(ctx: TaskContext) -> None:
        probe.note(ctx.dag_id)
        await anyio.lowlevel.checkpoint()

    for number in range(200):
        large.add(task, id=f"t{number}")
    for number in range(5):
        small.add(task, id=f"t{number}")
    async with Runtime(open_store(), max_concurrency=2, durability=durability) as runtime:
        first = await runtime.start(large)
        second = await runtime.start(small)
        await second.result()
        await first.result()
    turns = [place for place, dag_id in enumerate(probe.notes) if dag_id == "small"]
    assert len(turns) == 5
    assert turns[-1] - turns[0] <= 15


async def test_the_context_tells_who_and_where(open_store: Callable[[], Store], caplog: pytest.LogCaptureFixture) -> None:
    """Ids, attempt, params, native config, deadline, start, a logger with the ids bound."""
    dag = DAG("d", params={"n": 3, "name": "x"})

    @dag.task
    async def source() -> dict[str, Any]:
        return {"rows": [1, 2], "none": None}

    config = {
        "n": "{{ params.n }}",
        "rows": "{{ xcom.source.return_value.rows }}",
        "none": "{{ xcom.source.return_value.none }}",
        "text": "{{ run.id }}/{{ task.id }}/{{ task.attempt }} of {{ run.dag_id }}: {{ xcom.source.return_value.rows }}",
        "raw": literal("{{ params.n }}"),
        "deep": [{"{{ key }}": ("{{ params.name }}", 1)}],
        "gone": '{{ xcom.source.gone | default("-") }}',
    }

    @dag.task(depends_on=source, config=config, timeout_s=60)
    async def task(ctx: TaskContext) -> list[Any]:
        ctx.log.warning("hello", extra_fact=1)
        assert anyio.current_time() < ctx.deadline <= anyio.current_time() + 60
        return [
            ctx.run_id,
            ctx.dag_id,
            ctx.task_id,
            ctx.map_index,
            ctx.attempt,
            dict(ctx.params),
            ctx.config,
            ctx.idempotency_key,
        ]

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r", params={"name": "y"})
    assert result[task] == [
        "r",
        "d",
        "task",
        None,
        1,
        {"n": 3, "name": "y"},
        {
            "n": 3,
            "rows": [1, 2],
            "none": None,
            "text": "r/task/1 of d: [1,2]",
            "raw": "{{ params.n }}",
            "deep": [{"{{ key }}": ["y", 1]}],
            "gone": "-",
        },
        "r/task",
    ]
    record: LogRecord = next(record for record in caplog.records if record.message == "hello")
    assert {"run_id": "r", "task_id": "task", "attempt": 1, "extra_fact": 1}.items() <= vars(record).items()


async def test_params_are_typed_required_and_known(open_store: Callable[[], Store]) -> None:
    """A run param overrides a plain default and is structured by the annotation, strictly."""
    dag = DAG("d", params={"unused": 1})

    @dag.task
    async def task(needed: int, ratio: float, optional: str = "plain") -> list[Any]:
        return [needed, ratio, optional]

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag, params={"needed": 1, "ratio": 2}))[task] == [1, 2.0, "plain"]
        assert (await runtime.run(dag, params={"needed": 1, "ratio": 2, "optional": "given"}))[task] == [1, 2.0, "given"]
        for bad, problem in (
            ({"ratio": 2}, "needed"),
            ({"needed": 1, "ratio": 2, "optionl": "x"}, "optionl"),
            ({"needed": "12", "ratio": 2}, "param 'needed' can't fill parameter 'needed' of task 'task': .*int"),
        ):
            with pytest.raises(DAGValidationError, match=problem):
                await runtime.run(dag, params=bad)
        assert len(await runtime.runs()) == 2, "nothing of the others was recorded"


@pytest.mark.parametrize("level", ["runtime", "task"])
async def test_a_missing_value_is_empty_where_the_policy_says_so(open_store: Callable[[], Store], level: str) -> None:
    """Empty text, None for a lone reference; the reference to a skipped task is missing, never a hang."""
    dag = DAG("d")
    options: dict[str, Any] = {"missing": MissingPolicy.EMPTY} if level == "task" else {}

    @dag.task
    async def skipped() -> str:
        raise Skip

    @dag.task(trigger_rule=R.ALL_DONE, config={"lone": "{{ xcom.skipped }}"}, **options)
    async def task(ctx: TaskContext, text: str = template("<{{ xcom.skipped }}>")) -> list[Any]:
        return [text, ctx.config]

    missing = MissingPolicy.EMPTY if level == "runtime" else MissingPolicy.ERROR
    async with Runtime(open_store(), missing=missing) as runtime:
        assert (await runtime.run(dag))[task] == ["<>", {"lone": None}]


async def test_an_empty_dag_is_a_run_that_succeeds(open_store: Callable[[], Store], durability: Durability) -> None:
    """Nothing to do is done."""
    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(DAG("empty"))
        await agree(runtime, result)
        assert (result.state, dict(result.tasks), result.errors) == (RunState.SUCCESS, {}, {})
