"""A backup is the store at one moment, holds nobody up, and is there whole or not at all."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import pytest

from dagrelay import DAG, Runtime
from dagrelay.errors import StoreBackupError, StoreClosedError, StoreError
from dagrelay.model.states import RunState
from dagrelay.stores import Lookup, MemoryStore, SqliteStore, StoreCheck
from dagrelay.stores.sqlite.driver import UnitConnection
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE_S = 20


class Gate:
    """Where a copy stands still after its first page, until it is let go."""

    reached: threading.Event
    go: threading.Event

    @classmethod
    def shut(cls) -> None:
        """Have the next copy stand still."""
        cls.reached, cls.go = threading.Event(), threading.Event()

    @classmethod
    async def wait(cls) -> None:
        """Wait until a copy stands there."""
        assert await anyio.to_thread.run_sync(cls.reached.wait, PATIENCE_S)


class GatedConnection(UnitConnection):
    """A connection that copies one page, and then waits at the gate."""

    def backup(self, target: sqlite3.Connection, *, progress: Any = None, **_options: Any) -> None:
        """Copy as always, but page by page."""

        def after_step(*facts: int) -> None:
            Gate.reached.set()
            assert Gate.go.wait(PATIENCE_S)
            progress(*facts)

        super().backup(target, pages=1, progress=after_step)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """Give an open store with a run of one running task."""
    store, story = SqliteStore(tmp_path / "runs.db", synchronous="NORMAL"), Story()
    await store.open(now_us=0)
    await store.apply([story.create("a"), story.start("a"), story.put("a", {"k": b"before"}, slot=1)])
    yield store
    await store.close()


async def value_in(path: Path, key: str = "k") -> bytes | None:
    """Return a value of the run in a database."""
    store = SqliteStore(path, read_only=True)
    await store.open(now_us=0)
    (found,) = await store.lookup([Lookup(instance=Story().key("a"), key=key, slots=(1,))])
    await store.close()
    return None if found is None else found.value


def files(folder: Path) -> list[str]:
    """Return what lies beside the store."""
    return sorted(each.name for each in folder.iterdir() if not each.name.startswith("runs.db"))


# -------------------------------------------------------------------------------------------------- a moment


async def test_a_writer_goes_on_during_a_backup_and_is_not_in_it(store: SqliteStore, tmp_path: Path) -> None:
    """The copy stands still after its first page; what is committed then is of a later moment."""
    store._factory = GatedConnection
    Gate.shut()
    async with anyio.create_task_group() as group:
        group.start_soon(store.backup, tmp_path / "copy.db")
        await Gate.wait()
        with anyio.fail_after(PATIENCE_S):
            assert await store.apply([Story(seq=9).put("a", {"k": b"after", "l": b"new"}, slot=1)]) == [1]
        assert files(tmp_path) != ["copy.db"]
        Gate.go.set()
    assert await value_in(tmp_path / "copy.db") == b"before"
    assert await value_in(tmp_path / "copy.db", "l") is None
    (now,) = await store.lookup([Lookup(instance=Story().key("a"), key="k", slots=(1,))])
    assert now is not None
    assert now.value == b"after"


async def test_backups_under_load_are_whole(store: SqliteStore, tmp_path: Path) -> None:
    """Each has all or nothing of a batch, at least what was acknowledged before it, and passes the check."""
    count, acknowledged = 8, [0]
    is_over = anyio.Event()

    async def write() -> None:
        story = Story(seq=100)
        while not is_over.is_set():
            number = str(acknowledged[0] + 1).encode()
            await store.apply([story.put("a", {"left": number}, slot=1), story.put("a", {"right": number}, slot=1)])
            acknowledged[0] += 1

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        for number in range(count):
            path, least = tmp_path / f"copy{number}.db", acknowledged[0]
            await store.backup(path)
            left, right = await value_in(path, "left"), await value_in(path, "right")
            assert left == right
            assert int(left or 0) >= least
        is_over.set()
    assert acknowledged[0] > 0
    with StoreCheck(tmp_path / f"copy{count - 1}.db") as check:
        assert list(check.findings()) == []


async def test_a_reader_beside_the_owner_backs_up_too(store: SqliteStore, tmp_path: Path) -> None:
    """As the command line does."""
    reader = SqliteStore(tmp_path / "runs.db", read_only=True)
    await reader.open(now_us=0)
    await reader.backup(tmp_path / "beside.db")
    await store.close()
    await reader.backup(tmp_path / "alone.db")
    await reader.close()
    assert await value_in(tmp_path / "beside.db") == await value_in(tmp_path / "alone.db") == b"before"


async def test_a_backup_is_a_store_whose_runs_can_be_resumed(tmp_path: Path) -> None:
    """What was running is interrupted there; what had succeeded does not run again."""
    dag, ran, reached, go = DAG("d"), list[str](), anyio.Event(), anyio.Event()

    @dag.task
    async def first() -> int:
        ran.append("first")
        return 1

    @dag.task
    async def second(value: int = first.output) -> int:
        ran.append("second")
        reached.set()
        await go.wait()
        return value + 1

    async with Runtime(tmp_path / "runs.db") as runtime, anyio.create_task_group() as group:
        group.start_soon(lambda: runtime.run(dag, run_id="r"))
        await reached.wait()
        await runtime.backup(tmp_path / "copy.db")
        go.set()
    async with Runtime(tmp_path / "copy.db") as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        result = await runtime.resume("r", dag)
        assert result[second] == 2
    assert ran == ["first", "second", "second"]


# -------------------------------------------------------------------------------------------------- a file


@pytest.mark.parametrize("umask", [0, 0o777])
async def test_a_backup_is_one_file_of_the_owners_only(store: SqliteStore, tmp_path: Path, umask: int) -> None:
    """Whatever the umask, and nothing else is left."""
    before = os.umask(umask)
    await store.backup(tmp_path / "copy.db")
    os.umask(before)
    assert files(tmp_path) == ["copy.db"]
    assert oct((tmp_path / "copy.db").stat().st_mode & 0o777) == "0o600"
    assert (tmp_path / "copy.db").stat().st_nlink == 1


@pytest.mark.parametrize("leftover", ["copy.db", "copy.db-wal", "copy.db-journal"])
async def test_nothing_is_written_over(store: SqliteStore, tmp_path: Path, leftover: str) -> None:
    """Nor is a file made that another database's log would be taken for."""
    (tmp_path / leftover).write_text("precious")
    with pytest.raises(StoreBackupError, match=r"there is such a file|left of another") as raised:
        await store.backup(tmp_path / "copy.db")
    assert raised.value.target == str(tmp_path / "copy.db")
    assert files(tmp_path) == [leftover]
    assert (tmp_path / leftover).read_text() == "precious"


async def test_a_link_that_leads_nowhere_is_not_followed(store: SqliteStore, tmp_path: Path) -> None:
    """It is something under that name."""
    (tmp_path / "copy.db").symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(StoreBackupError, match="there is such a file"):
        await store.backup(tmp_path / "copy.db")
    assert files(tmp_path) == ["copy.db"]


async def test_a_file_that_comes_meanwhile_is_not_written_over(store: SqliteStore, tmp_path: Path) -> None:
    """The name is given at the end, and only if it is still free."""
    store._factory = GatedConnection
    Gate.shut()
    with pytest.raises(StoreBackupError, match="there is such a file"):
        await _meddled(store, tmp_path / "copy.db")
    assert files(tmp_path) == ["copy.db"]
    assert (tmp_path / "copy.db").read_text() == "precious"


async def _meddled(store: SqliteStore, path: Path) -> None:
    async def meddle() -> None:
        await Gate.wait()
        path.write_text("precious")
        Gate.go.set()

    failed: list[StoreBackupError] = []
    async with anyio.create_task_group() as group:
        group.start_soon(meddle)
        try:
            await store.backup(path)
        except StoreBackupError as error:
            failed.append(error)
    raise failed[0]


async def test_a_backup_is_synced_before_it_gets_its_name(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name is synced too."""
    told: list[str] = []
    sync, link = os.fsync, os.link

    def note_sync(fd: int) -> None:
        told.append("folder" if os.path.samestat(os.fstat(fd), tmp_path.stat()) else "file")
        sync(fd)

    def note_link(source: str, target: str) -> None:
        told.append("link")
        link(source, target)

    monkeypatch.setattr("dagrelay.stores.sqlite.backup.os.fsync", note_sync)
    monkeypatch.setattr("dagrelay.stores.sqlite.backup.os.link", note_link)
    await store.backup(tmp_path / "copy.db")
    monkeypatch.undo()
    assert told == ["file", "link", "folder"]


async def test_a_backup_that_can_not_be_written_is_told(store: SqliteStore, tmp_path: Path) -> None:
    """With the operating system's error as its cause."""
    with pytest.raises(StoreBackupError) as raised:
        await store.backup(tmp_path / "nowhere" / "copy.db")
    assert isinstance(raised.value.__cause__, FileNotFoundError)


async def test_a_full_disk_leaves_nothing_of_a_backup(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's error is the cause; the store goes on."""
    connect = sqlite3.connect

    def small(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **options)
        connection.execute("PRAGMA max_page_count = 2")
        return connection

    monkeypatch.setattr("dagrelay.stores.sqlite.backup.sqlite3.connect", small)
    with pytest.raises(StoreBackupError, match="full") as raised:
        await store.backup(tmp_path / "copy.db")
    assert isinstance(raised.value.__cause__, sqlite3.Error)
    assert files(tmp_path) == []
    assert await store.apply([Story(seq=9).put("a", {"k": b"after"}, slot=1)]) == [1]


# -------------------------------------------------------------------------------------------------- ends


async def test_a_cancelled_backup_leaves_nothing(store: SqliteStore, tmp_path: Path) -> None:
    """It stops at the next step; another one works."""
    store._factory = GatedConnection
    Gate.shut()
    async with anyio.create_task_group() as group:
        group.start_soon(store.backup, tmp_path / "copy.db")
        await Gate.wait()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
        Gate.go.set()
    assert files(tmp_path) == []
    await store.backup(tmp_path / "copy.db")
    assert files(tmp_path) == ["copy.db"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")
async def test_a_backup_in_a_natively_cancelled_task_leaves_nothing(store: SqliteStore, tmp_path: Path) -> None:
    """As any other cancelled one."""
    store._factory = GatedConnection
    Gate.shut()
    task = asyncio.ensure_future(store.backup(tmp_path / "copy.db"))
    await Gate.wait()
    task.cancel()
    await anyio.wait_all_tasks_blocked()
    Gate.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path) == []
    await store.backup(tmp_path / "copy.db")
    assert files(tmp_path) == ["copy.db"]


def test_a_killed_backup_leaves_no_half_file_under_its_name(tmp_path: Path) -> None:
    """Wherever it is killed: between pages, before the file is synced, before it is linked."""
    code = f"""
        import os, signal, sys
        import anyio
        from dagrelay.stores import SqliteStore
        from dagrelay.stores.sqlite import backup
        from dagrelay.testing.story import Story

        async def main():
            store, story = SqliteStore({str(tmp_path / "runs.db")!r}), Story()
            await store.open(now_us=0)
            await store.apply([story.create("a"), story.start("a"), story.put("a", {{"k": bytes(100_000)}}, slot=1)])
            await store.close()

        anyio.run(main)

        def back_up(place):
            import sqlite3
            steps = 0

            def die(*_):
                os.kill(os.getpid(), signal.SIGKILL)

            def die_at_page_3():
                nonlocal steps
                steps += 1
                if steps == 3:
                    die()
                return False

            backup._STEP_PAGES = 1
            if place == "sync":
                os.fsync = die
            elif place == "link":
                os.link = die
            source = sqlite3.connect({str(tmp_path / "runs.db")!r}, isolation_level=None)
            is_stopped = die_at_page_3 if place == "page" else lambda: False
            backup.copy_database(source, "runs.db", {str(tmp_path / "copy.db")!r}, is_stopped=is_stopped)
            os._exit(0)

        for place in ("page", "sync", "link", "nowhere"):
            child = os.fork()
            if not child:
                back_up(place)
            print(place, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.path.exists({str(tmp_path / "copy.db")!r}))
    """
    ended = subprocess.run([sys.executable, "-c", dedent(code)], timeout=30, check=True, capture_output=True, text=True)
    killed = -signal.SIGKILL
    assert ended.stdout.splitlines() == [f"page {killed} False", f"sync {killed} False", f"link {killed} False", "nowhere 0 True"]
    partial = [each for each in files(tmp_path) if each.endswith(".partial")]
    assert len(partial) == 3
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_store_that_is_closed_is_not_backed_up(tmp_path: Path) -> None:
    """It is told, and nothing is made."""
    with pytest.raises(StoreClosedError):
        await SqliteStore(tmp_path / "runs.db").backup(tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == []


async def test_a_store_whose_file_is_gone_is_not_backed_up(store: SqliteStore, tmp_path: Path) -> None:
    """The error is one of the store's."""
    (tmp_path / "runs.db").rename(tmp_path / "moved.db")
    with pytest.raises(StoreError):
        await store.backup(tmp_path / "copy.db")
    assert files(tmp_path) == ["moved.db"]


async def test_a_store_in_memory_has_no_backup(tmp_path: Path) -> None:
    """The error says which store has."""
    async with Runtime(MemoryStore()) as runtime:
        with pytest.raises(StoreBackupError, match="SqliteStore"):
            await runtime.backup(tmp_path / "copy.db")
    assert list(tmp_path.iterdir()) == []
