"""Writing from within a handler: push and delete XComs, bound to one attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from dagrelay.ids import check_key
from dagrelay.model.policies import XComOptions
from dagrelay.stores.operations import TASK_LIFETIME, DeleteEntries
from dagrelay.xcom.bound import Bound
from dagrelay.xcom.door import entry_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagrelay.model.records import XComEntry
    from dagrelay.stores.operations import NewEntry

__all__ = ("TaskPushes",)


class TaskPushes(Bound):
    """Push and delete; see `TaskXCom`."""

    async def push(
        self,
        key: str,
        value: Any,
        *,
        serializer: str | None = None,
        max_bytes: int | None = None,
        description: str = "",
        lifetime: Literal["attempt", "task"] = "attempt",
        sensitive: bool = False,
        publish: bool = False,
    ) -> XComEntry:
        """Store a value; it is on disk when this returns. The value is serialised before the first checkpoint.

        Args:
            key: 1 to 250 printable characters; pushing a key again replaces its value.
            value: JSON values as they are; dataclasses, datetimes and the like through the converter.
            serializer: the name of a serializer registered with the runtime.
            max_bytes: a limit for this value instead of the runtime's.
            description: a few words for people.
            lifetime: `attempt`: gone if this attempt fails; `task`: kept for the task's later attempts (a checkpoint), and seen
                by other tasks only after success. In a loop over a stream it is stored when the next item is asked for, together
                with the acknowledgement of the last (see `stream`).
            sensitive: mask it in lists, logs and faces (it is not encrypted).
            publish: let other tasks see it at once, gone with the attempt if that fails.

        Raises:
            InvalidIdError: the key is not legal.
            XComSerializationError: the value can't be stored exactly; the message ends in its JSON path.
            XComTooLargeError: it is over a limit; nothing was stored.
            StaleAttemptError: this attempt is over; nothing was stored.

        Cancellation: once the call has begun to wait for the disk, the value may be stored all the same.
        """
        options = XComOptions(
            serializer=serializer, max_bytes=max_bytes, description=description, lifetime=lifetime, sensitive=sensitive
        )
        self._check_writable()
        draft = self._draft(key, value, options, published=publish)
        (entry,) = await self._put([draft], lifetime)
        return entry_record(self._instance, entry, attempt=self._attempt.number, lifetime=lifetime, dag_id=self._data.plan.dag_id)

    async def push_many(
        self, values: Mapping[str, Any], *, lifetime: Literal["attempt", "task"] = "attempt", sensitive: bool = False
    ) -> list[XComEntry]:
        """Store several values in one transaction, all or none.

        Args:
            values: mapping key -> value.
            lifetime: as for `push`.
            sensitive: as for `push`.

        Raises:
            DagrelayError: as for `push`, for the first value that can't be stored; nothing was.

        Cancellation: once the call has begun to wait for the disk, the values may be stored all the same.
        """
        options = XComOptions(lifetime=lifetime, sensitive=sensitive)
        self._check_writable()
        drafts = [self._draft(key, value, options) for key, value in values.items()]
        if not drafts:
            return []
        number, dag_id = self._attempt.number, self._data.plan.dag_id
        entries = await self._put(drafts, lifetime)
        return [entry_record(self._instance, entry, attempt=number, lifetime=lifetime, dag_id=dag_id) for entry in entries]

    async def delete(self, key: str) -> int:
        """Delete what this attempt, or the task with `lifetime="task"`, has pushed under a key; return how many entries.

        Raises:
            StaleAttemptError: this attempt is over.

        Cancellation: once the call has begun to wait for the disk, the entries may be deleted all the same.
        """
        self._check_writable()
        data, number = self._data, self._attempt.number
        key = check_key(key)
        self._attempt.ensure_started()
        operation = DeleteEntries(
            run_id=self._instance.run_id,
            task_id=self._instance.task_id,
            map_index=self._instance.map_index,
            key=key,
            slots=(number, TASK_LIFETIME),
            attempt=number,
            at_us=data.door.now_us(),
            seq=data.book.next_seq(),
        )
        is_held = self._streams is not None and self._streams.held.drop(key)
        return max(await data.broker.write(operation, data.book), int(is_held))

    def _draft(self, key: str, value: Any, options: XComOptions, *, published: bool = False) -> NewEntry:
        own = self._data.plan.tasks[self._index].serializer
        return self._data.door.draft(key, value, options=options, serializer=own, published=published)

    async def _put(self, drafts: Sequence[NewEntry], lifetime: str) -> tuple[NewEntry, ...]:
        data, number = self._data, self._attempt.number
        self._attempt.ensure_started()
        if lifetime == "task" and self._streams is not None and self._streams.has_item_in_hand:
            return await self._streams.held.hold(drafts)
        size = sum(len(draft.value) for draft in drafts)
        if not data.broker.has_room(data.book, size):
            async with self._attempt.parked(keeps_room=True):
                await data.broker.wait_for_room_for(data.book, size)
        return await data.broker.push(
            data.book,
            instance=self._instance,
            slot=TASK_LIFETIME if lifetime == "task" else number,
            attempt=number,
            drafts=drafts,
        )
