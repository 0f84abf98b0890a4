"""Copies of a whole database: the state of one moment, put in place whole or not at all.

SQLite's backup API copies pages in steps from a connection that keeps one snapshot open all the while. In WAL mode that holds up
no writer and nothing has to be begun again, though the log can't be emptied before the copy is done.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from dagrelay.errors import StoreBackupError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

__all__ = ("back_up", "copy_before_migration", "copy_database")

_STEP_PAGES: Final = 256
"""Pages copied before it is asked whether to go on: a MiB, about a millisecond."""
_MOST_COPIES: Final = 1000
"""Copies of one version of a database, before something must be wrong."""
_MODE: Final = 0o600


class _StoppedError(Exception):
    """Nobody waits for the copy any more."""


async def back_up(work: Callable[[Callable[[], bool]], Awaitable[None]]) -> None:
    """Await work that is given a question to ask between its steps: whether to stop.

    Cancellation: the work is told to stop, and its end is awaited.
    """
    stop, over = threading.Event(), anyio.Event()
    failed: list[Exception] = []

    async def carry_out() -> None:
        try:
            await work(stop.is_set)
        except Exception as error:  # noqa: BLE001 - raised below, lest the task group wrap it
            failed.append(error)
        over.set()

    async with anyio.create_task_group() as group:
        group.start_soon(carry_out)
        try:
            await over.wait()
        finally:
            stop.set()
    if failed:
        raise failed[0]


def copy_database(source: sqlite3.Connection, path: str, target: str, *, is_stopped: Callable[[], bool] = lambda: False) -> None:
    """Copy a database to a new file of mode 0600, which is synced before it gets its name; a unit of work.

    Args:
        source: a connection outside any transaction.
        path: its database, for error messages.
        target: where the copy goes.
        is_stopped: asked after each step.

    Raises:
        StoreBackupError: there is something under that name already, or the copy can't be written.
        sqlite3.Error: the database can't be read for the moment.
    """
    with _snapshot(source):
        _refuse_leftovers(path, target)
        try:
            _copy(source, [target], is_stopped)
        except FileExistsError as error:
            raise StoreBackupError(path, target, "there is such a file already") from error
        except (OSError, sqlite3.Error) as error:
            raise StoreBackupError(path, target, f"{type(error).__name__}: {error}") from error


def copy_before_migration(source: sqlite3.Connection, path: str, version: int) -> None:
    """Copy a database to `<path>.v<version>.bak`, or the first free one of `.bak.1`, `.bak.2` and so on; a unit of work.

    Raises:
        StoreBackupError: the copy can't be written.
        sqlite3.Error: the database can't be read for the moment.
    """
    name = f"{path}.v{version}.bak"
    with _snapshot(source):
        try:
            _copy(source, [name, *(f"{name}.{number}" for number in range(1, _MOST_COPIES))], lambda: False)
        except (OSError, sqlite3.Error) as error:
            raise StoreBackupError(path, name, f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _snapshot(source: sqlite3.Connection) -> Generator[None]:
    source.execute("BEGIN")
    try:
        source.execute("SELECT count(*) FROM sqlite_schema").fetchall()  # The snapshot is taken by the first read.
        yield
    finally:
        source.execute("ROLLBACK")


def _refuse_leftovers(path: str, target: str) -> None:
    """Refuse a name beside which a log lies, as SQLite would take it for the copy's own."""
    if os.path.lexists(target):
        raise StoreBackupError(path, target, "there is such a file already")
    for leftover in (f"{target}-wal", f"{target}-journal"):
        if os.path.lexists(leftover):
            raise StoreBackupError(path, target, f"{leftover!r} is left of another database there; move it away first")


def _copy(source: sqlite3.Connection, names: list[str], is_stopped: Callable[[], bool]) -> None:
    folder = Path(names[0]).absolute().parent
    # For the owner only from the start, by a name that nobody can have waited for.
    handle, partial = tempfile.mkstemp(prefix=".dagrelay-", suffix=".partial", dir=folder)
    os.fchmod(handle, _MODE)  # Whatever the umask takes away.
    os.close(handle)
    try:
        _fill(source, partial, is_stopped)
        _sync(partial)
        _link(partial, names)
        _sync(str(folder))
    finally:
        Path(partial).unlink()


def _fill(source: sqlite3.Connection, partial: str, is_stopped: Callable[[], bool]) -> None:
    def after_step(_status: int, _remaining: int, _total: int) -> None:
        if is_stopped():
            raise _StoppedError

    with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        # The file is thrown away unless all of it gets there, and synced once at the end.
        copy.execute("PRAGMA journal_mode = OFF").fetchall()
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(copy, pages=_STEP_PAGES, progress=after_step)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _link(partial: str, names: list[str]) -> None:
    """Give a file the first of some names that is free; unlike a rename, a link replaces nothing.

    Raises:
        FileExistsError: none is.
    """
    for name in names[:-1]:
        with contextlib.suppress(FileExistsError):
            os.link(partial, name)
            return
    os.link(partial, names[-1])
