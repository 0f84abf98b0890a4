"""A context kept beyond its attempt, run and runtime: writes are refused, reads are right or refused, nothing hangs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import anyio.lowlevel
import pytest

from dagrelay import (
    DAG,
    DagrelayError,
    Durability,
    RunFailedError,
    Runtime,
    RuntimeClosedError,
    StaleAttemptError,
    StoreClosedError,
    TaskContext,
    XComEntry,
)
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from dagrelay import Store
    from dagrelay.xcom.task_xcom import TaskXCom

    Doors = Mapping[str, Callable[[], Awaitable[Any]]]

READ = {
    "pull": 1,
    "pull several": {"first": 1},
    "pull what is not there": "none",
    "pull_own": "own",
    "pull_own what is not there": "none",
    "pull_from_upstream": {"first": {"return_value": 1}},
    "list": ["k", "kept"],
}
"""What each reading door answers as long as it is open."""


def writing(xcom: TaskXCom) -> Doors:
    """Return every door through which a handler writes, and the one where it would wait for what only a run under way brings."""
    return {
        "push": partial(xcom.push, "k", 2),
        "push for the task": partial(xcom.push, "k", 2, lifetime="task"),
        "publish": partial(xcom.push, "k", 2, publish=True),
        "push_many": partial(xcom.push_many, {"k": 2, "l": 3}),
        "push nothing": partial(xcom.push_many, {}),
        "delete": partial(xcom.delete, "k"),
        "wait": partial(xcom.wait, "asks", "nothing"),
    }


def reading(xcom: TaskXCom) -> Doors:
    """Return every door through which a handler reads."""

    async def keys() -> list[str]:
        return [entry.key for entry in await xcom.list() if entry.key != "return_value"]  # Only a success has one.

    return {
        "pull": partial(xcom.pull, "first"),
        "pull several": partial(xcom.pull, ["first"]),
        "pull what is not there": partial(xcom.pull, "first", "nothing", default="none"),
        "pull_own": partial(xcom.pull_own, "k"),
        "pull_own what is not there": partial(xcom.pull_own, "nothing", default="none"),
        "pull_from_upstream": xcom.pull_from_upstream,
        "list": keys,
    }


async def knock(doors: Doors) -> dict[str, Any]:
    """Return what each door answers, or the class of its error."""
    answers: dict[str, Any] = {}
    for name, door in doors.items():
        try:
            with anyio.fail_after(PATIENCE_S):
                answers[name] = await door()
        except DagrelayError as error:
            answers[name] = type(error)
    return answers


def refused(doors: Doors, error: type[DagrelayError]) -> dict[str, Any]:
    """Return the answers of doors that are all closed."""
    return dict.fromkeys(doors, error)


def keeping(kept: list[TaskContext], asking: Callable[[], Awaitable[None]], *, is_bad: bool = False) -> DAG:
    """Return a DAG whose second task keeps the context of its first attempt, and whose third asks once that is over."""
    dag = DAG("d")

    @dag.task
    async def first() -> int:
        return 1

    @dag.task(depends_on=first, retries=AT_ONCE)
    async def keeps(ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            await ctx.xcom.push("k", "own")
            await ctx.xcom.push("kept", "task's", lifetime="task")
            kept.append(ctx)
        if is_bad:
            raise OSError("each attempt fails")

    @dag.task(depends_on=keeps, trigger_rule="all_done")
    async def asks() -> None:
        await asking()

    return dag


@pytest.mark.parametrize("is_bad", [False, True], ids=["succeeded", "failed"])
async def test_a_kept_context_writes_nothing_and_reads_until_its_runtime_is_left(
    open_store: Callable[[], Store], durability: Durability, *, is_bad: bool
) -> None:
    """While the run goes on, after its end, in a later run, after the runtime, and beside the next runtime on the store."""
    kept, listed = list[TaskContext](), list[list[XComEntry]]()

    async def ask() -> None:
        assert await knock(writing(kept[0].xcom)) == refused(writing(kept[0].xcom), StaleAttemptError)
        assert await knock(reading(kept[0].xcom)) == READ

    async def look(runtime: Runtime) -> None:
        listed.append(await runtime.xcom.list("r", all_attempts=True))

    async with Runtime(open_store(), durability=durability) as runtime:
        with anyio.fail_after(2 * PATIENCE_S):
            dag = keeping(kept, ask, is_bad=is_bad)
            result = await runtime.run(dag, run_id="r", raise_on_failure=False)
            assert result.tasks["asks"].state == "success", result.tasks["asks"].error
            await look(runtime)
            await ask()
            await runtime.run(keeping([], ask), run_id="later")
            await look(runtime)
    for _ in range(2):
        xcom = kept[0].xcom
        assert await knock(writing(xcom)) == refused(writing(xcom), StaleAttemptError)
        assert await knock(reading(xcom)) == refused(reading(xcom), RuntimeClosedError)
        async with Runtime(open_store()) as runtime:
            assert await knock(writing(xcom)) == refused(writing(xcom), StaleAttemptError)
            assert await knock(reading(xcom)) == refused(reading(xcom), RuntimeClosedError)
            await look(runtime)
    assert all(entries == listed[0] for entries in listed), "nothing was written"
    assert {(entry.task_id, entry.key) for entry in listed[0]} >= {("keeps", "k"), ("keeps", "kept")}


async def test_what_else_a_kept_context_tells_needs_no_runtime(open_store: Callable[[], Store]) -> None:
    """Its ids, its params and its logger are its own."""
    kept: list[TaskContext] = []

    async def ask() -> None:
        pass

    async with Runtime(open_store()) as runtime:
        await runtime.run(keeping(kept, ask), run_id="r")
    ctx = kept[0]
    assert (ctx.run_id, ctx.dag_id, ctx.task_id, ctx.attempt, dict(ctx.params)) == ("r", "d", "keeps", 1, {})
    assert ctx.idempotency_key == "r/keeps"
    ctx.log.info("after the end")


async def test_who_goes_on_reading_while_the_runtime_is_left_is_told(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """Tasks left behind ask without a pause: each door answers, until an error of ours ends it."""
    kept, probe, errors = list[TaskContext](), Probe(), dict[str, type[DagrelayError]]()

    async def ask() -> None:
        pass

    async def read_on(name: str, door: Callable[[], Awaitable[Any]]) -> None:
        try:
            with anyio.fail_after(PATIENCE_S):
                while True:
                    assert await door() == READ[name]
                    probe.open(name)
                    await anyio.lowlevel.checkpoint()
        except DagrelayError as error:
            errors[name] = type(error)

    async with anyio.create_task_group() as behind, Runtime(open_store(), durability=durability) as runtime:
        await runtime.run(keeping(kept, ask))
        for name, door in reading(kept[0].xcom).items():
            behind.start_soon(read_on, name, door)
        for name in READ:
            await probe.reach(name)
    assert errors.keys() == READ.keys()
    assert set(errors.values()) <= {RuntimeClosedError, StoreClosedError}


async def test_a_context_kept_by_a_failed_run_is_refused_as_well(open_store: Callable[[], Store]) -> None:
    """Also where the run ended in an error that was raised."""
    dag, kept = DAG("d"), list[TaskContext]()

    @dag.task
    async def bad(ctx: TaskContext) -> NoReturn:
        kept.append(ctx)
        raise OSError("it fails")

    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError):
            await runtime.run(dag)
        assert await knock(writing(kept[0].xcom)) == refused(writing(kept[0].xcom), StaleAttemptError)
