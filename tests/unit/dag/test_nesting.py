"""References and templates inside containers: found, replaced, and never by recursion."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Final

import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.nesting import copy_of, holds_marker, is_marker, map_leaves
from dagrelay.dag.references import template

dag: Final = DAG("d")


@dag.task
async def load() -> int:
    """Return a number."""
    return 1


def looped() -> list[Any]:
    """Return a list that contains itself."""
    loop: list[Any] = [1]
    loop.append(loop)
    return loop


def nested(depth: int, core: Any) -> Any:
    """Return a value inside lists inside each other."""
    for _ in range(depth):
        core = [core]
    return core


def exploding(depth: int) -> list[Any]:
    """Return a small object that is 10 ** depth items written out."""
    value: list[Any] = [0]
    for _ in range(depth):
        value = [value] * 10
    return value


MARKERS: Final = [load.output, template("{{ run.id }}"), load]


@pytest.mark.parametrize("marker", MARKERS)
def test_markers_are_found_wherever_they_stand(marker: Any) -> None:
    """Alone, or in dicts, lists and tuples at any depth."""
    places: list[Any] = [marker, [1, marker], (marker,), {"a": [{"b": marker}]}, MappingProxyType({1: marker})]

    assert is_marker(marker)
    assert all(holds_marker(place) for place in places)


@pytest.mark.parametrize("value", [None, 1, "{{ xcom.load }}", [], {}, [1, [2]], {load.output: 1}, {1, 2}, looped()])
def test_other_values_hold_none(value: Any) -> None:
    """Text is no template by itself, keys are not looked at, and a loop ends the search."""
    assert not holds_marker(value)


def test_depth_and_sharing_cost_nothing() -> None:
    """A hundred thousand levels, and ten billion items that are few objects, are walked in no time."""
    assert holds_marker(nested(100_000, load.output))
    assert not holds_marker(exploding(10))
    wide = map_leaves(exploding(10), str)
    assert wide[0] is wide[9]
    for _ in range(10):
        wide = wide[9]
    assert wide == ["0"]
    deep = map_leaves(nested(100_000, 1), str)
    for _ in range(100_000):
        (deep,) = deep
    assert deep == "1"


def test_leaves_are_replaced_and_containers_kept() -> None:
    """What comes out has the shape of what went in, and is another object."""
    shared = [1]
    value = {"a": [1, (2, {"b": 3})], "c": shared, "d": shared, "e": MappingProxyType({"f": 4})}

    mapped = map_leaves(value, lambda leaf: leaf * 10)

    assert mapped == {"a": [10, (20, {"b": 30})], "c": [10], "d": [10], "e": {"f": 40}}
    assert shared == [1]
    assert map_leaves(3, lambda leaf: leaf * 10) == 30


def test_a_container_in_itself_is_refused() -> None:
    """It has no end."""
    with pytest.raises(ValueError, match="a list contains itself"):
        map_leaves(looped(), str)


def test_a_copy_can_be_changed() -> None:
    """Lists and dicts are copied at every depth; what is neither is handed on."""
    value, loop, marker = {"a": [1]}, looped(), object()

    copied = copy_of(value)
    copied["a"].append(2)

    assert value == {"a": [1]}
    assert copy_of(marker) is marker
    assert copy_of((1,)) == (1,)
    assert copy_of(loop) is loop
