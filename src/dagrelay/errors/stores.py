"""Errors of stores: the file, its owner, and the disk."""

from __future__ import annotations

from dagrelay.errors.base import DagrelayError

__all__ = (
    "StaleOwnerError",
    "StoreBackupError",
    "StoreClosedError",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "StoreLockedError",
    "StoreReadOnlyError",
    "StoreSchemaError",
    "StoreVanishedError",
)


class StoreError(DagrelayError):
    """The store can't do what it was asked; the driver's exception is the cause."""


class StoreLockedError(StoreError, OSError):
    """Another process (or another runtime of this one) writes to the store."""

    def __init__(self, path: str, *, pid: int | None, host: str | None, since: str | None) -> None:
        """Take the store's path and what its lock file says of the owner."""
        self.path = path
        self.pid = pid
        self.host = host
        self.since = since
        owner = f"process {pid} on {host} since {since}" if pid is not None else "another process"
        super().__init__(f"store {path!r} is in use by {owner}; one writer at a time (open it with read_only=True to look)")


class StaleOwnerError(StoreError):
    """Another owner has taken the store over since it was opened; nothing was written."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"store {path!r} has been taken over by another owner; nothing was written")


class StoreFullError(StoreError, OSError):
    """The disk, or the database's page limit, is full."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"no room left to write to store {path!r}; free some space and resume")


class StoreCorruptError(StoreError):
    """What was read is not what was written."""

    def __init__(self, path: str, what: str) -> None:
        """Take the store's path and what is damaged."""
        self.path = path
        self.what = what
        super().__init__(f"store {path!r} is damaged: {what}")


class StoreVanishedError(StoreError):
    """The database file was moved or deleted while open."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"the file of store {path!r} was moved or deleted while in use")


class StoreReadOnlyError(StoreError):
    """A write was asked of a store opened for reading, or of a file that can't be written."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"store {path!r} is read-only")


class StoreSchemaError(StoreError):
    """The file is no store of this library, or a newer version wrote it; it is left untouched."""

    def __init__(self, path: str, reason: str) -> None:
        """Take the store's path and the reason."""
        self.path = path
        self.reason = reason
        super().__init__(f"can't open store {path!r}: {reason}")


class StoreBackupError(StoreError):
    """A backup was not made; nothing stands under its name but what stood there before."""

    def __init__(self, path: str, target: str, reason: str) -> None:
        """Take the store's path, where the backup was to go, and why it did not."""
        self.path = path
        self.target = target
        self.reason = reason
        super().__init__(f"can't back up store {path!r} to {target!r}: {reason}")


class StoreClosedError(StoreError):
    """The store is not open."""

    def __init__(self, path: str) -> None:
        """Take the store's path."""
        self.path = path
        super().__init__(f"store {path!r} is not open")
