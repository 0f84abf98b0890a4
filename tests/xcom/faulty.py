"""A store that does as another does, but holds back or fails where a test says so."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.errors import DagrelayError
    from dagrelay.model.events import Event
    from dagrelay.model.records import Run, XComEntry
    from dagrelay.model.states import TaskState
    from dagrelay.stores.base import (
        Lookup,
        RunImage,
        RunQuery,
        Store,
        StoredEntry,
        StoredInstance,
        StoredRun,
        StoreStatistics,
    )
    from dagrelay.stores.operations import Operation


class Gate:
    """What passes is held while the gate is shut."""

    def __init__(self) -> None:
        """Start open."""
        self._opened = anyio.Event()
        self._opened.set()

    def shut(self) -> None:
        """Hold what comes."""
        self._opened = anyio.Event()

    def open(self) -> None:
        """Let all go on."""
        self._opened.set()

    async def passed(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()


class FaultyStore:
    """Delegates to `inner`; made inside the event loop.

    `writes` holds batches before they are applied; `reads` holds answers after they were read. `faults` are raised by the next
    calls of `apply`, one each (None lets one pass); likewise `read_faults` for `lookup`, and `upkeep_faults` for `maintain`.
    """

    def __init__(self, inner: Store) -> None:
        """Take the store that does the work."""
        self.inner = inner
        self.writes = Gate()
        self.reads = Gate()
        self.faults: deque[Exception | None] = deque()
        self.read_faults: deque[Exception | None] = deque()
        self.upkeep_faults: deque[Exception | None] = deque()
        self.results: deque[list[int | DagrelayError]] = deque()
        self.batches: list[list[Operation]] = []
        self.lookups: list[list[Lookup]] = []
        self.idle: list[bool] = []

    @property
    def name(self) -> str:
        """The inner store's."""
        return self.inner.name

    @property
    def is_read_only(self) -> bool:
        """The inner store's."""
        return self.inner.is_read_only

    async def open(self, *, now_us: int) -> None:
        """Open it."""
        await self.inner.open(now_us=now_us)

    async def close(self) -> None:
        """Close it."""
        await self.inner.close()

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Note the batch, wait for the gate, then fail or apply it."""
        self.batches.append(list(batch))
        await self.writes.passed()
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            raise fault
        return self.results.popleft() if self.results else await self.inner.apply(batch)

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        """Note the lookups, read, and wait for the gate with the answer."""
        self.lookups.append(list(wanted))
        fault = self.read_faults.popleft() if self.read_faults else None
        if fault is not None:
            raise fault
        found = await self.inner.lookup(wanted)
        await self.reads.passed()
        return found

    async def stored_bytes(self, run_id: str) -> int:
        """Read, and wait for the gate with the answer."""
        found = await self.inner.stored_bytes(run_id)
        await self.reads.passed()
        return found

    async def next_seq(self, run_id: str) -> int:
        """Read, and wait for the gate with the answer."""
        found = await self.inner.next_seq(run_id)
        await self.reads.passed()
        return found

    async def maintain(self, *, idle: bool) -> None:
        """Note it, then fail or do it."""
        self.idle.append(idle)
        fault = self.upkeep_faults.popleft() if self.upkeep_faults else None
        if fault is not None:
            raise fault
        await self.inner.maintain(idle=idle)

    async def find_run(self, run_id: str) -> StoredRun | None:
        """Delegate."""
        return await self.inner.find_run(run_id)

    async def find_runs(self, query: RunQuery) -> list[Run]:
        """Delegate."""
        return await self.inner.find_runs(query)

    async def load_run(self, run_id: str) -> RunImage | None:
        """Delegate."""
        return await self.inner.load_run(run_id)

    async def instances(self, run_id: str, *, task_id: str | None = None, state: TaskState | None = None) -> list[StoredInstance]:
        """Delegate."""
        return await self.inner.instances(run_id, task_id=task_id, state=state)

    async def entries(
        self,
        run_id: str,
        *,
        task_ids: Sequence[str] | None = None,
        prefix: str | None = None,
        all_attempts: bool = False,
        with_values: bool = False,
    ) -> list[tuple[XComEntry, StoredEntry | None]]:
        """Delegate."""
        return await self.inner.entries(
            run_id, task_ids=task_ids, prefix=prefix, all_attempts=all_attempts, with_values=with_values
        )

    async def events(self, run_id: str, *, after_seq: int = 0, limit: int = 1000) -> list[Event]:
        """Delegate."""
        return await self.inner.events(run_id, after_seq=after_seq, limit=limit)

    def statistics(self) -> StoreStatistics:
        """Delegate."""
        return self.inner.statistics()
