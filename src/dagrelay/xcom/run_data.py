"""What the attempts of a run share to reach its values."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import attrs

from dagrelay.errors import XComNotFoundError
from dagrelay.model.records import InstanceKey
from dagrelay.xcom.streams import RunStreams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dagrelay.dag.plan import Plan
    from dagrelay.model.states import TaskState
    from dagrelay.stores.base import Store
    from dagrelay.xcom.book import RunBook
    from dagrelay.xcom.broker import Broker
    from dagrelay.xcom.door import Door

__all__ = ("RunData",)


def _streams(data: RunData) -> RunStreams:
    return RunStreams(plan=data.plan, book=data.book, broker=data.broker, store=data.store, door=data.door, states=data.states)


def _instances(data: RunData) -> list[InstanceKey]:
    return [InstanceKey(data.book.run_id, task_id, None) for task_id in data.plan.task_ids]


@attrs.frozen(kw_only=True)
class RunData:
    """What all attempts of one run share to reach its values."""

    plan: Plan
    """The run's plan."""
    book: RunBook
    """Its page."""
    broker: Broker
    """The broker."""
    store: Store
    """The store, for reads of many."""
    door: Door
    """Values in and out."""
    states: Sequence[TaskState]
    """The states of tasks and elements by unit (see `engine.protocol`), as they change."""
    element_state: Callable[[int, int], TaskState | None]
    """Returns the state of an element, by topological index and map index; None if there is no such element."""
    lengths: Mapping[int, int]
    """How many elements expanded tasks have, by topological index, as they get them."""
    instances: list[InstanceKey] = attrs.field(default=attrs.Factory(_instances, takes_self=True))
    """The instances of tasks and elements by unit."""
    streams: RunStreams = attrs.field(default=attrs.Factory(_streams, takes_self=True))
    """Its streams."""
    lineage_mark: str | None = None
    """Of a fork: its id, by which reads of its own attempts are told from copied ones (see `lineage`)."""
    thread_id: int = attrs.field(factory=threading.get_ident)
    """The thread of the runtime's loop."""
    _elements: dict[int, tuple[InstanceKey, ...]] = attrs.field(
        factory=dict[int, "tuple[InstanceKey, ...]"], init=False, repr=False
    )

    def elements_of(self, index: int) -> tuple[InstanceKey, ...]:
        """Return the instances of a mapped task's elements by map index; none if it was never expanded."""
        known, length = self._elements.get(index, ()), self.lengths.get(index, 0)
        if len(known) != length:
            run_id, task_id, _ = self.instances[index]
            known = self._elements[index] = tuple(InstanceKey(run_id, task_id, place) for place in range(length))
        return known

    def no_earlier(self, task_id: str, key: str, *, hint: str = "") -> XComNotFoundError:
        """Return the error for a value that no earlier run of the DAG has."""
        return XComNotFoundError(self.book.run_id, task_id, key, dag_id=self.plan.dag_id, hint=hint)

    def not_found(
        self, index: int, key: str, *, map_index: int | None = None, near: Sequence[str] = (), hint: str = ""
    ) -> XComNotFoundError:
        """Return the error for a value that a task, or an element of it, does not have."""
        return XComNotFoundError(
            self.book.run_id,
            self.plan.task_ids[index],
            key,
            map_index=map_index,
            state=self.states[index] if map_index is None else self.element_state(index, map_index),
            near=near,
            hint=hint,
        )
