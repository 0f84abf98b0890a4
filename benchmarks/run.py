"""Compares dagrelay with the floors under it, all in one run: `python benchmarks/run.py [--quick] [--only NAME,...]`."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, Final

from machine import describe
from measuring import MARK
from report import CAVEATS, Figures, as_json, table
from systems import SYSTEMS, System
from workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

_ROUNDS: Final = 7
_QUICK_ROUNDS: Final = 3
_PATIENCE_S: Final = 120
"""How long one answer of a measured process may take before it is killed."""


class _Failed(Exception):  # noqa: N818 - it never leaves this file
    """A measured process gave no answer."""


class _Measured:
    """A process that runs one workload on one system, round by round."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self._process = process
        self._errors = errors

    def answer(self) -> dict[str, Any]:
        """Return the figures it tells next.

        Raises:
            _Failed: it ended, or took too long and was killed.
        """
        assert self._process.stdout is not None
        timer = Timer(_PATIENCE_S, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout:
                if line.startswith(MARK):
                    figures: dict[str, Any] = json.loads(line.removeprefix(MARK))
                    return figures
        finally:
            timer.cancel()
        raise _Failed(self._errors.read_text(encoding="utf-8", errors="replace").strip()[-800:] or "it ended without a word")

    def round(self) -> dict[str, Any]:
        """Have it run for a round, and return the round's figures; `_Failed` as for `answer`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # It has died; its answer, or the lack of one, tells more.
        return self.answer()

    def finish(self) -> dict[str, Any]:
        """End it and return the figures of the whole process; `_Failed` as for `answer`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self.answer()


@contextmanager
def _measured(system: System, workload: Workload, folder: Path, prefix: Sequence[str] = ()) -> Generator[_Measured]:
    """Start a process in an empty folder of its own; kill it, if need be, and remove the folder in the end."""
    own = Path(tempfile.mkdtemp(prefix="measured-", dir=folder))
    errors = own / "stderr.txt"
    (own / "store").mkdir()
    command = [*prefix, *system.command, workload.name, str(own / "store")]
    try:
        with (
            errors.open("w", encoding="utf-8") as stderr,
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
        ):
            try:
                yield _Measured(process, errors)
                process.wait(_PATIENCE_S)
            finally:
                process.kill()
    finally:
        shutil.rmtree(own, ignore_errors=True)


def measure(workload: Workload, systems: Sequence[System], *, rounds: int, folder: Path) -> dict[System, Figures]:
    """Run a workload on every system, for `rounds` rounds, taking turns."""
    chance = random.Random(workload.name)
    results = {system: Figures() for system in systems}
    with ExitStack() as stack:
        processes = {system: stack.enter_context(_measured(system, workload, folder)) for system in systems}

        def ask(system: System, question: Callable[[_Measured], dict[str, Any]]) -> dict[str, Any] | None:
            """Return an answer; a system that failed is asked no more."""
            if results[system].failure is not None:
                return None
            try:
                return question(processes[system])
            except _Failed as failure:
                results[system].failure = str(failure)
                return None

        for system in systems:
            ask(system, _Measured.answer)
        for _ in range(rounds):
            for system in chance.sample(systems, len(systems)):
                figures = ask(system, _Measured.round)
                if figures is not None:
                    results[system].wall_s.append(figures["wall_s"])
                    results[system].cpu_s.append(figures["cpu_s"])
                    results[system].written_bytes.append(figures["written_bytes"])
        for system in systems:
            figures = ask(system, _Measured.finish)
            if figures is not None:
                results[system].peak_rss_bytes = figures["peak_rss_bytes"]
    return results


def count_sync_calls(system: System, workload: Workload, folder: Path) -> int | None:
    """Return the fsync and fdatasync calls of a warm run; None if strace can't tell.

    A run of its own, as tracing slows it.
    """
    if shutil.which("strace") is None:
        return None
    trace = folder / "syncs.txt"
    command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", str(trace)]
    try:
        with _measured(system, workload, folder, command) as process:
            process.answer()
            process.round()
            before = _sync_calls(trace)
            runs = process.round()["runs"]
            after = _sync_calls(trace)
            process.finish()
    except _Failed:
        return None
    return round((after - before) / runs)


def _sync_calls(trace: Path) -> int:
    return sum("sync(" in line for line in trace.read_text(encoding="utf-8").splitlines())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compares dagrelay with the floors under it.")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_ROUNDS} rounds, not {_ROUNDS}, and no sync calls counted")
    parser.add_argument("--only", metavar="NAME,...", default="", help="these workloads and systems (parts of names will do)")
    parser.add_argument("--rounds", type=int, help="how many rounds each system runs each workload")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--no-sync-calls", action="store_true", help="don't count sync calls")
    parser.add_argument("--folder", type=Path, help="where the databases go; the disk decides (default: the temporary folder)")
    arguments = parser.parse_args()
    names = [name.strip().lower() for name in arguments.only.split(",") if name.strip()]
    for name in names:
        if not any(name in known.lower() for known in (*WORKLOADS, *(system.name for system in SYSTEMS))):
            parser.error(f"--only: no workload or system is named like {name!r}")
    arguments.workloads = [w for w in WORKLOADS.values() if any(name in w.name for name in names)] or list(WORKLOADS.values())
    arguments.systems = [s for s in SYSTEMS if any(name in s.name.lower() for name in names)] or list(SYSTEMS)
    arguments.rounds = arguments.rounds or (_QUICK_ROUNDS if arguments.quick else _ROUNDS)
    return arguments


def main() -> int:
    """Measure, print, and return 1 if a system failed."""
    arguments = _arguments()
    report: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dagrelay-benchmark-", dir=arguments.folder) as name:
        folder = Path(name)
        facts = describe(folder) | {"rounds": f"{arguments.rounds}, interleaved; medians"}
        print(CAVEATS, "", *(f"{fact}: {text}" for fact, text in facts.items()), sep="\n", flush=True)
        for workload in arguments.workloads:
            results = measure(workload, arguments.systems, rounds=arguments.rounds, folder=folder)
            if not (arguments.quick or arguments.no_sync_calls):
                for system, figures in results.items():
                    figures.sync_calls = count_sync_calls(system, workload, folder) if figures.failure is None else None
            print(f"\n{table(workload, results)}", flush=True)
            report += [as_json(workload, system, figures) for system, figures in results.items()]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"facts": facts, "results": report}, indent=1) + os.linesep, encoding="utf-8")
    return 1 if any(row["failure"] for row in report) else 0


if __name__ == "__main__":
    sys.exit(main())
