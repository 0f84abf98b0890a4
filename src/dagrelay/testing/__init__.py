"""What tests of stores, DAGs and runtimes are made of (floor 10); it needs pytest.

`StoreConformance` is the suite that every store must pass: subclass it, say how your store is made, and let pytest collect it.
"""

from __future__ import annotations

import pytest

# Before it is imported, so that its asserts say what they compared in anybody's test run.
pytest.register_assert_rewrite("dagrelay.testing.store_conformance")

from dagrelay.testing.store_conformance import StoreConformance as StoreConformance  # noqa: E402 - see above

__all__ = ("StoreConformance",)
