"""The graphs that every system runs, and the one task body they share.

Standard library only, as peers import it in their own venvs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

__all__ = ("PAD", "WARM_UP", "WORKLOADS", "Value", "Workload", "body", "chain", "wide")

Value: TypeAlias = dict[str, Any]

PAD: Final = "x" * 180
"""Makes a value about 200 bytes of JSON."""
_ROWS: Final = [f"{number:060d}" for number in range(4096)]
"""Makes a value about 256 KiB of JSON."""
_MODULUS: Final = 1_000_003


@dataclass(frozen=True)
class Workload:
    """A graph by task index; every task stands after its parents, and the last is the one whose value is checked."""

    name: str
    title: str
    parents: tuple[tuple[int, ...], ...]
    is_big: bool = False
    is_mapped: bool = False
    """Whether a system that can map over a list does so, rather than have a task for each element."""

    @property
    def size(self) -> int:
        """How many tasks there are."""
        return len(self.parents)

    @property
    def children(self) -> list[list[int]]:
        """The tasks that wait for each task."""
        children: list[list[int]] = [[] for _ in self.parents]
        for task, parents in enumerate(self.parents):
            for parent in parents:
                children[parent].append(task)
        return children

    @property
    def is_chain(self) -> bool:
        """Whether every task but the first has the one before it as its only parent."""
        return self.parents == chain(self.size)

    @property
    def layers(self) -> list[list[int]]:
        """The tasks by how many stand one after another above them, for systems that gather a layer at a time."""
        depths: list[int] = []
        layers: list[list[int]] = []
        for task, parents in enumerate(self.parents):
            depth = 1 + max((depths[parent] for parent in parents), default=-1)
            depths.append(depth)
            if depth == len(layers):
                layers.append([])
            layers[depth].append(task)
        return layers

    @property
    def expected(self) -> int:
        """The `n` of the last task's value, worked out here, by no system."""
        values: list[Value] = []
        for parents in self.parents:
            values.append(body([values[parent] for parent in parents]))
        return int(values[-1]["n"])


def body(values: list[Value], *, is_big: bool = False) -> Value:
    """Return a task's value: the first parent's, with a number that depends on every parent. The only body there is."""
    if not values:
        return {"n": 0, "rows": _ROWS} if is_big else {"n": 0, "pad": PAD}
    return {**values[0], "n": (sum(value["n"] for value in values) + 1) % _MODULUS}


def chain(length: int) -> tuple[tuple[int, ...], ...]:
    """Return one task after another."""
    return ((), *((task,) for task in range(length - 1)))


def wide(width: int) -> tuple[tuple[int, ...], ...]:
    """Return a source and `width` tasks that wait for it alone."""
    return ((), *[(0,)] * width)


def _fan(width: int) -> tuple[tuple[int, ...], ...]:
    return (*wide(width), tuple(range(1, width + 1)))


def _layered(layers: int, width: int) -> tuple[tuple[int, ...], ...]:
    """Return layers of tasks with three random parents each in the layer before, and a sink under the last."""
    chance = random.Random(7)
    parents: list[tuple[int, ...]] = [()] * width
    for layer in range(1, layers):
        above = range((layer - 1) * width, layer * width)
        parents += [tuple(chance.sample(above, 3)) for _ in range(width)]
    return (*parents, tuple(range((layers - 1) * width, layers * width)))


WARM_UP: Final = Workload("warm-up", "one task", chain(1))
WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("chain-100", "chain of 100", chain(100)),
        Workload("chain", "chain of 1,000", chain(1000)),
        Workload("fan-100", "source -> 100 tasks -> sink", _fan(100)),
        Workload("fan", "source -> 1,000 tasks -> sink", _fan(1000)),
        Workload("layered", "20 layers of 50, three random parents each (seed 7), and a sink: 1,001 tasks", _layered(20, 50)),
        Workload("map", "a list of 10,000 -> a task mapped over it -> a sink", _fan(10_000), is_mapped=True),
        Workload("big-values", "chain of 50 with values of 256 KiB", chain(50), is_big=True),
    )
}
