"""Runs that nobody runs: their record is brought to rest, where a store's fault or an exit has left it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from dagrelay.model.states import ENDED_TASK_STATES, LIVE_TASK_STATES, RunState, TaskState
from dagrelay.stores.operations import (
    OUTSIDE,
    RETURN_VALUE,
    DeleteEntries,
    FinishAttempt,
    MarkInstance,
    ReopenRun,
    SetRunState,
)

if TYPE_CHECKING:
    from collections.abc import Container

    from dagrelay.model.records import InstanceKey
    from dagrelay.runtime.services import Services
    from dagrelay.stores.base import RunImage, StoredInstance
    from dagrelay.xcom.book import RunBook

__all__ = ("cancel_stored", "forget_given", "settle", "shown_state")

_AT_REST: Final = frozenset({TaskState.INTERRUPTED, TaskState.UP_FOR_RETRY})


def shown_state(run_state: RunState, state: TaskState) -> TaskState:
    """Return a recorded task's state as it is shown: what had not ended shares the end of a run that nobody runs."""
    match run_state:
        case RunState.CANCELLED if state not in ENDED_TASK_STATES:
            return TaskState.CANCELLED
        case RunState.INTERRUPTED if state in LIVE_TASK_STATES:
            return TaskState.INTERRUPTED
        case _:
            return state


def settle(services: Services, book: RunBook, image: RunImage, state: TaskState) -> RunImage:
    """Have recorded, as `state`, the ends of attempts that the store could not take when they came; return the image then.

    Nothing is awaited: what is written to the run next is in the same batch, or a later one.
    """
    instances: list[StoredInstance] = []
    for each in image.instances:
        if each.state not in LIVE_TASK_STATES:
            instances.append(each)
            continue
        at_us = services.environment.now_us()
        end = FinishAttempt(
            instance=each.instance,
            attempt=each.attempt,
            state=state,
            started_us=at_us if each.started_us is None else each.started_us,
            ended_us=at_us,
            start_seq=book.next_seq(),
            seq=book.next_seq(),
            failures=each.failures,
            interruptions=each.interruptions + (state is TaskState.INTERRUPTED),
        )
        services.broker.cast(book, end)
        instances.append(attrs.evolve(each, state=state, ended_us=at_us, interruptions=end.interruptions))
    return attrs.evolve(image, instances=tuple(instances))


async def cancel_stored(services: Services, image: RunImage) -> None:
    """End a run that has not finished and does not run here as cancelled, and with it what of it had not ended.

    Cancellation: the run may be left running on record, and can be cancelled again.
    """
    run, broker, now_us = image.stored.run, services.broker, services.environment.now_us
    book = await broker.book(run.run_id)
    if run.state is not RunState.RUNNING:
        await broker.write(ReopenRun(run_id=run.run_id, plan=None, clear=(), at_us=now_us(), seq=book.next_seq()), book)
    image = settle(services, book, image, TaskState.CANCELLED)
    for each in image.instances:
        if each.state in _AT_REST:
            mark = MarkInstance(instance=each.instance, state=TaskState.CANCELLED, at_us=now_us(), seq=book.next_seq())
            broker.cast(book, mark)
    end = SetRunState(run_id=run.run_id, state=RunState.CANCELLED, at_us=now_us(), seq=book.next_seq())
    await broker.write(end, book)


def forget_given(
    book: RunBook, image: RunImage, cleared: Container[InstanceKey], outside: Container[str], *, at_us: int
) -> list[DeleteEntries]:
    """Return what deletes the values given from outside to tasks that are cleared: an answer was to the question as it was.

    It belongs into the transaction that clears them, or a crash between the two would have an old answer taken for a new one. A
    task that was cancelled has taken none.
    """
    return [
        DeleteEntries(
            run_id=each.instance.run_id,
            task_id=each.instance.task_id,
            map_index=each.instance.map_index,
            key=RETURN_VALUE,
            slots=(OUTSIDE,),
            at_us=at_us,
            seq=book.next_seq(),
        )
        for each in image.instances
        if each.instance in cleared and each.instance.task_id in outside and each.state is not TaskState.CANCELLED
    ]
