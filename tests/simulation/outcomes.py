"""What a run of a random DAG has come to, beside what the oracle says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagrelay import Runtime, TaskState
    from dagrelay.testing import GeneratedDag

__all__ = ("States", "check_outcome", "states_of")


class States(NamedTuple):
    """The states found."""

    tasks: dict[str, TaskState]
    """By task id, of mapped tasks as a whole."""
    elements: dict[tuple[str, int], TaskState]
    """By task id and map index."""


async def states_of(runtime: Runtime) -> States:
    """Return the states of all instances of run `r`."""
    states = States({}, {})
    for row in await runtime.task_instances("r"):
        if row.map_index is None:
            states.tasks[row.task_id] = row.state
        else:
            states.elements[row.task_id, row.map_index] = row.state
    return states


async def check_outcome(runtime: Runtime, generated: GeneratedDag) -> None:
    """Check that all states and values of run `r` are the oracle's."""
    states = await states_of(runtime)
    assert states.tasks == generated.states, f"states: {_difference(states.tasks, generated.states)}"
    assert states.elements == generated.element_states, f"states: {_difference(states.elements, generated.element_states)}"
    found: dict[str, dict[str, Any]] = {}
    of_elements: dict[tuple[str, int], dict[str, Any]] = {}
    for row in await runtime.xcom.list("r", include_values=True):
        if row.map_index is None:
            found.setdefault(row.task_id, {})[row.key] = row.value
        else:
            of_elements.setdefault((row.task_id, row.map_index), {})[row.key] = row.value
    assert found == generated.xcoms, f"values: {_difference(found, generated.xcoms)}"
    assert of_elements == generated.element_xcoms, f"values: {_difference(of_elements, generated.element_xcoms)}"


def _difference(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> str:
    """Return what differs, the found first."""
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return ", ".join(f"{name} is {found.get(name)}, not {expected.get(name)}" for name in names)
