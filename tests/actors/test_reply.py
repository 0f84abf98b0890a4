"""Replies arrive once, and neither side minds when the other is gone."""

from __future__ import annotations

import anyio
import pytest

from dagrelay.actors.reply import Reply


async def test_an_answer_arrives() -> None:
    """Before or after somebody waits for it."""
    early: Reply[int] = Reply()
    early.answer(1)
    assert await early.wait() == 1

    late: Reply[int | None] = Reply()
    assert not late.is_answered
    got: list[int | None] = []

    async def ask() -> None:
        got.append(await late.wait())

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        late.answer(None)
        assert late.is_answered
    assert got == [None]


async def test_an_error_is_raised_where_the_answer_is_awaited() -> None:
    """The actor that gives it goes on."""
    reply: Reply[int] = Reply()
    reply.fail(LookupError("no"))
    assert reply.is_answered
    with pytest.raises(LookupError, match="no"):
        await reply.wait()


async def test_the_first_answer_stands() -> None:
    """A second one, of either kind, is dropped."""
    reply: Reply[int] = Reply()
    reply.answer(1)
    reply.answer(2)
    reply.fail(LookupError())
    assert await reply.wait() == 1

    failed: Reply[int] = Reply()
    failed.fail(LookupError())
    failed.answer(1)
    failed.fail(ValueError())
    with pytest.raises(LookupError):
        await failed.wait()


async def test_an_asker_who_was_cancelled_does_not_matter() -> None:
    """The answer comes all the same, and harms nobody."""
    reply: Reply[int] = Reply()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(reply.wait)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
    assert not reply.is_answered
    reply.answer(1)
    assert await reply.wait() == 1


async def test_an_answer_that_races_a_cancellation_is_not_lost_or_doubled() -> None:
    """Both come in one step of the loop: the asker ends by one of them."""
    reply: Reply[int] = Reply()
    got: list[int] = []

    async def ask() -> None:
        got.append(await reply.wait())

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        reply.answer(1)
        task_group.cancel_scope.cancel()
    assert got in ([], [1])
    assert reply.is_answered
