"""Where a command finds its store, and how the commands it prints are to be typed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dagrelay.cli.exits import CommandError

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ("STORE_VARIABLE", "command", "existing_store", "store_path")

STORE_VARIABLE: Final = "DAGRELAY_STORE"
"""The environment variable that names the store where `--store` does not."""
_DEFAULT_STORE: Final = "dagrelay.db"


def store_path(options: Namespace) -> Path:
    """Return the absolute path of the store: `--store`, else $DAGRELAY_STORE, else ./dagrelay.db."""
    given: str | None = getattr(options, "store", None)
    text = given or os.environ.get(STORE_VARIABLE) or _DEFAULT_STORE
    if text == ":memory:":
        raise CommandError("the store of a command is a file; what stays in memory would be gone with the command")
    return Path(text).absolute()


def existing_store(options: Namespace) -> Path:
    """Return the path of the store if it is there.

    Raises:
        CommandError: there is no such file.
    """
    path = store_path(options)
    if not path.is_file():
        raise CommandError(
            f"there is no store {str(path)!r}; name one by --store or ${STORE_VARIABLE}, or make one by running a DAG"
        )
    return path


def command(store: Path, *words: str) -> str:
    """Return a command line that runs this program on a store, to be pasted into a shell in any directory."""
    return f"{_program()} {shlex.join([*words, '--store', str(store)])}"


def _program() -> str:
    """Return how this program was started, or the short form if that starts the same one."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py" and started.parent.name == "dagrelay":
        return f"{'python' if shutil.which('python') == sys.executable else shlex.quote(sys.executable)} -m dagrelay"
    found = shutil.which("dagrelay")
    if started.name != "dagrelay" or (found is not None and Path(found).absolute() == started.absolute()):
        return "dagrelay"
    return shlex.quote(str(started.absolute()))
