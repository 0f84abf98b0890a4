"""Streams on disk: what is damaged is found when it is read, and by the check."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay.errors import StoreCorruptError
from dagrelay.stores import SqliteStore, StoreCheck
from dagrelay.stores.sqlite import rows, streams
from dagrelay.stores.stream_records import StreamQuery
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a database with a stream of two chunks and a position in it, closed."""
    anyio.run(_fill, tmp_path / "runs.db")
    return tmp_path / "runs.db"


async def _fill(path: Path) -> None:
    story = Story()
    store = SqliteStore(path, synchronous="NORMAL")
    await store.open(now_us=0)
    await store.apply(
        [
            story.create("a", "b"),
            story.start("a"),
            story.start("b"),
            story.append("a", "rows", [b"0", b"1"]),
            story.append("a", "rows", [b"2"], first_seq=2, is_numbered=True),
            story.ack("b", "a", "rows", 2),
        ]
    )
    await store.close()


def change(path: Path, statement: str) -> None:
    """Change a database behind everybody's back."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def findings(path: Path) -> list[str]:
    """Return what the check finds."""
    with StoreCheck(path) as check:
        return [str(finding) for finding in check.findings()]


def test_a_sound_stream_has_no_flaws(path: Path) -> None:
    """All its rows are looked at."""
    with StoreCheck(path) as check:
        assert list(check.findings()) == []
        assert check.rows["stream_chunk"] == 2
        assert check.rows["stream_position"] == 1


@pytest.mark.parametrize(
    ("statement", "where"),
    [
        ("UPDATE stream_chunk SET items = x'0100000039' WHERE first_seq = 2", "stream_chunk"),
        ("UPDATE stream_chunk SET first_seq = 5 WHERE first_seq = 2", "stream_chunk"),
        ("UPDATE stream_chunk SET key = 'other'", "stream_chunk"),
        ("UPDATE stream_chunk SET crc = crc + 1", "stream_chunk"),
        ("UPDATE stream_chunk SET is_numbered = 7", "stream_chunk"),
        ("UPDATE stream_position SET next_seq = 1", "stream_position"),
        ("UPDATE stream_position SET producer_pk = 99", "stream_position"),
        ("DELETE FROM task WHERE task_id = 'a'", "stream_chunk"),
    ],
)
def test_the_check_finds_what_was_changed(path: Path, statement: str, where: str) -> None:
    """By the checksums, of which the items have one of their own, or by what a row hangs on."""
    change(path, statement)
    assert any(finding.startswith(where) for finding in findings(path))


def forge(path: Path, column: str, value: object) -> None:
    """Change a column of the chunk at 2, and its checksum with it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        found = dict(connection.execute("SELECT * FROM stream_chunk WHERE first_seq = 2").fetchone())
        found[column] = value
        fields = tuple(found[name] for name in list(found)[:13])
        statement = f"UPDATE stream_chunk SET {column} = ?, crc = ? WHERE first_seq = 2"  # noqa: S608 - of a test only
        connection.execute(statement, (value, rows.checksum(fields)))
        connection.commit()


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("is_numbered", 7, "its columns are not as they are written"),
        ("size", 9, "its items have 5 bytes where 9 are noted"),
        ("count", 50, "its items can't be 50"),
    ],
)
def test_the_check_finds_rows_that_nobody_has_written(path: Path, column: str, value: object, what: str) -> None:
    """Though their checksums are right."""
    forge(path, column, value)
    assert any(what in finding for finding in findings(path))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE stream_chunk SET items = x'0100000039' WHERE first_seq = 2",
        "UPDATE stream_chunk SET count = 2 WHERE first_seq = 2",
        "UPDATE stream_position SET next_seq = 1",
    ],
)
async def test_what_was_changed_is_not_read(path: Path, statement: str) -> None:
    """It is an error, never another item."""
    change(path, statement)
    store, story = SqliteStore(path, read_only=True), Story()
    await store.open(now_us=0)
    query = StreamQuery(producer=story.key("a"), key="rows", consumer=story.key("b"), generation=1)
    with pytest.raises(StoreCorruptError):
        await store.stream(query)
    await store.close()


def test_a_chunk_is_found_by_the_primary_key(path: Path) -> None:
    """However long a stream is, a page costs what it holds."""
    with closing(sqlite3.connect(path)) as connection:
        for name in ("_LAST_CHUNK", "_FIRST_SEQ", "_CHUNKS", "_POSITION", "_TOTALS"):
            statement: str = getattr(streams, name)
            plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", [None] * statement.count("?")).fetchall()
            assert all(step[3].startswith("SEARCH") for step in plan), plan
