"""SQLite's errors in the library's terms."""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from contextlib import suppress
from typing import Final

from dagrelay.errors import StoreCorruptError, StoreError, StoreFullError, StoreReadOnlyError

__all__ = ("is_busy", "store_error")

_PRIMARY: Final = 0xFF
"""Mask of the primary code in an extended one."""
_INDEX_BYTES: Final = 64 * 1024
"""Twice what the index of the log grows by. With less left on the disk it was for want of room that it could not grow."""


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY


def is_busy(error: BaseException) -> bool:
    """Tell whether another connection was in the way for the moment."""
    return isinstance(error, sqlite3.Error) and _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def store_error(path: str, error: BaseException) -> StoreError:
    """Return the StoreError for an exception, which becomes its cause."""
    translated = _translate(path, error)
    translated.__cause__ = error
    return translated


def _translate(path: str, error: BaseException) -> StoreError:
    match _code(error):
        case sqlite3.SQLITE_FULL:
            return StoreFullError(path)
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreCorruptError(path, str(error))
        case sqlite3.SQLITE_READONLY:
            return StoreReadOnlyError(path)
        case sqlite3.SQLITE_IOERR if _has_met_its_limit(path) or _has_no_room_for_the_index(path, error):
            return StoreFullError(path)
        case _ if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return StoreFullError(path)
        case _:
            return StoreError(f"store {path!r} failed: {type(error).__name__}: {error}")


def _has_met_its_limit(path: str) -> bool:
    """Tell whether a file is as long as the process may make one, which SQLite takes for any failed write."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY:
        for name in (path, f"{path}-wal"):
            with suppress(OSError):
                if os.stat(name).st_size >= limit:  # noqa: PTH116 - as everywhere here, a path is a string
                    return True
    return False


def _has_no_room_for_the_index(path: str, error: BaseException) -> bool:
    """Tell whether the log's index could not grow on a full disk, which SQLite takes for any failure."""
    if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_IOERR_SHMSIZE:
        return False
    with suppress(OSError):
        disk = os.statvfs(os.path.dirname(path))  # noqa: PTH120 - as everywhere here, a path is a string
        return disk.f_bavail * disk.f_frsize < _INDEX_BYTES
    return False
