"""The command line as a process: killed, interrupted, and cut off from its reader."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli

PATIENCE_S: Final = 50.0
COMMAND: Final = (sys.executable, "-m", "dagrelay")


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    """Start the command line as a process."""
    return subprocess.Popen([*COMMAND, *map(str, words)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process, and return its exit code and the rest of what it printed."""
    try:
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_until_running(cli: Cli, run_id: str, task_id: str) -> list[dict[str, Any]]:
    """Look at a run, beside its owner, until a task is running; return its tasks."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done = cli("show", run_id, "--json")
        if done.code == 0:
            tasks: list[dict[str, Any]] = done.json()["tasks"]
            if any(task["task_id"] == task_id and task["state"] == "running" for task in tasks):
                return tasks
    raise AssertionError(f"{task_id} never ran")


def by_id(tasks: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return tasks by id."""
    return {task["task_id"]: task for task in tasks}


def test_a_demo_killed_in_its_pause_is_resumed_by_the_command_it_printed(cli: Cli, tmp_path: Path) -> None:
    """What had finished keeps its first attempt, to the microsecond."""
    process = start("demo", "--pause-s", 600, "--store", cli.store, cwd=tmp_path)
    assert process.stdout is not None
    head = [process.stdout.readline() for _ in range(3)]
    run_id, resume = head[0].split()[1], shlex.split(head[2])
    before = by_id(wait_until_running(cli, run_id, "pause"))
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert cli("show", run_id, "--json").json()["state"] == "interrupted"

    resumed = subprocess.run(resume, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=tmp_path)

    assert resumed.returncode == 0, resumed.stderr
    assert "Write two sentences for a newspaper" in resumed.stdout
    after = by_id(cli("show", run_id, "--json").json()["tasks"])
    assert {task["state"] for task in after.values()} == {"success"}
    for task_id in ("load", "yearly", "kinds"):
        assert after[task_id] == before[task_id]
        assert after[task_id]["attempt"] == 1
    assert after["pause"]["attempt"] == 2
    assert after["report"]["attempt"] == 1


def test_handlers_that_had_finished_before_a_kill_do_not_run_again(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """A file beside the store, which the handlers write to, tells how often each ran."""
    log = tmp_path / "log"
    process = start(
        "run", pipeline, "--run-id", "r1", "-p", f"log={log}", "-p", "pause_s:=600", "--store", cli.store, cwd=tmp_path
    )
    wait_until_running(cli, "r1", "pause")
    process.kill()
    finish(process)

    resumed = cli("resume", "r1", pipeline, "--json")

    assert resumed.code == 0
    assert resumed.json()["results"] == {"last": "fine \x1b[1m2\x1b[0m é"}
    assert log.read_text().split() == ["first", "second", "pause", "pause"]


SIGNALS: Final = pytest.mark.parametrize(
    ("number", "code", "backend"),
    [(signal.SIGINT, 130, "asyncio"), (signal.SIGTERM, 143, "asyncio"), (signal.SIGINT, 130, "trio")],
)


@SIGNALS
def test_a_first_signal_lets_what_runs_finish(cli: Cli, tmp_path: Path, number: signal.Signals, code: int, backend: str) -> None:
    """No new task starts; the run is recorded as interrupted, and goes on from there."""
    if backend == "trio":
        pytest.importorskip("trio")
    path = tmp_path / "gated.py"
    path.write_text(
        "from pathlib import Path\n"
        "import anyio\n"
        "from dagrelay import DAG\n"
        "dag = DAG('gated')\n"
        "@dag.task\n"
        "async def first() -> int:\n"
        "    for _ in range(5000):\n"
        "        if Path('go').exists():\n"
        "            return 1\n"
        "        await anyio.sleep(0.01)\n"
        "    raise TimeoutError\n"
        "@dag.task(bind={'value': first.output})\n"
        "async def second(value: int) -> int:\n"
        "    return value + 1\n"
    )
    process = start("run", path, "--run-id", "r1", "--backend", backend, "--store", cli.store, cwd=tmp_path)
    wait_until_running(cli, "r1", "first")
    assert process.stderr is not None

    process.send_signal(number)
    assert "tasks that run may finish" in [process.stderr.readline() for _ in range(3)][2]
    (tmp_path / "go").touch()
    ended, out, err = finish(process)

    assert (ended, out) == (code, "")
    assert "dagrelay: run r1 was interrupted; go on with:" in err
    told = cli("show", "r1", "--json").json()
    assert told["state"] == "interrupted"
    tasks = by_id(told["tasks"])
    assert [tasks[task_id]["state"] for task_id in ("first", "second")] == ["success", "pending"]
    assert cli("resume", "r1", path, "--json").json()["results"] == {"second": 2}


@SIGNALS
def test_a_second_signal_interrupts_the_run_and_the_message_tells_how_to_go_on(
    cli: Cli, pipeline: Path, tmp_path: Path, number: signal.Signals, code: int, backend: str
) -> None:
    """The run is recorded as interrupted, never cancelled; no retry is consumed."""
    if backend == "trio":
        pytest.importorskip("trio")
    words = ("run", pipeline, "--run-id", "r1", "-p", "pause_s:=600", "--backend", backend)
    process = start(*words, "--store", cli.store, cwd=tmp_path)
    wait_until_running(cli, "r1", "pause")
    assert process.stderr is not None

    process.send_signal(number)
    assert "tasks that run may finish" in [process.stderr.readline() for _ in range(3)][2]
    process.send_signal(number)
    ended, out, err = finish(process)

    assert (ended, out) == (code, "")
    assert "Traceback" not in err
    assert f"dagrelay: {number.name}: interrupting the run" in err
    lines = err.splitlines()
    assert lines[-2] == "dagrelay: run r1 was interrupted; go on with:"
    told = cli("show", "r1", "--json").json()
    assert told["state"] == "interrupted"
    assert by_id(told["tasks"])["pause"]["state"] == "interrupted"
    printed = shlex.split(lines[-1])
    assert printed[: len(COMMAND)] == [sys.executable, "-m", "dagrelay"] or printed[0] == "python"
    assert cli.bare(*printed[printed.index("resume") :]).code == 0


def test_a_third_signal_ends_a_run_whose_handler_does_not_listen(cli: Cli, tmp_path: Path) -> None:
    """As a kill does; the run is found interrupted."""
    path = tmp_path / "stubborn.py"
    path.write_text(
        "import anyio\n"
        "from dagrelay import DAG\n"
        "dag = DAG('stubborn')\n"
        "@dag.task\n"
        "async def deaf() -> None:\n"
        "    with anyio.CancelScope(shield=True):\n"
        "        await anyio.sleep(600)\n"
    )
    process = start("run", path, "--run-id", "r1", "--store", cli.store, cwd=tmp_path)
    wait_until_running(cli, "r1", "deaf")
    assert process.stderr is not None

    process.send_signal(signal.SIGINT)
    lines = [process.stderr.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    lines.append(process.stderr.readline())
    process.send_signal(signal.SIGINT)

    assert "once more interrupts them" in lines[2]
    assert "once more ends the process at once" in lines[3]
    assert finish(process)[0] == -signal.SIGINT
    assert cli("show", "r1", "--json").json()["state"] == "interrupted"


def test_a_reader_that_leaves_is_no_error(cli: Cli, tmp_path: Path) -> None:
    """`| head` ends the command quietly."""
    cli("demo")
    run_id = cli("runs", "--json").json()[0]["run_id"]
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [*COMMAND, "events", run_id, "--store", str(cli.store)],
        cwd=tmp_path,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    os.close(writing)

    assert (done.returncode, done.stderr) == (141, "")


def test_the_store_comes_from_the_environment(tmp_path: Path) -> None:
    """And a process prints valid JSON in any encoding."""
    environment = {**os.environ, "DAGRELAY_STORE": str(tmp_path / "env.db"), "PYTHONIOENCODING": "ascii"}

    done = subprocess.run(
        [*COMMAND, "demo", "--json"], cwd=tmp_path, env=environment, capture_output=True, timeout=PATIENCE_S, check=True
    )

    told = json.loads(done.stdout)
    assert told["store"] == str(tmp_path / "env.db")
    assert told["state"] == "success"
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["env.db"]
