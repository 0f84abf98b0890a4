"""Comments that say which tests guard an invariant name tests that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.unit.sources import MODULES

TESTS: Final = {path.stem for path in Path(__file__).parents[1].rglob("test_*.py")}
GUARDED: Final = re.compile(r"# Invariant: .*\((test_\w+)[:)]")


def test_an_invariant_names_a_module_of_tests() -> None:
    """As `(test_module: gist)` behind it."""
    named = {(module.name, test) for module in MODULES for test in GUARDED.findall(module.text)}

    assert ("dagrelay.xcom.books", "test_broker_writing") in named
    assert [f"{module} names {test}" for module, test in named if test not in TESTS] == []
