"""A world of values that flow while tasks run: given from outside, waited for, streamed, over pools, and of runs within runs."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from dagrelay import (
    DAG,
    Approval,
    Durability,
    Limits,
    Pool,
    RetryPolicy,
    RunInterruptedError,
    Runtime,
    StoreError,
    StoreFullError,
    TaskContext,
    TaskState,
    TaskStateChanged,
    XComConflictError,
)
from dagrelay.errors import RunNotFoundError, RuntimeClosedError
from dagrelay.testing.faulty import StoreKilledError

if TYPE_CHECKING:
    from dagrelay.testing import Simulation

__all__ = ("flowing",)

_MOST_ROUNDS: Final = 100
_PATIENT: Final = RetryPolicy(1_000, delay_s=0.1, jitter=0)
_BRANCHES: Final = ("fork", "parting")
_MOST_TRIES: Final = 1_000
_VALUE: Final = {"n": 41}
_LONGEST_S: Final = 3_600.0
"""How long a world may go on in virtual time; what is planned in it takes some minutes."""


@attrs.frozen(kw_only=True)
class _World:
    """What a seed decides, the same in each life."""

    durability: Durability
    slots: int
    pool: int | Pool
    items: int
    window: int
    waiters: int
    nested: int
    approved: bool
    is_rough: bool
    jumps: bool
    early: bool
    """Whether values may come from outside before their tasks wait; else only once a waiter has its own, so that until then
    the run can't be stuck in its own eyes, and nothing but the end of what is waited for wakes who waits."""


@attrs.define(eq=False)
class _Seen:
    """What was seen of the world from outside, over all its lives."""

    provided: Counter[str] = attrs.field(factory=Counter[str])
    """How often it was acknowledged that a task was given a value."""
    violations: list[str] = attrs.field(factory=list[str])
    """What must not be, where it would not be noticed if it were raised."""


def _world(sim: Simulation) -> _World:
    choices = Random(f"{sim.seed} flow")
    return _World(
        durability=choices.choice(list(Durability)),
        slots=choices.choice((1, 2, 128)),
        pool=choices.choice((1, 2, Pool(1, per_s=5.0), Pool(2, per_s=2.0, burst=3))),
        items=choices.choice((0, 1, 9)),
        window=choices.choice((1, 3, 1_000)),
        waiters=choices.randint(1, 4),
        nested=choices.randint(0, 2),
        approved=choices.random() < 0.5,
        is_rough=choices.random() < 0.6,
        jumps=choices.random() < 0.3,
        early=choices.random() < 0.5,
    )


async def flowing(sim: Simulation) -> None:
    """Take a run to its end through all that comes, and check that each value came once, and came to whoever was to have it."""
    world, seen = _world(sim), sim.kept.setdefault("flow", _Seen())
    if sim.life % 2:
        sim.store.delay(lambda: sim.random.expovariate(1 / 0.05), on="any", for_ever=True)
    for _ in range(_MOST_ROUNDS):
        if world.jumps:
            sim.jump_clock(sim.random.uniform(-86_400, 86_400))
        if world.is_rough and sim.random.random() < 0.4:
            error = sim.random.choice((StoreError, StoreFullError))
            sim.store.fail(lambda: error("planted"), at=sim.random.randint(1, 40))  # noqa: B023 - as it is in this round
        is_done = await _round(sim, world, seen)
        assert not seen.violations, seen.violations[0]
        if is_done:
            assert anyio.current_time() < _LONGEST_S, f"it took {anyio.current_time():.0f} s"
            return
    raise AssertionError(f"not done after {_MOST_ROUNDS} rounds")


async def _round(sim: Simulation, world: _World, seen: _Seen) -> bool:
    """Open a runtime, go on with the run while values come from outside, and tell whether it came to its end."""
    limits = Limits(max_stream_window_items=world.window, pools={"api": world.pool}, max_interruptions=10_000)
    try:
        async with Runtime(
            sim.store,
            environment=sim.environment,
            durability=world.durability,
            max_concurrency=world.slots,
            limits=limits,
            on_exit="interrupt",
        ) as runtime:
            if sim.random.random() < 0.3:
                # Nobody runs it meanwhile: what is given now is for whoever goes on with it.
                await _give(sim, runtime, seen, *sim.random.choice(_values(world)[0 if world.early else 1 :]))
            found = await _go_on(sim, runtime, world, seen)
            if found is not None:
                await _check(runtime, world, seen, found)
            return found is not None
    except StoreKilledError:
        raise
    except (StoreError, RunInterruptedError):
        assert world.is_rough, "nothing has disturbed this run"
        return False


async def _go_on(sim: Simulation, runtime: Runtime, world: _World, seen: _Seen) -> dict[str, Any] | None:
    """Go on with the run, and return what its last task found; None if it was cancelled before."""
    found: dict[str, Any] | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as others:
        others.start_soon(_give_later, sim, runtime, world, seen)
        try:
            with sim.cancelling(chance=0.4 if world.is_rough else 0.0):
                result = await runtime.run(_make_dag(sim, world, runtime), run_id="r")
                found = await result.pull("last")
        except (StoreError, RunInterruptedError) as error:
            failure = error
        others.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return found


def _values(world: _World) -> list[tuple[str, Any]]:
    """Return what is given from outside, by task id."""
    return [("answer", _VALUE), ("consent", Approval(approved=world.approved, by="somebody"))]


async def _check(runtime: Runtime, world: _World, seen: _Seen, found: dict[str, Any]) -> None:
    assert found["answer"] == _VALUE, f"the answer is {found['answer']}"
    assert found["approved"] is world.approved, "the approval is another one"
    assert found["total"] == sum(range(world.items)), f"the reader's total is {found['total']}"
    assert found["nested"] == [number * 10 for number in range(world.nested)], f"the runs within came to {found['nested']}"
    changes = [event async for event in runtime.events("r") if isinstance(event, TaskStateChanged)]
    taken = Counter(event.task_id for event in changes if event.state is TaskState.SUCCESS)
    for task_id in ("answer", "consent"):
        # An acknowledgement may be lost in a crash; given twice it must not be.
        assert seen.provided[task_id] <= 1, f"{task_id} was given {seen.provided[task_id]} times"
        assert taken[task_id] == 1, f"{task_id} was taken {taken[task_id]} times"
    for task_id in _BRANCHES:
        (left,) = await runtime.task_instances("r", task_id=f"{task_id}-left")
        (followed,) = await runtime.task_instances("r", task_id=f"{task_id}-followed")
        ends = (left.state, followed.state)
        assert ends == (TaskState.SKIPPED, TaskState.SUCCESS), f"below {task_id} the one left and the one followed are {ends}"
    (row,) = await runtime.task_instances("r", task_id="producer")
    published = f"attempt {row.attempt}"
    for number, value in enumerate(found["waited"]):
        assert value == published, f"waiter{number} got {value!r}, and the attempt that succeeded published {published!r}"
    admission = runtime.statistics().admission
    assert (admission.running, admission.queued, admission.returning) == (0, 0, 0), f"slots have leaked: {admission}"
    pool = admission.pools["api"]
    assert (pool.running, pool.queued, pool.returning) == (0, 0, 0), f"slots of the pool have leaked: {pool}"
    checkpoint: list[int] = await runtime.xcom.pull("r", "reader", "read")
    assert checkpoint == list(range(world.items)), f"acknowledged items are {checkpoint}"


# -------------------------------------------------------------------------------------------------------- from outside


async def _give_later(sim: Simulation, runtime: Runtime, world: _World, seen: _Seen) -> None:
    """Give values at moments of chance until they are taken, twice now and then: the second is to be refused."""
    values = _values(world)
    sim.random.shuffle(values)
    if not world.early and not await _has_waited(runtime):
        seen.violations.append("who waits was not told that the value is there")
    wrong = {"answer": {"n": -1}, "consent": Approval(approved=not world.approved)}
    for task_id, value in values:
        await sim.moment()
        await _give_surely(sim, runtime, seen, task_id, value)
        if sim.random.random() < 0.3:
            await _give_surely(sim, runtime, seen, task_id, wrong[task_id])


async def _has_waited(runtime: Runtime) -> bool:
    """Wait until a waiter has its value; tell whether it got it in time."""
    for _ in range(_MOST_TRIES):
        await anyio.sleep(1)
        with suppress(StoreError, RunNotFoundError):
            if await runtime.task_instances("r", task_id="waiter0", state=TaskState.SUCCESS):
                return True
    return False


async def _give_surely(sim: Simulation, runtime: Runtime, seen: _Seen, task_id: str, value: Any) -> None:
    for _ in range(_MOST_TRIES):
        if await _give(sim, runtime, seen, task_id, value):
            return
        await anyio.sleep(1)  # The run is not there yet, or the store fails just now.


async def _give(sim: Simulation, runtime: Runtime, seen: _Seen, task_id: str, value: Any) -> bool:
    """Give a value, and tell whether it is there now, by this or an earlier call."""
    try:
        await runtime.provide("r", task_id, value)
    except XComConflictError:
        return True
    except (RunNotFoundError, RuntimeClosedError, StoreError):
        return False
    if sim.is_alive:
        sim.note(f"{task_id} is given")
        seen.provided[task_id] += 1
    return True


# --------------------------------------------------------------------------------------------------------------- tasks


async def _times_ten(factor: int) -> int:
    await anyio.sleep(0.1)
    return factor * 10


class _Handlers:
    """What the tasks of a world do."""

    def __init__(self, sim: Simulation, world: _World, runtime: Runtime) -> None:
        self._sim = sim
        self._world = world
        self._runtime = runtime

    async def _dawdle(self, ctx: TaskContext) -> None:
        """Let others go first now and then, or fail."""
        chance = self._sim.random.random()
        if chance < 0.3:
            await self._sim.moment()
        elif chance < 0.34 and ctx.attempt < 40:
            raise ValueError("on purpose")

    async def produce(self, ctx: TaskContext) -> str:
        await self._dawdle(ctx)
        await ctx.xcom.push("early", f"attempt {ctx.attempt}", publish=True)
        await self._dawdle(ctx)
        return f"attempt {ctx.attempt}"

    async def wait(self, ctx: TaskContext) -> str:
        """Take what was published, and then what the attempt that succeeded handed on."""
        await self._dawdle(ctx)
        early: str = await ctx.xcom.wait("producer", "early")
        assert early.startswith("attempt ")
        await self._dawdle(ctx)
        # In the end it is that of the attempt that succeeded, whichever had been published before.
        final: str = await ctx.xcom.wait("producer")
        return final

    async def append(self, ctx: TaskContext) -> None:
        for number in range(self._world.items):
            await self._dawdle(ctx)
            await ctx.xcom.append("rows", number, seq=number)

    async def read(self, ctx: TaskContext) -> int:
        read: list[int] = await ctx.xcom.pull_own("read", default=[])
        async for item in ctx.xcom.stream("appender", "rows", resume=True):
            read.append(item)
            await ctx.xcom.push("read", read, lifetime="task")
            await self._dawdle(ctx)
        if not read:
            await ctx.xcom.push("read", read, lifetime="task")
        return sum(read)

    async def choose(self, task_id: str, ctx: TaskContext) -> str:
        await self._dawdle(ctx)
        return f"{task_id}-followed"

    async def pause(self, ctx: TaskContext) -> None:
        await self._dawdle(ctx)

    async def nest(self) -> list[int]:
        """Run others from within, by ids of their own, so that each is run once."""
        found: list[int] = []
        for number in range(self._world.nested):
            dag = DAG("within")
            task = dag.add(_times_ten, retries=_PATIENT, bind={"factor": number})
            result = await self._runtime.run(dag, run_id=f"within-{number}")
            found.append(result[task])
        return found

    async def finish(self, ctx: TaskContext, answer: Any, consent: Any, total: Any, nested: Any) -> dict[str, Any]:
        waited = await ctx.xcom.pull([f"waiter{number}" for number in range(self._world.waiters)])
        return {
            "answer": answer,
            "approved": consent["approved"] if isinstance(consent, dict) else consent.approved,
            "total": total,
            "nested": nested,
            "waited": list(waited.values()),
        }


def _make_dag(sim: Simulation, world: _World, runtime: Runtime) -> DAG:
    """Return the DAG; who waits comes first, so that with one slot nothing went on if it kept that."""
    dag, handlers, chance = DAG("flow"), _Handlers(sim, world, runtime), Random(f"{sim.seed} options")
    waiters = [
        dag.add(
            handlers.wait,
            id=f"waiter{number}",
            retries=_PATIENT,
            priority=chance.randint(-1, 2),
            pool=chance.choice((None, "api")),
        )
        for number in range(world.waiters)
    ]
    dag.add(handlers.produce, id="producer", retries=_PATIENT, pool="api", priority=chance.randint(-1, 2))
    dag.add(handlers.append, id="appender", retries=_PATIENT, pool=chance.choice((None, "api")))
    reader = dag.add(handlers.read, id="reader", retries=_PATIENT, after_start=["appender"], pool=chance.choice((None, "api")))
    answer = dag.external("answer", depends_on=chance.choice(([], ["producer"])))
    consent = dag.approval("consent", depends_on=["answer"])
    for task_id in _BRANCHES:
        branch = dag.branch(id=task_id, retries=_PATIENT)(partial(handlers.choose, task_id))
        for each in ("left", "followed"):
            dag.add(handlers.pause, id=f"{task_id}-{each}", retries=_PATIENT, depends_on=[branch])
    nested = dag.add(handlers.nest, id="nested", retries=_PATIENT)
    dag.add(
        handlers.finish,
        id="last",
        depends_on=[*waiters, "producer", "appender"],
        retries=_PATIENT,
        bind={"answer": answer.output, "consent": consent.output, "total": reader.output, "nested": nested.output},
    )
    return dag
