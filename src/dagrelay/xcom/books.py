"""The pages of all runs: those running here, and guests that only outside pushes and deletions need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from dagrelay.stores.operations import OUTSIDE
from dagrelay.xcom.book import RunAccount, RunBook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.base import Store
    from dagrelay.stores.operations import NewEntry
    from dagrelay.xcom.book import RunReports

__all__ = ("MAX_GUESTS", "Books")

MAX_GUESTS: Final = 1024
"""Runs not running here whose pages are kept, so that a push from outside need not read theirs anew."""


class Books:
    """Pages by run id.

    Args:
        store: where a page is opened from.
        max_run_bytes: what a run's values may weigh.
    """

    def __init__(self, store: Store, max_run_bytes: int) -> None:
        """Start with none."""
        self._store = store
        self._max_run_bytes = max_run_bytes
        # Invariant: every live run has its page here; others may.
        self._pages: dict[str, RunBook] = {}
        self._live: set[RunBook] = set()
        # Invariant: while anybody holds a page of a run, new pages of it share its account. (test_broker_writing: one timeline)
        self._accounts: WeakValueDictionary[str, RunAccount] = WeakValueDictionary()

    async def open(self, run_id: str, *, is_new: bool) -> RunBook:
        """Return a run's page, opening it from the store unless the run `is_new` to it.

        Cancellation: nothing is left behind.
        """
        book = self._pages.get(run_id)
        if book is not None:
            return book
        account = self._accounts.get(run_id)
        if account is None:
            next_seq, stored = 1, 0
            if not is_new:
                next_seq, stored = await self._store.next_seq(run_id), await self._store.stored_bytes(run_id)
            opened = RunAccount(run_id, next_seq=next_seq, stored_bytes=stored, max_bytes=self._max_run_bytes)
            account = self._accounts.setdefault(run_id, opened)  # Somebody else may have opened it meanwhile.
        book = self._pages.setdefault(run_id, RunBook(account))
        self._let_guests_go()
        return book

    @property
    def are_several_live(self) -> bool:
        """Whether more than one run runs here."""
        return len(self._live) > 1

    def enter(self, book: RunBook, reports: RunReports, *, is_pipelined: bool) -> None:
        """Make a run live."""
        book.reports = reports
        book.is_pipelined = is_pipelined
        book.failure = None
        self._pages[book.run_id] = book
        self._live.add(book)

    def leave(self, book: RunBook) -> None:
        """Make a run no longer live. Latecomers still hold its page and find their attempts closed."""
        book.reports = None
        self._live.discard(book)
        if self._pages.get(book.run_id) is book:
            del self._pages[book.run_id]

    def live(self, run_id: str) -> RunBook | None:
        """Return the page of a run running here; None for any other."""
        book = self._pages.get(run_id)
        return book if book is not None and book.is_live else None

    def tell_waiting(self, instance: InstanceKey, slot: int, entry: NewEntry) -> None:
        """Wake those who wait, in a run running here, for a value that was stored and is seen at once."""
        if slot == OUTSIDE or entry.published:
            book = self.live(instance.run_id)
            if book is not None and book.waiting:
                book.waiting.stored(instance, entry.key)

    def all_live(self) -> Iterator[RunBook]:
        """Iterate over the pages of the runs running here."""
        return (book for book in self._pages.values() if book.is_live)

    def _let_guests_go(self) -> None:
        if len(self._pages) <= MAX_GUESTS:
            return
        idle = [run_id for run_id, book in self._pages.items() if not book.is_live and not book.account.pending_operations]
        for run_id in idle[: len(self._pages) // 2]:
            del self._pages[run_id]
