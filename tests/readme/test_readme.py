"""The README is true: its code runs, and it names every error, option and command there is."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

import dagrelay
from dagrelay import DAG, Pool, RunResult, Runtime, TaskContext, TaskXCom, XComManager, errors
from dagrelay.cli.exits import ExitCode
from dagrelay.cli.main import make_parser
from dagrelay.dag.options import OPTION_NAMES
from dagrelay.model.policies import Limits
from dagrelay.model.states import RunState, TaskState, TriggerRule

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

README: Final = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CODE: Final = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Block:
    """A block of Python in the README."""

    line: int
    """Where it begins."""
    text: str
    """What it says."""


BLOCKS: Final = [Block(README[: found.start()].count("\n") + 2, found[1]) for found in CODE.finditer(README)]


def execute(block: Block, names: dict[str, Any], *, run_name: str) -> dict[str, Any]:
    """Execute a block as a module of its own; what it awaits is awaited inside an open runtime, its name `runtime`."""
    module = ModuleType(run_name)
    module.__dict__.update(names)
    sys.modules[run_name] = module  # Dataclasses look their module up there.
    padded = "\n" * (block.line - 1) + block.text  # A traceback then tells the README's own lines.
    code = compile(padded, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)

    async def wait() -> None:
        async with Runtime(":memory:") as runtime:
            module.__dict__["runtime"] = runtime
            await eval(code, module.__dict__)  # noqa: S307 - our own text

    if code.co_flags & inspect.CO_COROUTINE:
        anyio.run(wait)
    else:
        exec(code, module.__dict__)  # noqa: S102 - our own text
    return module.__dict__


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty directory, and forget the modules made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    yield
    sys.modules.pop("readme_block", None)


def test_the_first_example_runs_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `python example.py` does."""
    execute(BLOCKS[0], {}, run_name="__main__")

    assert capsys.readouterr().out == "2015/03/15 was the wettest of 1461 days\n"
    assert (tmp_path / "runs.db").is_file()


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: f"line {block.line}")
def test_a_fragment_runs_with_the_names_of_the_first_example(block: Block) -> None:
    """And with an open runtime, as the README says."""
    names = {name: value for name, value in execute(BLOCKS[0], {}, run_name="readme_block").items() if name[0] != "_"}

    execute(block, names, run_name="readme_block")


def test_the_first_screen_keeps_its_order() -> None:
    """A sentence, two commands, an example, a picture, the guarantees, the limits."""
    marks = [
        "dagrelay runs DAGs of async tasks inside your own process",
        "<!-- demo-command -->",
        "<!-- test-command -->",
        "```python",
        "```text",
        "**What it guarantees**",
        "**Honest limits**",
        "\n---\n",
        "## Writing a DAG",
    ]
    places = [README.index(mark) for mark in marks]

    assert places == sorted(places)


def test_the_tree_of_errors_is_that_of_the_module() -> None:
    """No error is left out, none is made up."""
    assert errors.__doc__ is not None
    tree = inspect.cleandoc(errors.__doc__).split("::\n\n", 1)[1].split("\n\nConstructors")[0]

    assert f"```text\n{textwrap.dedent(tree)}\n```" in README
    assert [name for name in errors.__all__ if name not in README] == []


def options_of(parser: argparse.ArgumentParser, command: str = "") -> Iterator[tuple[str, str]]:
    """Yield every option and argument of a parser and its subcommands, with its command."""
    for action in parser._actions:
        choices: Any = action.choices
        if hasattr(choices, "items"):
            subparsers: dict[str, argparse.ArgumentParser] = choices
            for name, subparser in subparsers.items():
                yield f"{command} {name}".strip(), name
                yield from options_of(subparser, f"{command} {name}".strip())
        else:
            for name in action.option_strings or [str(action.metavar)]:
                if name != "-h":
                    yield command, name


def test_every_command_option_and_argument_is_documented() -> None:
    """In the section on the command line."""
    section = README.split("\n## Command line\n")[1].split("\n## ")[0]
    found = list(options_of(make_parser()))

    assert ("xcom get", "--reveal") in found
    assert [pair for pair in found if not re.search(rf"(?<![\w-]){re.escape(pair[1])}(?![\w-])", section)] == []


def test_every_exit_code_is_documented() -> None:
    """In the table."""
    section = README.split("| exit code |")[1].split("\n## ")[0]

    assert [code for code in ExitCode if not re.search(rf"\b{code:d}\b", section)] == []


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("options of a task", OPTION_NAMES | {"id"}),
        ("options of the runtime", set(inspect.signature(Runtime).parameters) - {"environment"}),
        ("methods of the runtime", {name for name, value in inspect.getmembers(Runtime) if inspect.isfunction(value)}),
        ("methods of a DAG", {name for name, value in inspect.getmembers(DAG) if inspect.isfunction(value)} - {"check_params"}),
        ("methods of a result", {name for name, value in inspect.getmembers(RunResult) if inspect.isfunction(value)}),
        ("methods of ctx.xcom", {name for name, value in inspect.getmembers(TaskXCom) if inspect.isfunction(value)}),
        ("methods of runtime.xcom", {name for name, value in inspect.getmembers(XComManager) if inspect.isfunction(value)}),
        ("limits", {field.name for field in attrs.fields(Limits)}),
        ("options of a pool", {field.name for field in attrs.fields(Pool)}),
        ("states", {*map(str, RunState), *map(str, TaskState)}),
        ("trigger rules", set(map(str, TriggerRule))),
        ("the context", {name for name in dir(TaskContext) if not name.startswith("_")}),
        ("classes", {name for name in dagrelay.__all__ if name[0].isupper()} - {"TaskInstance", "XComValue"}),
    ],
)
def test_what_there_is_is_documented(what: str, names: set[str]) -> None:
    """By its name, in code."""
    known = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`|```.*?```", README, re.DOTALL))))
    hidden = {"result_of", "not_found"}

    assert sorted(name for name in names - known - hidden if not name.startswith("_")) == [], what


def test_every_link_leads_somewhere() -> None:
    """To a heading of the README, or a file of the project."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", README), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", README))

    assert {"#mapping", "LICENSE"} <= set(links)
    assert [link for link in links if link[0] == "#" and link[1:] not in anchors] == []
    assert [link for link in links if link[0] != "#" and not (Path(__file__).parents[2] / link).exists()] == []


@pytest.mark.parametrize("page", sorted((Path(__file__).parents[2] / ".github").rglob("*.md")), ids=lambda page: page.stem)
def test_the_links_of_other_pages_lead_somewhere(page: Path) -> None:
    """To a file of the project; those to other places are not looked at."""
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))]

    assert [link for link in links if link and "://" not in link and not (page.parent / link).exists()] == []


def test_nothing_is_left_of_the_workshop() -> None:
    """No placeholder, and no path of a machine."""
    assert not re.search(r"TODO|FIXME", README)
