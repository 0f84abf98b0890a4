"""Simulations: one seed, one story; crashes, cancellations, clocks, and failures that say how to repeat them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest

from dagrelay import DAG, MemoryStore, RunInterruptedError, Runtime, TaskContext
from dagrelay.testing import FaultyStore, Simulation, SimulationError, generate_dag, simulate
from dagrelay.testing.seeded import BACKENDS, SeededLoop, run_seeded
from tests.simulation.crashing import crashing, on_disk

if TYPE_CHECKING:
    from dagrelay import Store
    from dagrelay.testing.seeded import Backend

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


async def racing(sim: Simulation) -> None:
    """Let ten tasks note their turns."""

    async def racer(number: int) -> None:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
            sim.note(str(number))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(racer, number)


def test_a_seed_decides_the_order(backend: Backend) -> None:
    """The same one the same, others others."""
    runs = simulate(racing, range(20), backend=backend)
    assert runs == simulate(racing, range(20), backend=backend)
    assert len({run.trace for run in runs}) == 20


def test_whole_runs_are_repeated_call_by_call(backend: Backend) -> None:
    """Crashes, faults, cancellations and jumps of the clock included."""
    first = simulate(crashing, range(5), backend=backend, store=on_disk, crashes=3)
    assert first == simulate(crashing, range(5), backend=backend, store=on_disk, crashes=3)
    assert sum(run.lives for run in first) > 10


REPEATED = """
import json, sys
from dagrelay.testing import simulate
from tests.simulation.crashing import crashing, in_memory
print(json.dumps([run.trace for run in simulate(crashing, range(4), backend=sys.argv[1], store=in_memory, crashes=3)]))
"""


def test_another_process_repeats_a_seed(backend: Backend) -> None:
    """Whatever addresses and hashes it has."""
    told: list[object] = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", REPEATED, backend],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            timeout=60,
        )
        told.append(json.loads(done.stdout))
    assert told[0] == told[1]


def test_time_passes_only_when_all_wait_for_it(backend: Backend) -> None:
    """A year is over at once."""

    async def scenario(sim: Simulation) -> None:
        begun = sim.environment.now_us()
        await anyio.sleep(365 * 86_400)
        assert sim.environment.now_us() - begun == 365 * 86_400 * 1_000_000
        sim.jump_clock(-5)
        assert sim.environment.now_us() - begun == (365 * 86_400 - 5) * 1_000_000

    (run,) = simulate(scenario, [1], backend=backend, limit_s=1e9)
    assert run.seconds == pytest.approx(365 * 86_400)


def test_a_failure_says_how_it_is_repeated(backend: Backend) -> None:
    """In one line, with the seed, the loop and what else was asked for."""

    async def fails_sometimes(sim: Simulation) -> None:
        async with anyio.create_task_group():
            assert sim.seed != 3, "the third\nis bad"

    with pytest.raises(SimulationError) as caught:
        simulate(fails_sometimes, range(9), backend=backend, crashes=1)
    assert caught.value.seed == 3
    assert caught.value.repro == f"simulate(fails_sometimes, seeds=[3], backend={backend!r}, crashes=1)"
    assert str(caught.value).endswith(f"AssertionError: the third; repeat it by: {caught.value.repro}")
    twin = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert str(twin) == str(caught.value)


def test_a_failure_among_others_names_their_group(backend: Backend) -> None:
    """As there is no one line for all, and a maker of stores is named too."""

    def of_my_own(_: Simulation) -> Store:
        return MemoryStore()

    async def scenario(_: Simulation) -> None:
        await anyio.sleep(1)
        raise ExceptionGroup("two things", [ValueError("a"), ValueError("b")])

    with pytest.raises(SimulationError, match=r"two things .*store=of_my_own, limit_s=5\)"):
        simulate(scenario, [1], backend=backend, store=of_my_own, limit_s=5)


def test_a_hang_is_an_error(backend: Backend) -> None:
    """Even of what shields itself."""

    async def scenario(_: Simulation) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang)
            await hang()

    async def hang() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.sleep_forever()

    with pytest.raises(SimulationError):
        simulate(scenario, [1], backend=backend)


def test_a_crash_begins_another_life_that_finds_what_was_committed(backend: Backend) -> None:
    """And what the dead do counts for nothing."""
    ended: list[int] = []

    async def scenario(sim: Simulation) -> None:
        sim.kept["lives"] = sim.life
        dag = DAG("d")

        @dag.task
        async def first(ctx: TaskContext) -> int:
            await ctx.xcom.push("life", sim.life)
            return sim.life

        @dag.task(depends_on="first")
        async def second() -> int:
            if sim.life < 3:
                sim.crash()
                sim.crash()
                sim.note("is dead")
                assert not sim.is_alive
                await anyio.sleep(1)
            return sim.life

        async with Runtime(sim.store, environment=sim.environment) as runtime:
            result = await runtime.run(dag, run_id="r")
            assert result["second"] == 3
            assert await result.pull("first") == 1
        ended.append(sim.life)

    (run,) = simulate(scenario, [1], backend=backend)
    assert (run.lives, ended) == (3, [3])
    assert not any("is dead" in line for line in run.trace)
    assert sum("crashes" in line for line in run.trace) == 2


def test_planned_crashes_fall_everywhere(backend: Backend) -> None:
    """At calls of the store before and after it did its part, and between; never more than asked for."""

    async def scenario(sim: Simulation) -> None:
        generated = generate_dag(Random(4), max_tasks=8)
        async with Runtime(sim.store, environment=sim.environment) as runtime:
            await runtime.run(generated.dag, run_id="r", raise_on_failure=False)

    runs = simulate(scenario, range(60), backend=backend, crashes=2)
    assert {run.lives for run in runs} == {1, 2, 3}
    last = {run.trace[index - 1].partition(": ")[2].split()[0] for run in runs for index in at_crashes(run.trace)}
    assert {"apply", "lookup", "open", "maintain"} <= last


def at_crashes(trace: tuple[str, ...]) -> list[int]:
    """Return where a trace tells of crashes."""
    return [index for index, line in enumerate(trace) if line.endswith("crashes") and index]


def test_scopes_are_cancelled_at_moments_of_chance(backend: Backend) -> None:
    """Or not, if they are left in time, or chance decides so."""
    caught: list[bool] = []

    async def scenario(sim: Simulation) -> None:
        for chance in (1.0, 0.0):
            with sim.cancelling(chance=chance) as scope:
                await anyio.sleep(3)
            caught.append(scope.cancelled_caught)

    simulate(scenario, range(20), backend=backend)
    assert set(caught[::2]) == {True, False}
    assert set(caught[1::2]) == {False}


def test_a_scenario_that_always_dies_comes_to_an_end(backend: Backend) -> None:
    """If it kills its store itself, without bound."""

    async def scenario(sim: Simulation) -> None:
        sim.store.kill()
        raise RunInterruptedError("r")

    (run,) = simulate(scenario, [1], backend=backend)
    assert run.lives == 1_000


def test_an_unknown_loop_is_refused(backend: Backend) -> None:
    """With the names of those there are."""
    with pytest.raises(ValueError, match="one of asyncio, trio, not"):
        simulate(racing, [1], backend=cast("Any", f"{backend}x"))


def test_trio_is_left_as_it_was(backend: Backend) -> None:
    """Its scheduling is made deterministic only for as long as a simulation lasts."""
    import trio._core._run as run  # noqa: PLC0415 - an optional extra

    names = ("_ALLOW_DETERMINISTIC_SCHEDULING", "_r")
    before = [vars(run)[name] for name in names]
    simulate(racing, [1], backend=backend)
    assert [vars(run)[name] for name in names] == before


def test_the_store_of_a_simulation_is_a_faulty_one(backend: Backend) -> None:
    """So that a scenario plants what it likes."""

    async def scenario(sim: Simulation) -> None:
        assert isinstance(sim.store, FaultyStore)
        fault = sim.store.delay(5, on="open")
        await sim.store.open(now_us=0)
        await sim.store.close()
        assert fault.fired == 1

    (run,) = simulate(scenario, [1], backend=backend)
    assert run.seconds == pytest.approx(5)


def test_a_program_by_itself_can_be_seeded(backend: Backend) -> None:
    """It returns its result, or is told that it waits for what can't come."""

    async def program() -> float:
        await anyio.sleep(7)
        return anyio.current_time()

    assert run_seeded(program, 1, backend=backend, limit_s=10) >= 7
    with pytest.raises(TimeoutError):
        run_seeded(program, 1, backend=backend, limit_s=5)
    loop = SeededLoop(Random(1))
    with pytest.raises(RuntimeError, match="what can't come"):
        loop.turn(None)
    loop.close()
