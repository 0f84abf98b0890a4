"""The check of a store: silent on what the library wrote, and telling of everything else, without ever quoting a value."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import random
import shutil
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import anyio
import pytest

from dagrelay.errors import StoreError
from dagrelay.model.records import ErrorRecord
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores import OUTSIDE, TASK_LIFETIME, SqliteStore, StoreCheck
from dagrelay.stores.sqlite import rows, schema
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY: Final = "a-canary-in-a-value"


async def _fill(path: Path) -> None:
    store, story, other = SqliteStore(path, synchronous="NORMAL"), Story(), Story("running")
    gone, outside, failed = Story("gone"), Story("outside"), Story("failed")
    mapped = Story("mapped")
    error = ErrorRecord(type="E", message="m")
    await store.open(now_us=0)
    results = await store.apply(
        [
            story.create("a", "b", tags=("t",), params=b'{"p": 1}'),
            story.finish("a", state=TaskState.UP_FOR_RETRY, error=error),
            story.start("a", 2),
            story.put("a", {"life": CANARY.encode()}, slot=TASK_LIFETIME, attempt=2),
            story.finish("a", 2, values={"k": CANARY.encode()}),
            story.mark("b", TaskState.UPSTREAM_FAILED),
            story.put("b", {"m": b"1"}),
            story.delete("b"),
            story.put("b", {"m": b"2"}),
            story.end(RunState.FAILED),
            story.reopen(story.key("b")),
            story.end(RunState.INTERRUPTED),
            gone.create("a"),
            gone.end(),
            gone.delete_run(),
            outside.put("a", {"k": b"1"}),
            outside.put("b", {"k": b"1"}),
            outside.delete("b"),
            failed.create("a", "b"),
            failed.finish("a", state=TaskState.FAILED, error=error),
            failed.end(RunState.CANCELLED),
            other.create("a", "c"),
            other.start("a"),
            mapped.create("d", "e", "f", "g"),
            mapped.start("d", length=2),
            mapped.finish("d", map_index=0, lineage="[]"),
            mapped.finish("d", map_index=1, state=TaskState.FAILED),
            mapped.finish("d", state=TaskState.FAILED),
            mapped.start("e", length=3),
            *(mapped.finish("e", map_index=index) for index in range(3)),
            mapped.finish("e"),
            mapped.finish("f", follows=("g",), lineage='["read"]'),
            mapped.end(RunState.FAILED),
            mapped.reopen(*(mapped.key("e", index) for index in (None, 0, 1, 2)), message_id="m"),
            # An expansion that is shorter than the one before leaves elements behind, pending.
            mapped.start("e", 2, length=1),
            mapped.finish("e", 2, map_index=0),
            mapped.wait("g", deadline_us=7),
            mapped.provide("g", CANARY.encode(), message_id="n"),
        ]
    )
    assert all(isinstance(result, int) for result in results)
    await store.close()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a store with each kind of row in it: runs in all states, a tombstone, entries of all slots, events of all kinds."""
    path = tmp_path_factory.mktemp("check") / "runs.db"
    anyio.run(_fill, path)
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    """Give a copy of that store to damage."""
    return Path(shutil.copy(original, tmp_path / "runs.db"))


def findings(path: Path) -> list[str]:
    """Check a database."""
    with StoreCheck(path) as check:
        return [str(finding) for finding in check.findings()]


def damage(path: Path, *statements: str) -> None:
    """Change a database behind the store's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_store_that_the_library_wrote_is_clean(path: Path) -> None:
    """All rows are looked at; runs that were interrupted, or running when their owner died, can be resumed."""
    with StoreCheck(path) as check:
        assert list(check.findings()) == []
        assert [(run.run_id, run.dag_id) for run in check.resumable()] == [("run", "dag"), ("running", "dag"), ("mapped", "dag")]
        assert check.schema_version == len(schema.MIGRATIONS)
    assert check.rows == {
        "owner": 1,
        "task": 7,
        "plan": 3,
        "run": 6,
        "instance": 13,
        "xcom": 5,
        "event": 22,
        "inbox": 2,
        "stream_chunk": 0,
        "stream_position": 0,
    }


@pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")
async def test_what_runs_under_an_owner_is_nothing_to_resume(path: Path) -> None:
    """The check works beside it, on one moment."""
    owner, story = SqliteStore(path, synchronous="NORMAL"), Story("mine")
    await owner.open(now_us=0)
    await owner.apply([story.create("a"), story.start("a")])
    with StoreCheck(path) as check:
        assert list(check.findings()) == []
        await owner.apply([story.finish("a"), story.end()])
        assert [run.run_id for run in check.resumable()] == ["run", "running", "mapped"]
        assert check.rows["run"] == 7
    await owner.close()


def test_the_check_changes_nothing(path: Path) -> None:
    """Byte for byte."""
    before = path.read_bytes()
    assert findings(path) == []
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE xcom SET value = x'00' WHERE key = 'k'", "xcom 1/1/-1/'k'/2: its value has 1 bytes where 19 are noted"),
        (
            "UPDATE xcom SET value = CAST('a-canary-in-a-walue' AS BLOB) WHERE slot = 2",
            "xcom 1/1/-1/'k'/2: its value does not match its checksum",
        ),
        ("UPDATE xcom SET seq = 77 WHERE slot = 2", "xcom 1/1/-1/'k'/2: a row of table 'xcom' does not match its checksum"),
        (
            "UPDATE xcom SET description = CAST(x'ff' AS TEXT) WHERE slot = 2",
            "xcom 1/1/-1/'k'/2: it can't be understood: UnicodeEncodeError",
        ),
        (
            "UPDATE instance SET state = 5 WHERE state = 2",
            "instance 5/1/-1: a row of table 'instance' does not match its checksum",
        ),
        ("UPDATE run SET dag_id = 'no' WHERE run_pk = 1", "run 1/'run': a row of table 'run' does not match its checksum"),
        ("UPDATE plan SET body = x'00' WHERE plan_pk = 1", "plan 1: a row of table 'plan' does not match its checksum"),
        ("UPDATE task SET crc = 0 WHERE task_pk = 3", "task 3: a row of table 'task' does not match its checksum"),
        ("UPDATE event SET time_us = 0 WHERE run_pk = 3", "event 3/3: a row of table 'event' does not match its checksum"),
        ("DELETE FROM task WHERE task_pk = 3", "plan 2: its task 'c' is missing"),
        ("DELETE FROM plan WHERE plan_pk = 2", "run: what it refers to in table 'plan' is missing"),
        ("DELETE FROM run WHERE run_pk = 3", "xcom 3/1/-1/'k'/0: its run is missing"),
        (
            "UPDATE inbox SET result = 'no' WHERE message_id = 'm'",
            "inbox 'm': a row of table 'inbox' does not match its checksum",
        ),
        (
            "UPDATE instance SET lineage = NULL WHERE lineage IS NOT NULL",
            "instance 6/6/-1: a row of table 'instance' does not match its checksum",
        ),
        (
            "UPDATE instance SET lineage = NULL WHERE lineage = '[]'",
            "instance 6/4/0: a row of table 'instance' does not match its checksum",
        ),
        ("DELETE FROM instance WHERE length = 2", "instance 6/4/1: it is an element of a task that was never expanded"),
        ("DELETE FROM owner", "owner: it has 0 rows and the epoch None"),
        ("UPDATE owner SET epoch = -1", "owner: it has 1 rows and the epoch -1"),
        ("CREATE TABLE more (a)", "schema 'more': it is none of ours"),
        ("DROP INDEX run_by_end", "schema 'run_by_end': it is missing"),
        ("ALTER TABLE event ADD COLUMN more TEXT", "schema 'event': it was changed"),
        ("DROP TABLE event", "event: it can't be read to its end: no such table: event"),
        ("PRAGMA user_version = 999", "file: a newer version of dagrelay wrote it (schema 999, this one knows 2)"),
        ("PRAGMA application_id = 7", "file: it is a SQLite database of another application"),
    ],
)
def test_damage_is_told(path: Path, statement: str, told: str) -> None:
    """In a line that names the row and no value."""
    damage(path, "PRAGMA foreign_keys = off", statement)
    found = findings(path)
    assert any(each == told or (told.startswith("run: ") and each.endswith(told[5:])) for each in found)
    assert CANARY not in "".join(found)


# -------------------------------------------------------------------------------------------------- what nobody wrote


def forge(path: Path, table: str, where: str, change: dict[int, Any]) -> None:
    """Change fields of a row, by their places, and make its checksum right again."""
    questions = {
        "run": ("SELECT * FROM run WHERE ", "UPDATE run SET {} WHERE "),
        "instance": ("SELECT * FROM instance WHERE ", "UPDATE instance SET {} WHERE "),
        "xcom": ("SELECT * FROM xcom WHERE ", "UPDATE xcom SET {} WHERE "),
        "event": ("SELECT * FROM event WHERE ", "UPDATE event SET {} WHERE "),
        "plan": ("SELECT * FROM plan WHERE ", "UPDATE plan SET {} WHERE "),
    }
    select, update = questions[table]
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = on")
        cursor = connection.execute(select + where)
        names = [column[0] for column in cursor.description]
        found = list(cursor.fetchone())
        for place, value in change.items():
            found[place] = value
        found[names.index("crc")] = _checksum(table, names, found)
        connection.execute(update.format(", ".join(f"{name} = ?" for name in names)) + where, found)


def _checksum(table: str, names: list[str], found: list[Any]) -> int:
    place = names.index("crc")
    fields = tuple(found[:place])
    kinds: dict[str, Callable[[], int]] = {
        "run": lambda: rows.checksum((*fields, crc32(found[place + 1]))),
        "plan": lambda: rows.checksum((*fields, crc32(found[place + 1]))),
        "event": lambda: rows.checksum(fields),
        "instance": lambda: rows.instance_checksum(fields, tuple(found[place + 1 :])),
        "xcom": lambda: rows._entry_checksum(fields),
    }
    return kinds[table]()


RUN, TOMBSTONE, HOLDER, LIVE = "run_pk = 1", "run_pk = 2", "run_pk = 3", "run_pk = 5"
MAPPED, ELEMENT, WAITING, BRANCH = "length = 2", "task_pk = 4 AND map_index = 1", "state = 3", "follows IS NOT NULL"


@pytest.mark.parametrize(
    ("table", "where", "change", "told"),
    [
        ("run", RUN, {3: 77}, "KeyError"),
        ("run", RUN, {3: 0}, "a run that is running can't have ended_us"),
        ("run", RUN, {8: None}, "a run that is interrupted can't have ended_us=None"),
        ("run", RUN, {10: None}, "and end_seq=None"),
        ("run", RUN, {10: 1}, "are out of order"),
        ("run", RUN, {9: 0}, "are out of order"),
        ("run", RUN, {13: b"[1]"}, "its params are no JSON object"),
        ("run", RUN, {13: b"{"}, "its params are no JSON object"),
        ("run", RUN, {11: None}, "it has no plan"),
        ("run", RUN, {5: '[ "t"]'}, "not as they are written"),
        ("run", RUN, {5: "{"}, "it can't be understood: JSONDecodeError"),
        ("run", LIVE, {4: 1}, "it was pruned while it was running"),
        ("run", TOMBSTONE, {5: '["t"]'}, "kept more than its name"),
        ("run", TOMBSTONE, {13: b'{"p": 1}'}, "kept more than its name"),
        ("run", HOLDER, {3: 1}, "not as they are written"),
        ("run", RUN, {4: 1}, "its run was pruned"),
        ("run", RUN, {2: None}, "its run id is no run's"),
        ("instance", LIVE, {3: 77}, "KeyError"),
        ("instance", LIVE, {3: 1}, "state queued is never stored"),
        ("instance", WAITING, {4: 0}, "it is waiting without an attempt"),
        ("instance", WAITING, {6: 5}, "it is waiting, and has ended or was never started"),
        ("instance", WAITING, {16: "[]"}, "it is waiting, and has decided or read already"),
        ("instance", LIVE, {15: "[]"}, "it is running, and has decided or read already"),
        ("instance", MAPPED, {14: 1}, "it is an element of a task of length 1"),
        ("instance", MAPPED, {14: None}, "it is an element of a task of length 0"),
        ("instance", MAPPED, {14: -1}, "it can't have length=-1"),
        ("instance", ELEMENT, {14: 1}, "it can't have length=1"),
        ("instance", ELEMENT, {2: 2}, "it is an element of a task of length 2"),
        ("instance", BRANCH, {15: '["g" ]'}, "not as they are written"),
        ("instance", BRANCH, {15: "[7]"}, "it can't be understood: ValueError"),
        ("instance", BRANCH, {15: "{"}, "it can't be understood: JSONDecodeError"),
        ("instance", BRANCH, {16: "{"}, "its lineage is no JSON"),
        ("instance", "task_pk = 5 AND map_index = 2", {14: 1}, "it is pending, and keeps something of an attempt"),
        ("instance", LIVE, {3: 5}, "it is success, and never ended"),
        ("instance", LIVE, {3: 10}, "it is interrupted, and never ended"),
        ("instance", LIVE, {3: 0}, "it is pending, and keeps something of an attempt"),
        ("instance", LIVE, {6: 5}, "it is running, and has ended or was never started"),
        ("instance", LIVE, {7: None}, "it is running, and has ended or was never started"),
        ("instance", LIVE, {4: 0}, "it is running without an attempt"),
        ("instance", LIVE, {5: None}, "attempt 1 can't have started_us=None"),
        ("instance", LIVE, {8: 0, 7: 0}, "are out of order"),
        ("instance", LIVE, {7: 9}, "are out of order"),
        ("instance", LIVE, {10: -1}, "are negative"),
        ("instance", LIVE, {11: -1}, "are negative"),
        ("instance", "state = 6 AND run_pk = 4", {9: '["E",  "m", ""]'}, "not as they are written"),
        ("instance", LIVE, {1: 99}, "its task is missing"),
        ("xcom", "slot = 2", {5: 3}, "attempt 3 can't have written to slot 2"),
        ("xcom", "slot = -1", {5: 0}, "attempt 0 can't have written to slot -1"),
        ("xcom", f"slot = {OUTSIDE} AND run_pk = 1", {5: 1}, "attempt 1 can't have written to slot 0"),
        ("xcom", "slot = 2", {6: 0}, "its place seq=0 is none"),
        ("xcom", "slot = 2", {8: 7}, "its value has 19 bytes where 7 are noted"),
        ("xcom", "slot = 2", {10: 2}, "not as they are written"),
        ("event", "kind = 1 AND run_pk = 1", {2: 5}, "it can't be understood"),
        ("event", "kind = 1 AND run_pk = 1", {6: 1}, "not as they are written"),
        ("event", "kind = 3 AND state = 4", {7: 77}, "it can't be understood"),
        ("event", "kind = 4 AND run_pk = 1", {9: 0}, "the deletion of nothing"),
        ("event", "kind = 1 AND run_pk = 1", {1: 0}, "its place seq=0 is none"),
        ("event", "kind = 4 AND run_pk = 1", {0: 2}, "its run was pruned"),
        ("event", "kind = 3 AND state = 4", {0: 3, 1: 50}, "its run id is no run's"),
        ("plan", "plan_pk = 1", {2: '["no"]'}, "its task 'no' is missing"),
        ("plan", "plan_pk = 1", {2: "[7]"}, "it can't be understood: ValueError"),
    ],
)
def test_what_nobody_can_have_written_is_told(path: Path, table: str, where: str, change: dict[int, Any], told: str) -> None:
    """Although each checksum is right."""
    damage(path, "PRAGMA ignore_check_constraints = on")
    forge(path, table, where, change)
    found = findings(path)
    assert any(told in each for each in found), found
    assert not any("checksum" in each for each in found)


# -------------------------------------------------------------------------------------------------- files, sizes, uses


def test_a_large_value_is_read_piece_by_piece(path: Path) -> None:
    """Whatever size somebody gave it."""
    damage(path, "UPDATE xcom SET value = zeroblob(80000000) WHERE slot = 2")
    tracemalloc.start()
    found = findings(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 2
    assert peak < 8_000_000


def test_a_cell_that_is_too_long_is_told(path: Path) -> None:
    """It is not read; the name of a long key is cut."""
    damage(path, "UPDATE run SET params = zeroblob(70000000) WHERE run_pk = 1")
    assert findings(path) == ["run: it can't be read to its end: string or blob too big"]
    damage(path, "UPDATE xcom SET key = replace(hex(zeroblob(200)), '0', 'k') WHERE slot = 2")
    (cut,) = [each for each in findings(path) if each.startswith("xcom")]
    assert len(cut) < 300


@pytest.mark.parametrize("content", [b"", b"Dear diary, " * 1000])
def test_a_file_that_is_no_store_is_told(tmp_path: Path, content: bytes) -> None:
    """An empty one is a store in which nothing is yet."""
    path = tmp_path / "diary.db"
    path.write_bytes(content)
    assert findings(path) == (["file: it is no SQLite database"] if content else [])
    assert path.read_bytes() == content


def test_a_file_that_is_cut_off_is_told(path: Path) -> None:
    """By SQLite."""
    path.write_bytes(path.read_bytes()[:9000])
    assert findings(path)


def test_a_file_that_is_not_there_can_not_be_checked(tmp_path: Path) -> None:
    """Nothing is made."""
    with pytest.raises(StoreError), StoreCheck(tmp_path / "none.db"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_somebody_keeps_to_himself_is_no_finding(path: Path) -> None:
    """It is told as an error: nothing can be said of it now."""
    with closing(sqlite3.connect(path, isolation_level=None)) as owner:
        owner.execute("PRAGMA locking_mode = exclusive")
        owner.execute("BEGIN IMMEDIATE")
        with StoreCheck(path) as check, pytest.raises(StoreError, match="locked"):
            list(check.findings())


def test_an_old_sqlite_checks_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing stays open."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 36, 0))
    with pytest.raises(StoreError, match="too old"), StoreCheck(path):
        pass


def test_what_can_not_be_read_is_told_and_the_rest_goes_on(path: Path) -> None:
    """Here SQLite is told to refuse to look at the pages and at task ids."""

    def refuse(_action: int, what: str | None, which: str | None, *_: object) -> int:
        is_refused = what == "integrity_check" or (what, which) == ("task", "task_id")
        return sqlite3.SQLITE_DENY if is_refused else sqlite3.SQLITE_OK

    damage(path, "UPDATE run SET crc = 0 WHERE run_pk = 1")
    with StoreCheck(path) as check:
        assert check._connection is not None
        check._connection.set_authorizer(refuse)
        found = [str(finding) for finding in check.findings()]
    assert [each.partition(": ")[0] for each in found] == ["file", "task", "plan 1", "plan 2", "plan 3", "run 1/'run'"]


def test_a_check_is_used_inside_with(tmp_path: Path) -> None:
    """The error says so."""
    with pytest.raises(StoreError, match="inside `with"):
        next(StoreCheck(tmp_path / "runs.db").findings())


def test_flipped_bits_are_told_or_change_nothing(path: Path, is_full: bool) -> None:
    """No flip anywhere in the file makes the check fail otherwise than by a finding."""
    whole, dice, told = path.read_bytes(), random.Random(19), 0
    count = 2_000 if is_full else 60
    for _ in range(count):
        place = dice.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with StoreCheck(path) as check:
            told += any(True for _ in check.findings())
            list(check.resumable())
    assert told > 0
