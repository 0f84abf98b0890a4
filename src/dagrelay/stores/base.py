"""The store protocol: atomic batches of operations in, records out. The broker is its only writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.errors import DagrelayError
    from dagrelay.model.events import Event
    from dagrelay.model.records import ErrorRecord, InstanceKey, Run, XComEntry
    from dagrelay.model.states import RunState, TaskState
    from dagrelay.stores.operations import Operation, StoredPlan
    from dagrelay.stores.stream_records import StreamPage, StreamQuery

__all__ = (
    "Lookup",
    "RunImage",
    "RunQuery",
    "Store",
    "StoreStatistics",
    "StoredEntry",
    "StoredInstance",
    "StoredRun",
    "SupportsBackup",
)


@attrs.frozen(kw_only=True)
class StoredRun:
    """A run as the store has it."""

    run: Run
    """The record; of a pruned run only `run_id`, `dag_id` and times mean anything."""
    params: bytes
    """The params as they were given to CreateRun."""
    is_pruned: bool
    """Whether only the tombstone is left."""


@attrs.frozen(kw_only=True)
class StoredInstance:
    """A task instance as the store has it; instances that were never touched have none."""

    instance: InstanceKey
    """Its name."""
    state: TaskState
    """Its state."""
    attempt: int
    """Its latest attempt; 0 if none ever started."""
    started_us: int | None
    """When that started."""
    ended_us: int | None
    """When that, or the instance without any, ended."""
    error: ErrorRecord | None
    """Why it ended badly."""
    failures: int
    """Attempts that count against the retry budget."""
    interruptions: int
    """How often it was interrupted."""
    retry_us: int | None
    """With up_for_retry: when the next attempt may start. Of one that waits, or was interrupted while it did: its deadline."""
    length: int | None = None
    """Of a mapped task as a whole: how many elements it has; None before its expansion."""
    follows: tuple[str, ...] | None = None
    """Of a branch that has decided: the tasks directly downstream that are to be followed."""
    lineage: str | None = None
    """What the attempt has read, as compact JSON."""


@attrs.frozen(kw_only=True)
class RunImage:
    """All that is needed to go on with a run."""

    stored: StoredRun
    """The run."""
    plan: StoredPlan
    """The plan it was last run with."""
    instances: tuple[StoredInstance, ...]
    """Its touched instances, in no promised order."""
    highest_attempts: dict[InstanceKey, int]
    """By instance, the highest attempt found in instances and entries alike, where it is above the instance's own."""
    next_seq: int
    """One above the highest `seq` stored for the run."""
    stored_bytes: int
    """Sum of the sizes of its entries, and of the items of its streams."""


@attrs.frozen(kw_only=True)
class RunQuery:
    """Which runs, newest first; all conditions must hold."""

    dag_id: str | None = None
    """Runs of this DAG."""
    state: RunState | None = None
    """Runs in this state."""
    since_us: int | None = None
    """Created at or after."""
    until_us: int | None = None
    """Created before."""
    tags: tuple[str, ...] = ()
    """Having all of these tags."""
    limit: int | None = 100
    """At most so many; None for all."""
    offset: int = 0
    """Leave out the first so many."""


@attrs.frozen(kw_only=True)
class Lookup:
    """One value wanted."""

    instance: InstanceKey
    """Whose."""
    key: str
    """Under which key."""
    slots: tuple[int, ...] | None = None
    """The slots to look in, first hit wins; None for what every reader may see: the slot of the succeeded attempt, then (only if
    it succeeded) TASK_LIFETIME, then OUTSIDE. While an attempt runs, its published entries stand in place of the first two."""


@attrs.frozen(kw_only=True)
class StoredEntry:
    """One value found."""

    value: bytes
    """Its encoded bytes, verified against their checksum."""
    serializer: str
    """Name of the serializer that wrote them."""
    slot: int
    """The slot it was found in."""


@attrs.frozen(kw_only=True)
class StoreStatistics:
    """What a store has done since it was opened."""

    batches: int
    """Batches committed."""
    operations: int
    """Operations applied."""
    reads: int
    """Units of work of the reader."""
    replays: int
    """Batches that failed whole and were applied again one by one."""


class Store(Protocol):
    """Where runs and their values are kept.

    A store belongs to one runtime at a time. `open` comes first, `close` last; both may be called once. Reads may run beside
    `apply` and see whole batches only. Every failure of the medium is a StoreError with the driver's exception as its cause.
    """

    @property
    def name(self) -> str:
        """A path or other name for error messages."""
        ...

    @property
    def is_read_only(self) -> bool:
        """Whether `apply` is refused."""
        ...

    async def open(self, *, now_us: int) -> None:
        """Open the store and, for writing, become its owner.

        Whatever ran under an earlier owner is marked interrupted in one transaction: running runs, and their queued, running and
        waiting instances (with one more interruption). up_for_retry instances stay.

        Raises:
            StoreLockedError: another owner is alive.
            StoreSchemaError: the file is none of ours, or newer than this version; it is left untouched.

        Cancellation: nothing stays open or locked.
        """
        ...

    async def close(self) -> None:
        """Give everything back; safe to call after a failed `open` and twice. Shields itself."""
        ...

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply operations in order, in one transaction, and return one result for each.

        A result is a number (how many entries or runs were deleted; for MarkInstance the latest attempt, of which its event
        tells; else 1), or the error for which the operation, and only it, was refused and left no trace. If the medium refuses
        one operation (a StoreError result), the later operations of the same run get the same error untried, so that what is
        stored stays a prefix of what was asked.

        Raises:
            StaleOwnerError: another owner has taken over; nothing was applied.
            StoreError: nothing of the batch was applied.

        Cancellation: the batch is applied whole or not at all; native cancellation is raised after it is over.
        """
        ...

    async def find_run(self, run_id: str) -> StoredRun | None:
        """Return the run, or its tombstone, or None."""
        ...

    async def find_runs(self, query: RunQuery) -> list[Run]:
        """Return the runs asked for, newest first; no tombstones."""
        ...

    async def load_run(self, run_id: str) -> RunImage | None:
        """Return all that is needed to go on with a run; None if there is none or it is pruned."""
        ...

    async def instances(self, run_id: str, *, task_id: str | None = None, state: TaskState | None = None) -> list[StoredInstance]:
        """Return the touched instances of a run, by first storage of their task id, then map index."""
        ...

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        """Return the values wanted, in order, None where there is none; one read for all.

        Raises:
            StoreCorruptError: a row found does not match its checksum.
        """
        ...

    async def entries(
        self,
        run_id: str,
        *,
        task_ids: Sequence[str] | None = None,
        prefix: str | None = None,
        all_attempts: bool = False,
        with_values: bool = False,
    ) -> list[tuple[XComEntry, StoredEntry | None]]:
        """Return the entries of a run (only of `task_ids` if given, in that order), each with its bytes if `with_values`.

        Those every reader may see, one for each instance and key (as for `Lookup.slots` None); with `all_attempts` all, with the
        state of the attempt. Ordered by task, map index, key, slot. `prefix` is matched literally. `XComEntry.value` is None.
        """
        ...

    async def stream(self, query: StreamQuery) -> StreamPage:
        """Return how far a stream has come, a consumer's position in it, and items, all of one moment; empty if it is unknown.

        Raises:
            StoreCorruptError: a row found does not match its checksum.
        """
        ...

    async def stored_bytes(self, run_id: str) -> int:
        """Return the sum of the sizes of a run's entries and of the items of its streams."""
        ...

    async def next_seq(self, run_id: str) -> int:
        """Return one above the highest `seq` stored for a run or run id; 1 if there is none."""
        ...

    async def events(self, run_id: str, *, after_seq: int = 0, limit: int = 1000) -> list[Event]:
        """Return the stored timeline after a place, in order of `seq`.

        Every change of state is in it, and the last push of each entry that still stands.
        """
        ...

    async def previous(
        self, dag_id: str, task_id: str, key: str, *, before_run: str, limit: int
    ) -> list[tuple[str, StoredEntry]]:
        """Return the values of one task and key in earlier runs of a DAG, newest first, each with the id of its run.

        Earlier are the runs created before `before_run`; none is if there never was such a run. Left out are those in which no
        reader sees the entry (as for `Lookup.slots` None, of the task as a whole).
        """
        ...

    async def attempts(self, dag_id: str, *, task_id: str | None = None) -> list[StoredInstance]:
        """Return the touched instances of all runs of a DAG, by creation of their runs, then as `instances` has them.

        Of runs that are pruned nothing is left to return.
        """
        ...

    async def message(self, message_id: str) -> str | None:
        """Return what has become of a message, `MESSAGE_DONE` if an operation has carried it out; None if it is not known."""
        ...

    async def maintain(self, *, idle: bool) -> None:
        """Do housekeeping between batches; cheap when there is nothing to do. `idle` tells that no batch is waiting.

        Raises:
            StoreError: it failed; nothing that was stored is lost.
        """
        ...

    def statistics(self) -> StoreStatistics:
        """Return what was done since the opening."""
        ...


@runtime_checkable
class SupportsBackup(Protocol):
    """What a store has that can be copied as a whole while it is in use; not every one can."""

    async def backup(self, target: str) -> None:
        """Copy all that is committed, as it is at one moment, to a new file, which holds no reader or writer up.

        Raises:
            StoreBackupError: there is such a file already, or it can't be written; nothing is left of it.

        Cancellation: nothing is left of it; if it comes too late the copy is there, whole.
        """
        ...
