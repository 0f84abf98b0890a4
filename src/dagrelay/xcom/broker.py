"""The XCom broker: the one actor that writes, and where everybody finds values.

Its handle accepts (token, budget) at the moment of the call: that is the linearisation point, later cancels lose. Accepted
operations go through its mailbox to its loop: drain, one batch, one transaction, replies, repeat. There is no timer window;
while a commit is under way the next batch gathers by itself.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import anyio

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
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.operations import (
    AckItems,
    DeleteEntries,
    DeleteRun,
    FinishAttempt,
    MarkInstance,
    Operation,
    Provide,
    PutEntries,
    SetRunState,
    StartAttempt,
)
from dagrelay.xcom.batch import MAX_BATCH_OPERATIONS, Barrier, Message, Request, Turns, entries_of
from dagrelay.xcom.books import Books
from dagrelay.xcom.broker_statistics import BrokerStatistics
from dagrelay.xcom.cache import ValueCache
from dagrelay.xcom.door import placed
from dagrelay.xcom.finding import Finder
from dagrelay.xcom.followers import Followers
from dagrelay.xcom.reading import Reader
from dagrelay.xcom.room import Room

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.model.events import Event
    from dagrelay.model.policies import Limits
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.base import Lookup, Store
    from dagrelay.stores.operations import NewEntry
    from dagrelay.xcom.book import RunBook, RunReports
    from dagrelay.xcom.cache import Encoded

__all__ = ("FATAL_ERRORS", "Broker", "Lost", "copy_of")

FATAL_ERRORS: Final = (StaleOwnerError, StoreVanishedError, StoreCorruptError, StoreClosedError)
"""After one of these the store can't be trusted with anything more; after any other (a full disk, say) it can be tried again."""

_STOPPED: Final = frozenset({RunState.INTERRUPTED, RunState.CANCELLED})
"""Ends that a run may be recorded with though not all that happened in it is on record."""

ErrorT = TypeVar("ErrorT", bound=DagrelayError)
Lost: TypeAlias = "dict[RunBook, list[FinishAttempt]]"


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
        self.cache: ValueCache = ValueCache(limits.cache_bytes)
        self.reader: Reader = Reader(store, mailbox_capacity=limits.mailbox_capacity)
        self._finder = Finder(self.cache, self.reader)
        self._mailbox: Mailbox[Message] = Mailbox("broker", limits.mailbox_capacity)
        self._books = Books(store, limits.max_run_xcom_bytes)
        self._followers = Followers(limits.mailbox_capacity)
        self._room = Room(limits.max_pending_bytes)
        # What the loop has taken and not yet settled, so that its death can tell those who wait.
        self._in_hand: list[Message] = []
        self._turns = Turns()
        self._failure: StoreError | None = None
        self._batches = 0
        self._operations = 0

    async def book(self, run_id: str, *, is_new: bool = False) -> RunBook:
        """Return a run's page, opening it from the store unless the run `is_new` to it.

        Cancellation: nothing is left behind.
        """
        return await self._books.open(run_id, is_new=is_new)

    def live_book(self, run_id: str) -> RunBook | None:
        """Return the page of a run running here; None for any other."""
        return self._books.live(run_id)

    def enter_run(self, book: RunBook, reports: RunReports, *, is_pipelined: bool) -> None:
        """Make a run live: its outcomes are reported from now on."""
        self._books.enter(book, reports, is_pipelined=is_pipelined)

    def leave_run(self, book: RunBook) -> None:
        """Make a run no longer live. Latecomers still hold its page and find their attempts closed."""
        self._books.leave(book)
        self._followers.end_run(book.run_id)

    def follow(self, run_id: str) -> Mailbox[Event]:
        """Return a mailbox into which the run's events go as they are committed; give it back to `unfollow`."""
        return self._followers.add(run_id)

    def unfollow(self, run_id: str, mailbox: Mailbox[Event]) -> None:
        """End what `follow` began."""
        self._followers.remove(run_id, mailbox)

    async def write(self, operation: Operation, book: RunBook | None = None, *, then: Sequence[Operation] = ()) -> int:
        """Write one operation that carries no values, but for one from outside, and return its result once it is committed.

        What is in `then` follows it in the same batch as a rule, and its results are nobody's.

        Raises:
            DagrelayError: it was refused, or the store failed; nothing of it is stored.

        Cancellation: an operation accepted is written all the same.
        """
        reply: Reply[int] = Reply()
        size = len(operation.entry.value) if isinstance(operation, Provide) else 0
        self.accept(Request(operation, book, size, reply))
        for each in then:
            self.accept(Request(each, None))
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
        await self._room.wait_for(book, size)
        while book.is_over_budget(size):
            await self.make_budget(book, size)
            await self._room.wait_for(book, size)
        if attempt:
            book.check_open(instance, attempt)
        entries = placed(book, drafts)
        reply: Reply[int] = Reply()
        operation = PutEntries(instance=instance, slot=slot, attempt=attempt, entries=entries)
        self.accept(Request(operation, book, size, reply))
        for entry in entries:
            self.cache.accept(instance, slot, entry)
        await reply.wait()
        return entries

    def cast(self, book: RunBook, operation: StartAttempt | MarkInstance | FinishAttempt) -> None:
        """Record what carries no values and nobody waits for: that an attempt runs, or a state of a task that is not running."""
        if self.failure_of(book) is None:
            self.accept(Request(operation, book))

    def hand_in(self, book: RunBook, operation: FinishAttempt, *, is_start_written: bool) -> bool:
        """Take an attempt's outcome, its values with it, all in one transaction (a cast).

        Returns:
            Whether it was accepted; not if the run's writes have failed.

        Raises:
            StaleAttemptError: the attempt was over already.
            XComTooLargeError: the run's budget is used up; hand in a failure instead.
        """
        if self.failure_of(book) is not None:
            return False
        instance, attempt = operation.instance, operation.attempt
        book.check_open(instance, attempt)
        size = 0
        for entry in operation.entries:
            size += len(entry.value)
        if size:
            book.check_budget(size)
        self._post(Request(operation, book, size, None, not is_start_written))
        book.close_attempt(instance, attempt)
        if operation.state is TaskState.SUCCESS:
            book.note_success(instance, attempt)
        elif operation.state is TaskState.FAILED:
            book.note_failure(instance, attempt)
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
        """Make room for `size` bytes in the run's budget by making its sum exact: it counts overwritten values until then.

        Raises:
            XComTooLargeError: there is no room.

        Cancellation: nothing is left behind.
        """
        while book.is_over_budget(size):
            await self.barrier()  # Values on their way would count beside those that they replace.
            settled = book.account.settled_pushes
            stored = await self._store.stored_bytes(book.run_id)
            if book.account.settled_pushes == settled:  # Else one was perhaps stored after the sum was read.
                book.correct_bytes(stored)
                book.check_budget(size)

    def failure_of(self, book: RunBook) -> StoreError | None:
        """Return why a run's writes fail; None while they don't."""
        return self._failure or book.failure

    @property
    def is_congested(self) -> bool:
        """Whether so much awaits its commit that producers should wait."""
        return self._room.is_congested

    def has_room(self, book: RunBook, size: int) -> bool:
        """Whether `size` bytes of a run can be accepted now, beside what awaits its commit."""
        return self._room.fits(book, size)

    async def wait_for_room_for(self, book: RunBook, size: int) -> None:
        """Wait until they can.

        Cancellation: nothing is left behind.
        """
        await self._room.wait_for(book, size)

    async def wait_for_room(self) -> None:
        """Wait until less awaits its commit.

        Cancellation: nothing is left behind.
        """
        await self._room.wait()

    # ----------------------------------------------------------------------------------------------------- finding

    async def find(self, wanted: Sequence[Lookup]) -> list[Encoded | None]:
        """Return the values wanted, in order, None where there is none: from memory, and what misses by one read.

        Cancellation: nothing is left behind.
        """
        return await self._finder.find(wanted)

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
                await self._serve()
            except BaseException as error:
                self._failure = StoreError(f"the broker died: {error!r}")
                self._failure.__cause__ = error
                raise
            finally:
                self._refuse_the_rest()

    async def _serve(self) -> None:
        turns, mailbox = self._turns, self._mailbox
        while True:
            try:
                drained = mailbox.drain_nowait(MAX_BATCH_OPERATIONS) if turns else await mailbox.drain(MAX_BATCH_OPERATIONS)
            except MailboxClosed:
                return
            is_shared = self._books.are_several_live
            self._in_hand = turns.next_batch(drained, is_shared=is_shared)
            await self._commit(self._in_hand)
            self._in_hand = []
            await self._maintain()

    async def _maintain(self) -> None:
        try:
            await self._store.maintain(idle=not len(self._mailbox) and not self._turns)
        except StoreError as error:
            # Nothing that was stored is lost, and it is tried again after the next batch.
            get_logger().warning("store.maintenance_failed", error=str(error))
            if isinstance(error, FATAL_ERRORS):
                lost: Lost = {}
                self._give_up(error, lost)
                self._report(lost)

    async def _commit(self, batch: list[Message]) -> None:
        requests: list[Request] = []
        lost: Lost = {}
        for message in batch:
            if isinstance(message, Request):
                failure = self._refusal(message)
                if failure is None:
                    requests.append(message)
                else:
                    self._fail(message, failure, lost)
        if requests:
            results: Sequence[int | DagrelayError]
            try:
                results = await self._store.apply([request.operation for request in requests])
                self._batches += 1
            except StoreError as error:
                results = [error] * len(requests)
                if isinstance(error, FATAL_ERRORS):
                    self._give_up(error, lost)
            self._settle(requests, results, lost)
        self._report(lost)
        self._room.tell()
        for message in batch:
            if isinstance(message, Barrier):
                message.reply.answer(None)

    def _refusal(self, request: Request) -> StoreError | None:
        """Return why an accepted operation is not written after all: the store, or its run's writes, have failed.

        What is on disk then stays a causally closed prefix of the run; only the record that it stopped may follow.
        """
        if self._failure is not None:
            return self._failure
        book, operation = request.book, request.operation
        if book is None or (isinstance(operation, SetRunState) and operation.state in _STOPPED):
            return None
        return book.failure

    def _settle(self, requests: list[Request], results: Sequence[int | DagrelayError], lost: Lost) -> None:
        done: dict[RunBook, list[FinishAttempt]] = {}
        commit, is_followed = self.cache.commit, self._followers.are_there
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, DagrelayError):
                self._fail(request, result, lost)
                continue
            self._release(request, is_stored=True)
            match request.operation:
                case FinishAttempt() as outcome:
                    for entry in outcome.entries:
                        commit(outcome.instance, outcome.attempt, entry)
                    if request.book is not None and not request.book.is_pipelined:
                        done.setdefault(request.book, []).append(outcome)
                case PutEntries() | AckItems() | Provide() as put:
                    for stored in entries_of(put):
                        commit(*stored)
                        self._books.tell_waiting(*stored)
                case DeleteEntries() as deleted:
                    self.cache.forget_task(deleted.run_id, deleted.task_id, deleted.key)
                case DeleteRun() as deleted:
                    self.cache.forget_run(deleted.run_id)
                case _:
                    pass
            if is_followed:
                self._followers.tell(request, result)
            request.answer(result)
        for book, outcomes in done.items():
            if book.reports is not None:
                book.reports.outcomes(outcomes)

    def _fail(self, request: Request, error: DagrelayError, lost: Lost) -> None:
        self._release(request, is_stored=False)
        for lacking in entries_of(request.operation):
            self.cache.drop(*lacking)
        if request.reply is not None:
            request.reply.fail(copy_of(error))
        if request.on_settled is not None:
            request.on_settled(error)
        book = request.book
        if book is not None and book.is_live and (request.reply is None or isinstance(error, StoreError)):
            # A cast has nobody to be told but the run itself.
            if book.failure is None:
                book.failure = error if isinstance(error, StoreError) else StoreError(f"the store refused a record: {error}")
            outcomes = lost.setdefault(book, [])
            if isinstance(request.operation, FinishAttempt):
                outcomes.append(request.operation)

    def _give_up(self, error: StoreError, lost: Lost) -> None:
        """Accept and write nothing more; every live run is to be told."""
        self._failure = error
        self._room.close()
        for book in self._books.all_live():
            book.failure = book.failure or error
            lost.setdefault(book, [])

    def _report(self, lost: Lost) -> None:
        for book, outcomes in lost.items():
            assert book.failure is not None
            if book.reports is not None:
                book.reports.store_failed(book.failure, outcomes)

    # --------------------------------------------------------------------------------------------------- accounting

    def accept(self, request: Request) -> None:
        """Take an operation, whose size counts; RuntimeClosedError or a StoreError says that it will not be written."""
        failure = self._refusal(request)
        if failure is not None:
            raise copy_of(failure)
        self._post(request)

    def _post(self, request: Request) -> None:
        try:
            self._mailbox.post(request)
        except MailboxClosed:
            raise RuntimeClosedError from None
        self._room.pending_bytes += request.size
        if request.book is not None:
            request.book.accept(request.size)

    def _release(self, request: Request, *, is_stored: bool) -> None:
        request.is_settled = True
        self._operations += is_stored
        self._room.pending_bytes -= request.size
        if request.book is not None:
            request.book.release(request.size, is_stored=is_stored)

    def _refuse_the_rest(self) -> None:
        lost: Lost = {}
        if self._failure is not None:
            self._give_up(self._failure, lost)
        for message in (*self._in_hand, *self._turns.waiting(), *self._mailbox.discard()):
            if isinstance(message, Barrier):
                message.reply.answer(None)
            elif not message.is_settled:
                self._fail(message, self._failure or RuntimeClosedError(), lost)
        self._in_hand = []
        self._report(lost)
        self._room.close()

    def statistics(self) -> BrokerStatistics:
        """Return what was done and is held."""
        return BrokerStatistics(
            mailbox=self._mailbox.statistics(),
            reader=self.reader.statistics(),
            cache=self.cache.statistics(),
            batches=self._batches,
            operations=self._operations,
            pending_bytes=self._room.pending_bytes,
            live_runs=sum(1 for _ in self._books.all_live()),
        )


def copy_of(error: ErrorT) -> ErrorT:
    """Return an error of one's own to raise, with the cause: raising one in several tasks would entangle their tracebacks."""
    twin = copy.copy(error)
    twin.__cause__ = error.__cause__
    return twin
