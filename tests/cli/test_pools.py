"""`--pool`: DAGs whose tasks name pools on the command line."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from dagrelay.cli.exits import CommandError
from dagrelay.cli.pools import parse_pools
from dagrelay.model.policies import Pool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli

POOLED = """
from dagrelay import DAG

dag = DAG("pooled")


@dag.task(pool="api")
async def fetch(n: int = 1) -> int:
    return n


@dag.task(pool="data base")
async def save(n: int = fetch.output) -> int:
    return n + 1
"""


@pytest.fixture
def pooled(tmp_path: Path) -> Path:
    """Return a file with a DAG whose two tasks name two pools."""
    path = tmp_path / "pooled.py"
    path.write_text(POOLED, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "name", "pool"),
    [
        ("api=2", "api", Pool(2)),
        ("api=2:10", "api", Pool(2, per_s=10)),
        ("a=b=2:0.5", "a=b", Pool(2, per_s=0.5)),
        ("data base=1", "data base", Pool(1)),
    ],
)
def test_a_pool_is_a_name_with_slots_and_maybe_a_rate(text: str, name: str, pool: Pool) -> None:
    """What stands after the last equals sign are the numbers; the last of a name wins."""
    assert parse_pools([f"{name}=7", text]) == {name: pool}
    assert parse_pools([]) == {}


@pytest.mark.parametrize(
    "text", ["", "api", "=2", "api=", "api=x", "api=-1", "api=0", "api=2:", "api=2:x", "api=2:0", "api=2:1.2.3"]
)
def test_what_is_no_pool_is_refused(text: str) -> None:
    """With the text that was given."""
    with pytest.raises(CommandError, match="is no pool") as refused:
        parse_pools([text])
    assert repr(text) in str(refused.value)


def test_a_dag_that_names_pools_is_run_resumed_retried_and_forked(cli: Cli, pooled: Path) -> None:
    """With the pools given; the way back that is printed has them too."""
    pools = ("--pool", "api=2:1000", "--pool", "data base=1")
    done = cli("run", pooled, "--run-id", "r", *pools)

    assert (done.code, done.out.splitlines()[-1]) == (0, "2")
    words = shlex.split(done.err.splitlines()[1])
    assert words[words.index("resume") :][3:5] == ["--pool=api=2:1000", "--pool=data base=1"]
    assert cli(*words[words.index("resume") : -2]).code == 0
    assert cli("retry", "r", "save", pooled, *pools).code == 0
    assert cli("fork", "r", pooled, "--from", "save", *pools, "--backend", "trio").code == 0


@pytest.mark.parametrize("words", [("run",), ("resume", "r"), ("fork", "r", "--from", "save"), ("retry", "r", "save")])
def test_a_pool_that_is_not_given_is_told_with_the_option_that_gives_it(cli: Cli, pooled: Path, words: tuple[str, ...]) -> None:
    """Before anything is recorded, and beside those that are given."""
    cli("run", pooled, "--run-id", "r", "--pool", "api=1", "--pool", "data base=1")
    name, *rest = words
    run = [rest.pop(0)] if name != "run" else []
    after = [rest.pop(0)] if name == "retry" else []
    runs = cli("runs", "--json").json()

    done = cli(name, *run, *after, pooled, *rest)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "dagrelay: DAG 'pooled' needs pools: task 'fetch' names the pool 'api'; task 'save' names the pool 'data base'; "
        "give it by --pool api=SLOTS --pool 'data base'=SLOTS\n"
    )
    done = cli(name, *run, *after, pooled, *rest, "--pool", "apis=1", "--pool", "data base=1")
    assert "needs pools beside 'apis', 'data base': task 'fetch' names the pool 'api'; give it by --pool api=SLOTS" in done.err
    assert cli("runs", "--json").json() == runs


def test_a_retry_without_target_takes_no_pools(cli: Cli, pooled: Path) -> None:
    """They would be nobody's."""
    cli("run", pooled, "--run-id", "r", "--pool", "api=1", "--pool", "data base=1")
    done = cli("retry", "r", "save", "--pool", "api=1")

    assert done.code == 2
    assert "--pool goes with TARGET" in done.err


def test_the_demo_takes_no_pools(cli: Cli) -> None:
    """Its DAG names none."""
    assert cli("demo", "--pool", "api=1").code == 2
