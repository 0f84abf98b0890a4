"""Named pipes between a test and its children, where waiting is blocking and not polling."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ("Pipes",)

_LINE: Final = 4096


class Pipes:
    """Two pipes: children say lines into `told`, and wait for `go` to be opened, or to be closed."""

    def __init__(self, folder: Path) -> None:
        """Take where the pipes are made."""
        self.told = str(folder / "told")
        self.go = str(folder / "go")
        self._rest = b""
        self._gate: int | None = None

    def __enter__(self) -> Self:
        """Make the pipes."""
        os.mkfifo(self.told)
        os.mkfifo(self.go)
        # Opened for both, so that neither opening waits nor an end is read while no child has it open.
        self._told = os.open(self.told, os.O_RDWR)
        return self

    def open(self) -> None:
        """Let those go on that wait for `go` to be opened; waits for the first of them."""
        self._gate = os.open(self.go, os.O_WRONLY)

    def close(self) -> None:
        """Let those go on that wait for `go` to be closed."""
        if self._gate is not None:
            os.close(self._gate)
            self._gate = None

    def heard(self) -> list[Any]:
        """Return the next line that a child says."""
        while b"\n" not in self._rest:
            self._rest += os.read(self._told, _LINE)
        line, self._rest = self._rest.split(b"\n", 1)
        facts: list[Any] = json.loads(line)
        return facts

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        """Remove the pipes."""
        self.close()
        os.close(self._told)
        os.unlink(self.told)  # noqa: PTH108 - as they were made
        os.unlink(self.go)  # noqa: PTH108 - as they were made
