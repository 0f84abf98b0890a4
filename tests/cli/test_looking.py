"""`runs`, `show`, `xcom` and `events`: what a store remembers, masked and escaped."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from dagrelay.model.policies import XComOptions
from dagrelay.runtime.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def ran(cli: Cli, pipeline: Path) -> None:
    """Have one run that succeeded and one that failed."""
    cli("run", pipeline, "--run-id", "r1", "-p", "mood=good")
    cli("run", pipeline, "--run-id", "r2", "-p", "mood=bad")


# -------------------------------------------------------------------------------------------------- runs and show


def test_runs_are_listed_newest_first(cli: Cli) -> None:
    """One line each, under a head."""
    lines = cli("runs").out.splitlines()

    assert lines[0].split() == ["RUN", "DAG", "STATE", "CREATED", "TOOK"]
    assert [line.split()[:3] for line in lines[1:]] == [["r2", "pipeline", "failed"], ["r1", "pipeline", "success"]]


def test_runs_are_an_array_for_programs(cli: Cli) -> None:
    """With all that a record has."""
    told = cli("runs", "--json").json()

    assert [(run["run_id"], run["state"], run["params"], run["tags"]) for run in told] == [
        ("r2", "failed", {"mood": "bad"}, ["nightly"]),
        ("r1", "success", {"mood": "good"}, ["nightly"]),
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--state", "failed"], ["r2"]),
        (["--dag", "pipeline", "--limit", "1"], ["r2"]),
        (["--dag", "other"], []),
    ],
)
def test_runs_can_be_chosen(cli: Cli, words: list[str], expected: list[str]) -> None:
    """By DAG, by state, and so many."""
    assert [run["run_id"] for run in cli("runs", *words, "--json").json()] == expected


def test_no_runs_are_said_in_words(cli: Cli) -> None:
    """An empty table says nothing."""
    assert cli("runs", "--dag", "other").out == "no runs\n"


def test_show_tells_a_run_and_its_tasks(cli: Cli) -> None:
    """Errors are cut to a line and escaped."""
    done = cli("show", "r2")

    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0].split() == ["run", "r2"]
    assert lines[2].split() == ["state", "failed"]
    assert lines[3].split(maxsplit=1) == ["params", '{"mood": "bad"}']
    assert lines[-1].split()[:3] == ["last", "failed", "1"]
    assert lines[-1].endswith(r"ValueError: a \x1b[31mbad\x1b[0m mood")
    assert "\x1b" not in done.out


def test_show_tells_programs_the_tasks_inside_the_run(cli: Cli) -> None:
    """Errors come whole."""
    told = cli("show", "r2", "--json").json()

    assert (told["run_id"], told["state"]) == ("r2", "failed")
    assert [task["state"] for task in told["tasks"]] == ["success", "success", "success", "failed"]
    assert told["tasks"][3]["error"]["message"] == "a \x1b[31mbad\x1b[0m mood"


@pytest.mark.parametrize("words", [["show"], ["events"], ["xcom", "list"]])
def test_an_unknown_run_is_an_error(cli: Cli, words: list[str]) -> None:
    """One line, exit code 2."""
    done = cli(*words, "r3")

    assert done.code == 2
    assert done.err.startswith("dagrelay: no run 'r3' in this store")
    assert done.out == ""


def test_an_illegal_run_id_is_an_error(cli: Cli) -> None:
    """It is never looked for."""
    done = cli("show", "../etc")

    assert done.code == 2
    assert "invalid run id" in done.err


# -------------------------------------------------------------------------------------------------- xcom list


def test_entries_are_listed_without_values(cli: Cli) -> None:
    """Descriptions are escaped, sensitive entries are marked."""
    done = cli("xcom", "list", "r1")

    assert done.code == 0
    assert [line.split()[:2] for line in done.out.splitlines()[1:]] == [
        ["first", "colour"],
        ["first", "return_value"],
        ["first", "secret"],
        ["second", "return_value"],
        ["pause", "return_value"],
        ["last", "return_value"],
    ]
    assert r"\x1b]0;owned\x07" in done.out
    assert "(sensitive) a password" in done.out
    assert "hunter2" not in done.out
    assert "\x1b" not in done.out


def test_values_are_listed_if_asked_for_and_masked_if_sensitive(cli: Cli) -> None:
    """A secret stays one, in both forms."""
    plain = cli("xcom", "list", "r1", "first", "--values")
    told = cli("xcom", "list", "r1", "first", "--values", "--json")

    assert r'"\u001b[31mred\u001b[0m"' in plain.out
    assert plain.out.splitlines()[-1].endswith("(sensitive)")
    assert {entry["key"]: entry["value"] for entry in told.json()} == {
        "colour": "\x1b[31mred\x1b[0m",
        "return_value": {"one": 1},
        "secret": None,
    }
    assert "hunter2" not in plain.out + told.out


def test_entries_for_programs_have_no_value_unless_asked_for(cli: Cli) -> None:
    """A null there would be taken for a value."""
    told = cli("xcom", "list", "r1", "second", "--json").json()

    assert len(told) == 1
    assert "value" not in told[0]
    assert told[0]["size_bytes"] == 1


def test_entries_of_failed_attempts_are_listed_if_asked_for(cli: Cli, tmp_path: Path) -> None:
    """With the attempt and its state."""
    path = tmp_path / "failing.py"
    path.write_text(
        "from dagrelay import DAG, TaskContext\n"
        "dag = DAG('failing')\n"
        "@dag.task\n"
        "async def a(ctx: TaskContext) -> None:\n"
        "    await ctx.xcom.push('k', 1)\n"
        "    raise ValueError\n"
    )
    cli("run", path, "--run-id", "f")

    assert cli("xcom", "list", "f").out == "no entries\n"
    assert cli("xcom", "list", "f", "--all-attempts").out.splitlines()[1].split()[:5] == ["a", "k", "1", "1", "(failed)"]


# -------------------------------------------------------------------------------------------------- xcom get


def test_a_value_is_printed_as_readable_json(cli: Cli) -> None:
    """Safe for a terminal, and valid."""
    done = cli("xcom", "get", "r1", "last")

    assert json.loads(done.out) == "good \x1b[1m2\x1b[0m é"
    assert "\x1b" not in done.out
    assert "é" in done.out
    assert cli("xcom", "get", "r1", "first").out == '{\n  "one": 1\n}\n'


def test_a_raw_text_is_printed_exactly_into_a_pipe(cli: Cli) -> None:
    """Without quotes or escapes; anything else is compact JSON."""
    assert cli("xcom", "get", "r1", "last", "--raw").out == "good \x1b[1m2\x1b[0m é\n"
    assert cli("xcom", "get", "r1", "first", "--raw").out == '{"one":1}\n'


def test_a_raw_text_is_escaped_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stored may steer it."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    cli("xcom", "get", "r1", "last", "--raw")

    assert terminal.getvalue() == "good \\x1b[1m2\\x1b[0m é\n"


def test_a_value_for_programs_comes_with_its_entry(cli: Cli) -> None:
    """Key, size, time and all."""
    told = cli("xcom", "get", "r1", "first", "colour", "--json").json()

    assert told["value"] == "\x1b[31mred\x1b[0m"
    assert (told["run_id"], told["task_id"], told["key"], told["attempt"]) == ("r1", "first", "colour", 1)


@pytest.mark.parametrize("form", [[], ["--raw"], ["--json"]])
def test_a_sensitive_value_is_printed_only_if_told_to_reveal_it(cli: Cli, form: list[str]) -> None:
    """The error does not hold it either."""
    refused = cli("xcom", "get", "r1", "first", "secret", *form)
    revealed = cli("xcom", "get", "r1", "first", "secret", "--reveal", *form)

    assert refused.code == 2
    assert "is sensitive; --reveal prints it" in refused.err
    assert "hunter2" not in refused.out + refused.err
    assert revealed.code == 0
    assert "hunter2" in revealed.out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["first", "color"], "did you mean 'colour'?"),
        (["fist"], "did you mean 'first'?"),
        (["last"], "(the task is failed)"),
    ],
)
def test_a_missing_value_is_an_error_with_a_hint(cli: Cli, words: list[str], hint: str) -> None:
    """Near names, or the state of the task."""
    done = cli("xcom", "get", "r2", *words)

    assert done.code == 2
    assert done.err.startswith("dagrelay: no XCom ")
    assert hint in done.err


@pytest.fixture
def mapped(cli: Cli, tmp_path: Path) -> None:
    """Have a run with mapped tasks: of three elements, one of them failed; of two; of none."""
    (tmp_path / "mapped.py").write_text(
        """
from dagrelay import DAG, TaskContext, each

dag = DAG("mapped")


@dag.task
async def holed(n: int = each([0, 1, 2])) -> int:
    if n == 1:
        raise ValueError("bad")
    return n


@dag.task
async def whole(ctx: TaskContext, n: int = each([10, 20])) -> dict[str, int]:
    await ctx.xcom.push("secret", n, sensitive=n == 20)
    return {"n": n}


@dag.task
async def none(n: int = each([])) -> int:
    return n
"""
    )
    assert cli("run", tmp_path / "mapped.py", "--run-id", "m").code == 1


@pytest.mark.usefixtures("mapped")
def test_of_a_mapped_task_one_element_is_printed_or_a_list_of_all(cli: Cli) -> None:
    """In each form; a list of none as well."""
    assert json.loads(cli("xcom", "get", "m", "whole").out) == [{"n": 10}, {"n": 20}]
    assert cli("xcom", "get", "m", "whole", "--raw").out == '[{"n":10},{"n":20}]\n'
    assert cli("xcom", "get", "m", "none", "--raw").out == "[]\n"
    assert cli("xcom", "get", "m", "whole", "--json").json() == {
        "run_id": "m",
        "task_id": "whole",
        "key": "return_value",
        "value": [{"n": 10}, {"n": 20}],
    }
    assert cli("xcom", "get", "m", "whole", "return_value", "--index", "1", "--raw").out == '{"n":20}\n'
    told = cli("xcom", "get", "m", "whole", "--index", "0", "--json").json()
    assert (told["map_index"], told["value"]) == (0, {"n": 10})
    lines = cli("xcom", "list", "m", "whole").out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["whole[0]", "whole[0]", "whole[1]", "whole[1]"]


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["holed"], "of element 1 of task 'holed' in run 'm' (the element is failed)"),
        (["holed", "--index", "1"], "of element 1 of task 'holed' in run 'm' (the element is failed)"),
        (["holed", "--index", "3"], "of element 3 of task 'holed'"),
        (["holed", "--index", "-1"], "'-1' is no index, which counts from 0"),
        (["holed", "--index", "one"], "--index"),
    ],
)
def test_an_element_that_has_no_value_is_told(cli: Cli, words: list[str], told: str) -> None:
    """By its index, and what became of it."""
    done = cli("xcom", "get", "m", *words)

    assert (done.code, done.out) == (2, "")
    assert told in done.err


@pytest.mark.usefixtures("mapped")
def test_a_list_with_one_sensitive_value_is_sensitive(cli: Cli) -> None:
    """And an element is for itself."""
    assert "is sensitive; --reveal" in cli("xcom", "get", "m", "whole", "secret").err
    assert "is sensitive; --reveal" in cli("xcom", "get", "m", "whole", "secret", "--index", "1").err
    assert cli("xcom", "get", "m", "whole", "secret", "--index", "0").out == "10\n"
    assert cli("xcom", "get", "m", "whole", "secret", "--reveal", "--raw").out == "[10,20]\n"
    assert "is sensitive; --reveal" in cli("render", "m", "{{ xcom.whole.secret[0] }}").err


@pytest.mark.usefixtures("mapped")
def test_a_template_reads_a_mapped_task_as_a_list(cli: Cli) -> None:
    """In text, for programs, and not with a hole."""
    assert cli("render", "m", "{{ xcom.whole }} {{ xcom.none }} {{ xcom.whole | length }}").out == '[{"n":10},{"n":20}] [] 2\n'
    assert cli("render", "m", "{{ xcom.whole }}", "--json").json()["value"] == [{"n": 10}, {"n": 20}]
    assert "not all of its elements have it" in cli("render", "m", "{{ xcom.holed }}").err


def test_values_pushed_outside_any_run_are_found(cli: Cli) -> None:
    """They need no run."""

    async def push() -> None:
        async with Runtime(cli.store) as runtime:
            await runtime.xcom.push("loose", "t", "k", [1], options=XComOptions(description="from outside"))

    anyio.run(push)

    assert "from outside" in cli("xcom", "list", "loose").out
    assert cli("xcom", "get", "loose", "t", "k").out == "[\n  1\n]\n"


# -------------------------------------------------------------------------------------------------- events


def test_the_timeline_is_one_line_an_event(cli: Cli) -> None:
    """In order, from the start to the end."""
    lines = [line.split("Z  ", 1)[1] for line in cli("events", "r2").out.splitlines()]

    assert lines[0] == "run started: pipeline"
    assert "first pushed 'colour' (24 bytes, attempt 1)" in lines
    assert "second success (attempt 1)" in lines
    assert r"last failed (attempt 1): ValueError: a \x1b[31mbad\x1b[0m mood" in lines
    assert lines[-1] == "run failed"


def test_the_timeline_for_programs_is_one_object_a_line(cli: Cli) -> None:
    """With the event's type and place."""
    told: list[dict[str, Any]] = [json.loads(line) for line in cli("events", "r1", "--json").out.splitlines()]

    assert told[0]["type"] == "RunStarted"
    assert told[-1] == {**told[-1], "type": "RunFinished", "run_id": "r1", "state": "success"}
    assert [event["seq"] for event in told] == sorted(event["seq"] for event in told)
    assert {event["type"] for event in told} == {"RunStarted", "TaskStateChanged", "XComPushed", "RunFinished"}


@pytest.mark.parametrize(("key", "told"), [("k", "t lost 1 entries under 'k'"), (None, "t lost 2 entries under all keys")])
def test_deleted_entries_are_in_the_timeline(cli: Cli, key: str | None, told: str) -> None:
    """With how many went."""

    async def push_and_delete() -> None:
        async with Runtime(cli.store) as runtime:
            await runtime.xcom.push("r1", "t", "k", 1)
            await runtime.xcom.push("r1", "t", "k2", 1)
            await runtime.xcom.delete("r1", "t", key)

    anyio.run(push_and_delete)

    assert cli("events", "r1").out.splitlines()[-1].endswith(told)


# -------------------------------------------------------------------------------------------------- beside an owner


def test_looking_works_beside_the_owner(cli: Cli) -> None:
    """While the store is open for writing, it is read; a second owner is refused with exit code 4."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Runtime(cli.store)):
        assert cli("runs").code == 0
        assert cli("show", "r1").code == 0
        refused = cli("demo")

    assert refused.code == 4
    assert "is in use by process" in refused.err


def test_a_store_that_is_not_there_is_not_made(cli: Cli, tmp_path: Path) -> None:
    """Looking changes nothing; exit code 2."""
    done = cli.bare("runs", "--store", tmp_path / "none.db")

    assert done.code == 2
    assert "there is no store" in done.err
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_no_store_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    """One line says so; exit code 4."""
    path = tmp_path / "notes.txt"
    path.write_text("dear diary" * 100)

    done = cli.bare("runs", "--store", path)

    assert done.code == 4
    assert done.err.startswith("dagrelay: ")
    assert done.err.count("\n") == 1
    assert path.read_text() == "dear diary" * 100
