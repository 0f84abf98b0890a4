"""Handlers that misbehave: each ends as its own failure, or is named, and the loop, the runtime and the other tasks live on.

What handlers raise and how they meet their cancellation stands in `tests/runtime`; here is what those leave out.
"""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from dagrelay import (
    DAG,
    DagrelayError,
    Durability,
    MemoryStore,
    RunState,
    Runtime,
    RuntimeClosedError,
    SqliteStore,
    StaleAttemptError,
    TaskContext,
    TaskState,
    XComEntry,
)
from tests.runtime.probes import PATIENCE_S, Probe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return a store of each kind."""
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "runs.db")


async def run_alone(store: Store, handler: Callable[..., Any], **options: Any) -> tuple[TaskState, str, list[str]]:
    """Run a handler beside one that is well, then another run; return the first's state, error and the keys it left."""
    dag, after = DAG("bad"), DAG("after")
    dag.add(handler, id="bad", **options)

    async def well() -> str:
        await anyio.lowlevel.checkpoint()
        return "well"

    dag.add(well, id="well")
    after.add(well, id="well")
    with anyio.fail_after(PATIENCE_S):
        async with Runtime(store) as runtime:
            result = await runtime.run(dag, run_id="r", raise_on_failure=False)
            assert result["well"] == "well"
            assert (await runtime.run(after)).state is RunState.SUCCESS
            task = result.tasks["bad"]
            keys = [entry.key for entry in await runtime.xcom.list("r", "bad")]
    return task.state, "" if task.error is None else str(task.error), keys


async def test_a_handler_that_blocks_the_loop_delays_and_harms_nobody(store: Store) -> None:
    """Everything waits meanwhile; its own time is up once it lets go."""

    async def blocks() -> str:
        time.sleep(0.2)  # noqa: ASYNC251 - that is the fault
        await anyio.lowlevel.checkpoint()
        return "late"

    assert (await run_alone(store, blocks))[0] is TaskState.SUCCESS


async def test_a_handler_that_blocks_past_its_time_has_failed(store: Store) -> None:
    """Nobody can stop it while it blocks, but what it returns comes too late or in time, and never half."""

    async def blocks() -> str:
        time.sleep(0.2)  # noqa: ASYNC251 - that is the fault
        await anyio.sleep(60)
        return "late"

    state, error, keys = await run_alone(store, blocks, timeout_s=0.05)
    assert (state, keys) == (TaskState.FAILED, [])
    assert error.startswith("TaskTimeoutError")


async def test_a_handler_that_never_ends_is_ended_by_its_time(store: Store) -> None:
    """And what it pushed is not seen."""

    async def endless(ctx: TaskContext) -> None:
        await ctx.xcom.push("half", 1)
        while True:
            await anyio.lowlevel.checkpoint()

    state, error, keys = await run_alone(store, endless, timeout_s=0.05)
    assert (state, keys) == (TaskState.FAILED, [])
    assert error.startswith("TaskTimeoutError")


async def test_a_handler_that_never_ends_is_ended_by_cancelling_its_run(store: Store) -> None:
    """Without a time of its own it goes on until somebody says so."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def endless() -> None:
        probe.open("there")
        while True:
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(PATIENCE_S):
        async with Runtime(store) as runtime:
            await runtime.start(dag, run_id="r")
            await probe.reach("there")
            await runtime.cancel("r")
            assert (await runtime.get_run("r")).state is RunState.CANCELLED


class HostileText(Exception):  # noqa: N818 - it is raised, and is no error of ours
    """An exception whose text raises what no text should."""

    def __init__(self, kind: type[BaseException]) -> None:
        """Take what to raise."""
        self.kind = kind

    def __str__(self) -> str:
        """Raise it."""
        raise self.kind

    __repr__ = __str__


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, asyncio.CancelledError])
async def test_an_error_whose_text_raises_worse_is_told_all_the_same(kind: type[BaseException], is_async: bool) -> None:
    """It must not end whoever wants to record it."""

    async def bad() -> NoReturn:
        raise HostileText(kind)

    def bad_in_thread() -> NoReturn:
        raise HostileText(kind)

    state, error, _ = await run_alone(MemoryStore(), bad if is_async else bad_in_thread)
    assert (state, error) == (TaskState.FAILED, f"HostileText: (its __str__ raised {kind.__name__})")


def circular() -> Exception:
    """Return an exception that is its own cause."""
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


def long_chain() -> Exception:
    """Return the last of very many exceptions that caused each other."""
    error = ValueError("first")
    for number in range(2_000):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    return error


def wide_group() -> Exception:
    """Return a group of very many, and of groups inside groups."""
    group: ExceptionGroup[Any] = ExceptionGroup("inner", [ValueError(str(number)) for number in range(5_000)])
    for _ in range(50):
        group = ExceptionGroup("outer", [group])
    return group


def noted() -> Exception:
    """Return an exception with a long note, and one that is no text."""
    error = ValueError("noted")
    error.add_note("x" * 1_000_000)
    notes: Any = error.__notes__
    notes.append(object())
    return error


@pytest.mark.parametrize("make", [circular, long_chain, wide_group, noted])
async def test_an_error_of_any_shape_is_recorded_within_bounds(make: Callable[[], Exception]) -> None:
    """Its record is text of a bounded length."""

    async def bad() -> NoReturn:
        raise make()

    dag = DAG("d")
    dag.add(bad, id="bad")
    with anyio.fail_after(PATIENCE_S):
        async with Runtime(":memory:") as runtime:
            error = (await runtime.run(dag, raise_on_failure=False)).tasks["bad"].error
    assert error is not None
    assert error.type in {"ValueError", "ExceptionGroup"}
    assert len(error.message) + len(error.traceback) < 50_000


@pytest.mark.parametrize("durability", list(Durability))
async def test_an_orphan_that_pushes_later_writes_nothing(store: Store, durability: Durability) -> None:
    """A task that a handler left behind finds its attempt over, while the run goes on and after it."""
    dag, probe, errors, listed = DAG("d"), Probe(), list[BaseException](), list[XComEntry]()

    async def orphan(ctx: TaskContext, door: str) -> None:
        await probe.reach(door)
        for ask in (partial(ctx.xcom.push, "late", 1), partial(ctx.xcom.push_many, {"late": 1}), partial(ctx.xcom.delete, "k")):
            try:
                await ask()
            except DagrelayError as error:
                errors.append(error)
        probe.open(f"{door} done")

    async with anyio.create_task_group() as outside:

        @dag.task
        async def spawns(ctx: TaskContext) -> str:
            for door in ("during", "after"):
                outside.start_soon(orphan, ctx, door)
            return "over"

        @dag.task
        async def follows(value: str = spawns.output) -> str:
            probe.open("during")
            await probe.reach("during done")
            return value

        async with Runtime(store, durability=durability) as runtime:
            with anyio.fail_after(PATIENCE_S):
                assert (await runtime.run(dag, run_id="r"))[follows] == "over"
                probe.open("after")
                await probe.reach("after done")
            listed += await runtime.xcom.list("r", all_attempts=True)
    assert [type(error) for error in errors] == [StaleAttemptError] * 6
    assert sorted((entry.task_id, entry.key) for entry in listed) == [("follows", "return_value"), ("spawns", "return_value")]


async def test_a_context_used_after_its_runtime_is_refused(store: Store) -> None:
    """Writes and reads alike, at once."""
    dag, kept = DAG("d"), list[TaskContext]()

    @dag.task
    async def first() -> int:
        return 1

    @dag.task(depends_on=first)
    async def keeps(ctx: TaskContext) -> None:
        kept.append(ctx)

    async with Runtime(store) as runtime:
        await runtime.run(dag)
    xcom = kept[0].xcom
    asks: list[Callable[[], Any]] = [
        partial(xcom.push, "k", 1),
        partial(xcom.push_many, {"k": 1}),
        partial(xcom.delete, "k"),
    ]
    with anyio.fail_after(PATIENCE_S):
        for ask in asks:
            with pytest.raises(StaleAttemptError):
                await ask()


async def in_another_loop(ask: Callable[[], Any]) -> BaseException | None:
    """Return what a call raises in a loop of its own, in a thread of its own."""
    raised: list[BaseException | None] = []

    async def call() -> None:
        try:
            await ask()
        except BaseException as error:  # noqa: ASYNC103, BLE001 - the test looks at what it is
            raised.append(error)
        else:
            raised.append(None)

    thread = threading.Thread(target=anyio.run, args=(call,), daemon=True)
    thread.start()
    await anyio.to_thread.run_sync(partial(thread.join, PATIENCE_S), abandon_on_cancel=True)
    assert not thread.is_alive(), "it hangs"
    return raised[0]


async def test_whatever_belongs_to_the_loop_is_refused_in_another(store: Store) -> None:
    """An answer could not wake a caller in another loop, so that it would wait for ever."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def first() -> int:
        return 1

    @dag.task(depends_on=first)
    async def asked(ctx: TaskContext) -> None:
        xcom = ctx.xcom
        asks: list[Callable[[], Any]] = [
            partial(xcom.push, "k", 1),
            partial(xcom.push_many, {"k": 1}),
            partial(xcom.delete, "k"),
            partial(xcom.pull, "first"),
            partial(xcom.pull_own, "k"),
            xcom.pull_from_upstream,
            xcom.list,
        ]
        for ask in asks:
            probe.note(type(await in_another_loop(ask)))

    with anyio.fail_after(3 * PATIENCE_S):
        async with Runtime(store) as runtime:
            await runtime.run(dag, run_id="r")
            kept = runtime.xcom
            asks: list[Callable[[], Any]] = [
                lambda: kept.push("r", "first", "k", 1),
                lambda: kept.pull("r", "first"),
                lambda: kept.pull_outputs("r", "first"),
                lambda: kept.pull_many("r", [("first", "return_value")]),
                lambda: kept.pull_from_upstream("r", "asked", dag),
                lambda: kept.delete("r", "first"),
                lambda: kept.list("r"),
                lambda: runtime.run(dag),
                lambda: runtime.start(dag),
                lambda: runtime.resume("r", dag),
                lambda: runtime.retry("r", "first", dag),
                lambda: runtime.recover([dag]),
                lambda: runtime.cancel("r"),
                lambda: runtime.get_run("r"),
                runtime.runs,
                lambda: runtime.task_instances("r"),
                lambda: runtime.delete_run("r"),
                lambda: runtime.xcom.push("r", "first", "k", 1),
                lambda: runtime.xcom.pull("r", "first"),
                lambda: runtime.xcom.list("r"),
            ]
            for ask in asks:
                probe.note(type(await in_another_loop(ask)))
            assert (await runtime.run(dag)).state is RunState.SUCCESS
            assert (await runtime.get_run("r")).state is RunState.SUCCESS
    assert probe.counts == {RuntimeClosedError: 7 * 2 + 20}


async def test_a_worker_thread_reaches_the_runtime_through_its_loop(store: Store) -> None:
    """That is the way the error names."""
    dag = DAG("d")

    @dag.task
    def asks() -> str:
        return anyio.from_thread.run(runtime.get_run, "r").dag_id

    async with Runtime(store) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(dag, run_id="r"))[asks] == "d"
