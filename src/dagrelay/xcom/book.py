"""What the broker knows of one run: its place in the timeline, its open attempts, what succeeded, and its budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dagrelay.errors import StaleAttemptError, StoreError, XComTooLargeError
from dagrelay.stores.operations import OUTSIDE, TASK_LIFETIME
from dagrelay.xcom.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import FinishAttempt

__all__ = ("RunAccount", "RunBook", "RunReports")


class RunReports(Protocol):
    """Where the broker reports of a running run go: its scheduler's mailbox, by casts that never wait."""

    def outcomes(self, outcomes: Sequence[FinishAttempt]) -> None:
        """Attempts ended, and dependants may start: committed (STRICT) or accepted (PIPELINED)."""
        ...

    def store_failed(self, error: StoreError, lost: Sequence[FinishAttempt]) -> None:
        """The run's writes fail; it must stop. `lost` are outcomes that were not stored."""
        ...


class RunAccount:
    """What may be counted only once for a run, however many pages of it there are: places in its timeline, and bytes.

    A page that an outside push holds outlives the run, and the run may be taken up again on a new page meanwhile: both give out
    places of one timeline.

    Args:
        run_id: the run.
        next_seq: the first free place in its timeline.
        stored_bytes: what its entries weigh already.
        max_bytes: what they may weigh.
    """

    def __init__(self, run_id: str, *, next_seq: int = 1, stored_bytes: int = 0, max_bytes: int) -> None:
        """Open the account."""
        self.run_id = run_id
        self.next_seq = next_seq
        # The sum counts overwritten and deleted values too; before it refuses anything it is made exact from the store.
        self.bytes = stored_bytes
        self.max_bytes = max_bytes
        self.pending_operations = 0
        self.pending_bytes = 0
        self.settled_pushes = 0


class RunBook:
    """One run's page, owned by the broker.

    Args:
        account: what the run's pages share.
    """

    def __init__(self, account: RunAccount) -> None:
        """Open the page."""
        self.account = account
        self.run_id: str = account.run_id
        self.reports: RunReports | None = None
        self.is_pipelined = False
        self.dag_id = ""
        self.failure: StoreError | None = None
        # Invariant: an attempt that may write stands here, and nothing else. (test_book: stale attempts)
        self._open: dict[InstanceKey, int] = {}
        self._succeeded: dict[InstanceKey, int] = {}
        self._last_failed: dict[InstanceKey, int] = {}
        self.waiting: Waiting = Waiting()
        """Who of the run waits for a value of the run."""

    @property
    def is_live(self) -> bool:
        """Whether a scheduler runs it in this runtime."""
        return self.reports is not None

    def next_seq(self, count: int = 1) -> int:
        """Take `count` places in the timeline and return the first."""
        seq = self.account.next_seq
        self.account.next_seq = seq + count
        return seq

    # ----------------------------------------------------------------------------------------------------- attempts

    def open_attempt(self, instance: InstanceKey, attempt: int) -> None:
        """Let an attempt write; whatever attempt of the instance could until now can't any more."""
        self._open[instance] = attempt
        self._succeeded.pop(instance, None)
        self._last_failed.pop(instance, None)

    def check_open(self, instance: InstanceKey, attempt: int) -> None:
        """Raise StaleAttemptError unless this attempt may write."""
        if self._open.get(instance) != attempt:
            raise StaleAttemptError(instance.run_id, instance.task_id, attempt)

    def close_attempt(self, instance: InstanceKey, attempt: int) -> None:
        """Let an attempt write no more."""
        if self._open.get(instance) == attempt:
            del self._open[instance]

    def note_success(self, instance: InstanceKey, attempt: int) -> None:
        """Let the run's tasks see the entries of a succeeded attempt."""
        self._succeeded[instance] = attempt

    def note_failure(self, instance: InstanceKey, attempt: int) -> None:
        """Let the run's tasks see, where they ask for it, the entries of a finally failed attempt."""
        self._last_failed[instance] = attempt

    def slots_seen(self, instance: InstanceKey, *, include_failed: bool = False) -> tuple[int, ...] | None:
        """Return the slots in which the run's other tasks see entries of an instance, first hit wins.

        The succeeded attempt's entry wins over the task-lifetime one, and that over the outside one. None, while an attempt runs,
        leaves it to the store, which knows what that attempt has published.
        """
        attempt = self._succeeded.get(instance)
        if attempt is None and include_failed:
            attempt = self._last_failed.get(instance)
        if attempt is not None:
            return (attempt, TASK_LIFETIME, OUTSIDE)
        return None if instance in self._open else (OUTSIDE,)

    # ------------------------------------------------------------------------------------------------------- budget

    def is_over_budget(self, size: int) -> bool:
        """Whether `size` more bytes would be too many, by a sum that may be too high."""
        return self.account.bytes + size > self.account.max_bytes

    def correct_bytes(self, stored: int) -> None:
        """Replace the sum by what the store says, and what is on its way there."""
        self.account.bytes = stored + self.account.pending_bytes

    def check_budget(self, size: int) -> None:
        """Raise XComTooLargeError if `size` more bytes are too many."""
        if self.is_over_budget(size):
            raise XComTooLargeError(
                f"the values of run {self.run_id!r}",
                actual=self.account.bytes + size,
                limit=self.account.max_bytes,
                setting="Limits(max_run_xcom_bytes=...)",
            )

    # ------------------------------------------------------------------------------------------------------ pending

    def accept(self, size: int) -> None:
        """Count an operation on its way to the store, and the bytes of its values."""
        self.account.pending_operations += 1
        self.account.pending_bytes += size
        self.account.bytes += size

    def release(self, size: int, *, is_stored: bool) -> None:
        """Count an operation that is on its way no longer; what was not stored weighs nothing."""
        self.account.pending_operations -= 1
        self.account.pending_bytes -= size
        if size:
            self.account.settled_pushes += 1
        if not is_stored:
            self.account.bytes -= size
