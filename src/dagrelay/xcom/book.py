"""What the broker knows of one run: its place in the timeline, its open attempts, what succeeded, and its budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dagrelay.errors import StaleAttemptError, StoreError, XComTooLargeError
from dagrelay.stores.operations import OUTSIDE, TASK_LIFETIME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import FinishAttempt

__all__ = ("RunBook", "RunReports")


class RunReports(Protocol):
    """Where the broker reports of a running run go: its scheduler's mailbox, by casts that never wait."""

    def outcomes(self, outcomes: Sequence[FinishAttempt]) -> None:
        """Attempts ended, and dependants may start: committed (STRICT) or accepted (PIPELINED)."""
        ...

    def store_failed(self, error: StoreError, lost: Sequence[FinishAttempt]) -> None:
        """The run's writes fail; it must stop. `lost` are outcomes that were not stored."""
        ...


class RunBook:
    """One run's page, owned by the broker.

    Args:
        run_id: the run.
        next_seq: the first free place in its timeline.
        stored_bytes: what its entries weigh already.
        max_bytes: what they may weigh.
    """

    def __init__(self, run_id: str, *, next_seq: int = 1, stored_bytes: int = 0, max_bytes: int) -> None:
        """Open the page."""
        self.run_id = run_id
        self.reports: RunReports | None = None
        self.is_pipelined = False
        self.dag_id = ""
        self.pending_operations = 0
        self.pending_bytes = 0
        self.failure: StoreError | None = None
        self._next_seq = next_seq
        # The sum counts overwritten values too; before it refuses anything it is made exact from the store.
        self._bytes = stored_bytes
        self._max_bytes = max_bytes
        # Invariant: an attempt that may write stands here, and nothing else. (test_broker: stale attempts)
        self._open: dict[InstanceKey, int] = {}
        self._succeeded: dict[InstanceKey, int] = {}
        self._last_failed: dict[InstanceKey, int] = {}

    @property
    def is_live(self) -> bool:
        """Whether a scheduler runs it in this runtime."""
        return self.reports is not None

    def next_seq(self, count: int = 1) -> int:
        """Take `count` places in the timeline and return the first."""
        seq = self._next_seq
        self._next_seq = seq + count
        return seq

    # ----------------------------------------------------------------------------------------------------- attempts

    def open_attempt(self, instance: InstanceKey, attempt: int) -> None:
        """Let an attempt write; whatever attempt of the instance could until now can't any more."""
        self._open[instance] = attempt
        self._succeeded.pop(instance, None)

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

    def slots_seen(self, instance: InstanceKey, *, include_failed: bool = False) -> tuple[int, ...]:
        """Return the slots in which the run's other tasks see entries of an instance, first hit wins.

        The succeeded attempt's entry wins over the task-lifetime one, and that over the outside one.
        """
        attempt = self._succeeded.get(instance)
        if attempt is None and include_failed:
            attempt = self._last_failed.get(instance)
        return (OUTSIDE,) if attempt is None else (attempt, TASK_LIFETIME, OUTSIDE)

    # ------------------------------------------------------------------------------------------------------- budget

    def is_over_budget(self, size: int) -> bool:
        """Whether `size` more bytes would be too many, by a sum that may be too high."""
        return self._bytes + size > self._max_bytes

    def correct_bytes(self, stored: int) -> None:
        """Replace the sum by what the store says, and what is on its way there."""
        self._bytes = stored + self.pending_bytes

    def check_budget(self, size: int) -> None:
        """Raise XComTooLargeError if `size` more bytes are too many."""
        if self.is_over_budget(size):
            raise XComTooLargeError(
                f"the values of run {self.run_id!r}",
                actual=self._bytes + size,
                limit=self._max_bytes,
                setting="Limits(max_run_xcom_bytes=...)",
            )

    def reserve(self, size: int) -> None:
        """Count bytes about to be stored.

        Raises:
            XComTooLargeError: they would be too many; nothing is counted.
        """
        self.check_budget(size)
        self._bytes += size
