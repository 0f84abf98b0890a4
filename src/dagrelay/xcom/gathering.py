"""Mapped tasks of any run, as they stand in the store: which tasks are mapped, and what their elements have handed on."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from dagrelay.dag.plan import TaskKind
from dagrelay.errors import XComTypeError
from dagrelay.model.records import InstanceKey
from dagrelay.stores.base import Lookup
from dagrelay.stores.plans import stored_tasks
from dagrelay.xcom.absent import not_found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.stores.base import Store, StoredEntry
    from dagrelay.xcom.reading import Reader

__all__ = ("gather", "many_found", "refuse_single")


async def refuse_single(store: Store, instance: InstanceKey) -> None:
    """Raise where a task of which one value is wanted is mapped, and has a list of them.

    Raises:
        XComTypeError: it is.
    """
    run_id, task_id, map_index = instance
    if map_index is None:
        for row in await store.instances(run_id, task_id=task_id):
            if row.length is not None or row.instance.map_index is not None:
                raise XComTypeError(
                    f"task {task_id!r} of run {run_id!r} is mapped and has a list of outputs; use pull_outputs(), or name an "
                    "element by map_index",
                    path="",
                )


async def gather(store: Store, reader: Reader, whole: InstanceKey, key: str, *, has_default: bool) -> list[StoredEntry | None]:
    """Return what the elements of a mapped task have under a key, by map index, None where there is nothing; in one read.

    Raises:
        XComNotFoundError: an element has nothing, or the task was never expanded, and there is no default.
        XComTypeError: the task is not mapped.
    """
    length = await _length(store, whole)
    if length is None:
        await _check_mapped(store, whole)
        if has_default:
            return []
        raise await not_found(store, whole, key, hint="it was not expanded, so it has no elements")
    elements = [InstanceKey(whole.run_id, whole.task_id, place) for place in range(length)]
    found = await reader.lookup([Lookup(instance=each, key=key) for each in elements]) if elements else []
    hole = next((place for place, each in enumerate(found) if each is None), None)
    if hole is not None and not has_default:
        raise await not_found(store, elements[hole], key)
    return found


async def many_found(
    store: Store, reader: Reader, run_id: str, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], StoredEntry | list[StoredEntry]]:
    """Return what tasks have under keys, by (task id, key); of a mapped one a list by map index. What lacks a part is left out.

    All tasks are one read; if there are mapped ones among them, the elements of all of these are another one.
    """
    lookups = [Lookup(instance=InstanceKey(run_id, task_id, None), key=key) for task_id, key in wanted]
    singles = zip(wanted, await reader.lookup(lookups), strict=True)
    found: dict[tuple[str, str], StoredEntry | list[StoredEntry]] = {pair: each for pair, each in singles if each is not None}
    lacking = [pair for pair in dict.fromkeys(wanted) if pair not in found]
    lengths: dict[str, int | None] = {}
    for task_id in dict.fromkeys(task_id for task_id, _ in lacking):
        lengths[task_id] = await _length(store, InstanceKey(run_id, task_id, None))
    lists = [(task_id, key, length) for task_id, key in lacking if (length := lengths[task_id]) is not None]
    lookups = [
        Lookup(instance=InstanceKey(run_id, task_id, place), key=key) for task_id, key, length in lists for place in range(length)
    ]
    rows = iter(await reader.lookup(lookups) if lookups else ())
    for task_id, key, length in lists:
        values = [row for row in islice(rows, length) if row is not None]
        if len(values) == length:
            found[task_id, key] = values
    return found


async def _length(store: Store, whole: InstanceKey) -> int | None:
    """Return how many elements a task was expanded to; None if it was not, or is not mapped."""
    rows = await store.instances(whole.run_id, task_id=whole.task_id)
    return next((row.length for row in rows if row.instance == whole), None)


async def _check_mapped(store: Store, whole: InstanceKey) -> None:
    """Raise XComTypeError if the run's plan has the task, and not as a mapped one."""
    run_id, task_id, _ = whole
    image = await store.load_run(run_id)
    if image is None:
        return
    kinds = {known_id: kind for known_id, kind, _ in stored_tasks(store.name, image)}
    if kinds.get(task_id, TaskKind.MAPPED) is not TaskKind.MAPPED:
        raise XComTypeError(f"task {task_id!r} of run {run_id!r} is not mapped and has no list of outputs; use pull()", path="")
