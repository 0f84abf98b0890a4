"""What the store remembers of runs, for those who look back."""

from __future__ import annotations

import weakref
from collections import deque
from difflib import get_close_matches
from typing import TYPE_CHECKING, Self

from dagrelay.actors.mailbox import MailboxClosed
from dagrelay.errors import RunNotFoundError
from dagrelay.ids import check_run_id, check_task_id
from dagrelay.model.events import RunFinished
from dagrelay.model.records import InstanceKey, Run, TaskInstance, from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.runtime.leftovers import shown_state
from dagrelay.stores.base import RunQuery, StoredInstance
from dagrelay.xcom.followers import EventsMissed

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.actors.mailbox import Mailbox
    from dagrelay.model.events import Event
    from dagrelay.stores.base import Store
    from dagrelay.xcom.broker import Broker

__all__ = ("Timeline", "run_record", "task_records", "unknown_run")

_PAGE = 1000


async def unknown_run(store: Store, run_id: str) -> RunNotFoundError:
    """Return the error for a run id that the store does not have, naming near ones."""
    recent = await store.find_runs(RunQuery(limit=500))
    return RunNotFoundError(run_id, get_close_matches(run_id, [run.run_id for run in recent]))


async def run_record(store: Store, run_id: str) -> Run:
    """Return a run's record.

    Raises:
        RunNotFoundError: there is none, or it was pruned.
    """
    stored = await store.find_run(check_run_id(run_id))
    if stored is None or stored.is_pruned:
        raise await unknown_run(store, run_id)
    return stored.run


async def task_records(
    store: Store, run_id: str, *, task_id: str | None = None, state: TaskState | None = None
) -> list[TaskInstance]:
    """Return a run's tasks in topological order; those never touched too, as pending (cancelled in a cancelled run).

    A mapped task stands there as a whole, without map index, and then, once it was expanded, with each of its elements.

    Raises:
        RunNotFoundError: there is no such run.
    """
    image = await store.load_run(check_run_id(run_id))
    if image is None:
        raise await unknown_run(store, run_id)
    wanted = None if task_id is None else check_task_id(task_id)
    run_state = image.stored.run.state
    known: dict[str, list[StoredInstance]] = {}
    for each in image.instances:
        known.setdefault(each.instance.task_id, []).append(each)
    rows: list[TaskInstance] = []
    for planned in image.plan.task_ids if wanted is None else [wanted] if wanted in image.plan.task_ids else []:
        touched = {each.instance.map_index: each for each in known.get(planned, ())}
        whole = touched.get(None)
        length = 0 if whole is None or whole.length is None else whole.length
        for map_index in (None, *range(length)):
            stored = touched.get(map_index)
            rows.append(
                TaskInstance(run_id=run_id, task_id=planned, map_index=map_index, state=shown_state(run_state, TaskState.PENDING))
                if stored is None
                else _record(run_state, stored)
            )
    return rows if state is None else [row for row in rows if row.state is TaskState(state)]


def _record(run_state: RunState, each: StoredInstance) -> TaskInstance:
    instance: InstanceKey = each.instance
    return TaskInstance(
        run_id=instance.run_id,
        task_id=instance.task_id,
        map_index=instance.map_index,
        state=shown_state(run_state, each.state),
        attempt=each.attempt,
        started_at=None if each.started_us is None else from_us(each.started_us),
        ended_at=None if each.ended_us is None else from_us(each.ended_us),
        error=each.error,
    )


class Timeline:
    """Iterates over a run's timeline: what is stored, page by page, then, while it runs here, what is committed.

    It is no async generator, as those must be closed by whoever leaves a loop over them early; here the iterator is dropped.
    """

    def __init__(self, store: Store, broker: Broker, run_id: str) -> None:
        """Take where to read; nothing happens before the first step."""
        self._store = store
        self._broker = broker
        self._run_id = run_id
        self._seq = 0
        self._page: deque[Event] = deque()
        self._live: Mailbox[Event] | None = None
        self._unfollow: Callable[[], object] | None = None
        self._is_stored_read = False
        self._is_over = False

    def __aiter__(self) -> Self:
        """Return the iterator itself."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event.

        Raises:
            RunNotFoundError: there is no such run.

        Cancellation: nothing is lost; the next step goes on.
        """
        while not self._page:
            if self._is_over:
                raise StopAsyncIteration
            page = await self._read()
            self._page.extend(event for event in page if event.seq > self._seq)
        event = self._page.popleft()
        self._seq = event.seq
        if self._is_stored_read and isinstance(event, RunFinished):
            self._end()
        return event

    async def _read(self) -> list[Event]:
        if self._live is None:
            await run_record(self._store, self._run_id)
            self._live = self._broker.follow(self._run_id)  # Before what is stored is read, so that nothing falls between.
            finalizer = weakref.finalize(self, self._broker.unfollow, self._run_id, self._live)
            finalizer.atexit = False
            self._unfollow = finalizer
        if not self._is_stored_read:
            page = await self._store.events(self._run_id, after_seq=self._seq, limit=_PAGE)
            self._is_stored_read = not page
            return page
        try:
            return await self._read_live(self._live)
        except EventsMissed:
            self._is_stored_read = False  # What was dropped is in the store, after what was given out last.
            return []

    async def _read_live(self, live: Mailbox[Event]) -> list[Event]:
        if self._broker.live_book(self._run_id) is not None:
            try:
                return await live.drain(_PAGE)
            except MailboxClosed:
                pass  # The run ended without being able to record it.
        rest = live.drain_nowait(_PAGE)
        if not rest:
            self._end()
        return rest

    def _end(self) -> None:
        self._is_over = True
        if self._unfollow is not None:
            self._unfollow()
