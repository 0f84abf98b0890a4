"""Which attempt of a run has read which entry, from what was stored with the outcomes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dagrelay.errors import StoreCorruptError
from dagrelay.ids import check_run_id
from dagrelay.model.records import InstanceKey
from dagrelay.model.states import ENDED_TASK_STATES, TaskState
from dagrelay.runtime.history import unknown_run
from dagrelay.xcom.lineage import mark_of, parse_lineage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagrelay.model.records import AttemptReads, EntryRead, Run
    from dagrelay.stores.base import RunImage, Store, StoredInstance

__all__ = ("is_copy", "lineage_of")


def is_copy(run: Run, row: StoredInstance) -> bool:
    """Tell whether a row of a run was copied when that was forked from another one."""
    has_ended = row.state in ENDED_TASK_STATES and row.state is not TaskState.CANCELLED
    return run.forked_from is not None and has_ended and mark_of(row.lineage) != run.run_id


async def lineage_of(store: Store, run_id: str) -> list[AttemptReads]:
    """Return what the attempts of a run have read; for the rest see `Runtime.lineage`.

    Raises:
        RunNotFoundError: there is no such run.
        StoreCorruptError: what is stored of it can't be understood.
    """
    image = await store.load_run(check_run_id(run_id))
    if image is None:
        raise await unknown_run(store, run_id)
    owners = _Owners(image, await _origin(store, image.stored.run))
    found: list[AttemptReads] = []
    for row in _in_order(image):
        if row.lineage is None:
            continue
        owner = owners.of_row(row)
        try:
            told = parse_lineage(row.instance._replace(run_id=owner), row.attempt, row.lineage)
        except ValueError as error:
            what = f"the lineage of task {row.instance.task_id!r} in run {run_id!r} can't be understood: {error}"
            raise StoreCorruptError(store.name, what) from error
        if told.reads:
            found.append(attrs.evolve(told, reads=tuple(owners.named(owner, read) for read in told.reads)))
    return found


def _in_order(image: RunImage) -> Iterator[StoredInstance]:
    """Iterate over rows in topological order, a mapped task as a whole before its elements."""
    places = {task_id: place for place, task_id in enumerate(image.plan.task_ids)}

    def place_of(row: StoredInstance) -> tuple[int, int]:
        _, task_id, map_index = row.instance
        return places.get(task_id, len(places)), -1 if map_index is None else map_index

    return iter(sorted(image.instances, key=place_of))


async def _origin(store: Store, run: Run) -> str:
    """Return the run at the beginning of a chain of forks, as far as the store still has it."""
    seen = {run.run_id}
    origin = run.run_id
    source = run.forked_from
    while source is not None and source not in seen:
        seen.add(source)
        origin = source
        stored = await store.find_run(source)
        source = None if stored is None or stored.is_pruned else stored.run.forked_from
    return origin


class _Owners:
    """Says whose rows and entries are: the run's own, or a run's that it was forked from."""

    def __init__(self, image: RunImage, origin: str) -> None:
        self._run = image.stored.run
        self._origin = origin
        self._rows: dict[InstanceKey, StoredInstance] = {row.instance: row for row in image.instances}

    def of_row(self, row: StoredInstance) -> str:
        return (mark_of(row.lineage) or self._origin) if is_copy(self._run, row) else self._run.run_id

    def named(self, reader: str, read: EntryRead) -> EntryRead:
        """Return a read with the run whose entry it is, where it was of the reader's own run."""
        if read.run_id != reader:
            return read
        row = self._rows.get(InstanceKey(self._run.run_id, read.task_id, read.map_index))
        return read if row is None else attrs.evolve(read, run_id=self.of_row(row))
