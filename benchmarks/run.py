"""Compares dagrelay with the floors under it, and with its peers if they are asked for, all in one run.

`python benchmarks/run.py [--peers] [--quick] [--only NAME,...]`
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, Final

from machine import describe
from measuring import MARK
from report import CAVEATS, PEER_CAVEATS, Figures, as_json, table
from systems import PEERS, SYSTEMS, System
from venvs import VENVS, NoVenv, python_for
from workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence

_ROUNDS: Final = 7
_QUICK_ROUNDS: Final = 3
_EXIT_PATIENCE_S: Final = 30
"""How long a process that has told everything may take to end by itself before it is killed."""
_SMALL: Final = 200
"""The most tasks of a workload on which the sync calls of slow systems are counted: strace makes them slower still."""


class _Failed(Exception):  # noqa: N818 - it never leaves this file
    """A measured process gave no answer."""


class _Measured:
    """A process that runs one workload on one system, round by round."""

    def __init__(self, process: subprocess.Popen[str], errors: Path, patience_s: float) -> None:
        self._process = process
        self._errors = errors
        self._patience_s = patience_s

    def answer(self) -> dict[str, Any]:
        """Return the figures it tells next.

        Raises:
            _Failed: it ended, or took too long and was killed.
        """
        assert self._process.stdout is not None
        timer = Timer(self._patience_s, _kill, [self._process])
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


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and whatever it has started, such as a server of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _measured(system: System, python: str, workload: Workload, folder: Path, prefix: Sequence[str] = ()) -> Generator[_Measured]:
    """Start a process in an empty folder of its own; kill it, if need be, and remove the folder in the end."""
    own = Path(tempfile.mkdtemp(prefix="measured-", dir=folder))
    errors = own / "stderr.txt"
    (own / "store").mkdir()
    command = [*prefix, *system.command(python), workload.name, str(own / "store")]
    pipe = subprocess.PIPE
    try:
        with (
            errors.open("w", encoding="utf-8") as stderr,
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, text=True, start_new_session=True) as process,
        ):
            try:
                yield _Measured(process, errors, system.patience_s)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_EXIT_PATIENCE_S)
            finally:
                _kill(process)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def measure(workload: Workload, systems: Mapping[System, str | NoVenv], *, rounds: int, folder: Path) -> dict[System, Figures]:
    """Run a workload on every system, for `rounds` rounds at most, taking turns.

    Args:
        workload: what to run.
        systems: which, with the interpreter of each, or why there is none.
        rounds: how many; slow systems take part in the last ones only.
        folder: where the databases go.
    """
    chance = random.Random(workload.name)
    results = {system: Figures(skipped=system.reason_to_skip(workload)) for system in systems}
    with ExitStack() as stack:
        processes: dict[System, _Measured] = {}

        def ask(system: System, question: Callable[[_Measured], dict[str, Any]]) -> dict[str, Any] | None:
            """Return an answer; a system that failed is asked no more."""
            if results[system].failure is not None:
                return None
            try:
                return question(processes[system])
            except _Failed as failure:
                results[system].failure = str(failure)
                return None

        def start(system: System, python: str | NoVenv) -> None:
            if isinstance(python, NoVenv):
                results[system].failure = str(python)
            else:
                processes[system] = stack.enter_context(_measured(system, python, workload, folder))
                ask(system, _Measured.answer)

        for number in range(rounds):
            for system, python in systems.items():
                if results[system].skipped is None and number == system.first_of(rounds):
                    start(system, python)
            for system in chance.sample(list(processes), len(processes)):
                figures = ask(system, _Measured.round)
                if figures is not None:
                    results[system].rounds.append(number)
                    results[system].wall_s.append(figures["wall_s"])
                    results[system].cpu_s.append(figures["cpu_s"])
                    results[system].written_bytes.append(figures["written_bytes"])
        for system in processes:
            figures = ask(system, _Measured.finish)
            if figures is not None:
                results[system].peak_rss_bytes = figures["peak_rss_bytes"]
    return results


def count_sync_calls(system: System, python: str, workload: Workload, folder: Path) -> int | None:
    """Return the fsync and fdatasync calls of a warm run; None if strace can't tell.

    A run of its own, as tracing slows it.
    """
    if shutil.which("strace") is None:
        return None
    trace = folder / "syncs.txt"
    command = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", str(trace)]
    try:
        with _measured(system, python, workload, folder, command) as process:
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
    parser.add_argument("--peers", action="store_true", help="other systems too, in environments made from pinned versions")
    parser.add_argument("--venvs", type=Path, default=VENVS, metavar="DIR", help="where those are kept (default: %(default)s)")
    parser.add_argument("--only", metavar="NAME,...", default="", help="these workloads and systems (parts of names will do)")
    parser.add_argument("--rounds", type=int, help="how many rounds each system runs each workload")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--no-sync-calls", action="store_true", help="don't count sync calls")
    parser.add_argument("--folder", type=Path, help="where the databases go; the disk decides (default: the temporary folder)")
    arguments = parser.parse_args()
    systems = (*SYSTEMS, *PEERS) if arguments.peers else SYSTEMS
    names = [name.strip().lower() for name in arguments.only.split(",") if name.strip()]
    known = [item.name.lower() for item in (*WORKLOADS.values(), *systems)]
    for name in names:
        if not any(name in other for other in known):
            parser.error(f"--only: no workload or system is named like {name!r}")

    def is_meant(other: str) -> bool:
        """Return whether one is named: wholly, or in part by what nobody is called wholly."""
        return any(name == other.lower() or (name in other.lower() and name not in known) for name in names)

    arguments.workloads = [w for w in WORKLOADS.values() if is_meant(w.name)] or list(WORKLOADS.values())
    arguments.systems = [s for s in systems if is_meant(s.name)] or list(systems)
    arguments.rounds = arguments.rounds or (_QUICK_ROUNDS if arguments.quick else _ROUNDS)
    return arguments


def _python_of(system: System, venvs: Path) -> str | NoVenv:
    if system.pins is None:
        return sys.executable
    try:
        return str(python_for(system.pins, venvs))
    except NoVenv as reason:
        return reason


def main() -> int:
    """Measure, print, and return 1 if a system failed."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # whoever ends this ends the measured processes too
    systems = {system: _python_of(system, arguments.venvs) for system in arguments.systems}
    report: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dagrelay-benchmark-", dir=arguments.folder) as name:
        folder = Path(name)
        facts = describe(folder) | {"rounds": f"{arguments.rounds}, interleaved; medians"}
        caveats = [CAVEATS, PEER_CAVEATS] if arguments.peers else [CAVEATS]
        print(*caveats, "", *(f"{fact}: {text}" for fact, text in facts.items()), sep="\n", flush=True)
        for workload in arguments.workloads:
            results = measure(workload, systems, rounds=arguments.rounds, folder=folder)
            if not (arguments.quick or arguments.no_sync_calls):
                for system, figures in results.items():
                    python = systems[system]
                    is_countable = figures.wall_s and not figures.failure and (not system.most_rounds or workload.size <= _SMALL)
                    if is_countable and not isinstance(python, NoVenv):
                        figures.sync_calls = count_sync_calls(system, python, workload, folder)
            print(f"\n{table(workload, results)}", flush=True)
            report += [as_json(workload, system, figures) for system, figures in results.items()]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"facts": facts, "results": report}, indent=1) + os.linesep, encoding="utf-8")
    return 1 if any(row["failure"] for row in report) else 0


if __name__ == "__main__":
    sys.exit(main())
