"""A store that does as another does, but fails, waits or dies where a test says so."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

import anyio
import attrs

from dagrelay.errors import StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

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
    from dagrelay.stores.stream_records import StreamPage, StreamQuery

__all__ = ("Fault", "FaultyStore", "Gate", "StoreCall", "StoreKilledError", "When")

T = TypeVar("T")

StoreCall: TypeAlias = Literal[
    "open",
    "apply",
    "lookup",
    "maintain",
    "find_run",
    "find_runs",
    "load_run",
    "instances",
    "entries",
    "stream",
    "stored_bytes",
    "next_seq",
    "events",
    "previous",
    "attempts",
    "message",
]
"""A method of a store that a fault may meet. Closing is none: whatever a program dies of, the system gives back what it held."""
When: TypeAlias = Literal["before", "after"]
"""Whether a fault comes before the inner store has done what was asked, or after it, when only the answer is lost."""


class StoreKilledError(StoreClosedError):
    """The store was killed by a test; whoever used it counts as dead."""


class Gate:
    """What comes to it is held while it is shut."""

    def __init__(self) -> None:
        """Start open."""
        self._opened: anyio.Event | None = None
        self._reached = anyio.Event()
        self.waiting: int = 0
        """How many are held."""

    def shut(self) -> None:
        """Hold what comes."""
        if self._opened is None:
            self._opened = anyio.Event()

    def open(self) -> None:
        """Let all go on."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.set()

    async def passed(self) -> None:
        """Wait until it is open.

        Cancellation: only the waiting ends.
        """
        self.waiting += 1
        self._reached.set()
        try:
            if self._opened is not None:
                await self._opened.wait()
        finally:
            self.waiting -= 1

    async def reached(self) -> None:
        """Wait until anything has come to it since it was made.

        Cancellation: only the waiting ends.
        """
        await self._reached.wait()


@attrs.define(eq=False)
class Fault:
    """What was planted in a store."""

    on: StoreCall | Literal["any"]
    """The calls that count; `any` is all but `open`."""
    at: int
    """At which of them it strikes, counted from its planting; 1 is the next."""
    for_ever: bool
    """Whether it strikes at each of them from then on."""
    when: When
    """Before or after the inner store has done its part."""
    strike: Callable[[], Awaitable[None]]
    """What it does: raises, or waits."""
    seen: int = 0
    """Calls that have counted so far."""
    fired: int = 0
    """How often it has struck; a test that plants a fault asserts that it did."""

    def meets(self, call: StoreCall) -> bool:
        """Count a call, and tell whether it strikes there."""
        if call != self.on and (self.on != "any" or call == "open"):
            return False
        self.seen += 1
        return self.seen == self.at or (self.for_ever and self.seen > self.at)


class FaultyStore:
    """Delegates to `inner`, and strikes where `fail`, `delay`, `hold` or `kill` have planted a fault.

    ::

        store = FaultyStore(MemoryStore())
        fault = store.fail(StoreFullError("full"), at=3)             # the third batch from now is refused
        store.delay(0.5, on="lookup", for_ever=True)                 # each read takes half a second
        gate = store.hold(at=5)                                      # the fifth waits until gate.open()
        store.kill(at=7, when="after")                               # the seventh is stored, but nobody is told

    Faults are counted each by itself, from the moment of planting. A subclass may override any method of a store.

    Args:
        inner: the store that does the work. After a kill it keeps what was committed, and another runtime can take it over.
    """

    def __init__(self, inner: Store) -> None:
        """Take the store that does the work."""
        self.inner = inner
        self.writes: Gate = Gate()
        """Holds batches before they are applied, while it is shut."""
        self.reads: Gate = Gate()
        """Holds answers of `lookup`, `stored_bytes` and `next_seq` after they were read, while it is shut."""
        self.calls: Counter[StoreCall] = Counter()
        """How often each method was called."""
        self.batches: list[list[Operation]] = []
        """The batches that came, applied or not."""
        self.lookups: list[list[Lookup]] = []
        """The lookups that came."""
        self.idle: list[bool] = []
        """What `maintain` was told."""
        self._faults: list[Fault] = []
        self._answers: deque[list[int | DagrelayError]] = deque()
        self._is_killed = False

    # ----------------------------------------------------------------------------------------------------- planting

    def fail(
        self,
        error: Exception | Callable[[], Exception],
        *,
        at: int = 1,
        on: StoreCall | Literal["any"] = "apply",
        for_ever: bool = False,
        when: When = "before",
    ) -> Fault:
        """Raise an error (or what a function makes, for each time anew) at a call to come."""

        async def strike() -> None:
            raise error if isinstance(error, Exception) else error()

        return self._plant(Fault(on, at, for_ever, when, strike))

    def delay(
        self,
        seconds: float | Callable[[], float],
        *,
        at: int = 1,
        on: StoreCall | Literal["any"] = "apply",
        for_ever: bool = False,
        when: When = "before",
    ) -> Fault:
        """Have a call to come wait by the loop's clock."""

        async def strike() -> None:
            await anyio.sleep(seconds() if callable(seconds) else seconds)

        return self._plant(Fault(on, at, for_ever, when, strike))

    def hold(
        self, *, at: int = 1, on: StoreCall | Literal["any"] = "apply", for_ever: bool = False, when: When = "before"
    ) -> Gate:
        """Have a call to come wait until the gate returned is opened."""
        gate = Gate()
        gate.shut()
        self._plant(Fault(on, at, for_ever, when, gate.passed))
        return gate

    def answer(self, *results: list[int | DagrelayError]) -> None:
        """Answer the next batches with these results, one each, without asking the inner store."""
        self._answers.extend(results)

    def kill(
        self,
        *,
        at: int = 0,
        on: StoreCall | Literal["any"] = "apply",
        when: When = "before",
        then: Callable[[], None] | None = None,
    ) -> Fault:
        """Die: from then on nothing reaches the inner store any more, and every call raises StoreKilledError.

        Args:
            at: at which call to come; 0 for now.
            on: the calls that count.
            when: before or after the inner store has done its part.
            then: called at that moment.
        """

        async def strike() -> None:
            self._die(then)
            raise StoreKilledError(self.name)

        fault = self._plant(Fault(on, at, True, when, strike))  # noqa: FBT003 - a field of a record
        if at == 0:
            self._die(then)
        return fault

    def _die(self, then: Callable[[], None] | None) -> None:
        if not self._is_killed:
            self._is_killed = True
            if then is not None:
                then()

    @property
    def is_killed(self) -> bool:
        """Whether it is dead."""
        return self._is_killed

    def heal(self) -> None:
        """Forget all faults, those that wait to strike and a death alike."""
        self._faults.clear()
        self._answers.clear()
        self._is_killed = False

    def _plant(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    async def _through(self, call: StoreCall, work: Callable[[], Awaitable[T]]) -> T:
        """Have the inner store do its part, with all faults that the call meets."""
        self.calls[call] += 1
        self._check_alive()
        due = [fault for fault in self._faults if fault.meets(call)]
        await self._strike(due, "before")
        result = await work()
        await self._strike(due, "after")
        return result

    async def _strike(self, due: list[Fault], when: When) -> None:
        for fault in due:
            if fault.when == when:
                fault.fired += 1
                await fault.strike()
        self._check_alive()  # It may have died while this one was under way.

    def _check_alive(self) -> None:
        if self._is_killed:
            raise StoreKilledError(self.name)

    # --------------------------------------------------------------------------------------------------- as a store

    @property
    def name(self) -> str:
        """The inner store's."""
        return self.inner.name

    @property
    def is_read_only(self) -> bool:
        """The inner store's."""
        return self.inner.is_read_only

    def statistics(self) -> StoreStatistics:
        """Return the inner store's."""
        return self.inner.statistics()

    async def open(self, *, now_us: int) -> None:
        """Open the inner store; after a fault it is closed again."""
        has_opened = False

        async def open_inner() -> None:
            nonlocal has_opened
            await self.inner.open(now_us=now_us)
            has_opened = True

        try:
            await self._through("open", open_inner)
        except BaseException:
            if has_opened:
                await self.inner.close()  # noqa: ASYNC102 - it shields itself
            raise

    async def close(self) -> None:
        """Close the inner store, after a death too: a dead program's files and locks are given back."""
        await self.inner.close()

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Note the batch, wait for the gate, and apply it."""
        self.batches.append(list(batch))
        await self.writes.passed()
        return await self._through("apply", lambda: self._applied(batch))

    async def _applied(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        return self._answers.popleft() if self._answers else await self.inner.apply(batch)

    async def lookup(self, wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        """Note the lookups, read, and wait for the gate with the answer."""
        self.lookups.append(list(wanted))
        return await self._read("lookup", lambda: self.inner.lookup(wanted))

    async def stream(self, query: StreamQuery) -> StreamPage:
        """Read, and wait for the gate with the answer."""
        return await self._read("stream", lambda: self.inner.stream(query))

    async def stored_bytes(self, run_id: str) -> int:
        """Read, and wait for the gate with the answer."""
        return await self._read("stored_bytes", lambda: self.inner.stored_bytes(run_id))

    async def next_seq(self, run_id: str) -> int:
        """Read, and wait for the gate with the answer."""
        return await self._read("next_seq", lambda: self.inner.next_seq(run_id))

    async def _read(self, call: StoreCall, work: Callable[[], Awaitable[T]]) -> T:
        found = await self._through(call, work)
        await self.reads.passed()
        return found

    async def maintain(self, *, idle: bool) -> None:
        """Note it, and do it."""
        self.idle.append(idle)
        await self._through("maintain", lambda: self.inner.maintain(idle=idle))

    async def find_run(self, run_id: str) -> StoredRun | None:
        """Read."""
        return await self._through("find_run", lambda: self.inner.find_run(run_id))

    async def find_runs(self, query: RunQuery) -> list[Run]:
        """Read."""
        return await self._through("find_runs", lambda: self.inner.find_runs(query))

    async def load_run(self, run_id: str) -> RunImage | None:
        """Read."""
        return await self._through("load_run", lambda: self.inner.load_run(run_id))

    async def instances(self, run_id: str, *, task_id: str | None = None, state: TaskState | None = None) -> list[StoredInstance]:
        """Read."""
        return await self._through("instances", lambda: self.inner.instances(run_id, task_id=task_id, state=state))

    async def entries(
        self,
        run_id: str,
        *,
        task_ids: Sequence[str] | None = None,
        prefix: str | None = None,
        all_attempts: bool = False,
        with_values: bool = False,
    ) -> list[tuple[XComEntry, StoredEntry | None]]:
        """Read."""
        return await self._through(
            "entries",
            lambda: self.inner.entries(
                run_id, task_ids=task_ids, prefix=prefix, all_attempts=all_attempts, with_values=with_values
            ),
        )

    async def events(self, run_id: str, *, after_seq: int = 0, limit: int = 1000) -> list[Event]:
        """Read."""
        return await self._through("events", lambda: self.inner.events(run_id, after_seq=after_seq, limit=limit))

    async def previous(
        self, dag_id: str, task_id: str, key: str, *, before_run: str, limit: int
    ) -> list[tuple[str, StoredEntry]]:
        """Read."""
        return await self._through(
            "previous", lambda: self.inner.previous(dag_id, task_id, key, before_run=before_run, limit=limit)
        )

    async def attempts(self, dag_id: str, *, task_id: str | None = None) -> list[StoredInstance]:
        """Read."""
        return await self._through("attempts", lambda: self.inner.attempts(dag_id, task_id=task_id))

    async def message(self, message_id: str) -> str | None:
        """Read."""
        return await self._through("message", lambda: self.inner.message(message_id))
