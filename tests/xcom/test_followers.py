"""Who follows a run live is told what the store tells afterwards, in the same order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.actors.mailbox import MailboxClosed
from dagrelay.errors import DagrelayError
from dagrelay.model.events import RunFinished, TaskStateChanged, XComDeleted
from dagrelay.model.policies import Limits
from dagrelay.model.records import ErrorRecord, from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.operations import DeleteRun, run_id_of
from dagrelay.testing.story import Story
from dagrelay.xcom.followers import EventsMissed, Follower
from dagrelay.xcom.timeline import events_of
from tests.xcom.desk import at_work

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.actors.mailbox import Mailbox
    from dagrelay.model.events import Event
    from dagrelay.stores.base import Store
    from dagrelay.stores.operations import Operation
    from tests.xcom.desk import Desk, LiveRun


def at(run: LiveRun) -> Story:
    """Return a story that tells one operation, at the run's next place."""
    return Story(run.book.run_id, seq=run.book.next_seq() - 1)


async def test_the_live_timeline_is_the_stored_one(store: Store) -> None:
    """Starts, pushes, outcomes with and without their start written, marks, deletions, the end."""
    async with at_work(store) as desk:
        run = await desk.enter(tasks="abcd")
        mailbox = desk.broker.follow("run")
        twin = desk.broker.follow("run")
        run.start("a")
        await run.push({"k": b"1", "l": b"22"})
        assert run.broker.hand_in(run.book, run.outcome(values={"return_value": b"3"}), is_start_written=True)
        run.finish("b", state=TaskState.UP_FOR_RETRY)
        run.finish("b", 2, state=TaskState.FAILED, values={"m": b"1"})
        run.broker.cast(run.book, at(run).mark("c", TaskState.UPSTREAM_FAILED, error=ErrorRecord(type="E", message="m")))
        await run.push({"out": b"1"}, "d", slot=0)
        assert await desk.broker.write(at(run).delete("d", "none"), run.book) == 0
        assert await desk.broker.write(at(run).delete("a", "k"), run.book) == 1
        await run.end(RunState.FAILED)

        told = mailbox.drain_nowait(100)
        events = await store.events("run", after_seq=1)
        # What was deleted is no longer listed as pushed; all else is.
        assert [event for event in told if getattr(event, "key", "") != "k" or isinstance(event, XComDeleted)] == events
        assert twin.drain_nowait(100) == told
        for ended in (mailbox, twin):
            with pytest.raises(MailboxClosed):
                await ended.drain(1)
            desk.broker.unfollow("run", ended)


async def test_live_events_come_in_order_of_their_places(memory: Store) -> None:
    """One after another, so that who has read the store up to a place can go on from there."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        mailbox = desk.broker.follow("run")
        for number in range(20):
            run.finish(f"t{number}", values={"x": b"1", "y": b"1"})
        await desk.broker.barrier()
        seqs = [event.seq for event in mailbox.drain_nowait(1000)]
        assert seqs == sorted(set(seqs))
        assert len(seqs) == 80


async def test_a_follower_who_stays_does_no_harm(memory: Store) -> None:
    """After the run's end nothing more is put into its mailbox, and the broker lives on."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        mailbox = desk.broker.follow("run")
        await run.end()
        await desk.manager.push("run", "a", "k", 1)
        await desk.manager.delete("run", "a", "k")
        assert [type(event) for event in mailbox.drain_nowait(10)] == [RunFinished]
        assert await desk.broker.write(DeleteRun(run_id="run", at_us=1)) == 1
        assert desk.deaths == []


async def test_following_ends_where_it_is_ended(memory: Store) -> None:
    """Other followers, and other runs', get what they would."""
    async with at_work(memory) as desk:
        await desk.enter()
        one, two, other = desk.broker.follow("run"), desk.broker.follow("run"), desk.broker.follow("other")
        await desk.manager.push("run", "a", "k", 1)
        assert [len(each) for each in (one, two, other)] == [1, 1, 0]
        desk.broker.unfollow("run", one)
        desk.broker.unfollow("run", one)
        await desk.manager.push("run", "a", "k", 1)
        assert [len(each) for each in (one, two, other)] == [0, 2, 0]
        assert one.is_closed
        desk.broker.unfollow("run", two)
        desk.broker.unfollow("run", two)
        await desk.manager.push("run", "a", "k", 1)
        assert [len(each) for each in (one, two, other)] == [0, 0, 0]


# ------------------------------------------------------------------------------------------------ those who fall behind

FEW = Limits(mailbox_capacity=4)


async def follow_whole(desk: Desk, follower: Mailbox[Event]) -> list[Event]:
    """Read a run's timeline to its end: what is stored, then live, and what is stored again wherever events were missed."""
    seen: list[Event] = []

    def take(events: list[Event]) -> int:
        seen.extend(event for event in events if not seen or event.seq > seen[-1].seq)
        return len(events)

    while True:
        while take(await desk.store.events("run", after_seq=seen[-1].seq if seen else 0, limit=7)):
            pass
        try:
            while True:
                take(await follower.drain(7))
        except EventsMissed:
            continue
        except MailboxClosed:
            return seen


async def test_who_does_not_read_gathers_no_more_than_its_capacity(memory: Store) -> None:
    """The rest is dropped, and one who reads is told nothing of it."""
    async with at_work(memory, limits=FEW) as desk:
        run = await desk.enter()
        idle, reader = desk.broker.follow("run"), desk.broker.follow("run")
        for number in range(10):
            run.finish(f"t{number}", values={"x": b"1"})
            await desk.broker.barrier()
            assert len(idle) <= FEW.mailbox_capacity
            assert len(reader.drain_nowait(10)) == 3
        with pytest.raises(EventsMissed):
            await idle.drain(10)
        run.finish("late")
        await desk.broker.barrier()
        assert len(await idle.drain(10)) == 2
        desk.broker.unfollow("run", idle)


async def test_who_fell_behind_reads_on_in_the_store(store: Store) -> None:
    """And misses nothing, whenever it reads."""
    async with at_work(store, limits=FEW) as desk:
        run = await desk.enter()
        ready, waiting = desk.broker.follow("run"), desk.broker.follow("run")
        timelines: list[list[Event]] = []

        async def read(follower: Mailbox[Event]) -> None:
            timelines.append(await follow_whole(desk, follower))

        async with anyio.create_task_group() as readers:
            readers.start_soon(read, waiting)
            await anyio.wait_all_tasks_blocked()
            for number in range(10):
                run.finish(f"t{number}", values={"x": b"1", "y": b"1", "z": b"1"})
                if number % 4 == 3:
                    await anyio.wait_all_tasks_blocked()
            await run.end()
            readers.start_soon(read, ready)
        whole = await store.events("run")
        assert len(whole) == 52
        assert timelines == [whole, whole]


async def test_who_fell_behind_a_run_that_ended_is_told_both(memory: Store) -> None:
    """First that events were missed, then that there are no more; or nothing, if it goes."""
    async with at_work(memory, limits=FEW) as desk:
        run = await desk.enter()
        stays, goes = desk.broker.follow("run"), desk.broker.follow("run")
        run.finish(values={str(number): b"1" for number in range(5)})
        await run.end()
        desk.broker.unfollow("run", goes)
        assert len(goes) == 0
        with pytest.raises(EventsMissed):
            stays.drain_nowait(10)
        with pytest.raises(MailboxClosed):
            await stays.drain(10)


def test_a_follower_that_has_gone_is_told_nothing() -> None:
    """It may go, as garbage does, while its run's followers are told."""
    follower = Follower("run", 4)
    follower.discard()
    follower.tell(told(Story("run").create("a")))
    assert len(follower) == 0


async def test_a_refused_operation_is_no_event(memory: Store) -> None:
    """Only what was committed is told."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        mailbox = desk.broker.follow("run")
        run.finish(values={"return_value": b"1"})
        with pytest.raises(DagrelayError):
            await run.push({"return_value": b"2"}, slot=0)
        assert [type(event).__name__ for event in mailbox.drain_nowait(10)] == [
            "TaskStateChanged",
            "XComPushed",
            "TaskStateChanged",
        ]


# --------------------------------------------------------------------------------------------------------- timeline


def told(operation: Operation, *, result: int = 1, with_start: bool = False) -> list[Event]:
    """Return the events of one operation."""
    return list(events_of(operation, dag_id="dag", result=result, with_start=with_start))


NEWS: dict[str, Callable[[Story], Operation]] = {
    "create": lambda story: Story("new", seq=story.seq).create("a"),
    "start": lambda story: story.start("a"),
    "finish": lambda story: story.finish("a", state=TaskState.FAILED, error=ErrorRecord(type="E", message="m")),
    "finish with values": lambda story: story.finish("a", 2, values={"k": b"1", "l": b"22"}, map_index=3),
    "retry": lambda story: story.finish("retried", 4, state=TaskState.UP_FOR_RETRY, values={"k": b"1"}),
    "interrupt": lambda story: story.finish("a", 4, state=TaskState.INTERRUPTED),
    "mark": lambda story: story.mark("a", TaskState.SKIPPED, map_index=2),
    "mark after attempts": lambda story: story.mark("retried", TaskState.CANCELLED),
    "mark after an interrupt": lambda story: story.mark("stopped", TaskState.FAILED, error=ErrorRecord(type="E", message="m")),
    "put": lambda story: story.put("a", {"k": b"1", "l": b"22"}, map_index=3),
    "put by an attempt": lambda story: story.put("a", {"k": b"1"}, slot=-1, attempt=5),
    "delete": lambda story: story.delete("b"),
    "delete nothing": lambda story: story.delete("b", "none"),
    "delete a slot": lambda story: story.delete("b", "k", slots=(0,)),
    "end": lambda story: story.end(RunState.CANCELLED),
}


@pytest.mark.parametrize("kind", NEWS)
async def test_every_operation_is_told_as_the_store_tells_it(store: Store, kind: str) -> None:
    """Whatever is news of a run that has a value and attempts already; taking it up again is told below."""
    story = Story("run")
    attempts = [story.finish("retried", 3, TaskState.UP_FOR_RETRY), story.finish("stopped", 2, TaskState.INTERRUPTED)]
    await store.apply([story.create("a", "b", "retried", "stopped"), story.put("b", {"k": b"1"}), *attempts])
    after = story.seq
    operation = NEWS[kind](story)
    (result,) = await store.apply([operation])
    assert isinstance(result, int)
    run_id = run_id_of(operation)
    assert run_id is not None
    assert told(operation, result=result, with_start=True) == await store.events(run_id, after_seq=after)


async def test_a_run_taken_up_again_is_told_by_the_store(store: Store) -> None:
    """What was untouched, or clear already, is not told as cleared, and what was cleared keeps its attempt's number."""
    async with at_work(store) as desk:
        run = await desk.enter(tasks="abc")
        run.finish("a", 2, state=TaskState.FAILED)
        await run.end(RunState.FAILED)
        follower = desk.broker.follow("run")
        reopen = at(run).reopen(run.key("a"), run.key("b"))
        await desk.broker.write(reopen, run.book)
        with pytest.raises(EventsMissed):
            await follower.drain(10)
        cleared = TaskStateChanged(
            run_id="run",
            seq=reopen.seq + 1,
            time=from_us(reopen.at_us),
            task_id="a",
            map_index=None,
            attempt=2,
            state=TaskState.PENDING,
        )
        assert await store.events("run", after_seq=reopen.seq - 1) == [*told(reopen), cleared]
        desk.broker.unfollow("run", follower)


def test_deletions_of_runs_are_no_news_of_the_run() -> None:
    """There is nobody left to tell."""
    story = Story("run")
    assert told(story.delete_run()) == []
    assert told(story.prune(1)) == []


def test_an_outcome_tells_of_its_start_if_nothing_else_did() -> None:
    """In order of places."""
    story = Story("run")
    outcome = story.finish("a", values={})
    assert [event.seq for event in told(outcome)] == [outcome.seq]
    assert [event.seq for event in told(outcome, with_start=True)] == [outcome.start_seq, outcome.seq]
