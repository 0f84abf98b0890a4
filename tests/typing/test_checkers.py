"""Both type checkers infer what a wiring hands on, accept the right ones and reject the wrong ones."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
ACCEPTED: Final = HERE / "accepted.py"
REJECTED: Final = HERE / "rejected.py"
_IGNORE: Final = re.compile(r"# type: ignore\[[^]]*\]\s*")


def errors_of_mypy(*files: Path) -> set[tuple[str, int]]:
    """Return (file name, line) of each error that mypy finds; its notes say where to look further, and are none."""
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--output", "json"]
    done = subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in {0, 1}, done.stderr
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(Path(each["file"]).name, each["line"]) for each in found if each["severity"] == "error"}


def errors_of_pyright(*files: Path) -> set[tuple[str, int]]:
    """Return (file name, line) of each error that pyright finds."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run([*command, *map(str, files)], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode in {0, 1}, done.stderr
    report: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    found: list[dict[str, Any]] = report["generalDiagnostics"]
    return {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found if each["severity"] == "error"}


CHECKERS: Final = [
    pytest.param("mypy", errors_of_mypy, id="mypy"),
    pytest.param("pyright", errors_of_pyright, id="pyright"),
]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Return the rejected wirings without the marks that have the checkers overlook them."""
    copy = tmp_path / "bare.py"
    copy.write_text("# pyright: strict\n" + _IGNORE.sub("", REJECTED.read_text(encoding="utf-8")), encoding="utf-8")
    return copy


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("tool", "errors_of"), CHECKERS)
def test_right_wirings_are_accepted_and_each_wrong_one_is_rejected(
    tool: str, errors_of: Callable[..., set[tuple[str, int]]], bare: Path, missing: Callable[[str], None]
) -> None:
    """The errors are in exactly the lines marked as rejected, and `assert_type` agrees with every inference."""
    if find_spec(tool) is None:
        missing(tool)

    errors = errors_of(ACCEPTED, REJECTED, bare)

    lines = bare.read_text(encoding="utf-8").splitlines()
    marked = {("bare.py", number) for number, line in enumerate(lines, start=1) if "# rejected: " in line}
    assert len(marked) > 10
    assert errors == marked


def test_the_accepted_wirings_can_be_planned() -> None:
    """What checkers let pass is a DAG: the file is no mere exercise in types."""
    plan = runpy.run_path(str(ACCEPTED))["dag"].plan()

    assert plan.task_ids[:3] == ("load", "stats", "halve")
