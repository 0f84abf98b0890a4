"""Migrations: forward only, all or nothing, and never without a copy of what was there before.

What is migrated is the file that version 1 has left; two more versions are made up here.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import Any, Final

import pytest

from dagrelay.errors import StoreBackupError, StoreError, StoreSchemaError
from dagrelay.model.records import InstanceKey
from dagrelay.stores import Lookup, SqliteStore, StoreCheck
from dagrelay.stores.sqlite import schema
from dagrelay.stores.sqlite.lock import is_held

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "v1.db"
FIRST: Final = schema.MIGRATIONS[:1]
MADE_UP: Final = (
    ("CREATE TABLE note (n INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT", "INSERT INTO note VALUES (1, 'one')"),
    (
        "ALTER TABLE note ADD COLUMN size INTEGER",
        "UPDATE note SET size = length(text)",
        "CREATE INDEX notes ON note (size)",
    ),
)
ALL: Final = (*schema.MIGRATIONS, *MADE_UP)
NEWEST: Final = len(ALL)


@pytest.fixture
async def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a database of version 1 in which nothing runs, and a library that knows later ones."""
    monkeypatch.setattr(schema, "MIGRATIONS", ALL)
    path = Path(shutil.copy(GOLDEN, tmp_path / "runs.db"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("instance", "xcom", "event", "run"):
            connection.execute(f"DELETE FROM {table} WHERE run_pk = (SELECT run_pk FROM run WHERE run_id = 'running')")  # noqa: S608 - our own names
    return path


def dump(path: Path) -> list[Any]:
    """Return all that is in a database, but for who owned it."""
    with closing(sqlite3.connect(path)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()
        return [version, *(line for line in connection.iterdump() if 'INTO "owner"' not in line)]


async def opened(path: Path) -> SqliteStore:
    """Return an open store on a database."""
    store = SqliteStore(path)
    await store.open(now_us=0)
    return store


async def test_an_older_database_is_brought_forward(path: Path) -> None:
    """By all steps there are; what was in it is still there, and the next opening has nothing to do."""
    for _ in range(2):
        store = await opened(path)
        (found,) = await store.lookup([Lookup(instance=InstanceKey("succeeded", "clean"), key="return_value")])
        assert found is not None
        assert found.value == b"[0,1,2]"
        await store.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (NEWEST,)
        assert connection.execute("SELECT * FROM note").fetchall() == [(1, "one", 3)]
    assert [each.name for each in path.parent.glob("*.bak*")] == ["runs.db.v1.bak"]
    with StoreCheck(path) as check:
        assert list(check.findings()) == []


async def test_the_copy_taken_before_is_what_was_there(path: Path) -> None:
    """For the owner only, and of the older version."""
    before = dump(path)
    await (await opened(path)).close()
    copy = Path(f"{path}.v1.bak")
    assert oct(copy.stat().st_mode & 0o777) == "0o600"
    assert dump(copy) == before
    assert before[0] == (1,)


async def test_copies_are_numbered_and_never_written_over(path: Path) -> None:
    """Whatever stands under a name stays."""
    Path(f"{path}.v1.bak").write_text("precious")
    Path(f"{path}.v1.bak.1").symlink_to("nowhere")
    before = dump(path)
    await (await opened(path)).close()
    assert Path(f"{path}.v1.bak").read_text() == "precious"
    assert Path(f"{path}.v1.bak.1").is_symlink()
    assert dump(Path(f"{path}.v1.bak.2")) == before


async def test_a_new_database_needs_no_copy(path: Path) -> None:
    """There is nothing in it."""
    new = path.with_name("new.db")
    await (await opened(new)).close()
    assert dump(new)[0] == (NEWEST,)
    assert list(path.parent.glob("new.db.v*")) == []


async def test_without_a_copy_nothing_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk too full for one is too full for the other."""

    def fail(*_names: str) -> None:
        raise OSError(28, "No space left on device")

    before = dump(path)
    monkeypatch.setattr("dagrelay.stores.sqlite.backup.os.link", fail)
    with pytest.raises(StoreBackupError, match="No space left"):
        await opened(path)
    assert dump(path) == before
    assert not is_held(str(path))
    assert sorted(each.name for each in path.parent.iterdir()) == ["runs.db", "runs.db.lock"]


async def test_a_step_that_fails_undoes_all_before_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the steps of earlier versions."""
    before = dump(path)
    monkeypatch.setattr(schema, "MIGRATIONS", (*ALL[:-1], (*ALL[-1], "INSERT INTO note VALUES (1, 'again', 0)")))
    with pytest.raises(StoreError) as raised:
        await opened(path)
    assert isinstance(raised.value.__cause__, sqlite3.IntegrityError)
    assert dump(path) == before


async def test_who_comes_second_finds_nothing_left_to_do(path: Path) -> None:
    """Without the lock file two may open at once: the version is asked again within the transaction."""
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as one,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        schema.migrate(one, before=lambda _version: schema.migrate(other))
    assert dump(path)[0] == (NEWEST,)


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_newer_database_is_refused_and_left_untouched(
    path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    """Byte for byte, and no copy is made."""
    await (await opened(path)).close()
    before = {each.name: each.read_bytes() for each in path.parent.iterdir() if not each.name.endswith(".lock")}
    monkeypatch.setattr(schema, "MIGRATIONS", FIRST)
    with pytest.raises(StoreSchemaError, match="newer version"):
        await SqliteStore(path, read_only=read_only).open(now_us=0)
    after = {each.name: each.read_bytes() for each in path.parent.iterdir() if not each.name.endswith((".lock", "-shm"))}
    after.pop("runs.db-wal", None)  # Empty, made by SQLite for any reader.
    assert after == before


async def test_an_older_database_is_not_read_before_it_is_migrated(path: Path) -> None:
    """Reading changes nothing, so that it can't be helped; the error says what to do."""
    before = path.read_bytes()
    with pytest.raises(StoreSchemaError, match=f"schema 1 of {NEWEST}; open it for writing once"):
        await SqliteStore(path, read_only=True).open(now_us=0)
    assert path.read_bytes() == before
    with StoreCheck(path) as check:
        assert [(each.table, each.row) for each in check.findings()] == [("schema", "")]
        assert list(check.resumable()) == []


_KILLS: Final = """
    import json, os, shutil, signal, sqlite3, sys
    from dagrelay.stores.sqlite import backup, schema

    path, migrations = sys.argv[1], json.loads(sys.argv[2])
    schema.MIGRATIONS = migrations

    class Killed(sqlite3.Connection):
        left = 0
        is_after = False

        def execute(self, sql, *parameters):
            self.left -= 1
            if self.left == 0 and not self.is_after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = super().execute(sql, *parameters)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

    def migrate(place, left, is_after):
        connection = sqlite3.connect(place, isolation_level=None, factory=Killed)
        schema.configure_writer(connection, synchronous="FULL")
        connection.left, connection.is_after = left, is_after
        schema.migrate(connection, before=lambda version: backup.copy_before_migration(connection, place, version))
        os._exit(0)

    for is_after in (False, True):
        for left in range(1, 60):
            place = f"{path}.{int(is_after)}.{left}"
            shutil.copy(path, place)
            child = os.fork()
            if not child:
                migrate(place, left, is_after)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            print(json.dumps([place, code]), flush=True)
            if code == 0:
                break
"""


def _killed(path: Path) -> list[tuple[str, int]]:
    """Migrate copies of a database that are killed at one statement after another; return each with its exit code."""
    words = [sys.executable, "-c", dedent(_KILLS), str(path), json.dumps(schema.MIGRATIONS)]
    ended = subprocess.run(words, timeout=50, check=True, capture_output=True, text=True)
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")
async def test_a_kill_at_any_statement_leaves_the_old_or_the_new(path: Path) -> None:
    """Before and after each one of the migration and of the copy taken first; the next opening then does all of it."""
    old = dump(path)
    kills = _killed(path)
    await (await opened(path)).close()
    new = dump(path)
    assert {code for _, code in kills} == {-signal.SIGKILL, 0}
    assert len(kills) > 2 * (sum(map(len, ALL[1:])) + 8)
    found = [dump(Path(place)) for place, _ in kills]
    assert all(each in (old, new) for each in found)
    assert old in found
    assert new in found
    for (place, code), each in zip(kills, found, strict=True):
        copies = list(path.parent.glob(f"{Path(place).name}.v1.bak"))
        assert all(dump(copy) == old for copy in copies)
        assert copies or each == old  # Nothing is migrated before there is a copy.
        assert code != 0 or each == new
    for place, _ in kills[:: len(kills) // 5]:
        await (await opened(Path(place))).close()
        assert dump(Path(place)) == new
