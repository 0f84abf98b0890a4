"""Which store a command works on, and commands that can be pasted into any shell."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from dagrelay.cli.exits import CommandError
from dagrelay.cli.places import command, existing_store, store_path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, with no store named by the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DAGRELAY_STORE", raising=False)


def test_the_option_wins_over_the_environment_and_that_over_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is absolute, whatever was given."""
    assert store_path(Namespace()) == tmp_path / "dagrelay.db"

    monkeypatch.setenv("DAGRELAY_STORE", "sub/env.db")

    assert store_path(Namespace()) == tmp_path / "sub/env.db"
    assert store_path(Namespace(store="opt.db")) == tmp_path / "opt.db"


def test_a_store_in_memory_is_refused() -> None:
    """The command printed to resume it would find nothing."""
    with pytest.raises(CommandError, match="is a file"):
        store_path(Namespace(store=":memory:"))


def test_looking_needs_a_store_that_is_there(tmp_path: Path) -> None:
    """Looking makes no file."""
    with pytest.raises(CommandError, match="there is no store"):
        existing_store(Namespace(store="none.db"))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("started", "found", "shown"),
    [
        pytest.param("/venv/bin/dagrelay", "/venv/bin/dagrelay", "dagrelay", id="on the path"),
        pytest.param("/venv/bin/dagrelay", None, "/venv/bin/dagrelay", id="not on the path"),
        pytest.param("/my venv/bin/dagrelay", "/usr/bin/dagrelay", "'/my venv/bin/dagrelay'", id="another one on the path"),
        pytest.param("/src/dagrelay/__main__.py", None, f"{shlex.quote(sys.executable)} -m dagrelay", id="python -m, full"),
        pytest.param("/src/dagrelay/__main__.py", sys.executable, "python -m dagrelay", id="python -m, short"),
        pytest.param("/usr/bin/pytest", None, "dagrelay", id="called by another program"),
        pytest.param("/src/pytest/__main__.py", None, "dagrelay", id="called by another module"),
    ],
)
def test_a_printed_command_starts_the_program_that_printed_it(
    monkeypatch: pytest.MonkeyPatch, started: str, found: str | None, shown: str
) -> None:
    """A venv that is not active is named by its path."""

    def which(_name: str) -> str | None:
        return found

    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setattr("shutil.which", which)

    assert command(Path("/a b/runs.db"), "show", "r 1") == f"{shown} show 'r 1' --store '/a b/runs.db'"
