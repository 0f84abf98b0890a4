"""The broker's reading side: lookups of one moment become one unit of work on the reading connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from dagrelay.actors.mailbox import Mailbox, MailboxClosed
from dagrelay.actors.reply import Reply
from dagrelay.errors import DagrelayError, RuntimeClosedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.actors.mailbox import MailboxStatistics
    from dagrelay.stores.base import Lookup, Store, StoredEntry

__all__ = ("Reader",)

_MAX_LOOKUPS = 1024


@attrs.frozen
class _Wanted:
    lookups: Sequence[Lookup]
    reply: Reply[list[StoredEntry | None]]


class Reader:
    """An actor that answers lookups from the store; while one read is under way the next batch gathers."""

    def __init__(self, store: Store, *, mailbox_capacity: int) -> None:
        """Take the store, open by the time of the first lookup."""
        self._store = store
        self._mailbox: Mailbox[_Wanted] = Mailbox("reader", mailbox_capacity)

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        """Return the committed values wanted, in order, None where there is none.

        Cancellation: nothing is left behind.
        """
        request = _Wanted(wanted, Reply())
        try:
            await self._mailbox.put(request)
        except MailboxClosed:
            raise RuntimeClosedError from None
        return await request.reply.wait()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is read, as the runtime has been left."""
        return self._mailbox.is_closed

    def statistics(self) -> MailboxStatistics:
        """Return what waits to be read."""
        return self._mailbox.statistics()

    def close(self) -> None:
        """Answer what waits, then end."""
        self._mailbox.close()

    async def run(self) -> None:
        """Serve until closed; a failed read fails its askers and nobody else. Shields itself."""
        taken: list[_Wanted] = []
        with anyio.CancelScope(shield=True):
            try:
                while True:
                    taken = await self._mailbox.drain(_MAX_LOOKUPS)
                    await self._serve(taken)
            except MailboxClosed:
                pass
            finally:
                for request in (*taken, *self._mailbox.discard()):
                    request.reply.fail(RuntimeClosedError())  # Nothing happens to those that were answered.

    async def _serve(self, requests: list[_Wanted]) -> None:
        wanted = [lookup for request in requests for lookup in request.lookups]
        try:
            found = await self._store.lookup(wanted)
        except Exception as error:  # noqa: BLE001 - told to those who asked; a bug of a store must not hang the others
            if len(requests) > 1:
                # One damaged row must not fail those who asked for others.
                for request in requests:
                    await self._serve([request])
            elif isinstance(error, DagrelayError):
                requests[0].reply.fail(error)
            else:
                failure = StoreError(f"the store can't read: {error!r}")
                failure.__cause__ = error
                requests[0].reply.fail(failure)
            return
        start = 0
        for request in requests:
            end = start + len(request.lookups)
            request.reply.answer(found[start:end])
            start = end
