"""The XCom broker: the one actor that writes, and where everybody finds values.

Its handle accepts (token, budget) at the moment of the call: that is the linearisation point, later cancels lose. Accepted
operations go through its mailbox to its loop: drain, one batch, one transaction, replies, repeat. There is no timer window; while a
commit is under way the next batch gathers by itself.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

import anyio
import attrs

from dagrelay.actors.mailbox import Mailbox, MailboxClosed
from dagrelay.actors.reply import Reply
from dagrelay.errors import (
    DagrelayError,
    RuntimeClosedError,
    StaleOwnerError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreVanishedError,
)
from dagrelay.log import get_logger
from dagrelay.model.states import TaskState
from dagrelay.stores.operations import (
    DeleteEntries,
    DeleteRun,
    FinishAttempt,
    MarkInstance,
    Operation,
    PutEntries,
    SetRunState,
    StartAttempt,
)
from dagrelay.xcom.batch import MAX_BATCH_OPERATIONS, Barrier, Message, Request, run_id_of, split
from dagrelay.xcom.book import RunBook
from dagrelay.xcom.cache import EntryKey, Resident, ValueCache
from dagrelay.xcom.door import placed
from dagrelay.xcom.reading import Reader
from dagrelay.xcom.timeline import events_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.actors.mailbox import MailboxStatistics
    from dagrelay.model.events import Event
    from dagrelay.model.policies import Limits
    from dagrelay.model.records import InstanceKey
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.base import Lookup, Store
    from dagrelay.stores.operations import NewEntry
    from dagrelay.xcom.book import RunReports
    from dagrelay.xcom.cache import CacheStatistics

__all__ = ("Broker", "BrokerStatistics")

FATAL_ERRORS: Final = (StaleOwnerError, StoreVanishedError, StoreCorruptError, StoreClosedError)
"""After one of these the store can't be trusted with anything more; after any other (a full disk, say) it can be tried again."""
MAX_GUESTS: Final = 1024
"""Runs not running here whose pages are kept, so that a push from outside need not read theirs anew."""


@attrs.frozen(kw_only=True)
class BrokerStatistics:
    """What the broker has done and holds."""

    mailbox: MailboxStatistics
    """Operations accepted and not yet taken into a batch."""
    reader: MailboxStatistics
    """Lookups not yet read."""
    cache: CacheStatistics
    """Values at hand."""
    batches: int
    """Batches committed."""
    operations: int
    """Operations committed."""
    pending_bytes: int
    """Bytes of values accepted and not yet committed."""
    live_runs: int
    """Runs running in this runtime."""


class Broker:
    """The single writer. One per runtime.

    Args:
        store: an open store.
        limits: the runtime's limits.
    """

    # ------------------------------------------------------------------------------------------------------- handle

    def __init__(self, store: Store, limits: Limits) -> None:
        """Set up; `run` and `reader.run` must be started before anything is written or looked up."""
        self._store = store
        self._limits = limits
        self.cache = ValueCache(limits.cache_bytes)
        self.reader = Reader(store, mailbox_capacity=limits.mailbox_capacity)
        self._mailbox: Mailbox[Message] = Mailbox("broker", limits.mailbox_capacity)
        # Invariant: every live run has its page here; others may.
        self._books: dict[str, RunBook] = {}
        self._followers: dict[str, list[Mailbox[Event]]] = {}
        self._pending_bytes = 0
        self._has_room: anyio.Event | None = None
        self._failure: DagrelayError | None = None
        self._batches = 0
        self._operations = 0

    async def book(self, run_id: str, *, is_new: bool = False) -> RunBook:
        """Return a run's page, opening it from the store unless the run `is_new` to it.

        Cancellation: nothing is left behind.
        """
        book = self._books.get(run_id)
        if book is not None:
            return book
        if is_new:
            next_seq, stored = 1, 0
        else:
            next_seq, stored = await self._store.next_seq(run_id), await self._store.stored_bytes(run_id)
            book = self._books.get(run_id)  # Somebody else may have opened it meanwhile.
            if book is not None:
                return book
        book = RunBook(run_id, next_seq=next_seq, stored_bytes=stored, max_bytes=self._limits.max_run_xcom_bytes)
        self._books[run_id] = book
        self._let_guests_go()
        return book

    def live_book(self, run_id: str) -> RunBook | None:
        """Return the page of a run running here; None for any other."""
        book = self._books.get(run_id)
        return book if book is not None and book.is_live else None

    def enter_run(self, book: RunBook, reports: RunReports, *, is_pipelined: bool) -> None:
        """Make a run live: its outcomes are reported from now on."""
        book.reports = reports
        book.is_pipelined = is_pipelined
        book.failure = None
        self._books[book.run_id] = book

    def leave_run(self, book: RunBook) -> None:
        """Make a run no longer live. Latecomers still hold its page and find their attempts closed."""
        book.reports = None
        if self._books.get(book.run_id) is book:
            del self._books[book.run_id]
        for mailbox in self._followers.get(book.run_id, ()):
            mailbox.close()

    def follow(self, run_id: str) -> Mailbox[Event]:
        """Return a mailbox into which the run's events go as they are committed; give it back to `unfollow`."""
        mailbox: Mailbox[Event] = Mailbox(f"events {run_id}", self._limits.mailbox_capacity)
        self._followers.setdefault(run_id, []).append(mailbox)
        return mailbox

    def unfollow(self, run_id: str, mailbox: Mailbox[Event]) -> None:
        """End what `follow` began."""
        mailbox.discard()
        followers = self._followers.get(run_id, [])
        if mailbox in followers:
            followers.remove(mailbox)
        if not followers:
            self._followers.pop(run_id, None)

    async def write(self, operation: Operation, book: RunBook | None = None, *, then: Operation | None = None) -> int:
        """Write one operation that carries no values and return its result once it is committed.

        `then` follows it in the same batch as a rule, and its result is nobody's.

        Raises:
            DagrelayError: it was refused, or the store failed; nothing of it is stored.

        Cancellation: an operation accepted is written all the same.
        """
        reply: Reply[int] = Reply()
        self._accept(Request(operation, book, 0, reply))
        if then is not None:
            self._accept(Request(then, None))
        return await reply.wait()

    async def push(
        self, book: RunBook, *, instance: InstanceKey, slot: int, attempt: int, drafts: Sequence[NewEntry]
    ) -> tuple[NewEntry, ...]:
        """Store entries, all or none; they are on disk when this returns them with their places in the timeline.

        Raises:
            StaleAttemptError: the attempt is over.
            XComTooLargeError: the run's budget is used up.
            DagrelayError: as for `write`.

        Cancellation: before acceptance nothing is stored; after it the entries are, though the caller does not learn of it.
        """
        size = sum(len(draft.value) for draft in drafts)
        await self.make_budget(book, size)
        await self._wait_for_room(book, size)
        if attempt:
            book.check_open(instance, attempt)
        book.reserve(size)
        entries = placed(book, drafts)
        reply: Reply[int] = Reply()
        operation = PutEntries(instance=instance, slot=slot, attempt=attempt, entries=entries)
        self._accept(Request(operation, book, size, reply))
        for entry in entries:
            self.cache.accept(instance, slot, entry)
        await reply.wait()
        return entries

    def start(self, book: RunBook, operation: StartAttempt) -> None:
        """Take note that an attempt runs (a cast)."""
        if self._failure is None and book.failure is None:
            self._accept(Request(operation, book))

    def mark(self, book: RunBook, operation: MarkInstance) -> None:
        """Record the final state of a task that is not running (a cast)."""
        if self._failure is None and book.failure is None:
            self._accept(Request(operation, book))

    def hand_in(self, book: RunBook, operation: FinishAttempt, *, is_start_written: bool) -> bool:
        """Take an attempt's outcome, its values with it, all in one transaction (a cast).

        Returns:
            Whether it was accepted; not if the run's writes have failed.

        Raises:
            StaleAttemptError: the attempt was over already.
            XComTooLargeError: the run's budget is used up; hand in a failure instead.
        """
        if self._failure is not None or book.failure is not None:
            return False
        instance, attempt = operation.instance, operation.attempt
        book.check_open(instance, attempt)
        size = sum(len(entry.value) for entry in operation.entries)
        if size:
            book.reserve(size)
        book.close_attempt(instance, attempt)
        if operation.state is TaskState.SUCCESS:
            book.note_success(instance, attempt)
        elif operation.state is TaskState.FAILED:
            book.note_failure(instance, attempt)
        self._accept(Request(operation, book, size, None, not is_start_written))
        for entry in operation.entries:
            self.cache.accept(instance, attempt, entry)
        if book.is_pipelined and book.reports is not None:
            book.reports.outcomes([operation])
        return True

    async def barrier(self) -> None:
        """Return once everything accepted so far is on disk or has failed.

        Cancellation: nothing is left behind.
        """
        barrier = Barrier(Reply())
        try:
            self._mailbox.post(barrier)
        except MailboxClosed:
            return
        await barrier.reply.wait()

    async def make_budget(self, book: RunBook, size: int) -> None:
        """Make the run's sum exact if it would refuse `size` bytes: it counts overwritten values until then."""
        if book.is_over_budget(size):
            book.correct_bytes(await self._store.stored_bytes(book.run_id))

    def failure_of(self, book: RunBook) -> DagrelayError | None:
        """Return why a run's writes fail; None while they don't."""
        return self._failure or book.failure

    @property
    def is_congested(self) -> bool:
        """Whether so much awaits its commit that producers should wait."""
        return self._pending_bytes > self._limits.max_pending_bytes

    async def wait_for_room(self) -> None:
        """Wait until less awaits its commit."""
        while self.is_congested and self._failure is None:
            await self._room_event().wait()

    async def _wait_for_room(self, book: RunBook | None, size: int) -> None:
        """Wait until `size` bytes fit; one run alone may fill no more than half, so that others always find room."""
        limit = self._limits.max_pending_bytes
        while self._failure is None:
            alone = book is None or book.pending_bytes == 0 or book.pending_bytes + size <= limit // 2
            if alone and (self._pending_bytes == 0 or self._pending_bytes + size <= limit):
                return
            await self._room_event().wait()

    def _room_event(self) -> anyio.Event:
        if self._has_room is None:
            self._has_room = anyio.Event()
        return self._has_room

    # ----------------------------------------------------------------------------------------------------- finding

    def resident(self, instance: InstanceKey, key: str, slots: tuple[int, ...]) -> Resident | None:
        """Return the value of the first of `slots`, if it is at hand; a lookup without a message.

        Only the first slot can be judged from memory: that a value is not at hand does not say that there is none.
        """
        return self.cache.get(EntryKey(instance, slots[0], key))

    async def find(self, wanted: Sequence[Lookup]) -> list[Resident | None]:
        """Return the values wanted, in order, None where there is none: from memory, and what misses by one read.

        Every lookup names its slots.

        Cancellation: nothing is left behind.
        """
        found: list[Resident | None] = [self.resident(look.instance, look.key, look.slots or ()) for look in wanted]
        missing = [place for place, value in enumerate(found) if value is None]
        if not missing:
            return found
        stored = await self.reader.lookup([wanted[place] for place in missing])
        for place, entry in zip(missing, stored, strict=True):
            look = wanted[place]
            overlaid = self._overlaid(look, None if entry is None else entry.slot)
            if overlaid is not None:
                found[place] = overlaid
            elif entry is not None:
                found[place] = Resident(entry.value, entry.serializer)
                self.cache.keep(EntryKey(look.instance, entry.slot, look.key), Resident(entry.value, entry.serializer))
        return found

    def _overlaid(self, look: Lookup, found_slot: int | None) -> Resident | None:
        """Return a value that awaits its commit and stands under a slot before, or equal to, the stored one's."""
        for slot in look.slots or ():
            value = self.cache.pending(EntryKey(look.instance, slot, look.key))
            if value is not None:
                return value
            if slot == found_slot:
                return None
        return None

    # -------------------------------------------------------------------------------------------------------- loop

    def close(self) -> None:
        """Accept nothing more; what was accepted is still written."""
        self._mailbox.close()

    async def run(self) -> None:
        """Write what is accepted until closed. Shields itself: a cancelled host application still gets its commits.

        Its death fails every outstanding call and every live run loudly.
        """
        with anyio.CancelScope(shield=True):
            try:
                while True:
                    for batch in split(await self._mailbox.drain(MAX_BATCH_OPERATIONS)):
                        await self._commit(batch)
                    await self._store.maintain(idle=not self._mailbox.statistics().waiting)
            except MailboxClosed:
                pass
            except Exception as error:
                get_logger().exception("broker.died")
                self._failure = StoreError(f"the broker died: {error!r}")
                raise
            finally:
                self._refuse_the_rest()

    async def _commit(self, batch: list[Message]) -> None:
        requests: list[Request] = []
        barriers: list[Barrier] = []
        lost: dict[RunBook, list[FinishAttempt]] = {}
        for message in batch:
            if isinstance(message, Barrier):
                barriers.append(message)
            elif (failure := self._refusal(message)) is not None:
                self._fail(message, failure, lost)
            else:
                requests.append(message)
        if requests:
            try:
                results = await self._store.apply([request.operation for request in requests])
            except StoreError as error:
                results = [error] * len(requests)
                if isinstance(error, FATAL_ERRORS):
                    self._failure = error
            self._settle(requests, results, lost)
        for book, outcomes in lost.items():
            if book.reports is not None and book.failure is not None:
                book.reports.store_failed(book.failure, outcomes)
        self._make_room()
        for barrier in barriers:
            barrier.reply.answer(None)

    def _refusal(self, request: Request) -> DagrelayError | None:
        """Return why an accepted operation is not written after all: its run's writes have failed.

        What is on disk then stays a causally closed prefix of the run; only the record that it stopped may follow.
        """
        if request.book is None or request.book.failure is None or isinstance(request.operation, SetRunState):
            return None
        return request.book.failure

    def _settle(
        self, requests: list[Request], results: Sequence[int | DagrelayError], lost: dict[RunBook, list[FinishAttempt]]
    ) -> None:
        done: dict[RunBook, list[FinishAttempt]] = {}
        self._batches += 1
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, DagrelayError):
                self._fail(request, result, lost)
                continue
            self._operations += 1
            self._release(request)
            operation = request.operation
            match operation:
                case FinishAttempt():
                    for entry in operation.entries:
                        self.cache.commit(operation.instance, operation.attempt, entry)
                    if request.book is not None and not request.book.is_pipelined:
                        done.setdefault(request.book, []).append(operation)
                case PutEntries():
                    for entry in operation.entries:
                        self.cache.commit(operation.instance, operation.slot, entry)
                case DeleteEntries():
                    self.cache.forget_task(operation.run_id, operation.task_id, operation.key)
                case DeleteRun():
                    self.cache.forget_run(operation.run_id)
                case _:
                    pass
            if self._followers:
                self._tell_followers(request, result)
            if request.reply is not None:
                request.reply.answer(result)
        for book, outcomes in done.items():
            if book.reports is not None:
                book.reports.outcomes(outcomes)

    def _fail(self, request: Request, error: DagrelayError, lost: dict[RunBook, list[FinishAttempt]]) -> None:
        self._release(request)
        operation = request.operation
        match operation:
            case FinishAttempt():
                for entry in operation.entries:
                    self.cache.drop(operation.instance, operation.attempt, entry)
            case PutEntries():
                for entry in operation.entries:
                    self.cache.drop(operation.instance, operation.slot, entry)
            case _:
                pass
        if request.reply is not None:
            request.reply.fail(copy.copy(error))
        book = request.book
        if book is not None and book.is_live and (request.reply is None or isinstance(error, StoreError)):
            # A cast has nobody to be told but the run itself.
            if book.failure is None:
                book.failure = error if isinstance(error, StoreError) else StoreError(f"the store refused a record: {error}")
            outcomes = lost.setdefault(book, [])
            if isinstance(operation, FinishAttempt):
                outcomes.append(operation)

    def _tell_followers(self, request: Request, result: int) -> None:
        run_id = run_id_of(request.operation)
        followers = self._followers.get(run_id) if run_id is not None else None
        if followers:
            dag_id = "" if request.book is None else request.book.dag_id
            events = list(events_of(request.operation, dag_id=dag_id, count=result, with_start=request.with_start))
            for mailbox in followers:
                for event in events:
                    mailbox.post(event)

    # --------------------------------------------------------------------------------------------------- accounting

    def _accept(self, request: Request) -> None:
        if self._failure is not None:
            raise copy.copy(self._failure)
        book = request.book
        if book is not None and book.failure is not None and not isinstance(request.operation, SetRunState):
            raise copy.copy(book.failure)
        try:
            self._mailbox.post(request)
        except MailboxClosed:
            raise RuntimeClosedError from None
        self._pending_bytes += request.size
        if book is not None:
            book.pending_operations += 1
            book.pending_bytes += request.size

    def _release(self, request: Request) -> None:
        self._pending_bytes -= request.size
        if request.book is not None:
            request.book.pending_operations -= 1
            request.book.pending_bytes -= request.size

    def _make_room(self) -> None:
        if self._has_room is not None:
            self._has_room.set()
            self._has_room = None

    def _let_guests_go(self) -> None:
        if len(self._books) <= MAX_GUESTS:
            return
        idle = [run_id for run_id, book in self._books.items() if not book.is_live and not book.pending_operations]
        for run_id in idle[: len(self._books) // 2]:
            del self._books[run_id]

    def _refuse_the_rest(self) -> None:
        error = self._failure or RuntimeClosedError()
        lost: dict[RunBook, list[FinishAttempt]] = {}
        for message in self._mailbox.discard():
            if isinstance(message, Barrier):
                message.reply.answer(None)
            else:
                self._fail(message, error, lost)
        if self._failure is not None:
            for book in list(self._books.values()):
                if book.reports is not None:
                    failure = book.failure or (error if isinstance(error, StoreError) else StoreError(str(error)))
                    book.failure = failure
                    book.reports.store_failed(failure, lost.get(book, []))
        self._make_room()

    def statistics(self) -> BrokerStatistics:
        """Return what was done and is held."""
        return BrokerStatistics(
            mailbox=self._mailbox.statistics(),
            reader=self.reader.statistics(),
            cache=self.cache.statistics(),
            batches=self._batches,
            operations=self._operations,
            pending_bytes=self._pending_bytes,
            live_runs=sum(1 for book in self._books.values() if book.is_live),
        )
