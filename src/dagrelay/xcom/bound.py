"""What all faces of the data in a handler have in common: the attempt they are bound to, and what it may do."""

from __future__ import annotations

import threading
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dagrelay.errors import NotUpstreamError, RuntimeClosedError, StaleAttemptError

if TYPE_CHECKING:
    from dagrelay.dag.task import Task
    from dagrelay.xcom.attempt_facts import AttemptFacts
    from dagrelay.xcom.run_data import RunData
    from dagrelay.xcom.streaming import AttemptStreams

__all__ = ("Bound",)


class Bound:
    """Something bound to an attempt.

    Args:
        data: what the attempts of the run share.
        index: the topological index of the attempt's task.
        attempt: the attempt.
        unit: the unit of the element that it is an attempt of; None for one of a task that is not mapped.
    """

    def __init__(self, data: RunData, index: int, attempt: AttemptFacts, *, unit: int | None = None) -> None:
        """Bind to an attempt."""
        self._data = data
        self._streams: AttemptStreams | None = None  # From its first append or read of a stream on.
        self._index = index
        self._attempt = attempt
        self._instance = data.instances[index if unit is None else unit]

    def _known_index(self, task: Task[Any] | str) -> int:
        """Return the topological index of a task of the DAG."""
        plan = self._data.plan
        task_id = task if isinstance(task, str) else task.id
        index = plan.index.get(task_id)
        if index is None:
            near = get_close_matches(task_id, plan.task_ids)
            raise NotUpstreamError(self._instance.task_id, task_id, known=False, near=near)
        return index

    def _upstream_index(self, task: Task[Any] | str) -> int:
        """Return the topological index of a task upstream of the attempt's."""
        index = self._known_index(task)
        if not self._data.plan.is_upstream(index, self._index):
            raise NotUpstreamError(self._instance.task_id, self._data.plan.task_ids[index])
        return index

    def _check_writable(self) -> None:
        self._check_thread()
        if self._attempt.is_over:
            raise StaleAttemptError(self._instance.run_id, self._instance.task_id, self._attempt.number)

    def _check_readable(self) -> None:
        self._check_thread()
        if self._data.broker.reader.is_closed:
            raise RuntimeClosedError  # Also of what is still in memory: whether a value is there must not depend on a cache.

    def _check_thread(self) -> None:
        if threading.get_ident() != self._data.thread_id:
            raise RuntimeClosedError(
                "ctx.xcom was used outside the runtime's event loop; in a sync handler call "
                "anyio.from_thread.run(ctx.xcom.push, ...)"
            )
