"""What the store does when SQLite fails: roll back, tell apart who is to blame, and never say "done" of what is not."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Self

import anyio
import pytest

from dagrelay.errors import (
    DagrelayError,
    RunIdConflictError,
    StaleAttemptError,
    StaleOwnerError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreReadOnlyError,
    StoreVanishedError,
)
from dagrelay.stores import Lookup, SqliteStore
from dagrelay.stores.sqlite import changes, forks, reads
from dagrelay.stores.sqlite import store as store_module
from dagrelay.stores.sqlite.driver import UnitConnection
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from dagrelay.stores import Operation


def sqlite_error(code: int) -> sqlite3.Error:
    """Return an error as sqlite3 raises it."""
    error = sqlite3.OperationalError(f"planted error {code}")
    error.sqlite_errorcode = code
    return error


class FaultyCursor(sqlite3.Cursor):
    """Fails where its connection is told to."""

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """Execute SQL, or fail."""
        FaultyConnection.meet(self.connection, sql, parameters)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Self:
        """Execute SQL many times, or fail."""
        FaultyConnection.meet(self.connection, sql, parameters)
        return super().executemany(sql, parameters)


class FaultyConnection(UnitConnection):
    """Fails as the test says by `fault`, which is asked before each statement and told what it is about."""

    fault: ClassVar[Callable[[sqlite3.Connection, str, Any], None] | None] = None

    @staticmethod
    def meet(connection: sqlite3.Connection, sql: str, parameters: Any) -> None:
        """Ask for a fault."""
        if FaultyConnection.fault is not None:
            FaultyConnection.fault(connection, sql, parameters)

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Execute SQL or a unit, or fail."""
        FaultyConnection.meet(self, sql, parameters)
        return super().execute(sql, parameters)

    def cursor(self, factory: Any = FaultyCursor) -> Any:
        """Return a cursor that fails likewise."""
        return super().cursor(factory)


def fail_on(start: str, code: int, *, times: int = 1, loses: bool = False, about: str = "") -> list[str]:
    """Make statements that begin with `start` and whose parameters tell `about` fail so often; return the list of failures.

    With `loses` SQLite rolls the transaction back by itself, as it does after many errors.
    """
    failed: list[str] = []

    def fault(connection: sqlite3.Connection, sql: str, parameters: Any) -> None:
        if sql.startswith(start) and about in repr(parameters) and len(failed) < times:
            failed.append(sql)
            if loses:
                sqlite3.Connection.execute(connection, "ROLLBACK")
            raise sqlite_error(code)

    FaultyConnection.fault = fault
    return failed


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Give an open store whose connections can be made to fail."""
    store = SqliteStore(tmp_path / "runs.db")
    store._factory = FaultyConnection
    await store.open(now_us=0)
    yield store
    FaultyConnection.fault = None
    await store.close()


async def value_of(store: SqliteStore, story: Story, task_id: str, key: str = "k") -> bytes | None:
    """Return the bytes of one value, in whatever slot."""
    (found,) = await store.lookup([Lookup(instance=story.key(task_id), key=key, slots=(1, 0))])
    return None if found is None else found.value


async def in_transaction(store: SqliteStore) -> bool:
    """Tell whether the writing connection was left in a transaction."""
    assert store._writing is not None
    return await store._writing.run(lambda connection: connection.in_transaction)


# -------------------------------------------------------------------------------------------------- within a batch


@pytest.mark.parametrize("loses", [False, True])
async def test_a_passing_error_is_overcome(store: SqliteStore, *, loses: bool) -> None:
    """A batch that failed once is applied again, whole."""
    story = Story()
    failed = fail_on("INSERT INTO xcom", sqlite3.SQLITE_IOERR, loses=loses)
    results = await store.apply([story.create("a", "b"), story.finish("a", values={"k": b"1"}), story.finish("b"), story.end()])
    assert failed
    assert results == [1, 1, 1, 1]
    assert store.statistics().replays == 1
    assert await value_of(store, story, "a") == b"1"
    assert not await in_transaction(store)


@pytest.mark.parametrize("loses", [False, True])
async def test_a_member_that_fails_stops_its_run_only(store: SqliteStore, *, loses: bool) -> None:
    """What came before it is stored, later members of its run get its error untried, and other runs go on."""
    bad, good = Story("bad"), Story("good")
    assert await store.apply([bad.create("a", "b", "c"), good.create("a", "b")]) == [1, 1]
    fail_on("INSERT INTO xcom", sqlite3.SQLITE_IOERR, times=9, loses=loses, about="poison")
    results = await store.apply(
        [
            bad.finish("a", values={"k": b"1"}),
            good.finish("a", values={"k": b"2"}),
            bad.finish("b", values={"k": b"poison"}),
            good.finish("b", values={"k": b"3"}),
            bad.finish("c", values={"k": b"4"}),
            good.end(),
            bad.end(),
        ]
    )
    error = results[2]
    assert isinstance(error, StoreError)
    assert isinstance(error.__cause__, sqlite3.OperationalError)
    assert results == [1, 1, error, 1, error, 1, error]
    assert [await value_of(store, bad, task) for task in "abc"] == [b"1", None, None]
    assert [await value_of(store, good, task) for task in "ab"] == [b"2", b"3"]
    assert [found.instance.task_id for found in await store.instances("bad")] == ["a"]
    assert not await in_transaction(store)


async def test_several_runs_may_fail_in_one_batch(store: SqliteStore) -> None:
    """Each stops at its own first failure, even when SQLite drops the transaction each time."""
    stories = [Story(f"run{number}") for number in range(4)]
    await store.apply([story.create("a", "b") for story in stories])
    fail_on("INSERT INTO xcom", sqlite3.SQLITE_IOERR, times=99, loses=True, about="poison")
    batch = [
        story.finish(task, values={"k": b"poison" if story.run_id in ("run1", "run3") and task == "b" else b"fine"})
        for task in "ab"
        for story in stories
    ]
    results = await store.apply(batch)
    assert [isinstance(result, StoreError) for result in results] == [False] * 4 + [False, True, False, True]
    assert [await value_of(store, story, "b") for story in stories] == [b"fine", None, b"fine", None]


async def test_refusals_stay_refusals_when_a_batch_is_applied_again(store: SqliteStore) -> None:
    """A replay judges each member as the first try would have."""
    story = Story()
    fail_on("INSERT INTO xcom", sqlite3.SQLITE_IOERR)
    results = await store.apply([story.create("a"), story.create("a"), story.finish("a", values={"k": b"1"}), story.prune(5)])
    assert [type(result) for result in results] == [int, RunIdConflictError, int, int]


async def test_pruning_that_fails_stops_no_run(store: SqliteStore) -> None:
    """It belongs to none."""
    story = Story()
    await store.apply([story.create("a"), story.end()])
    fail_on("DELETE FROM xcom", sqlite3.SQLITE_IOERR, times=9)
    results = await store.apply([story.prune(0), story.reopen(), story.end()])
    assert isinstance(results[0], StoreError)
    assert results[1:] == [1, 1]


async def test_a_value_that_can_not_be_bound_fails_its_member_only(store: SqliteStore) -> None:
    """Here a number SQLite has no room for."""
    story, other = Story(), Story("other")
    huge = story.create("a", created_us=2**70)
    results = await store.apply([huge, other.create("a")])
    assert isinstance(results[0], StoreError)
    assert isinstance(results[0].__cause__, OverflowError)
    assert results[1] == 1


async def test_a_damaged_row_fails_its_member_only(store: SqliteStore) -> None:
    """An operation can't be judged by a row that is not what was written."""
    story, other = Story(), Story("other")
    await store.apply([story.create("a"), other.create("a"), story.start("a"), other.start("a")])
    assert store._writing is not None
    await store._writing.run(lambda connection: connection.execute("UPDATE instance SET attempt = 7 WHERE run_pk = 1"))
    results = await store.apply([story.finish("a"), other.finish("a")])
    assert isinstance(results[0], StoreCorruptError)
    assert results[1] == 1


async def test_a_full_disk_refuses_what_does_not_fit(store: SqliteStore) -> None:
    """Whatever still fits is stored, and the store goes on when there is room."""
    big, small = Story("big"), Story("small")
    await store.apply([big.create("a", "b"), small.create("a")])
    assert store._writing is not None
    pages = await store._writing.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await store._writing.run(lambda connection: connection.execute(f"PRAGMA max_page_count = {pages + 5}"))
    op = big.finish("a", values={"k": b"x" * 1_000_000})
    results = await store.apply([op, small.finish("a", values={"k": b"1"}), big.finish("b")])
    assert isinstance(results[0], StoreFullError)
    assert results == [results[0], 1, results[0]]
    await store._writing.run(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    assert await store.apply([op]) == [1]
    assert await value_of(store, small, "a") == b"1"


# -------------------------------------------------------------------------------------------------- the commit


async def test_a_commit_that_failed_but_committed_counts(store: SqliteStore) -> None:
    """The batch's token is found in the database, so that nothing is done twice."""
    story = Story()

    def fault(connection: sqlite3.Connection, sql: str, _parameters: Any) -> None:
        if sql == "COMMIT":
            FaultyConnection.fault = None
            sqlite3.Connection.execute(connection, "COMMIT")
            raise sqlite_error(sqlite3.SQLITE_IOERR)

    FaultyConnection.fault = fault
    assert await store.apply([story.create("a"), story.finish("a")]) == [1, 1]
    assert store.statistics().replays == 0
    assert len(await store.instances("run")) == 1


@pytest.mark.parametrize("loses", [False, True])
async def test_a_commit_that_failed_once_is_done_again(store: SqliteStore, *, loses: bool) -> None:
    """The token is not found: the batch is applied again."""
    story = Story()
    fail_on("COMMIT", sqlite3.SQLITE_IOERR, loses=loses)
    assert await store.apply([story.create("a"), story.finish("a")]) == [1, 1]
    assert store.statistics().replays == 1
    assert len(await store.instances("run")) == 1


@pytest.mark.parametrize("loses", [False, True])
async def test_a_commit_that_keeps_failing_fails_the_batch(store: SqliteStore, *, loses: bool) -> None:
    """Nothing is stored and nobody is told otherwise; afterwards the store works on."""
    story = Story()
    create = story.create("a")
    fail_on("COMMIT", sqlite3.SQLITE_IOERR, times=2, loses=loses)
    with pytest.raises(StoreError) as raised:
        await store.apply([create])
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
    assert await store.find_run("run") is None
    assert not await in_transaction(store)
    assert await store.apply([create]) == [1]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (sqlite3.SQLITE_FULL, StoreFullError),
        (sqlite3.SQLITE_CORRUPT, StoreCorruptError),
        (sqlite3.SQLITE_NOTADB, StoreCorruptError),
        (sqlite3.SQLITE_READONLY, StoreReadOnlyError),
        (sqlite3.SQLITE_READONLY_DBMOVED, StoreReadOnlyError),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreError),
    ],
)
async def test_errors_have_names(store: SqliteStore, code: int, expected: type[StoreError]) -> None:
    """What SQLite says decides the class, and stands as the cause."""
    fail_on("BEGIN", code, times=2)
    with pytest.raises(StoreError) as raised:
        await store.apply([Story().create("a")])
    assert type(raised.value) is expected
    assert isinstance(raised.value.__cause__, sqlite3.Error)


async def test_a_batch_is_one_transaction_that_writes_from_its_beginning(store: SqliteStore) -> None:
    """It takes the write lock before it reads what it judges by."""
    story = Story()
    statements: list[str] = []
    FaultyConnection.fault = lambda _connection, sql, _parameters: statements.append(sql)
    await store.apply([story.create("a"), story.finish("a", values={"k": b"1"}), story.end()])
    control = [sql for sql in statements if sql.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT")]
    assert control == ["BEGIN IMMEDIATE", "COMMIT"]


@pytest.mark.parametrize("loses", [False, True])
async def test_a_failed_read_has_a_name_and_leaves_no_transaction(store: SqliteStore, *, loses: bool) -> None:
    """The next read works."""
    await store.apply([Story().create("a")])
    fail_on("SELECT", sqlite3.SQLITE_IOERR, loses=loses)
    with pytest.raises(StoreError) as raised:
        await store.find_run("run")
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
    assert await store.find_run("run") is not None


# -------------------------------------------------------------------------------------------------- others on the file


async def test_an_owner_that_was_superseded_writes_nothing(store: SqliteStore) -> None:
    """Whoever opened the store later has another epoch."""
    await store.apply([Story().create("a")])
    other = sqlite3.connect(store.name)
    with other:
        other.execute("UPDATE owner SET epoch = epoch + 1")
    other.close()
    with pytest.raises(StaleOwnerError):
        await store.apply([Story("late").create("a")])
    assert await store.find_run("late") is None
    assert store.statistics().replays == 0
    assert not await in_transaction(store)


async def test_a_busy_database_is_waited_for(store: SqliteStore) -> None:
    """Another program that writes for a moment is no error."""
    other = sqlite3.connect(store.name, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    results: list[int | DagrelayError] = []

    async def work() -> None:
        results.extend(await store.apply([Story().create("a")]))

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        other.execute("ROLLBACK")
    other.close()
    assert results == [1]


async def test_a_database_that_stays_busy_is_an_error(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while."""
    monkeypatch.setattr(store_module, "_BUSY_TRIES", 2)
    monkeypatch.setattr(store_module, "_BUSY_PAUSE_S", 0)
    failed = fail_on("BEGIN", sqlite3.SQLITE_BUSY, times=9)
    with pytest.raises(StoreError):
        await store.apply([Story().create("a")])
    assert len(failed) == 2


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_vanished_is_noticed(store: SqliteStore, tmp_path: Path, *, replaced: bool) -> None:
    """Writes to a deleted or replaced file would be lost."""
    (tmp_path / "runs.db").rename(tmp_path / "moved.db")
    if replaced:
        (tmp_path / "runs.db").touch()
    with pytest.raises(StoreVanishedError):
        await store.apply([Story().create("a")])
    (tmp_path / "moved.db").rename(tmp_path / "runs.db")
    assert await store.apply([Story().create("a")]) == [1]


# -------------------------------------------------------------------------------------------------- the log


async def test_an_idle_store_brings_its_log_in(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there was much work; then there is nothing to do until there was as much again."""
    monkeypatch.setattr(store_module, "_IDLE_OPERATIONS", 2)
    story = Story()
    statements: list[str] = []
    FaultyConnection.fault = lambda _connection, sql, _parameters: statements.append(sql)
    await store.apply([story.create("a")])
    await store.maintain(idle=True)
    await store.apply([story.end()])
    await store.maintain(idle=False)
    assert not [sql for sql in statements if sql.startswith("PRAGMA")]
    await store.maintain(idle=True)
    await store.maintain(idle=True)
    assert [sql for sql in statements if sql.startswith("PRAGMA")] == ["PRAGMA wal_checkpoint(PASSIVE)"]


async def test_a_long_log_is_brought_in_under_load(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And truncated; while a reader is in the way it is let grow, and tried again later."""
    monkeypatch.setattr(store_module, "_WAL_BYTES", 100_000)
    store._wal_limit = 100_000
    story, wal = Story(), tmp_path / "runs.db-wal"
    await store.apply([story.create("a"), story.finish("a", values={"k": b"x" * 200_000})])
    reader = sqlite3.connect(store.name, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM run").fetchall()
    await store.apply([story.end()])
    await store.maintain(idle=False)
    assert wal.stat().st_size > 200_000
    assert store._wal_limit > 300_000
    reader.execute("ROLLBACK")
    reader.close()
    store._wal_limit = 100_000
    await store.apply([story.reopen()])
    await store.maintain(idle=False)
    assert wal.stat().st_size == 0
    assert store._wal_limit == 100_000


async def test_a_log_that_is_missing_has_no_size(store: SqliteStore, tmp_path: Path) -> None:
    """Somebody else may have removed it; that is found out by others."""
    (tmp_path / "runs.db-wal").unlink()
    assert store._log_bytes() == 0


async def test_a_failing_checkpoint_does_not_keep_the_store_from_closing(tmp_path: Path) -> None:
    """The log stays, and nothing is lost."""
    store = SqliteStore(tmp_path / "runs.db")
    store._factory = FaultyConnection
    await store.open(now_us=0)
    await store.apply([Story().create("a")])
    failed = fail_on("PRAGMA wal_checkpoint", sqlite3.SQLITE_IOERR)
    await store.close()
    FaultyConnection.fault = None
    assert failed
    await store.open(now_us=0)
    assert await store.find_run("run") is not None
    await store.close()


@pytest.mark.parametrize("loses", [False, True])
async def test_a_failed_migration_leaves_an_empty_database(tmp_path: Path, *, loses: bool) -> None:
    """It is whole or not there, and made by the next opening."""
    store = SqliteStore(tmp_path / "runs.db")
    store._factory = FaultyConnection
    fail_on("CREATE TABLE instance", sqlite3.SQLITE_IOERR, loses=loses)
    with pytest.raises(StoreError):
        await store.open(now_us=0)
    connection = sqlite3.connect(tmp_path / "runs.db")
    assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
    connection.close()
    await store.open(now_us=0)
    await store.close()


async def test_a_failed_take_over_leaves_the_earlier_owner_in_place(tmp_path: Path) -> None:
    """Epoch and interrupted runs are one transaction."""
    store, story = SqliteStore(tmp_path / "runs.db"), Story()
    await store.open(now_us=0)
    await store.apply([story.create("a"), story.start("a")])
    await store.close()
    store._factory = FaultyConnection
    fail_on("INSERT INTO event", sqlite3.SQLITE_IOERR)
    with pytest.raises(StoreError):
        await store.open(now_us=0)
    connection = sqlite3.connect(tmp_path / "runs.db")
    assert connection.execute("SELECT epoch FROM owner").fetchone() == (1,)
    assert connection.execute("SELECT state FROM run").fetchone() == (0,)
    connection.close()


# -------------------------------------------------------------------------------------------------- forks and messages


async def _many_statements(store: SqliteStore) -> tuple[Story, list[Operation]]:
    """Return the story of a run that is stored, and operations that take several statements each."""
    story, fork = Story(), Story("fork")
    await store.apply(
        [
            story.create("a", "b", "c"),
            story.start("a", length=40),
            *(story.finish("a", map_index=index, values={"k": b"1"}) for index in range(40)),
            story.finish("a"),
            story.put("b", {"k": b"2"}),
            story.end(),
        ]
    )
    return story, [
        fork.fork("run", "a", "b", tasks=("a", "b", "d")),
        story.reopen(story.key("b"), message_id="again"),
        story.provide("c", b"3", message_id="yes"),
    ]


async def _state(store: SqliteStore) -> list[Any]:
    found = [await store.load_run(run_id) for run_id in ("run", "fork")]
    entries = [await store.entries(run_id, with_values=True) for run_id in ("run", "fork")]
    return [found, entries, [await store.message(each) for each in ("again", "yes")]]


def _full_from(place: int, *, loses: bool) -> Callable[[sqlite3.Connection, str, Any], None]:
    """Return a fault that has the disk full from one of the coming statements on, but for the fence."""
    left = place

    def fault(connection: sqlite3.Connection, sql: str, _parameters: Any) -> None:
        nonlocal left
        if sql.startswith(("SELECT", "INSERT", "DELETE", "UPDATE")) and "owner" not in sql:
            left -= 1
            if left <= 0:
                if loses and connection.in_transaction:
                    sqlite3.Connection.execute(connection, "ROLLBACK")
                raise sqlite_error(sqlite3.SQLITE_FULL)

    return fault


@pytest.mark.parametrize("loses", [False, True])
@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_fork_or_a_message_is_carried_out_whole_or_not_at_all(store: SqliteStore, which: int, loses: bool) -> None:
    """Whichever of its statements fails, for how long: it is refused by itself, or done in the end, and never half."""
    _, operations = await _many_statements(store)
    before = await _state(store)
    failing = operations[which]
    seen: list[str] = []
    for place in count(1):
        FaultyConnection.fault = _full_from(place, loses=loses)
        (result,) = await store.apply([failing])
        FaultyConnection.fault = None
        if result == 1:
            break
        assert isinstance(result, StoreFullError)
        assert await _state(store) == before
        seen.append(str(result))
    assert len(seen) >= 4
    assert await _state(store) != before
    with closing(sqlite3.connect(store.name)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_fork_that_fails_takes_nobody_with_it(store: SqliteStore) -> None:
    """The rest of the batch is applied; names that it had interned are asked for anew."""
    story, (fork, reopen, provide) = await _many_statements(store)
    failed = fail_on("INSERT INTO xcom", sqlite3.SQLITE_IOERR, times=2, about="b'2'")
    results = await store.apply([fork, reopen, provide, story.finish("d", values={"k": b"4"})])
    assert [isinstance(result, StoreError) for result in results] == [True, False, False, False]
    assert len(failed) == 2
    assert await store.find_run("fork") is None
    assert [await value_of(store, story, task, key) for task, key in (("c", "return_value"), ("d", "k"))] == [b"3", b"4"]


async def test_a_large_fork_holds_few_values_at_once(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written as they are read."""
    monkeypatch.setattr(forks, "_BYTES_AT_ONCE", 10)
    _, (fork, *_) = await _many_statements(store)
    written: list[int] = []

    def note(_connection: sqlite3.Connection, sql: str, parameters: Any) -> None:
        if sql.startswith("INSERT INTO xcom"):
            written.append(len(parameters) // 16)

    FaultyConnection.fault = note
    assert await store.apply([fork]) == [1]
    assert sum(written) == 41
    assert max(written) <= 10
    assert len(await store.entries("fork")) == 41


# -------------------------------------------------------------------------------------------------- what is remembered


async def test_names_are_forgotten_within_bounds(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the writer nor the reader grows with the ids it has met, and both read them again."""
    monkeypatch.setattr(changes, "_KNOWN_NAMES", 3)
    monkeypatch.setattr(reads, "_KNOWN_TASKS", 3)
    story, tasks = Story(), [f"t{number}" for number in range(10)]
    await store.apply([story.create(*tasks)])
    for task in tasks:
        assert await store.apply([story.finish(task, values={"k": task.encode()})]) == [1]
    for task in tasks * 2:
        assert await value_of(store, story, task) == task.encode()
    assert len(await store.instances("run")) == 10
    assert len(store._tasks.ids) <= 3
    assert len(store._tasks.pks) <= 3


async def test_a_large_batch_meets_what_is_stored(store: SqliteStore) -> None:
    """Rows that are read many at a time fence as those read singly do."""
    story, tasks = Story(), [f"t{number}" for number in range(100)]
    await store.apply([story.create(*tasks), *(story.finish(task) for task in tasks[::3])])
    results = await store.apply([story.finish(task, map_index=None if number < 90 else 0) for number, task in enumerate(tasks)])
    assert [isinstance(result, StaleAttemptError) for result in results] == [
        number % 3 == 0 and number < 90 for number in range(100)
    ]
