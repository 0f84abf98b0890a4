"""Orders and cycles of random graphs, against the standard library and plain searches."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dagrelay.dag.definition import DAG
from dagrelay.dag.graph import cycles, downstream_of, topological_order
from dagrelay.dag.plan import Plan, parse_body


@st.composite
def graphs(draw: st.DrawFn, *, acyclic: bool) -> list[list[int]]:
    """Draw for each of up to 12 positions its upstreams, in no particular order of positions."""
    count = draw(st.integers(0, 12))
    pairs = st.tuples(st.integers(0, max(count - 1, 0)), st.integers(0, max(count - 1, 0)))
    edges = draw(st.sets(pairs, max_size=30)) if count else set[tuple[int, int]]()
    place = draw(st.permutations(range(count)))
    upstream: list[list[int]] = [[] for _ in range(count)]
    for above, below in sorted(edges):
        if not acyclic or above < below:
            upstream[place[below]].append(place[above])
    return upstream


def above(upstream: list[list[int]], position: int) -> set[int]:
    """Return all that is upstream of a position, found by plain search."""
    found: set[int] = set()
    pending = list(upstream[position])
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += upstream[node]
    return found


@given(graphs(acyclic=True))
def test_an_order_respects_edges_and_then_the_order_given(upstream: list[list[int]]) -> None:
    """At each step the first position stands that could: no other order is both legal and closer to the one given."""
    order = topological_order(upstream)

    assert sorted(order) == list(range(len(upstream)))
    placed: set[int] = set()
    for position in order:
        ready = [node for node, nodes in enumerate(upstream) if node not in placed and placed.issuperset(nodes)]
        assert position == min(ready)
        placed.add(position)


@given(graphs(acyclic=False))
def test_cycles_are_found_exactly_where_there_are_some(upstream: list[list[int]]) -> None:
    """An order is whole if the standard library finds one, and otherwise a cycle of edges is told for each knot."""
    try:
        TopologicalSorter(dict(enumerate(upstream))).prepare()
        is_acyclic = True
    except CycleError:
        is_acyclic = False

    found = cycles(upstream)

    assert (len(topological_order(upstream)) == len(upstream)) == is_acyclic
    assert bool(found) == (not is_acyclic)
    for cycle in found:
        assert cycle[0] == min(cycle)
        assert len(set(cycle)) == len(cycle)
        assert all(one in upstream[other] for one, other in pairwise([*cycle, cycle[0]]))
    knots = {
        frozenset(above(upstream, node) & {n for n in above(upstream, node) if node in above(upstream, n)})
        for node in range(len(upstream))
        if node in above(upstream, node)
    }
    assert len(found) == len(knots)
    assert {next(knot for knot in knots if cycle[0] in knot) for cycle in found} == knots


@given(graphs(acyclic=False))
def test_downstream_is_upstream_turned_round(upstream: list[list[int]]) -> None:
    """Every edge is there once, and none is new."""
    turned = downstream_of(upstream)

    assert sorted((a, b) for b, nodes in enumerate(upstream) for a in nodes) == [
        (a, b) for a, nodes in enumerate(turned) for b in nodes
    ]


def planned(upstream: list[list[int]]) -> Plan:
    """Return the plan of a DAG of that shape, in which position n is task `tn`."""
    dag = DAG("d")

    async def nothing() -> None: ...

    for position, nodes in enumerate(upstream):
        dag.add(nothing, id=f"t{position}", depends_on=[f"t{node}" for node in nodes])
    return dag.plan()


@given(graphs(acyclic=True))
def test_a_plan_knows_what_is_upstream(upstream: list[list[int]]) -> None:
    """All upstreams, direct ones, and the question for one pair agree with a plain search."""
    plan = planned(upstream)

    for position in range(len(upstream)):
        index = plan.index[f"t{position}"]
        expected = sorted(plan.index[f"t{node}"] for node in above(upstream, position))
        assert list(plan.upstream_of(index)) == expected
        assert list(plan.upstream_of(index, direct=True)) == sorted(plan.index[f"t{node}"] for node in upstream[position])
        asked = [(other, plan.is_upstream(other, index)) for other in range(len(upstream)) for _ in range(2)]
        assert asked == [(other, other in expected) for other in range(len(upstream)) for _ in range(2)]


@given(graphs(acyclic=True))
def test_a_body_says_what_the_plan_is(upstream: list[list[int]]) -> None:
    """What is stored is enough to tell ids, kinds and edges; equal shapes have equal fingerprints, others have not."""
    plan = planned(upstream)
    parsed: Any = parse_body(plan.body)

    assert [task_id for task_id, _, _ in parsed] == list(plan.task_ids)
    for (task_id, kind, above_it), task in zip(parsed, plan.tasks, strict=True):
        assert (task_id, kind) == (task.task_id, task.kind)
        assert above_it == tuple(plan.task_ids[index] for index in task.upstream)
    assert planned(upstream).fingerprint == plan.fingerprint
    assert planned([*upstream, []]).fingerprint != plan.fingerprint
