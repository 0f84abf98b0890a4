"""Calls come at their times, in order, and not at all once cancelled."""

from __future__ import annotations

import gc
import weakref
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import anyio

from dagrelay.runtime.timers import Timer, Timers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

SOON = 0.002
PATIENCE = 5.0
LONG = 1_000.0


@asynccontextmanager
async def serving() -> AsyncGenerator[Timers, None]:
    """Give timers that are served."""
    timers = Timers()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(timers.run)
        await anyio.wait_all_tasks_blocked()
        try:
            yield timers
        finally:
            timers.close()


async def called(timers: Timers, delay_s: float, then: Callable[[], None] = lambda: None) -> None:
    """Wait until a timer of this delay was called."""
    event = anyio.Event()

    def action() -> None:
        then()
        event.set()

    timers.after(delay_s, action)
    with anyio.fail_after(PATIENCE):
        await event.wait()


async def test_calls_come_in_order_of_time_then_of_registration() -> None:
    """Whatever the order in which they were asked for."""
    told: list[str] = []
    async with serving() as timers:
        start = anyio.current_time()
        for name, delay in (("later", 3 * SOON), ("b1", SOON), ("b2", SOON), ("now", 0), ("past", -5), ("b3", SOON)):
            timers.after(delay, partial(told.append, name))
        await called(timers, 4 * SOON)
        assert anyio.current_time() - start >= 4 * SOON
    assert [name for name in told if name in {"now", "past"}] == ["now", "past"]
    assert told == ["now", "past", "b1", "b2", "b3", "later"]


async def test_an_earlier_timer_wakes_a_long_wait() -> None:
    """It is not found only when the later one is due."""
    async with serving() as timers:
        timers.after(LONG, lambda: None)
        await anyio.wait_all_tasks_blocked()
        await called(timers, SOON)
        timers.after(float("inf"), lambda: None)
        await called(timers, 0)


async def test_a_call_may_ask_for_another() -> None:
    """Earlier than all that are known, even."""
    told: list[str] = []
    async with serving() as timers:
        timers.after(LONG, lambda: None)
        done = anyio.Event()

        def first() -> None:
            told.append("first")
            timers.after(SOON, second)

        def second() -> None:
            told.append("second")
            done.set()

        timers.after(SOON, first)
        with anyio.fail_after(PATIENCE):
            await done.wait()
    assert told == ["first", "second"]


async def test_a_cancelled_call_does_not_come() -> None:
    """Cancelling twice, or after the call, changes nothing."""
    told: list[str] = []
    async with serving() as timers:
        cancelled = timers.after(SOON, partial(told.append, "cancelled"))
        timer = timers.after(SOON, partial(told.append, "called"))
        cancelled.cancel()
        cancelled.cancel()
        await called(timers, 2 * SOON)
        assert timer.is_cancelled
        timer.cancel()
        assert told == ["called"]
        assert timers._cancelled == 0  # pyright: ignore[reportPrivateUsage]
        assert timers._heap == []  # pyright: ignore[reportPrivateUsage]


async def test_a_call_may_cancel_one_due_at_the_same_time() -> None:
    """The later of the two does not come."""
    told: list[str] = []
    async with serving() as timers:
        others: list[Timer] = []

        def first() -> None:
            others[0].cancel()

        timers.after(SOON, first)
        others.append(timers.after(SOON, partial(told.append, "second")))
        await called(timers, 2 * SOON)
    assert told == []


async def test_a_cancelled_timer_lets_go_of_what_it_was_for() -> None:
    """However long it would have had to wait."""

    class Attempt:
        """Anything."""

        def cancel(self) -> None:
            """Do nothing."""

    async with serving() as timers:
        attempt = Attempt()
        timer = timers.after(LONG, attempt.cancel)
        gone = weakref.ref(attempt)
        del attempt
        timer.cancel()
        gc.collect()
        assert gone() is None
        timer.action()


async def test_dead_timers_are_cleared_out() -> None:
    """When most are dead; the living ones are still called."""
    told: list[int] = []
    async with serving() as timers:
        living = [timers.after(SOON * (1 + number), partial(told.append, number)) for number in range(3)]
        for _ in range(10_000):
            timers.after(LONG, lambda: None).cancel()
        assert len(timers._heap) <= 2_000  # pyright: ignore[reportPrivateUsage]
        await called(timers, 5 * SOON)
        assert told == [0, 1, 2]
        assert all(timer.is_cancelled for timer in living)


async def test_after_closing_nothing_is_called() -> None:
    """Not even what is due; and a call may be the one that closes."""
    told: list[str] = []
    timers = Timers()

    def close() -> None:
        told.append("closing")
        timers.close()

    timers.after(0, close)
    timers.after(LONG, partial(told.append, "late"))
    with anyio.fail_after(PATIENCE):
        await timers.run()
    timers.after(0, partial(told.append, "late"))
    with anyio.fail_after(PATIENCE):
        await timers.run()
    assert told == ["closing"]


async def test_serving_is_shielded() -> None:
    """Runs that end under a cancelled host application still have their timeouts."""
    async with serving() as timers, anyio.create_task_group() as task_group:
        own = Timers()
        task_group.start_soon(own.run)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await called(own, SOON)
            await called(timers, SOON)
        own.close()
