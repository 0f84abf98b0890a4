"""What one attempt does in streams: the writers and readings it has begun, and what has to be settled when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagrelay.errors import XComStreamError
from dagrelay.ids import check_key
from dagrelay.model.states import TaskState
from dagrelay.xcom.appending import StreamWriter
from dagrelay.xcom.consuming import HeldWrites, Reading, XComStream

if TYPE_CHECKING:
    from dagrelay.model.records import InstanceKey
    from dagrelay.serializers.base import Serializer
    from dagrelay.xcom.attempt_facts import AttemptFacts
    from dagrelay.xcom.streams import RunStreams

__all__ = ("AttemptStreams",)


class AttemptStreams:
    """The streams of one attempt.

    Args:
        streams: the run's.
        instance: whose attempt it is.
        attempt: the attempt.
        serializer: what encodes the items it appends.
    """

    def __init__(self, streams: RunStreams, instance: InstanceKey, attempt: AttemptFacts, serializer: Serializer) -> None:
        """Take part from now on."""
        self._streams = streams
        self._instance = instance
        self._attempt = attempt
        self._serializer = serializer
        self._writers: dict[str, StreamWriter] = {}
        self._readings: list[Reading] = []
        self.held: HeldWrites = HeldWrites(streams, instance)
        """What is held back for the item in hand."""
        streams.begin_attempt(instance, self)

    @property
    def has_item_in_hand(self) -> bool:
        """Whether an item was handed out that is not acknowledged yet, so that what is pushed belongs to it."""
        return any(reading.has_item_in_hand for reading in self._readings)

    def writer(self, key: str) -> StreamWriter:
        """Return what appends under a key."""
        writer = self._writers.get(key)
        if writer is None:
            check_key(key)
            if self._instance.map_index is not None:
                task_id = self._instance.task_id
                raise XComStreamError(task_id, task_id, key, reason="it is mapped, and elements have no streams")
            channel = self._streams.channel(self._instance, key)
            writer = self._writers[key] = StreamWriter(self._streams, channel, self._attempt, self._serializer)
        return writer

    def read(self, producer: InstanceKey, key: str, *, as_type: Any, resume: bool) -> XComStream[Any]:
        """Return an iterator over a stream."""
        channel = self._streams.channel(producer, key)
        reading = Reading(self._streams, channel, self._instance, self._attempt, held=self.held, as_type=as_type, resume=resume)
        self._readings.append(reading)
        return XComStream(reading)

    def flush(self) -> int:
        """Send what was appended, and return the bytes that are held for the item in hand."""
        for writer in self._writers.values():
            writer.flush()
        return self.held.size

    def end(self, state: TaskState) -> None:
        """Settle everything, ahead of the attempt's outcome."""
        if state is not TaskState.SUCCESS:
            self.held.drop()
        self.flush()
        for reading in self._readings:
            reading.end(state)
