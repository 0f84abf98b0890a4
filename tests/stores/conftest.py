"""The conformance suite is part of the library, whose asserts pytest explains only when told to."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("dagrelay.testing.store_conformance")
