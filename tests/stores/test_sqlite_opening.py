"""Opening a database: one owner, files of ours only, and everything given back."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Literal

import anyio
import pytest

from dagrelay.errors import (
    StaleOwnerError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreSchemaError,
)
from dagrelay.model.states import ENDED_TASK_STATES, RunState, TaskState
from dagrelay.stores import Lookup, RunQuery, SqliteStore
from dagrelay.stores.sqlite import rows, schema
from dagrelay.stores.sqlite.lock import OwnerLock, is_held
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give a place for a database."""
    return tmp_path / "runs.db"


@pytest.fixture(params=[0, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let files be made for everybody, or for nobody."""
    before = os.umask(request.param)
    yield
    os.umask(before)


# -------------------------------------------------------------------------------------------------- the lock


async def test_a_second_store_is_locked_out(path: Path) -> None:
    """Also in the same process; the error names the owner."""
    first, second = SqliteStore(path), SqliteStore(path)
    await first.open(now_us=0)
    with pytest.raises(StoreLockedError) as raised:
        await second.open(now_us=0)
    assert (raised.value.pid, raised.value.host) == (os.getpid(), socket.gethostname())
    assert raised.value.since == "1970-01-01T00:00:00+00:00"
    await first.close()
    await second.open(now_us=0)
    await second.close()


async def test_a_locked_out_store_waits_as_long_as_asked(path: Path) -> None:
    """And opens as soon as the owner is gone."""
    first, second = SqliteStore(path), SqliteStore(path, lock_timeout_s=10)
    await first.open(now_us=0)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: second.open(now_us=0))
        await anyio.wait_all_tasks_blocked()
        await first.close()
    assert await second.apply([Story().create("a")]) == [1]
    await second.close()


async def test_waiting_for_the_lock_can_be_cancelled(path: Path) -> None:
    """Nothing is taken then."""
    first, second = SqliteStore(path), SqliteStore(path, lock_timeout_s=60)
    await first.open(now_us=0)
    with anyio.move_on_after(0.05) as scope:
        await second.open(now_us=0)
    assert scope.cancelled_caught
    await first.close()
    assert not is_held(str(path))
    await second.open(now_us=0)
    await second.close()


async def test_a_killed_owner_leaves_the_store_free(path: Path) -> None:
    """The kernel gives the lock back, and its runs are found interrupted."""
    code = f"""
        import anyio, sys
        from dagrelay.stores import SqliteStore
        from dagrelay.testing.story import Story

        async def main():
            store = SqliteStore({str(path)!r})
            await store.open(now_us=0)
            story = Story()
            await store.apply([story.create("a"), story.start("a")])
            print("ready", flush=True)
            sys.stdin.read()

        anyio.run(main)
    """
    with subprocess.Popen([sys.executable, "-c", dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        store = SqliteStore(path)
        with pytest.raises(StoreLockedError, match=f"process {owner.pid} "):
            await store.open(now_us=0)
        owner.kill()
    await store.open(now_us=5)
    found = await store.find_run("run")
    assert found is not None
    assert found.run.state is RunState.INTERRUPTED
    await store.close()


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": "x"}'])
async def test_an_owner_without_a_name_is_another_process(path: Path, text: str) -> None:
    """It may be about to sign, or something else wrote to the file."""
    first = OwnerLock(str(path))
    await first.acquire(timeout_s=0, since="now")
    Path(f"{path}.lock").write_text(text)
    with pytest.raises(StoreLockedError, match="another process"):
        await SqliteStore(path).open(now_us=0)
    first.release()
    first.release()


async def test_the_lock_says_who_holds_it(path: Path) -> None:
    """In JSON, for people and for error messages."""
    store = SqliteStore(path)
    await store.open(now_us=1_000_000)
    owner = json.loads(Path(f"{path}.lock").read_text())
    await store.close()
    assert owner == {"pid": os.getpid(), "host": socket.gethostname(), "since": "1970-01-01T00:00:01+00:00"}


async def test_a_link_is_no_lock(path: Path, tmp_path: Path) -> None:
    """Writing through a planted link would damage the file behind it."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    Path(f"{path}.lock").symlink_to(victim)
    with pytest.raises(StoreError, match="lock file"):
        await SqliteStore(path).open(now_us=0)
    assert victim.read_text() == "precious"
    assert is_held(str(path))


async def test_two_owners_by_a_deleted_lock_file_are_told_apart(path: Path) -> None:
    """Whoever opened first is superseded and writes nothing more."""
    first, second = SqliteStore(path), SqliteStore(path)
    await first.open(now_us=0)
    Path(f"{path}.lock").unlink()
    await second.open(now_us=0)
    with pytest.raises(StaleOwnerError):
        await first.apply([Story().create("a")])
    assert await second.apply([Story().create("a")]) == [1]
    await first.close()
    await second.close()


async def test_a_lock_file_that_is_replaced_while_it_is_locked_is_not_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name must stand for the file that was locked; the next try takes the new one."""
    removed: list[int] = []
    flock = fcntl.flock

    def meddle(fd: int, operation: int) -> None:
        flock(fd, operation)
        if not removed:
            removed.append(fd)
            Path(f"{path}.lock").unlink()

    monkeypatch.setattr("dagrelay.stores.sqlite.lock.fcntl.flock", meddle)
    lock = OwnerLock(str(path))
    await lock.acquire(timeout_s=0, since="now")
    monkeypatch.undo()
    assert removed
    assert is_held(str(path))
    lock.release()
    assert not is_held(str(path))


async def test_a_reader_that_asks_for_the_owner_does_not_keep_one_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock for an instant; the owner tries again."""
    tries: list[int] = []
    flock = fcntl.flock

    def busy_once(fd: int, operation: int) -> None:
        tries.append(fd)
        if len(tries) == 1:
            raise BlockingIOError
        flock(fd, operation)

    monkeypatch.setattr("dagrelay.stores.sqlite.lock.fcntl.flock", busy_once)
    store = SqliteStore(path)
    await store.open(now_us=0)
    await store.close()
    assert len(tries) == 2


# -------------------------------------------------------------------------------------------------- files


@pytest.mark.usefixtures("umask")
async def test_files_are_the_owners_only(path: Path) -> None:
    """Database, log, its index and lock, whatever the umask."""
    store = SqliteStore(path)
    await store.open(now_us=0)
    await store.apply([Story().create("a")])
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()}
    await store.close()
    assert modes == dict.fromkeys(("runs.db", "runs.db-wal", "runs.db-shm", "runs.db.lock"), "0o600")


async def test_a_closed_store_is_one_file_and_a_lock(path: Path) -> None:
    """The log is brought in and gone, also after errors that keep their frames alive."""
    store, story = SqliteStore(path), Story()
    await store.open(now_us=0)
    kept = await store.apply([story.create("a"), story.create("a"), story.start("a"), story.start("a", 3)])
    await store.find_run("run")
    await store.close()
    assert len(kept) == 4
    assert sorted(file.name for file in path.parent.iterdir()) == ["runs.db", "runs.db.lock"]


async def test_a_relative_path_survives_a_change_of_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It means what it meant when the store was made."""
    monkeypatch.chdir(path.parent)
    store = SqliteStore("runs.db")
    monkeypatch.chdir("/")
    await store.open(now_us=0)
    await store.close()
    assert path.exists()
    assert store.name == str(path)


@pytest.mark.parametrize("name", ["a b.db", "a%20b?mode=ro#x.db", "ü.db", "';--.db"])
async def test_any_file_name_is_one(tmp_path: Path, name: str) -> None:
    """Nothing in it is taken for a part of an URI."""
    store = SqliteStore(tmp_path / name)
    await store.open(now_us=0)
    assert await store.apply([Story().create("a")]) == [1]
    await store.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, f"{name}.lock"])


async def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    """Directories are not made."""
    with pytest.raises(StoreError, match="lock file"):
        await SqliteStore(tmp_path / "none" / "runs.db").open(now_us=0)


async def test_a_directory_is_no_database(tmp_path: Path) -> None:
    """SQLite's error is the cause."""
    (tmp_path / "runs.db").mkdir()
    with pytest.raises(StoreError) as raised:
        await SqliteStore(tmp_path / "runs.db").open(now_us=0)
    assert isinstance(raised.value.__cause__, sqlite3.Error)


def test_an_unknown_synchronous_is_refused(path: Path) -> None:
    """OFF would lose acknowledged work."""
    with pytest.raises(ValueError, match="FULL"):
        SqliteStore(path, synchronous="OFF")  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------- schema and settings


async def _refused(path: Path, error: type[StoreError]) -> str:
    """Try to open a file that is not ours, and check that it is as it was."""
    before = path.read_bytes()
    with pytest.raises(error) as raised:
        await SqliteStore(path).open(now_us=0)
    assert path.read_bytes() == before
    assert not is_held(str(path))
    return str(raised.value)


async def test_a_newer_schema_is_left_untouched(path: Path) -> None:
    """Byte for byte."""
    store = SqliteStore(path)
    await store.open(now_us=0)
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    assert "newer version" in await _refused(path, StoreSchemaError)


async def test_the_log_of_a_newer_schema_is_left_untouched_too(path: Path, tmp_path: Path) -> None:
    """A connection that may write would bring it in when it closes."""
    store = SqliteStore(path)
    await store.open(now_us=0)
    await store.close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 999")
    crashed = tmp_path / "crashed.db"
    crashed.write_bytes(path.read_bytes())
    log = Path(f"{path}-wal").read_bytes()
    connection.close()
    Path(f"{crashed}-wal").write_bytes(log)
    await _refused(crashed, StoreSchemaError)
    assert Path(f"{crashed}-wal").read_bytes() == log


@pytest.mark.parametrize("journal", ["delete", "wal"])
async def test_a_database_of_another_application_is_left_untouched(path: Path, journal: str) -> None:
    """With and without an application id of its own."""
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE cookies (crumbs)")
    connection.commit()
    connection.close()
    assert "another application" in await _refused(path, StoreSchemaError)


async def test_a_foreign_application_id_is_left_untouched(path: Path) -> None:
    """Even on a database without tables."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA application_id = 77")
    connection.close()
    assert "another application" in await _refused(path, StoreSchemaError)


async def test_a_file_of_another_kind_is_left_untouched(path: Path) -> None:
    """Text is no database."""
    path.write_text("Dear diary, " * 1000)
    assert "no SQLite database" in await _refused(path, StoreSchemaError)


async def test_a_cut_off_database_is_damaged(path: Path) -> None:
    """Its header promises more than there is."""
    store = SqliteStore(path)
    await store.open(now_us=0)
    await store.close()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoreCorruptError):
        await SqliteStore(path).open(now_us=0)


async def test_an_empty_file_is_a_new_store(path: Path) -> None:
    """Somebody made it beforehand, or was killed while doing so."""
    path.touch()
    store = SqliteStore(path)
    await store.open(now_us=0)
    assert await store.apply([Story().create("a")]) == [1]
    await store.close()


async def test_a_database_without_tables_is_a_new_store(path: Path) -> None:
    """The owner was killed between making the file and its tables."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = wal")
    connection.close()
    store = SqliteStore(path)
    await store.open(now_us=0)
    await store.close()


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
async def test_the_writer_is_set_as_it_must_be(path: Path, synchronous: Literal["FULL", "NORMAL"], level: int) -> None:
    """Each setting as SQLite reports it."""
    store = SqliteStore(path, synchronous=synchronous)
    await store.open(now_us=0)
    expected = {
        "journal_mode": "wal",
        "synchronous": level,
        "foreign_keys": 1,
        "wal_autocheckpoint": 0,
        "trusted_schema": 0,
        "cell_size_check": 1,
        "busy_timeout": 100,
        "application_id": schema.APPLICATION_ID,
        "user_version": len(schema.MIGRATIONS),
    }
    assert store._writing is not None
    found = await store._writing.run(
        lambda connection: {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}
    )
    assert found == expected
    await store.close()


async def test_the_reader_can_not_write(path: Path) -> None:
    """By its mode and by its setting."""
    store = SqliteStore(path)
    await store.open(now_us=0)
    assert store._reading is not None
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await store._reading.run(lambda connection: connection.execute("DELETE FROM run"))
    query_only = await store._reading.run(lambda connection: connection.execute("PRAGMA query_only").fetchone())
    assert query_only == (1,)
    await store.close()


def test_a_setting_that_does_not_hold_is_an_error() -> None:
    """An in-memory database has no write-ahead log."""
    connection = sqlite3.connect(":memory:")
    with pytest.raises(StoreError, match="journal_mode"):
        schema.configure_writer(connection, synchronous="FULL")
    connection.close()


def test_a_setting_that_sqlite_does_not_know_holds() -> None:
    """Built without memory maps it has no `mmap_size`, and needs none."""
    connection = sqlite3.connect(":memory:")
    schema._set(connection, "no_such_setting", 0)
    connection.close()


def test_an_old_sqlite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """STRICT tables are needed."""
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 36, 0))
    connection = sqlite3.connect(":memory:")
    with pytest.raises(StoreError, match="too old"):
        schema.configure_reader(connection)
    connection.close()


def test_every_state_has_a_code_of_its_own() -> None:
    """And the ended ones are those the timeline's question names."""
    assert set(rows.TASK_STATE_CODES) == set(TaskState)
    assert set(rows.RUN_STATE_CODES) == set(RunState)
    assert len(set(rows.TASK_STATE_CODES.values())) == len(TaskState)
    assert len(set(rows.RUN_STATE_CODES.values())) == len(RunState)
    assert sorted(rows.TASK_STATE_CODES[state] for state in ENDED_TASK_STATES) == [5, 6, 7, 8, 9]


# -------------------------------------------------------------------------------------------------- looking on


async def test_a_read_only_store_looks_on(path: Path) -> None:
    """It sees what the owner commits, as it is, and changes nothing."""
    owner, looker, story = SqliteStore(path), SqliteStore(path, read_only=True), Story()
    await owner.open(now_us=0)
    await owner.apply([story.create("a"), story.start("a")])
    await looker.open(now_us=0)
    assert looker.is_read_only
    found = await looker.find_run("run")
    assert found is not None
    assert found.run.state is RunState.RUNNING
    assert [run.run_id for run in await looker.find_runs(RunQuery(state=RunState.RUNNING))] == ["run"]
    with pytest.raises(StoreReadOnlyError):
        await looker.apply([story.end()])
    await looker.maintain(idle=True)
    await owner.apply([story.finish("a", values={"k": b"1"})])
    (value,) = await looker.lookup([Lookup(instance=story.key("a"), key="k")])
    assert value is not None
    await owner.close()
    await looker.close()


async def test_without_an_owner_what_ran_is_shown_as_interrupted(path: Path) -> None:
    """Runs and instances, in every answer and every filter; what is stored stays."""
    owner, looker, story, done = SqliteStore(path), SqliteStore(path, read_only=True), Story(), Story("done")
    await owner.open(now_us=0)
    await owner.apply([story.create("a", "b"), story.start("a"), story.finish("b"), done.create("a"), done.end()])
    await owner.apply([story.put("a", {"k": b"1"}, slot=1, published=True)])
    await owner.close()
    await looker.open(now_us=0)
    found = await looker.find_run("run")
    assert found is not None
    assert found.run.state is RunState.INTERRUPTED
    assert [run.run_id for run in await looker.find_runs(RunQuery(state=RunState.INTERRUPTED))] == ["run"]
    assert await looker.find_runs(RunQuery(state=RunState.RUNNING)) == []
    assert [run.run_id for run in await looker.find_runs(RunQuery(state=RunState.SUCCESS))] == ["done"]
    image = await looker.load_run("run")
    assert image is not None
    assert [each.state for each in image.instances] == [TaskState.INTERRUPTED, TaskState.SUCCESS]
    interrupted = await looker.instances("run", state=TaskState.INTERRUPTED)
    assert [each.instance.task_id for each in interrupted] == ["a"]
    assert await looker.lookup([Lookup(instance=story.key("a"), key="k")]) == [None]
    assert len(await looker.events("run")) == 5
    await looker.close()


async def test_a_missing_store_can_not_be_read(path: Path) -> None:
    """And is not made."""
    with pytest.raises(StoreError, match="there is no store"):
        await SqliteStore(path, read_only=True).open(now_us=0)
    assert list(path.parent.iterdir()) == []


async def test_a_read_only_store_refuses_a_foreign_file(path: Path) -> None:
    """As an owner would."""
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreSchemaError):
        await SqliteStore(path, read_only=True).open(now_us=0)


# -------------------------------------------------------------------------------------------------- giving everything back


async def test_stores_leave_no_thread_or_file_open(path: Path) -> None:
    """After many openings there are as many as before."""
    store = SqliteStore(path)
    await store.open(now_us=0)
    await store.close()
    threads, files = set(threading.enumerate()), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        await store.open(now_us=0)
        await store.find_run("run")
        await store.close()
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=5)  # It has been told to end; when it does is its own affair.
        assert not thread.is_alive()
    assert len(list(Path("/proc/self/fd").iterdir())) <= files


@pytest.mark.parametrize("patience", range(12))
async def test_a_cancelled_opening_gives_everything_back(path: Path, patience: int) -> None:
    """Wherever the cancellation comes, the next opening works."""
    store = SqliteStore(path)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: store.open(now_us=0))
        for _ in range(patience):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    await store.close()
    assert not is_held(str(path))
    await store.open(now_us=0)
    assert await store.apply([Story().create("a")]) == [1]
    await store.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError",
        "task.cancel(); await anyio.sleep(1)",
        "await anyio.sleep(0); sys.exit(3)",
        "await store.apply([Story().create('a')]); raise KeyboardInterrupt",
    ],
)
def test_a_process_that_fails_exits(path: Path, backend: str, body: str) -> None:
    """An unclosed connection of aiosqlite keeps a process for ever; whoever opened the store closes it in a `finally`."""
    code = f"""
        import asyncio, sys
        import anyio
        from dagrelay.stores import SqliteStore
        from dagrelay.testing.story import Story

        async def main():
            store = SqliteStore({str(path)!r})
            task = asyncio.current_task() if {backend!r} == "asyncio" else None
            try:
                await store.open(now_us=0)
                {body}
            finally:
                await store.close()

        anyio.run(main, backend={backend!r})
    """
    ended = subprocess.run([sys.executable, "-c", dedent(code)], timeout=15, check=False, capture_output=True)
    assert ended.returncode != 0


def test_a_process_that_is_cancelled_while_opening_exits(path: Path) -> None:
    """`asyncio.run` cancels every task when it is torn down."""
    code = f"""
        import asyncio
        from dagrelay.stores import SqliteStore

        async def main():
            asyncio.ensure_future(SqliteStore({str(path)!r}).open(now_us=0))
            for _ in range(3):
                await asyncio.sleep(0)

        asyncio.run(main())
        print("out")
    """
    ended = subprocess.run([sys.executable, "-c", dedent(code)], timeout=15, check=False, capture_output=True)
    assert ended.stdout == b"out\n"
