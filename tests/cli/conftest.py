"""A command line called in this process, and a DAG file to call it with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from dagrelay.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

PIPELINE: Final = '''
import os
from pathlib import Path

import anyio
from dagrelay import DAG, Skip, TaskContext

dag = DAG("pipeline", tags=["nightly"])


def note(log: str, name: str) -> None:
    """Append a line in one write, which a kill leaves whole."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{name}\\n".encode())
    os.close(handle)


@dag.task
async def first(ctx: TaskContext, log: str = os.devnull) -> dict[str, int]:
    note(log, "first")
    await ctx.xcom.push("secret", "hunter2", sensitive=True, description="a password")
    await ctx.xcom.push("colour", "\\x1b[31mred\\x1b[0m", description="\\x1b]0;owned\\x07")
    return {"one": 1}


@dag.task
async def second(log: str = os.devnull, value: dict[str, int] = first.output) -> int:
    note(log, "second")
    return value["one"] + 1


@dag.task
async def pause(ctx: TaskContext, log: str = os.devnull, pause_s: float = 0.0, value: int = second.output) -> int:
    note(log, "pause")
    if ctx.attempt == 1:
        await anyio.sleep(pause_s)
    return value


@dag.task
async def last(mood: str = "fine", count: int = 1, value: int = pause.output) -> str:
    if mood == "bad":
        raise ValueError("a \\x1b[31mbad\\x1b[0m mood")
    return f"{mood} \\x1b[1m{value * count}\\x1b[0m é"
'''


@attrs.frozen
class Cli:
    """Calls the command line on one store."""

    store: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: object) -> Done:
        """Carry out a command on the store and return how it ended."""
        return self.bare(*words, "--store", self.store)

    def bare(self, *words: object) -> Done:
        """Carry out a command without naming the store."""
        self.capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as exit_:  # argparse's way of saying no
            code = exit_.code if isinstance(exit_.code, int) else -1
        out, err = self.capsys.readouterr()
        return Done(code, out, err)


@attrs.frozen
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Return what it printed, as one JSON value."""
        return json.loads(self.out)


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a command line on a store of its own."""
    return Cli(tmp_path / "runs.db", capsys)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """Return a file with one DAG of four tasks in a row."""
    path = tmp_path / "pipeline.py"
    path.write_text(PIPELINE, encoding="utf-8")
    return path
