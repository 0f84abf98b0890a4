"""A world of streams: producers and readers that fail, leave early and dawdle, whatever else comes between."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import attrs

from dagrelay import DAG, Durability, Limits, RetryPolicy, RunInterruptedError, Runtime, StoreError, StoreFullError, TaskContext
from dagrelay.testing.faulty import StoreKilledError

if TYPE_CHECKING:
    from dagrelay.testing import Simulation

__all__ = ("streaming",)

_MOST_ROUNDS = 100
_LEAVES_AFTER = 3
_OFTEN = RetryPolicy(10_000, delay_s=0.1)


class _Boom(Exception):  # noqa: N818 - what handlers fail of
    """A handler fails."""


@attrs.frozen(kw_only=True)
class _World:
    """What a seed decides, the same in each life."""

    items: int
    window: int
    is_numbered: bool
    durability: Durability
    slots: int
    readers: tuple[tuple[str, bool], ...]
    """Kind of each reader, and whether it resumes."""
    is_rough: bool


def _world(sim: Simulation) -> _World:
    choices = Random(f"{sim.seed} choices")
    kinds = ("writing", "collecting", "leaving", "waiting", "reading others first")
    return _World(
        items=choices.choice((0, 1, 7, 40)),
        window=choices.choice((1, 2, 5, 1_000)),
        is_numbered=choices.random() < 0.5,
        durability=choices.choice(list(Durability)),
        slots=choices.choice((1, 2, 128)),
        readers=tuple((choices.choice(kinds), choices.random() < 0.5) for _ in range(choices.randint(1, 4))),
        is_rough=choices.random() < 0.5,
    )


async def streaming(sim: Simulation) -> None:
    """Take a run of streams to its end through all that comes, and check what each reader was handed."""
    world = _world(sim)
    sim.store.delay(lambda: sim.random.expovariate(1 / 0.05), on="any", for_ever=True)
    for _ in range(_MOST_ROUNDS):
        if world.is_rough and sim.random.random() < 0.4:
            error = sim.random.choice((StoreError, StoreFullError))
            sim.store.fail(lambda: error("planted"), at=sim.random.randint(1, 30))  # noqa: B023 - as it is in this round
        if await _round(sim, world):
            return
    raise AssertionError(f"not done after {_MOST_ROUNDS} rounds")


async def _round(sim: Simulation, world: _World) -> bool:
    try:
        async with Runtime(
            sim.store,
            environment=sim.environment,
            durability=world.durability,
            max_concurrency=world.slots,
            limits=Limits(max_stream_window_items=world.window, max_interruptions=10_000),
            on_exit="interrupt",
        ) as runtime:
            with sim.cancelling(chance=0.5 if world.is_rough else 0.0) as scope:
                result = await runtime.run(_make_dag(sim, world), run_id="r")
                for number, (kind, _) in enumerate(world.readers):
                    found: Any = await result.pull(f"reader{number}")
                    wanted = world.items if kind != "leaving" else min(_LEAVES_AFTER, world.items)
                    assert found == wanted, f"reader{number} ({kind}) came to {found} items, not {wanted}"
            if scope.cancelled_caught:
                return False
    except StoreKilledError:
        raise
    except (StoreError, RunInterruptedError):
        assert world.is_rough, "nothing has disturbed this run"
        return False
    return True


class _Handlers:
    """What the tasks of a world do."""

    def __init__(self, sim: Simulation, world: _World) -> None:
        self._sim = sim
        self._world = world

    async def _dawdle(self, ctx: TaskContext) -> None:
        """Let others go first now and then, or fail."""
        chance = self._sim.random.random()
        if chance < 0.2:
            await self._sim.moment()
        elif chance < 0.22 and ctx.attempt < 40:
            raise _Boom

    def _number_of(self, item: Any) -> int:
        return int(item if self._world.is_numbered else item[0])

    async def load(self, ctx: TaskContext) -> None:
        for number in range(self._world.items):
            await self._dawdle(ctx)
            if self._world.is_numbered:
                await ctx.xcom.append("rows", number, seq=3 * number)
            else:
                await ctx.xcom.append("rows", [number, ctx.attempt])
            if number % 2:
                await ctx.xcom.append("others", number, seq=number)

    async def write(self, ctx: TaskContext, *, resume: bool) -> int:
        seen: list[Any] = (await ctx.xcom.pull_own("seen", default=[])) if resume else []
        async for item in ctx.xcom.stream("load", "rows", resume=resume):
            if not self._world.is_numbered and seen and item[1] != seen[-1][1]:
                seen = []  # What was written for another generation says nothing of this one.
            assert self._number_of(item) == len(seen), f"item {item} where {len(seen)} was to come"
            seen.append(item)
            await ctx.xcom.push("seen", seen, lifetime="task")
            await self._dawdle(ctx)
        return len(seen) if self._world.items else 0

    async def collect(self, ctx: TaskContext) -> int:
        items: list[Any] = []
        async for item in ctx.xcom.stream("load", "rows"):
            items.append(item)
            await self._dawdle(ctx)
        assert [self._number_of(item) for item in items] == list(range(len(items)))
        assert self._world.is_numbered or len({item[1] for item in items}) <= 1, "items of two attempts"
        return len(items)

    async def wait(self, ctx: TaskContext) -> int:
        """Hold the producer at its window, if that could be, until it has ended."""
        await ctx.xcom.wait("load", "return_value")
        return await self.collect(ctx)

    async def collect_others_first(self, ctx: TaskContext) -> int:
        others = [item async for item in ctx.xcom.stream("load", "others")]
        assert others == list(range(1, self._world.items, 2))
        return await self.collect(ctx)

    async def leave(self, ctx: TaskContext) -> int:
        count = 0
        async for item in ctx.xcom.stream("load", "rows"):
            assert self._number_of(item) == count
            count += 1
            await self._dawdle(ctx)
            if count == _LEAVES_AFTER:
                break
        return count


def _make_dag(sim: Simulation, world: _World) -> DAG:
    dag, handlers = DAG("streams"), _Handlers(sim, world)
    dag.add(handlers.load, id="load", retries=_OFTEN)
    for number, (kind, resume) in enumerate(world.readers):

        async def handler(ctx: TaskContext, kind: str = kind, resume: bool = resume) -> int:
            match kind:
                case "writing":
                    return await handlers.write(ctx, resume=resume)
                case "collecting":
                    return await handlers.collect(ctx)
                case "waiting":
                    return await handlers.wait(ctx)
                case "reading others first":
                    return await handlers.collect_others_first(ctx)
                case _:
                    return await handlers.leave(ctx)

        dag.add(handler, id=f"reader{number}", after_start=["load"], retries=_OFTEN)
    return dag
