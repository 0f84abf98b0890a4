"""Mailboxes keep order, hold senders back, and lose nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.actors.mailbox import Mailbox, MailboxClosed, MailboxStatistics

if TYPE_CHECKING:
    from anyio.abc import TaskGroup


async def test_messages_come_out_as_they_went_in() -> None:
    """First in, first out, at most as many as asked for."""
    mailbox: Mailbox[int] = Mailbox("a", 10)
    for number in range(5):
        mailbox.post(number)

    assert await mailbox.drain(3) == [0, 1, 2]
    assert await mailbox.drain(3) == [3, 4]
    assert mailbox.drain_nowait(3) == []


async def test_a_drain_waits_for_the_first_message() -> None:
    """It returns what has come by the time it runs again."""
    mailbox: Mailbox[str] = Mailbox("a", 10)
    taken: list[list[str]] = []

    async def read() -> None:
        taken.append(await mailbox.drain(10))

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        mailbox.post("a")
        mailbox.post("b")

    assert taken == [["a", "b"]]


async def test_put_waits_for_room_and_post_does_not() -> None:
    """Reports and replies never block; everybody else is held back."""
    mailbox: Mailbox[str] = Mailbox("a", 2)
    mailbox.post("1")
    mailbox.post("2")
    mailbox.post("3")

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(mailbox.put, "4")
        await anyio.wait_all_tasks_blocked()
        task_group.start_soon(mailbox.put, "5")
        await anyio.wait_all_tasks_blocked()
        assert len(mailbox) == 3
        assert mailbox.drain_nowait(1) == ["1"]
        await anyio.wait_all_tasks_blocked()
        assert len(mailbox) == 2
        assert await mailbox.drain(1) == ["2"]
        await anyio.wait_all_tasks_blocked()
        assert mailbox.drain_nowait(10) == ["3", "4"]
        await anyio.wait_all_tasks_blocked()
        assert mailbox.drain_nowait(10) == ["5"]


async def test_put_goes_straight_in_where_there_is_room() -> None:
    """Nobody waits without need."""
    mailbox: Mailbox[int] = Mailbox("a", 1)
    await mailbox.put(1)
    assert mailbox.statistics() == MailboxStatistics(name="a", waiting=1, capacity=1, posted=1)


async def test_a_cancelled_put_adds_nothing() -> None:
    """The message of a sender who gave up never arrives."""
    mailbox: Mailbox[int] = Mailbox("a", 1)
    mailbox.post(1)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(mailbox.put, 2)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
    assert mailbox.drain_nowait(10) == [1]


async def test_senders_take_their_turns() -> None:
    """Whoever waited longest comes first, and one who gave up holds nobody back."""
    mailbox: Mailbox[int] = Mailbox("a", 1)
    mailbox.post(0)
    scopes: dict[int, anyio.CancelScope] = {}

    async def send(number: int) -> None:
        with anyio.CancelScope() as scopes[number]:
            await mailbox.put(number)

    async with anyio.create_task_group() as task_group:
        for number in range(1, 5):
            task_group.start_soon(send, number)
            await anyio.wait_all_tasks_blocked()
        scopes[2].cancel()
        await anyio.wait_all_tasks_blocked()
        assert [await mailbox.drain(9) for _ in range(4)] == [[0], [1], [3], [4]]


async def test_a_cancelled_drain_takes_nothing() -> None:
    """What comes after it stays for the next."""
    mailbox: Mailbox[int] = Mailbox("a", 1)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(mailbox.drain, 1)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
    mailbox.post(1)
    assert await mailbox.drain(9) == [1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_native_cancellation_after_the_post_loses_nothing() -> None:
    """`task.cancel()` strikes between the wake-up and the waiting task, where no shield helps."""
    mailbox: Mailbox[int] = Mailbox("a", 1)
    task = asyncio.get_running_loop().create_task(mailbox.drain(1))
    await anyio.wait_all_tasks_blocked()
    mailbox.post(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mailbox.drain_nowait(1) == [1]
    assert mailbox.statistics().waiting == 0


async def test_a_closed_mailbox_can_be_emptied() -> None:
    """It takes nothing more, gives what it has, and then says so."""
    mailbox: Mailbox[int] = Mailbox("a", 10)
    mailbox.post(1)
    mailbox.close()
    mailbox.close()

    assert mailbox.is_closed
    with pytest.raises(MailboxClosed):
        mailbox.post(2)
    assert await mailbox.drain(10) == [1]
    with pytest.raises(MailboxClosed):
        await mailbox.drain(10)


async def test_closing_wakes_all_who_wait() -> None:
    """Readers and senders alike."""
    told: list[str] = []
    empty: Mailbox[int] = Mailbox("a", 1)
    full: Mailbox[int] = Mailbox("a", 1)
    full.post(1)

    async def read() -> None:
        with pytest.raises(MailboxClosed):
            await empty.drain(1)
        told.append("reader")

    async def send() -> None:
        with pytest.raises(MailboxClosed):
            await full.put(2)
        told.append("sender")

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(read)
        task_group.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        empty.close()
        full.close()
    assert sorted(told) == ["reader", "sender"]


async def test_discarding_returns_what_nobody_will_read() -> None:
    """So that the senders can be told."""
    mailbox: Mailbox[int] = Mailbox("a", 1)
    mailbox.post(1)
    mailbox.post(2)
    assert mailbox.discard() == [1, 2]
    assert mailbox.discard() == []
    with pytest.raises(MailboxClosed):
        mailbox.post(3)


@given(st.lists(st.one_of(st.just("put"), st.integers(1, 5)), max_size=40), st.integers(1, 4))
def test_every_message_arrives_once_and_in_order(steps: list[str | int], capacity: int) -> None:
    """Whatever the order of sends and drains, each sender's messages keep theirs."""

    async def play() -> None:
        mailbox: Mailbox[int] = Mailbox("a", capacity)
        sent, received = 0, list[int]()

        async def send(number: int, task_group: TaskGroup) -> None:
            task_group.start_soon(mailbox.put, number)
            await anyio.wait_all_tasks_blocked()

        async with anyio.create_task_group() as task_group:
            for step in steps:
                if step == "put":
                    await send(sent, task_group)
                    sent += 1
                else:
                    received += mailbox.drain_nowait(int(step))
                    await anyio.wait_all_tasks_blocked()
                assert len(mailbox) <= capacity
            while len(received) < sent:
                received += await mailbox.drain(3)
        assert received == list(range(sent))

    anyio.run(play)
