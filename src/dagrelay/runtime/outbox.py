"""The inbox, seen from a sender: a message is accepted durably, and then carried out by the owner, or here if there is none.

An owner that is alive carries it out within a moment; one that is stopped, once it goes on; and where there is none, the sender
becomes the owner for as long as it takes, which needs no DAG.
"""

from __future__ import annotations

import os
import secrets
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread
import attrs

from dagrelay.errors import StoreError, StoreLockedError, StoreSchemaError
from dagrelay.model.policies import Limits
from dagrelay.runtime.inbox import REFUSED
from dagrelay.runtime.runtime import Runtime
from dagrelay.stores.operations import MESSAGE_DONE
from dagrelay.stores.sqlite.inbox import InboxFolder
from dagrelay.stores.sqlite.lock import is_held
from dagrelay.stores.sqlite.messages import encode_message
from dagrelay.stores.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from dagrelay.stores.sqlite.messages import InboxMessage

__all__ = ("Sent", "send")

_WATCH_S: Final = 0.05


@attrs.frozen(kw_only=True)
class Sent:
    """A message that was accepted, and what is known of it."""

    message_id: str
    """Its id."""
    result: str | None
    """What has become of it; None if it was not carried out yet."""

    @property
    def is_done(self) -> bool:
        """Whether it was carried out."""
        return self.result == MESSAGE_DONE

    @property
    def refusal(self) -> str | None:
        """Why it was refused; None if it was not, or not yet."""
        if self.result is None or self.is_done:
            return None
        return self.result.removeprefix(REFUSED)


async def send(path: str | os.PathLike[str], message: InboxMessage, *, wait_s: float = 5.0, limits: Limits | None = None) -> Sent:
    """Ask the owner of a store for something, whether there is one or not, from any process.

    Args:
        path: the store's file.
        message: what is asked for.
        wait_s: seconds to wait for it to be carried out.
        limits: bounds on the value.

    Raises:
        StoreError: it was not accepted.
        XComError: a value can't be stored exactly, or is too large.

    Cancellation: the message may be accepted all the same.
    """
    bounds = limits or Limits()
    data, message_id = encode_message(message, bounds), secrets.token_hex(16)
    # As the owner names it, lest two names of one file have two inboxes.
    database = Path(path).resolve()  # noqa: ASYNC240 - a few calls of the system, once
    await _examine(database)
    post = partial(InboxFolder(str(database)).post, data, message_id=message_id, sent_ns=time.time_ns())
    await anyio.to_thread.run_sync(post)
    try:
        return Sent(message_id=message_id, result=await _await_result(database, message_id, wait_s, bounds))
    except StoreError as error:
        raise StoreError(
            f"message {message_id} is accepted and will be carried out, but it can't be seen what becomes of it: {error}"
        ) from error


async def _examine(database: Path) -> None:
    """Make sure that a file is a store, and of this user, before an inbox is made beside it.

    Raises:
        StoreError: it is not.
    """
    store = SqliteStore(database, read_only=True)
    try:
        await store.open(now_us=0)
    except StoreSchemaError:
        if is_held(str(database)):
            raise
        # Perhaps it is only older; opened for writing it is brought up to date, or refused for good.
        async with Runtime(SqliteStore(database)):
            pass
    finally:
        await store.close()  # noqa: ASYNC102 - it shields itself
    owner, user = (await anyio.Path(database).stat()).st_uid, os.geteuid()
    if owner != user:
        raise StoreError(f"store {str(database)!r} belongs to user {owner}, and only that one reaches its owner, not user {user}")


async def _await_result(database: Path, message_id: str, wait_s: float, limits: Limits) -> str | None:
    deadline = anyio.current_time() + wait_s
    while True:
        result = await _carry_out(database, message_id, limits) or await _watch(database, message_id, deadline)
        if result is not None or anyio.current_time() >= deadline:
            return result
        await anyio.sleep(_WATCH_S)


async def _carry_out(database: Path, message_id: str, limits: Limits) -> str | None:
    """Own the store, if nobody does, which has its inbox emptied; return what has become of a message."""
    if is_held(str(database)):
        return None
    store = SqliteStore(database)
    try:
        async with Runtime(store, limits=limits):
            return await store.message(message_id)
    except StoreLockedError:
        return None  # Somebody was quicker.


async def _watch(database: Path, message_id: str, deadline: float) -> str | None:
    """Return what becomes of a message; None once the owner is gone, or the deadline has passed."""
    reader = SqliteStore(database, read_only=True)
    try:
        await reader.open(now_us=0)
        while True:
            is_owned = is_held(str(database))
            result = await reader.message(message_id)
            if result is not None or not is_owned or anyio.current_time() >= deadline:
                return result
            await anyio.sleep(_WATCH_S)
    finally:
        await reader.close()  # noqa: ASYNC102 - it shields itself
