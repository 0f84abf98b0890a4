"""References and templates inside dicts, lists and tuples: finding them, and putting something in their place.

Only dicts, lists and tuples are looked into, by value and not by key. Nothing recurses; a container that stands in many
places is looked at once.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dagrelay.dag.references import NamedTask, Pathed, TemplateText

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ("copy_of", "holds_marker", "is_marker", "map_leaves")

_MUTABLE: Final[frozenset[type[Any]]] = frozenset({dict, list})


def is_marker(value: Any) -> bool:
    """Return whether a value stands for one that only a run has (or is a task, which somebody took for its output)."""
    return isinstance(value, (Pathed, TemplateText, NamedTask))


def holds_marker(value: Any) -> bool:
    """Return whether a value is a marker, or has one somewhere inside."""
    if not _is_container(value):
        return is_marker(value)
    seen = {id(value)}
    pending = [value]
    while pending:
        for child in _children(pending.pop()):
            if is_marker(child):
                return True
            if _is_container(child) and id(child) not in seen:
                seen.add(id(child))
                pending.append(child)
    return False


def map_leaves(root: Any, leaf: Callable[[Any], Any], *, keep_tuples: bool = True) -> Any:
    """Return a copy of nested dicts, lists and tuples in which each thing that is none of these is replaced by `leaf(thing)`.

    Tuples stay tuples, or become lists as in JSON.

    Raises:
        ValueError: a container contains itself.
    """
    if not _is_container(root):
        return leaf(root)
    done: dict[int, Any] = {}
    # Invariant: what is opened and not done contains everything above it on the stack.
    opened: set[int] = set()
    pending = [root]
    while pending:
        value = pending[-1]
        place = id(value)
        if place in opened:
            pending.pop()
            if place not in done:
                done[place] = _rebuilt(value, done, leaf, keep_tuples)
            continue
        opened.add(place)
        for child in _children(value):
            if _is_container(child) and id(child) not in done:
                if id(child) in opened:
                    raise ValueError(f"a {type(child).__name__} contains itself")
                pending.append(child)
    return done[id(root)]


def copy_of(value: Any) -> Any:
    """Return a copy of plain nested values, so that a handler may change what it gets; other things are returned themselves."""
    try:
        return map_leaves(value, _itself) if type(value) in _MUTABLE else value
    except ValueError:
        return value  # It contains itself: no value of ours does.


def _is_container(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, MappingProxyType))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, (dict, MappingProxyType))


def _itself(value: Any) -> Any:
    return value


def _children(value: Any) -> Iterable[Any]:
    children: Iterable[Any] = value.values() if _is_mapping(value) else value
    return children


def _rebuilt(value: Any, done: dict[int, Any], leaf: Callable[[Any], Any], keep_tuples: bool) -> Any:  # noqa: FBT001 - passed on
    if _is_mapping(value):
        return {key: _place(item, done, leaf) for key, item in value.items()}
    items = [_place(item, done, leaf) for item in value]
    return tuple(items) if keep_tuples and isinstance(value, tuple) else items


def _place(item: Any, done: dict[int, Any], leaf: Callable[[Any], Any]) -> Any:
    return done[id(item)] if _is_container(item) else leaf(item)
