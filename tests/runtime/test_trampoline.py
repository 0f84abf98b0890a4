"""A coroutine driven in a context of its own is none the wiser."""

from __future__ import annotations

import sys
from contextvars import ContextVar, copy_context
from types import coroutine
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.to_thread
import pytest

from dagrelay.runtime.trampoline import drive, stack_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

name: ContextVar[str] = ContextVar("name", default="unset")


@coroutine
def ask(question: object) -> Generator[object, Any, Any]:
    """Suspend with a question, and return the answer."""
    return (yield question)


def nothing() -> None:
    """Do nothing."""


def driving(handler: Coroutine[Any, Any, Any], on_suspend: Callable[[], None] = nothing) -> Generator[Any, Any, Any]:
    """Return a driven coroutine as the generator it is, to be stepped by hand."""
    return cast("Generator[Any, Any, Any]", drive(handler, copy_context(), on_suspend))


def test_what_is_sent_and_what_is_yielded_pass_through() -> None:
    """Both ways, with the value at the end."""

    async def handler() -> list[object]:
        return [await ask("one"), await ask("two")]

    driven = driving(handler())
    assert driven.send(None) == "one"
    assert driven.send(1) == "two"
    with pytest.raises(StopIteration) as end:
        driven.send(2)
    assert end.value.value == [1, 2]


def test_what_is_thrown_arrives_where_the_handler_waits() -> None:
    """It may catch it and go on, or end by it; BaseExceptions too."""

    async def handler() -> str:
        try:
            await ask("one")
        except KeyboardInterrupt:
            return str(await ask("caught"))
        return "not thrown"

    driven = driving(handler())
    assert driven.send(None) == "one"
    assert driven.throw(KeyboardInterrupt()) == "caught"
    with pytest.raises(StopIteration) as end:
        driven.send("and on")
    assert end.value.value == "and on"

    again = driving(handler())
    again.send(None)
    with pytest.raises(LookupError, match="mine"):
        again.throw(LookupError("mine"))


def test_closing_closes_the_handler() -> None:
    """Its clean-up runs, in its context."""
    told: list[str] = []

    async def handler() -> None:
        name.set("inside")
        try:
            await ask("one")
        finally:
            told.append(name.get())

    driven = driving(handler())
    driven.send(None)
    driven.close()
    assert told == ["inside"]
    assert name.get() == "unset"


def test_the_first_suspension_is_told_once() -> None:
    """And none, if there is none; before anything outside runs."""
    told: list[str] = []

    async def waits(times: int) -> None:
        for number in range(times):
            told.append(f"step {number}")
            await ask(number)

    for times, expected in ((0, []), (1, ["step 0", "suspended"]), (3, ["step 0", "suspended", "step 1", "step 2"])):
        told.clear()
        driven = driving(waits(times), lambda: told.append("suspended"))
        for _ in range(times):
            driven.send(None)
        with pytest.raises(StopIteration):
            driven.send(None)
        assert told == expected


def test_an_exception_before_any_suspension_is_just_raised() -> None:
    """With the handler's traceback."""

    async def handler() -> None:
        raise LookupError("at once")

    with pytest.raises(LookupError, match="at once") as caught:
        driving(handler()).send(None)
    assert "handler" in [entry.name for entry in caught.traceback]


async def test_context_variables_are_the_handlers_own() -> None:
    """Set inside they are not seen outside, and inside they stay over suspensions, task groups and threads."""

    async def child() -> str:
        return name.get()

    async def handler() -> list[str]:
        seen = [name.get()]
        name.set("inside")
        await anyio.lowlevel.checkpoint()
        seen.append(name.get())
        async with anyio.create_task_group() as task_group:

            async def look() -> None:
                seen.append(await child())

            task_group.start_soon(look)
        seen.append(await anyio.to_thread.run_sync(name.get))
        return seen

    token = name.set("outside")
    try:
        assert await drive(handler(), copy_context(), nothing) == ["outside", "inside", "inside", "inside"]
        assert name.get() == "outside"
    finally:
        name.reset(token)


async def test_scopes_and_groups_inside_work() -> None:
    """They find the host's task as theirs."""

    async def handler() -> list[str]:
        told: list[str] = []
        with anyio.move_on_after(0):
            await anyio.sleep_forever()
        told.append("timed out")
        with pytest.raises(ExceptionGroup):  # noqa: ASYNC401, PT012 - the group is what raises
            async with anyio.create_task_group() as task_group:

                async def fail() -> None:
                    raise LookupError

                task_group.start_soon(fail)
                await anyio.sleep_forever()
        told.append("failed")
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0):
                await anyio.sleep_forever()
        told.append("timed out again")
        return told

    assert await drive(handler(), copy_context(), nothing) == ["timed out", "failed", "timed out again"]


async def test_cancelling_from_outside_reaches_the_handler() -> None:
    """Which may clean up, and the scope outside is left by it."""
    told: list[str] = []

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            told.append(name.get())
            raise

    with anyio.CancelScope() as scope:
        await drive(handler(), copy_context(), scope.cancel)
    assert scope.cancelled_caught
    assert told == ["unset"]


async def test_a_long_chain_of_suspensions_keeps_nothing() -> None:
    """Neither stack nor values grow."""

    async def handler() -> int:
        for _ in range(sys.getrecursionlimit() * 2):
            await anyio.lowlevel.checkpoint()
        return 1

    assert await drive(handler(), copy_context(), nothing) == 1


async def test_where_a_handler_waits_can_be_told() -> None:
    """Frame by frame, outermost first; nothing of one that is over."""

    async def inner() -> None:
        await ask("wanted")

    async def outer() -> None:
        await inner()

    waiting = outer()
    assert waiting.send(None) == "wanted"
    assert [line.rpartition(" in ")[2] for line in stack_of(waiting).splitlines()] == ["outer", "inner", "ask"]
    assert all(__file__ in line for line in stack_of(waiting).splitlines())
    with pytest.raises(StopIteration):
        waiting.send(None)
    assert stack_of(waiting) == ""
