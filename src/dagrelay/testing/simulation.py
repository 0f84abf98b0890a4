"""Whole programs replayed from a seed: order, time, chance, crashes and cancellations are decided by it, and by nothing else."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

import anyio
import anyio.lowlevel
import attrs

from dagrelay.runtime.environment import Environment
from dagrelay.stores.memory import MemoryStore
from dagrelay.stores.operations import FinishAttempt, MarkInstance, PutEntries, StartAttempt
from dagrelay.testing.faulty import FaultyStore
from dagrelay.testing.seeded import BACKENDS, Backend, run_seeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from anyio.abc import TaskGroup

    from dagrelay.stores.base import Store
    from dagrelay.stores.operations import Operation
    from dagrelay.testing.faulty import StoreCall, When

__all__ = ("Scenario", "SimulatedRun", "Simulation", "SimulationError", "StoreMaker", "memory", "simulate")

T = TypeVar("T")

_EPOCH_US: Final = 1_700_000_000_000_000
"""What the wall clock shows at virtual time 0."""
_MOST_LIVES: Final = 1_000
_LIMIT_S: Final = 86_400.0
_IN_MEMORY: Final = "/dev/shm"  # noqa: S108 - only a folder of a name of its own is made in it
_MEAN_CALLS: Final = 12
_MEAN_STEPS: Final = 40
_MEAN_PAUSE_S: Final = 2.0
"""Where crashes and cancellations fall, on average: after so many calls of the store, steps of the loop, or seconds."""


Scenario: TypeAlias = "Callable[[Simulation], Awaitable[None]]"
"""A program to simulate: begun anew after each crash, it goes on with what the store has, and asserts what it will."""
StoreMaker: TypeAlias = "Callable[[Simulation], Store]"
"""Returns a store, not yet open, for each life: one that finds what an earlier one left in `place`, or in `kept`."""


class SimulationError(AssertionError):
    """A scenario failed; the message says by which line it is repeated."""

    def __init__(self, seed: int, backend: str, repro: str, story: str) -> None:
        """Take the seed, where it failed, the line that repeats it, and what happened."""
        self.seed = seed
        self.backend = backend
        self.repro = repro
        self.story = story
        super().__init__(f"{story}; repeat it by: {repro}")

    def __reduce__(self) -> tuple[type[SimulationError], tuple[int, str, str, str]]:
        """Pickle by the facts."""
        return type(self), (self.seed, self.backend, self.repro, self.story)


@attrs.frozen(kw_only=True)
class SimulatedRun:
    """What happened under one seed."""

    seed: int
    """The seed."""
    lives: int
    """How often the scenario was begun."""
    seconds: float
    """How long it took, in virtual time."""
    trace: tuple[str, ...]
    """The calls of the store and the scenario's notes, each with its time and life; equal for equal seeds."""


class Simulation:
    """What a scenario finds of the world it runs in.

    Args:
        seed: decides everything.
        backend: the event loop.
        place: an empty folder.
        store: makes the store of each life.
        crashes: the most crashes to come.
    """

    def __init__(self, seed: int, *, backend: Backend, place: Path, store: StoreMaker, crashes: int) -> None:
        """Set the world up; `simulate` does."""
        self.seed: int = seed
        """The seed."""
        self.backend: Backend = backend
        """The event loop."""
        self.place: Path = place
        """A folder of the seed's own; files in it outlive crashes, as on a disk."""
        self.kept: dict[str, Any] = {}
        """What outlives crashes too: what only the test, and no program, could know."""
        self.random: Random = Random(seed)  # noqa: S311 - repeatable on purpose
        """Chance, for the scenario."""
        self.environment: Environment = Environment(
            now_us=self._now_us,
            random=Random(f"{seed} environment"),  # noqa: S311 - as above
        )
        """Clock and chance, for runtimes."""
        self.life: int = 0
        """Which life of the program this is, from 1; each crash begins another."""
        self.trace: list[str] = []
        """What has happened."""
        self.seconds: float = 0.0
        """How long all its lives took, in virtual time."""
        self._make_store = store
        self._crashes = crashes
        self._jumps_us = 0
        self._store: FaultyStore
        self._group: TaskGroup

    @property
    def store(self) -> FaultyStore:
        """This life's store. A crash kills it; what was committed is found by the next life's."""
        return self._store

    @property
    def is_alive(self) -> bool:
        """Whether this life has not crashed: after a crash its tasks are cancelled, and nothing they do counts."""
        return not self._store.is_killed

    def note(self, text: str) -> None:
        """Write to the trace, which the dead don't."""
        if self.is_alive:
            self._write(text)

    def _write(self, text: str) -> None:
        self.trace.append(f"{anyio.current_time():.6f} life {self.life}: {text}")

    def _now_us(self) -> int:
        return _EPOCH_US + round(anyio.current_time() * 1_000_000) + self._jumps_us

    def jump_clock(self, seconds: float) -> None:
        """Set the wall clock forward, or back; deadlines go by the loop's clock, and must not heed it."""
        self.note(f"the clock jumps by {seconds:.3f} s")
        self._jumps_us += round(seconds * 1_000_000)

    async def moment(self) -> None:
        """Wait for a moment of chance: some steps of the loop, or some time.

        Cancellation: nothing is left behind.
        """
        if self.random.random() < 0.5:  # noqa: PLR2004 - an even chance
            for _ in range(round(self.random.expovariate(1 / _MEAN_STEPS))):
                await anyio.lowlevel.checkpoint()
        else:
            await anyio.sleep(self.random.expovariate(1 / _MEAN_PAUSE_S))

    @contextmanager
    def cancelling(self, *, chance: float = 1.0) -> Generator[anyio.CancelScope]:
        """Give a cancel scope that is cancelled at a moment of chance, if it has not been left by then."""
        with anyio.CancelScope() as scope:
            if self.random.random() < chance:
                self._group.start_soon(self._cancel, scope)
            yield scope

    async def _cancel(self, scope: anyio.CancelScope) -> None:
        await self.moment()
        self.note("cancels")
        scope.cancel()

    # -------------------------------------------------------------------------------------------------------- crashes

    def crash(self) -> None:
        """Crash here and now: nothing reaches the store any more, the scenario is cancelled, and a new life begins."""
        self._store.kill(then=self._died)

    def _died(self) -> None:
        self._write("crashes")
        self._group.cancel_scope.cancel()

    def _plan_crash(self) -> None:
        if self.random.random() < 0.6:  # noqa: PLR2004 - somewhat more often than not
            when: When = self.random.choice(("before", "after"))
            if self.random.random() < 0.1:  # noqa: PLR2004 - one in ten
                self._store.kill(at=1, on="open", when=when, then=self._died)
            else:
                at = 1 + int(self.random.expovariate(1 / _MEAN_CALLS))
                self._store.kill(at=at, on="any", when=when, then=self._died)
        else:
            self._group.start_soon(self._crash_later)

    async def _crash_later(self) -> None:
        await self.moment()
        self.crash()

    async def live(self, scenario: Scenario) -> None:
        """Run the scenario, again after each crash, until it comes to its end; `simulate` does.

        Cancellation: the scenario is cancelled.
        """
        while self.life < _MOST_LIVES:
            self.life += 1
            self._store = _TracedStore(self._make_store(self), self.note)
            try:
                async with anyio.create_task_group() as self._group:
                    if self.life <= self._crashes:
                        self._plan_crash()
                    await scenario(self)
                    self._group.cancel_scope.cancel()
            except Exception:
                # What the dead raise while they are cancelled is nobody's concern.
                if self.is_alive:
                    raise
            finally:
                self.seconds = anyio.current_time()
            if self.is_alive:
                return


class _TracedStore(FaultyStore):
    """Tells of each call."""

    def __init__(self, inner: Store, note: Callable[[str], None]) -> None:
        super().__init__(inner)
        self._note = note

    async def _through(self, call: StoreCall, work: Callable[[], Awaitable[T]]) -> T:
        self._note(f"apply {', '.join(map(_gist, self.batches[-1]))}" if call == "apply" else call)
        return await super()._through(call, work)


def _gist(operation: Operation) -> str:
    match operation:
        case FinishAttempt():
            return f"{operation.instance.task_id} {operation.attempt} {operation.state}"
        case StartAttempt():
            return f"{operation.instance.task_id} {operation.attempt} starts"
        case MarkInstance():
            return f"{operation.instance.task_id} {operation.state}"
        case PutEntries():
            return f"{operation.instance.task_id} {operation.attempt} puts {' '.join(entry.key for entry in operation.entries)}"
        case _:
            return type(operation).__name__


def memory(simulation: Simulation) -> Store:
    """Return the seed's store in memory."""
    store: Store = simulation.kept.setdefault("memory", MemoryStore())
    return store


def simulate(
    scenario: Scenario,
    seeds: Iterable[int],
    *,
    backend: Backend = "asyncio",
    store: StoreMaker = memory,
    crashes: int = 0,
    limit_s: float = _LIMIT_S,
) -> list[SimulatedRun]:
    """Run a scenario once for each seed, in virtual time, and return what happened.

    Which of the tasks that are ready runs first is decided by the seed, time passes only when all of them wait, and `Simulation`
    gives the scenario chance, clock, cancellations and crashes. The same seed repeats all of it, so a failure can be looked into.
    It takes handlers that are async functions: a thread (of a sync handler, of a `SqliteStore` without `driver=InlineDriver`)
    goes by no seed.

    Args:
        scenario: the program.
        seeds: whole numbers.
        backend: the event loop; trio must be installed for its own.
        store: makes the store that `Simulation.store` wraps, for each life; by default there is one `MemoryStore` for each seed.
        crashes: at most so many crashes, at moments of chance, for each seed.
        limit_s: virtual seconds after which the scenario counts as hanging.

    Raises:
        SimulationError: the scenario raised, or did not end; it says by which line that is repeated.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    return [_simulated(scenario, seed, backend, store, crashes, limit_s) for seed in seeds]


def _simulated(scenario: Scenario, seed: int, backend: Backend, store: StoreMaker, crashes: int, limit_s: float) -> SimulatedRun:
    with TemporaryDirectory(prefix="dagrelay-", dir=_folder()) as place:
        simulation = Simulation(seed, backend=backend, place=Path(place), store=store, crashes=crashes)
        try:
            run_seeded(lambda: simulation.live(scenario), seed, backend=backend, limit_s=limit_s)
        except Exception as error:
            call = f"{_name(scenario)}, seeds=[{seed}], backend={backend!r}"
            call += f", store={_name(store)}" if store is not memory else ""
            call += f", crashes={crashes}" if crashes else ""
            call += f", limit_s={limit_s}" if limit_s != _LIMIT_S else ""
            story = f"seed {seed} failed on {backend} in life {simulation.life}: {_first_line(error)}"
            raise SimulationError(seed, backend, f"simulate({call})", story) from error
        return SimulatedRun(seed=seed, lives=simulation.life, seconds=simulation.seconds, trace=tuple(simulation.trace))


def _folder() -> str | None:
    """Return a folder in memory where there is one: it is programs that crash here, not machines, and a disk would only wait."""
    return _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    return str(name).rpartition("<locals>.")[2] if name else repr(function)


def _first_line(error: BaseException) -> str:
    """Return what went wrong in a line: of a group that holds one error only, that error."""
    while (held := _only_one(error)) is not None:
        error = held
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _only_one(error: BaseException) -> BaseException | None:
    held: tuple[BaseException, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        held = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return held[0] if len(held) == 1 else None
