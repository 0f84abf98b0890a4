"""What the store remembers of runs, for those who look back."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from dagrelay.actors.mailbox import MailboxClosed
from dagrelay.errors import RunNotFoundError
from dagrelay.ids import check_run_id, check_task_id
from dagrelay.model.events import RunFinished
from dagrelay.model.records import InstanceKey, Run, TaskInstance, from_us
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.base import RunQuery, StoredInstance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from dagrelay.model.events import Event
    from dagrelay.stores.base import Store
    from dagrelay.xcom.broker import Broker

__all__ = ("follow_events", "run_record", "task_records", "unknown_run")

_PAGE = 1000
_NEVER_STARTED = {RunState.CANCELLED: TaskState.CANCELLED}


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

    Raises:
        RunNotFoundError: there is no such run.
    """
    image = await store.load_run(check_run_id(run_id))
    if image is None:
        raise await unknown_run(store, run_id)
    wanted = None if task_id is None else check_task_id(task_id)
    untouched = _NEVER_STARTED.get(image.stored.run.state, TaskState.PENDING)
    known: dict[str, list[StoredInstance]] = {}
    for each in image.instances:
        known.setdefault(each.instance.task_id, []).append(each)
    rows: list[TaskInstance] = []
    for planned in image.plan.task_ids if wanted is None else [wanted] if wanted in image.plan.task_ids else []:
        stored = known.get(planned)
        if stored is None:
            rows.append(TaskInstance(run_id=run_id, task_id=planned, state=untouched))
        else:
            rows.extend(_record(each) for each in sorted(stored, key=_map_index))
    return rows if state is None else [row for row in rows if row.state is TaskState(state)]


def _map_index(each: StoredInstance) -> int:
    return -1 if each.instance.map_index is None else each.instance.map_index


def _record(each: StoredInstance) -> TaskInstance:
    instance: InstanceKey = each.instance
    return TaskInstance(
        run_id=instance.run_id,
        task_id=instance.task_id,
        map_index=instance.map_index,
        state=each.state,
        attempt=each.attempt,
        started_at=None if each.started_us is None else from_us(each.started_us),
        ended_at=None if each.ended_us is None else from_us(each.ended_us),
        error=each.error,
    )


async def follow_events(store: Store, broker: Broker | None, run_id: str) -> AsyncIterator[Event]:
    """Yield a run's timeline: what is stored, page by page, then, while it runs here, what is committed.

    Raises:
        RunNotFoundError: there is no such run.

    Cancellation: nothing is left behind.
    """
    await run_record(store, run_id)
    if broker is None:
        async for event in _stored_events(store, run_id):
            yield event
        return
    mailbox = broker.follow(run_id)
    try:
        seq = 0
        async for event in _stored_events(store, run_id):
            seq = event.seq
            yield event
        while broker.live_book(run_id) is not None:
            for event in await mailbox.drain(_PAGE):
                if event.seq > seq:
                    seq = event.seq
                    yield event
                    if isinstance(event, RunFinished):
                        return
        for event in mailbox.drain_nowait(_PAGE):
            if event.seq > seq:
                yield event
    except MailboxClosed:
        return  # The run ended without being able to record it.
    finally:
        broker.unfollow(run_id, mailbox)


async def _stored_events(store: Store, run_id: str) -> AsyncIterator[Event]:
    seq = 0
    while page := await store.events(run_id, after_seq=seq, limit=_PAGE):
        for event in page:
            yield event
        seq = page[-1].seq
