"""Children in milliseconds: a process that has imported everything forks one for each job.

A test process can't fork safely (it has threads), and starting Python for each of hundreds of kills would take minutes. The
nursery is a process of its own, reads jobs as lines of JSON, forks, and tells how each child ended. Children end by their own
hand, by a signal of the test, or by the time cap.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("CAP_S", "Child", "Nursery")

CAP_S: Final = 60.0
"""Seconds after which a child, or what judges it, hangs; a machine under load can take a fifth of a second's work for twenty."""
_ROOT: Final = Path(__file__).parents[2]
_EAGER: Final = ("asyncio", "trio", "aiosqlite", "cattrs.preconf.json", "tests.crash.children", "anyio._backends._asyncio")


class Child:
    """A forked process that carries out one job."""

    def __init__(self, nursery: Nursery, pid: int, complaints: Path) -> None:
        """Take the nursery that waits for it, and the file into which its stderr goes."""
        self._nursery = nursery
        self.pid = pid
        self._complaints = complaints

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; it is not reaped before `ended`, so that its pid can't have become another's."""
        os.kill(self.pid, number)

    def ended(self) -> int:
        """Wait for its end and return its exit code, negative for a signal; one that hangs fails the test."""
        is_late = threading.Event()

        def kill() -> None:
            is_late.set()
            self.signal(signal.SIGKILL)

        timer = threading.Timer(CAP_S, kill)
        timer.start()
        try:
            code = os.waitstatus_to_exitcode(int(self._nursery.ask({"wait": self.pid})))
        finally:
            timer.cancel()
            timer.join()
        assert not is_late.is_set(), f"the child hung for {CAP_S} s: {self.complaints()}"
        return code

    def complaints(self) -> str:
        """Return what it wrote to stderr."""
        return self._complaints.read_text()


class Nursery:
    """The process that forks; `with` starts and ends it."""

    def __init__(self, folder: Path, *, preload: Path | None = None) -> None:
        """Take where complaints go, and a library to load before all others."""
        self._folder = folder
        preloaded = {} if preload is None else {"LD_PRELOAD": str(preload)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=os.environ | preloaded,
        )
        self._born = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        """End the process."""
        for pipe in self._pipes():
            pipe.close()
        self._process.kill()
        self._process.wait()

    def spawn(self, what: str, **facts: Any) -> Child:
        """Fork a child that calls the function `what` of `tests.crash.children` with `facts`, and exits with what it returns."""
        self._born += 1
        complaints = self._folder / f"child-{self._born}.txt"
        pid = self.ask({"what": what, "facts": facts, "complaints": str(complaints)})
        return Child(self, int(pid), complaints)

    def ask(self, line: dict[str, Any]) -> str:
        """Send a line and return the answer."""
        to, answers = self._pipes()
        to.write(json.dumps(line) + "\n")
        to.flush()
        return answers.readline()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def _be_child(order: dict[str, Any]) -> None:
    os.close(0)
    os.open(os.devnull, os.O_RDWR)
    os.dup2(0, 1)
    os.dup2(os.open(order["complaints"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    code = 70
    try:
        code = getattr(sys.modules["tests.crash.children"], order["what"])(**order["facts"])
    except BaseException:  # noqa: ASYNC103, BLE001 - a child must never go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    for module in _EAGER:
        importlib.import_module(module)
    while line := sys.stdin.readline():
        order = json.loads(line)
        if "wait" in order:
            answer = os.waitpid(order["wait"], 0)[1]
        else:
            answer = os.fork()
            if answer == 0:
                _be_child(order)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
