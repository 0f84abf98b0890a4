"""Kinds of tasks: which options and wirings each takes, and what it hands on."""

from __future__ import annotations

from typing import Any

import pytest

from dagrelay import Approval
from dagrelay.dag.definition import DAG
from dagrelay.dag.plan import TaskKind
from dagrelay.dag.references import each
from dagrelay.errors import DAGValidationError, InvalidIdError


async def work(item: Any = 1) -> Any:
    """Return the element."""
    return item


def test_each_kind_is_part_of_the_plan() -> None:
    """And of what it hands on."""
    dag = DAG("d")
    dag.add(work, id="plain")
    dag.add(work, id="mapped", bind={"item": each([1])})
    dag.branch(id="branch")(work)
    dag.short_circuit(id="short")(work)
    dag.external("external", as_type=int)
    dag.approval("approval")
    plan = dag.plan()
    kinds = {task.task_id: task.kind for task in plan.tasks}
    assert kinds == {
        "plain": TaskKind.PLAIN,
        "mapped": TaskKind.MAPPED,
        "branch": TaskKind.BRANCH,
        "short": TaskKind.SHORT_CIRCUIT,
        "external": TaskKind.EXTERNAL,
        "approval": TaskKind.APPROVAL,
    }
    types = {task.task_id: task.return_type for task in plan.tasks}
    assert (types["branch"], types["short"], types["external"], types["approval"]) == (list[str], bool, int, Approval)


def test_a_kind_changes_the_fingerprint() -> None:
    """A run is not resumed as if a task were still what it was."""
    fingerprints: set[str] = set()
    for kind in range(4):
        dag = DAG("d")
        if kind == 0:
            dag.add(work, id="t")
        elif kind == 1:
            dag.add(work, id="t", bind={"item": each([1])})
        elif kind == 2:
            dag.branch(id="t")(work)
        else:
            dag.external("t")
        fingerprints.add(dag.plan().fingerprint)
    assert len(fingerprints) == 4


@pytest.mark.parametrize("kind", ["branch", "short_circuit"])
def test_what_decides_is_not_mapped(kind: str) -> None:
    """The way round is named."""
    dag = DAG("d")
    getattr(dag, kind)(id="t", bind={"item": each([1])})(work)
    with pytest.raises(DAGValidationError) as refused:
        dag.plan()
    (told,) = refused.value.problems
    assert told == f"task 't': a {kind.replace('_', '-')} can't be mapped; let it decide once, over the whole list"


@pytest.mark.parametrize("option", ["retries", "bind", "config", "pool", "max_concurrency", "after_start", "auto_push"])
def test_what_comes_from_outside_takes_few_options(option: str) -> None:
    """There is no handler that the others could be of."""
    dag = DAG("d")
    makers: list[Any] = [dag.external, dag.approval]
    for make in makers:
        with pytest.raises(TypeError, match=f"no such option: '{option}'"):
            make("t", **{option: 1})
    with pytest.raises(InvalidIdError):
        dag.external("a b")


def test_defaults_of_a_dag_are_not_for_what_comes_from_outside() -> None:
    """A time limit meant for handlers would fail an approval over night."""
    dag = DAG("d", defaults={"timeout_s": 1, "retries": 3})
    dag.approval("approval")
    dag.external("external", timeout_s=60)
    plan = dag.plan()
    assert [(task.timeout_s, task.retry.max_attempts) for task in plan.tasks] == [(None, 1), (60, 1)]
