"""What an attempt reads before its handler starts: all references of its signature, templates and config, in one batch."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from dagrelay.dag.filling import converted
from dagrelay.dag.inputs import Read
from dagrelay.model.missing import MISSING
from dagrelay.stores.base import Lookup
from dagrelay.templates import missing_key_hint
from dagrelay.xcom.cache import Resident
from dagrelay.xcom.lineage import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagrelay.dag.plan import PlannedTask
    from dagrelay.errors import XComNotFoundError
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.base import StoredEntry
    from dagrelay.templates import Expression
    from dagrelay.xcom.cache import Encoded
    from dagrelay.xcom.run_data import RunData

__all__ = ("Earlier", "Inputs", "Values", "at_hand", "fetch", "noted", "texts_of", "usual_arguments", "usual_texts")

Values: TypeAlias = "dict[Read, Encoded | list[Encoded | None] | Earlier | None]"
"""What was read: encoded, None where there is no such entry; of all elements of a mapped task a list by map index."""


class Earlier(NamedTuple):
    """A value of an earlier run."""

    run_id: str
    entry: StoredEntry


def usual_arguments(data: RunData, task: PlannedTask) -> dict[str, Any] | None:
    """Return the arguments of a task of whole values, if all are in memory, by first attempts, as nearly always; else None.

    Then `at_hand` and what follows it find out what there is. This is the same in one step, which every other task goes by.
    """
    instances, slots_seen, get, decode = data.instances, data.book.slots_seen, data.broker.cache.get, data.door.registry.decode
    arguments: dict[str, Any] = {}
    for each in task.wholes:
        index, key, _, _ = each.read
        instance = instances[index]
        slots = slots_seen(instance)
        if slots is None or slots[0] != 1:
            return None
        found = get((instance, 1, key))
        if found is None:
            return None
        value = decode(found.serializer, found.value)
        arguments[each.name] = value if each.into_type is None else converted(task.task_id, each.name, value, each.into_type)
    return arguments


def at_hand(data: RunData, reads: tuple[Read, ...]) -> tuple[Values, list[Read]]:
    """Return the encoded values of `reads` that are in memory, None for the others, and those others, for `fetch`."""
    instances, slots_seen, get = data.instances, data.book.slots_seen, data.broker.cache.get
    found: Values = {}
    missing: list[Read] = []
    for read in reads:
        if read.is_gathered:
            found[read] = gathered = _gathered_at_hand(data, read)
            if gathered is None and read.index in data.lengths:
                missing.append(read)
            continue
        instance = instances[read.index]
        slots = slots_seen(instance)
        value = found[read] = get((instance, slots[0], read.key)) if slots else None
        if value is None:
            missing.append(read)
    return found, missing


def _gathered_at_hand(data: RunData, read: Read) -> list[Encoded | None] | None:
    """Return what all elements of a mapped task have under a key, if it has any at all and they are in memory to the last."""
    if read.index not in data.lengths:
        return None
    slots_seen, get = data.book.slots_seen, data.broker.cache.get
    found: list[Encoded | None] = []
    for instance in data.elements_of(read.index):
        slots = slots_seen(instance)
        value = get((instance, slots[0], read.key)) if slots else None
        if value is None:
            return None
        found.append(value)
    return found


async def fetch(data: RunData, reads: Sequence[Read], earlier: Sequence[Read] = ()) -> Values:
    """Return the encoded values of `reads`, None where there is none, from the store as well; one read for all.

    What is wanted of earlier runs is read in the same go, each by a search of its own.

    Cancellation: nothing is left behind.
    """
    values: Values = {}
    for read in earlier:
        run_id, task_id, _ = data.instances[read.index]
        rows = await data.store.previous(data.plan.dag_id, task_id, read.key, before_run=run_id, limit=1)
        values[read] = Earlier(*rows[0]) if rows else None
    if not reads:
        return values
    slots_seen = data.book.slots_seen
    wanted: list[Lookup] = []
    counts: list[int] = []
    for read in reads:
        instances: Sequence[InstanceKey] = data.elements_of(read.index) if read.is_gathered else (data.instances[read.index],)
        wanted += [Lookup(instance=instance, key=read.key, slots=slots_seen(instance)) for instance in instances]
        counts.append(len(instances))
    found = iter(await data.broker.find(wanted))
    for read, count in zip(reads, counts, strict=True):
        values[read] = list(islice(found, count)) if read.is_gathered else next(found)
    return values


def noted(data: RunData, index: int, values: Values) -> Sequence[str]:
    """Return what the task at a topological index was found to read, for its lineage.

    It is asked for every attempt. Nearly always all of it is there, by first attempts: that is said once for each task of a plan.
    """
    for found in values.values():
        if type(found) is not Resident or found.slot != 1:
            return texts_of(data, values)
    return usual_texts(data, index)


def usual_texts(data: RunData, index: int) -> tuple[str, ...]:
    """Return what the task at a topological index reads where all of it is there, by first attempts, for its lineage."""
    plan = data.plan
    texts = plan.usual_reads.get(index)
    if texts is None:
        reads = plan.tasks[index].reads
        texts = plan.usual_reads[index] = tuple(read_text(plan.task_ids[read.index], 1, read.key) for read in reads)
    return texts


def texts_of(data: RunData, values: Values) -> list[str]:
    """Return what was found, each as `lineage.read_text` writes it."""
    texts: list[str] = []
    for read, found in values.items():
        if found is None:
            continue
        instance = data.instances[read.index]
        if isinstance(found, Resident):
            texts.append(read_text(instance.task_id, found.slot, read.key))
        elif isinstance(found, Earlier):
            texts.append(read_text(instance.task_id, found.entry.slot, read.key, None, found.run_id))
        elif isinstance(found, list):
            texts.append(read_text(instance.task_id, None, read.key))
        else:  # Accepted, and not committed yet: it was found where it was looked for first.
            slots = data.book.slots_seen(instance)
            assert slots is not None
            texts.append(read_text(instance.task_id, slots[0], read.key))
    return texts


class Inputs:
    """The values at hand of one attempt, as the template scope and the reader that binding asks for.

    A parameter gets a copy of its own; templates, which only read, share one.
    """

    def __init__(
        self,
        data: RunData,
        values: Values,
        *,
        params: Mapping[str, Any],
        facts: Mapping[tuple[str, str], Any],
    ) -> None:
        """Take encoded `values`, the run's `params`, and `facts`: (root, name) -> value for `run.` and `task.`."""
        self._data = data
        self._decode = data.door.registry.decode
        self._values = values
        self._params = params
        self._facts = facts
        self._shared: dict[tuple[str, ...], Any] = {}
        self._with_holes: set[tuple[str, str]] = set()

    def read(self, read: Read) -> Any:
        """Return a fresh copy of a value, or MISSING; of a gathered one a list, with MISSING for elements without."""
        found = self._values.get(read)
        if type(found) is Resident:  # As nearly always.
            return self._decode(found.serializer, found.value)
        if found is None:
            return MISSING
        if isinstance(found, Earlier):
            return self._decode(found.entry.serializer, found.entry.value)
        if isinstance(found, list):
            return [MISSING if each is None else self._decode(each.serializer, each.value) for each in found]
        return self._decode(found.serializer, found.value)

    def get(self, expression: Expression) -> Any:
        """Return what an expression of a template starts from, or MISSING."""
        match expression.root:
            case "xcom":
                value = self._xcom(expression.task_id, expression.key)
                # A list with holes is nothing that a template could tell from a whole one; each element it has is there, though.
                is_whole = (expression.task_id, expression.key) not in self._with_holes
                return value if is_whole or _element_named(expression) is not None else MISSING
            case "previous":
                return self._previous(expression)
            case "params":
                return self._params.get(expression.names[0], MISSING)
            case root:
                return self._facts.get((root, expression.names[0]), MISSING)

    def _xcom(self, task_id: str, key: str) -> Any:
        place = (task_id, key)
        if place not in self._shared:
            index = self._data.plan.index[task_id]
            value = self.read(Read(index, key))
            if value is MISSING:
                value = self.read(Read(index, key, is_gathered=True))
                if value is not MISSING and any(each is MISSING for each in value):
                    self._with_holes.add(place)
            self._shared[place] = value
        return self._shared[place]

    def _previous(self, expression: Expression) -> Any:
        place = ("previous", expression.task_id, expression.key)
        if place not in self._shared:
            index = self._data.plan.index[expression.task_id]
            self._shared[place] = self.read(Read(index, expression.key, is_previous=True))
        return self._shared[place]

    def read_missing(self, read: Read, map_index: int | None = None) -> XComNotFoundError:
        """Return the error for a reference whose value is not there."""
        return self._data.not_found(read.index, read.key, map_index=map_index)

    def expression_missing(self, expression: Expression) -> XComNotFoundError | None:
        """Return the error for an expression whose value is not there; None if it is there, and has nothing at its path."""
        hole = self._hole_met(expression) if expression.root == "xcom" else None
        if expression.root not in {"xcom", "previous"} or (hole is None and self.get(expression) is not MISSING):
            return None
        where = f"the template needs {{{{ {expression.source} }}}}"
        if expression.root == "previous":
            return self._data.no_earlier(
                expression.task_id, expression.key, hint=f"{where}; the first run takes `| default(...)`"
            )
        hint = missing_key_hint(expression)
        index = self._data.plan.index[expression.task_id]
        return self._data.not_found(index, expression.key, map_index=hole, hint=f"{where}; {hint}" if hint else where)

    def _hole_met(self, expression: Expression) -> int | None:
        """Return the map index of the first element that is asked for in vain; None if that is not why nothing was found."""
        index = self._data.plan.index[expression.task_id]
        found = self._values.get(Read(index, expression.key, is_gathered=True))
        if not isinstance(found, list):
            return None
        named = _element_named(expression)
        if named is None:
            return next((place for place, each in enumerate(found) if each is None), None)
        return named % len(found) if -len(found) <= named < len(found) and found[named] is None else None


def _element_named(expression: Expression) -> int | None:
    first = expression.path[0] if expression.path else None
    return first if isinstance(first, int) else None
