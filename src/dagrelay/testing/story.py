"""Operations on a store as a test tells them: one after another, each with the next place in the timeline and the next moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dagrelay.model.records import InstanceKey
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores.operations import (
    OUTSIDE,
    RETURN_VALUE,
    AckItems,
    AppendItems,
    CreateRun,
    DeleteEntries,
    DeleteRun,
    FinishAttempt,
    ForkRun,
    MarkInstance,
    NewEntry,
    NoteMessage,
    Provide,
    PruneRuns,
    PutEntries,
    ReopenRun,
    SetRunState,
    StartAttempt,
    StoredPlan,
)
from dagrelay.stores.stream_records import pack_items

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagrelay.model.records import ErrorRecord

__all__ = ("Story", "plan_of")


def plan_of(*task_ids: str) -> StoredPlan:
    """Return a plan with these tasks."""
    return StoredPlan(fingerprint="-".join(task_ids), body=",".join(task_ids).encode(), task_ids=task_ids)


class Story:
    """The operations of one run; `seq` counts up by one with each place given out, and the clock is 1,000 times as far."""

    def __init__(self, run_id: str = "run", *, seq: int = 0) -> None:
        """Take the run's id and the last place in its timeline that is taken."""
        self.run_id = run_id
        self.seq: int = seq

    @property
    def now_us(self) -> int:
        """The moment of the last place given out."""
        return self.seq * 1_000

    def key(self, task_id: str, map_index: int | None = None) -> InstanceKey:
        """Return the name of a task instance of the run."""
        return InstanceKey(self.run_id, task_id, map_index)

    def create(
        self,
        *task_ids: str,
        dag_id: str = "dag",
        params: bytes = b"{}",
        tags: tuple[str, ...] = (),
        created_us: int | None = None,
    ) -> CreateRun:
        """Record the run, with a plan of these tasks."""
        seq = self._next()
        return CreateRun(
            run_id=self.run_id,
            dag_id=dag_id,
            params=params,
            tags=tags,
            plan=plan_of(*task_ids),
            created_us=self.now_us if created_us is None else created_us,
            seq=seq,
        )

    def fork(self, source_run_id: str, *copied: str, tasks: Sequence[str] = ("a",), dag_id: str = "dag") -> ForkRun:
        """Record the run, with a plan of `tasks`, as one that begins with what the `copied` of another have come to.

        Where the copies end in the timeline only the store knows.
        """
        seq = self._next()
        return ForkRun(
            run_id=self.run_id,
            dag_id=dag_id,
            params=b"{}",
            tags=(),
            plan=plan_of(*tasks),
            created_us=self.now_us,
            seq=seq,
            source_run_id=source_run_id,
            task_ids=copied,
        )

    def reopen(self, *clear: InstanceKey, plan: StoredPlan | None = None, message_id: str | None = None) -> ReopenRun:
        """Take the run up again."""
        seq = self._next()
        at_us = self.now_us
        self.seq += len(clear)
        return ReopenRun(run_id=self.run_id, plan=plan, clear=clear, at_us=at_us, seq=seq, message_id=message_id)

    def end(self, state: RunState = RunState.SUCCESS) -> SetRunState:
        """End the run."""
        seq = self._next()
        return SetRunState(run_id=self.run_id, state=state, at_us=self.now_us, seq=seq)

    def start(self, task_id: str, attempt: int = 1, *, map_index: int | None = None, length: int | None = None) -> StartAttempt:
        """Start an attempt; with `length` it is the expansion of a mapped task."""
        seq = self._next()
        instance = self.key(task_id, map_index)
        return StartAttempt(instance=instance, attempt=attempt, started_us=self.now_us, seq=seq, length=length)

    def wait(self, task_id: str, attempt: int = 1, *, deadline_us: int | None = None) -> StartAttempt:
        """Start an attempt that waits for a value from outside."""
        return attrs.evolve(self.start(task_id, attempt), state=TaskState.WAITING, deadline_us=deadline_us)

    def finish(
        self,
        task_id: str,
        attempt: int = 1,
        state: TaskState = TaskState.SUCCESS,
        *,
        map_index: int | None = None,
        values: Mapping[str, bytes] | None = None,
        error: ErrorRecord | None = None,
        retry_us: int | None = None,
        failures: int = 0,
        interruptions: int = 0,
        follows: tuple[str, ...] | None = None,
        lineage: str | None = None,
    ) -> FinishAttempt:
        """End an attempt that started one place earlier, with these values."""
        start_seq, seq = self._next(), self._next()
        return FinishAttempt(
            instance=self.key(task_id, map_index),
            attempt=attempt,
            state=state,
            started_us=start_seq * 1_000,
            ended_us=self.now_us,
            start_seq=start_seq,
            seq=seq,
            entries=self.entries(values or {}),
            error=error,
            retry_us=retry_us,
            failures=failures,
            interruptions=interruptions,
            follows=follows,
            lineage=lineage,
        )

    def mark(
        self,
        task_id: str,
        state: TaskState = TaskState.SKIPPED,
        *,
        map_index: int | None = None,
        error: ErrorRecord | None = None,
    ) -> MarkInstance:
        """End an instance without an attempt."""
        seq = self._next()
        return MarkInstance(instance=self.key(task_id, map_index), state=state, at_us=self.now_us, seq=seq, error=error)

    def put(
        self,
        task_id: str,
        values: Mapping[str, bytes],
        *,
        slot: int = OUTSIDE,
        attempt: int | None = None,
        map_index: int | None = None,
        published: bool = False,
    ) -> PutEntries:
        """Push values; `attempt` is the slot's own unless given."""
        return PutEntries(
            instance=self.key(task_id, map_index),
            slot=slot,
            attempt=max(slot, 0) if attempt is None else attempt,
            entries=self.entries(values, published=published),
        )

    def append(
        self,
        task_id: str,
        key: str,
        items: Sequence[bytes],
        *,
        first_seq: int = 0,
        generation: int = 1,
        attempt: int = 1,
        map_index: int | None = None,
        is_numbered: bool = False,
    ) -> AppendItems:
        """Append items to a stream."""
        return AppendItems(
            instance=self.key(task_id, map_index),
            attempt=attempt,
            key=key,
            generation=generation,
            first_seq=first_seq,
            count=len(items),
            items=pack_items(items),
            serializer="json",
            is_numbered=is_numbered,
            created_us=self.now_us,
        )

    def ack(
        self,
        task_id: str,
        producer_id: str,
        key: str,
        next_seq: int,
        values: Mapping[str, bytes] | None = None,
        *,
        attempt: int = 1,
        map_index: int | None = None,
    ) -> AckItems:
        """Acknowledge items of another task's stream, with what was written for them."""
        return AckItems(
            instance=self.key(task_id, map_index),
            attempt=attempt,
            producer=self.key(producer_id),
            key=key,
            generation=1,
            next_seq=next_seq,
            entries=self.entries(values or {}),
        )

    def provide(
        self, task_id: str, value: bytes, *, key: str = RETURN_VALUE, map_index: int | None = None, message_id: str | None = None
    ) -> Provide:
        """Give a task its value from outside."""
        (entry,) = self.entries({key: value})
        return Provide(instance=self.key(task_id, map_index), entry=entry, message_id=message_id)

    def note(self, message_id: str, result: str = "done", *, at_us: int | None = None) -> NoteMessage:
        """Note what has become of a message."""
        return NoteMessage(message_id=message_id, at_us=self.now_us if at_us is None else at_us, result=result)

    def entries(self, values: Mapping[str, bytes], *, published: bool = False) -> tuple[NewEntry, ...]:
        """Return values on their way to the store."""
        return tuple(
            NewEntry(key=key, value=value, serializer="json", published=published, seq=self._next(), created_us=self.now_us)
            for key, value in values.items()
        )

    def delete(
        self,
        task_id: str,
        key: str | None = None,
        *,
        slots: Sequence[int] | None = None,
        map_index: int | None = None,
        attempt: int | None = None,
    ) -> DeleteEntries:
        """Delete entries of a task."""
        seq = self._next()
        return DeleteEntries(
            run_id=self.run_id,
            task_id=task_id,
            map_index=map_index,
            key=key,
            slots=None if slots is None else tuple(slots),
            attempt=attempt,
            at_us=self.now_us,
            seq=seq,
        )

    def delete_run(self) -> DeleteRun:
        """Delete the run."""
        return DeleteRun(run_id=self.run_id, at_us=self.now_us)

    def prune(self, keep: int | None, *, dag_id: str = "dag", before_us: int | None = None) -> PruneRuns:
        """Delete all finished runs of a DAG but those that ended last, and those that ended before a moment."""
        return PruneRuns(dag_id=dag_id, keep=keep, at_us=self.now_us, before_us=before_us)

    def _next(self) -> int:
        self.seq += 1
        return self.seq
