"""The inbox as files: a message is accepted whole or not at all, read in order, and nothing that is none does harm."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from dagrelay import Limits, StoreError, StoreFullError, XComSerializationError, XComTooLargeError
from dagrelay.stores.sqlite.inbox import InboxFolder, Letter, Unreadable
from dagrelay.stores.sqlite.messages import (
    CancelMessage,
    InboxMessage,
    ProvideMessage,
    RetryMessage,
    decode_message,
    encode_message,
    most_message_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS: Final = Limits()
MOST: Final = most_message_bytes(LIMITS)
MESSAGES: Final[tuple[InboxMessage, ...]] = (
    ProvideMessage(run_id="r1", task_id="t", value={"approved": True, "by": "Zoë", "note": "\x1b[31m", "n": [1.5, None]}),
    CancelMessage(run_id="r1"),
    RetryMessage(run_id="r:1@x+y", task_id="t.1"),
)


@pytest.fixture
def folder(tmp_path: Path) -> InboxFolder:
    """Return the inbox of a store, not made yet."""
    return InboxFolder(str(tmp_path / "runs.db"))


def message_id(number: int) -> str:
    """Return an id."""
    return f"{number:032x}"


def post(folder: InboxFolder, number: int, message: InboxMessage | bytes = MESSAGES[1], *, sent_ns: int | None = None) -> str:
    """Send a message and return the name of its file."""
    data = message if isinstance(message, bytes) else encode_message(message, LIMITS)
    sent_ns = number if sent_ns is None else sent_ns
    folder.post(data, message_id=message_id(number), sent_ns=sent_ns)
    return f"{sent_ns:020d}-{message_id(number)}"


def collected(folder: InboxFolder) -> tuple[Letter, ...]:
    """Return what is in the inbox."""
    found = folder.collect(without=(), max_bytes=MOST)
    assert not found.are_more
    return found.letters


def names(folder: InboxFolder) -> list[str]:
    """Return the names of its files."""
    return sorted(path.name for path in Path(folder.path).iterdir())


# -------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_sent(folder: InboxFolder, message: InboxMessage) -> None:
    """With its id, and the run it is about."""
    name = post(folder, 7, message)
    (letter,) = collected(folder)
    assert letter == Letter(name=name, message_id=message_id(7), content=message)
    assert letter.run_id == message.run_id


def test_a_value_at_the_limit_is_accepted_and_arrives(folder: InboxFolder) -> None:
    """By the bytes of the value alone; one more is refused by the sender."""
    limits = Limits(max_xcom_bytes=100)
    folder.post(
        encode_message(ProvideMessage(run_id="r" * 250, task_id="t" * 250, value="é" * 49), limits),
        message_id=message_id(1),
        sent_ns=1,
    )
    (letter,) = folder.collect(without=(), max_bytes=most_message_bytes(limits)).letters
    assert letter.content == ProvideMessage(run_id="r" * 250, task_id="t" * 250, value="é" * 49)
    with pytest.raises(XComTooLargeError, match="the value for 't'"):
        encode_message(ProvideMessage(run_id="r", task_id="t", value="é" * 49 + "x"), limits)


def nested(depth: int) -> list[Any]:
    """Return lists inside each other."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_a_value_nested_as_deep_as_may_be_arrives() -> None:
    """The form around it does not count."""
    message = ProvideMessage(run_id="r", task_id="t", value=nested(LIMITS.max_depth))
    assert decode_message(encode_message(message, LIMITS)) == message
    with pytest.raises(XComSerializationError):
        encode_message(ProvideMessage(run_id="r", task_id="t", value=nested(LIMITS.max_depth + 1)), LIMITS)


@pytest.mark.parametrize("value", [float("nan"), {1: 2}, "\ud800", object()], ids=["nan", "key", "surrogate", "object"])
def test_a_value_that_json_cannot_say_is_not_sent(value: object) -> None:
    """As it could not be stored."""
    with pytest.raises(XComSerializationError):
        encode_message(ProvideMessage(run_id="r", task_id="t", value=value), LIMITS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "{",
        "[]",
        "null",
        '"cancel"',
        "{}",
        '{"ask": "cancel"}',
        '{"ask": "cancel", "run_id": 1}',
        '{"ask": "cancel", "run_id": "../../etc/passwd"}',
        '{"ask": "cancel", "run_id": "r", "task_id": "t"}',
        '{"ask": "cancel", "run_id": "r\\n"}',
        '{"ask": "retry", "run_id": "r"}',
        '{"ask": "retry", "run_id": "r", "task_id": "a/b"}',
        '{"ask": "retry", "run_id": "r", "task_id": "t", "more": 1}',
        '{"ask": "provide", "run_id": "r", "task_id": "t"}',
        '{"ask": "provide", "run_id": "r", "task_id": "t", "value": NaN}',
        '{"ask": "provide", "run_id": "r", "task_id": "t", "value": 1e999}',
        '{"ask": "provide", "run_id": "r", "task_id": "t", "value": "\\ud800"}',
        '{"ask": "provide", "run_id": "r", "task_id": "t", "value": 1, "by": "me"}',
        '{"ask": "__class__", "run_id": "r"}',
        '{"ask": "provide", "run_id": "r", "task_id": "t", "value": ' + "[" * 100_000,
        '{"ask": "provide", "run_id": "r", "task_id": "t", "value": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"ask": "provide", "run_id": "r", "task_id": "t", "value": ' + "9" * 5000 + "}",
        "cos\nsystem\n(S'true'\ntR.",
    ],
    ids=lambda text: ascii(text[:70]),
)
def test_what_is_no_message_is_refused_without_telling_what_it_said(text: str) -> None:
    """The shape is strict, the ids are checked, and no depth or number is too much for the reader."""
    with pytest.raises(ValueError, match=r"^it ") as caught:
        decode_message(text.encode())
    assert "passwd" not in str(caught.value)


def test_what_is_no_text_is_refused() -> None:
    """As it is no JSON."""
    with pytest.raises(ValueError, match="no JSON"):
        decode_message(b"\xff\xfe{}")


# -------------------------------------------------------------------------------------------------- sending


@pytest.fixture(params=[0, 0o022, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let files be made for everybody, for the usual ones, or for nobody."""
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_folder_and_files_are_their_owners_only(folder: InboxFolder) -> None:
    """Whatever the umask."""
    name = post(folder, 1)
    assert stat.S_IMODE(Path(folder.path).stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(folder.path, name).stat().st_mode) == 0o600


def test_there_is_no_inbox_before_the_first_message(folder: InboxFolder) -> None:
    """And looking makes none."""
    assert folder.stamp() is None
    assert collected(folder) == ()
    assert not Path(folder.path).exists()
    post(folder, 1)
    assert folder.stamp() == Path(folder.path).stat().st_mtime_ns


def test_a_message_is_synced_before_it_has_its_name_and_the_folder_after(
    folder: InboxFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it is there by halves after a power cut, and nothing accepted is gone."""
    story: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        found = Path(f"/proc/self/fd/{fd}").readlink().name
        story.append(f"sync {'file' if '.unfinished-' in found else found}")
        fsync(fd)

    def noted_rename(*args: Any, **options: Any) -> None:
        story.append("rename")
        rename(*args, **options)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    post(folder, 1)
    assert story == [f"sync {Path(folder.path).parent.name}", "sync file", "rename", "sync runs.db.inbox"]


@pytest.mark.parametrize(("call", "error"), [("fsync", errno.EIO), ("fsync", errno.ENOSPC), ("rename", errno.EACCES)])
def test_a_message_that_could_not_be_written_is_not_there(
    folder: InboxFolder, monkeypatch: pytest.MonkeyPatch, call: str, error: int
) -> None:
    """The sender is told, and no half of it stays."""
    post(folder, 1)

    def fail(*args: Any, **_options: Any) -> None:
        if call != "fsync" or ".unfinished-" in Path(f"/proc/self/fd/{args[0]}").readlink().name:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(StoreFullError if error == errno.ENOSPC else StoreError):
        post(folder, 2)
    assert [name[-1] for name in names(folder)] == ["1"]


def test_two_messages_of_one_moment_are_two(folder: InboxFolder) -> None:
    """Their ids tell them apart."""
    post(folder, 1, sent_ns=5)
    post(folder, 2, sent_ns=5)
    assert [letter.message_id for letter in collected(folder)] == [message_id(1), message_id(2)]


# -------------------------------------------------------------------------------------------------- receiving


def test_messages_are_read_in_the_order_of_their_sending(folder: InboxFolder) -> None:
    """Not in that of the file system, nor of the ids."""
    for number in (5, 3, 9, 1):
        post(folder, number, sent_ns=10**18 * (9 - number) // 9)
    assert [letter.message_id for letter in collected(folder)] == [message_id(number) for number in (9, 5, 3, 1)]


def test_what_is_passed_over_or_removed_is_not_read(folder: InboxFolder) -> None:
    """Removing what is gone is no matter."""
    first, second, third = (post(folder, number) for number in (1, 2, 3))
    assert [letter.name for letter in folder.collect(without={first}, max_bytes=MOST).letters] == [second, third]
    folder.remove([first, second])
    folder.remove([first])
    assert [letter.name for letter in collected(folder)] == [third]


def sync_nothing(_fd: int) -> None:
    """Leave the disk alone: hundreds of messages are not about power cuts."""


def test_one_look_reads_a_bounded_number(folder: InboxFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says that there is more."""
    monkeypatch.setattr(os, "fsync", sync_nothing)
    posted = [post(folder, number) for number in range(300)]
    first = folder.collect(without=(), max_bytes=MOST)
    assert (len(first.letters), first.are_more) == (256, True)
    rest = folder.collect(without={letter.name for letter in first.letters}, max_bytes=MOST)
    assert not rest.are_more
    assert [letter.name for letter in first.letters + rest.letters] == posted


def test_one_look_reads_a_bounded_number_of_bytes(folder: InboxFolder) -> None:
    """Messages near the limit are read a few at a time."""
    for number in range(10):
        post(folder, number, ProvideMessage(run_id="r", task_id="t", value="x" * 1_000_000))
    found = folder.collect(without=(), max_bytes=MOST)
    assert found.are_more
    assert len(found.letters) == 9


def test_a_file_that_is_gone_between_listing_and_reading_is_no_matter(
    folder: InboxFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may tidy up by hand."""
    name = post(folder, 1)

    def listed(_folder: int) -> list[str]:
        return [name, f"{2:020d}-{message_id(2)}"]

    monkeypatch.setattr(os, "listdir", listed)
    assert [letter.name for letter in collected(folder)] == [name]


def test_what_a_killed_sender_left_is_removed_once_it_is_old(folder: InboxFolder) -> None:
    """Until then it may be a message on its way."""
    name = post(folder, 1)
    left = Path(folder.path, f".unfinished-{message_id(2)}")
    left.write_bytes(b"{")
    assert [letter.name for letter in collected(folder)] == [name]
    assert left.exists()
    now = Path(folder.path).stat().st_mtime
    os.utime(left, (now - 3700, now - 3700))
    assert [letter.name for letter in collected(folder)] == [name]
    assert names(folder) == [name]


# -------------------------------------------------------------------------------------------------- rubbish


def test_a_message_that_can_not_be_read_is_set_aside_by_name(folder: InboxFolder, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning that does not tell what it said, and those behind it are read."""
    name, good = post(folder, 1, b'{"ask": "hunter2"}'), post(folder, 2)
    bad, _ = collected(folder)
    assert isinstance(bad.content, Unreadable)
    assert bad.run_id == ""
    with caplog.at_level(logging.WARNING, "dagrelay"):
        folder.set_aside(bad, bad.content.reason)
        folder.set_aside(bad, bad.content.reason)  # Gone already, which is no matter.
    assert names(folder) == [f"{name}.rejected", good] or names(folder) == [good, f"{name}.rejected"]
    assert [letter.name for letter in collected(folder)] == [good]
    assert {record.getMessage() for record in caplog.records} == {"inbox.rejected"}
    assert "hunter2" not in str([vars(record) for record in caplog.records])


def test_rubbish_does_not_pile_up(folder: InboxFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred files are kept to be looked at."""
    monkeypatch.setattr(os, "fsync", sync_nothing)
    for number in range(103):
        post(folder, number, b"rubbish")
        (letter,) = collected(folder)
        folder.set_aside(letter, "no reason")
    assert len(names(folder)) == 100


def test_what_has_no_name_of_a_message_is_moved_aside(folder: InboxFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Folders too, and names that leave no room for a longer one; once, with a warning each."""
    good = post(folder, 1)
    for name in ("notes.txt", "x" * 255, "1-2", f"{2:020d}-{message_id(2).upper()[:-1]}G", f"{3:020d}-{message_id(3)}\n", "é"):
        Path(folder.path, name).write_text("x")
    Path(folder.path, "folder").mkdir()
    with caplog.at_level(logging.WARNING, "dagrelay"):
        assert [letter.name for letter in collected(folder)] == [good]
        assert [letter.name for letter in collected(folder)] == [good]
    assert len(caplog.records) == 7
    assert all(name == good or name.endswith(".rejected") for name in names(folder))


def test_what_can_not_be_moved_aside_is_only_told(
    folder: InboxFolder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody behind it is held up."""
    good = post(folder, 1)
    Path(folder.path, "notes.txt").touch()

    def fail(*_args: Any, **_options: Any) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "rename", fail)
    with caplog.at_level(logging.WARNING, "dagrelay"):
        assert [letter.name for letter in collected(folder)] == [good]
    assert "can't be moved aside" in str(vars(caplog.records[0]))
    with pytest.raises(StoreError):
        folder.set_aside(collected(folder)[0], "no reason")


def test_a_file_that_can_not_be_removed_is_an_error(folder: InboxFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ours, with its cause."""
    name = post(folder, 1)

    def fail(*_args: Any, **_options: Any) -> None:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(os, "unlink", fail)
    with pytest.raises(StoreError) as caught:
        folder.remove([name])
    assert isinstance(caught.value.__cause__, PermissionError)


def plant(kind: str, place: Path, secret: Path) -> None:
    """Put something under the name of a message that is none."""
    match kind:
        case "link":
            place.symlink_to(secret)
        case "broken link":
            place.symlink_to(place.with_name("nowhere"))
        case "hard link":
            os.link(secret, place)
        case "folder":
            place.mkdir()
        case "pipe":
            os.mkfifo(place, 0o600)
        case "open to others":
            place.write_bytes(secret.read_bytes())
            place.chmod(0o640)
        case "huge":
            place.touch(0o600)
            os.truncate(place, 10 * 1024**3)
        case _:
            place.touch(0o600)


REASONS: Final = {
    "link": "can't be opened as a file of its own",
    "broken link": "can't be opened as a file of its own",
    "hard link": "not the file of this user alone",
    "folder": "is no file",
    "pipe": "is no file",
    "open to others": "mode is 0640 and not 0600",
    "huge": f"{10 * 1024**3} bytes",
    "empty": "is no JSON",
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_is_not_a_file_of_ours_alone_is_not_read(folder: InboxFolder, tmp_path: Path, kind: str) -> None:
    """Whatever it says, it is set aside, quickly; what a link leads to stays as it is."""
    secret = tmp_path / "secret"
    secret.write_bytes(encode_message(MESSAGES[1], LIMITS))
    secret.chmod(0o600)
    good = post(folder, 2)
    plant(kind, Path(folder.path, f"{1:020d}-{message_id(1)}"), secret)

    bad, rest = collected(folder)

    assert isinstance(bad.content, Unreadable)
    assert REASONS[kind] in bad.content.reason
    assert rest.name == good
    folder.set_aside(bad, bad.content.reason)
    assert [letter.name for letter in collected(folder)] == [good]
    assert decode_message(secret.read_bytes()) == MESSAGES[1]


def test_a_file_of_another_user_is_not_read(folder: InboxFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can only have come there by root's hand, or by a copy."""
    post(folder, 1)
    user = os.geteuid()
    answers = iter([user])
    # The first question is about the folder.
    monkeypatch.setattr(os, "geteuid", lambda: next(answers, user + 1))
    (letter,) = folder.collect(without=(), max_bytes=MOST).letters
    assert letter.content == Unreadable(reason="it is not the file of this user alone")


@pytest.mark.parametrize("mode", [0o777, 0o750, 0o701])
def test_a_folder_that_others_reach_is_used_by_nobody(folder: InboxFolder, mode: int) -> None:
    """Neither read nor written to; the error says how to mend it."""
    name = post(folder, 1)
    Path(folder.path).chmod(mode)
    with pytest.raises(StoreError, match=f"0700.*{mode:04o}"):
        folder.collect(without=(), max_bytes=MOST)
    with pytest.raises(StoreError, match="0700"):
        post(folder, 2)
    assert names(folder) == [name]


def test_a_link_in_the_place_of_the_folder_is_not_followed(folder: InboxFolder, tmp_path: Path) -> None:
    """Its target is left alone."""
    target = tmp_path / "elsewhere"
    target.mkdir(0o700)
    Path(folder.path).symlink_to(target)
    with pytest.raises(StoreError):
        post(folder, 1)
    with pytest.raises(StoreError):
        folder.collect(without=(), max_bytes=MOST)
    with pytest.raises(StoreError):
        folder.remove(["x"])
    assert list(target.iterdir()) == []


def test_senders_at_once_make_one_folder_and_lose_nothing(folder: InboxFolder) -> None:
    """Whoever is first makes it."""
    threads = [threading.Thread(target=post, args=(folder, number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {letter.message_id for letter in collected(folder)} == {message_id(number) for number in range(20)}


def test_a_message_is_json_that_people_can_read(folder: InboxFolder) -> None:
    """For whoever looks into the folder."""
    name = post(folder, 1, MESSAGES[2])
    assert json.loads(Path(folder.path, name).read_text()) == {"ask": "retry", "run_id": "r:1@x+y", "task_id": "t.1"}
