"""TARGET names one DAG, or the error says which there are."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from dagrelay.cli.exits import CommandError
from dagrelay.cli.target import load_target
from dagrelay.examples import weather

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ONE = "from dagrelay import DAG\ndag = DAG('one')\nsame = dag\nother = 3\n"
TWO = "from dagrelay import DAG\na = DAG('one')\nb = DAG('two')\n"


@pytest.fixture(autouse=True)
def path_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what loading does to the path of imports and the modules loaded."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    """Write a module."""
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_with_one_dag_needs_no_name(tmp_path: Path) -> None:
    """The DAG is found, and named from any directory; a second name of it is no second DAG."""
    path = write(tmp_path / "one.py", ONE)

    target = load_target(str(path))

    assert target.dag.dag_id == "one"
    assert target.text == f"{path}:dag"


def test_a_name_chooses_among_dags(tmp_path: Path) -> None:
    """It stands after a colon."""
    path = write(tmp_path / "two.py", TWO)

    assert load_target(f"{path}:b").dag.dag_id == "two"


def test_a_relative_file_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command printed with it works in another directory too."""
    write(tmp_path / "one.py", ONE)
    monkeypatch.chdir(tmp_path)

    assert load_target("one.py").text == f"{tmp_path}/one.py:dag"
    assert load_target("./one.py:same").text == f"{tmp_path}/one.py:same"


def test_a_module_is_imported_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m` would."""
    package = tmp_path / "flows_for_test"
    package.mkdir()
    write(package / "nightly.py", ONE)
    monkeypatch.chdir(tmp_path)

    target = load_target("flows_for_test.nightly:dag")

    assert target.dag.dag_id == "one"
    assert target.text == "flows_for_test.nightly:dag"


def test_the_example_is_a_target() -> None:
    """A module that is loaded already is the same one."""
    assert load_target("dagrelay.examples.weather").dag is weather.dag


def test_a_file_may_import_its_neighbours(tmp_path: Path) -> None:
    """Its directory is on the path, and dataclasses with string annotations find their module."""
    write(tmp_path / "neighbour_for_test.py", ONE)
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\nimport neighbour_for_test\n"
    path = write(tmp_path / "main.py", f"{text}@dataclass\nclass D:\n    x: int = 0\ndag = neighbour_for_test.dag\n")

    assert load_target(str(path)).dag.dag_id == "one"


def test_a_file_does_not_take_the_place_of_a_module_of_its_name(tmp_path: Path) -> None:
    """A DAG file may be called json.py."""
    path = write(tmp_path / "json.py", ONE)
    before = sys.modules["json"]

    load_target(str(path))

    assert sys.modules["json"] is before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "names no DAG"),
        (":dag", "names no DAG"),
        ("nowhere.py", "there is no file 'nowhere.py'"),
        ("nowhere/at/all", "there is no file"),
        ("no_such_module_of_ours", "there is no module 'no_such_module_of_ours'"),
        ("no_such_package_of_ours.module", "there is no module"),
        ("not a module", "neither a path of a .py file nor the name of a module"),
        ("{two}", "has 2 DAGs; say which: {two}:a, {two}:b"),
        ("{two}:c", "has no DAG named 'c'; it has {two}:a, {two}:b"),
        ("{none}", "has no DAG among its names"),
        ("{none}:x", "has no DAG named 'x'; it has none at all"),
        ("{broken}", "can't be imported: ZeroDivisionError: division by zero"),
        ("{leaving}", "can't be imported: SystemExit: 3"),
        ("{text}", "is no Python file"),
        ("broken_for_test", "can't be imported: ZeroDivisionError"),
        ("lacking_for_test", "can't be imported: ModuleNotFoundError: No module named 'no_such_dependency'"),
    ],
)
def test_a_target_that_names_no_dag_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, message: str
) -> None:
    """The message says what there is instead."""
    monkeypatch.chdir(tmp_path)
    places = {
        "two": write(tmp_path / "two.py", TWO),
        "none": write(tmp_path / "none.py", "x = 1\n"),
        "broken": write(tmp_path / "broken.py", "1 / 0\n"),
        "leaving": write(tmp_path / "leaving.py", "raise SystemExit(3)\n"),
        "text": write(tmp_path / "notes.txt", "x"),
    }
    (tmp_path / "sub").mkdir()
    write(tmp_path / "broken_for_test.py", "1 / 0\n")
    write(tmp_path / "lacking_for_test.py", "import no_such_dependency\n")

    with pytest.raises(CommandError) as caught:
        load_target(f"./{places['text'].name}" if target == "{text}" else target.format_map(places))

    assert message.format_map(places) in str(caught.value)


def test_a_failed_import_shows_the_users_own_frames(tmp_path: Path) -> None:
    """The traceback begins in the module, not in the machinery that loaded it."""
    path = write(tmp_path / "broken.py", "def f():\n    1 / 0\nf()\n")

    with pytest.raises(CommandError) as caught:
        load_target(str(path))

    lines = caught.value.details.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].strip().startswith(f'File "{path}", line 3')
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_a_failed_import_leaves_no_module_behind(tmp_path: Path) -> None:
    """A second try is a first one."""
    path = write(tmp_path / "broken_once.py", "1 / 0\n")

    with pytest.raises(CommandError):
        load_target(str(path))

    assert "dagrelay_target_broken_once" not in sys.modules
