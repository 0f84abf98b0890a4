"""What a mapped task is mapped over, split once: elements by map index, the last axis varying fastest."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import attrs

from dagrelay.dag.filling import fill_inputs
from dagrelay.errors import MapTooLongError, XComTypeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.dag.filling import Source
    from dagrelay.dag.inputs import PlannedAxis
    from dagrelay.dag.plan import PlannedTask
    from dagrelay.model.policies import MissingPolicy

__all__ = ("Elements", "split")


@attrs.frozen
class Elements:
    """The elements of an expanded task."""

    axes: tuple[Sequence[Any], ...]
    """Of each axis its elements; an element of a dict, or of lists side by side, is a tuple."""

    @property
    def length(self) -> int:
        """How many elements there are."""
        return prod(map(len, self.axes))

    def at(self, map_index: int) -> tuple[Any, ...]:
        """Return the element of each axis at a map index; not copies."""
        if len(self.axes) == 1:
            return (self.axes[0][map_index],)
        found: list[Any] = []
        for axis in reversed(self.axes):
            map_index, place = divmod(map_index, len(axis))
            found.append(axis[place])
        return tuple(reversed(found))


def split(
    task: PlannedTask, source: Source, *, params: Mapping[str, Any], missing: MissingPolicy, max_chars: int, max_length: int
) -> Elements:
    """Return the elements that a mapped task has in a run. Nothing is awaited.

    Args:
        task: the task.
        source: where values come from, its expansion's reads among them.
        params: the run's params, defaults included.
        missing: what a template does where a value is missing.
        max_chars: characters that a rendered text may have.
        max_length: elements that there may be.

    Raises:
        MapTooLongError: there are more.
        XComTypeError: what it is mapped over is no list or dict, or lists side by side are not of one length.
        TemplateError: a template can't be rendered.
        Exception: what `source` made for a value that is missing.
    """
    assert task.expansion is not None

    def axis(planned: PlannedAxis) -> Sequence[Any]:
        lists: list[Sequence[Any]] = []
        for each in planned.sources:
            (value,) = fill_inputs(
                task.task_id, (each,), source, context=None, params=params, missing=missing, max_chars=max_chars
            ).values()
            lists.append(_listed(task.task_id, each.name, value))
        if not planned.is_zipped:
            return lists[0]
        lengths = [len(each) for each in lists]
        if len(set(lengths)) > 1:
            told = ", ".join(f"{length:,}" for length in lengths)
            raise XComTypeError(f"{_where(task.task_id, planned.sources[0].name)}: lists side by side have lengths {told}")
        return list(zip(*lists, strict=True))

    elements = Elements(tuple(axis(planned) for planned in task.expansion.axes))
    if elements.length > max_length:
        raise MapTooLongError(task.task_id, length=elements.length, limit=max_length)
    return elements


def _listed(task_id: str, name: str, value: Any) -> Sequence[Any]:
    if _is_mapping(value):
        return list(value.items())
    if not _is_list(value):
        raise XComTypeError(f"{_where(task_id, name)}: it is mapped over a {type(value).__name__}, and needs a list or dict")
    return list(value)  # A constant of the user's may be changed while the elements run.


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _where(task_id: str, name: str) -> str:
    return f"parameter {name!r} of task {task_id!r}"
