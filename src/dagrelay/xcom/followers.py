"""Those who follow a run live: each gets the events of committed operations in a mailbox of its own, as long as it keeps up.

What a follower does not read in time is dropped: all of it is in the store, where the follower is sent to read on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.actors.mailbox import Mailbox
from dagrelay.model.events import Event
from dagrelay.stores.operations import ReopenRun, run_id_of
from dagrelay.xcom.timeline import events_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.xcom.batch import Request

__all__ = ("EventsMissed", "Follower", "Followers")


class EventsMissed(Exception):  # noqa: N818 - a way to go on, no error
    """Events were dropped. All that were committed before this was raised are in the store; later ones are gathered again."""


class Follower(Mailbox[Event]):
    """Where a run's events arrive for one reader; draining it raises EventsMissed, once, where some were dropped."""

    def __init__(self, run_id: str, capacity: int) -> None:
        """Open an empty mailbox that never holds more events than its capacity."""
        super().__init__(f"events {run_id}", capacity)
        self._has_missed = False

    def tell(self, events: Sequence[Event], *, is_all: bool = True) -> None:
        """Add events in their order; or drop them and all others where they are too many, or not all there is to tell."""
        if self._has_missed or self.is_closed:
            return
        if not is_all or len(self) + len(events) > self.capacity:
            self._has_missed = True
            super().drain_nowait(len(self))
            events = events[-1:]  # One, to wake the reader; it is dropped with the news that there were more.
        for event in events:
            self.post(event)

    def drain_nowait(self, limit: int) -> list[Event]:
        """Return what is there, at most `limit` events, without waiting.

        Raises:
            EventsMissed: events were dropped; read on in the store from the last one known, then here again.
        """
        events = super().drain_nowait(limit)
        if self._has_missed:
            self._has_missed = False
            raise EventsMissed
        return events

    def discard(self) -> list[Event]:
        """Close it and return the events nobody will read."""
        self._has_missed = False
        return super().discard()


class Followers:
    """The followers of all runs, by run.

    Args:
        mailbox_capacity: events that a follower may have before it.
    """

    def __init__(self, mailbox_capacity: int) -> None:
        """Start with none."""
        self._capacity = mailbox_capacity
        # Invariant: every mailbox in here is open. (test_followers: a follower who stays)
        self._by_run: dict[str, list[Follower]] = {}

    @property
    def are_there(self) -> bool:
        """Whether any run is followed."""
        return bool(self._by_run)

    def add(self, run_id: str) -> Follower:
        """Return a mailbox into which the run's events go from now on."""
        follower = Follower(run_id, self._capacity)
        self._by_run.setdefault(run_id, []).append(follower)
        return follower

    def remove(self, run_id: str, mailbox: Mailbox[Event]) -> None:
        """Close a mailbox and forget it; harmless for one whose run has ended."""
        mailbox.discard()
        left = [each for each in self._by_run.pop(run_id, ()) if each is not mailbox]
        if left:
            self._by_run[run_id] = left

    def end_run(self, run_id: str) -> None:
        """Close the mailboxes of a run that has ended; what is in them can still be read."""
        for mailbox in self._by_run.pop(run_id, ()):
            mailbox.close()

    def tell(self, request: Request, result: int) -> None:
        """Tell of a committed operation and its result."""
        run_id = run_id_of(request.operation)
        followers = None if run_id is None else self._by_run.get(run_id)
        if followers:
            dag_id = "" if request.book is None else request.book.dag_id
            events = events_of(request.operation, dag_id=dag_id, result=result, with_start=request.with_start)
            is_all = not isinstance(request.operation, ReopenRun)
            for follower in followers:
                follower.tell(events, is_all=is_all)
