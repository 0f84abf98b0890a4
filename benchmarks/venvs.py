"""The peers' virtual environments: one for each file of pins, made when it is first asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ("VENVS", "NoVenv", "python_for")

VENVS: Final = Path(__file__).parent / ".venvs"
_REQUIREMENTS: Final = Path(__file__).parent / "peers" / "requirements"
_PATIENCE_S: Final = 600
"""How long each step may take."""


class NoVenv(Exception):  # noqa: N818 - it says what there is
    """An environment could not be made."""


def python_for(pins: str, folder: Path) -> Path:
    """Return the interpreter of an environment in `folder`, made for this Python and `peers/requirements/PINS.txt` as it is now.

    Raises:
        NoVenv: it could not be made; nothing is left of it, so the next call tries again.
    """
    requirements = _REQUIREMENTS / f"{pins}.txt"
    venv = folder.absolute() / pins
    python = venv / "bin" / "python"
    made_from = venv / "made-from.txt"  # written last: without it, or with other words in it, the environment is made anew
    wanted = f"# {sys.version}\n{requirements.read_text(encoding='utf-8')}"
    if made_from.exists() and made_from.read_text(encoding="utf-8") == wanted:
        return python
    print(f"making {venv} ...", file=sys.stderr, flush=True)
    try:
        _do([sys.executable, "-m", "venv", "--clear", str(venv)])
        _do([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(requirements)])
    except NoVenv:
        shutil.rmtree(venv, ignore_errors=True)
        raise
    made_from.write_text(wanted, encoding="utf-8")
    return python


def _do(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except subprocess.CalledProcessError as error:
        raise NoVenv(f"its environment could not be made: {(error.stderr or error.stdout).strip()[-800:]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoVenv(f"its environment could not be made: {error}") from None
