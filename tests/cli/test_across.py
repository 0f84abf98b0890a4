"""`fork`, `lineage` and `render`: new runs out of old ones, and looking at what they read and would read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.cli.exits import ExitCode
from dagrelay.runtime.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli

MAPPED = """
from dagrelay import DAG, each

dag = DAG("mapped")


@dag.task
async def double(item: int = each([1, 2])) -> int:
    return 2 * item


@dag.task
async def total(items: list[int] = double.outputs) -> int:
    return sum(items)


@dag.task
async def parts(item: int = each(double.outputs), whole: int = total.output) -> float:
    return item / whole
"""


@pytest.fixture(autouse=True)
def ran(cli: Cli, pipeline: Path) -> None:
    """Have one run that succeeded."""
    assert cli("run", pipeline, "--run-id", "old", "-p", "mood=good").code == ExitCode.SUCCESS


# ------------------------------------------------------------------------------------------------------------------ fork


def test_a_fork_runs_from_a_task_on(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """With new params; it says how to resume it, and the old run stays."""
    log = tmp_path / "log"
    done = cli("fork", "old", pipeline, "--from", "pause", "-p", f"log={log}", "-p", "count:=3", "--run-id", "new")

    assert done.code == ExitCode.SUCCESS
    assert "good \\x1b[1m6\\x1b[0m é" in done.out
    assert "run new of " in done.err
    assert "forked from old" in done.err
    assert "resume new " in done.err
    assert log.read_text().split() == ["pause"]
    assert [run["run_id"] for run in cli("runs", "--json").json()] == ["new", "old"]


def test_a_fork_is_told_to_programs(cli: Cli, pipeline: Path) -> None:
    """As any run, on either loop; an id is made where none is given."""
    told = cli("fork", "old", pipeline, "--from", "last", "--json", "--backend", "trio", "-p", "mood=bad")

    assert told.code == ExitCode.FAILED
    assert (told.json()["state"], told.json()["params"]["mood"]) == ("failed", "bad")
    assert cli("show", told.json()["run_id"], "--json").json()["tags"] == ["nightly", "fork-of:old"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["none", "--from", "last"], "no run 'none' in this store"),
        (["old", "--from", "lst"], "has no task 'lst'"),
        (["old", "--from", "last", "--run-id", "old"], "'old'"),
        (["old", "--from", "last", "-p", "x=1"], "param 'x'"),
        (["old", "--from", "last", "-p", "x"], "is no param"),
        (["old"], "--from"),
    ],
)
def test_a_fork_that_can_not_be_made_is_refused(cli: Cli, pipeline: Path, words: list[str], complaint: str) -> None:
    """In a line, and without a new run."""
    done = cli("fork", words[0], pipeline, *words[1:])

    assert (done.code, done.out) == (ExitCode.WRONG, "")
    assert complaint in done.err
    assert len(cli("runs", "--json").json()) == 1


def test_a_fork_makes_no_store(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """There is nothing in it to fork."""
    done = cli.bare("fork", "old", pipeline, "--from", "last", "--store", tmp_path / "none.db")

    assert done.code == ExitCode.WRONG
    assert not (tmp_path / "none.db").exists()


# --------------------------------------------------------------------------------------------------------------- lineage


def test_lineage_is_a_table(cli: Cli, pipeline: Path, tmp_path: Path) -> None:
    """With the run where that is another; elements and lists are shown as what they are."""
    cli("fork", "old", pipeline, "--from", "last", "--run-id", "new")
    (tmp_path / "mapped.py").write_text(MAPPED)
    cli("run", tmp_path / "mapped.py", "--run-id", "m")

    assert [line.split() for line in cli("lineage", "new").out.splitlines()] == [
        ["READER", "ATTEMPT", "READ", "OF", "RUN"],
        ["second", "1", "first", "return_value", "attempt", "1", "old"],
        ["pause", "1", "second", "return_value", "attempt", "1", "old"],
        ["last", "1", "pause", "return_value", "attempt", "1", "old"],
    ]
    assert [line.split() for line in cli("lineage", "m").out.splitlines()[1:]] == [
        ["total", "1", "double[*]", "return_value", "all", "elements"],
        ["parts", "1", "double[*]", "return_value", "all", "elements"],
        ["parts[0]", "1", "total", "return_value", "attempt", "1"],
        ["parts[1]", "1", "total", "return_value", "attempt", "1"],
    ]


def test_lineage_names_other_slots_and_counts_the_rest(cli: Cli, tmp_path: Path) -> None:
    """Entries from outside, those kept over attempts, elements; and how many more there were."""
    (tmp_path / "many.py").write_text(
        """
from dagrelay import DAG, TaskContext, each

dag = DAG("many")


@dag.task
async def a(ctx: TaskContext) -> None:
    await ctx.xcom.push("kept", 1, lifetime="task")
    await ctx.xcom.push_many({str(number): number for number in range(1_010)})


@dag.task(depends_on=a)
async def b(ctx: TaskContext) -> None:
    await ctx.xcom.pull("a", "kept")
    await ctx.xcom.pull("a", "outside")
    if ctx.params["other"]:
        await ctx.xcom.of_run(ctx.params["other"]).pull("m", map_index=1)
    for number in range(1_010):
        await ctx.xcom.pull("a", str(number))


@dag.task
async def m(item: int = each([1, 2])) -> int:
    return item


dag.params = {"other": ""}
"""
    )

    async def give() -> None:
        async with Runtime(cli.store) as runtime:
            for run_id in ("m1", "m2"):
                await runtime.xcom.push(run_id, "a", "outside", 1)

    anyio.run(give)
    cli("run", tmp_path / "many.py", "--run-id", "m1")
    cli("run", tmp_path / "many.py", "--run-id", "m2", "-p", "other=m1")
    lines = [line.split() for line in cli("lineage", "m2").out.splitlines()]

    assert lines[1] == ["b", "1", "a", "kept", "kept", "over", "attempts"]
    assert lines[2] == ["b", "1", "a", "outside", "outside"]
    assert lines[3] == ["b", "1", "m[1]", "return_value", "attempt", "1", "m1"]
    assert lines[-1] == ["b", "1", "(13", "more)"]


def test_lineage_tells_streams_from_values(cli: Cli, tmp_path: Path) -> None:
    """They may bear the same key."""
    (tmp_path / "flow.py").write_text(
        """
from dagrelay import DAG, TaskContext

dag = DAG("flow")


@dag.task
async def a(ctx: TaskContext) -> None:
    await ctx.xcom.push("rows", 1)
    await ctx.xcom.append("rows", 1)


@dag.task(depends_on=a)
async def b(ctx: TaskContext) -> None:
    await ctx.xcom.pull("a", "rows")
    async for _ in ctx.xcom.stream("a", "rows"):
        pass
"""
    )
    cli("run", tmp_path / "flow.py", "--run-id", "f")

    assert [line.split() for line in cli("lineage", "f").out.splitlines()[1:]] == [
        ["b", "1", "a", "rows", "attempt", "1"],
        ["b", "1", "a", "stream", "rows", "attempt", "1"],
    ]


def test_lineage_is_an_array_for_programs(cli: Cli) -> None:
    """One object for each attempt."""
    told = cli("lineage", "old", "--json").json()

    assert told[0] == {
        "run_id": "old",
        "task_id": "second",
        "map_index": None,
        "attempt": 1,
        "reads": [
            {
                "run_id": "old",
                "task_id": "first",
                "map_index": None,
                "key": "return_value",
                "attempt": 1,
                "is_stream": False,
            }
        ],
        "left_out": 0,
    }


def test_no_reads_are_said_in_words(cli: Cli, tmp_path: Path) -> None:
    """And a run that is not there is an error."""
    (tmp_path / "empty.py").write_text("from dagrelay import DAG\ndag = DAG('empty')\n")
    cli("run", tmp_path / "empty.py", "--run-id", "empty")

    assert cli("lineage", "empty").out == "no reads\n"
    assert cli("lineage", "none").code == ExitCode.WRONG


# ---------------------------------------------------------------------------------------------------------------- render


def test_a_template_is_rendered_from_a_run(cli: Cli) -> None:
    """As text."""
    done = cli("render", "old", "{{ xcom.first.return_value.one }} in {{ run.id }}, {{ xcom.first.none | default(7) }}")

    assert (done.code, done.out) == (ExitCode.SUCCESS, "1 in old, 7\n")


def test_a_lone_reference_keeps_its_type_for_programs(cli: Cli) -> None:
    """Everything else is text."""
    assert cli("render", "old", "{{ xcom.first }}", "--json").json() == {
        "run_id": "old",
        "template": "{{ xcom.first }}",
        "value": {"one": 1},
    }
    assert cli("render", "old", "{{ xcom.second }}!", "--json").json()["value"] == "2!"


@pytest.mark.parametrize("filters", ["", "[0]", " | length", ' | default("x")', " | tojson"])
def test_a_sensitive_value_is_not_rendered(cli: Cli, filters: str) -> None:
    """Whatever is made of it, and nothing of the rest is printed, unless it is to be revealed."""
    text = f"{{{{ xcom.second }}}} {{{{ xcom.first.secret{filters} }}}}"
    for words in ([], ["--json"]):
        done = cli("render", "old", text, *words)

        assert (done.code, done.out) == (ExitCode.WRONG, "")
        assert "XCom 'secret' of task 'first' is sensitive; --reveal prints it all the same" in done.err
        assert "hunter2" not in done.err
    if not filters:
        assert cli("render", "old", text, "--reveal").out == "2 hunter2\n"


@pytest.mark.parametrize(
    ("run", "text", "complaint"),
    [
        ("none", "text", "no run 'none' in this store"),
        ("old", "{{ xcom.frst.colour }}", "did you mean 'first'?"),
        ("old", "{{ xcom.first.color }}", "did you mean 'colour'?"),
        ("old", "{{ xcom.first.", "column"),
        ("old", "{{ params.mood }}", "unknown root 'params', expected run.id, xcom"),
        ("old", "{{ user.name }}", "unknown root 'user'"),
        ("old", "{{ xcom.second | length }}", "length needs"),
    ],
)
def test_what_can_not_be_rendered_is_told(cli: Cli, run: str, text: str, complaint: str) -> None:
    """In a line."""
    done = cli("render", run, text)

    assert (done.code, done.out) == (ExitCode.WRONG, "")
    assert complaint in done.err
