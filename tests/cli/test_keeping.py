"""`backup` and `check`: a copy of a store in use, and what is wrong with one, told in lines that steer no terminal."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal

from dagrelay.stores import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def ran(cli: Cli, pipeline: Path) -> None:
    """Have one run that succeeded."""
    assert cli("run", pipeline, "--run-id", "r1", "-p", "mood=good").code == 0


def damage(path: Path, statement: str, *values: str) -> None:
    """Change a store behind its back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement, values)


# -------------------------------------------------------------------------------------------------- backup


def test_a_backup_is_a_store(cli: Cli, tmp_path: Path) -> None:
    """With the same runs; the line says where and how large it is."""
    copy = tmp_path / "copy.db"
    done = cli.bare("backup", cli.store, copy)
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{cli.store} is backed up to {copy} ({copy.stat().st_size:,} bytes)\n"
    assert cli.bare("show", "r1", "--store", copy).out == cli("show", "r1").out
    assert oct(copy.stat().st_mode & 0o777) == "0o600"


def test_a_backup_is_told_to_programs(cli: Cli, tmp_path: Path) -> None:
    """As one object."""
    copy = tmp_path / "copy.db"
    told = cli.bare("backup", cli.store, copy, "--json").json()
    assert told == {"store": str(cli.store), "target": str(copy), "size_bytes": copy.stat().st_size}


def test_a_store_in_use_is_backed_up_and_checked(cli: Cli, tmp_path: Path) -> None:
    """Beside its owner, who is not disturbed."""
    owner = SqliteStore(cli.store)
    with start_blocking_portal() as portal:
        portal.call(lambda: owner.open(now_us=0))
        assert cli.bare("backup", cli.store, tmp_path / "copy.db").code == 0
        assert cli.bare("check", cli.store).code == 0
        portal.call(owner.close)
    assert cli.bare("check", tmp_path / "copy.db").code == 0


def test_a_backup_is_never_written_over_a_file(cli: Cli, tmp_path: Path) -> None:
    """The error names both."""
    (tmp_path / "copy.db").write_text("precious")
    done = cli.bare("backup", cli.store, tmp_path / "copy.db")
    assert done.code == 4
    assert "there is such a file already" in done.err
    assert (tmp_path / "copy.db").read_text() == "precious"


@pytest.mark.parametrize("words", [["backup", "none.db", "copy.db"], ["check", "none.db"], ["check"], ["backup", "none.db"]])
def test_what_is_not_there_or_not_said_is_wrong_usage(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """Nothing is made."""
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert cli.bare(*words).code == 2
    assert sorted(tmp_path.iterdir()) == before


# -------------------------------------------------------------------------------------------------- check


def test_a_clean_store_is_told_in_a_line(cli: Cli) -> None:
    """With its schema and how much was looked at."""
    done = cli.bare("check", cli.store)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{cli.store}: schema 2, ")
    assert done.out.endswith(" rows, no findings\n")


def test_findings_are_told_and_make_the_command_fail(cli: Cli) -> None:
    """Each in a line."""
    damage(cli.store, "UPDATE xcom SET seq = seq + 1 WHERE key = 'secret'")
    done = cli.bare("check", cli.store)
    assert done.code == 1
    assert done.out.splitlines()[0] == "finding: xcom 1/1/-1/'secret'/1: a row of table 'xcom' does not match its checksum"
    assert done.out.endswith(" rows, 1 finding\n")
    damage(cli.store, "UPDATE xcom SET seq = seq + 1 WHERE key = 'colour'")
    assert cli.bare("check", cli.store).out.endswith(" rows, 2 findings\n")


def test_a_check_is_told_to_programs_line_by_line(cli: Cli) -> None:
    """Findings, what can be resumed, and a summary at the end."""
    damage(cli.store, "UPDATE run SET state = 4")
    lines = [json.loads(line) for line in cli.bare("check", cli.store, "--json").out.splitlines()]
    assert [line["type"] for line in lines] == ["finding", "resumable", "summary"]
    assert lines[0] == {
        "type": "finding",
        "table": "run",
        "row": "1/'r1'",
        "what": "a row of table 'run' does not match its checksum",
    }
    assert lines[1] == {"type": "resumable", "run_id": "r1", "dag_id": "pipeline"}
    assert (lines[2]["findings"], lines[2]["schema_version"], lines[2]["rows"]["run"]) == (1, 2, 1)


def test_what_can_be_resumed_is_told(cli: Cli) -> None:
    """For people too; it is no finding by itself."""
    damage(cli.store, "UPDATE run SET state = 4")
    assert "can be resumed: run r1 of DAG pipeline\n" in cli.bare("check", cli.store).out


def test_nothing_of_a_damaged_store_reaches_the_terminal_raw(cli: Cli) -> None:
    """Neither names nor keys nor SQLite's words on them, and no value at all."""
    evil = "\x1b]0;owned\x07\x1b[31m\u202e\nfinding: forged"
    damage(cli.store, "UPDATE run SET run_id = ?, dag_id = ?, state = 4", evil, evil)
    damage(cli.store, "UPDATE xcom SET key = ? WHERE key = 'secret'", evil)
    damage(cli.store, f'CREATE TABLE "{evil}" (a)')
    damage(cli.store, f'CREATE INDEX "index{evil}" ON "{evil}" (a)')
    done = cli.bare("check", cli.store)
    assert done.code == 1
    assert done.out.replace("\n", "").isprintable()
    assert all(line.startswith(("finding: ", "can be resumed: ", f"{cli.store}: ")) for line in done.out.splitlines())
    assert not any(line.startswith("finding: forged") for line in done.out.splitlines())
    assert "hunter2" not in done.out
    for line in cli.bare("check", cli.store, "--json").out.splitlines():
        assert line.isascii()
        assert line.isprintable()
        json.loads(line)
