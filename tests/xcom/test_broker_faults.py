"""What becomes of callers and runs when the store fails, and when the broker itself does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.errors import (
    DagrelayError,
    RuntimeClosedError,
    StaleAttemptError,
    StaleOwnerError,
    StoreError,
    StoreFullError,
    StoreVanishedError,
)
from dagrelay.model.policies import Limits
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.operations import MarkInstance, SetRunState
from dagrelay.testing.faulty import FaultyStore
from dagrelay.xcom.broker import FATAL_ERRORS, Broker
from tests.xcom.desk import at_work

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from anyio.abc import TaskGroup

    from dagrelay.stores.base import Store
    from tests.xcom.desk import LiveRun


def failing(errors: list[Exception], task_group: TaskGroup, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Start a call whose error, if there is one, goes into a list."""

    async def run() -> None:
        try:
            await call()
        except DagrelayError as error:
            errors.append(error)

    task_group.start_soon(run)


def end_of(run: LiveRun, state: RunState = RunState.INTERRUPTED) -> SetRunState:
    """Return the record of a run's end."""
    return SetRunState(run_id=run.book.run_id, state=state, at_us=1, seq=run.book.next_seq())


def full() -> StoreFullError:
    """Return a full disk, with its cause."""
    error = StoreFullError("store")
    error.__cause__ = OSError("no space left on device")
    return error


async def test_a_failed_batch_fails_each_of_its_callers(memory: Store) -> None:
    """With an error of its own, the cause kept; nothing of it is at hand any more."""
    async with at_work(memory) as desk:
        book = await desk.broker.book("guest")
        run = await desk.enter()
        run.start()
        await desk.broker.barrier()
        desk.store.writes.shut()
        one: list[Exception] = []
        two: list[Exception] = []
        three: list[Exception] = []
        async with anyio.create_task_group() as callers:
            failing(one, callers, lambda: run.push({"k": b"1"}))
            await anyio.wait_all_tasks_blocked()
            failing(two, callers, lambda: run.push({"l": b"1"}))
            failing(three, callers, lambda: run.push({"m": b"1"}))
            await anyio.wait_all_tasks_blocked()
            desk.store.fail(full(), at=2)
            desk.store.writes.open()
        assert one == []
        assert [type(error) for error in two + three] == [StoreFullError, StoreFullError]
        assert two[0] is not three[0]
        assert str(two[0].__cause__) == "no space left on device"
        assert desk.broker.statistics().pending_bytes == 0
        assert desk.broker.statistics().cache.pending == 0
        assert await run.find("k") == b"1"
        assert await run.find("l") is None
        assert run.book.account.bytes == 1
        assert book.failure is None


async def test_a_failed_write_stops_its_run_and_no_other(memory: Store) -> None:
    """Lost outcomes are reported, later operations dropped or refused; the end can still be recorded."""
    async with at_work(memory) as desk:
        run, other = await desk.enter(), await desk.enter("other")
        desk.store.writes.shut()
        lost = run.finish("a", values={"k": b"1"})
        await anyio.wait_all_tasks_blocked()
        later = run.finish("b", values={"k": b"1"})
        theirs = other.finish("a")
        desk.store.fail(full())
        pushed: list[Exception] = []
        async with anyio.create_task_group() as callers:
            failing(pushed, callers, lambda: run.push({"k": b"1"}, slot=0))
            await anyio.wait_all_tasks_blocked()
            desk.store.writes.open()
        await desk.broker.barrier()
        assert [type(error) for error in run.reports.failures] == [StoreFullError, StoreFullError]
        assert run.reports.lost == [lost, later]
        assert run.reports.ended == []
        assert [type(error) for error in pushed] == [StoreFullError]
        assert isinstance(desk.broker.failure_of(run.book), StoreFullError)

        run.start("c")
        run.broker.cast(run.book, MarkInstance(instance=run.key("d"), state=TaskState.SKIPPED, at_us=1, seq=99))
        run.open("e")
        assert not run.broker.hand_in(run.book, run.outcome("e"), is_start_written=False)
        with pytest.raises(StoreFullError):
            await run.push({"k": b"1"}, slot=0)
        assert await desk.broker.write(end_of(run), run.book) == 1
        assert await memory.instances("run") == []
        assert await memory.entries("run", all_attempts=True) == []

        assert other.reports.ended == [theirs]
        assert other.reports.failures == []
        await other.push({"k": b"1"}, slot=0)
        assert desk.broker.failure_of(other.book) is None


async def test_a_run_that_was_left_is_not_told_what_it_lost(memory: Store) -> None:
    """Its scheduler is gone by then."""
    async with at_work(memory) as desk:
        run, other = await desk.enter(), await desk.enter("other")
        desk.store.writes.shut()
        run.finish("a")
        await anyio.wait_all_tasks_blocked()
        run.finish("b")
        theirs = other.finish("a")
        desk.store.answer([StoreError("bad page")])
        desk.store.writes.open()
        desk.store.writes.shut()
        await anyio.wait_all_tasks_blocked()
        told = len(run.reports.failures)
        desk.broker.leave_run(run.book)
        desk.store.writes.open()
        await desk.broker.barrier()
        assert other.reports.ended == [theirs]
        assert len(run.reports.failures) == told == 1


async def test_a_run_taken_up_again_after_a_fault_can_write(memory: Store) -> None:
    """The disk may have room by then."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        desk.store.fail(full())
        run.finish("a")
        await desk.broker.barrier()
        await run.end(RunState.INTERRUPTED)
        book = await desk.broker.book("run")
        desk.broker.enter_run(book, run.reports, is_pipelined=False)
        run.book = book
        await run.push({"k": b"1"}, slot=0)
        assert desk.broker.failure_of(book) is None


async def test_a_refused_cast_stops_its_run(memory: Store) -> None:
    """There is nobody else to tell."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        desk.store.answer([StaleAttemptError("run", "a", 1)])
        lost = run.finish("a")
        await desk.broker.barrier()
        assert run.reports.lost == [lost]
        assert "the store refused a record: attempt 1 of task 'a'" in str(run.reports.failures[0])


async def test_one_operation_that_the_medium_refuses_stops_its_run(memory: Store) -> None:
    """The others of its batch are written."""
    async with at_work(memory) as desk:
        run, other = await desk.enter(), await desk.enter("other")
        desk.store.writes.shut()
        run.start("x")
        await anyio.wait_all_tasks_blocked()
        lost, theirs = run.finish("a"), other.finish("a")
        desk.store.answer([1], [StoreError("bad page"), 1])
        desk.store.writes.open()
        await desk.broker.barrier()
        assert run.reports.lost == [lost]
        assert other.reports.ended == [theirs]


async def test_a_failed_push_to_a_run_that_is_not_live_concerns_nobody_else(memory: Store) -> None:
    """The next may succeed."""
    async with at_work(memory) as desk:
        desk.store.fail(full())
        with pytest.raises(StoreFullError):
            await desk.manager.push("run", "a", "k", 1)
        await desk.manager.push("run", "a", "k", 2)
        assert await desk.manager.pull("run", "a", "k") == 2


@pytest.mark.parametrize("is_upkeep", [False, True])
async def test_a_store_that_can_not_be_trusted_any_more_fails_all(memory: Store, *, is_upkeep: bool) -> None:
    """Every live run is told, whether it had something in the batch or not; nothing more reaches the store."""
    async with at_work(memory, limits=Limits(max_pending_bytes=10)) as desk:
        run, other = await desk.enter(), await desk.enter("other")
        await anyio.wait_all_tasks_blocked()
        desk.store.fail(StaleOwnerError("store"), on="maintain" if is_upkeep else "apply")
        desk.store.writes.shut()
        first = run.finish("a", values={"k": b"x" * 10})
        await anyio.wait_all_tasks_blocked()
        later = run.finish("b")
        pushed: list[Exception] = []
        waiting: list[Exception] = []
        async with anyio.create_task_group() as callers:
            failing(pushed, callers, lambda: other.push({"k": b"x" * 10}, slot=0))
            failing(waiting, callers, desk.broker.wait_for_room)
            await anyio.wait_all_tasks_blocked()
            desk.store.writes.open()
        await desk.broker.barrier()
        lost = [later] if is_upkeep else [first, later]
        assert [type(error) for error in run.reports.failures + other.reports.failures + pushed] == [StaleOwnerError] * 4
        assert run.reports.lost == lost
        assert other.reports.lost == []
        assert waiting == []
        batches = len(desk.store.batches)

        for each in (run, other):
            with pytest.raises(StaleOwnerError):
                await desk.broker.write(end_of(each), each.book)
            with pytest.raises(StaleOwnerError):
                await each.push({"k": b"1"}, slot=0)
            each.start("z")
            each.open("y")
            assert not each.broker.hand_in(each.book, each.outcome("y"), is_start_written=False)
        with pytest.raises(StaleOwnerError):
            await desk.manager.delete("guest", "a")
        assert len(desk.store.batches) == batches
        assert desk.deaths == []


async def test_housekeeping_that_fails_loses_nothing(memory: Store, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and work goes on."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        await anyio.wait_all_tasks_blocked()
        desk.store.fail(full(), on="maintain")
        await run.push({"k": b"1"}, slot=0)
        await run.push({"l": b"1"}, slot=0)
        await anyio.wait_all_tasks_blocked()
        assert len(desk.store.idle) == 3
        assert run.reports.failures == []
        assert desk.deaths == []
    assert "store.maintenance_failed" in [record.message for record in caplog.records]


@pytest.mark.parametrize("is_half_done", [False, True])
async def test_the_death_of_the_broker_hangs_nobody(memory: Store, *, is_half_done: bool) -> None:
    """A bug in the store: what it had in hand, what waits behind it, and every live run are told, with the cause."""
    async with at_work(memory, limits=Limits(max_pending_bytes=5 * 1024 * 1024)) as desk:
        run, other = await desk.enter(), await desk.enter("other")
        guest = await desk.broker.book("guest")
        await desk.broker.barrier()
        desk.store.writes.shut()
        run.start("x")
        await anyio.wait_all_tasks_blocked()
        first, second = run.finish("a"), run.finish("b", values={"k": b"x" * 4 * 1024 * 1024})
        in_batch: list[Exception] = []
        waits: list[Exception] = []
        late: list[Exception] = []
        async with anyio.create_task_group() as callers:
            failing(in_batch, callers, lambda: other.push({"k": b"1"}, slot=0))
            await anyio.wait_all_tasks_blocked()
            callers.start_soon(desk.broker.barrier)
            desk.store.fail(ZeroDivisionError("bug"), at=2 + is_half_done)
            failing(waits, callers, lambda: other.push({"k": b"x" * 2 * 1024 * 1024}, slot=0))
            await anyio.wait_all_tasks_blocked()
            desk.store.writes.open()
            await anyio.wait_all_tasks_blocked()
            failing(late, callers, lambda: desk.broker.write(end_of(other), guest))
            callers.start_soon(desk.broker.barrier)
        assert [type(error) for error in desk.deaths] == [ZeroDivisionError]
        for error in in_batch + waits + late:
            assert isinstance(error, StoreError)
            assert "the broker died: ZeroDivisionError('bug')" in str(error)
            assert error.__cause__ is desk.deaths[0]
        assert len(in_batch + waits + late) == 3
        # While several runs write a batch is small, and each of these large ones has its own.
        assert run.reports.ended == [first] * is_half_done
        assert run.reports.lost == [first, second][is_half_done:]
        assert [len(each.reports.failures) for each in (run, other)] == [1, 1]
        assert desk.broker.statistics().pending_bytes == 0
        run.open("c")
        assert not run.broker.hand_in(run.book, run.outcome("c"), is_start_written=False)


async def test_an_outcome_counts_once_even_if_the_broker_dies_after_its_commit(memory: Store) -> None:
    """What was settled before is not taken back."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        await anyio.wait_all_tasks_blocked()
        desk.store.fail(ZeroDivisionError("bug"), on="maintain")
        done = run.finish("a", values={"k": b"1"})
        await desk.broker.barrier()
        await anyio.wait_all_tasks_blocked()
        assert len(desk.deaths) == 1
        assert run.reports.ended == [done]
        assert run.reports.lost == []
        assert len(run.reports.failures) == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_of_the_broker_hangs_nobody(memory: Store) -> None:
    """As `asyncio.run` does to all that is left at its end."""
    store = FaultyStore(memory)
    broker = Broker(store, Limits())
    task = asyncio.get_running_loop().create_task(broker.run())
    book = await broker.book("run")
    store.writes.shut()
    held: list[Exception] = []
    waiting: list[Exception] = []
    async with anyio.create_task_group() as callers:
        failing(held, callers, lambda: broker.write(delete_of("run"), book))
        await anyio.wait_all_tasks_blocked()
        failing(waiting, callers, lambda: broker.write(delete_of("run"), book))
        await anyio.wait_all_tasks_blocked()
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert "the broker died" in str(held[0])
    assert "the broker died" in str(waiting[0])


def delete_of(run_id: str) -> SetRunState:
    """Return any operation."""
    return SetRunState(run_id=run_id, state=RunState.SUCCESS, at_us=1, seq=1)


async def test_a_broker_that_never_ran_is_closed(memory: Store) -> None:
    """Closing tells those who wait when it runs at last."""
    broker = Broker(FaultyStore(memory), Limits())
    book = await broker.book("run")
    done: list[Exception] = []
    async with anyio.create_task_group() as callers:
        failing(done, callers, lambda: broker.write(delete_of("run"), book))
        await anyio.wait_all_tasks_blocked()
        broker.close()
        await broker.run()
    assert [type(error).__name__ for error in done] == ["RunNotFoundError"]
    with pytest.raises(RuntimeClosedError):
        await broker.write(delete_of("run"), book)


async def test_cancelling_the_host_application_still_commits(memory: Store) -> None:
    """The broker shields itself."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.start()
        desk.store.writes.shut()
        run.finish("b", values={"k": b"1"})
        await anyio.wait_all_tasks_blocked()
        desk.task_group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            desk.store.writes.open()
            await desk.broker.barrier()
            assert await memory.stored_bytes("run") == 1


async def test_an_unreadable_store_opens_no_page(memory: Store) -> None:
    """Whoever asked is told."""
    async with at_work(memory) as desk:
        await memory.close()
        with pytest.raises(StoreError):
            await desk.broker.book("run")
        await memory.open(now_us=1)
        assert (await desk.broker.book("run")).next_seq() == 1


def test_a_vanished_file_is_fatal() -> None:
    """As are a lost ownership, damage, and a closed store; a full disk is not."""
    assert issubclass(StoreVanishedError, FATAL_ERRORS)
    assert not issubclass(StoreFullError, FATAL_ERRORS)
