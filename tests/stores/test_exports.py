"""Who writes a store finds everything in two packages."""

from __future__ import annotations

import dagrelay.stores
import dagrelay.testing
from dagrelay.stores import base, operations
from dagrelay.testing import store_conformance


def test_a_store_is_written_with_what_the_package_exports() -> None:
    """The protocol, what is asked of a store, and what it answers with."""
    assert set(dagrelay.stores.__all__) >= {*base.__all__, *operations.__all__}


def test_the_conformance_suite_is_exported() -> None:
    """And is what our own stores are tested by."""
    assert dagrelay.testing.StoreConformance is store_conformance.StoreConformance
    assert "StoreConformance" in dagrelay.testing.__all__
