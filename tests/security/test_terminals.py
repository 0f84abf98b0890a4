"""Nothing that is stored can steer a terminal, and what is printed for programs is valid JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from dagrelay import DAG, Runtime, TaskContext
from dagrelay.cli.main import main
from tests.security.forgery import forge

if TYPE_CHECKING:
    from pathlib import Path

# Colours, a window title, the clipboard, a cleared screen, the one-byte forms of these, a bell, overwriting by backspace and
# carriage return, right-to-left override, zero width, line and paragraph separators, and a forged line.
NASTY: Final = (
    "\x1b[31mred\x1b[0m\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07\x1b[2J\x9b31m\x9d0;x\x9c\x07\b\b\r\x7f\x00"
    "\u202egnp\u2066\u200b\ufeff\u2028\u2029\x85\x0b\x0c\ntask_id  success\t\x1bP+q\x1b\\"
)
COMMANDS: Final = {
    "runs": ["runs"],
    "show": ["show", "r"],
    "xcom list": ["xcom", "list", "r"],
    "xcom list --values": ["xcom", "list", "r", "--values"],
    "xcom list --all-attempts": ["xcom", "list", "r", "--all-attempts", "--values"],
    "xcom get": ["xcom", "get", "r", "talks", "text"],
    "xcom get structure": ["xcom", "get", "r", "talks", "structure"],
    "events": ["events", "r"],
    "an unknown run": ["show", NASTY],
    "an unknown task": ["xcom", "get", "r", NASTY],
    "an unknown key": ["xcom", "get", "r", "talks", NASTY],
    "an unknown target": ["run", f"/nowhere/{NASTY}.py"],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that has nasty text in whatever can hold some."""
    path = tmp_path_factory.mktemp("terminals") / "runs.db"
    dag = DAG("nasty", tags=[NASTY])

    @dag.task
    async def talks(ctx: TaskContext, param: str) -> str:
        await ctx.xcom.push("text", NASTY, description=NASTY)
        await ctx.xcom.push("structure", {NASTY: [NASTY, {"a": NASTY}]}, description=NASTY)
        await ctx.xcom.push("masked", NASTY, description=NASTY, sensitive=True)
        return param

    @dag.task(depends_on=talks)
    async def fails() -> None:
        raise type(NASTY, (ValueError,), {})(NASTY)

    async def fill() -> None:
        async with Runtime(path) as runtime:
            await runtime.run(dag, run_id="r", params={"param": NASTY}, raise_on_failure=False)

    anyio.run(fill)
    return path


def is_safe(text: str) -> bool:
    """Tell whether a text has nothing in it but what prints, and line breaks and tabs between."""
    return all(each.isprintable() or each in "\n\t" for each in text)


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return the exit code and output of a command line."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_no_command_passes_control_characters_on(store: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Values, keys of values, descriptions, errors, params, tags and wrong arguments are all printed as escapes."""
    _, out, err = call(capsys, *words, "--store", store)
    assert is_safe(out)
    assert is_safe(err)
    assert out + err != ""


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_json_is_valid_and_ascii(store: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A program reads back exactly what was stored; an error goes to stderr, safely."""
    code, out, err = call(capsys, *words, "--store", store, "--json")
    assert is_safe(out)
    assert is_safe(err)
    assert out.isascii()
    if code:
        assert out == ""
        return
    found: list[Any] = [json.loads(line) for line in out.splitlines()] if words[0] == "events" else [json.loads(out)]
    assert found != []
    texts = json.dumps(found)
    assert words[0] == "events" or json.dumps(NASTY)[1:-1] in texts


def test_a_description_or_cell_forges_no_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line break inside a cell does not begin a row."""
    _, out, _ = call(capsys, "xcom", "list", "r", "--values", "--store", store)
    assert len(out.splitlines()) == 5
    _, out, _ = call(capsys, "events", "r", "--store", store)
    assert all(line.lstrip()[0].isdigit() for line in out.splitlines())


@pytest.mark.parametrize("words", [["runs"], ["show", "r"], ["events", "r"], ["xcom", "list", "r"]], ids=" ".join)
def test_a_forged_id_is_printed_safely(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """No id has control characters but one that was written into the file by hand."""
    forged = tmp_path / "runs.db"
    forged.write_bytes(store.read_bytes())
    forge(forged, "task", task_id=NASTY.replace("\0", ""))
    forge(forged, "run", dag_id=NASTY.replace("\0", ""))
    _, out, err = call(capsys, *words, "--store", forged)
    assert is_safe(out + err)
    _, out, err = call(capsys, *words, "--store", forged, "--json")
    assert is_safe(out + err)
