"""The streams of one run: its channels, and what those who take part in them need to know of the run."""

from __future__ import annotations

import threading
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final, Protocol

from dagrelay.errors import DagrelayError, StaleAttemptError
from dagrelay.log import get_logger
from dagrelay.model.states import ENDED_TASK_STATES, TaskState
from dagrelay.stores.stream_records import StreamQuery
from dagrelay.xcom.channel import Channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.dag.plan import Plan
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.base import Store
    from dagrelay.stores.stream_records import StreamPage
    from dagrelay.xcom.attempt_facts import AttemptFacts
    from dagrelay.xcom.book import RunBook
    from dagrelay.xcom.broker import Broker
    from dagrelay.xcom.door import Door
    from dagrelay.xcom.waiting import Waiter

__all__ = ("RunStreams", "TakingPart")

_LIKENESS: Final = 0.75


class TakingPart(Protocol):
    """What one attempt has under way in streams."""

    def flush(self) -> int:
        """Send what it has appended, and return the bytes of what a success would store beside."""
        ...

    def end(self, state: TaskState) -> None:
        """Settle it, as the attempt ends with this state."""
        ...


class RunStreams:
    """All streams of a run that were used in this process.

    Args:
        plan: the run's plan.
        book: its page.
        broker: the broker.
        store: the store, for reads.
        door: values in and out.
        states: the tasks' states by topological index, as they change.
    """

    def __init__(
        self, *, plan: Plan, book: RunBook, broker: Broker, store: Store, door: Door, states: Sequence[TaskState]
    ) -> None:
        """Start without any."""
        self.book = book
        self.broker = broker
        self.store = store
        self.door = door
        self.thread_id: int = threading.get_ident()
        """The thread of the runtime's loop."""
        self._plan = plan
        self._states = states
        self._channels: dict[tuple[InstanceKey, str], Channel] = {}
        # Invariant: an attempt stands here from its first append or read to its end.
        self._attempts: dict[InstanceKey, TakingPart] = {}

    # ----------------------------------------------------------------------------------------------------- channels

    def channel(self, producer: InstanceKey, key: str) -> Channel:
        """Return a stream, whether there is one yet or not."""
        channel = self._channels.get((producer, key))
        if channel is None:
            index = self._plan.index[producer.task_id]
            channel = Channel(
                producer,
                key,
                self.door.limits,
                wake=self.book.waiting.wake,
                unfinished=lambda: self._unfinished_readers(index),
            )
            self._channels[producer, key] = channel
        return channel

    async def know(self, channel: Channel) -> None:
        """Have a channel know what the store has of it.

        Cancellation: nothing is left behind.
        """
        if not channel.is_known:
            page = await self.read(StreamQuery(producer=channel.producer, key=channel.key))
            channel.learn(page.head)

    async def read(self, query: StreamQuery) -> StreamPage:
        """Read a page of a stream.

        Cancellation: nothing is left behind.
        """
        return await self.store.stream(query)

    def _unfinished_readers(self, index: int) -> list[str]:
        """Return the ids of the tasks that start once this one has started, and have not ended."""
        plan = self._plan
        return [
            plan.task_ids[reader]
            for reader in plan.followers.get(index, ())
            # Who must await its end too can't read it while it grows, and must not be waited for.
            if self._states[reader] not in ENDED_TASK_STATES and not plan.is_upstream(index, reader)
        ]

    def may_read(self, producer: int, reader: int) -> bool:
        """Whether a task may read the streams of another, as that is upstream, or has started before it or one upstream of it."""
        plan = self._plan
        if plan.is_upstream(producer, reader) or producer in plan.tasks[reader].after_start:
            return True
        return any(producer in plan.tasks[above].after_start for above in plan.upstream_of(reader))

    def warn_if_misspelt(self, channel: Channel, reader_id: str) -> None:
        """Log a warning if a stream has ended without ever an item, while there is one under a key much like its own.

        No error: whether anything is appended under a key may depend on the data. Known are the streams used in this process.
        """
        if channel.generation:
            return
        keys = [key for (producer, key), each in self._channels.items() if producer == channel.producer and each.generation]
        near = get_close_matches(channel.key, keys, cutoff=_LIKENESS)
        if near:
            run_id, task_id, _ = channel.producer
            get_logger().warning(
                "stream.never_appended", run_id=run_id, task_id=reader_id, producer=task_id, key=channel.key, near=near
            )

    # ------------------------------------------------------------------------------------------------------- states

    def state_of(self, producer: InstanceKey) -> TaskState:
        """Return the state of a producer."""
        return self._states[self._plan.index[producer.task_id]]

    def is_left_over(self, channel: Channel) -> bool:
        """Whether what there is was appended by an attempt that has failed, or will be taken as one, and is none of the stream.

        Where the producer numbers its items they stay, as its next attempt goes on after them; so they do where there will be
        no other attempt.
        """
        if channel.is_numbered or not channel.generation:
            return False
        state = self.state_of(channel.producer)
        if state in ENDED_TASK_STATES and state is not TaskState.SUCCESS:
            return False
        slots = self.book.slots_seen(channel.producer)
        if slots is not None and slots[0] == channel.attempt:
            return False
        try:
            self.book.check_open(channel.producer, channel.attempt)
        except StaleAttemptError:
            return True
        return False

    async def rest(self, waiter: Waiter, attempt: AttemptFacts, *, is_idle: bool) -> None:
        """Wait, without a slot, until a waiter is woken.

        Args:
            waiter: known already to whoever is to wake it.
            attempt: whose it is.
            is_idle: whether only what other attempts do can wake it, and no commit that is under way.

        Cancellation: nothing is left behind.
        """
        waiting = self.book.waiting
        waiting.add(waiter)
        try:
            async with attempt.parked():
                if is_idle and not waiter.is_woken:
                    waiting.rest(waiter, may_go_on=attempt.has_time_limit)
                try:
                    await waiter.wait()
                finally:
                    waiting.rise(waiter)
        finally:
            waiting.remove(waiter)

    # ----------------------------------------------------------------------------------------------------- attempts

    def begin_attempt(self, instance: InstanceKey, part: TakingPart) -> None:
        """Note that an attempt takes part."""
        self._attempts[instance] = part

    def flush(self, instance: InstanceKey) -> int:
        """Send what an attempt has appended, and return the bytes of what its success would store beside its outcome."""
        part = self._attempts.get(instance)
        try:
            return 0 if part is None else part.flush()
        except DagrelayError:
            return 0  # As below.

    def end_attempt(self, instance: InstanceKey, state: TaskState) -> None:
        """Settle what an attempt has under way, ahead of its outcome; harmless for one that has nothing."""
        part = self._attempts.pop(instance, None)
        if part is not None:
            try:
                part.end(state)
            except DagrelayError:
                # The run's writes fail, or the runtime is left: its outcome, which comes after, meets the same, and is told of.
                return
