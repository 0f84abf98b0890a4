"""What a backup does to the files there are: nothing, until all of it is there."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dagrelay.errors import StoreBackupError
from dagrelay.stores.sqlite.backup import _StoppedError, copy_database

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Generator[sqlite3.Connection]:
    """Give a database with a table."""
    with closing(sqlite3.connect(tmp_path / "source.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
        yield connection


def test_a_backup_cut_short_leaves_nothing(source: sqlite3.Connection, tmp_path: Path) -> None:
    """Nor is there anything under its name while it is written."""
    target = tmp_path / "copy.db"
    was_there: list[bool] = []

    def stop() -> bool:
        was_there.append(target.exists())
        return True

    with pytest.raises(_StoppedError):
        copy_database(source, "source.db", str(target), is_stopped=stop)
    assert was_there == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["source.db"]


def test_a_file_that_came_meanwhile_is_not_replaced(source: sqlite3.Connection, tmp_path: Path) -> None:
    """The name was free when the backup began."""
    target = tmp_path / "copy.db"

    def put_one_there() -> bool:
        target.write_text("somebody else's")
        return False

    with pytest.raises(StoreBackupError, match="there is such a file already"):
        copy_database(source, "source.db", str(target), is_stopped=put_one_there)
    assert target.read_text() == "somebody else's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "source.db"]


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_a_name_beside_which_a_log_was_left_is_refused(source: sqlite3.Connection, tmp_path: Path, suffix: str) -> None:
    """SQLite would take it for the copy's own."""
    target = tmp_path / "copy.db"
    (tmp_path / f"copy.db{suffix}").touch()
    with pytest.raises(StoreBackupError, match="left of another database"):
        copy_database(source, "source.db", str(target))
    assert not target.exists()
