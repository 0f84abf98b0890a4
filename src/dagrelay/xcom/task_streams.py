"""Streams from within a handler: append and read items, bound to one attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from dagrelay.errors import NotUpstreamError, XComStreamError
from dagrelay.ids import check_key
from dagrelay.model.missing import MISSING
from dagrelay.xcom.bound import Bound
from dagrelay.xcom.streaming import AttemptStreams

if TYPE_CHECKING:
    from dagrelay.dag.task import Task
    from dagrelay.xcom.consuming import XComStream

__all__ = ("TaskStreams",)

T = TypeVar("T")


class TaskStreams(Bound):
    """Append and read; see `TaskXCom`."""

    async def append(self, key: str, item: Any, *, seq: int | None = None) -> None:
        """Append an item to the task's stream under a key, for tasks that read it while this one runs.

        The item is serialised before the first checkpoint, and accepted when this returns: it goes to the disk with those that
        are appended while the commit before is under way. Before it is there nobody is handed it (in PIPELINED mode neither), and
        the task does not count as succeeded. A task that is `Limits.max_stream_window_items` or `max_stream_window_bytes` ahead
        of the slowest that reads, or may yet start to read (by `after_start`), waits here, without a slot. It does not wait for
        one that waits for it in turn (for its end, say, or more of another stream of its) until that comes or reads on: then it
        goes on beyond the window, and only the disk holds more. Items count for the run's budget, and stay until the run is
        deleted.

        Items stand outside the isolation of attempts: what is on disk stays there if this attempt fails. Without `seq` the next
        attempt begins the stream anew, and the attempts of tasks that have read of it end and begin anew, too, which uses up none
        of their retries. With `seq`, given for each item, the next attempt goes on in the same stream, and may append from the
        beginning what is there already.

        Args:
            key: 1 to 250 printable characters. Streams and pushed values may bear the same key.
            item: as for `push`.
            seq: the item's number, from 0, higher than that of the one before; numbers may be left out. One that is there
                already, with the same bytes, is left as it is.

        Raises:
            XComSerializationError: the item can't be stored exactly; the message ends in its JSON path.
            XComTooLargeError: it is over a limit.
            XComConflictError: another item bears the number, or it was passed over.
            XComStreamError: the task is mapped; or items with and without seq were appended in one attempt.
            StaleAttemptError: this attempt is over.

        Cancellation: the item was not appended, unless the call was about to return.
        """
        self._check_writable()
        streams = self._streams
        if streams is None:
            streams = self._take_part()
        await streams.writer(key).append(item, seq)

    @overload
    def stream(self, task: Task[Any] | str, key: str, *, as_type: type[T], resume: bool = ...) -> XComStream[T]: ...
    @overload
    def stream(self, task: Task[Any] | str, key: str, *, as_type: Any = ..., resume: bool = ...) -> XComStream[Any]: ...
    def stream(self, task: Task[Any] | str, key: str, *, as_type: Any = MISSING, resume: bool = False) -> XComStream[Any]:
        """Read the stream of a task that this one follows by `after_start`, or is downstream of, item by item, as they come.

        ::

            async for item in ctx.xcom.stream("load", "rows"):
                ...

        All items come, in order; until there is one the attempt waits without a slot. Asking for the next one acknowledges the
        last, and the attempt's success the one in hand. What the attempt pushes with `lifetime="task"` while it has an item in
        hand belongs to that: it is held back, and stored together with the acknowledgement, so that after a crash either both
        are there or none. Such a push has returned before it is on disk, which it is once the next item was handed out;
        `pull_own` sees it at once. If the attempt fails first, it is gone. Where nothing was pushed so, acknowledgements reach
        the disk as commits go by, and with `resume` the last few items before a crash may come again.

        When the task has succeeded and all its items were handed out, the loop ends. If it began the stream anew (see `append`)
        after this attempt has got items, the attempt is cancelled and another one begins, which uses up no retry.

        Args:
            task: a Task, or its id; not a mapped one.
            key: the stream's key.
            as_type: a type to structure items into, strictly; plain values by default.
            resume: go on after the last item that an earlier attempt of this task has acknowledged; by default an attempt begins
                with the first.

        Raises:
            NotUpstreamError: the task is neither upstream nor one that this one starts after.
            XComStreamError: in the loop, after the last item: the task did not succeed, or all that runs waits, each for
                another. At once: it is mapped.
            XComTypeError: in the loop: an item is not of the type.
            StaleAttemptError: in the loop: this attempt is over.

        Cancellation: of the loop: the last item may be acknowledged, with what was pushed for it; none is lost.
        """
        self._check_writable()
        index, key, data = self._known_index(task), check_key(key), self._data
        own_id, producer_id = self._instance.task_id, data.plan.task_ids[index]
        if not data.streams.may_read(index, self._index):
            raise NotUpstreamError(own_id, producer_id, is_stream=True)
        if data.plan.tasks[index].expansion is not None:
            raise XComStreamError(own_id, producer_id, key, reason="it is mapped, and elements have no streams")
        streams = self._streams or self._take_part()
        return streams.read(data.instances[index], key, as_type=as_type, resume=resume)

    def _take_part(self) -> AttemptStreams:
        data = self._data
        name = data.plan.tasks[self._index].serializer
        serializer = data.door.registry.default if name is None else data.door.registry.get(name)
        self._streams = AttemptStreams(data.streams, self._instance, self._attempt, serializer)
        return self._streams
