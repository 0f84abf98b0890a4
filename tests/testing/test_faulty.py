"""The store that fails where a test says so: each kind of fault, at the call it was planted for and at no other."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import DAG, MemoryStore, RunInterruptedError, RunState, Runtime
from dagrelay.errors import StoreError, StoreFullError
from dagrelay.stores import Lookup, RunQuery, StreamQuery
from dagrelay.testing import StoreConformance
from dagrelay.testing.faulty import FaultyStore, Gate, StoreKilledError
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from dagrelay import Store
    from dagrelay.testing.faulty import StoreCall, When


class TestFaultlessFaultyStore(StoreConformance):
    """Without faults it is as good a store as the one within."""

    _stores: dict[Path, MemoryStore] = {}  # noqa: RUF012 - shared on purpose: a place keeps its data

    def make_store(self, place: Path) -> Store:
        """Return the one store of the place."""
        return FaultyStore(self._stores.setdefault(place, MemoryStore()))


@pytest.fixture
async def store() -> AsyncIterator[FaultyStore]:
    """Give an open store with a run in it."""
    store = FaultyStore(MemoryStore())
    await store.open(now_us=0)
    await store.apply([Story().create("a")])
    yield store
    await store.close()


async def outcomes(store: FaultyStore, calls: int) -> list[str]:
    """Return how so many batches end."""
    ends: list[str] = []
    for number in range(calls):
        try:
            await store.apply([Story(f"r{number}").create("a")])
            ends.append("done")
        except StoreError as error:
            ends.append(type(error).__name__)
    return ends


@pytest.mark.parametrize(
    ("at", "for_ever", "expected"),
    [
        (1, False, ["StoreFullError", "done", "done"]),
        (2, False, ["done", "StoreFullError", "done"]),
        (2, True, ["done", "StoreFullError", "StoreFullError"]),
        (4, True, ["done", "done", "done"]),
    ],
)
async def test_a_fault_strikes_at_its_call_once_or_for_ever(
    store: FaultyStore, at: int, *, for_ever: bool, expected: list[str]
) -> None:
    """Counted from its planting."""
    fault = store.fail(StoreFullError("full"), at=at, for_ever=for_ever)
    assert await outcomes(store, 3) == expected
    assert (fault.seen, fault.fired) == (3, expected.count("StoreFullError"))


@pytest.mark.parametrize(("when", "stored"), [("before", False), ("after", True)])
async def test_a_fault_comes_before_or_after_the_inner_store_did_its_part(
    store: FaultyStore, when: When, *, stored: bool
) -> None:
    """After it, only the answer is lost."""
    store.fail(StoreError("no answer"), when=when)
    with pytest.raises(StoreError, match="no answer"):
        await store.apply([Story("r").create("a")])
    assert (await store.find_run("r") is not None) is stored


async def test_a_fault_may_be_made_anew_each_time(store: FaultyStore) -> None:
    """So that one exception does not gather the tracebacks of many tasks."""
    numbers = count()
    store.fail(lambda: StoreError(f"number {next(numbers)}"), for_ever=True)
    for number in range(2):
        with pytest.raises(StoreError, match=f"number {number}"):
            await store.apply([])


CALLS: dict[StoreCall, Callable[[FaultyStore], Awaitable[Any]]] = {
    "apply": lambda store: store.apply([]),
    "lookup": lambda store: store.lookup([]),
    "maintain": lambda store: store.maintain(idle=True),
    "find_run": lambda store: store.find_run("run"),
    "find_runs": lambda store: store.find_runs(RunQuery()),
    "load_run": lambda store: store.load_run("run"),
    "instances": lambda store: store.instances("run"),
    "entries": lambda store: store.entries("run"),
    "stored_bytes": lambda store: store.stored_bytes("run"),
    "next_seq": lambda store: store.next_seq("run"),
    "events": lambda store: store.events("run"),
    "previous": lambda store: store.previous("dag", "a", "k", before_run="run", limit=1),
    "attempts": lambda store: store.attempts("dag"),
    "stream": lambda store: store.stream(StreamQuery(producer=Story().key("a"), key="k")),
    "message": lambda store: store.message("m"),
}


@pytest.mark.parametrize("call", list(CALLS))
async def test_each_call_can_be_met_and_is_counted(store: FaultyStore, call: StoreCall) -> None:
    """By its name; other calls pass."""
    fault = store.fail(StoreError("met"), on=call)
    for name, method in CALLS.items():
        if name == call:
            with pytest.raises(StoreError, match="met"):
                await method(store)
        else:
            await method(store)
    assert fault.fired == 1
    assert store.calls[call] == (2 if call == "apply" else 1)


@pytest.mark.parametrize("call", list(CALLS))
async def test_any_call_can_be_met(store: FaultyStore, call: StoreCall) -> None:
    """Whichever comes."""
    store.fail(StoreError("met"), on="any")
    with pytest.raises(StoreError, match="met"):
        await CALLS[call](store)


async def test_a_delay_passes_by_the_loops_clock(store: FaultyStore) -> None:
    """As long as it says, fixed or asked for each time."""
    store.delay(0.02)
    store.delay(lambda: 0.02, on="lookup", when="after")
    begun = anyio.current_time()
    await store.apply([])
    after_apply = anyio.current_time()
    await store.lookup([])
    assert after_apply - begun >= 0.015
    assert anyio.current_time() - after_apply >= 0.015


async def test_what_is_held_goes_on_when_its_gate_opens(store: FaultyStore) -> None:
    """Others pass meanwhile."""
    gate = store.hold(at=1)
    done: list[int] = []

    async def write(number: int) -> None:
        await store.apply([])
        done.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, 1)
        await gate.reached()
        assert gate.waiting == 1
        await write(2)
        assert done == [2]
        gate.open()
    assert done == [2, 1]
    assert gate.waiting == 0


async def test_gates_hold_writes_before_and_answers_after() -> None:
    """While they are shut."""
    gate = Gate()
    gate.open()
    await gate.passed()
    gate.shut()
    gate.shut()
    with anyio.move_on_after(0.01) as scope:
        await gate.passed()
    assert scope.cancelled_caught
    assert gate.waiting == 0


@pytest.mark.parametrize(("when", "stored"), [("before", False), ("after", True)])
async def test_a_killed_store_does_nothing_more_and_the_inner_keeps_what_was_committed(when: When, *, stored: bool) -> None:
    """Another takes it over."""
    inner, told = MemoryStore(), list[str]()
    store = FaultyStore(inner)
    await store.open(now_us=0)
    store.kill(at=2, when=when, then=lambda: told.append("dead"))
    await store.apply([Story("one").create("a")])
    assert not store.is_killed
    for _ in range(2):
        with pytest.raises(StoreKilledError):
            await store.apply([Story("two").create("a")])
    with pytest.raises(StoreKilledError):
        await store.lookup([])
    assert store.is_killed
    assert told == ["dead"]
    await store.close()
    other = FaultyStore(inner)
    await other.open(now_us=0)
    assert await other.find_run("one") is not None
    assert (await other.find_run("two") is not None) is stored
    await other.close()


async def test_a_store_killed_now_fails_what_is_under_way(store: FaultyStore) -> None:
    """What hangs in it learns nothing any more; healed, it works again."""
    gate = store.hold(when="after")
    errors: list[Exception] = []

    async def write() -> None:
        try:
            await store.apply([])
        except StoreKilledError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await gate.reached()
        store.kill()
        gate.open()
    assert len(errors) == 1
    store.heal()
    await store.apply([])


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_that_fails_to_open_is_closed(when: When) -> None:
    """Nobody else would; the next one to open it is not locked out."""
    inner = MemoryStore()
    store = FaultyStore(inner)
    store.kill(at=1, on="open", when=when)
    with pytest.raises(StoreKilledError):
        await store.open(now_us=0)
    await inner.open(now_us=0)
    await inner.close()


async def test_planned_answers_take_the_inner_stores_place(store: FaultyStore) -> None:
    """One for each batch, and nothing is stored."""
    refusal = StoreError("bad page")
    store.answer([1], [refusal])
    assert await store.apply([Story("r").create("a")]) == [1]
    assert await store.apply([Story("r").create("a")]) == [refusal]
    assert await store.find_run("r") is None
    assert await store.apply([Story("r").create("a")]) == [1]


async def test_what_came_is_kept(store: FaultyStore) -> None:
    """Batches, lookups and what `maintain` was told."""
    operation = Story("r").create("a")
    wanted: list[Lookup] = []
    await store.apply([operation])
    await store.lookup(wanted)
    await store.maintain(idle=False)
    assert store.batches[-1] == [operation]
    assert store.lookups == [wanted]
    assert store.idle == [False]
    assert store.name == ":memory:"
    assert not store.is_read_only
    assert store.statistics().operations == 2


async def test_a_second_runtime_goes_on_with_what_a_killed_one_committed() -> None:
    """What its docstring promises."""
    dag, ran, inner = DAG("d"), list[str](), MemoryStore()

    @dag.task
    async def first() -> int:
        ran.append("first")
        return 1

    @dag.task(depends_on="first")
    async def second() -> int:
        ran.append("second")
        return 2

    store = FaultyStore(inner)
    store.kill(at=2, when="after")  # The first batch records the run, the second the outcome of `first`.
    with pytest.raises((StoreKilledError, RunInterruptedError)):
        async with Runtime(store) as runtime:
            await runtime.run(dag, run_id="r")
    async with Runtime(inner) as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        await runtime.run(dag, run_id="r")
    assert ran == ["first", "second"]
