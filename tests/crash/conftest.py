"""What crash tests share: the nursery, the shim, and a folder where syncing costs nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from tests.crash.nursery import Nursery
from tests.crash.workload import values_of_an_undisturbed_run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.crash.judging import Values

_SHIM: Final = Path(__file__).with_name("shim.c")


@pytest.fixture(scope="session")
def expected() -> Values:
    """Return what each task of the workload hands on when nothing goes wrong."""
    return anyio.run(values_of_an_undisturbed_run)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Generator[Nursery]:
    """Start a nursery."""
    with Nursery(tmp_path_factory.mktemp("children")) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def shimmed(tmp_path_factory: pytest.TempPathFactory, missing: Callable[[str], None]) -> Generator[Nursery]:
    """Start a nursery whose children are under the shim."""
    folder = tmp_path_factory.mktemp("shim")
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        missing("a C compiler")
        return
    library = folder / "shim.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", library, _SHIM, "-ldl", "-lpthread"], check=True, timeout=50
    )
    with Nursery(folder, preload=library) as nursery:
        yield nursery


@pytest.fixture
def quick_folder(tmp_path: Path) -> Generator[Path]:
    """Give a folder in memory where the machine has one: a kill, unlike a power cut, asks nothing of the disk."""
    shared = Path("/dev/shm")  # noqa: S108 - only a place for a folder of our own
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)
