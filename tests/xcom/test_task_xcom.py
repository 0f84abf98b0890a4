"""`ctx.xcom`: what one attempt may write, and what it may read."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.to_thread
import attrs
import pytest

from dagrelay.dag.definition import DAG
from dagrelay.errors import (
    InvalidIdError,
    NotUpstreamError,
    RuntimeClosedError,
    StaleAttemptError,
    XComNotFoundError,
    XComSerializationError,
    XComTooLargeError,
    XComTypeError,
)
from dagrelay.model.policies import Limits
from dagrelay.model.states import TaskState
from dagrelay.stores.operations import PutEntries, StartAttempt
from dagrelay.xcom.run_data import RunData
from dagrelay.xcom.task_xcom import TaskXCom
from tests.xcom.desk import at_work

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable

    from dagrelay.stores.base import Store
    from tests.xcom.desk import Desk, LiveRun


@dataclass
class Point:
    """A value that comes back typed."""

    x: int


dag = DAG("dag")


@dag.task
async def one() -> Point:
    """Go first."""
    return Point(1)


@dag.task(depends_on=one)
async def two() -> None:
    """Go second."""


@dag.task(depends_on=two)
async def three() -> None:
    """Go third."""


@dag.task
async def stranger() -> None:
    """Go beside."""


@attrs.define
class Facts:
    """What an attempt tells of itself."""

    run: LiveRun
    task_id: str
    number: int = 1
    is_over: bool = False
    is_started: bool = False
    reads: list[str] = attrs.field(factory=list[str])
    has_time_limit: bool = False

    @asynccontextmanager
    async def parked(self, *, keeps_room: bool = False) -> AsyncGenerator[None]:  # noqa: ARG002 - as the protocol has it
        """Hold no slot anyway."""
        yield

    def restart(self) -> None:
        """End it."""
        self.is_over = True

    def note_reads(self, texts: Iterable[str]) -> None:
        """Note reads."""
        self.reads += texts

    def ensure_started(self) -> None:
        """Have the start recorded, once."""
        if not self.is_started:
            self.is_started = True
            self.run.record_start(self.task_id, self.number)


class Attempts:
    """The attempts of one run of the DAG."""

    def __init__(self, desk: Desk, run: LiveRun) -> None:
        """Take the run."""
        self.run = run
        self.plan = dag.plan()
        self.states = [TaskState.PENDING] * len(self.plan.tasks)
        self.data = RunData(
            plan=self.plan,
            book=run.book,
            broker=desk.broker,
            store=desk.store,
            door=desk.door,
            states=self.states,
            element_state=lambda _index, _map_index: None,
            lengths={},
        )

    def of(self, task_id: str, number: int = 1) -> tuple[TaskXCom, Facts]:
        """Open an attempt."""
        facts = Facts(self.run, task_id, number)
        self.run.open(task_id, number)
        return TaskXCom(self.data, self.plan.index[task_id], facts), facts

    async def end(self, task_id: str, number: int = 1, state: TaskState = TaskState.SUCCESS, **values: bytes) -> None:
        """End an attempt, with values."""
        self.states[self.plan.index[task_id]] = state
        self.run.open(task_id, number)
        outcome = self.run.outcome(task_id, number, state, values)
        assert self.run.broker.hand_in(self.run.book, outcome, is_start_written=True)
        await self.run.broker.barrier()


async def begin(desk: Desk, *, is_pipelined: bool = False) -> Attempts:
    """Start a run of the DAG."""
    return Attempts(desk, await desk.enter(is_pipelined=is_pipelined, tasks=dag.plan().task_ids))


# ---------------------------------------------------------------------------------------------------------- writing


async def test_a_push_tells_what_it_stored(store: Store) -> None:
    """After the attempt's start."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        xcom, facts = attempts.of("one")
        entry = await xcom.push("k", {"a": 1}, description="d", sensitive=True)
        assert facts.is_started
        assert (entry.run_id, entry.dag_id, entry.task_id, entry.attempt, entry.lifetime) == ("run", "dag", "one", 1, "attempt")
        assert (entry.key, entry.size_bytes, entry.description, entry.sensitive) == ("k", 7, "d", True)
        assert [type(operation) for batch in desk.store.batches for operation in batch][1:] == [StartAttempt, PutEntries]
        ((listed, _),) = await store.entries("run", all_attempts=True)
        assert attrs.evolve(listed, state=None) == entry


async def test_a_push_is_a_snapshot(memory: Store) -> None:
    """What the handler does to the value while it waits changes nothing."""
    async with at_work(memory) as desk:
        xcom, _ = (await begin(desk)).of("one")
        value = [1]
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(xcom.push, "k", value)
            await anyio.wait_all_tasks_blocked()
            value.append(2)
            desk.store.writes.open()
        assert await xcom.pull_own("k") == [1]


async def test_several_are_stored_all_or_none(store: Store) -> None:
    """In one operation."""
    async with at_work(store) as desk:
        xcom, _ = (await begin(desk)).of("one")
        entries = await xcom.push_many({"a": 1, "b": 2}, sensitive=True)
        assert [(entry.key, entry.sensitive) for entry in entries] == [("a", True), ("b", True)]
        with pytest.raises(XComSerializationError):
            await xcom.push_many({"c": 1, "d": float("nan")})
        with pytest.raises(InvalidIdError):
            await xcom.push_many({"c": 1, "": 1})
        assert await xcom.push_many({}) == []
        assert [entry.key for entry in await xcom.list()] == ["a", "b"]


async def test_an_attempt_that_is_over_can_not_write(store: Store) -> None:
    """Nothing of it is stored."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        xcom, facts = attempts.of("one")
        facts.is_over = True
        calls: list[Callable[[], Any]] = [
            lambda: xcom.push("k", 1),
            lambda: xcom.push_many({"k": 1}),
            lambda: xcom.delete("k"),
        ]
        for call in calls:
            with pytest.raises(StaleAttemptError, match="attempt 1 of task 'one'"):
                await call()
        facts.is_over = False
        attempts.of("one", 2)
        with pytest.raises(StaleAttemptError):
            await xcom.push("k", 1)
        assert await store.entries("run", all_attempts=True) == []


async def test_limits_hold_in_tasks_too(memory: Store) -> None:
    """A push may have one of its own."""
    async with at_work(memory, limits=Limits(max_xcom_bytes=10)) as desk:
        xcom, _ = (await begin(desk)).of("one")
        with pytest.raises(XComTooLargeError):
            await xcom.push("k", "x" * 20)
        await xcom.push("k", "x" * 20, max_bytes=22)
        with pytest.raises(XComTooLargeError):
            await xcom.push("k", "x" * 20, max_bytes=21)


async def test_deleting_takes_back_what_the_attempt_pushed(store: Store) -> None:
    """And what the task did, but nothing from outside; the start is told before."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        mailbox = desk.broker.follow("run")
        xcom, facts = attempts.of("one")
        assert await xcom.delete("none") == 0
        assert facts.is_started
        await xcom.push("k", 1)
        await xcom.push("k", 2, lifetime="task")
        await desk.manager.push("run", "one", "k", 3)
        assert await xcom.delete("k") == 2
        assert await xcom.pull_own("k") == 3
        with pytest.raises(InvalidIdError):
            await xcom.delete("\n")
        seqs = [event.seq for event in mailbox.drain_nowait(100)]
        assert seqs == sorted(seqs)


# ---------------------------------------------------------------------------------------------------------- its own


async def test_an_attempt_sees_its_own_entries_at_once(store: Store) -> None:
    """Over the task-lifetime one, and that over the outside one."""
    async with at_work(store) as desk:
        xcom, _ = (await begin(desk)).of("one")
        with pytest.raises(XComNotFoundError, match="no XCom 'k' of task 'one'"):
            await xcom.pull_own("k")
        assert await xcom.pull_own("k", default=None) is None
        await desk.manager.push("run", "one", "k", 0)
        assert await xcom.pull_own("k") == 0
        await xcom.push("k", {"x": 1}, lifetime="task")
        assert await xcom.pull_own("k", as_type=Point) == Point(1)
        await xcom.push("k", None)
        assert await xcom.pull_own("k", default=7) is None


async def test_a_new_attempt_starts_clean_but_for_checkpoints(store: Store) -> None:
    """Task-lifetime entries are kept; nobody else sees them before success."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        first, _ = attempts.of("one")
        await first.push("k", 1)
        await first.push("checkpoint", 5, lifetime="task")
        await attempts.end("one", state=TaskState.UP_FOR_RETRY)
        second, _ = attempts.of("one", 2)
        assert await second.pull_own("k", default="gone") == "gone"
        assert await second.pull_own("checkpoint") == 5
        assert [(entry.key, entry.attempt) for entry in await second.list()] == [("checkpoint", 1)]
        reader, _ = attempts.of("three")
        assert await reader.pull("one", "checkpoint", default="unseen") == "unseen"
        await attempts.end("one", 2)
        assert await reader.pull("one", "checkpoint") == 5
        assert await reader.pull("one", "k", default="gone") == "gone"


async def test_lists_show_what_the_attempt_sees(store: Store) -> None:
    """One entry for each key, by key; of several the one that is pulled."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        first, _ = attempts.of("one")
        await first.push("lost", 1)
        await attempts.end("one", state=TaskState.UP_FOR_RETRY)
        xcom, _ = attempts.of("one", 2)
        assert await xcom.list() == []
        await desk.manager.push("run", "one", "b", 0)
        await desk.manager.push("run", "one", "c", 0)
        await desk.manager.push("run", "one", "a", 0, map_index=1)
        await xcom.push("b", 0, lifetime="task")
        await xcom.push("a", 0)
        await xcom.push("b", 0)
        assert [(entry.key, entry.lifetime) for entry in await xcom.list()] == [("a", "attempt"), ("b", "attempt"), ("c", "run")]
        await xcom.delete("b")
        await xcom.push("c", 0, lifetime="task")
        assert [(entry.key, entry.lifetime) for entry in await xcom.list()] == [("a", "attempt"), ("b", "run"), ("c", "task")]


# ---------------------------------------------------------------------------------------------------------- pulling


async def test_the_shape_is_decided_by_what_is_asked_for(store: Store) -> None:
    """A Task gives its typed value, an id plain JSON, a list a dict by id."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        await attempts.end("one", return_value=b'{"x":1}', k=b'{"x":2}')
        await attempts.end("two", return_value=b"null")
        xcom, _ = attempts.of("three")
        assert await xcom.pull(one) == Point(1)
        assert await xcom.pull("one") == {"x": 1}
        assert await xcom.pull("one", as_type=Point) == Point(1)
        assert await xcom.pull(one, "k") == {"x": 2}
        assert await xcom.pull(one, "k", as_type=Point) == Point(2)
        assert await xcom.pull(two, default=7) is None
        assert await xcom.pull(["two", "one"]) == {"two": None, "one": {"x": 1}}
        assert await xcom.pull(["one"], as_type=Point) == {"one": Point(1)}
        assert await xcom.pull([]) == {}
        with pytest.raises(XComTypeError):
            await xcom.pull("one", as_type=int)


async def test_every_pull_is_a_copy(memory: Store) -> None:
    """Nobody sees what another does to it."""
    async with at_work(memory) as desk:
        attempts = await begin(desk)
        await attempts.end("one", return_value=b"[1]")
        xcom, _ = attempts.of("two")
        taken = await xcom.pull("one")
        taken.append(2)
        assert await xcom.pull("one") == [1]


async def test_a_list_is_one_read(memory: Store) -> None:
    """However long."""
    async with at_work(memory) as desk:
        attempts = await begin(desk)
        await attempts.end("one", return_value=b"1")
        await attempts.end("two", return_value=b"2")
        desk.broker.cache.forget_run("run")
        xcom, _ = attempts.of("three")
        assert await xcom.pull(["one", "two"]) == {"one": 1, "two": 2}
        assert [len(lookups) for lookups in desk.store.lookups] == [2]


async def test_what_is_missing_raises_or_takes_the_default(store: Store) -> None:
    """A stored None is a value; each missing one of a list takes the default."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        await attempts.end("one", return_value=b"null", row_count=b"1")
        await attempts.end("two", state=TaskState.SKIPPED)
        xcom, _ = attempts.of("three")
        assert await xcom.pull("one", default=7) is None
        assert await xcom.pull("two", default=7) == 7
        assert await xcom.pull(two, default=8) == 8
        assert await xcom.pull(["one", "two"], default=7) == {"one": None, "two": 7}
        with pytest.raises(XComNotFoundError, match=r"\(the task is skipped\)"):
            await xcom.pull(["one", "two"])
        with pytest.raises(XComNotFoundError) as caught:
            await xcom.pull("one", "row_cuont")
        error = caught.value
        assert (error.run_id, error.task_id, error.key, error.state) == ("run", "one", "row_cuont", "success")
        assert error.near == ("row_count",)


async def test_only_upstreams_can_be_pulled(memory: Store) -> None:
    """Others are a race, or a slip of the pen; not even a default helps."""
    async with at_work(memory) as desk:
        attempts = await begin(desk)
        xcom, _ = attempts.of("two")
        for other in ("stranger", "three", "two", stranger):
            with pytest.raises(NotUpstreamError, match="is not upstream of it"):
                await xcom.pull(other, default=1)
        with pytest.raises(NotUpstreamError, match=r"the DAG has no such task; did you mean 'one'\?"):
            await xcom.pull("oen", default=1)
        with pytest.raises(NotUpstreamError):
            await xcom.pull(["one", "stranger"], default=1)
        with pytest.raises(InvalidIdError):
            await xcom.pull("one", "")


async def test_a_failed_task_is_readable_if_asked_for(store: Store) -> None:
    """What its last attempt pushed, and that only."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        await attempts.end("one", 1, TaskState.UP_FOR_RETRY, k=b"1", old=b"1")
        await attempts.end("one", 2, TaskState.FAILED, k=b"2")
        xcom, _ = attempts.of("three")
        assert await xcom.pull("one", "k", default="unseen") == "unseen"
        assert await xcom.pull("one", "k", include_failed=True) == 2
        assert await xcom.pull(["one"], "k", include_failed=True) == {"one": 2}
        assert await xcom.pull("one", "old", default="unseen", include_failed=True) == "unseen"


async def test_what_a_running_upstream_published_is_seen_at_once(store: Store) -> None:
    """And gone with the attempt if that fails; what it did not publish is seen after its success."""
    async with at_work(store) as desk:
        attempts = await begin(desk)
        writer, _ = attempts.of("one")
        reader, _ = attempts.of("three")
        await writer.push("k", 1, publish=True)
        await writer.push("l", 1)
        await writer.push("m", 1, lifetime="task", publish=True)
        assert await reader.pull("one", "k") == 1
        assert await reader.pull("one", "m") == 1
        assert await reader.pull("one", "l", default="unseen") == "unseen"
        await attempts.end("one", state=TaskState.UP_FOR_RETRY)
        assert await reader.pull("one", "k", default="gone") == "gone"
        attempts.of("one", 2)
        assert await reader.pull("one", "k", default="gone") == "gone"
        await attempts.end("one", 2)
        assert await reader.pull("one", "m") == 1
        assert await reader.pull("one", "k", default="gone") == "gone"


# --------------------------------------------------------------------------------------------------------- upstream


@pytest.mark.parametrize("is_pipelined", [False, True])
async def test_upstream_values_come_in_topological_order(store: Store, *, is_pipelined: bool) -> None:
    """Those of all upstreams, or of the direct ones; what was accepted is waited for where dependants start on it."""
    async with at_work(store) as desk:
        attempts = await begin(desk, is_pipelined=is_pipelined)
        await attempts.end("one", return_value=b"1", k=b"2")
        attempts.run.finish("two", values={"return_value": b"3"})
        if not is_pipelined:
            await desk.broker.barrier()
        xcom, _ = attempts.of("three")
        found = await xcom.pull_from_upstream()
        assert found == {"one": {"return_value": 1, "k": 2}, "two": {"return_value": 3}}
        assert list(found) == ["one", "two"]
        assert await xcom.pull_from_upstream(direct=True) == {"two": {"return_value": 3}}


# ---------------------------------------------------------------------------------------------------------- threads


async def test_it_belongs_to_the_loops_thread(memory: Store) -> None:
    """A sync handler goes through `anyio.from_thread.run`."""
    async with at_work(memory) as desk:
        attempts = await begin(desk)
        await attempts.end("one", return_value=b"1")
        xcom, _ = attempts.of("two")

        def handler() -> int:
            calls: list[Callable[[], Any]] = [
                lambda: xcom.push("k", 1),
                lambda: xcom.push_many({"k": 1}),
                lambda: xcom.delete("k"),
                lambda: xcom.pull("one"),
                lambda: xcom.pull_own("k"),
                xcom.pull_from_upstream,
                xcom.list,
            ]
            for call in calls:
                coroutine = call()
                with pytest.raises(RuntimeClosedError, match="outside the runtime's event loop"):
                    coroutine.send(None)
            anyio.from_thread.run(xcom.push, "k", 5)
            pulled: int = anyio.from_thread.run(xcom.pull, "one")
            return pulled

        assert await anyio.to_thread.run_sync(handler) == 1
        assert await xcom.pull_own("k") == 5
