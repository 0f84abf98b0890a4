"""The shape of a DAG: a stable topological order, and the cycles that forbid one. Nodes are positions; nothing recurses."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ("cycles", "downstream_of", "topological_order")


def topological_order(upstream: Sequence[Iterable[int]]) -> list[int]:
    """Return the positions so that each stands after its upstreams, and otherwise in the order they were given.

    Positions on a cycle, or downstream of one, are left out: the order is whole if it is as long as `upstream`.

    Cost: O(nodes + edges) where the order given is topological already, and O(nodes log nodes + edges) otherwise.
    """
    if all(above < position for position, nodes in enumerate(upstream) for above in nodes):
        return list(range(len(upstream)))
    downstream = downstream_of(upstream)
    unmet = [sum(1 for _ in nodes) for nodes in upstream]
    ready = [position for position, count in enumerate(unmet) if count == 0]
    heapify(ready)
    order: list[int] = []
    while ready:
        position = heappop(ready)
        order.append(position)
        for below in downstream[position]:
            unmet[below] -= 1
            if unmet[below] == 0:
                heappush(ready, below)
    return order


def downstream_of(upstream: Sequence[Iterable[int]]) -> list[list[int]]:
    """Return the edges turned round: for each position those that have it upstream, rising."""
    downstream: list[list[int]] = [[] for _ in upstream]
    for position, nodes in enumerate(upstream):
        for above in nodes:
            downstream[above].append(position)
    return downstream


def cycles(upstream: Sequence[Iterable[int]]) -> list[list[int]]:
    """Return one cycle, in the direction of its edges, of each set of positions that are all upstream of each other.

    Each begins with its smallest position; a position upstream of itself makes a cycle of one. Cost: O(nodes + edges).
    """
    component = _components(upstream)
    step_up: dict[int, int] = {}
    for position, nodes in enumerate(upstream):
        inside = next((above for above in nodes if component[above] == component[position]), None)
        if inside is not None:
            step_up[position] = inside
    found: list[list[int]] = []
    walked: set[int] = set()
    for start in step_up:
        # All of a component is upstream of each other, so that one walk up from anywhere in it ends in a cycle.
        if component[start] not in walked:
            walked.add(component[start])
            found.append(_walk_round(start, step_up))
    return found


def _walk_round(start: int, step_up: dict[int, int]) -> list[int]:
    """Return the cycle that steps up from `start` end in, downwards and beginning with its smallest position."""
    met: dict[int, int] = {}
    position = start
    while position not in met:
        met[position] = len(met)
        position = step_up[position]
    down = list(met)[met[position] :][::-1]
    first = down.index(min(down))
    return down[first:] + down[:first]


def _components(upstream: Sequence[Iterable[int]]) -> list[int]:
    """Return for each position a number shared by exactly those that are upstream of each other (Kosaraju's algorithm)."""
    downstream = downstream_of(upstream)
    component = [-1] * len(upstream)
    for number, root in enumerate(reversed(_postorder(upstream))):
        if component[root] != -1:
            continue
        component[root] = number
        pending = [root]
        while pending:
            for below in downstream[pending.pop()]:
                if component[below] == -1:
                    component[below] = number
                    pending.append(below)
    return component


def _postorder(upstream: Sequence[Iterable[int]]) -> list[int]:
    """Return the positions in the order in which a search up, depth first, leaves them."""
    left: list[int] = []
    seen: set[int] = set()
    for root in range(len(upstream)):
        path = [] if root in seen else [(root, iter(upstream[root]))]
        seen.add(root)
        while path:
            position, rest = path[-1]
            above = next((node for node in rest if node not in seen), None)
            if above is None:
                left.append(position)
                path.pop()
            else:
                seen.add(above)
                path.append((above, iter(upstream[above])))
    return left
