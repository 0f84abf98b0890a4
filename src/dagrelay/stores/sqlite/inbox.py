"""The inbox of a store: a folder beside the database by which other processes reach its owner, alive or not.

A sender writes a file aside, syncs it, gives it its name and syncs the folder: from then on the message is accepted, whatever
becomes of anybody. The owner reads the files in the order of their names, and takes each away once what it asked for is
committed. All here is files only, and belongs in a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from typing import TYPE_CHECKING, Final

import attrs

from dagrelay.errors import StoreError
from dagrelay.log import get_logger
from dagrelay.stores.sqlite.faults import store_error
from dagrelay.stores.sqlite.messages import decode_message

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Iterable

    from dagrelay.stores.sqlite.messages import InboxMessage

__all__ = ("Collected", "InboxFolder", "Letter", "Unreadable")

_NAME: Final = re.compile(r"[0-9]{20}-(?P<id>[0-9a-f]{32})\Z", re.ASCII)
"""The time of sending in nanoseconds, so that names sort by age, and the message's id."""
_UNFINISHED: Final = ".unfinished-"
"""How the names begin of files that a sender is writing, or has left as it was killed."""
_ASIDE: Final = ".rejected"
"""How the names end of files that are no messages."""
_KEPT_ASIDE: Final = 100
"""Files kept aside to be looked at; further ones are removed."""
_FORGOTTEN_S: Final = 3600.0
"""Age from which on an unfinished file has no sender any more."""
_FOLDER_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_OTHERS: Final = 0o077
_MOST_LETTERS: Final = 256
_MOST_BYTES: Final = 8 * 1024 * 1024
"""What is read in one go."""


@attrs.frozen(kw_only=True)
class Unreadable:
    """A file with the name of a message, and no message in it."""

    reason: str
    """What is wrong with it."""


@attrs.frozen(kw_only=True)
class Letter:
    """A file of the inbox."""

    name: str
    """Its name."""
    message_id: str
    """The message's id, out of the name."""
    content: InboxMessage | Unreadable
    """What is in it."""

    @property
    def run_id(self) -> str:
        """The run it is about; an empty text for none."""
        return "" if isinstance(self.content, Unreadable) else self.content.run_id


@attrs.frozen(kw_only=True)
class Collected:
    """What one look into the inbox has found."""

    letters: tuple[Letter, ...]
    """The oldest first."""
    are_more: bool
    """Whether there are more of them."""


class InboxFolder:
    """The folder of one store.

    Args:
        database: the absolute path of the database, links resolved.
    """

    def __init__(self, database: str) -> None:
        """Take whose inbox it is; nothing is touched."""
        self._database = database
        self.path: Final = f"{database}.inbox"

    def stamp(self) -> int | None:
        """Return when files last came or went, in nanoseconds; None if there is no inbox yet. One call of the system."""
        try:
            return os.stat(self.path).st_mtime_ns  # noqa: PTH116 - asked ten times a second, and a Path costs more than the call
        except OSError:
            return None

    # ------------------------------------------------------------------------------------------------------- sending

    def post(self, data: bytes, *, message_id: str, sent_ns: int) -> None:
        """Put an encoded message into the inbox; it is accepted when this returns.

        Args:
            data: the message.
            message_id: 32 hexadecimal digits that no other message has.
            sent_ns: the time, in nanoseconds since 1970; the owner carries messages out in its order.

        Raises:
            StoreError: it was not accepted; an error of the very last step may come though it was.
        """
        name, unfinished = f"{sent_ns:020d}-{message_id}", f"{_UNFINISHED}{message_id}"
        assert _NAME.match(name), "the owner would take it for rubbish"
        try:
            self._make()
            with self._opened() as folder:
                try:
                    self._write(folder, unfinished, data)
                    os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(unfinished, dir_fd=folder)
                    raise
                os.fsync(folder)
        except OSError as error:
            raise store_error(self._database, error) from error

    def _make(self) -> None:
        """Make the folder if it is missing, and make sure that a power cut does not take it away."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.path, _FOLDER_MODE)  # noqa: PTH102 - as everywhere here, a path is a string
            if stat.S_IMODE(os.lstat(self.path).st_mode) != _FOLDER_MODE:
                os.chmod(self.path, _FOLDER_MODE)  # noqa: PTH101 - whatever the umask is
        above = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120 - as above
        try:
            os.fsync(above)  # Also if another sender has made it, who may have been killed since.
        finally:
            os.close(above)

    @staticmethod
    def _write(folder: int, name: str, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, _FILE_MODE, dir_fd=folder), "wb") as file:
            os.fchmod(file.fileno(), _FILE_MODE)  # Made under whatever umask there was.
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    # ----------------------------------------------------------------------------------------------------- receiving

    def collect(self, *, without: Container[str], max_bytes: int) -> Collected:
        """Read messages, the oldest first. What can't be one by its name is moved aside, with a warning.

        Args:
            without: names to pass over.
            max_bytes: what one may weigh.

        Raises:
            StoreError: the folder is not safe to read from, or can't be read.
        """
        try:
            with self._opened() as folder:
                return self._collect(folder, without, max_bytes)
        except FileNotFoundError:
            return Collected(letters=(), are_more=False)
        except OSError as error:
            raise store_error(self._database, error) from error

    def _collect(self, folder: int, without: Container[str], max_bytes: int) -> Collected:
        names = sorted(os.listdir(folder))
        letters: list[Letter] = []
        room = _MOST_BYTES
        for name in names:
            found = _NAME.match(name)
            if found is None:
                self._tidy(folder, name)
            elif name not in without:
                if len(letters) == _MOST_LETTERS or room <= 0:
                    return Collected(letters=tuple(letters), are_more=True)
                content, size = _read(folder, name, max_bytes)
                room -= size
                if content is not None:
                    letters.append(Letter(name=name, message_id=found["id"], content=content))
        return Collected(letters=tuple(letters), are_more=False)

    def _tidy(self, folder: int, name: str) -> None:
        """Deal with a file that has not the name of a message."""
        if name.endswith(_ASIDE):
            return
        try:
            if name.startswith(_UNFINISHED):
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if os.fstat(folder).st_mtime - status.st_mtime > _FORGOTTEN_S:
                    os.unlink(name, dir_fd=folder)
                return
            self._put_aside(folder, name)
        except OSError as error:
            reason = f"its name is none of a message, and it can't be moved aside: {error.strerror}"
        else:
            reason = "its name is none of a message"
        get_logger().warning("inbox.rejected", store=self._database, file=ascii(name), reason=reason)

    def set_aside(self, letter: Letter, reason: str) -> None:
        """Move a file aside that is no message, with a warning.

        Raises:
            StoreError: it can't be moved.
        """
        get_logger().warning("inbox.rejected", store=self._database, file=letter.name, reason=reason)
        try:
            with self._opened() as folder, contextlib.suppress(FileNotFoundError):
                self._put_aside(folder, letter.name)
        except OSError as error:
            raise store_error(self._database, error) from error

    @staticmethod
    def _put_aside(folder: int, name: str) -> None:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if sum(each.endswith(_ASIDE) for each in os.listdir(folder)) >= _KEPT_ASIDE and not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=folder)
            return
        # A name of its own where the old one leaves no room, or might itself be rubbish.
        aside = f"{name if _NAME.match(name) else f'{status.st_dev}-{status.st_ino}'}{_ASIDE}"
        os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)

    def remove(self, names: Iterable[str]) -> None:
        """Take away what was carried out; what is gone already is no matter.

        Raises:
            StoreError: a file can't be removed.
        """
        try:
            with self._opened() as folder:
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)
        except OSError as error:
            raise store_error(self._database, error) from error

    # -------------------------------------------------------------------------------------------------------- folder

    @contextlib.contextmanager
    def _opened(self) -> Generator[int]:
        """Open the folder, if only we can have put anything there.

        Raises:
            StoreError: others may write to it or read it.
        """
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(folder)
            if status.st_uid != os.geteuid() or status.st_mode & _OTHERS:
                raise StoreError(
                    f"the inbox {self.path!r} must have mode 0700 and belong to user {os.geteuid()}; it has mode "
                    f"{stat.S_IMODE(status.st_mode):04o} and belongs to user {status.st_uid}; mend that, or remove it"
                )
            yield folder
        finally:
            os.close(folder)


def _read(folder: int, name: str, max_bytes: int) -> tuple[InboxMessage | Unreadable | None, int]:
    """Return what is in a file, None if it is gone, and its size."""
    try:
        # Without waiting: a pipe that nobody writes to would hold everybody up.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None, 0
    except OSError as error:
        return Unreadable(reason=f"it can't be opened as a file of its own: {error.strerror}"), 0
    try:
        reason = _fault(os.fstat(fd), max_bytes)
        if reason is not None:
            return Unreadable(reason=reason), 0
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(fd)
    try:
        return decode_message(data), len(data)
    except ValueError as error:
        return Unreadable(reason=str(error)), len(data)


def _fault(status: os.stat_result, max_bytes: int) -> str | None:
    """Return what keeps a file from being a message, whatever is in it."""
    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_uid != os.geteuid() or status.st_nlink != 1:
        return "it is not the file of this user alone"
    if status.st_mode & _OTHERS:
        return f"its mode is {stat.S_IMODE(status.st_mode):04o} and not 0600"
    if status.st_size > max_bytes:
        return f"it has {status.st_size} bytes; Limits(max_xcom_bytes=...) allows {max_bytes}"
    return None
