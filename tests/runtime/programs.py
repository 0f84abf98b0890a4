"""Programs that tests of crashes and signals run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from textwrap import dedent
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("PATIENCE_S", "Program", "finish", "heard")

PATIENCE_S: Final = 50.0

_HEAD: Final = """
import os, signal, sys
import anyio
from dagrelay import DAG, Durability, Runtime, SqliteStore, TaskContext

signal.signal(signal.SIGINT, signal.default_int_handler)  # A suite run in the background hands on that it is ignored.
store, log, durability, backend = sys.argv[1:5]

def note(text):
    with open(log, "a", buffering=1) as file:
        file.write(text + "\\n")

def tell(text):
    print(text, flush=True)

def runtime(**options):
    return Runtime(SqliteStore(store), durability=Durability(durability), **options)

dag = DAG("d")
"""


class Program:
    """A program with a store and a log file, started again and again.

    What the program writes by `note(...)` is read by `notes`; what it tells by `tell(...)` by `heard`.
    """

    def __init__(self, folder: Path, body: str, *, durability: str, backend: str) -> None:
        """Take where its files go, and its text, which follows a head of imports, `note`, `tell`, `runtime()` and `dag`."""
        self.store = folder / "runs.db"
        self.log = folder / "log.txt"
        self.log.touch()
        self._text = _HEAD + dedent(body)
        self._words = [str(self.store), str(self.log), durability, backend]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start it, with `words` from `sys.argv[5]` on."""
        return subprocess.Popen(
            [sys.executable, "-c", self._text, *self._words, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )

    def notes(self) -> list[str]:
        """Return the lines noted so far, by all processes."""
        return self.log.read_text().splitlines()


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process and return its exit code and what it printed; it is killed if it does not end in time."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


def heard(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process told; an empty one if it has ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
