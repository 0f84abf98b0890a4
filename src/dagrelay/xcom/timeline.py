"""Events made of committed operations, for those who follow a run live; what is stored derives the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from dagrelay.model.events import Event, RunFinished, RunStarted, TaskStateChanged, XComDeleted, XComPushed
from dagrelay.model.records import InstanceKey, from_us
from dagrelay.model.states import TaskState
from dagrelay.stores.operations import (
    CreateRun,
    DeleteEntries,
    DeleteRun,
    FinishAttempt,
    MarkInstance,
    NewEntry,
    Operation,
    PruneRuns,
    PutEntries,
    ReopenRun,
    SetRunState,
    StartAttempt,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("events_of",)


def events_of(operation: Operation, *, dag_id: str, count: int, with_start: bool = False) -> Iterator[Event]:
    """Yield the events of one committed operation, in order of `seq`.

    Args:
        operation: what was applied.
        dag_id: the run's DAG.
        count: the result of applying it.
        with_start: an outcome's start was not written apart, so that it tells of it too.
    """
    match operation:
        case FinishAttempt():
            if with_start:
                running = TaskState.RUNNING
                yield _changed(operation.instance, operation.attempt, running, operation.start_seq, operation.started_us)
            for entry in operation.entries:
                yield _pushed(operation.instance, operation.attempt, entry)
            yield _changed(operation.instance, operation.attempt, operation.state, operation.seq, operation.ended_us, operation)
        case StartAttempt():
            state = TaskState.RUNNING
            yield _changed(operation.instance, operation.attempt, state, operation.seq, operation.started_us)
        case PutEntries():
            for entry in operation.entries:
                yield _pushed(operation.instance, operation.attempt, entry)
        case MarkInstance():
            yield _changed(operation.instance, 0, operation.state, operation.seq, operation.at_us, operation)
        case DeleteEntries() if not count:
            return
        case DeleteEntries():
            yield XComDeleted(
                run_id=operation.run_id,
                seq=operation.seq,
                time=from_us(operation.at_us),
                task_id=operation.task_id,
                map_index=None if operation.slots is None else operation.map_index,
                key=operation.key,
                count=count,
            )
        case CreateRun():
            yield RunStarted(run_id=operation.run_id, seq=operation.seq, time=from_us(operation.created_us), dag_id=dag_id)
        case ReopenRun():
            yield RunStarted(run_id=operation.run_id, seq=operation.seq, time=from_us(operation.at_us), dag_id=dag_id)
            for place, instance in enumerate(operation.clear, start=operation.seq + 1):
                yield _changed(instance, 0, TaskState.PENDING, place, operation.at_us)
        case SetRunState():
            time = from_us(operation.at_us)
            yield RunFinished(run_id=operation.run_id, seq=operation.seq, time=time, state=operation.state)
        case DeleteRun() | PruneRuns():
            return
        case _ as never:
            assert_never(never)


def _pushed(instance: InstanceKey, attempt: int, entry: NewEntry) -> XComPushed:
    return XComPushed(
        run_id=instance.run_id,
        seq=entry.seq,
        time=from_us(entry.created_us),
        task_id=instance.task_id,
        map_index=instance.map_index,
        attempt=attempt,
        key=entry.key,
        size_bytes=len(entry.value),
    )


def _changed(
    instance: InstanceKey,
    attempt: int,
    state: TaskState,
    seq: int,
    at_us: int,
    why: FinishAttempt | MarkInstance | None = None,
) -> TaskStateChanged:
    return TaskStateChanged(
        run_id=instance.run_id,
        seq=seq,
        time=from_us(at_us),
        task_id=instance.task_id,
        map_index=instance.map_index,
        attempt=attempt,
        state=state,
        error=None if why is None else why.error,
    )
