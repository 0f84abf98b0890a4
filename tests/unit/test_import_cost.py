"""What `import dagrelay` loads: nothing that only some programs need."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.unit.sources import MODULES

# structlog loads rich, by itself, where that is installed.
LOADED_LATE: Final = ("cattrs", "hypothesis", "msgspec", "orjson", "pydantic", "pytest", "rich", "structlog", "trio", "uvloop")
LOADED_ON_DEMAND: Final = ("testing", "otel", "cli", "web", "__main__", "examples")
EVERYDAY_MODULES: Final = [module.name for module in MODULES if module.room not in LOADED_ON_DEMAND]

PROGRAM: Final = """
import importlib, sys
for name in sys.argv[1].split():
    importlib.import_module(name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def loaded_by(*names: str) -> set[str]:
    """Return the top-level packages in a fresh interpreter that has imported `names`."""
    command = [sys.executable, "-c", PROGRAM, " ".join(names)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    return set(done.stdout.split())


def test_importing_the_library_loads_no_package_that_can_wait() -> None:
    """Converters, serializers and the other loop are loaded when they are first used."""
    assert loaded_by("dagrelay").isdisjoint(LOADED_LATE)


def test_importing_every_everyday_module_loads_no_package_that_can_wait() -> None:
    """No module does so behind the root's back."""
    loaded = loaded_by(*EVERYDAY_MODULES)

    assert "dagrelay" in loaded
    assert loaded.isdisjoint(LOADED_LATE)


@pytest.mark.parametrize("name", ["json", "sqlite3"])
def test_what_is_loaded_is_seen(name: str) -> None:
    """The measurement can fail."""
    assert name in loaded_by(name)
