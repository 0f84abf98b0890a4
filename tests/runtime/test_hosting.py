"""Hosts carry attempts one after another: bounded, apart from each other, and none is forgotten."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from random import Random
from typing import TYPE_CHECKING, Any, cast

import anyio
import attrs
import pytest

from dagrelay.model.records import InstanceKey
from dagrelay.runtime.admission import Admission
from dagrelay.runtime.attempt import CancelReason
from dagrelay.runtime.hosting import Hosting
from dagrelay.runtime.timers import Timer, Timers
from dagrelay.runtime.trampoline import drive

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping

    from dagrelay import Pool
    from dagrelay.runtime.attempt import Attempt

    Handler = Callable[[], Coroutine[Any, Any, Any]]

name: ContextVar[str] = ContextVar("name", default="unset")
ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@attrs.frozen
class Demands:
    """As much of a task as a host sees."""

    pool: str | None = None
    priority: int = 0


@attrs.define(eq=False)
class Piece:
    """As much of an attempt as a host sees, around any coroutine."""

    handler: Handler
    owner: str
    on_end: Callable[[Attempt, bool], None]
    instance: InstanceKey = attrs.field(factory=lambda: InstanceKey("run", "a", None))
    number: int = 1
    task: Demands = attrs.field(factory=Demands)
    scope: anyio.CancelScope | None = None
    slot_keeper: object = None
    on_cancel: Callable[[Any], None] | None = None
    cancel_reason: CancelReason | None = None
    is_closed: bool = False
    outcome: object = None
    is_taken: bool | None = None
    stack: str = "where it waits"

    def cancel(self, reason: CancelReason) -> None:
        """Cancel it with a reason."""
        self.cancel_reason = reason
        if self.scope is not None:
            self.scope.cancel()
        if self.on_cancel is not None:
            self.on_cancel(self)

    async def carry_out(self, on_suspend: Callable[[], None]) -> bool:
        """Run it to its end, whatever that is."""
        try:
            self.outcome = await drive(self.handler(), copy_context(), on_suspend)
        except BaseException as error:  # noqa: ASYNC103, BLE001 - as an attempt judges all
            self.outcome = error
        self.is_closed = True
        return True

    @property
    def attempt(self) -> Attempt:
        """Itself, as what it stands for."""
        return cast("Attempt", self)


@attrs.define(eq=False)
class House:
    """Hosts at work."""

    hosting: Hosting
    admission: Admission[Attempt]
    timers: Timers
    ended: list[Piece] = attrs.field(factory=list[Piece])

    def submit(self, handler: Handler, *, owner: str = "run") -> Piece:
        """Queue a coroutine."""
        piece = Piece(handler, owner, self.on_end)
        self.hosting.submit(piece.attempt)
        return piece

    def submit_work(self, work: Callable[[Piece], Coroutine[Any, Any, Any]], owner: str, task: Demands) -> Piece:
        """Queue what asks for its own piece, a pool and a priority."""
        piece = Piece(at_once, owner, self.on_end, task=task)
        piece.handler = lambda: work(piece)
        self.hosting.submit(piece.attempt)
        return piece

    def on_end(self, attempt: Attempt, is_taken: bool) -> None:
        """Take note of an end."""
        piece = cast("Piece", attempt)
        assert piece.is_taken is None, "told twice"
        piece.is_taken = is_taken
        self.ended.append(piece)

    async def ran(self, *pieces: Piece) -> list[object]:
        """Wait for some, and return what came of them."""
        with anyio.fail_after(10):
            while not all(piece in self.ended for piece in pieces):
                await anyio.wait_all_tasks_blocked()
        return [piece.outcome for piece in pieces]


@asynccontextmanager
async def house(
    slots: int = 4, *, timers: Timers | None = None, pools: Mapping[str, Pool] | None = None
) -> AsyncGenerator[House, None]:
    """Give hosts."""
    admission: Admission[Attempt] = Admission(slots, pools)
    timers = timers or Timers()
    hosting = Hosting(admission, timers, grace_s=100)
    admission.enter("run", None)
    is_whole = False
    async with anyio.create_task_group() as task_group:
        hosting.open(task_group)
        task_group.start_soon(timers.run)
        try:
            yield House(hosting, admission, timers)
            is_whole = True
        finally:
            hosting.close()
            timers.close()
    assert is_whole, "the task group was cancelled, and the test with it"
    assert hosting.statistics().hosts == hosting.statistics().idle == 0
    assert admission.statistics().running == admission.statistics().queued == 0


async def at_once() -> str:
    """End without waiting."""
    return "at once"


async def test_one_host_carries_all_that_do_not_wait() -> None:
    """No switch, and no other host, is spent on them."""
    async with house() as here:
        pieces = [here.submit(at_once) for _ in range(100)]
        assert await here.ran(*pieces) == ["at once"] * 100
        assert here.ended == pieces
        assert here.hosting.statistics().hosts == 1


async def test_those_that_wait_run_beside_each_other() -> None:
    """As many as there are slots, by as many hosts, which are used again."""
    async with house(3) as here:
        running, peak = 0, 0

        async def wait() -> None:
            nonlocal running, peak
            running += 1
            peak = max(peak, running)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            running -= 1

        await here.ran(*(here.submit(wait) for _ in range(20)))
        await anyio.wait_all_tasks_blocked()
        assert peak == 3
        assert here.hosting.statistics().hosts == here.hosting.statistics().idle == 3


async def test_hosts_stay_bounded_whatever_they_carry() -> None:
    """By the slots, and a few that pass work on."""
    async with house(4) as here:
        most = 0

        async def wait() -> None:
            nonlocal most
            await anyio.lowlevel.checkpoint()
            most = max(most, here.hosting.statistics().hosts)

        await here.ran(*(here.submit(wait if number % 3 else at_once) for number in range(500)))
        assert most <= 2 * 4


async def test_every_attempt_starts_in_the_order_it_was_queued() -> None:
    """Its first step is run at once."""
    async with house(2) as here:
        started: list[int] = []

        def handler(number: int) -> Handler:
            async def run() -> None:
                started.append(number)
                await anyio.lowlevel.checkpoint()

            return run

        await here.ran(*(here.submit(handler(number)) for number in range(30)))
        assert started == list(range(30))


@pytest.mark.parametrize("seed", range(10))
async def test_no_work_is_ever_forgotten(seed: int) -> None:
    """Random suspensions, submissions from within, failures, cancellations and limits: every attempt ends, once."""
    random = Random(seed)
    async with house(random.randint(1, 4)) as here:
        for owner in "ab":
            here.admission.enter(owner, random.choice([None, 1, 2]))
        pieces: list[Piece] = []

        def submit(depth: int) -> None:
            pieces.append(here.submit(lambda: work(depth), owner=random.choice(["run", "a", "b"])))

        async def work(depth: int) -> None:
            for _ in range(random.choice([0, 0, 1, 3])):
                await anyio.lowlevel.checkpoint()
            if depth and random.random() < 0.7:
                submit(depth - 1)
                submit(depth - 1)
            if random.random() < 0.1:
                raise LookupError
            if random.random() < 0.2:
                random.choice(pieces).cancel(CancelReason.CANCELLED)
            if random.random() < 0.3:
                await anyio.wait_all_tasks_blocked()

        for _ in range(20):
            submit(4)
            if random.random() < 0.5:
                await anyio.lowlevel.checkpoint()
        while len(here.ended) < len(pieces):
            await here.ran(*pieces)
        assert len(set(here.ended)) == len(here.ended) == len(pieces)
        assert all(piece.is_taken for piece in pieces)


async def test_slots_come_back_on_every_exit() -> None:
    """Value, exception, BaseException, cancellation; and the host carries on."""
    async with house(1) as here:

        async def fail(error: BaseException) -> None:
            raise error

        errors = [LookupError(), SystemExit(1), KeyboardInterrupt(), GeneratorExit(), anyio.get_cancelled_exc_class()]
        pieces = [here.submit(lambda error=error: fail(error)) for error in errors[:4]]  # type: ignore[misc]
        stuck = here.submit(anyio.sleep_forever)
        last = here.submit(at_once)
        assert await here.ran(*pieces) == errors[:4]
        await anyio.wait_all_tasks_blocked()
        stuck.cancel(CancelReason.TIMEOUT)
        assert await here.ran(last) == ["at once"]
        assert isinstance(stuck.outcome, anyio.get_cancelled_exc_class())
        assert here.hosting.statistics().hosts == 1


async def test_cancelling_one_leaves_the_others() -> None:
    """Those running beside it, and those its host carries next."""
    async with house(2) as here:
        release = anyio.Event()
        one, two = here.submit(anyio.sleep_forever), here.submit(release.wait)
        await anyio.wait_all_tasks_blocked()
        one.cancel(CancelReason.CANCELLED)
        next_one = here.submit(release.wait)
        await here.ran(one)
        await anyio.wait_all_tasks_blocked()
        assert here.ended == [one]
        release.set()
        await here.ran(two, next_one)
        assert not isinstance(two.outcome, BaseException)
        assert not isinstance(next_one.outcome, BaseException)


async def test_a_cancellation_that_comes_as_the_handler_ends_hits_nobody_else() -> None:
    """The scope is entered anew."""
    async with house(1) as here:
        pieces: list[Piece] = []

        async def ends() -> str:
            pieces[0].cancel(CancelReason.CANCELLED)
            return "ended"

        async def waits() -> str:
            await anyio.lowlevel.checkpoint()
            return "waited"

        pieces.append(here.submit(ends))
        pieces.append(here.submit(waits))
        assert await here.ran(*pieces) == ["ended", "waited"]


async def test_cancelling_the_host_application_leaves_attempts_alone() -> None:
    """What it cancels is the run, and that its attempts, with a reason."""
    admission: Admission[Attempt] = Admission(1)
    admission.enter("run", None)
    timers = Timers()
    hosting = Hosting(admission, timers, grace_s=1)
    here = House(hosting, admission, timers)
    async with anyio.create_task_group() as task_group:
        hosting.open(task_group)
        release = anyio.Event()
        piece = here.submit(release.wait)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
            assert here.ended == []
            release.set()
            assert (await here.ran(piece))[0] is not anyio.get_cancelled_exc_class()
        hosting.close()


async def test_context_variables_do_not_leak() -> None:
    """From one attempt to the next on the same host."""
    async with house(1) as here:

        async def look() -> str:
            seen = name.get()
            name.set("leaked")
            await anyio.lowlevel.checkpoint()
            return seen

        assert await here.ran(*(here.submit(look) for _ in range(3))) == ["unset"] * 3


async def test_timeouts_and_groups_of_a_handler_are_its_own() -> None:
    """Whatever it leaves, the next finds nothing of it."""
    async with house(1) as here:

        async def handler() -> str:
            with anyio.move_on_after(0):
                await anyio.sleep_forever()
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(anyio.sleep_forever)
                await anyio.lowlevel.checkpoint()
                task_group.cancel_scope.cancel()
            return "fine"

        assert await here.ran(*(here.submit(handler) for _ in range(3))) == ["fine"] * 3


@ASYNCIO
async def test_a_handler_that_cancels_its_own_task_hits_only_itself() -> None:
    """Delivered or not, caught or not; the next one's timeouts count from nothing."""
    async with house(1) as here:

        def own() -> asyncio.Task[Any]:
            task = asyncio.current_task()
            assert task is not None
            return task

        async def dies() -> None:
            own().cancel()
            await asyncio.sleep(0)

        async def ends() -> str:
            own().cancel()
            return "ended"

        async def catches() -> str:
            own().cancel()
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:  # noqa: ASYNC103 - a handler that swallows it
                return "caught"  # noqa: ASYNC104 - as above
            return "not cancelled"

        async def clean() -> str:
            assert own().cancelling() == 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.sleep(10)
            await asyncio.sleep(0)
            return "clean"

        handlers: list[Handler] = [dies, clean, ends, clean, catches, clean]
        died, *others = await here.ran(*map(here.submit, handlers))
        assert isinstance(died, asyncio.CancelledError)
        assert others == ["clean", "ended", "clean", "caught", "clean"]


@ASYNCIO
async def test_a_task_kept_and_cancelled_later_hits_at_most_a_resting_host() -> None:
    """That host ends, the task group lives, and its work is done by another."""
    async with house(1) as here:
        kept: list[asyncio.Task[Any]] = []

        async def keep() -> None:
            task = asyncio.current_task()
            assert task is not None
            kept.append(task)

        await here.ran(here.submit(keep))
        await anyio.wait_all_tasks_blocked()
        assert here.hosting.statistics().idle == 1
        kept[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert here.hosting.statistics().hosts == 0
        await here.ran(here.submit(keep))
        await anyio.wait_all_tasks_blocked()

        # Woken for work and cancelled before it gets to it: the work must not be forgotten.
        piece = here.submit(at_once)
        kept[1].cancel()
        assert await here.ran(piece) == ["at once"]

        # Spawned for work and cancelled before its first step, or between two attempts.
        here.hosting.statistics()
        pieces = [here.submit(keep) for _ in range(40)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        kept[-1].cancel()
        await here.ran(*pieces)


@ASYNCIO
async def test_a_loop_that_ends_takes_its_hosts_along() -> None:
    """As after a runtime that was never left: idle ones and busy ones end, and nothing hangs."""
    admission: Admission[Attempt] = Admission(2)
    admission.enter("run", None)
    timers = Timers()
    hosting = Hosting(admission, timers, grace_s=1)
    here = House(hosting, admission, timers)

    async def serve() -> None:
        async with anyio.create_task_group() as task_group:
            hosting.open(task_group)
            await anyio.sleep_forever()

    loop_tasks = asyncio.all_tasks()
    serving = asyncio.get_running_loop().create_task(serve())
    await anyio.wait_all_tasks_blocked()
    busy, other = here.submit(anyio.sleep_forever), here.submit(at_once)
    await here.ran(other)
    await anyio.wait_all_tasks_blocked()
    assert hosting.statistics().hosts == 2
    for task in asyncio.all_tasks() - loop_tasks:
        task.cancel()
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await serving
    assert isinstance(busy.outcome, asyncio.CancelledError)
    assert hosting.statistics().hosts == 0


class HandTimers(Timers):
    """Timers that fire when they are told to."""

    def __init__(self) -> None:
        """Start with none."""
        super().__init__()
        self.due: list[Callable[[], None]] = []

    def after(self, delay_s: float, action: Callable[[], None]) -> Timer:
        """Keep what to call."""
        assert delay_s == 100
        self.due.append(action)
        return super().after(delay_s, action)


async def test_a_stubborn_handler_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Once its patience is over; one that ended in time is not."""
    timers = HandTimers()
    async with house(2, timers=timers) as here:
        release = anyio.Event()

        async def swallow() -> None:
            with anyio.CancelScope(shield=True):
                await release.wait()

        stubborn, obedient = here.submit(swallow), here.submit(anyio.sleep_forever)
        await anyio.wait_all_tasks_blocked()
        for each in (stubborn, obedient):
            each.cancel(CancelReason.INTERRUPTED)
        await here.ran(obedient)
        for patience_is_over in timers.due:
            patience_is_over()
        release.set()
        await here.ran(stubborn)
    (record,) = caplog.records
    assert record.message == "attempt.ignores_cancellation"
    assert record.__dict__["task_id"] == "a"
    assert record.__dict__["reason"] == "interrupted"
    assert record.__dict__["stack"] == "where it waits"


async def test_a_bug_of_ours_loses_one_attempt_and_no_host(caplog: pytest.LogCaptureFixture) -> None:
    """Its run is told that it was not taken."""

    class Broken(Piece):
        """An attempt that raises, as none may."""

        async def carry_out(self, on_suspend: Callable[[], None]) -> bool:
            """Break."""
            on_suspend()
            raise ZeroDivisionError

    async with house(1) as here:
        broken = Broken(at_once, "run", here.on_end)
        here.hosting.submit(broken.attempt)
        piece = here.submit(at_once)
        assert await here.ran(broken, piece) == [None, "at once"]
        assert (broken.is_taken, piece.is_taken) == (False, True)
    assert [record.message for record in caplog.records] == ["attempt.lost"]


async def test_closing_lets_what_is_queued_end() -> None:
    """Busy hosts go on until nothing is left."""
    async with house(1) as here:
        release = anyio.Event()
        pieces = [here.submit(release.wait), here.submit(at_once)]
        await anyio.wait_all_tasks_blocked()
        here.hosting.close()
        release.set()
        await here.ran(*pieces)


async def test_submitting_runs_nothing_at_once() -> None:
    """Not even where tasks are started eagerly, so that no stack grows."""
    async with house(1) as here:
        piece = here.submit(at_once)
        assert here.ended == []
        await here.ran(piece)
