"""Take each guard away in turn, in a copy of the project, and see whether the tests that it is said to have turn red.

    python tests/guards/run.py [NAME ...] [--jobs N]

Prints a table in Markdown, and ends with 1 if a guard survived, or if its tests are not green while it stands.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Final

import attrs

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))  # Run by its path, only its own folder is known.

from tests.guards.guards import GUARDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.guards.guards import Guard

__all__ = ("Controls", "Outcome", "Proof", "find_first_failure", "main", "prove", "table")

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = ("src", "tests", "pyproject.toml", "README.md")
TIME_CAP_S: Final = 180
"""A test run that takes longer hangs."""
MEMORY_CAP_BYTES: Final = 4 * 2**30
"""What a test run may take: a limit that was taken away must not cost the machine its memory."""

_PROBE: Final = '''"""Ends the test run unless it is about the copy."""
from pathlib import Path
import pytest
import dagrelay
def pytest_configure():
    if not Path(dagrelay.__file__).is_relative_to(Path(__file__).parent / "src"):
        raise pytest.UsageError(f"dagrelay is {dagrelay.__file__}, and not the copy")
'''
_FIRST_FAILURE: Final = re.compile(r"^(?:FAILED|ERROR) (?P<test>\S+?::.+?)(?: - .*)?$", re.MULTILINE)


@attrs.frozen
class Outcome:
    """How a test run ended."""

    is_green: bool
    """Whether all tests passed."""
    failed: str
    """The first test that did not, or that the time was up; empty where it ended in another way."""
    seconds: float
    """How long it took."""
    output: str
    """What it printed."""


@attrs.frozen(kw_only=True)
class Proof:
    """What became of one guard's tests."""

    guard: Guard
    """The guard."""
    killed_by: str
    """The first test that failed without it; empty if none did."""
    seconds: float
    """How long that took."""
    trouble: str = ""
    """Why it proves nothing, with what the tests printed; empty where it does."""


def find_first_failure(output: str) -> str:
    """Return the first test that a summary of pytest's names as failed; empty if it names none."""
    found = _FIRST_FAILURE.search(output)
    return "" if found is None else found["test"]


def _copy_to(place: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy(source, place / name)
    (place / "about_the_copy.py").write_text(_PROBE)


def _test(place: Path, tests: Sequence[str]) -> Outcome:
    """Run tests in a copy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "about_the_copy", *tests]
    environment = {**os.environ, "PYTHONPATH": str(place / "src")}
    environment.pop("PYTEST_ADDOPTS", None)
    began = monotonic()
    with subprocess.Popen(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # So that what the tests have started ends with them.
    ) as process:
        resource.prlimit(process.pid, resource.RLIMIT_AS, (MEMORY_CAP_BYTES, MEMORY_CAP_BYTES))
        try:
            output, _ = process.communicate(timeout=TIME_CAP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Outcome(is_green=False, failed=f"(time out after {TIME_CAP_S} s)", seconds=monotonic() - began, output=output)
    # Other codes than 1 are no failed test: the copy can't be imported, say, or there is no such test.
    failed = find_first_failure(output) if process.returncode == 1 else ""
    return Outcome(is_green=process.returncode == 0, failed=failed, seconds=monotonic() - began, output=output)


class Controls:
    """The tests of the guards, run while all guards stand; each selection once."""

    def __init__(self) -> None:
        """Start with none run."""
        self._lock = Lock()
        self._outcomes: dict[tuple[str, ...], Future[Outcome]] = {}

    def outcome_of(self, tests: tuple[str, ...]) -> Outcome:
        """Return how these tests ended."""
        with self._lock:
            future = self._outcomes.get(tests)
            is_first = future is None
            if future is None:
                future = self._outcomes[tests] = Future()
        if is_first:
            try:
                with tempfile.TemporaryDirectory(prefix="guards-") as folder:
                    _copy_to(Path(folder))
                    future.set_result(_test(Path(folder), tests))
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()


def prove(guard: Guard, controls: Controls) -> Proof:
    """Take one guard away and run its tests."""
    control = controls.outcome_of(guard.tests)
    if not control.is_green:
        return Proof(guard=guard, killed_by="", seconds=0, trouble=f"its tests are not green as it is:\n{control.output}")
    with tempfile.TemporaryDirectory(prefix="guards-") as folder:
        place = Path(folder)
        _copy_to(place)
        file = place / "src" / "dagrelay" / guard.file
        text = file.read_text()
        if text.count(guard.safe) != 1:
            return Proof(
                guard=guard, killed_by="", seconds=0, trouble=f"its text stands {text.count(guard.safe)} times in {file.name}"
            )
        file.write_text(text.replace(guard.safe, guard.unsafe))
        outcome = _test(place, guard.tests)
    trouble = ""
    if outcome.is_green:
        trouble = "SURVIVED: none of its tests turned red"
    elif not outcome.failed:
        trouble = f"no test failed, and they did not pass either:\n{outcome.output}"
    return Proof(guard=guard, killed_by=outcome.failed, seconds=outcome.seconds, trouble=trouble)


def table(proofs: Iterable[Proof]) -> str:
    """Return proofs as a table in Markdown."""
    lines = ["| guard | promise | file | killed by | seconds |", "|---|---|---|---|---|"]
    for proof in proofs:
        guard = proof.guard
        killed_by = f"`{proof.killed_by}`" if proof.killed_by else f"**nothing** ({proof.trouble.partition(chr(10))[0]})"
        cells = (guard.name, guard.promise, f"`{guard.file}`", killed_by, f"{proof.seconds:.1f}")
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove the guards named, or all; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", metavar="NAME", nargs="*", help="guards to take away (all by default)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once (1 by default)")
    options = parser.parse_args(arguments)
    by_name = {guard.name: guard for guard in GUARDS}
    unknown = [name for name in options.names if name not in by_name]
    if unknown:
        parser.error(f"there is no guard {unknown[0]!r}; there are {', '.join(map(repr, by_name))}")
    guards = [by_name[name] for name in options.names] or list(GUARDS)
    controls = Controls()
    proofs: list[Proof] = []
    with ThreadPoolExecutor(max(1, options.jobs)) as pool:
        for proof in pool.map(partial(prove, controls=controls), guards):
            print(f"{'SURVIVED' if proof.trouble else 'killed'}: {proof.guard.name}", file=sys.stderr, flush=True)
            proofs.append(proof)
    survived = [proof for proof in proofs if proof.trouble]
    for proof in survived:
        print(f"\n{proof.guard.name}: {proof.trouble}", file=sys.stderr)
    print(table(proofs))
    print(f"\n{len(proofs) - len(survived)} of {len(proofs)} guards killed.")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
