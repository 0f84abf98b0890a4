"""What every store must do, as tests: subclass StoreConformance, say how your store is made, and let pytest collect it.

::

    from dagrelay.testing import StoreConformance

    class TestMyStore(StoreConformance):
        def make_store(self, place: Path) -> Store:
            return MyStore(place / "runs")
"""

from __future__ import annotations

from dagrelay.testing.store_conformance.across import AcrossTests
from dagrelay.testing.store_conformance.attempts import AttemptTests
from dagrelay.testing.store_conformance.entries import EntryTests
from dagrelay.testing.store_conformance.mapping import MappingTests
from dagrelay.testing.store_conformance.opening import OpeningTests
from dagrelay.testing.store_conformance.outside import OutsideTests
from dagrelay.testing.store_conformance.runs import RunTests
from dagrelay.testing.store_conformance.streams import StreamTests
from dagrelay.testing.store_conformance.timeline import TimelineTests
from dagrelay.testing.store_conformance.visibility import VisibilityTests

__all__ = ("StoreConformance",)


class StoreConformance(
    OpeningTests,
    RunTests,
    AttemptTests,
    VisibilityTests,
    EntryTests,
    StreamTests,
    TimelineTests,
    MappingTests,
    OutsideTests,
    AcrossTests,
):
    """All that a store must do; a subclass says by `make_store` how it is made."""
