"""Two thousand worlds a loop: whatever crashes, fails, is cancelled or jumps, all end the same (G6, G27)."""

from __future__ import annotations

import time
from random import Random
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from dagrelay.testing import InlineDriver, SimulationError, simulate
from dagrelay.testing.seeded import BACKENDS
from dagrelay.testing.simulation import memory
from tests.simulation.crashing import Ledger, crashing, failing, in_memory, observed_in, on_disk
from tests.simulation.flowing import flowing
from tests.simulation.taking_over import taking_over, with_fence
from tests.simulation.wrong_stores import (
    AcksBeforeCommit,
    ForgetsChoices,
    KeepsTheWrongPart,
    LosesExpansions,
    WelcomesSecondValues,
    WithoutFence,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagrelay import Store
    from dagrelay.testing import Simulation
    from dagrelay.testing.seeded import Backend
    from dagrelay.testing.simulation import StoreMaker

pytestmark = [pytest.mark.parametrize("backend", BACKENDS), pytest.mark.timeout(300)]

SHARES: Final = 8
"""Each loop's seeds are split over so many tests, so that they run on all cores."""
CRASHES: Final = 3


@attrs.frozen
class Sweep:
    """What is swept for one loop."""

    seeds: int
    """All seeds."""

    def share(self, number: int, of: int) -> range:
        """Return one share of the seeds; in the full form the seeds of the short one are among them."""
        return range(number, self.seeds, of)


@pytest.fixture
def sweep(*, is_full: bool) -> Sweep:
    """Return 200 seeds for each loop; 2,000 with `--full`."""
    return Sweep(2_000 if is_full else 200)


@pytest.fixture
def figures(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], *, is_full: bool) -> Iterator[list[int]]:
    """Take the lives lived, and print the figures in the full form."""
    lives: list[int] = []
    begun, used = time.monotonic(), time.process_time()
    yield lives
    if is_full:
        took, cpu = time.monotonic() - begun, time.process_time() - used
        with capsys.disabled():
            name = request.node.name
            print(f"\n{name}: {len(lives)} seeds, {sum(lives)} lives, {took:.1f} s ({cpu:.1f} s of CPU), 0 violations")  # noqa: T201


@pytest.mark.parametrize("share", range(SHARES))
def test_what_is_handed_on_is_the_same_whatever_comes_between(
    backend: Backend, share: int, sweep: Sweep, figures: list[int]
) -> None:
    """Through crashes, faults of the store, cancellations and a jumping clock; see `crashing` for what is checked."""
    # SQLite costs twice as much as memory, so it gets one share of four.
    store = on_disk if share % 4 == 3 else in_memory
    runs = simulate(crashing, sweep.share(share, SHARES), backend=backend, store=store, crashes=CRASHES)
    figures.extend(run.lives for run in runs)
    assert sum(figures) > 2 * len(figures), "most worlds were to crash"


def test_nothing_of_a_run_is_written_once_a_write_of_it_has_failed(backend: Backend, sweep: Sweep, figures: list[int]) -> None:
    """What was accepted meanwhile, and waited for its turn, is not stored without what it depends on."""
    runs = simulate(failing, range(sweep.seeds // 4), backend=backend, store=in_memory)
    figures.extend(run.lives for run in runs)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_values_flow_to_whoever_waits_for_them_whatever_comes_between(
    backend: Backend, where: str, sweep: Sweep, figures: list[int]
) -> None:
    """Given from outside, waited for, streamed, over pools, and by runs within runs; see `flowing` for what is checked."""
    seeds, store = (sweep.seeds // 4, memory) if where == "memory" else (sweep.seeds // 20, with_fence)
    runs = simulate(flowing, range(seeds), backend=backend, store=store, crashes=CRASHES)
    figures.extend(run.lives for run in runs)
    assert sum(figures) > 2 * len(figures), "most worlds were to crash"


def test_an_owner_taken_over_writes_nothing_more(backend: Backend, sweep: Sweep, figures: list[int]) -> None:
    """Though its lock was deleted under it, and it is let go at any moment."""
    runs = simulate(taking_over, range(sweep.seeds // 20), backend=backend, store=with_fence)
    figures.extend(run.lives for run in runs)
    fenced = sum(any("fenced True" in line for line in run.trace) for run in runs)
    assert fenced >= len(runs) // 2, "most of the first owners were to be fenced"


# ------------------------------------------------------------------------------------------- the sweep can find something


def acking_before_commit(sim: Simulation) -> Store:
    """Return a store that loses what it has acknowledged."""
    return Ledger(AcksBeforeCommit(memory(sim)), observed_in(sim))


def keeping_the_wrong_part(sim: Simulation) -> Store:
    """Return a store whose batches are torn."""
    random = sim.kept.setdefault("tearing", Random(f"{sim.seed} tearing"))
    return Ledger(KeepsTheWrongPart(memory(sim), random), observed_in(sim))


@pytest.mark.parametrize("store", [acking_before_commit, keeping_the_wrong_part])
def test_a_store_that_is_wrong_is_caught(backend: Backend, store: StoreMaker) -> None:
    """Within the seeds of the short form, and the line that says so repeats it."""
    with pytest.raises(SimulationError) as caught:
        simulate(crashing, range(0, 200, 4), backend=backend, store=store, crashes=CRASHES)
    with pytest.raises(SimulationError) as again:
        simulate(crashing, [caught.value.seed], backend=backend, store=store, crashes=CRASHES)
    assert again.value.story == caught.value.story


def losing_expansions(sim: Simulation) -> Store:
    """Return a store that does not know of elements."""
    return Ledger(LosesExpansions(memory(sim)), observed_in(sim))


def test_a_store_that_loses_expansions_is_caught(backend: Backend) -> None:
    """Within the seeds of the short form."""
    with pytest.raises(SimulationError, match=r"without the expansion|its element|no such element|states:"):
        simulate(crashing, range(0, 200, 4), backend=backend, store=losing_expansions, crashes=CRASHES)


def forgetting_choices(sim: Simulation) -> Store:
    """Return a store that does not know what branches chose."""
    return ForgetsChoices(memory(sim))


def welcoming_second_values(sim: Simulation) -> Store:
    """Return a store that refuses no value from outside."""
    return WelcomesSecondValues(memory(sim))


@pytest.mark.parametrize(
    ("store", "told"), [(forgetting_choices, "below (fork|parting)"), (welcoming_second_values, "was given 2 times")]
)
def test_a_store_that_is_wrong_on_what_flows_is_caught(backend: Backend, store: StoreMaker, told: str) -> None:
    """Within the seeds of the short form."""
    with pytest.raises(SimulationError, match=told):
        simulate(flowing, range(50), backend=backend, store=store, crashes=CRASHES)


def without_fence(sim: Simulation) -> Store:
    """Return a store that does not mind who owns it."""
    return WithoutFence(sim.place / "runs.db", synchronous="NORMAL", driver=InlineDriver)


def test_a_store_without_a_fence_is_caught(backend: Backend) -> None:
    """Within the seeds of the short form."""
    with pytest.raises(SimulationError, match="the first owner wrote after"):
        simulate(taking_over, range(10), backend=backend, store=without_fence)
