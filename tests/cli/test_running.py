"""`demo`, `run` and `resume`: what they print, store and return."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay.cli import running
from dagrelay.cli.exits import CommandError
from dagrelay.cli.running import parse_params
from dagrelay.cli.target import Target
from dagrelay.dag.definition import DAG

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli


# -------------------------------------------------------------------------------------------------- params


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=3", "3"),
        ("a=", ""),
        ("a=b=c", "b=c"),
        ("a=:=", ":="),
        ("a=two\nlines", "two\nlines"),
        ("a:=3", 3),
        ('a:={"b": [1, null]}', {"b": [1, None]}),
        ('a:="b=c"', "b=c"),
    ],
)
def test_a_param_is_text_after_an_equals_sign_and_json_after_a_colon_more(text: str, value: Any) -> None:
    """What stands after the first of them is the value."""
    assert parse_params([text]) == {"a": value}


def test_the_last_param_of_a_name_wins() -> None:
    """As options do."""
    assert parse_params(["a=1", "b=2", "a:=3"]) == {"a": 3, "b": "2"}


@pytest.mark.parametrize("text", ["a", "=b", ":=3", "", "a:b", "a:=", "a:=nope", "a:=NaN", "a:=" + "[" * 100_000])
def test_a_param_without_name_or_with_bad_json_is_refused(text: str) -> None:
    """The message says how params are written."""
    with pytest.raises(CommandError, match=r"'='|name=text"):
        parse_params([text])


# -------------------------------------------------------------------------------------------------- run


def test_run_shows_tasks_and_results(cli: Cli, pipeline: Path) -> None:
    """Notices go to stderr, the outcome to stdout, and no escape sequence of a value reaches either."""
    done = cli("run", pipeline, "--run-id", "r1", "-p", "mood=good", "-p", "count:=3")

    assert done.code == 0
    assert done.err.startswith(f"run r1 of {pipeline}:dag; if anything stops it, go on with:\n  dagrelay resume r1 ")
    lines = done.out.splitlines()
    assert lines[0].startswith("run r1 of pipeline: success (")
    assert [line.split()[:4] for line in lines[2:6]] == [
        [task, "success", "attempt", "1"] for task in ("first", "second", "pause", "last")
    ]
    assert lines[7:] == ["last:", r"good \x1b[1m6\x1b[0m é"]


def test_run_tells_programs_everything_in_one_object(cli: Cli, pipeline: Path) -> None:
    """Its keys are stable."""
    done = cli("run", f"{pipeline}:dag", "--run-id", "r1", "--json", "-p", "mood=good")

    assert done.code == 0
    told = done.json()
    assert list(told) == ["run_id", "dag_id", "state", "params", "started_at", "ended_at", "tasks", "results", "store", "target"]
    assert told["state"] == "success"
    assert told["params"] == {"mood": "good"}
    assert told["results"] == {"last": "good \x1b[1m2\x1b[0m é"}
    assert told["store"] == str(cli.store)
    assert told["target"] == f"{pipeline}:dag"
    assert [(task["task_id"], task["state"], task["attempt"], task["error"]) for task in told["tasks"]] == [
        (task_id, "success", 1, None) for task_id in ("first", "second", "pause", "last")
    ]


def test_a_failed_run_shows_the_handlers_traceback_first(cli: Cli, pipeline: Path) -> None:
    """Then one line for the task and one for the run, all safe for a terminal; exit code 1."""
    done = cli("run", pipeline, "--run-id", "r1", "-p", "mood=bad")

    assert done.code == 1
    assert "run r1 of pipeline: failed" in done.out
    assert "\x1b" not in done.out + done.err
    lines = done.err.splitlines()
    trace = lines.index("Traceback (most recent call last):")
    assert f'File "{pipeline}"' in lines[trace + 1]
    assert lines[-3] == r"ValueError: a \x1b[31mbad\x1b[0m mood"
    assert lines[-2] == r"dagrelay: task 'last' failed in attempt 1: ValueError: a \x1b[31mbad\x1b[0m mood"
    assert lines[-1] == 'dagrelay: run r1 failed with params {"mood": "bad"}'


def test_mapped_tasks_are_shown_element_by_element(cli: Cli, tmp_path: Path) -> None:
    """Their results are a list, with null for an element that has none; a failed element is named."""
    path = tmp_path / "mapped.py"
    path.write_text(
        "from dagrelay import DAG, Skip, each\n"
        "dag = DAG('mapped')\n"
        "@dag.task\n"
        "async def inverse(number: int = each([1, 2, 0]), bad: str = 'skipped') -> float:\n"
        "    if not number and bad == 'skipped':\n"
        "        raise Skip('no inverse')\n"
        "    return 1 / number\n"
        "@dag.task\n"
        "async def first(values: list[float] = inverse.outputs_or(0.0)) -> float:\n"
        "    return values[0]\n"
        "@dag.task\n"
        "async def halve(number: float = each([2.0])) -> float:\n"
        "    return number / 2\n",
        encoding="utf-8",
    )
    assert cli("run", path, "--run-id", "good", "--json").json()["results"] == {"first": 1.0, "halve": [1.0]}
    assert "halve:\n[\n  1.0\n]" in cli("run", path, "--run-id", "good").out
    assert [line.split()[0] for line in cli("show", "good").out.splitlines() if line.startswith("inverse")] == [
        "inverse",
        "inverse[0]",
        "inverse[1]",
        "inverse[2]",
    ]
    assert "inverse[1]  return_value" in cli("xcom", "list", "good").out

    done = cli("run", path, "-p", "bad=failed")
    assert (done.code, "task 'inverse[2]' failed in attempt 1: ZeroDivisionError" in done.err) == (1, True)


def test_a_timeout_has_no_traceback_to_show(cli: Cli, tmp_path: Path) -> None:
    """It is told in one line."""
    path = tmp_path / "slow.py"
    path.write_text(
        "import anyio\n"
        "from dagrelay import DAG\n"
        "dag = DAG('slow')\n"
        "@dag.task(timeout_s=0.01)\n"
        "async def wait() -> None:\n"
        "    await anyio.sleep(600)\n"
    )

    done = cli("run", path, "--run-id", "r1")

    assert done.code == 1
    assert done.err.splitlines()[2:] == [
        "dagrelay: task 'wait' failed in attempt 1: TaskTimeoutError: attempt 1 of task 'wait' ran longer than timeout_s=0.01",
        "dagrelay: run r1 failed with params {}",
    ]


def test_a_failed_run_is_told_to_programs_too(cli: Cli, pipeline: Path) -> None:
    """The object says failed, and carries the error with its traceback."""
    done = cli("run", pipeline, "--json", "-p", "mood=bad")

    assert done.code == 1
    told = done.json()
    assert told["state"] == "failed"
    assert told["results"] == {}
    assert told["tasks"][-1]["error"]["type"] == "ValueError"
    assert "raise ValueError" in told["tasks"][-1]["error"]["traceback"]


def test_the_same_run_id_gives_the_stored_result(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """Nothing runs twice, not even a failed run."""
    log = tmp_path / "log"
    words = ("run", pipeline, "--run-id", "r1", "-p", f"log={log}", "--json")

    first, again = cli(*words), cli(*words)

    assert again.json() == first.json()
    assert log.read_text().split() == ["first", "second", "pause"]


def test_a_run_id_of_other_params_is_refused(cli: Cli, pipeline: Path) -> None:
    """One line says so; exit code 2."""
    cli("run", pipeline, "--run-id", "r1")

    done = cli("run", pipeline, "--run-id", "r1", "-p", "mood=new")

    assert done.code == 2
    assert done.err == "dagrelay: run id 'r1' belongs to a run with other params; choose another run_id\n"


def test_every_problem_of_a_dag_is_listed(cli: Cli, tmp_path: Path) -> None:
    """Nothing is stored, and no file of a store is needed to say so."""
    path = tmp_path / "bad.py"
    path.write_text(
        "from dagrelay import DAG, template\n"
        "dag = DAG('bad')\n"
        "@dag.task(depends_on='nowhere')\n"
        "async def a() -> None: ...\n"
        "@dag.task\n"
        "async def b(text: str = template('{{ xcom. }}')) -> str: ...\n"
    )

    done = cli("run", path)

    assert done.code == 2
    lines = done.err.splitlines()
    assert lines[0] == "dagrelay: DAG 'bad' can't be run:"
    assert [line[:4] for line in lines[1:]] == ["  - ", "  - "]
    assert "'nowhere'" in lines[1] + lines[2]
    assert "'text'" in lines[1] + lines[2]


def test_an_unknown_param_is_refused(cli: Cli, pipeline: Path) -> None:
    """A typing mistake is no silent default."""
    done = cli("run", pipeline, "-p", "mod=bad")

    assert done.code == 2
    assert "mod" in done.err


def test_many_tasks_are_counted(cli: Cli, tmp_path: Path) -> None:
    """A wide run does not flood the screen; what did not succeed is still named."""
    path = tmp_path / "wide.py"
    path.write_text(
        "from dagrelay import DAG, Skip\n"
        "dag = DAG('wide')\n"
        "async def work(n: int) -> None:\n"
        "    if n == 7:\n"
        "        raise Skip('enough')\n"
        "for n in range(60):\n"
        "    dag.add(work, id=f't{n}', bind={'n': n})\n"
    )

    done = cli("run", path)

    assert done.code == 0
    table = done.out.splitlines()[2:4]
    assert table[0].split()[:2] == ["t7", "skipped"]
    assert table[1] == "  60 tasks: 59 success, 1 skipped" or table[1] == "  60 tasks: 1 skipped, 59 success"


def test_a_dag_without_tasks_succeeds(cli: Cli, tmp_path: Path) -> None:
    """There is nothing to show but that."""
    path = tmp_path / "empty.py"
    path.write_text("from dagrelay import DAG\ndag = DAG('empty')\n")

    done = cli("run", path, "--run-id", "e")

    assert done.code == 0
    assert done.out.startswith("run e of empty: success")
    assert "no tasks" not in cli("show", "e").out


def test_a_run_on_trio_is_the_same_run(cli: Cli, pipeline: Path) -> None:
    """The loop is a choice of the command."""
    pytest.importorskip("trio")

    done = cli("run", pipeline, "--backend", "trio", "--json")

    assert done.code == 0
    assert done.json()["results"] == {"last": "fine \x1b[1m2\x1b[0m é"}


def test_trio_is_asked_for_where_it_is_missing(cli: Cli, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""

    def find_nothing(_name: str) -> None:
        return None

    monkeypatch.setattr(running, "find_spec", find_nothing)

    done = cli("run", pipeline, "--backend", "trio")

    assert done.code == 2
    assert "pip install 'dagrelay[trio]'" in done.err


# -------------------------------------------------------------------------------------------------- resume


def test_resuming_a_finished_run_returns_its_result(cli: Cli, pipeline: Path) -> None:
    """It succeeds at once."""
    ran = cli("run", pipeline, "--run-id", "r1", "--json")

    assert cli("resume", "r1", pipeline, "--json").json() == ran.json()
    assert "run r1 of pipeline: success" in cli("resume", "r1", pipeline).out


def test_resuming_a_failed_run_is_refused(cli: Cli, pipeline: Path) -> None:
    """The message says what goes on with it."""
    cli("run", pipeline, "--run-id", "r1", "-p", "mood=bad")

    done = cli("resume", "r1", pipeline)

    assert done.code == 2
    assert done.err.startswith("dagrelay: run 'r1' is failed: ")


def test_resuming_an_unknown_run_names_near_ones(cli: Cli, pipeline: Path) -> None:
    """A typing mistake is found."""
    cli("run", pipeline, "--run-id", "nightly-1")

    done = cli("resume", "nightly-2", pipeline)

    assert done.code == 2
    assert done.err == "dagrelay: no run 'nightly-2' in this store; did you mean 'nightly-1'?\n"


# -------------------------------------------------------------------------------------------------- demo


def test_the_demo_prints_its_run_and_the_way_back_first_and_the_next_commands_last(cli: Cli) -> None:
    """Every command printed is one that works."""
    done = cli("demo", "--pause-s", "0")

    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    run_id = lines[0].split()[1]
    resume = shlex.split(lines[2])
    assert lines[0].startswith(f"run {run_id} of dagrelay.examples.weather:dag (process ")
    assert resume == ["dagrelay", "resume", run_id, "dagrelay.examples.weather:dag", "--store", str(cli.store)]
    assert "2012   1226.0 mm" in done.out
    assert f"Everything is in {cli.store}. Look around:" in lines
    printed = [shlex.split(line) for line in lines[lines.index(f"Everything is in {cli.store}. Look around:") + 1 :]]
    assert len(printed) == 5
    for words in [resume, *printed]:
        assert words[0] == "dagrelay"
        assert cli.bare(*words[1:]).code == 0


def test_the_demo_says_when_it_pauses(cli: Cli) -> None:
    """Only if it does."""
    assert "It pauses for 0.01 s" in cli("demo", "--pause-s", "0.01").out
    assert "It pauses" not in cli("demo").out


def test_the_demo_for_programs_is_one_object(cli: Cli) -> None:
    """What it says to people goes to stderr."""
    done = cli("demo", "--json")

    assert done.json()["state"] == "success"
    assert "go on with:" in done.err


def test_a_demo_that_failed_shows_what_came_of_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `run` does."""
    dag = DAG("weather")

    @dag.task
    async def load(pause_s: float) -> None:
        raise FileNotFoundError(pause_s)

    @dag.task(depends_on=load)
    async def report() -> None: ...

    monkeypatch.setattr(running, "_DEMO", Target(dag=dag, text="nowhere:dag"))

    done = cli("demo")

    assert done.code == 1
    assert "FileNotFoundError: 0.0" in done.err
    assert "upstream_failed" in done.out


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon"])
def test_a_pause_is_a_number_of_seconds(cli: Cli, text: str) -> None:
    """Anything else is wrong usage."""
    assert cli("demo", f"--pause-s={text}").code == 2
