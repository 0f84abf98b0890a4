"""The mark of what was not given, as None is a value like any other."""

from __future__ import annotations

from enum import Enum
from typing import Final

__all__ = ("MISSING", "MissingType")


class MissingType(Enum):
    """The type of `MISSING`, which stays itself when copied or pickled."""

    MISSING = "MISSING"
    """Nothing was given."""

    def __repr__(self) -> str:
        """Return what it is called, for signatures in documentation."""
        return "MISSING"


MISSING: Final = MissingType.MISSING
"""Nothing was given."""
