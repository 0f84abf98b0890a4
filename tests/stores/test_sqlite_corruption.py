"""Damage is told, never handed on: each row that is read is checked against what was written."""

from __future__ import annotations

import random
import sqlite3
from typing import TYPE_CHECKING, Any, Final

import pytest

from dagrelay.errors import StoreCorruptError, StoreError
from dagrelay.model.records import ErrorRecord
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores import Lookup, RunQuery, SqliteStore
from dagrelay.stores.sqlite import rows
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def fill(path: Path) -> Story:
    """Write a store with a row of each kind."""
    store, story = SqliteStore(path), Story()
    await store.open(now_us=0)
    await store.apply(
        [
            story.create("a", "b", "c", "d", tags=("t",), params=b'{"p": 1}'),
            story.finish("a", state=TaskState.UP_FOR_RETRY, error=ErrorRecord(type="E", message="m")),
            story.finish("a", 2, values={"k": b"value of k", "l": b"value of l"}),
            story.finish("b", state=TaskState.FAILED, error=ErrorRecord(type="E", message="m")),
            story.put("b", {"m": b"value of m"}),
            story.delete("b"),
            story.start("c", length=6),
            *(story.finish("c", map_index=index, values={"e": b"element"}, lineage='["read"]') for index in range(6)),
            story.finish("c"),
            story.finish("d", follows=("a",)),
            story.note("message"),
            story.end(RunState.FAILED),
            story.reopen(),
            story.end(RunState.FAILED),
        ]
    )
    await store.close()
    return story


async def everything(store: SqliteStore) -> list[Any]:
    """Ask every question there is."""
    story = Story()
    return [
        await store.find_run("run"),
        await store.find_runs(RunQuery(tags=("t",))),
        await store.load_run("run"),
        await store.instances("run"),
        await store.lookup([Lookup(instance=story.key("a"), key=key) for key in "kl"]),
        await store.lookup([Lookup(instance=story.key("c", index), key="e") for index in range(6)]),
        await store.message("message"),
        await store.entries("run", with_values=True, all_attempts=True),
        await store.events("run"),
    ]


def damage(path: Path, statement: str) -> None:
    """Change a row behind the store's back."""
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(statement).rowcount > 0
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE xcom SET value = x'00' WHERE key = 'k'",
        "UPDATE xcom SET value = CAST('value of l' AS BLOB) WHERE key = 'k'",
        "UPDATE xcom SET key = 'm' WHERE key = 'k'",
        "UPDATE xcom SET slot = 0 WHERE key = 'k'",
        "UPDATE xcom SET map_index = 0 WHERE key = 'k'",
        "UPDATE xcom SET run_pk = 1, task_pk = 2 WHERE key = 'k'",
        "UPDATE xcom SET size = 7 WHERE key = 'k'",
        "UPDATE xcom SET serializer = 'pickle' WHERE key = 'k'",
        "UPDATE xcom SET sensitive = 1 WHERE key = 'k'",
        "UPDATE xcom SET description = 'no' WHERE key = 'k'",
        "UPDATE xcom SET value_crc = 0 WHERE key = 'k'",
        "UPDATE xcom SET crc = 0 WHERE key = 'k'",
        "UPDATE xcom SET value = zeroblob(10000000) WHERE key = 'k'",
        "UPDATE instance SET state = 77 WHERE task_pk = 1",
        "UPDATE instance SET state = 5 WHERE task_pk = 2",
        "UPDATE instance SET attempt = 9 WHERE task_pk = 1",
        "UPDATE instance SET map_index = 9 WHERE task_pk = 1",
        "UPDATE instance SET error = 'bad JSON' WHERE task_pk = 2",
        "UPDATE instance SET length = 7 WHERE length = 6",
        "UPDATE instance SET length = NULL WHERE length = 6",
        "UPDATE instance SET follows = '[]' WHERE task_pk = 4",
        "UPDATE instance SET follows = NULL WHERE task_pk = 4",
        "UPDATE instance SET lineage = '[]' WHERE map_index = 3",
        "UPDATE instance SET lineage = NULL WHERE map_index = 3",
        "UPDATE instance SET lineage = '[]' WHERE task_pk = 1",
        "UPDATE xcom SET value = x'00' WHERE map_index = 3",
        "UPDATE xcom SET map_index = 9 WHERE map_index = 3",
        "UPDATE inbox SET result = 'no'",
        "UPDATE inbox SET at_us = 0",
        "UPDATE run SET state = 77",
        "UPDATE run SET run_id = 'other'",
        "UPDATE run SET params = CAST('{\"p\": 2}' AS BLOB)",
        'UPDATE run SET tags = \'["t", "u"]\'',
        "UPDATE plan SET body = x'00'",
        "UPDATE plan SET task_ids = '[]'",
        "DELETE FROM plan",
        "UPDATE task SET task_id = 'x' WHERE task_pk = 2",
        "DELETE FROM task WHERE task_pk = 2",
        "UPDATE event SET state = 77 WHERE kind = 3",
        "UPDATE event SET kind = 1 WHERE kind = 3",
        "UPDATE event SET time_us = 0",
    ],
)
async def test_a_changed_row_is_told(tmp_path: Path, statement: str) -> None:
    """Whichever column of whichever table it is: StoreCorruptError, or the row is not found under its name any more."""
    path = tmp_path / "runs.db"
    await fill(path)
    damage(path, statement)
    store = SqliteStore(path, read_only=True)
    await store.open(now_us=0)
    if "run_id = 'other'" in statement:
        with pytest.raises(StoreCorruptError):
            await store.find_run("other")
    else:
        with pytest.raises(StoreCorruptError):
            await everything(store)
    await store.close()


_FIELDS: Final = (1, 1, -1, 77, 1, 1, 2, 1, 2, None, 0, 0, None)
_ADDED_TO: Final = (1, 1, -1, 5, 1, 1, 2, 1, 2, None, 0, 0, None)
_ADDED: Final = (None, None, None)


@pytest.mark.parametrize(
    ("decode", "found", "reason"),
    [
        (rows.decode_instance, (*_FIELDS, rows.instance_checksum(_FIELDS), *_ADDED), "can't be understood: KeyError"),
        (rows.decode_instance, (*_FIELDS, 0, *_ADDED), "does not match its checksum"),
        (
            rows.decode_instance,
            (*_ADDED_TO, rows.instance_checksum(_ADDED_TO, (1, "{}", None)), 1, "{}", None),
            "no list of texts",
        ),
        (rows.decode_task, (1, "a", 0), "does not match its checksum"),
    ],
)
def test_a_row_that_checks_but_makes_no_sense_is_told(
    decode: Callable[[str, Any], Any], found: tuple[Any, ...], reason: str
) -> None:
    """Somebody edited a row, and perhaps its checksum."""
    with pytest.raises(StoreCorruptError, match=reason):
        decode("x.db", found)


async def test_an_event_that_its_row_does_not_tell_is_damage(tmp_path: Path) -> None:
    """Here a run with a place for its end and no time of it, under a right checksum."""
    path = tmp_path / "runs.db"
    await fill(path)
    connection = sqlite3.connect(path, isolation_level=None)
    (found,) = connection.execute(rows.SELECT_RUN + "run_id = 'run'").fetchall()
    fields = rows.decode_run("x.db", found)
    assert fields.row is not None
    encoded = rows.encode_run(fields._replace(row=fields.row._replace(ended_us=None)))
    connection.execute("UPDATE run SET ended_us = NULL, crc = ?", (encoded[-2],))
    connection.close()
    store = SqliteStore(path, read_only=True)
    await store.open(now_us=0)
    with pytest.raises(StoreCorruptError, match="can't be told"):
        await store.events("run")
    await store.close()


async def test_params_that_check_but_are_no_json_are_told(tmp_path: Path) -> None:
    """They are parsed for each record."""
    store = SqliteStore(tmp_path / "runs.db")
    await store.open(now_us=0)
    await store.apply([Story().create("a", params=b"{")])
    for question in (store.find_run("run"), store.load_run("run"), store.find_runs(RunQuery())):
        with pytest.raises(StoreCorruptError):
            await question
    await store.close()


async def test_a_damaged_row_found_at_the_opening_is_told(tmp_path: Path) -> None:
    """What ran can't be marked as interrupted by a row that is not what was written."""
    path = tmp_path / "runs.db"
    store, story = SqliteStore(path), Story()
    await store.open(now_us=0)
    await store.apply([story.create("a"), story.start("a")])
    await store.close()
    damage(path, "DELETE FROM task")
    with pytest.raises(StoreCorruptError):
        await store.open(now_us=0)


async def test_flipped_bits_give_no_wrong_value(tmp_path: Path, is_full: bool) -> None:
    """Of random single bits of the file each is told, or changes no value and no state that is read."""
    original, path = tmp_path / "original.db", tmp_path / "runs.db"
    await fill(original)
    whole = original.read_bytes()
    store = SqliteStore(original, read_only=True)
    await store.open(now_us=0)
    expected = await everything(store)
    await store.close()
    dice = random.Random(19)
    told = 0
    for _ in range(400 if is_full else 60):
        place = dice.randrange(len(whole) * 8)
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        store = SqliteStore(path, read_only=True)
        try:
            await store.open(now_us=0)
            answers = await everything(store)
        except StoreError:
            told += 1
        else:
            assert_nothing_wrong(answers, expected)
        await store.close()
    assert told > 0


def assert_nothing_wrong(answers: list[Any], expected: list[Any]) -> None:
    """Check that what is there is what was written; a row may be missing, as an index may have lost it."""
    for value, right in zip(answers[4], expected[4], strict=True):
        assert value in (None, right)
    for answer, right in ((answers[3], expected[3]), (answers[5], expected[5]), (answers[6], expected[6])):
        assert all(each in right for each in answer)
    assert answers[0] in (None, expected[0])
