"""Plans for tests of the machine: drawn as text, without handlers worth the name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.dag.definition import DAG
from dagrelay.model.states import TriggerRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagrelay.dag.plan import Plan

__all__ = ("draw",)


async def nothing() -> None:
    """Do nothing."""


def draw(edges: str, rules: Mapping[str, TriggerRule] | None = None) -> Plan:
    """Return the plan of a drawing such as `"a > b c; b > d; c > d"`; a task alone is a root without downstreams."""
    upstream: dict[str, list[str]] = {}
    for clause in edges.split(";"):
        source, _, targets = clause.partition(">")
        for task_id in [*source.split(), *targets.split()]:
            upstream.setdefault(task_id, [])
        for target in targets.split():
            upstream[target].extend(source.split())
    dag = DAG("drawn")
    for task_id, sources in upstream.items():
        dag.add(nothing, id=task_id, depends_on=sources, trigger_rule=(rules or {}).get(task_id, TriggerRule.ALL_SUCCESS))
    return dag.plan()
