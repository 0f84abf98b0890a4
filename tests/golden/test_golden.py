"""Files that earlier versions wrote are understood for ever, and the format does not change by accident."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from dagrelay import RunState, Runtime
from dagrelay.stores import StoreCheck
from dagrelay.stores.sqlite import schema
from tests.golden import make_v1, make_v2

FOLDER: Final = Path(__file__).parent
SCHEMAS: Final = {
    1: "45493827381067efd9d7ad678cce558acf50425ee7b9ee8cd88242b8b20d5123",
    2: "7c457b468ecdf9728f470544b952efe5ef35325481d45c98fd9a311b29c2141a",
}
"""Digests of the statements that lead to each version. One that is published never changes: a change is a new version, with a
digest, a script and golden files of its own. Not even blanks: `dagrelay check` compares the text that SQLite keeps."""

RESUMABLE: Final = {1: ["interrupted", "waiting", "running"], 2: ["cleared", "expanding", "fork", "stream"]}
"""Runs of each version's golden file that were interrupted, or running."""
LATER_TABLES: Final = {1: {"inbox", "stream_chunk", "stream_position"}, 2: set[str]()}
"""Tables that a version did not have yet."""


def digest_of(statements: tuple[str, ...]) -> str:
    """Return a digest of the statements of one migration."""
    return hashlib.sha256("\0".join(statements).encode()).hexdigest()


def dump(path: Path) -> list[str]:
    """Return all that is in a database as text."""
    with closing(sqlite3.connect(path)) as connection:
        settings = [str(connection.execute(f"PRAGMA {name}").fetchone()) for name in ("user_version", "application_id")]
        return [*settings, *connection.iterdump()]


@pytest.fixture(params=sorted(SCHEMAS))
def version(request: pytest.FixtureRequest) -> int:
    """Return each version of the schema that was ever published."""
    number: int = request.param
    return number


@pytest.fixture
def copy(version: int, tmp_path: Path) -> Path:
    """Give a copy of a version's golden file."""
    return Path(shutil.copy(FOLDER / f"v{version}.db", tmp_path / "runs.db"))


def test_every_version_has_a_digest_and_golden_files() -> None:
    """A new version brings its own."""
    versions = range(1, len(schema.MIGRATIONS) + 1)
    assert list(SCHEMAS) == list(versions)
    assert all((FOLDER / f"v{number}.{kind}").exists() for number in versions for kind in ("db", "json"))


def test_no_schema_changes_without_a_new_version(version: int) -> None:
    """What is on the disks of users can't be changed any more."""
    assert digest_of(schema.MIGRATIONS[version - 1]) == SCHEMAS[version]


async def test_a_golden_file_says_what_it_always_said(version: int, copy: Path) -> None:
    """Runs in all states, retries, entries of every kind, timelines, and what later versions added: to the letter."""
    told = json.loads((FOLDER / f"v{version}.json").read_text(encoding="utf-8"))
    said = await {1: make_v1.tell, 2: make_v2.tell}[version](copy)
    assert said.keys() == told.keys()
    for what, answer in told.items():
        assert said[what] == answer, what


def test_a_golden_file_has_rows_of_each_kind(version: int, copy: Path) -> None:
    """In each table; the check finds nothing wrong with it, once it is brought to this version's schema."""
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        schema.migrate(connection)
        states = {state for (state,) in connection.execute("SELECT DISTINCT state FROM run WHERE state IS NOT NULL")}
        added = connection.execute("SELECT max(length), max(follows), max(lineage) FROM instance").fetchone()
    with StoreCheck(copy) as check:
        assert list(check.findings()) == []
        assert {table for table, count in check.rows.items() if not count} == LATER_TABLES[version]
        assert [run.run_id for run in check.resumable()] == RESUMABLE[version]
    assert states == {1: {0, 1, 2, 3, 4}, 2: {0, 2, 3, 4}}[version]
    assert (added == (None, None, None)) == (version == 1)
    assert version <= check.schema_version


@pytest.mark.parametrize("version", [1], indirect=True)
async def test_the_runs_of_a_golden_file_can_be_resumed(copy: Path) -> None:
    """What had succeeded is not run again; the values go on from what is stored."""
    async with Runtime(copy) as runtime:
        for run_id in ("interrupted", "running", "waiting"):
            result = await runtime.resume(run_id, make_v1.dag)
            assert result[make_v1.report] == "3 rows"
        tasks = {task.task_id: (task.state, task.attempt) for task in await runtime.task_instances("interrupted")}
        assert tasks == {"load": ("success", 1), "clean": ("success", 2), "report": ("success", 1)}
        assert (await runtime.get_run("running")).state is RunState.SUCCESS


@pytest.mark.skipif(len(schema.MIGRATIONS) > 2, reason="this version writes a later schema, whose script is tested instead")
def test_the_script_still_makes_an_equivalent_file(tmp_path: Path) -> None:
    """Row by row, checksums and codes included."""
    make_v2.make(tmp_path / "again.db")
    assert dump(tmp_path / "again.db") == dump(Path(shutil.copy(make_v2.DATABASE, tmp_path / "golden.db")))


@pytest.mark.parametrize("change", ["STRICT", "CREATE INDEX", "NOT NULL"])
def test_a_changed_schema_is_seen(change: str) -> None:
    """The digest can fail: also by a blank."""
    changed: tuple[Any, ...] = tuple(statement.replace(change, f"{change} ") for statement in schema.MIGRATIONS[0])
    assert digest_of(changed) != SCHEMAS[1]
