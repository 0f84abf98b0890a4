"""The inbox's actor: every message is carried out once and in order, and none holds up those about other runs."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from dagrelay import Limits, RunNotFoundError, RuntimeClosedError, StoreCorruptError, StoreError
from dagrelay.runtime import inbox as inbox_module
from dagrelay.runtime.inbox import Inbox
from dagrelay.stores.operations import MESSAGE_DONE
from dagrelay.stores.sqlite.inbox import InboxFolder
from dagrelay.stores.sqlite.messages import (
    CancelMessage,
    InboxMessage,
    ProvideMessage,
    RetryMessage,
    encode_message,
    most_message_bytes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    import pytest

LIMITS: Final = Limits()


class Ledger:
    """Carries messages out by writing them down, which is all that a target must do: in one step with the result."""

    def __init__(self) -> None:
        """Open it."""
        self._changed = anyio.Event()
        self.done: list[tuple[str, str]] = []
        self.results: dict[str, str] = {}
        self.errors: dict[str, list[Exception]] = defaultdict(list)
        self.gates: dict[str, anyio.Event] = {}
        self.met = 0

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with anyio.fail_after(10):
            while not is_so():
                self._changed = anyio.Event()
                await self._changed.wait()

    async def result(self, message_id: str) -> str | None:
        """Return what was noted."""
        await anyio.lowlevel.checkpoint()
        return self.results.get(message_id)

    async def note(self, message_id: str, result: str) -> None:
        """Note it."""
        await anyio.lowlevel.checkpoint()
        self.results.setdefault(message_id, result)
        self._changed.set()

    async def provide(self, message: ProvideMessage, message_id: str) -> None:
        """Write the value down."""
        await self._meet(message)
        self.done.append((message.run_id, str(message.value)))
        self.results[message_id] = MESSAGE_DONE
        self._changed.set()

    async def cancel(self, message: CancelMessage) -> None:
        """Write it down."""
        await self._meet(message)
        self.done.append((message.run_id, "cancel"))

    async def retry(self, message: RetryMessage, message_id: str) -> None:
        """Write it down."""
        await self._meet(message)
        self.done.append((message.run_id, f"retry {message.task_id}"))
        self.results[message_id] = MESSAGE_DONE
        self._changed.set()

    async def _meet(self, message: InboxMessage) -> None:
        await anyio.lowlevel.checkpoint()
        self.met += 1
        self._changed.set()
        if message.run_id in self.gates:
            await self.gates[message.run_id].wait()
        if self.errors[message.run_id]:
            raise self.errors[message.run_id].pop(0)


class Desk:
    """An inbox, its ledger, and who writes to it."""

    def __init__(self, path: Path) -> None:
        """Set up in a folder."""
        self.folder = InboxFolder(str(path / "runs.db"))
        self.ledger = Ledger()
        self.inbox: Inbox
        self.sent = 0

    def post(self, message: InboxMessage | bytes) -> str:
        """Send a message and return its id."""
        self.sent += 1
        message_id = f"{self.sent:032x}"
        data = message if isinstance(message, bytes) else encode_message(message, LIMITS)
        self.folder.post(data, message_id=message_id, sent_ns=self.sent)
        return message_id

    def value(self, run_id: str, value: object) -> str:
        """Send a value."""
        return self.post(ProvideMessage(run_id=run_id, task_id="t", value=value))

    def left(self) -> list[str]:
        """Return the files that are there."""
        return sorted(path.name for path in Path(self.folder.path).iterdir())

    async def until(self, count: int) -> None:
        """Wait until so many messages have a result."""
        await self.ledger.until(lambda: len(self.ledger.results) >= count)


@asynccontextmanager
async def open_desk(path: Path, *, is_serving: bool = True) -> AsyncGenerator[Desk]:
    """Open an inbox, and have it served."""
    desk = Desk(path)
    async with anyio.create_task_group() as group:

        def spawn(name: str, run: Callable[[], Awaitable[None]]) -> None:
            async def serve() -> None:
                await run()

            group.start_soon(serve, name=name)

        desk.inbox = Inbox(desk.folder, desk.ledger, spawn=spawn, max_bytes=most_message_bytes(LIMITS))
        if is_serving:
            group.start_soon(desk.inbox.run)
        yield desk
        desk.inbox.close()


async def test_what_came_before_the_opening_is_carried_out_in_order(tmp_path: Path) -> None:
    """All of it, before anything else; the files are gone then, and the results are known."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.value("r", 1)
        desk.post(CancelMessage(run_id="r"))
        desk.post(RetryMessage(run_id="r", task_id="u"))
        desk.value("r", 2)

        await desk.inbox.catch_up()

        assert desk.ledger.done == [("r", "1"), ("r", "cancel"), ("r", "retry u"), ("r", "2")]
        assert list(desk.ledger.results.values()) == [MESSAGE_DONE] * 4
        assert desk.left() == []


def sync_nothing(_fd: int) -> None:
    """Leave the disk alone: hundreds of messages are not about power cuts."""


async def test_more_than_one_look_takes_are_carried_out_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the opening, whatever their number."""
    monkeypatch.setattr(os, "fsync", sync_nothing)
    async with open_desk(tmp_path, is_serving=False) as desk:
        for number in range(300):
            desk.value("one", number)
            desk.value("two", number)

        await desk.inbox.catch_up()

        for run_id in ("one", "two"):
            assert [value for run, value in desk.ledger.done if run == run_id] == [str(number) for number in range(300)]
        assert desk.left() == []


async def test_what_comes_later_is_found(tmp_path: Path) -> None:
    """The folder may not have been there before."""
    async with open_desk(tmp_path) as desk:
        desk.value("r", 1)
        await desk.until(1)
        desk.value("r", 2)
        await desk.until(2)
        assert desk.ledger.done == [("r", "1"), ("r", "2")]
    assert desk.left() == []


async def test_a_message_is_carried_out_once_though_its_file_stayed(tmp_path: Path) -> None:
    """Whoever carried it out was killed before the file was gone."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        known = desk.value("r", 1)
        desk.ledger.results[known] = MESSAGE_DONE
        desk.value("r", 2)

        await desk.inbox.catch_up()

        assert desk.ledger.done == [("r", "2")]
        assert desk.left() == []


async def test_a_refusal_is_told_and_holds_up_nobody(tmp_path: Path) -> None:
    """The sender finds the error's text as the result."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.ledger.errors["r"] = [RunNotFoundError("r")]
        refused, done = desk.value("r", 1), desk.value("r", 2)

        await desk.inbox.catch_up()

        assert desk.ledger.results == {refused: "refused: no run 'r' in this store", done: MESSAGE_DONE}
        assert desk.left() == []


async def test_damage_is_a_refusal(tmp_path: Path) -> None:
    """Waiting would not mend it."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.ledger.errors["r"] = [StoreCorruptError("runs.db", "a plan")]
        refused = desk.value("r", 1)
        await desk.inbox.catch_up()
        assert desk.ledger.results == {refused: "refused: store 'runs.db' is damaged: a plan"}


async def test_an_error_that_is_none_of_ours_does_not_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log has it whole; the sender only its name, as its text may hold anything."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.ledger.errors["r"] = [KeyError("hunter2")]
        refused = desk.value("r", 1)
        with caplog.at_level(logging.ERROR, "dagrelay"):
            await desk.inbox.catch_up()
        assert desk.ledger.results == {refused: "refused: KeyError; the log of the store's owner says more"}
        assert [record.getMessage() for record in caplog.records] == ["inbox.failed"]


async def test_rubbish_is_refused_set_aside_and_holds_up_nobody(tmp_path: Path) -> None:
    """Its sender, if there is one, is told."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        rubbish, good = desk.post(b"rubbish"), desk.value("r", 1)

        await desk.inbox.catch_up()

        assert desk.ledger.results == {rubbish: "refused: it is no JSON, or nested too deep", good: MESSAGE_DONE}
        assert desk.left() == [f"{1:020d}-{rubbish}.rejected"]


async def test_a_run_that_is_slow_holds_up_only_itself(tmp_path: Path) -> None:
    """What is about it stays in order behind."""
    async with open_desk(tmp_path) as desk:
        desk.ledger.gates["slow"] = anyio.Event()
        for number in (1, 2):
            desk.post(CancelMessage(run_id="slow"))
            desk.value("slow", number)
            desk.value(f"quick{number}", number)
        await desk.ledger.until(lambda: len(desk.ledger.done) == 2)
        assert sorted(desk.ledger.done) == [("quick1", "1"), ("quick2", "2")]

        desk.ledger.gates["slow"].set()
        await desk.until(6)

        assert desk.ledger.done[2:] == [("slow", "cancel"), ("slow", "1"), ("slow", "cancel"), ("slow", "2")]
    assert desk.left() == []


async def test_what_is_taken_into_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest stays in the folder until there is room."""
    monkeypatch.setattr(inbox_module, "_MOST_TAKEN", 2)
    async with open_desk(tmp_path) as desk:
        desk.ledger.gates["slow"] = anyio.Event()
        for number in (1, 2):
            desk.value("slow", number)
        await desk.ledger.until(lambda: desk.ledger.met == 1)
        desk.value("late", 3)
        await anyio.sleep(0.15)  # Longer than it takes to look again.
        assert desk.ledger.met == 1
        desk.ledger.gates["slow"].set()
        await desk.until(3)
    assert desk.ledger.done == [("slow", "1"), ("slow", "2"), ("late", "3")]


async def test_a_store_that_fails_is_tried_again_and_nothing_overtakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The messages stay where they are until then."""
    monkeypatch.setattr(inbox_module, "_MIN_PAUSE_S", 0.01)
    async with open_desk(tmp_path) as desk:
        desk.ledger.errors["r"] = [StoreError("no room"), StoreError("no room")]
        with caplog.at_level(logging.WARNING, "dagrelay"):
            for number in range(5):
                desk.value("r", number)
            await desk.until(5)
        assert [value for _, value in desk.ledger.done] == ["0", "1", "2", "3", "4"]
        assert [vars(record)["pause_s"] for record in caplog.records] == [0.01, 0.02]
    assert desk.left() == []


async def test_what_a_store_has_not_taken_is_found_again_though_no_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's time tells nothing of it."""
    monkeypatch.setattr(inbox_module, "_MIN_PAUSE_S", 0.0)
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.ledger.errors["r"] = [StoreError("no room")]
        desk.value("r", 1)
        settle(desk)
        await desk.inbox.catch_up()
        assert desk.ledger.done == []
        await desk.inbox.catch_up()
        assert desk.ledger.done == [("r", "1")]


async def test_a_store_that_fails_at_the_opening_does_not_keep_it_closed(tmp_path: Path) -> None:
    """What could not be carried out is left for later."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.ledger.errors["r"] = [StoreError("no room")]
        desk.value("r", 1)
        desk.value("r", 2)

        await desk.inbox.catch_up()

        assert desk.ledger.done == []
        assert len(desk.left()) == 2


async def test_a_folder_that_is_not_safe_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning that says why."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.value("r", 1)
        Path(desk.folder.path).chmod(0o755)
        with caplog.at_level(logging.WARNING, "dagrelay"):
            await desk.inbox.catch_up()
        assert desk.ledger.done == []
        assert "0700" in vars(caplog.records[0])["error"]
        Path(desk.folder.path).chmod(0o700)


async def test_a_runtime_that_is_being_left_leaves_messages_to_the_next_owner(tmp_path: Path) -> None:
    """The inbox takes no more of them."""
    async with open_desk(tmp_path) as desk:
        desk.ledger.errors["r"] = [RuntimeClosedError()]
        desk.value("r", 1)
        await desk.ledger.until(lambda: desk.ledger.met == 1)
    assert desk.ledger.results == {}
    assert len(desk.left()) == 1


async def test_closing_waits_for_what_was_begun(tmp_path: Path) -> None:
    """It is on record, and its file is gone."""
    async with open_desk(tmp_path) as desk:
        desk.ledger.gates["r"] = anyio.Event()
        desk.value("r", 1)
        await desk.ledger.until(lambda: desk.ledger.met == 1)
        desk.inbox.close()
        await anyio.wait_all_tasks_blocked()
        assert desk.ledger.done == []
        desk.ledger.gates["r"].set()
    assert desk.ledger.done == [("r", "1")]
    assert desk.left() == []


async def test_a_cancelled_opening_leaves_the_rest_in_the_inbox(tmp_path: Path) -> None:
    """What was begun comes to its end."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.ledger.gates["r"] = anyio.Event()
        desk.value("r", 1)
        with anyio.move_on_after(0.05) as scope:
            await desk.inbox.catch_up()
        assert scope.cancelled_caught
        desk.ledger.gates["r"].set()
    assert desk.ledger.done == [("r", "1")]


def settle(desk: Desk) -> None:
    """Let the folder look as if nothing had changed for long."""
    os.utime(desk.folder.path, ns=(10**18, 10**18))


async def test_a_folder_in_which_nothing_changes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its time is asked for."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.value("r", 1)
        await desk.inbox.catch_up()
        settle(desk)
        await desk.inbox.catch_up()
        reads: list[int] = []
        listdir = os.listdir

        def listed(folder: int) -> list[str]:
            reads.append(folder)
            return listdir(folder)

        monkeypatch.setattr(os, "listdir", listed)
        for _ in range(10):
            await desk.inbox.catch_up()
        assert reads == []
        desk.value("r", 2)
        await desk.inbox.catch_up()
        assert len(reads) == 1
        assert desk.ledger.done == [("r", "1"), ("r", "2")]


async def test_a_change_within_the_same_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    """A folder's time does not tell two changes apart that come close together."""
    async with open_desk(tmp_path, is_serving=False) as desk:
        desk.value("r", 1)
        await desk.inbox.catch_up()
        before = Path(desk.folder.path).stat().st_mtime_ns
        await desk.inbox.catch_up()
        desk.value("r", 2)
        os.utime(desk.folder.path, ns=(before, before))
        await desk.inbox.catch_up()
        assert desk.ledger.done == [("r", "1"), ("r", "2")]
