"""The list of guards is about the code and the tests that there are; `run.py` proves it, and takes minutes."""

from __future__ import annotations

import re

import pytest

from tests.guards.guards import GUARDS, Guard
from tests.guards.run import ROOT, Proof, find_first_failure, table


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    """At least 20 were promised."""
    assert len({guard.name for guard in GUARDS}) == len(GUARDS) >= 20


def test_the_published_table_is_about_these_guards() -> None:
    """A guard added or renamed asks for `run.py` to be run again."""
    published = (ROOT / ".github" / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (.+?) \| .+ \| `(.+?)` \| `.+?` \| [\d.]+ \|$", published, re.MULTILINE)
    assert rows == [(guard.name, guard.file) for guard in GUARDS]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_a_guard_stands_exactly_once_where_it_is_said_to(guard: Guard) -> None:
    """Else what is taken away might be something else, or nothing."""
    text = (ROOT / "src" / "dagrelay" / guard.file).read_text()
    assert text.count(guard.safe) == 1
    changed = text.replace(guard.safe, guard.unsafe)
    assert changed != text
    compile(changed, guard.file, "exec")


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_tests_of_a_guard_are_there(guard: Guard) -> None:
    """Those of the conformance suite stand in the library itself."""
    assert guard.tests
    for test in guard.tests:
        path, *names = test.split("::")
        file = ROOT / path
        assert file.is_file()
        if names:
            folder = ROOT / "src" / "dagrelay" / "testing" / "store_conformance"
            texts = [file.read_text(), *(each.read_text() for each in sorted(folder.glob("*.py")) if len(names) > 1)]
            assert any(re.search(rf"def {names[-1].partition('[')[0]}\(", text) for text in texts), test


@pytest.mark.parametrize(
    ("line", "test"),
    [
        ("FAILED tests/a.py::test_b[asyncio-x y] - assert 1 == 2", "tests/a.py::test_b[asyncio-x y]"),
        ("ERROR tests/a.py::C::test_b", "tests/a.py::C::test_b"),
        ("ERROR tests/a.py - ImportError: no such name", ""),
        ("1 passed in 0.1s", ""),
    ],
)
def test_the_first_failure_is_found_in_what_pytest_prints(line: str, test: str) -> None:
    """A file that can't be imported is no failed test."""
    assert find_first_failure(f"....\n{line}\nFAILED tests/z.py::test_z\n" if test else line) == test


def test_the_table_tells_who_survived() -> None:
    """And escapes what would end a cell."""
    guard = Guard(name="a | b", promise="p", file="f.py", safe="x", unsafe="y", tests=("tests/t.py",))
    lines = table(
        [
            Proof(guard=guard, killed_by="tests/t.py::test_it", seconds=1.25),
            Proof(guard=guard, killed_by="", seconds=0, trouble="SURVIVED: all is green\nand more"),
        ]
    ).splitlines()
    assert lines[2:] == [
        "| a \\| b | p | `f.py` | `tests/t.py::test_it` | 1.2 |",
        "| a \\| b | p | `f.py` | **nothing** (SURVIVED: all is green) | 0.0 |",
    ]
