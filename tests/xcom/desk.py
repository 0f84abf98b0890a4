"""A broker at work on a store, with runs that report to a list: what the tests of this floor share."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import anyio
import attrs

from dagrelay.model.policies import Limits
from dagrelay.model.records import InstanceKey
from dagrelay.model.states import RunState, TaskState
from dagrelay.serializers.base import SerializerRegistry
from dagrelay.serializers.json import JsonSerializer
from dagrelay.stores.base import Lookup
from dagrelay.stores.operations import OUTSIDE, CreateRun, FinishAttempt, NewEntry, SetRunState, StartAttempt
from dagrelay.testing.faulty import FaultyStore
from dagrelay.testing.story import plan_of
from dagrelay.xcom.broker import Broker
from dagrelay.xcom.door import Door
from dagrelay.xcom.manager import XComManager

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence

    from anyio.abc import TaskGroup

    from dagrelay.errors import StoreError
    from dagrelay.serializers.base import Serializer
    from dagrelay.stores.base import Store
    from dagrelay.xcom.book import RunBook


@attrs.define(eq=False)
class Reports:
    """Where a run's reports go, as a scheduler would take them."""

    ended: list[FinishAttempt] = attrs.field(factory=list[FinishAttempt])
    lost: list[FinishAttempt] = attrs.field(factory=list[FinishAttempt])
    failures: list[StoreError] = attrs.field(factory=list["StoreError"])

    def outcomes(self, outcomes: Sequence[FinishAttempt]) -> None:
        """Take outcomes."""
        self.ended += outcomes

    def store_failed(self, error: StoreError, lost: Sequence[FinishAttempt]) -> None:
        """Take a failure."""
        self.failures.append(error)
        self.lost += lost


@attrs.define(eq=False)
class Desk:
    """A broker at work."""

    store: FaultyStore
    broker: Broker
    door: Door
    manager: XComManager
    task_group: TaskGroup
    deaths: list[Exception]
    """What the broker died of."""

    async def enter(self, run_id: str = "run", *, is_pipelined: bool = False, tasks: Iterable[str] = ("a",)) -> LiveRun:
        """Record a run and make it live."""
        book = await self.broker.book(run_id, is_new=True)
        book.dag_id = "dag"
        plan = plan_of(*tasks)
        create = CreateRun(run_id=run_id, dag_id="dag", params=b"{}", tags=(), plan=plan, created_us=1, seq=book.next_seq())
        await self.broker.write(create, book)
        reports = Reports()
        self.broker.enter_run(book, reports, is_pipelined=is_pipelined)
        return LiveRun(self, book, reports)

    async def close(self) -> None:
        """End it after the last commit."""
        self.broker.close()
        await anyio.wait_all_tasks_blocked()


@attrs.define(eq=False)
class LiveRun:
    """A live run of a broker."""

    desk: Desk
    book: RunBook
    reports: Reports
    _starts: dict[tuple[str, int], int] = attrs.field(factory=dict[tuple[str, int], int])

    @property
    def broker(self) -> Broker:
        """The broker."""
        return self.desk.broker

    def key(self, task_id: str = "a") -> InstanceKey:
        """Return the name of a task instance."""
        return InstanceKey(self.book.run_id, task_id, None)

    def open(self, task_id: str = "a", attempt: int = 1) -> None:
        """Let an attempt write."""
        self.book.open_attempt(self.key(task_id), attempt)

    def start(self, task_id: str = "a", attempt: int = 1) -> None:
        """Let an attempt write, and have its start recorded."""
        self.open(task_id, attempt)
        self.record_start(task_id, attempt)

    def record_start(self, task_id: str = "a", attempt: int = 1) -> None:
        """Have an attempt's start recorded."""
        seq = self._starts[task_id, attempt] = self.book.next_seq()
        self.broker.cast(self.book, StartAttempt(instance=self.key(task_id), attempt=attempt, started_us=seq, seq=seq))

    async def push(
        self,
        values: Mapping[str, bytes],
        task_id: str = "a",
        *,
        slot: int = 1,
        attempt: int | None = None,
        published: bool = False,
    ) -> tuple[NewEntry, ...]:
        """Push values."""
        drafts = [draft(key, value, published=published) for key, value in values.items()]
        by = max(slot, 0) if attempt is None else attempt
        return await self.broker.push(self.book, instance=self.key(task_id), slot=slot, attempt=by, drafts=drafts)

    def outcome(
        self,
        task_id: str = "a",
        attempt: int = 1,
        state: TaskState = TaskState.SUCCESS,
        values: Mapping[str, bytes] | None = None,
    ) -> FinishAttempt:
        """Return an outcome with its places in the timeline."""
        start_seq = self._starts.pop((task_id, attempt), None) or self.book.next_seq()
        entries = tuple(attrs.evolve(draft(k, v), seq=self.book.next_seq()) for k, v in (values or {}).items())
        return FinishAttempt(
            instance=self.key(task_id),
            attempt=attempt,
            state=state,
            started_us=start_seq,
            ended_us=start_seq + 1,
            start_seq=start_seq,
            seq=self.book.next_seq(),
            entries=entries,
            failures=int(state is TaskState.FAILED),
        )

    def finish(
        self,
        task_id: str = "a",
        attempt: int = 1,
        state: TaskState = TaskState.SUCCESS,
        values: Mapping[str, bytes] | None = None,
    ) -> FinishAttempt:
        """Open an attempt and hand in its outcome at once; return that."""
        self.open(task_id, attempt)
        outcome = self.outcome(task_id, attempt, state, values)
        assert self.broker.hand_in(self.book, outcome, is_start_written=False)
        return outcome

    async def end(self, state: RunState = RunState.SUCCESS) -> None:
        """Record the run's end and leave."""
        await self.broker.write(SetRunState(run_id=self.book.run_id, state=state, at_us=2, seq=self.book.next_seq()), self.book)
        self.broker.leave_run(self.book)

    async def find(self, key: str = "k", task_id: str = "a", slots: tuple[int, ...] | None = (1, -1, 0)) -> bytes | None:
        """Return the bytes found for one lookup."""
        (found,) = await self.broker.find([Lookup(instance=self.key(task_id), key=key, slots=slots)])
        return None if found is None else found.value


def draft(key: str, value: bytes, *, published: bool = False) -> NewEntry:
    """Return an entry without a place in the timeline."""
    return NewEntry(key=key, value=value, serializer="json", published=published, created_us=5, seq=0)


@asynccontextmanager
async def at_work(
    store: Store, *, limits: Limits | None = None, serializers: Iterable[Serializer] = ()
) -> AsyncGenerator[Desk, None]:
    """Give a broker at work on an open store; it ends after its last commit."""
    faulty = FaultyStore(store)
    limits = limits or Limits()
    broker = Broker(faulty, limits)
    ticks = count(1_000)
    door = Door(SerializerRegistry(JsonSerializer(), serializers), limits, lambda: next(ticks))
    manager = XComManager(faulty, broker, door, limits=limits)
    deaths: list[Exception] = []

    async def serve() -> None:
        try:
            await broker.run()
        except Exception as error:  # noqa: BLE001 - a supervisor takes it, whatever it is
            deaths.append(error)

    is_whole = False
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(serve)  # noqa: ASYNC113 - whoever posts to it may come first
        task_group.start_soon(broker.reader.run)
        try:
            yield Desk(faulty, broker, door, manager, task_group, deaths)
            is_whole = True
        finally:
            faulty.writes.open()
            faulty.reads.open()
            broker.close()
            broker.reader.close()
    assert is_whole, "the task group was cancelled, and the test with it"


__all__ = ("OUTSIDE", "Desk", "LiveRun", "Reports", "at_work", "draft")
