"""Who waits for others holds no slot, and who goes on has one again: whatever is cancelled meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from random import Random
from types import NoneType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from dagrelay import DAG, Limits, MemoryStore, Pool, Runtime, TaskFailedError, TaskStateChanged, TaskTimeoutError
from dagrelay.runtime.attempt import CARRIED, CancelReason
from dagrelay.testing import FaultyStore
from tests.runtime.probes import PATIENCE_S, Probe
from tests.runtime.test_hosting import ASYNCIO, Demands, at_once, house

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from dagrelay import Durability, Store, TaskContext
    from dagrelay.runtime.attempt import Attempt
    from tests.runtime.test_hosting import House, Piece


def carried() -> Attempt:
    """Return the attempt whose handler calls."""
    attempt = CARRIED.get()
    assert attempt is not None
    return attempt


def nested(runtime: Runtime, depth: int) -> DAG:
    """Return a DAG whose one task runs another such, and so on."""
    dag = DAG(f"d{depth}")

    @dag.task(pool="p")
    async def dive() -> int:
        if not depth:
            await anyio.lowlevel.checkpoint()
            return 0
        deeper: int = (await runtime.run(nested(runtime, depth - 1)))["dive"]
        return 1 + deeper

    return dag


async def test_runs_within_runs_need_one_slot(open_store: Callable[[], Store], durability: Durability) -> None:
    """Of the runtime and of the pool: who awaits a run leaves them to its tasks."""
    limits = Limits(pools={"p": 1})
    async with Runtime(open_store(), max_concurrency=1, limits=limits, durability=durability) as runtime:
        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(nested(runtime, 3)))["dive"] == 3
        statistics = runtime.statistics()
        assert statistics.admission.running == statistics.admission.pools["p"].running == statistics.hosting.parked == 0


async def test_a_handle_is_awaited_without_a_slot() -> None:
    """Of a run that the handler started, or joined; one that has ended costs no turn."""
    inner, outer = DAG("inner"), DAG("outer")

    @inner.task
    async def value() -> int:
        await anyio.lowlevel.checkpoint()
        return 7

    async with Runtime(":memory:", max_concurrency=1) as runtime:

        @outer.task
        async def ask() -> list[int]:
            handle = await runtime.start(inner, run_id="one")
            return [
                (await handle.result())["value"],
                (await handle.result())["value"],
                (await runtime.run(inner, run_id="one"))["value"],
            ]

        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(outer))["ask"] == [7, 7, 7]


async def test_handlers_in_threads_wait_without_slot_and_thread() -> None:
    """There are as many threads as slots, and those that wait for other threads don't count."""
    async with Runtime(":memory:", max_concurrency=1) as runtime:

        def nested_in_threads(depth: int) -> DAG:
            dag = DAG(f"d{depth}")

            @dag.task
            def dive() -> int:
                if not depth:
                    return 0
                inner = anyio.from_thread.run(runtime.run, nested_in_threads(depth - 1))
                value: int = inner["dive"]
                return 1 + value

            return dag

        for _ in range(2):
            with anyio.fail_after(PATIENCE_S):
                assert (await runtime.run(nested_in_threads(2)))["dive"] == 2


async def test_a_handler_may_lose_patience_with_an_inner_run() -> None:
    """The inner run is interrupted, which frees the slot that the handler goes on with."""
    inner, outer = DAG("inner"), DAG("outer")
    probe = Probe()

    @inner.task
    async def never() -> None:
        await probe.hold("never")

    async with Runtime(":memory:", max_concurrency=1) as runtime:

        @outer.task
        async def ask() -> str:
            async with anyio.create_task_group() as task_group:

                async def lose_patience() -> None:
                    await probe.reach("never")
                    task_group.cancel_scope.cancel()

                task_group.start_soon(lose_patience)
                await runtime.run(inner, run_id="inner")
            return (await runtime.get_run("inner")).state.value

        with anyio.fail_after(PATIENCE_S):
            assert (await runtime.run(outer))["ask"] == "interrupted"


async def test_200_parked_attempts_hold_none_of_128_slots() -> None:
    """What they wait for is queued behind them, and runs; their hosts go when they are done."""
    dag = DAG("d")
    probe = Probe()
    running, peak = 0, 0

    async def wait() -> int:
        nonlocal running, peak
        async with carried().parked():
            await probe.reach("produced")
        running += 1
        peak = max(peak, running)
        await anyio.lowlevel.checkpoint()
        running -= 1
        return 1

    for number in range(200):
        dag.add(wait, id=f"w{number}")

    @dag.task
    async def produce() -> None:
        await probe.hold("produce")
        probe.open("produced")

    async with Runtime(":memory:", max_concurrency=128) as runtime:
        handle = await runtime.start(dag)
        await probe.reach("produce")
        statistics = runtime.statistics()
        assert (statistics.hosting.parked, statistics.admission.running, statistics.admission.queued) == (200, 1, 0)
        probe.let_go("produce")
        with anyio.fail_after(PATIENCE_S):
            await handle.result()
        assert 1 < peak <= 128
        await anyio.wait_all_tasks_blocked()
        statistics = runtime.statistics()
        assert (statistics.hosting.parked, statistics.admission.running) == (0, 0)
        assert statistics.hosting.hosts <= 128


async def test_a_parked_attempt_times_out_at_its_time() -> None:
    """Waiting for a slot, too: it ends without one."""
    dag = DAG("d")
    probe = Probe()

    @dag.task(timeout_s=0.01)
    async def wait() -> None:
        async with carried().parked():
            await probe.reach("hog")

    @dag.task
    async def hog() -> None:
        await probe.hold("hog")

    async with Runtime(":memory:", max_concurrency=1) as runtime:
        handle = await runtime.start(dag)
        events = handle.events()
        with anyio.fail_after(PATIENCE_S):
            async for event in events:
                if isinstance(event, TaskStateChanged) and event.state == "failed":
                    break
        assert runtime.statistics().admission.running == 1
        probe.let_go("hog")
        result = await handle.result(raise_on_failure=False)
        assert isinstance(result.errors["wait"], TaskFailedError)
        assert isinstance(result.errors["wait"].__cause__, TaskTimeoutError)


async def test_what_a_handler_leaves_behind_parks_nothing() -> None:
    """Its slot was given back with its attempt."""
    dag, inner = DAG("d"), DAG("inner")
    probe = Probe()
    results: list[Any] = []

    @inner.task
    async def value() -> int:
        return 5

    async with anyio.create_task_group() as task_group, Runtime(":memory:", max_concurrency=1) as runtime:

        @dag.task
        async def leave() -> None:
            attempt = carried()

            async def later() -> None:
                CARRIED.set(attempt)
                await probe.reach("ended")
                results.append((await runtime.run(inner))["value"])

            task_group.start_soon(later)

        await runtime.run(dag)
        probe.open("ended")
        with anyio.fail_after(PATIENCE_S):
            while not results:
                await anyio.wait_all_tasks_blocked()
        assert results == [5]
        assert runtime.statistics().admission.running == 0


# ---------------------------------------------------------------------------------------------------------- single hosts


@asynccontextmanager
async def parked(here: House, piece: Piece) -> AsyncGenerator[None]:
    """Park as an attempt does."""
    here.hosting.leave_slot(piece.attempt, keeps_room=False)
    try:
        yield
    finally:
        await here.hosting.regain_slot(piece.attempt)  # noqa: ASYNC102, ASYNC119 - it shields itself


class Waiter:
    """A piece that parks, and tells what it does."""

    def __init__(self, here: House, *, demands: Demands | None = None) -> None:
        """Queue it."""
        self.here, self.go, self.told = here, anyio.Event(), list[str]()
        self.piece = here.submit(self.run)
        if demands is not None:
            self.piece.task = demands

    async def run(self) -> str:
        """Park until told to go on."""
        self.told.append("runs")
        try:
            async with parked(self.here, self.piece):
                await self.go.wait()
            self.told.append("goes on")
        except anyio.get_cancelled_exc_class():
            self.told.append("cancelled")
            raise
        return "went on"


async def test_who_goes_on_comes_before_those_who_never_started() -> None:
    """As soon as one gives its slot up, and without a host in between."""
    async with house(1) as here:
        waiter = Waiter(here)
        release = anyio.Event()
        hog = here.submit(release.wait)
        await anyio.wait_all_tasks_blocked()
        assert here.admission.statistics().running == 1
        late = here.submit(at_once)
        waiter.go.set()
        await anyio.wait_all_tasks_blocked()
        assert here.admission.statistics().returning == 1
        assert waiter.told == ["runs"]
        release.set()
        await here.ran(hog, waiter.piece, late)
        assert here.ended == [hog, waiter.piece, late]
        assert here.hosting.statistics().hosts <= 2


async def test_where_there_is_room_nobody_waits() -> None:
    """A slot is taken again within the same step."""
    async with house(2) as here:

        async def park() -> str:
            async with parked(here, here_piece[0]):
                assert here.admission.statistics().running == 0
                assert here.hosting.statistics().parked == 1
            assert here.admission.statistics().running == 1
            return "never suspended"

        here_piece: list[Piece] = []
        here_piece.append(here.submit(park))
        await here.ran(here_piece[0])
        assert here_piece[0].outcome == "never suspended"
        assert here.hosting.statistics().hosts == 1


@pytest.mark.parametrize("is_early", [True, False])
async def test_an_attempt_cancelled_while_parked_ends_without_a_slot(is_early: bool) -> None:
    """Before it wants to go on, and while it waits to; nothing is given back twice."""
    async with house(1) as here:
        waiter = Waiter(here)
        release = anyio.Event()
        hog = here.submit(release.wait)
        await anyio.wait_all_tasks_blocked()
        if not is_early:
            waiter.go.set()
            await anyio.wait_all_tasks_blocked()
        waiter.piece.cancel(CancelReason.CANCELLED)
        await here.ran(waiter.piece)
        assert waiter.told == ["runs", "cancelled"]
        assert here.admission.statistics().running == 1
        assert here.admission.statistics().returning == here.hosting.statistics().parked == 0
        release.set()
        await here.ran(hog)


async def test_a_cancelled_part_of_a_handler_goes_on_with_a_slot() -> None:
    """Its timeout is raised once there is one; else more would run than there are slots."""
    async with house(1) as here:
        pieces: list[Piece] = []
        told: list[str] = []

        patience = anyio.CancelScope()

        async def impatient() -> None:
            with patience:
                async with parked(here, pieces[0]):
                    await anyio.sleep_forever()
            told.append("goes on")
            assert here.hosting.statistics().parked == 0

        pieces.append(here.submit(impatient))
        release = anyio.Event()
        pieces.append(here.submit(release.wait))
        await anyio.wait_all_tasks_blocked()
        patience.cancel()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        is_early = bool(told)
        release.set()
        await here.ran(*pieces)
        assert not is_early
        assert told == ["goes on"]
        assert pieces[0].outcome is None


@ASYNCIO
@pytest.mark.parametrize("is_early", [True, False])
async def test_a_native_cancellation_while_parked_gives_nothing_back_twice(is_early: bool) -> None:
    """The handler that catches it goes on without a slot, may park again, and has one after that."""
    async with house(1) as here:
        pieces: list[Piece] = []
        tasks: list[asyncio.Task[Any]] = []
        go, told = anyio.Event(), list[str]()

        async def stubborn() -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            try:
                async with parked(here, pieces[0]):
                    await go.wait()
            except asyncio.CancelledError:  # noqa: ASYNC103 - a handler may do that
                task.uncancel()
                told.append(f"caught with {here.hosting.statistics().parked} parked")
            async with parked(here, pieces[0]):
                await anyio.lowlevel.checkpoint()
            told.append(f"ends with {here.hosting.statistics().parked} parked")

        pieces.append(here.submit(stubborn))
        release = anyio.Event()
        pieces.append(here.submit(release.wait))
        await anyio.wait_all_tasks_blocked()
        if not is_early:
            go.set()
            await anyio.wait_all_tasks_blocked()
            assert here.admission.statistics().returning == 1
        tasks[0].cancel()
        await anyio.wait_all_tasks_blocked()
        release.set()
        await here.ran(*pieces)
        # Before it wants to go on, it waits for its slot as after a timeout; later, that very wait is cancelled.
        assert told == [f"caught with {0 if is_early else 1} parked", "ends with 0 parked"]


async def test_several_tasks_of_a_handler_park_at_once() -> None:
    """The slot comes back when the last goes on; one that was about to go on does so while another waits."""
    async with house(1) as here:
        pieces: list[Piece] = []
        doors = {name: anyio.Event() for name in "abc"}
        third = anyio.Event()
        told: list[str] = []

        async def wait(door: str) -> None:
            async with parked(here, pieces[0]):
                await doors[door].wait()
            told.append(door)

        async def handler() -> None:
            async with anyio.create_task_group() as task_group:
                for door in doors:
                    if door == "c":
                        await third.wait()
                    task_group.start_soon(wait, door)

        pieces.append(here.submit(handler))
        release = anyio.Event()
        pieces.append(here.submit(release.wait))
        await anyio.wait_all_tasks_blocked()
        seen: list[list[str]] = []
        for event in (doors["a"], doors["b"], third, doors["c"]):
            event.set()
            await anyio.wait_all_tasks_blocked()
            seen.append(list(told))
        release.set()
        await here.ran(*pieces)
        # The first needs no slot while another waits; the last needs one, and there is none, until a third waits.
        assert seen == [["a"], ["a"], ["a", "b"], ["a", "b"]]
        assert told == ["a", "b", "c"]


async def test_what_has_ended_parks_nothing() -> None:
    """Nor does it wait for a slot."""
    async with house(1) as here:
        waiter = Waiter(here)
        piece = here.submit(at_once)
        await here.ran(piece)
        here.hosting.leave_slot(piece.attempt, keeps_room=False)
        assert here.hosting.statistics().parked == 1
        await here.hosting.regain_slot(piece.attempt)
        waiter.go.set()
        await here.ran(waiter.piece)


async def test_what_an_attempt_left_waiting_for_a_slot_is_let_go() -> None:
    """As by a handler in a thread that was given up: it neither takes a slot nor waits for ever."""
    async with house(1) as here, anyio.create_task_group() as task_group:
        pieces: list[Piece] = []
        told: list[str] = []
        go, end = anyio.Event(), anyio.Event()

        async def left_behind() -> None:
            async with parked(here, pieces[0]):
                await go.wait()
            told.append("let go")

        async def handler() -> None:
            task_group.start_soon(left_behind)
            await end.wait()

        pieces.append(here.submit(handler))
        release = anyio.Event()
        pieces.append(here.submit(release.wait))
        await anyio.wait_all_tasks_blocked()
        go.set()
        await anyio.wait_all_tasks_blocked()
        returning, is_early = here.admission.statistics().returning, bool(told)
        end.set()
        await here.ran(pieces[0])
        await anyio.wait_all_tasks_blocked()
        assert told == ["let go"]
        running = here.admission.statistics().running
        release.set()
        assert (returning, is_early, running) == (1, False, 1)


POOLS = {"p": Pool(1), "q": Pool(2)}


@pytest.mark.parametrize("seed", range(20))
async def test_slots_are_kept_whatever_happens(seed: int) -> None:
    """Random pieces park, in parts too, lose patience, are cancelled: never do more run than may, and all come to an end."""
    random = Random(seed)
    slots = random.randint(1, 4)
    async with house(slots, pools=POOLS) as here:
        limits = {"run": None, "a": random.choice([1, 2]), "b": None}
        here.admission.enter("a", limits["a"])
        here.admission.enter("b", None)
        pieces: list[Piece] = []
        active: list[Piece] = []

        def check() -> None:
            assert len(active) <= slots
            for name, pool in POOLS.items():
                assert sum(piece.task.pool == name for piece in active) <= pool.slots
            assert limits["a"] is None or sum(piece.owner == "a" for piece in active) <= limits["a"]

        async def park(piece: Piece) -> None:
            active.remove(piece)
            async with parked(here, piece):
                for _ in range(random.choice([0, 1, 5])):
                    await anyio.lowlevel.checkpoint()
            active.append(piece)
            check()

        async def work(piece: Piece) -> None:
            active.append(piece)
            check()
            try:
                for _ in range(random.randint(0, 4)):
                    with anyio.move_on_after(0 if random.random() < 0.2 else None):
                        await (park(piece) if random.random() < 0.6 else anyio.lowlevel.checkpoint())
                    if piece.cancel_reason is None and piece not in active:
                        active.append(piece)  # Its patience ended, and it has a slot again.
                        check()
                    if random.random() < 0.1:
                        random.choice([each for each in pieces if each.scope is not None]).cancel(CancelReason.CANCELLED)
            finally:
                if piece in active:
                    active.remove(piece)

        for _ in range(60):
            pieces.append(
                here.submit_work(
                    work, random.choice(["run", "a", "b"]), Demands(random.choice([None, "p", "q"]), random.randint(0, 1))
                )
            )
            if random.random() < 0.5:
                await anyio.lowlevel.checkpoint()
        await here.ran(*pieces)
        assert [
            piece.outcome for piece in pieces if not isinstance(piece.outcome, NoneType | anyio.get_cancelled_exc_class())
        ] == []
        assert here.hosting.statistics().parked == 0


async def test_who_waits_for_the_disk_lends_his_slot_to_other_runs_only() -> None:
    """A value that can't be accepted yet holds up its own run; another's task starts in the meantime."""
    store = FaultyStore(MemoryStore())
    go, polite_ran, started = anyio.Event(), anyio.Event(), list[str]()
    flood, polite = DAG("flood"), DAG("polite")

    async def push(ctx: TaskContext) -> None:
        started.append(ctx.task_id)
        await go.wait()
        await ctx.xcom.push("k", "x" * 60)

    async def run() -> None:
        polite_ran.set()

    for number in range(4):
        flood.add(push, id=f"t{number}")
    polite.add(run)
    async with Runtime(store, max_concurrency=2, limits=Limits(max_pending_bytes=100)) as runtime:
        flooding = await runtime.start(flood)
        await anyio.wait_all_tasks_blocked()
        waiting = await runtime.start(polite)
        await anyio.wait_all_tasks_blocked()
        assert not polite_ran.is_set()

        store.writes.shut()
        go.set()
        await anyio.wait_all_tasks_blocked()
        had_run, had_started = polite_ran.is_set(), list(started)
        store.writes.open()

        assert had_run
        assert had_started == ["t0", "t1"], "the run that waits holds no more values than it may have attempts"
        assert (await flooding.result()).state == "success"
        await waiting.result()
        assert runtime.statistics().admission.running == 0
