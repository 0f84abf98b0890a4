"""The benchmarks run, and tell what they promise to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

BENCHMARKS: Final = Path(__file__).parents[2] / "benchmarks"


def run_script(script: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts to its end."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)


def test_a_quick_run_compares_the_systems_asked_for(tmp_path: Path) -> None:
    """Each system is measured on the workload asked for, and the caveats come before any figure."""
    figures = tmp_path / "figures.json"

    only = ["--only", "layered,R3-FULL,STRICT asyncio"]
    done = run_script("run.py", ["--quick", "--rounds", "1", "--json", str(figures), "--folder", str(tmp_path), *only])

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Read this first.")
    rows: list[dict[str, Any]] = json.loads(figures.read_text(encoding="utf-8"))["results"]
    assert [(row["workload"], row["system"]) for row in rows] == [("layered", "R3-FULL"), ("layered", "dagrelay STRICT asyncio")]
    assert all(row["tasks_per_s"] > 0 and row["tasks"] == 1001 and row["failure"] is None for row in rows)
    assert list(tmp_path.iterdir()) == [figures]


@pytest.mark.parametrize("arguments", [["--only", "no-such-system"], ["--only", "layered,no-such-system"]])
def test_a_name_nobody_has_is_refused(arguments: list[str]) -> None:
    """A misspelt name measures nothing, rather than everything."""
    done = run_script("run.py", arguments)

    assert done.returncode == 2
    assert "no-such-system" in done.stderr


def test_a_peer_that_cannot_be_installed_or_used_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    """Without an environment DBOS fails in words; Burr, which runs chains only, is skipped; the floor beside them is measured."""
    no_folder = tmp_path / "file"
    no_folder.touch()
    figures = tmp_path / "figures.json"

    arguments = ["--peers", "--venvs", str(no_folder), "--rounds", "1", "--no-sync-calls", "--json", str(figures)]
    done = run_script("run.py", [*arguments, "--folder", str(tmp_path), "--only", "fan-100,R0,DBOS,Burr"])

    assert done.returncode == 1, done.stdout + done.stderr
    assert "DBOS failed: its environment could not be made" in done.stdout
    assert "Burr skipped: it runs chains only" in done.stdout
    rows: dict[str, dict[str, Any]] = {row["system"]: row for row in json.loads(figures.read_text(encoding="utf-8"))["results"]}
    assert rows["R0"]["tasks_per_s"] > 0
    assert rows["DBOS"]["failure"]
    assert rows["Burr"]["failure"] is None


def test_streams_are_compared_with_what_they_are_made_of() -> None:
    """Each system hands all items over in order, and the caveats come before any figure."""
    done = run_script("streams.py", ["--items", "500", "--rounds", "1", "--only", "queue,chunks,dagrelay strict"])

    assert done.returncode == 0, done.stdout + done.stderr
    assert "Caveats first." in done.stdout.partition("items/s")[0]
    rows = done.stdout.partition("peak\n")[2].splitlines()[:3]
    assert [row[:20].strip() for row in rows] == ["queue", "chunks", "dagrelay strict"]
