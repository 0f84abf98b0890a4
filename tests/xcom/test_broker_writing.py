"""The broker writes: in order, in batches that gather by themselves, and tells nobody "done" before it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.errors import (
    RuntimeClosedError,
    StaleAttemptError,
    XComConflictError,
    XComTooLargeError,
)
from dagrelay.model.policies import Limits
from dagrelay.model.records import InstanceKey
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import RETURN_VALUE, DeleteEntries, DeleteRun, MarkInstance, PruneRuns, SetRunState, StartAttempt
from tests.xcom.desk import at_work, draft

if TYPE_CHECKING:
    from dagrelay.stores.base import Store
    from tests.xcom.desk import LiveRun


def delete(run: LiveRun, key: str | None = None, task_id: str = "a") -> DeleteEntries:
    """Return a deletion from outside."""
    return DeleteEntries(run_id=run.book.run_id, task_id=task_id, key=key, slots=None, at_us=1, seq=run.book.next_seq())


async def stored(store: Store, run: LiveRun, key: str, task_id: str = "a", slot: int = 1) -> bytes | None:
    """Return what is on disk."""
    (found,) = await store.lookup([Lookup(instance=run.key(task_id), key=key, slots=(slot,))])
    return None if found is None else found.value


# ---------------------------------------------------------------------------------------------------------- batches


async def test_a_push_returns_once_it_is_stored(memory: Store) -> None:
    """Not before, and nobody waits on a timer: its commit begins at once."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.start()
        done = anyio.Event()

        async def push() -> None:
            await run.push({"k": b"1"})
            assert await stored(memory, run, "k") == b"1"
            done.set()

        desk.store.writes.shut()
        desk.task_group.start_soon(push)
        await anyio.wait_all_tasks_blocked()
        assert len(desk.store.batches) == 2
        assert not done.is_set()
        assert await stored(memory, run, "k") is None
        desk.store.writes.open()
        await done.wait()


async def test_pushes_of_one_moment_share_one_commit(memory: Store) -> None:
    """While one commit is under way, the next batch gathers by itself."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.start()
        await desk.broker.barrier()
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(run.push, {"first": b"1"})
            await anyio.wait_all_tasks_blocked()
            for number in range(50):
                pushers.start_soon(run.push, {f"k{number}": b"1"})
            await anyio.wait_all_tasks_blocked()
            assert desk.broker.statistics().mailbox.waiting == 50
            assert desk.broker.statistics().pending_bytes == 51
            desk.store.writes.open()
        assert [len(batch) for batch in desk.store.batches] == [1, 1, 1, 50]
        assert desk.broker.statistics().pending_bytes == 0
        assert desk.broker.statistics().operations == 53


async def test_a_batch_has_at_most_1024_operations(memory: Store) -> None:
    """So that one flood does not hold a transaction for ever."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        for number in range(1500):
            run.start(f"t{number}")
        await desk.broker.barrier()
        assert [len(batch) for batch in desk.store.batches] == [1, 1024, 476]


async def test_a_batch_has_at_most_4_mib(memory: Store) -> None:
    """By the bytes of the values."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        for number in range(5):
            run.finish(f"t{number}", values={"k": b"x" * 1024 * 1024})
        await desk.broker.barrier()
        assert [len(batch) for batch in desk.store.batches] == [1, 4, 1]


async def test_operations_are_written_in_order_of_acceptance(store: Store) -> None:
    """Pushes, outcomes and deletions alike; the last write of a key stands."""
    async with at_work(store) as desk:
        run = await desk.enter()
        run.start()
        await run.push({"k": b"1", "l": b"1"})
        await run.push({"k": b"2"})
        assert await desk.broker.write(delete(run, "l"), run.book) == 1
        assert run.broker.hand_in(run.book, run.outcome(values={RETURN_VALUE: b"3"}), is_start_written=True)
        await run.end()
        listed = await store.entries("run", with_values=True)
        assert {entry.key: value.value for entry, value in listed if value} == {"k": b"2", RETURN_VALUE: b"3"}
        found = await store.find_run("run")
        assert found is not None
        assert found.run.state is RunState.SUCCESS


async def test_housekeeping_knows_whether_work_waits(memory: Store) -> None:
    """It comes after each drain."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        assert desk.store.idle == [True]
        desk.store.writes.shut()
        run.start("a")
        await anyio.wait_all_tasks_blocked()
        run.start("b")
        desk.store.writes.open()
        await desk.broker.barrier()
        await anyio.wait_all_tasks_blocked()
        assert desk.store.idle == [True, False, True]


async def test_a_barrier_waits_for_everything_before_it(memory: Store) -> None:
    """And is no operation."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        desk.store.writes.shut()
        run.start()
        passed = anyio.Event()

        async def wait() -> None:
            await desk.broker.barrier()
            passed.set()

        desk.task_group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not passed.is_set()
        desk.store.writes.open()
        await passed.wait()
        assert len(await memory.instances("run")) == 1
        await desk.broker.barrier()
        assert [len(batch) for batch in desk.store.batches] == [1, 1]


async def test_what_follows_an_operation_is_written_with_it(memory: Store) -> None:
    """A refusal of it is nobody's."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        end = SetRunState(run_id="run", state=RunState.SUCCESS, at_us=1, seq=run.book.next_seq())
        desk.store.writes.shut()
        run.start("a")
        await anyio.wait_all_tasks_blocked()
        desk.task_group.start_soon(desk.broker.barrier)
        desk.store.writes.open()
        assert await desk.broker.write(end, run.book, then=[PruneRuns(dag_id="dag", keep=0, at_us=1)]) == 1
        found = await memory.find_run("run")
        assert found is not None
        assert found.is_pruned
        again = SetRunState(run_id="run", state=RunState.SUCCESS, at_us=1, seq=run.book.next_seq())
        assert await desk.broker.write(DeleteRun(run_id="none", at_us=1), then=[again]) == 0
        assert run.reports.failures == []


# --------------------------------------------------------------------------------------------------------- refusals


async def test_a_stale_attempt_can_not_push(store: Store) -> None:
    """Not one that was superseded, nor one that has handed in its outcome; nothing of it is stored."""
    async with at_work(store) as desk:
        run = await desk.enter()
        run.start(attempt=1)
        run.open(attempt=2)
        with pytest.raises(StaleAttemptError):
            await run.push({"k": b"1"}, slot=1)
        run.finish("b")
        with pytest.raises(StaleAttemptError):
            await run.push({"k": b"1"}, "b")
        with pytest.raises(StaleAttemptError):
            run.broker.hand_in(run.book, run.outcome("b"), is_start_written=False)
        await desk.broker.barrier()
        assert await store.entries("run", all_attempts=True) == []
        assert run.reports.failures == []


async def test_a_push_that_waited_too_long_is_stale(memory: Store) -> None:
    """The attempt is checked at acceptance and not at the call."""
    async with at_work(memory, limits=Limits(max_pending_bytes=10)) as desk:
        run = await desk.enter()
        run.start("a")
        run.start("b")
        desk.store.writes.shut()
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(run.push, {"k": b"x" * 10}, "a")
            await anyio.wait_all_tasks_blocked()

            async def late() -> None:
                with pytest.raises(StaleAttemptError):
                    await run.push({"k": b"1"}, "b")

            pushers.start_soon(late)
            await anyio.wait_all_tasks_blocked()
            run.book.close_attempt(run.key("b"), 1)
            desk.store.writes.open()
        assert await stored(memory, run, "k", "b") is None


async def test_an_operation_refused_by_the_store_fails_its_caller_only(store: Store) -> None:
    """The run and everybody else go on."""
    async with at_work(store) as desk:
        run = await desk.enter()
        run.finish(values={RETURN_VALUE: b"1"})
        with pytest.raises(XComConflictError):
            await run.push({RETURN_VALUE: b"2"}, slot=0)
        assert await run.find(RETURN_VALUE) == b"1"
        assert run.reports.failures == []
        assert [each.state for each in run.reports.ended] == [TaskState.SUCCESS]
        with pytest.raises(XComConflictError):
            await run.push({RETURN_VALUE: b"2"}, slot=0)
        assert await run.find(RETURN_VALUE, slots=(0,)) is None


async def test_a_closed_broker_takes_nothing_and_writes_what_it_took(memory: Store) -> None:
    """Those who come late are told."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.start()
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(run.push, {"k": b"1"})
            await anyio.wait_all_tasks_blocked()
            desk.broker.close()
            with pytest.raises(RuntimeClosedError):
                await run.push({"l": b"1"})
            with pytest.raises(RuntimeClosedError):
                await desk.broker.write(delete(run), run.book)
            await desk.broker.barrier()
            assert await stored(memory, run, "k") is None
            desk.store.writes.open()
        assert await stored(memory, run, "k") == b"1"


async def test_a_cancelled_push_is_not_stored_if_it_was_not_accepted(memory: Store) -> None:
    """Accepted, it is stored all the same: acceptance is the point that counts."""
    async with at_work(memory, limits=Limits(max_pending_bytes=10)) as desk:
        run = await desk.enter()
        run.start()
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(run.push, {"accepted": b"x" * 10})
            await anyio.wait_all_tasks_blocked()
            pushers.start_soon(run.push, {"waiting": b"x"})
            await anyio.wait_all_tasks_blocked()
            pushers.cancel_scope.cancel()
        desk.store.writes.open()
        await desk.broker.barrier()
        assert await stored(memory, run, "accepted") == b"x" * 10
        assert await stored(memory, run, "waiting") is None
        assert await run.find("accepted") == b"x" * 10


# ----------------------------------------------------------------------------------------------------------- budget


async def test_a_run_has_a_budget(store: Store) -> None:
    """Exactly the limit is accepted; what is over it leaves nothing."""
    async with at_work(store, limits=Limits(max_run_xcom_bytes=100)) as desk:
        run = await desk.enter()
        run.start()
        await run.push({"k": b"x" * 100})
        with pytest.raises(XComTooLargeError, match=r"101 bytes exceed the limit of 100"):
            await run.push({"l": b"x"})
        run.open("b")
        with pytest.raises(XComTooLargeError):
            run.broker.hand_in(run.book, run.outcome("b", values={"k": b"x"}), is_start_written=False)
        assert run.broker.hand_in(run.book, run.outcome("b", state=TaskState.FAILED), is_start_written=False)
        await desk.broker.barrier()
        assert await store.stored_bytes("run") == 100
        assert desk.broker.statistics().pending_bytes == 0
        assert desk.broker.statistics().cache.pending == 0


async def test_overwritten_and_deleted_values_do_not_count(store: Store) -> None:
    """The sum is made exact before it refuses anything."""
    async with at_work(store, limits=Limits(max_run_xcom_bytes=100)) as desk:
        run = await desk.enter()
        run.start()
        for _ in range(5):
            await run.push({"k": b"x" * 40})
        assert run.book.account.bytes == 80
        await run.push({"l": b"x" * 60})
        await desk.broker.write(delete(run, "l"), run.book)
        await run.push({"m": b"x" * 60})
        with pytest.raises(XComTooLargeError):
            await run.push({"n": b"x"})


async def test_values_on_their_way_do_not_count_beside_those_they_replace(memory: Store) -> None:
    """The sum is read once they are stored."""
    async with at_work(memory, limits=Limits(max_run_xcom_bytes=100)) as desk:
        run = await desk.enter()
        run.start()
        await run.push({"k": b"x" * 50})
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(run.push, {"k": b"y" * 50})
            await anyio.wait_all_tasks_blocked()
            pushers.start_soon(run.push, {"l": b"y" * 50})
            await anyio.wait_all_tasks_blocked()
            desk.store.writes.open()
        assert await memory.stored_bytes("run") == 100


async def test_a_sum_read_before_a_commit_is_not_trusted_after_it(memory: Store) -> None:
    """Else the budget could be overdrawn."""
    async with at_work(memory, limits=Limits(max_run_xcom_bytes=100)) as desk:
        run = await desk.enter()
        run.start()
        for _ in range(2):
            await run.push({"k": b"x" * 40})
        desk.store.reads.shut()
        async with anyio.create_task_group() as pushers:

            async def too_much() -> None:
                with pytest.raises(XComTooLargeError):
                    await run.push({"big": b"x" * 45})

            pushers.start_soon(too_much)
            await anyio.wait_all_tasks_blocked()
            await run.push({"l": b"x" * 20})
            desk.store.reads.open()
        assert await memory.stored_bytes("run") == 60
        await run.push({"m": b"x" * 40})


# ------------------------------------------------------------------------------------------------------- congestion


async def test_producers_wait_while_too_much_is_pending(memory: Store) -> None:
    """And go on as it is committed; a value larger than the limit passes alone."""
    async with at_work(memory, limits=Limits(max_pending_bytes=100)) as desk:
        run = await desk.enter()
        desk.store.writes.shut()
        run.finish("a", values={"k": b"x" * 101})
        assert desk.broker.is_congested
        passed = anyio.Event()

        async def wait() -> None:
            await desk.broker.wait_for_room()
            passed.set()

        desk.task_group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert not passed.is_set()
        desk.store.writes.open()
        await passed.wait()
        assert not desk.broker.is_congested
        await desk.broker.wait_for_room()
        run.start("b")
        await run.push({"k": b"x" * 1000}, "b")
        assert await stored(memory, run, "k", "b") == b"x" * 1000


async def test_one_run_can_not_fill_all_the_room(memory: Store) -> None:
    """A flooder has half; another run's push is accepted at once."""
    async with at_work(memory, limits=Limits(max_pending_bytes=100)) as desk:
        flooder, polite = await desk.enter("flooder"), await desk.enter("polite")
        flooder.start()
        polite.start()
        await desk.broker.barrier()
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            for number in range(20):
                pushers.start_soon(flooder.push, {f"k{number}": b"x" * 10})
            await anyio.wait_all_tasks_blocked()
            assert flooder.book.account.pending_bytes == 50
            pushers.start_soon(polite.push, {"k": b"x" * 50})
            await anyio.wait_all_tasks_blocked()
            assert polite.book.account.pending_bytes == 50
            assert desk.broker.statistics().pending_bytes == 100
            desk.store.writes.open()
        assert await memory.stored_bytes("flooder") == 200


# ---------------------------------------------------------------------------------------------------------- reports


async def test_strict_outcomes_are_reported_on_commit(memory: Store) -> None:
    """One report for a run and batch, in order."""
    async with at_work(memory) as desk:
        run, other = await desk.enter(), await desk.enter("other")
        desk.store.writes.shut()
        ended = [run.finish("a"), run.finish("b", state=TaskState.UP_FOR_RETRY), run.finish("c")]
        theirs = other.finish("a")
        await anyio.wait_all_tasks_blocked()
        assert run.reports.ended == []
        desk.store.writes.open()
        await desk.broker.barrier()
        assert run.reports.ended == ended
        assert other.reports.ended == [theirs]


async def test_pipelined_outcomes_are_reported_on_acceptance(memory: Store) -> None:
    """And not again on commit."""
    async with at_work(memory) as desk:
        run = await desk.enter(is_pipelined=True)
        desk.store.writes.shut()
        ended = [run.finish("a", values={"k": b"1"})]
        assert run.reports.ended == ended
        assert await run.find() == b"1", "its dependants see it"
        desk.store.writes.open()
        await desk.broker.barrier()
        assert run.reports.ended == ended


async def test_a_run_that_was_left_gets_no_reports(memory: Store) -> None:
    """Whoever ran it is gone."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        desk.store.writes.shut()
        run.finish("a")
        desk.broker.leave_run(run.book)
        desk.broker.leave_run(run.book)
        desk.store.writes.open()
        await desk.broker.barrier()
        assert run.reports.ended == []
        assert desk.broker.live_book("run") is None
        assert desk.broker.statistics().live_runs == 0


async def test_marks_are_written(memory: Store) -> None:
    """A cast, like a start."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.broker.cast(run.book, mark(run, "a"))
        await desk.broker.barrier()
        ((instance),) = await memory.instances("run")
        assert instance.state is TaskState.SKIPPED


def mark(run: LiveRun, task_id: str) -> MarkInstance:
    """Return a mark."""
    return MarkInstance(instance=run.key(task_id), state=TaskState.SKIPPED, at_us=1, seq=run.book.next_seq())


# ------------------------------------------------------------------------------------------------------------ pages


async def test_a_page_is_opened_once(memory: Store) -> None:
    """However many ask for it at the same moment; it goes on where the store left off."""
    async with at_work(memory) as desk:
        await desk.manager.push("run", "a", "k", 1)
        await desk.manager.push("run", "a", "l", 12)
    async with at_work(memory) as desk:
        desk.store.reads.shut()
        books: list[object] = []

        async def open_page() -> None:
            books.append(await desk.broker.book("run"))

        async with anyio.create_task_group() as openers:
            for _ in range(3):
                openers.start_soon(open_page)
            await anyio.wait_all_tasks_blocked()
            desk.store.reads.open()
        assert len(set(map(id, books))) == 1
        book = await desk.broker.book("run")
        assert book.next_seq() == 3
        assert book.account.bytes == 3


async def test_pages_of_one_run_share_one_timeline(memory: Store) -> None:
    """A push from outside that holds the page of a run that ended meanwhile takes no place of its next page's."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        desk.store.writes.shut()
        async with anyio.create_task_group() as pushers:
            pushers.start_soon(run.push, {"k": b"12"}, "a")
            run.open()
            await anyio.wait_all_tasks_blocked()
            desk.broker.leave_run(run.book)
            again = await desk.broker.book("run")
            assert again is not run.book
            assert again.account is run.book.account
            assert again.account.pending_bytes == 2
            seqs = [again.next_seq(), run.book.next_seq(), again.next_seq()]
            assert seqs == sorted(set(seqs))
            desk.store.writes.open()
            await desk.broker.barrier()
            assert again.account.bytes == 2


async def test_pages_of_runs_that_nobody_runs_are_let_go(memory: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first; live ones and those with operations under way stay."""
    monkeypatch.setattr("dagrelay.xcom.books.MAX_GUESTS", 4)
    async with at_work(memory) as desk:
        live = await desk.enter("live")
        busy = await desk.broker.book("busy")
        desk.store.writes.shut()
        key = InstanceKey("busy", "a", None)
        desk.task_group.start_soon(lambda: desk.broker.push(busy, instance=key, slot=0, attempt=0, drafts=[draft("k", b"1")]))
        await anyio.wait_all_tasks_blocked()
        guests = [await desk.broker.book(f"guest{number}") for number in range(3)]
        assert await desk.broker.book("guest2") is guests[2]
        assert await desk.broker.book("busy") is busy
        assert desk.broker.live_book("live") is live.book
        assert await desk.broker.book("guest0") is not guests[0]
        desk.store.writes.open()


async def test_starting_an_attempt_is_a_cast(memory: Store) -> None:
    """It is written with whatever comes next."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.start()
        outcome = run.outcome()
        assert run.broker.hand_in(run.book, outcome, is_start_written=True)
        await desk.broker.barrier()
        assert [type(operation) for operation in desk.store.batches[-1]] == [StartAttempt, type(outcome)]
