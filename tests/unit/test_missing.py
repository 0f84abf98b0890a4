"""MISSING is one object, whatever is done to it."""

from __future__ import annotations

import copy
import pickle

from dagrelay.model.missing import MISSING, MissingType


def test_missing_stays_itself() -> None:
    """Copies and pickles are the same object, so `is` always tells."""
    assert copy.copy(MISSING) is MISSING
    assert copy.deepcopy([MISSING])[0] is MISSING
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING  # noqa: S301 - our own bytes, made in the same line
    assert list(MissingType) == [MISSING]


def test_missing_shows_what_it_is() -> None:
    """Signatures in documentation read well."""
    assert repr(MISSING) == "MISSING"
