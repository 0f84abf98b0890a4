"""What a run gives back: values, errors, and what is told to whoever asks for the wrong thing."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    MissingReferenceError,
    RunFailedError,
    RunState,
    Runtime,
    TaskContext,
    TaskFailedError,
    TaskNotFoundError,
    XComNotFoundError,
    XComTypeError,
    each,
    resolve_templates,
    template,
)
from tests.runtime.probes import PATIENCE_S, Probe, chain_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Store


async def test_leaves_are_at_hand_and_others_are_pulled(open_store: Callable[[], Store]) -> None:
    """By task or id; what is not there is told with near names, and a leaf's value outlives the runtime."""
    dag = chain_of(Probe(), "first", "last")
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        assert (await result.pull("first"), await result.pull(dag.tasks["first"]), await result.pull("last")) == (
            "first",
            "first",
            "firstlast",
        )
        with pytest.raises(LookupError, match=r"'first' is no leaf of the DAG; use `await result\.pull\('first'\)`"):
            result["first"]
        with pytest.raises(TaskNotFoundError, match="no task 'lats'; did you mean 'last'"):
            result["lats"]
        with pytest.raises(TaskNotFoundError):
            await result.pull("lats")
        with pytest.raises(XComNotFoundError, match="no XCom 'k' of task 'last' in run 'r'"):
            await result.pull("last", "k")
    assert result["last"] == result[dag.tasks["last"]] == "firstlast"
    assert (len(result.tasks), list(result.tasks), "first" in result.tasks, "x" in result.tasks) == (
        2,
        ["first", "last"],
        True,
        False,
    )


async def test_a_failed_run_is_a_group_of_its_tasks_errors(open_store: Callable[[], Store]) -> None:
    """One for each failed task, with its cause; `except*` sees it; it can be pickled."""
    dag = DAG("d")

    def failing(error: Exception) -> Callable[[], Any]:
        async def fail() -> None:
            raise error

        return fail

    for number, error in enumerate([ValueError("a"), KeyError("b")]):
        dag.add(failing(error), id=f"t{number}")
    dag.add(chain_of(Probe(), "a").tasks["a"].handler, id="fine", bind={"before": ""})
    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag, run_id="r")
    group = failed.value
    assert [type(each.__cause__) for each in group.exceptions] == [ValueError, KeyError]
    matching, rest = group.split(lambda error: isinstance(error, TaskFailedError) and error.task_id == "t0")
    assert isinstance(matching, RunFailedError)
    assert isinstance(rest, RunFailedError)
    assert (matching.run_id, len(matching.exceptions), len(rest.exceptions)) == ("r", 1, 1)
    assert list(group.result.errors) == ["t0", "t1"]
    assert group.result["fine"] == "a"
    again = pickle.loads(pickle.dumps(group))  # noqa: S301 - our own bytes
    assert (again.run_id, [str(each) for each in again.exceptions]) == ("r", [str(each) for each in group.exceptions])


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("{{ xcom.source.count }}", XComNotFoundError, "xcom.source.return_value.count"),
        ("{{ xcom.source.return_value.cuont }}", MissingReferenceError, "xcom.source.return_value.cuont"),
        ("{{ params.given.deep }}", MissingReferenceError, "params.given.deep"),
    ],
    ids=["no such key", "no such path", "no such path in a param"],
)
@pytest.mark.parametrize("where", ["config", "parameter"])
async def test_a_template_whose_value_is_missing_fails_its_task_and_names_it(
    open_store: Callable[[], Store], text: str, kind: type[Exception], told: str, where: str
) -> None:
    """The handler does not run; the error leads to the mistake."""
    dag = DAG("d", params={"given": {}})

    @dag.task
    async def source() -> dict[str, int]:
        return {"count": 1}

    async def reader(ctx: TaskContext, value: str = "") -> str:
        raise AssertionError((ctx, value))

    options: dict[str, Any] = {"config": {"text": text}} if where == "config" else {"bind": {"value": template(text)}}
    dag.add(reader, depends_on=source, **options)
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    cause = result.errors["reader"].__cause__
    assert isinstance(cause, kind)
    assert told in str(cause)


async def test_the_arguments_of_a_runtime_are_checked() -> None:
    """Before anything is opened."""
    for wrong in ({"max_concurrency": 0}, {"max_runs_per_dag": 0}, {"on_exit": "stop"}, {"durability": "fast"}, {"missing": "?"}):
        options: dict[str, Any] = wrong
        with pytest.raises(ValueError, match=r"at least 1|on_exit|not a valid"):
            Runtime(":memory:", **options)


async def test_a_bug_in_a_scheduler_reaches_whoever_awaits_the_run_and_nobody_else(
    open_store: Callable[[], Store], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attempts are stopped, other runs go on, and the run can be taken up again."""
    probe, other_probe = Probe(), Probe()
    dag, other = chain_of(probe, "a", "b", held="a"), chain_of(other_probe, "x", held="x", dag_id="other")

    def broken(_: object) -> list[Any]:
        raise ZeroDivisionError("planted")

    async with Runtime(open_store()) as runtime:
        unhurt = await runtime.start(other)
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("a")
        await other_probe.reach("x")
        live = runtime._opened().runs.live("r")  # pyright: ignore[reportPrivateUsage] - a fault is planted
        assert live is not None
        monkeypatch.setattr(live.machine, "step", broken)
        probe.let_go("a")
        with anyio.fail_after(PATIENCE_S), pytest.raises(ZeroDivisionError, match="planted"):
            await handle.result()
        other_probe.let_go("x")
        assert (await unhurt.result())["x"] == "x"
        result = await runtime.resume("r", dag)
        assert (result.state, result["b"]) == (RunState.SUCCESS, "ab")
    assert "scheduler.died" in [record.message for record in caplog.records]


async def test_from_outside_the_values_of_a_mapped_task_are_asked_for_by_element(open_store: Callable[[], Store]) -> None:
    """Who forgets that is told so, and not to mean the key that was asked for."""
    dag = DAG("d")

    @dag.task
    async def double(number: int = each([1, 2])) -> int:
        return number * 2

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        assert result.outputs(double) == [2, 4]
        assert await runtime.xcom.pull("r", "double", map_index=1) == 4
        assert await runtime.xcom.pull_outputs("r", "double") == [2, 4]
        wanted: dict[str, Any]
        for wanted in ({}, {"default": 0}, {"as_type": int}):
            with pytest.raises(
                XComTypeError, match=r"is mapped and has a list of outputs; use pull_outputs\(\), or .* map_index$"
            ):
                await runtime.xcom.pull("r", "double", **wanted)
        assert await resolve_templates("{{ xcom.double }}", "r", runtime.xcom) == "[2,4]"
