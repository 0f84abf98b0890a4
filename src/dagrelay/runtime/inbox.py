"""The inbox, seen from the store's owner: an actor that carries out what other processes ask for, once each and in order.

It looks in when the store is opened, before anything else happens in it, and ten times a second from then on; as long as nothing
comes, a look is one call of the system. What is about one run is carried out in order, what is about several side by side, so
that a run that is slow to end holds up nobody else.
"""

from __future__ import annotations

import time
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, assert_never

import anyio
import anyio.to_thread

from dagrelay.errors import DagrelayError, RuntimeClosedError, StoreCorruptError, StoreError
from dagrelay.log import get_logger
from dagrelay.stores.operations import MESSAGE_DONE
from dagrelay.stores.sqlite.inbox import Unreadable
from dagrelay.stores.sqlite.messages import CancelMessage, ProvideMessage, RetryMessage, most_message_bytes
from dagrelay.stores.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagrelay.model.policies import Limits
    from dagrelay.stores.base import Store
    from dagrelay.stores.sqlite.inbox import InboxFolder, Letter
    from dagrelay.stores.sqlite.messages import InboxMessage

__all__ = ("REFUSED", "Inbox", "InboxTarget", "inbox_of")

T = TypeVar("T")

REFUSED: Final = "refused: "
"""How the result of a message begins that could not be carried out."""
_POLL_S: Final = 0.1
_BUSY_POLL_S: Final = 0.01
_MOST_TAKEN: Final = 512
"""Messages taken and not yet carried out, above which no more are read into memory."""
_MOST_TOLD: Final = 2_000
"""Characters of a refusal."""
_SETTLED_NS: Final = 2_000_000_000
"""Age from which on a folder's time tells that nothing has changed since; within one tick two changes have the same time."""
_MIN_PAUSE_S: Final = 1.0
_MAX_PAUSE_S: Final = 30.0
"""How long a store that fails is left alone, at first and at last."""


class InboxTarget(Protocol):
    """What carries messages out. Each method returns once what it did is on record, that of the message included."""

    async def result(self, message_id: str) -> str | None:
        """Return what has become of a message; None if it was not carried out."""
        ...

    async def note(self, message_id: str, result: str) -> None:
        """Record what has become of a message."""
        ...

    async def provide(self, message: ProvideMessage, message_id: str) -> None:
        """Give a task its value and record the message as done, in one transaction."""
        ...

    async def cancel(self, message: CancelMessage) -> None:
        """End a run as cancelled; doing it twice is doing it once."""
        ...

    async def retry(self, message: RetryMessage, message_id: str) -> None:
        """Run a task and its downstream again; recorded with the message as done in one transaction, and then under way."""
        ...


def inbox_of(
    store: Store, target: InboxTarget, *, spawn: Callable[[str, Callable[[], Awaitable[None]]], None], limits: Limits
) -> Inbox | None:
    """Return what empties the inbox of a store; None for a store that other processes don't reach."""
    folder = store.inbox if isinstance(store, SqliteStore) else None
    return None if folder is None else Inbox(folder, target, spawn=spawn, max_bytes=most_message_bytes(limits))


class Inbox:
    """Empties an inbox.

    Args:
        folder: the inbox.
        target: what carries messages out.
        spawn: starts a named task, which lives no longer than the runtime.
        max_bytes: what a message may weigh.
    """

    def __init__(
        self,
        folder: InboxFolder,
        target: InboxTarget,
        *,
        spawn: Callable[[str, Callable[[], Awaitable[None]]], None],
        max_bytes: int,
    ) -> None:
        """Take it all; nothing is read before `catch_up`."""
        self._folder = folder
        self._target = target
        self._spawn = spawn
        self._max_bytes = max_bytes
        self._closing = anyio.Event()
        self._thread = anyio.CapacityLimiter(1)
        # The folder's time at the last look, where it tells that another one is useless.
        self._seen: int | None = None
        self._not_before = -inf
        self._pause_s = 0.0
        # Invariant: a file taken stands in exactly one lane, and a lane with files has a task. (test_inbox: order, side by side)
        self._taken: set[str] = set()
        self._lanes: dict[str, deque[Letter]] = {}
        self._settled = anyio.Event()

    # ------------------------------------------------------------------------------------------------------- handle

    async def catch_up(self) -> None:
        """Carry out what was accepted while nobody owned the store; it is older than anything that will be asked here.

        Cancellation: what is left stays in the inbox.
        """
        while await self._look():
            await self._wait_for_a_lane()
        while self._lanes:
            await self._wait_for_a_lane()

    async def run(self) -> None:
        """Serve until closed; shields itself."""
        with anyio.CancelScope(shield=True):
            while not self._closing.is_set():
                are_more = await self._look()
                with anyio.move_on_after(_BUSY_POLL_S if are_more else _POLL_S):
                    await self._closing.wait()
            while self._lanes:
                await self._wait_for_a_lane()

    def close(self) -> None:
        """End `run` once what has been taken is carried out; the rest stays for the next owner."""
        self._closing.set()

    # ------------------------------------------------------------------------------------------------------ looking

    async def _look(self) -> bool:
        """Take what is new and have it carried out; return whether there is more."""
        if len(self._taken) >= _MOST_TAKEN:
            return True
        stamp = self._folder.stamp()
        if stamp is None or stamp == self._seen or anyio.current_time() < self._not_before:
            return False
        is_settled = time.time_ns() - stamp > _SETTLED_NS
        taken = frozenset(self._taken)
        try:
            found = await self._in_thread(lambda: self._folder.collect(without=taken, max_bytes=self._max_bytes))
        except StoreError as error:
            self._postpone(error)
            return False
        self._seen = stamp if is_settled and not found.are_more else None
        for letter in found.letters:
            self._take(letter)
        return found.are_more

    def _take(self, letter: Letter) -> None:
        self._taken.add(letter.name)
        lane = self._lanes.get(letter.run_id)
        if lane is not None:
            lane.append(letter)
            return
        self._lanes[letter.run_id] = deque([letter])
        self._spawn(f"inbox {letter.run_id}", lambda: self._work_off(letter.run_id))

    async def _wait_for_a_lane(self) -> None:
        """Return once one more lane is empty; at once if none is left."""
        self._settled = anyio.Event()
        if self._lanes:
            await self._settled.wait()

    # ------------------------------------------------------------------------------------------------- carrying out

    async def _work_off(self, run_id: str) -> None:
        """Carry out what there is about a run, in order; stop at what must wait, lest what follows overtake it."""
        lane = self._lanes[run_id]
        try:
            with anyio.CancelScope(shield=True):
                while lane:
                    await self._carry_out(lane[0])
                    self._taken.discard(lane.popleft().name)
            self._pause_s = 0.0
        except StoreError as error:
            self._postpone(error)
        except RuntimeClosedError:
            self.close()  # The next owner carries it out.
        finally:
            self._taken.difference_update(letter.name for letter in lane)
            self._seen = None
            del self._lanes[run_id]
            self._settled.set()

    async def _carry_out(self, letter: Letter) -> None:
        content, message_id = letter.content, letter.message_id
        if isinstance(content, Unreadable):
            await self._target.note(message_id, f"{REFUSED}{content.reason}")
            await self._in_thread(lambda: self._folder.set_aside(letter, content.reason))
            return
        # Known if it was carried out, and the file could not be taken away before the end of whoever did it.
        if await self._target.result(message_id) is None:
            try:
                await self._do(content, message_id)
            except StoreCorruptError as error:
                await self._refuse(message_id, error)  # Waiting would not mend it.
            except (StoreError, RuntimeClosedError):
                raise
            except DagrelayError as error:
                await self._refuse(message_id, error)
            except Exception as error:  # noqa: BLE001 - a bug of ours; the message must not come back for ever
                get_logger().exception("inbox.failed", message_id=message_id)
                await self._target.note(message_id, f"{REFUSED}{type(error).__name__}; the log of the store's owner says more")
        await self._in_thread(lambda: self._folder.remove([letter.name]))

    async def _refuse(self, message_id: str, error: DagrelayError) -> None:
        await self._target.note(message_id, f"{REFUSED}{error}"[:_MOST_TOLD])

    async def _do(self, message: InboxMessage, message_id: str) -> None:
        match message:
            case ProvideMessage():
                await self._target.provide(message, message_id)
            case CancelMessage():
                await self._target.cancel(message)
                await self._target.note(message_id, MESSAGE_DONE)
            case RetryMessage():
                await self._target.retry(message, message_id)
            case _ as never:
                assert_never(never)

    def _postpone(self, error: StoreError) -> None:
        """Leave everything where it is for a while."""
        self._pause_s = min(max(_MIN_PAUSE_S, 2 * self._pause_s), _MAX_PAUSE_S)
        self._not_before = anyio.current_time() + self._pause_s
        get_logger().warning("inbox.postponed", error=str(error), pause_s=self._pause_s)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # A limiter of its own: the threads of the default one may all be waiting in handlers.
        return await anyio.to_thread.run_sync(work, limiter=self._thread)
