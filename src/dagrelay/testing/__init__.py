"""What tests of stores, DAGs and runtimes are made of (floor 10); it needs pytest.

`StoreConformance` is the suite that every store must pass: subclass it, say how your store is made, and let pytest collect it.
`FaultyStore` wraps a store, and fails, waits or dies where a test says so. `simulate` replays whole programs from a seed, crashes
and cancellations included; `generate_dag` makes random DAGs for it and says what must come of them.
"""

from __future__ import annotations

import pytest

# Before it is imported, so that its asserts say what they compared in anybody's test run.
pytest.register_assert_rewrite("dagrelay.testing.store_conformance")

from dagrelay.stores.sqlite.driver import InlineDriver as InlineDriver  # noqa: E402 - see above
from dagrelay.testing.faulty import Fault as Fault  # noqa: E402
from dagrelay.testing.faulty import FaultyStore as FaultyStore  # noqa: E402
from dagrelay.testing.faulty import Gate as Gate  # noqa: E402
from dagrelay.testing.faulty import StoreKilledError as StoreKilledError  # noqa: E402
from dagrelay.testing.oracle import GeneratedDag as GeneratedDag  # noqa: E402
from dagrelay.testing.oracle import generate_dag as generate_dag  # noqa: E402
from dagrelay.testing.shapes import ElementShape as ElementShape  # noqa: E402
from dagrelay.testing.shapes import TaskShape as TaskShape  # noqa: E402
from dagrelay.testing.simulation import SimulatedRun as SimulatedRun  # noqa: E402
from dagrelay.testing.simulation import Simulation as Simulation  # noqa: E402
from dagrelay.testing.simulation import SimulationError as SimulationError  # noqa: E402
from dagrelay.testing.simulation import simulate as simulate  # noqa: E402
from dagrelay.testing.store_conformance import StoreConformance as StoreConformance  # noqa: E402

__all__ = (
    "ElementShape",
    "Fault",
    "FaultyStore",
    "Gate",
    "GeneratedDag",
    "InlineDriver",
    "SimulatedRun",
    "Simulation",
    "SimulationError",
    "StoreConformance",
    "StoreKilledError",
    "TaskShape",
    "generate_dag",
    "simulate",
)
