"""The scenario of all sweeps: a random DAG, run and resumed until it is done, and what must hold whatever comes between."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

from dagrelay import Durability, RunState, Runtime, SqliteStore, TaskState
from dagrelay.errors import RunInterruptedError, StoreError, StoreFullError
from dagrelay.stores.operations import FinishAttempt
from dagrelay.testing import FaultyStore, InlineDriver, StoreKilledError, generate_dag
from dagrelay.testing.simulation import memory
from tests.simulation.outcomes import check_outcome, states_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dagrelay import Store, TaskContext
    from dagrelay.errors import DagrelayError
    from dagrelay.stores.operations import Operation
    from dagrelay.testing import GeneratedDag, Simulation
    from dagrelay.testing.faulty import StoreCall

__all__ = ("EAGER_RULES", "Ledger", "Observed", "crashing", "failing", "in_memory", "observed_in", "on_disk")

EAGER_RULES: Final = frozenset({"one_success", "one_failed", "one_done", "always"})
"""Rules by which a task may start before all of its upstreams have ended."""
Instance: TypeAlias = "tuple[str, int | None]"
"""A task, or an element of one by its map index."""
_MOST_ROUNDS: Final = 60
_ENDED: Final = frozenset({TaskState.SUCCESS, TaskState.FAILED, TaskState.SKIPPED, TaskState.UPSTREAM_FAILED})


class Observed:
    """What was seen of one seed's world from outside, over all its lives."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.committed: set[Instance] = set()
        """Tasks and elements whose success the store has acknowledged."""
        self.starts: Counter[Instance] = Counter()
        """Handlers begun."""
        self.retries: Counter[Instance] = Counter()
        """Attempts whose failure the store was asked to record."""
        self.violations: list[str] = []
        """What handlers saw that must not be; raised there, it would only be a failure of theirs."""
        self.stops = 0
        """Crashes, faults and cancellations: whatever may have stopped attempts."""


class Ledger(FaultyStore):
    """Notes what the store within acknowledges."""

    def __init__(self, inner: Store, observed: Observed) -> None:
        """Take the store, and where to note it."""
        super().__init__(inner)
        self._observed = observed

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply the batch, and note what was acknowledged."""
        results = await self.inner.apply(batch)
        for operation, result in zip(batch, results, strict=True):
            assert isinstance(result, int), f"{operation} was refused: {result}"
            if isinstance(operation, FinishAttempt):
                if operation.state is TaskState.SUCCESS:
                    self._observed.committed.add((operation.instance.task_id, operation.instance.map_index))
                elif operation.state in {TaskState.UP_FOR_RETRY, TaskState.FAILED}:
                    self._observed.retries[operation.instance.task_id, operation.instance.map_index] += 1
        return results


def observed_in(sim: Simulation) -> Observed:
    """Return what was seen of the seed's world."""
    observed: Observed = sim.kept.setdefault("observed", Observed())
    return observed


def in_memory(sim: Simulation) -> Store:
    """Return the seed's store in memory, with a ledger."""
    return Ledger(memory(sim), observed_in(sim))


def on_disk(sim: Simulation) -> Store:
    """Return the seed's store on disk, without threads, with a ledger."""
    return Ledger(SqliteStore(sim.place / "runs.db", synchronous="NORMAL", driver=InlineDriver), observed_in(sim))


async def crashing(sim: Simulation) -> None:
    """Run a random DAG to its end through all that comes, and compare it with the oracle."""
    choices = Random(f"{sim.seed} choices")  # The same in each life.
    # Half of the worlds know cancellations and faults of the store besides crashes, a third a clock that jumps.
    is_rough, jumps = choices.random() < 0.5, choices.random() < 0.33
    durability = choices.choice(list(Durability))
    slots = choices.choice((1, 3, 128))
    if choices.random() < 0.5:
        sim.store.delay(lambda: sim.random.expovariate(1 / 0.05), on="any", for_ever=True)
    generated = _generate(sim, choices)
    await _rounds(
        sim, generated, durability, slots, lambda: _plan_trouble(sim, is_rough=is_rough, jumps=jumps), is_rough=is_rough
    )


async def failing(sim: Simulation) -> None:
    """Run a random DAG over a store that is slow and whose writes fail now and then: much waits for its turn behind a failure.

    In PIPELINED mode that may depend on what was lost, so that nothing of it may be written.
    """
    generated = _generate(sim, Random(f"{sim.seed} choices"))
    sim.store.delay(lambda: sim.random.expovariate(1 / 5), for_ever=True)

    def plan() -> None:
        if sim.random.random() < 0.7:
            sim.store.fail(lambda: StoreError("planted"), at=sim.random.randint(2, 20))

    await _rounds(sim, generated, Durability.PIPELINED, 128, plan, is_rough=True)


def _generate(sim: Simulation, choices: Random) -> GeneratedDag:
    """Return the seed's DAG, whose handlers tell what they see."""
    observed = observed_in(sim)
    if sim.life > 1:
        observed.stops += 1

    def on_start(ctx: TaskContext) -> None:
        if sim.is_alive:
            name = ctx.task_id if ctx.map_index is None else f"{ctx.task_id}[{ctx.map_index}]"
            sim.note(f"{name} begins, attempt {ctx.attempt}")
            if {(ctx.task_id, ctx.map_index), (ctx.task_id, None)} & observed.committed:
                observed.violations.append(f"{name} runs again though its success was committed")
            observed.starts[ctx.task_id, ctx.map_index] += 1

    if "generated" not in sim.kept:  # It would be the same in each life, and making and planning it is a third of the work.
        sim.kept["generated"] = generate_dag(choices, max_tasks=choices.choice((8, 12, 25)), on_start=on_start)
    generated: GeneratedDag = sim.kept["generated"]
    return generated


async def _rounds(
    sim: Simulation,
    generated: GeneratedDag,
    durability: Durability,
    slots: int,
    plan: Callable[[], None],
    *,
    is_rough: bool,
) -> None:
    """Go on with the run, each time with what is planned for it, until it is done."""
    observed = observed_in(sim)
    for _ in range(_MOST_ROUNDS):
        plan()
        is_done = await _round(sim, generated, observed, durability, slots, is_rough=is_rough)
        assert not observed.violations, observed.violations[0]
        if is_done:
            return
        observed.stops += 1
    raise AssertionError(f"not done after {_MOST_ROUNDS} rounds")


def _plan_trouble(sim: Simulation, *, is_rough: bool, jumps: bool) -> None:
    if jumps:
        sim.jump_clock(sim.random.uniform(-86_400, 86_400))
    if is_rough and sim.random.random() < 0.5:
        error = sim.random.choice((StoreError, StoreFullError))
        on: StoreCall = sim.random.choice(("apply", "apply", "apply", "lookup", "maintain", "next_seq", "load_run"))
        sim.store.fail(lambda: error("planted"), at=sim.random.choice((1, 3, sim.random.randint(1, 30))), on=on)


async def _round(
    sim: Simulation, generated: GeneratedDag, observed: Observed, durability: Durability, slots: int, *, is_rough: bool
) -> bool:
    """Open a runtime, go on with the run, and tell whether it came to its end."""
    try:
        async with Runtime(
            sim.store, environment=sim.environment, durability=durability, max_concurrency=slots, on_exit="interrupt"
        ) as runtime:
            await _check_prefix(runtime, generated)
            with sim.cancelling(chance=0.5 if is_rough else 0.0) as scope:
                result = await runtime.run(generated.dag, run_id="r", raise_on_failure=False)
                assert result.state is generated.state, f"the run ended {result.state}, and was to end {generated.state}"
            if scope.cancelled_caught:
                return False
            await _check_end(runtime, generated, observed, durability)
    except StoreKilledError:
        raise
    except (StoreError, RunInterruptedError):
        assert is_rough, "nothing has disturbed this run"
        return False
    return True


async def _check_prefix(runtime: Runtime, generated: GeneratedDag) -> None:
    """Check that what is stored is legal, and a causally closed prefix of the run."""
    if not await runtime.runs():
        return
    run = await runtime.get_run("r")
    assert run.state in {RunState.INTERRUPTED, generated.state}, f"the run was left {run.state}"
    states, elements = await states_of(runtime)
    for shape in generated.shapes:
        state = states.get(shape.task_id, TaskState.PENDING)
        known = generated.states[shape.task_id]
        assert state not in _ENDED or state is known, f"{shape.task_id} is {state}, and was to end {known}"
        if state in {TaskState.SUCCESS, TaskState.SKIPPED, TaskState.FAILED} and shape.rule not in EAGER_RULES and shape.upstream:
            above = [states.get(f"t{number}", TaskState.PENDING) for number in shape.upstream]
            is_early = state is TaskState.SKIPPED and (
                shape.rule in {"none_skipped", "all_failed", "all_skipped"}
                or any(states.get(f"t{number}") is TaskState.SUCCESS for number in shape.left_by)
            )
            assert is_early or _ENDED.issuperset(above), f"{shape.task_id} is {state} though its upstreams are {above}"
    _check_elements(generated, states, elements)


def _check_elements(
    generated: GeneratedDag, states: Mapping[str, TaskState], elements: Mapping[tuple[str, int], TaskState]
) -> None:
    """Check that no element is there before its task was expanded, nor ended before what it waits for, nor left by its task."""
    for (task_id, map_index), state in elements.items():
        name, known = f"{task_id}[{map_index}]", generated.element_states.get((task_id, map_index))
        assert known is not None, f"{name} is {state}, and there was to be no such element"
        assert state not in _ENDED or state is known, f"{name} is {state}, and was to end {known}"
        shape, whole = generated.shapes[int(task_id[1:])], states.get(task_id, TaskState.PENDING)
        assert whole is not TaskState.PENDING, f"{name} is {state} without the expansion of its task"
        if shape.rule not in EAGER_RULES and state in _ENDED:
            above = [states.get(f"t{number}", TaskState.PENDING) for number in shape.upstream]
            assert _ENDED.issuperset(above), f"{name} is {state} though the upstreams of its task are {above}"
    for (task_id, map_index), known in generated.element_states.items():
        found = elements.get((task_id, map_index), TaskState.PENDING)
        assert states.get(task_id) not in _ENDED or found is known, f"{task_id} has ended, and its element {map_index} is {found}"


async def _check_end(runtime: Runtime, generated: GeneratedDag, observed: Observed, durability: Durability) -> None:
    await check_outcome(runtime, generated)
    for (task_id, map_index), starts in observed.starts.items():
        allowed = 1 + observed.retries[task_id, map_index] + observed.stops
        if durability is Durability.PIPELINED:
            # A failure accepted but not stored may have been followed by its retry: each crash can cost both.
            allowed += observed.stops * generated.shapes[int(task_id[1:])].failures
        assert starts <= allowed, f"{task_id} (element {map_index}) began {starts} times; {allowed} are accounted for"
    assert runtime.statistics().broker.pending_bytes == 0, "bytes wait that were written"
