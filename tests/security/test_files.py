"""The files of a store are their owner's, and a path that leads elsewhere leads to no harm."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay import Runtime, SqliteStore, StoreError, StoreLockedError, StoreSchemaError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=[0, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let files be made for everybody, for the usual ones, or for nobody."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_every_file_of_a_store_is_its_owners_only(tmp_path: Path) -> None:
    """Database, log, its index and lock, while it is open and when it is closed, whatever the umask."""
    async with Runtime(tmp_path / "runs.db") as runtime:
        await runtime.xcom.push("r", "t", "k", 1)
        while_open = {file.name: oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()}
    assert while_open == dict.fromkeys(("runs.db", "runs.db-wal", "runs.db-shm", "runs.db.lock"), "0o600")
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o600"}


async def test_a_link_to_a_store_is_that_store(tmp_path: Path) -> None:
    """With the lock and the log beside the file itself, so that two names of it have one owner."""
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "runs.db", tmp_path / "link.db"
    link.symlink_to(real)
    async with Runtime(link) as runtime:
        await runtime.xcom.push("r", "t", "k", 1)
        with pytest.raises(StoreLockedError):
            await SqliteStore(real).open(now_us=0)
    async with Runtime(real) as runtime:
        assert await runtime.xcom.pull("r", "t", "k") == 1
        with pytest.raises(StoreLockedError):
            await SqliteStore(link).open(now_us=0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.db", "real"]


async def test_a_link_in_a_circle_is_an_error(tmp_path: Path) -> None:
    """Of ours, or of the path's."""
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises((StoreError, OSError, RuntimeError)):
        await SqliteStore(tmp_path / "one").open(now_us=0)


def another_applications(path: Path) -> None:
    """Make a database that is not ours."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (x)")
        connection.commit()


@pytest.mark.parametrize("is_link", [False, True], ids=["itself", "by a link"])
@pytest.mark.parametrize("kind", ["text", "database", "binary"])
async def test_a_foreign_file_is_left_untouched(tmp_path: Path, kind: str, is_link: bool) -> None:
    """Named by mistake or through a planted link: no byte, and no mode, of it changes, and no log is left beside it."""
    (tmp_path / "home").mkdir()
    victim, link = tmp_path / "home" / "victim", tmp_path / "runs.db"
    if kind == "database":
        another_applications(victim)
    else:
        victim.write_bytes(b"precious words" if kind == "text" else os.urandom(5_000))
    victim.chmod(0o644)
    link.symlink_to(victim)
    before: Any = (victim.read_bytes(), victim.stat().st_mode, victim.stat().st_mtime_ns)
    with pytest.raises(StoreSchemaError):
        await SqliteStore(link if is_link else victim).open(now_us=0)
    assert (victim.read_bytes(), victim.stat().st_mode, victim.stat().st_mtime_ns) == before
    assert {file.name for file in victim.parent.iterdir()} <= {"victim", "victim.lock"}


async def test_a_run_id_or_key_names_no_file(tmp_path: Path) -> None:
    """Whatever a key says, no file is made for it."""
    async with Runtime(tmp_path / "runs.db") as runtime:
        for key in ("../../planted", "/tmp/planted", "a/b", "..", "~", "$HOME", "file:x?mode=memory", "|id"):  # noqa: S108 - a key
            await runtime.xcom.push("r", "t", key, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["runs.db", "runs.db.lock"]


@pytest.mark.parametrize("name", ["a?mode=memory", "a%2e%2e%2fb", "a#b", "file:a", "a b", "ä", ":memory"])
async def test_a_file_name_is_no_uri(tmp_path: Path, name: str) -> None:
    """What means something in a URI means itself in a name."""
    async with Runtime(tmp_path / name) as runtime:
        await runtime.xcom.push("r", "t", "k", 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([name, f"{name}.lock"])
