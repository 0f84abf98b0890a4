"""Whatever lies in an inbox, its owner trusts none of it: nothing outside is touched, nothing inside changed, nobody held up."""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from dagrelay import DAG, InvalidIdError, Runtime, XComSerializationError
from dagrelay.runtime.outbox import send
from dagrelay.stores.sqlite.messages import CancelMessage, ProvideMessage, RetryMessage
from tests.security.dumps import dump

if TYPE_CHECKING:
    from collections.abc import Callable

CANARY: Final = "canary-4711-swordfish"
NAME: Final = f"{1:020d}-{'a' * 32}"
DAG_: Final = DAG("asking")
ASKED: Final = DAG_.external("asked")


def form(**facts: Any) -> bytes:
    """Return a message by hand."""
    return json.dumps(facts).encode()


PROVIDE: Final = form(ask="provide", run_id="r", task_id="asked", value=CANARY)


def linked(to: str) -> Callable[[Path], None]:
    """Plant a link."""
    return lambda place: place.symlink_to(to)


def written(data: bytes, mode: int = 0o600) -> Callable[[Path], None]:
    """Plant a file."""

    def plant(place: Path) -> None:
        place.write_bytes(data)
        place.chmod(mode)

    return plant


def sparse(place: Path) -> None:
    """Plant a file of 10 GB that takes no room."""
    place.touch(0o600)
    os.truncate(place, 10 * 1024**3)


PLANTED: Final[dict[str, Callable[[Path], None]]] = {
    "a link to a message": linked("../secret"),
    "a link to a file of the system": linked("/etc/passwd"),
    "a link to a device": linked("/dev/zero"),
    "a link to itself": linked(NAME),
    "a link to the store": linked("../runs.db"),
    "a folder": lambda place: place.mkdir(),
    "a pipe": lambda place: os.mkfifo(place, 0o600),
    "a message all may read": written(PROVIDE, 0o644),
    "a message all may write": written(PROVIDE, 0o622),
    "a huge file": sparse,
    "a file over the limit": written(PROVIDE[:-1] + b" " * 2_000_000 + b"}"),
    "deep JSON": written(b'{"ask": "provide", "run_id": "r", "task_id": "asked", "value": ' + b"[" * 500_000),
    "deep whole JSON": written(
        form(ask="provide", run_id="r", task_id="asked", value=0)[:-2] + b"[" * 400_000 + b"]" * 400_000 + b"}"
    ),
    "a run id that is a path": written(form(ask="cancel", run_id=f"../../{CANARY}")),
    "a task id that is a path": written(form(ask="retry", run_id="r", task_id=f"/{CANARY}")),
    "a pickle": written(b"\x80\x04cos\nsystem\n(S'touch planted'\ntR."),
    "one word too much": written(form(ask="cancel", run_id="r", then=CANARY)),
    "another word": written(form(ask=CANARY, run_id="r")),
    "a number too large": written(PROVIDE.replace(b'"canary-4711-swordfish"', b"1e999")),
    "no text": written(b"\xff\xfe" + CANARY.encode("utf-16")),
    "nothing": written(b""),
}


@pytest.mark.parametrize("kind", PLANTED)
async def test_rubbish_changes_nothing_and_holds_up_nobody(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message behind it is carried out within a second; the log names the file and never what it says."""
    monkeypatch.chdir(tmp_path)
    path, secret = tmp_path / "runs.db", tmp_path / "secret"
    secret.write_bytes(PROVIDE)
    secret.chmod(0o600)
    inbox = Path(f"{path}.inbox")
    with caplog.at_level(logging.DEBUG, "dagrelay"):
        async with Runtime(path) as runtime:
            handle = await runtime.start(DAG_, run_id="r")
            inbox.mkdir(0o700)
            PLANTED[kind](inbox / NAME)
            began = time.monotonic()

            with anyio.fail_after(20):
                sent = await send(path, ProvideMessage(run_id="r", task_id="asked", value="right"), wait_s=20)
                result = await handle.result()

            assert sent.is_done
            assert time.monotonic() - began < 5  # Fractions of a second but on a machine under load.
            assert result[ASKED] == "right"
            found = {entry.task_id: entry.value for entry in await runtime.xcom.list("r", include_values=True)}
            assert found == {"asked": "right"}
    assert [file.name for file in inbox.iterdir()] == [f"{NAME}.rejected"]
    assert (secret.read_bytes(), stat.S_IMODE(secret.stat().st_mode)) == (PROVIDE, 0o600)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["runs.db", "runs.db.inbox", "runs.db.lock", "secret"]
    assert [vars(record)["file"] for record in caplog.records if record.getMessage() == "inbox.rejected"] == [NAME]
    assert CANARY not in str([vars(record) for record in caplog.records])
    assert CANARY not in str(dump(path))


@pytest.mark.parametrize(
    "name", ["..", "../planted", "a/b", "\x1b[31m", "-rf", "*", "$(touch planted)", "é", "\udcff", "x" * 255]
)
async def test_a_file_of_any_name_is_moved_aside(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Those that a file can have; the log shows it as plain letters."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.xcom.push("r", "t", "k", 1)
    inbox = Path(f"{path}.inbox")
    inbox.mkdir(0o700)
    is_possible = "/" not in name and name != ".."
    if is_possible:
        (inbox / name).write_bytes(PROVIDE)
    with caplog.at_level(logging.WARNING, "dagrelay"):
        async with Runtime(path) as runtime:
            assert await runtime.runs() == []
    assert all(file.name.endswith(".rejected") for file in inbox.iterdir())
    assert len(list(inbox.iterdir())) == is_possible
    assert all(vars(record)["file"].isascii() and vars(record)["file"].isprintable() for record in caplog.records)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["runs.db", "runs.db.inbox", "runs.db.lock"]


@pytest.mark.parametrize(
    "bad", ["../../etc/passwd", "..", "/abs", "a/b", "", "r\n", "r\x00", "-r", "x" * 251, "\u202er", "é", 1, None]
)
def test_a_message_can_not_name_a_path(bad: Any) -> None:
    """An id is checked where the message is made, by whoever makes it: a sender, or an owner that reads one."""
    for make in (
        lambda: CancelMessage(run_id=bad),
        lambda: RetryMessage(run_id=bad, task_id="t"),
        lambda: RetryMessage(run_id="r", task_id=bad),
        lambda: ProvideMessage(run_id=bad, task_id="t", value=1),
        lambda: ProvideMessage(run_id="r", task_id=bad, value=1),
    ):
        with pytest.raises(InvalidIdError):
            make()


async def test_a_value_from_a_message_is_data(tmp_path: Path) -> None:
    """Templates in it are text, and what JSON can't say is not sent."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        handle = await runtime.start(DAG_, run_id="r")
        with pytest.raises(XComSerializationError):
            await send(path, ProvideMessage(run_id="r", task_id="asked", value={1: 2}))
        text = "{{ params.x }} {{ xcom.asked }} __class__"
        assert (await send(path, ProvideMessage(run_id="r", task_id="asked", value=text), wait_s=20)).is_done
        with anyio.fail_after(20):
            assert (await handle.result())[ASKED] == text


async def test_what_a_message_says_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither when it is carried out nor when it is refused."""
    path = tmp_path / "runs.db"
    with caplog.at_level(logging.DEBUG, "dagrelay"):
        async with Runtime(path) as runtime:
            handle = await runtime.start(DAG_, run_id="r")
            for run_id in ("q", "r", "r"):
                await send(path, ProvideMessage(run_id=run_id, task_id="asked", value=CANARY), wait_s=20)
            with anyio.fail_after(20):
                await handle.result()
    assert CANARY not in str([vars(record) for record in caplog.records])
