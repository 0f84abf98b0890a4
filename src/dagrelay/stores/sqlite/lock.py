"""One writer at a time: an flock on a sidecar file, which the kernel gives back whatever becomes of its holder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import weakref
from pathlib import Path
from typing import Any, Final

import anyio

from dagrelay.errors import StoreError, StoreLockedError

__all__ = ("OwnerLock", "disown", "is_held")

_POLL_S: Final = 0.02
"""Seconds between two tries."""
_MIN_TRIES: Final = 3
"""Tries at the least: a reader asking whether anybody holds the lock holds it itself for an instant."""
_MAX_TRIES: Final = 25
"""Tries at the most for an error that names the holder: it may have the lock and be about to sign."""
_MODE: Final = 0o600


_held: Final[weakref.WeakSet[OwnerLock]] = weakref.WeakSet()


def disown() -> None:
    """Let go, in a forked child, of what its parent holds: else the lock would outlive its owner there."""
    for lock in tuple(_held):
        lock.release()


os.register_at_fork(after_in_child=disown)


class OwnerLock:
    """The right to write to a store.

    The file stays when the lock is released: removing it would let two owners hold locks of two files of one name.
    """

    def __init__(self, database: str) -> None:
        """Take the path of the database."""
        self._database = database
        self._path = f"{database}.lock"
        self._fd: int | None = None

    async def acquire(self, *, timeout_s: float, since: str) -> None:
        """Take the lock, trying for `timeout_s`.

        Raises:
            StoreLockedError: somebody else holds it.
            StoreError: the lock file can't be opened.

        Cancellation: it is not taken.
        """
        deadline = anyio.current_time() + timeout_s
        tries = 0
        while not self._try():
            tries += 1
            if tries >= _MIN_TRIES and anyio.current_time() >= deadline:
                error = self._locked()
                if error.pid is not None or tries >= _MAX_TRIES:
                    raise error
            await anyio.sleep(_POLL_S)
        _held.add(self)
        self._sign(since)

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _try(self) -> bool:
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        except OSError as error:
            message = f"can't open the lock file {self._path!r}: {error.strerror}"
            raise StoreError(message) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have removed the file between opening and locking it; then the name stands for another one.
            is_ours = os.path.samestat(os.fstat(fd), Path(self._path).stat())
        except OSError:
            is_ours = False
        if is_ours:
            self._fd = fd
        else:
            os.close(fd)
        return is_ours

    def _sign(self, since: str) -> None:
        assert self._fd is not None, "only the holder signs"
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.fchmod(self._fd, _MODE)  # Made under whatever umask there was.
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(owner).encode(), 0)

    def _locked(self) -> StoreLockedError:
        owner: Any = None
        # The holder may be about to sign; then it has no name yet, or that of the one before.
        with contextlib.suppress(OSError, ValueError):
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                owner = json.loads(os.read(fd, 4096))
            finally:
                os.close(fd)
        match owner:
            case {"pid": int(pid), "host": str(host), "since": str(since)} if not _is_gone(pid, host):
                return StoreLockedError(self._database, pid=pid, host=host, since=since)
            case _:
                return StoreLockedError(self._database, pid=None, host=None, since=None)


def _is_gone(pid: int, host: str) -> bool:
    """Tell whether a process is known to have ended."""
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass
    return False


def is_held(database: str) -> bool:
    """Tell whether a store has an owner now; where that can't be found out, it has."""
    try:
        fd = os.open(f"{database}.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)
