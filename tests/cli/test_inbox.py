"""Asking a store's owner for something from another process: it is alive, stopped, killed, or was never there."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from dagrelay import Runtime, StoreError, TaskState
from dagrelay.cli.target import load_target
from dagrelay.model.events import TaskStateChanged
from dagrelay.runtime import outbox
from tests.cli.test_processes import finish, start, wait_until_running

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Done

RELEASE: Final = """
import anyio
from dagrelay import DAG, Approval

dag = DAG("release")


@dag.task
async def build(pause_s: float = 0.0) -> str:
    await anyio.sleep(pause_s)
    return "v1"


approve = dag.approval("approve", depends_on=build)
count = dag.external("count", as_type=int, depends_on=build)


@dag.task
async def ship(version: str = build.output, answer: Approval = approve.output, count: int = count.output) -> str:
    return f"{version} {'approved' if answer.approved else 'rejected'} by {answer.by}: {answer.note} ({count})"
"""
"""A run that waits for an answer and a number."""

APPLICATION: Final = """
import sys
import anyio
from pipeline import dag
from dagrelay import Runtime


async def main() -> None:
    async with Runtime(sys.argv[1]) as runtime:
        await runtime.run(dag, run_id="r1")
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)


anyio.run(main)
"""
"""An application that has run a DAG and lives on."""

PATIENCE_S: Final = 40.0


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Return a file with a DAG that waits for values from outside."""
    path = tmp_path / "release.py"
    path.write_text(RELEASE)
    return path


def state_of(cli: Cli, task_id: str) -> str:
    """Return the state of a task of run r1."""
    done = cli("show", "r1", "--json")
    tasks: list[dict[str, Any]] = done.json()["tasks"] if done.code == 0 else []
    return next((task["state"] for task in tasks if task["task_id"] == task_id), "")


def wait_until(cli: Cli, task_id: str, state: str) -> None:
    """Look at run r1, beside its owner, until a task is in a state."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if state_of(cli, task_id) == state:
            return
    raise AssertionError(f"{task_id} never was {state}")


def start_release(cli: Cli, release: Path, *words: object) -> subprocess.Popen[str]:
    """Start the run in a process, and return once it waits."""
    owner = start("run", release, "--run-id", "r1", "--json", *words, "--store", cli.store, cwd=release.parent)
    wait_until(cli, "approve", "waiting")
    wait_until(cli, "count", "waiting")
    return owner


def answer(cli: Cli) -> None:
    """Give both values from this process, which is another one than the owner's."""
    done = cli("provide", "r1", "approve", "--approve", "--by", "Zoë", "--note", "go \x1b[31m")
    assert (done.code, done.out) == (0, "task approve of run r1 has its value\n"), done.err
    assert cli("provide", "r1", "count", "7").code == 0


SHIPPED: Final = "v1 approved by Zoë: go \x1b[31m (7)"


# -------------------------------------------------------------------------------------------------- provide


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_approval_from_a_second_process_releases_a_waiting_task(cli: Cli, release: Path, backend: str) -> None:
    """Its owner goes on within a moment."""
    if backend == "trio":
        pytest.importorskip("trio")
    owner = start_release(cli, release, "--backend", backend)

    answer(cli)

    code, out, err = finish(owner)
    assert code == 0, err
    assert SHIPPED.encode("unicode_escape").decode().replace("\\xeb", "\\u00eb").replace("\\x1b", "\\u001b") in out
    assert cli("xcom", "get", "r1", "ship", "--json").json()["value"] == SHIPPED


def test_the_sender_may_be_a_process_of_its_own(cli: Cli, release: Path) -> None:
    """As it is in a shell."""
    owner = start_release(cli, release)
    cli("provide", "r1", "count", "7")

    code, out, err = finish(start("provide", "r1", "approve", "--reject", "--by", "me", "--store", cli.store, cwd=release.parent))

    assert (code, out, err) == (0, "task approve of run r1 has its value\n", "")
    assert finish(owner)[0] == 0
    assert cli("xcom", "get", "r1", "ship", "--json").json()["value"] == "v1 rejected by me:  (7)"


def test_an_approval_after_a_kill_and_a_resume_releases_the_task(cli: Cli, release: Path) -> None:
    """The wait goes on in the next owner."""
    owner = start_release(cli, release)
    owner.kill()
    finish(owner)
    owner = start("resume", "r1", release, "--store", cli.store, cwd=release.parent)
    wait_until(cli, "approve", "waiting")

    answer(cli)

    assert finish(owner)[0] == 0
    assert cli("xcom", "get", "r1", "ship", "--json").json()["value"] == SHIPPED


def test_an_approval_while_nobody_runs_is_there_when_the_run_goes_on(cli: Cli, release: Path) -> None:
    """It is done at once, by the sender, which needs no DAG; the resumed run does not wait."""
    owner = start_release(cli, release)
    owner.kill()
    finish(owner)

    answer(cli)

    assert cli("show", "r1", "--json").json()["state"] == "interrupted"
    assert cli("resume", "r1", release, "--json").json()["results"] == {"ship": SHIPPED}


def test_an_approval_may_come_before_the_task_waits_for_it(cli: Cli, release: Path) -> None:
    """While what is upstream still runs."""
    owner = start("run", release, "--run-id", "r1", "-p", "pause_s:=1", "--store", cli.store, cwd=release.parent)
    wait_until_running(cli, "r1", "build")

    answer(cli)

    assert finish(owner)[0] == 0
    assert cli("xcom", "get", "r1", "ship", "--json").json()["value"] == SHIPPED


def test_an_owner_that_is_stopped_carries_it_out_once_it_goes_on(cli: Cli, release: Path) -> None:
    """Until then the message is accepted, which the sender is told; a kill of everybody would not lose it."""
    owner = start_release(cli, release)
    assert cli("provide", "r1", "count", "7").code == 0
    owner.send_signal(signal.SIGSTOP)

    done = cli("provide", "r1", "approve", "--approve", "--by", "me", "--wait", "0.3", "--json")

    told = done.json()
    assert (done.code, done.err) == (0, "")
    assert {name: told[name] for name in ("state", "reason", "run_state")} == {
        "state": "accepted",
        "reason": None,
        "run_state": None,
    }
    assert [name[21:] for name in os.listdir(f"{cli.store}.inbox")] == [told["message_id"]]  # noqa: PTH208 - names are enough
    owner.send_signal(signal.SIGCONT)
    assert finish(owner)[0] == 0
    assert not any(Path(f"{cli.store}.inbox").iterdir())


def test_a_message_to_a_stopped_owner_that_is_killed_is_not_lost(cli: Cli, release: Path) -> None:
    """Whoever comes next carries it out, before anything else."""
    owner = start_release(cli, release)
    assert cli("provide", "r1", "count", "7").code == 0
    owner.send_signal(signal.SIGSTOP)
    done = cli("provide", "r1", "approve", "--approve", "--by", "me", "--wait", "0")
    assert done.code == 0
    assert done.out.startswith("accepted as message ")
    assert "will carry it out" in done.out
    owner.kill()
    finish(owner)

    assert cli("resume", "r1", release, "--json").json()["results"] == {"ship": "v1 approved by me:  (7)"}


def test_a_sender_sees_the_owner_leave_and_takes_its_place(cli: Cli, release: Path) -> None:
    """It need not wait to the end."""
    owner = start_release(cli, release)
    owner.send_signal(signal.SIGSTOP)
    sender = start("provide", "r1", "count", "7", "--wait", PATIENCE_S, "--store", cli.store, cwd=release.parent)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not os.path.exists(f"{cli.store}.inbox"):  # noqa: PTH110 - as above
        time.sleep(0.01)
    owner.kill()
    finish(owner)

    assert finish(sender) == (0, "task count of run r1 has its value\n", "")


@pytest.fixture
def waiting(cli: Cli, release: Path) -> Cli:
    """Return a store with a run that waits, and no owner."""

    async def begin() -> None:
        async with Runtime(cli.store, on_exit="interrupt") as runtime:
            handle = await runtime.start(load_target(str(release)).dag, run_id="r1")
            with anyio.fail_after(PATIENCE_S):
                async for event in handle.events():
                    if isinstance(event, TaskStateChanged) and event.state is TaskState.WAITING:
                        break
            raise _Left

    with contextlib.suppress(_Left):
        anyio.run(begin)
    return cli


class _Left(Exception):  # noqa: N818 - it interrupts a runtime, as an error in the application would
    pass


def test_what_is_refused_is_told_with_its_reason(waiting: Cli) -> None:
    """And ends with 2."""
    cli = waiting

    def refused(*words: object) -> str:
        done = cli("provide", *words)
        assert (done.code, done.out) == (2, "")
        return done.err

    assert "no run 'r11' in this store; did you mean 'r1'?" in refused("r11", "approve", "--approve")
    assert "no task 'approv'; did you mean 'approve'?" in refused("r1", "approv", "--approve")
    assert "has a handler" in refused("r1", "build", "1")
    assert "$.by" in refused("r1", "approve", '{"approved": true, "by": 1}')
    assert cli("provide", "r1", "count", "1").code == 0
    assert "count" in refused("r1", "count", "2")
    told = cli("provide", "r1", "count", "3", "--json")
    assert (told.code, told.json()["state"]) == (2, "refused")
    assert told.json()["reason"] in told.err


def test_who_approves_is_the_user_unless_it_is_said(waiting: Cli, release: Path) -> None:
    """The name of the one logged in."""
    assert waiting("provide", "r1", "approve", "--approve").code == 0
    assert waiting("provide", "r1", "count", "-5").code == 0
    assert waiting("resume", "r1", release, "--json").json()["results"] == {"ship": f"v1 approved by {getpass.getuser()}:  (-5)"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "a value is missing"),
        (("1", "--approve"), "say one of them"),
        (("--approve", "--text", "so"), "say one of them"),
        (("1", "--text", "so"), "say one of them"),
        (("--text",), "expected one argument"),
        (("1", "--by", "me"), "--by and --note go with"),
        (("1", "--note", "so"), "--by and --note go with"),
        (("--approve", "--reject"), "not allowed with"),
        (("{",), "is no valid JSON"),
        (("NaN",), "is no valid JSON"),
        (("1e999",), "is no valid JSON"),
        (("hello",), "a text goes after --text"),
        (("[" * 100_000,), "is no valid JSON"),
        (('"\\ud800"',), "is no valid JSON"),
        (("[" * 250 + "]" * 250,), "nest"),
        (("--text", "\udcff"), "surrogate"),
        (("1", "--wait", "-1"), "no number of seconds"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_a_wrong_value_is_not_sent(cli: Cli, pipeline: Path, words: tuple[str, ...], told: str) -> None:
    """The message says what to do; nothing is made beside the store."""
    cli("run", pipeline, "--run-id", "r1")

    done = cli("provide", "r1", "first", *words)

    assert done.code == 2
    assert told in done.err
    assert not Path(f"{cli.store}.inbox").exists()


def test_a_value_over_the_limit_is_not_sent(cli: Cli, pipeline: Path) -> None:
    """Nor is it put anywhere."""
    cli("run", pipeline, "--run-id", "r1")
    done = cli("provide", "r1", "first", "--text", "x" * (1024 * 1024))
    assert done.code == 2
    assert "max_xcom_bytes" in done.err
    assert not Path(f"{cli.store}.inbox").exists()


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "..", "/abs", "a/b", "", "r\n", "-r", "x" * 251, "r\x00"])
@pytest.mark.parametrize("words", [("cancel",), ("retry", "t"), ("provide", "t", "1")], ids=lambda words: words[0])
def test_an_id_names_no_file(cli: Cli, pipeline: Path, words: tuple[str, ...], run_id: str) -> None:
    """It is refused before anything is made."""
    cli("run", pipeline, "--run-id", "r1")
    before = sorted(cli.store.parent.iterdir())
    command, *rest = words
    done = cli(command, "--", run_id, *rest) if run_id.startswith("-") else cli(command, run_id, *rest)
    assert done.code == 2
    assert sorted(cli.store.parent.iterdir()) == before


# -------------------------------------------------------------------------------------------------- cancel


def test_a_run_is_cancelled_in_its_owner(cli: Cli, release: Path) -> None:
    """Which ends with the code of a cancelled run."""
    owner = start_release(cli, release)

    done = cli("cancel", "r1")

    assert (done.code, done.out, done.err) == (0, "run r1 is cancelled\n", "")
    assert finish(owner)[0] == 3


def test_a_run_of_nobody_is_cancelled_here(waiting: Cli) -> None:
    """And one that has ended stays as it is."""
    done = waiting("cancel", "r1", "--json")
    told = done.json()
    assert (done.code, told["state"], told["run_state"], told["run_id"]) == (0, "done", "cancelled", "r1")
    assert waiting("cancel", "r1").out == "run r1 is cancelled\n"
    assert waiting("cancel", "r2").code == 2


# -------------------------------------------------------------------------------------------------- retry


def ran(cli: Cli) -> dict[str, int]:
    """Return the attempts of the tasks of run r1."""
    return {task["task_id"]: task["attempt"] for task in cli("show", "r1", "--json").json()["tasks"]}


def test_an_owner_that_has_the_dag_runs_the_task_again(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """And what is downstream of it."""
    (tmp_path / "application.py").write_text(APPLICATION)
    owner = start_application(cli, tmp_path)

    done = cli("retry", "r1", "pause")

    assert (done.code, done.err) == (0, "")
    assert done.out in ("run r1 is running\n", "run r1 is success\n")
    wait_until(cli, "last", "success")
    assert finish(owner)[0] == 0
    assert ran(cli) == {"first": 1, "second": 1, "pause": 2, "last": 2}
    assert pipeline.exists()


def start_application(cli: Cli, folder: Path) -> subprocess.Popen[str]:
    """Start the application, and return once it has run the DAG."""
    owner = start_python(folder / "application.py", cli.store, cwd=folder)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    return owner


def start_python(path: Path, *words: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a Python program."""
    return subprocess.Popen(
        [sys.executable, str(path), *map(str, words)],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_an_owner_the_tasks_are_cleared_and_the_command_to_go_on_is_told(cli: Cli, pipeline: Path) -> None:
    """The run is interrupted until then; what was not cleared does not run again."""
    cli("run", pipeline, "--run-id", "r1")

    done = cli("retry", "r1", "pause")

    assert done.code == 0
    assert done.out.startswith("run r1 is interrupted; task pause and all downstream of it run again by:\n")
    assert "resume r1 TARGET --store" in done.out
    assert state_of(cli, "pause") == state_of(cli, "last") == "pending"
    printed = shlex.split(done.out.splitlines()[-1])
    words = [str(pipeline) if word == "TARGET" else word for word in printed[printed.index("resume") :]]
    assert cli.bare(*words).code == 0
    assert ran(cli) == {"first": 1, "second": 1, "pause": 2, "last": 2}


def test_a_failed_run_is_retried_without_its_dag(cli: Cli, pipeline: Path) -> None:
    """A resume, which would refuse a failed run, goes on with it then."""
    assert cli("run", pipeline, "--run-id", "r1", "-p", "mood=bad").code == 1
    assert cli("retry", "r1", "last").code == 0
    assert cli("resume", "r1", pipeline).code == 1
    assert ran(cli)["last"] == 2


def test_with_a_target_the_task_runs_again_here(cli: Cli, pipeline: Path) -> None:
    """To the end, as `resume` would; nothing is put into an inbox."""
    cli("run", pipeline, "--run-id", "r1")

    done = cli("retry", "r1", "last", pipeline, "--json")

    assert (done.code, done.json()["state"]) == (0, "success")
    assert ran(cli) == {"first": 1, "second": 1, "pause": 1, "last": 2}
    assert not Path(f"{cli.store}.inbox").exists()


def test_with_a_target_and_an_owner_it_is_the_owners_to_do(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """There is one writer at a time."""
    (tmp_path / "application.py").write_text(APPLICATION)
    owner = start_application(cli, tmp_path)

    done = cli("retry", "r1", "last", pipeline)

    assert done.code == 0
    wait_until(cli, "last", "success")
    assert finish(owner)[0] == 0
    assert ran(cli)["last"] == 2


def test_a_retry_that_can_not_be_is_refused(cli: Cli, pipeline: Path) -> None:
    """By whoever carries it out."""
    cli("run", pipeline, "--run-id", "r1")

    def refused(*words: object) -> str:
        done: Done = cli("retry", *words)
        assert (done.code, done.out) == (2, "")
        return done.err

    assert "no run 'r2'" in refused("r2", "last")
    assert "no task 'lst'" in refused("r1", "lst")
    assert "no task 'lst'; did you mean 'last'?" in refused("r1", "lst", pipeline)
    assert cli("show", "r1", "--json").json()["state"] == "success"


# -------------------------------------------------------------------------------------------------- stores


def test_there_must_be_a_store(cli: Cli) -> None:
    """None is made."""
    done = cli("cancel", "r1")
    assert done.code == 2
    assert "there is no store" in done.err
    assert not any(cli.store.parent.iterdir())


def test_no_inbox_is_made_beside_a_file_that_is_no_store(cli: Cli) -> None:
    """It is left as it is."""
    cli.store.write_text("precious words, and many of them")
    done = cli("cancel", "r1")
    assert done.code == 4
    assert "it is no SQLite database" in done.err
    assert cli.store.read_text() == "precious words, and many of them"
    assert not Path(f"{cli.store}.inbox").exists()


def test_an_inbox_that_others_reach_is_not_used(cli: Cli, pipeline: Path) -> None:
    """The message says how to mend it."""
    cli("run", pipeline, "--run-id", "r1")
    Path(f"{cli.store}.inbox").mkdir()
    Path(f"{cli.store}.inbox").chmod(0o755)
    done = cli("cancel", "r1")
    assert done.code == 4
    assert "must have mode 0700" in done.err


def test_the_store_of_another_user_is_not_written_to(cli: Cli, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner would not read what root puts there."""
    cli("run", pipeline, "--run-id", "r1")
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    done = cli("cancel", "r1")
    assert done.code == 4
    assert f"belongs to user {user}" in done.err
    assert not Path(f"{cli.store}.inbox").exists()


def test_a_link_to_the_store_leads_to_the_same_inbox(waiting: Cli, tmp_path: Path) -> None:
    """It is beside the file itself."""
    link = tmp_path / "elsewhere"
    link.mkdir()
    (link / "link.db").symlink_to(waiting.store)
    assert waiting.bare("provide", "r1", "count", "7", "--store", link / "link.db").code == 0
    assert Path(f"{waiting.store}.inbox").is_dir()
    assert [path.name for path in link.iterdir()] == ["link.db"]


def test_trouble_after_the_acceptance_is_told_as_that(cli: Cli, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message will be carried out all the same."""
    cli("run", pipeline, "--run-id", "r1")

    async def fail(*_args: object) -> None:
        raise StoreError("no such luck")

    monkeypatch.setattr(outbox, "_await_result", fail)
    done = cli("cancel", "r1")
    assert done.code == 4
    assert "is accepted and will be carried out, but it can't be seen what becomes of it: no such luck" in done.err
