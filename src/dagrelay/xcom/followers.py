"""Those who follow a run live: each gets the events of committed operations in a mailbox of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.actors.mailbox import Mailbox
from dagrelay.stores.operations import run_id_of
from dagrelay.xcom.timeline import events_of

if TYPE_CHECKING:
    from dagrelay.model.events import Event
    from dagrelay.xcom.batch import Request

__all__ = ("Followers",)


class Followers:
    """The followers of all runs, by run.

    Args:
        mailbox_capacity: capacity of each follower's mailbox.
    """

    def __init__(self, mailbox_capacity: int) -> None:
        """Start with none."""
        self._capacity = mailbox_capacity
        # Invariant: every mailbox in here is open. (test_followers: a follower who stays)
        self._by_run: dict[str, list[Mailbox[Event]]] = {}

    @property
    def are_there(self) -> bool:
        """Whether any run is followed."""
        return bool(self._by_run)

    def add(self, run_id: str) -> Mailbox[Event]:
        """Return a mailbox into which the run's events go from now on."""
        mailbox: Mailbox[Event] = Mailbox(f"events {run_id}", self._capacity)
        self._by_run.setdefault(run_id, []).append(mailbox)
        return mailbox

    def remove(self, run_id: str, mailbox: Mailbox[Event]) -> None:
        """Close a mailbox and forget it; harmless for one whose run has ended."""
        mailbox.discard()
        mailboxes = self._by_run.get(run_id, [])
        if mailbox in mailboxes:
            mailboxes.remove(mailbox)
            if not mailboxes:
                del self._by_run[run_id]

    def end_run(self, run_id: str) -> None:
        """Close the mailboxes of a run that has ended; what is in them can still be read."""
        for mailbox in self._by_run.pop(run_id, ()):
            mailbox.close()

    def tell(self, request: Request, result: int) -> None:
        """Tell of a committed operation and its result."""
        run_id = run_id_of(request.operation)
        mailboxes = None if run_id is None else self._by_run.get(run_id)
        if mailboxes:
            dag_id = "" if request.book is None else request.book.dag_id
            events = list(events_of(request.operation, dag_id=dag_id, count=result, with_start=request.with_start))
            for mailbox in mailboxes:
                for event in events:
                    mailbox.post(event)
