"""Every write of a state by a store under test is judged by the transition tables, and these tests see the judge say no."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay.errors import StoreError
from dagrelay.model.states import RUN_TRANSITIONS, TASK_TRANSITIONS, RunState, TaskState
from dagrelay.stores import SqliteStore, rules
from dagrelay.stores.sqlite import schema
from dagrelay.stores.sqlite.rows import RUN_STATE_CODES, TASK_STATE_CODES
from dagrelay.testing.story import Story
from tests.legality import install

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay.stores.operations import MarkInstance
    from dagrelay.stores.rules import InstanceRow

_NEW_INSTANCE = "INSERT INTO instance VALUES (1, 1, -1, ?, ?, 0, 0, NULL, 1, NULL, 0, 0, NULL, 0, NULL, NULL, NULL)"
_NEW_RUN = "INSERT INTO run VALUES (1, 'r', 'd', ?, 0, '[]', 0, 0, 0, 1, 2, NULL, 0, x'7b7d')"


def database(statement: str = "SELECT ?, ?", *values: Any) -> sqlite3.Connection:
    """Return a database with one row, judged from now on."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.migrate(connection)
    connection.execute(statement, values or (0, 0))
    assert install(connection)
    return connection


def is_refused(connection: sqlite3.Connection, statement: str, *values: Any) -> bool:
    """Tell whether the judge refuses a statement, and undo it."""
    connection.execute("SAVEPOINT before")
    try:
        connection.execute(statement, values)
    except sqlite3.IntegrityError as error:
        return str(error).startswith("illegal: ")
    else:
        return False
    finally:
        connection.execute("ROLLBACK TO before")


@pytest.mark.parametrize("old", list(TaskState))
def test_an_attempt_changes_by_the_table_only(old: TaskState) -> None:
    """Each pair of states that the table lacks is refused, and no other."""
    with closing(database(_NEW_INSTANCE, TASK_STATE_CODES[old], 3)) as connection:
        refused = {new for new in TaskState if is_refused(connection, "UPDATE instance SET state = ?", TASK_STATE_CODES[new])}
    assert refused == set(TaskState) - TASK_TRANSITIONS[old] - {old}


@pytest.mark.parametrize("old", list(TaskState))
def test_a_next_attempt_follows_only_where_one_may(old: TaskState) -> None:
    """Not after an end that nobody cleared; and an attempt's number never falls."""
    may = old in {TaskState.PENDING, TaskState.UP_FOR_RETRY, TaskState.INTERRUPTED, *_RUNNING}
    with closing(database(_NEW_INSTANCE, TASK_STATE_CODES[old], 3)) as connection:
        statement = "UPDATE instance SET attempt = 4, state = ?"
        allowed = {new for new in TaskState if not is_refused(connection, statement, TASK_STATE_CODES[new])}
        assert is_refused(connection, "UPDATE instance SET attempt = 2")
    outcomes = TASK_TRANSITIONS[TaskState.RUNNING] | {TaskState.RUNNING}
    assert allowed == (outcomes if may else set())


_RUNNING = (TaskState.QUEUED, TaskState.RUNNING, TaskState.WAITING)


def test_a_new_instance_is_an_attempt_or_a_mark() -> None:
    """Pending and queued ones are never written; without an attempt only marks are."""
    with closing(database()) as connection:
        attempts, marks = (
            {new for new in TaskState if not is_refused(connection, _NEW_INSTANCE, TASK_STATE_CODES[new], attempt)}
            for attempt in (1, 0)
        )
    assert not attempts & {TaskState.PENDING, TaskState.QUEUED, TaskState.UPSTREAM_FAILED}
    assert marks == {TaskState.SKIPPED, TaskState.UPSTREAM_FAILED, TaskState.CANCELLED, TaskState.FAILED}


@pytest.mark.parametrize("copied", [TaskState.UPSTREAM_FAILED, TaskState.INTERRUPTED])
def test_a_new_instance_may_be_the_copy_of_one_that_ended(copied: TaskState) -> None:
    """Of the same attempt, at the same times."""
    statement = "INSERT INTO instance VALUES (?, 1, -1, ?, 3, 0, ?, NULL, 1, NULL, 0, 0, NULL, 0, NULL, NULL, NULL)"
    state = TASK_STATE_CODES[copied]
    with closing(database(statement, 1, state, 7)) as connection:
        assert is_refused(connection, statement, 2, state, 8) == (copied is TaskState.UPSTREAM_FAILED)
        assert not is_refused(connection, statement, 2, state, 7)


@pytest.mark.parametrize("old", list(RunState))
def test_a_run_changes_by_the_table_only(old: RunState) -> None:
    """Each pair of states that the table lacks is refused, and no other; a new run is running, and a tombstone stays."""
    with closing(database(_NEW_RUN, RUN_STATE_CODES[old])) as connection:
        refused = {new for new in RunState if is_refused(connection, "UPDATE run SET state = ?", RUN_STATE_CODES[new])}
        assert is_refused(connection, "UPDATE run SET is_pruned = 1") == (old is RunState.RUNNING)
        connection.execute("DELETE FROM run")
        assert is_refused(connection, _NEW_RUN, RUN_STATE_CODES[old]) == (old is not RunState.RUNNING)
    assert refused == set(RunState) - RUN_TRANSITIONS[old] - {old}


async def test_the_stores_of_all_tests_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the rules forget to ask whether an instance has ended; the file keeps no trace of the judge."""
    path, story = tmp_path / "runs.db", Story()
    store = SqliteStore(path, synchronous="NORMAL")
    await store.open(now_us=0)

    def lenient(row: InstanceRow | None, op: MarkInstance) -> InstanceRow:
        assert row is not None
        return row._replace(state=op.state)

    monkeypatch.setattr(rules, "marked", lenient)
    results = await store.apply([story.create("a"), story.finish("a")])
    assert results == [1, 1]
    (refusal,) = await store.apply([story.mark("a")])
    assert isinstance(refusal, StoreError)
    assert isinstance(refusal.__cause__, sqlite3.IntegrityError)
    assert "illegal: an instance" in str(refusal)
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetchone() == (0,)
