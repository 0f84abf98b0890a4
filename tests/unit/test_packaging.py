"""What the project's files say of each other: versions, extras, the README's commands, and the workflow."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: Final[dict[str, list[str]]] = PROJECT["optional-dependencies"]
WORKFLOW: Final = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def release(text: str) -> tuple[int, ...]:
    """Return the numbers of a version without noughts at its end."""
    numbers = [int(part) for part in text.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def lower_bounds() -> dict[str, tuple[int, ...]]:
    """Return the least version of everything that the library, with any extra for users, may run with."""
    wanted = [*PROJECT["dependencies"], *(item for name, items in EXTRAS.items() if name != "test" for item in items)]
    found = [re.fullmatch(r"([a-z]+)>=([\d.]+)", item) for item in wanted]
    assert all(found)
    return {match[1]: release(match[2]) for match in found if match}


def test_the_oldest_dependencies_tested_are_the_oldest_allowed() -> None:
    """A lower bound that no job installs is a guess."""
    lines = (ROOT / ".github/oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))

    assert {name: release(version) for name, version in pinned.items()} == lower_bounds()


def test_the_extra_for_tests_includes_every_other() -> None:
    """One install is enough to run all tests."""
    others = ",".join(name for name in EXTRAS if name != "test")

    assert f"dagrelay[{others}]" in EXTRAS["test"]


@pytest.mark.parametrize("marker", ["demo-command", "test-command"])
def test_the_readme_marks_the_command_that_ci_runs(marker: str) -> None:
    """What is printed there is what is tested, to the letter."""
    found = re.findall(rf"^<!-- {marker} -->\n```\w*\n(.+?)\n```$", README, re.MULTILINE | re.DOTALL)

    assert len(found) == 1
    assert "python3 -m venv " in found[0]


def test_the_workflow_runs_every_python_that_is_promised() -> None:
    """The classifiers are a promise."""
    promised = [line.rsplit(" ", 1)[1] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]

    assert f"python: {promised}".replace("'", '"') in WORKFLOW


def test_the_workflow_pins_its_actions_and_asks_for_no_rights() -> None:
    """A tag can be moved; a commit can't."""
    uses = re.findall(r"uses: (\S+)", WORKFLOW)

    assert uses
    assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in uses)
    assert "\npermissions: {}\n" in WORKFLOW
    assert WORKFLOW.count("persist-credentials: false") == sum("checkout" in action for action in uses)


def test_the_changelog_knows_what_comes_next() -> None:
    """Either the version at hand is described, or it is still unreleased."""
    changelog = (ROOT / ".github/CHANGELOG.md").read_text(encoding="utf-8")

    assert re.search(rf"^## (Unreleased|{re.escape(PROJECT['version'])})", changelog, re.MULTILINE)


def test_links_in_the_documents_lead_somewhere() -> None:
    """A moved file takes its links along."""
    pages = [ROOT / "README.md", *sorted((ROOT / ".github").rglob("*.md"))]
    broken = [
        f"{page.name}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]

    assert broken == []
