"""A mapped task gets its elements: what it is mapped over is read and split, once for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dagrelay.dag.mapping import split
from dagrelay.model.records import from_us
from dagrelay.runtime.inputs import Inputs, at_hand, fetch, texts_of
from dagrelay.xcom.lineage import lineage_text

if TYPE_CHECKING:
    from dagrelay.dag.mapping import Elements
    from dagrelay.runtime.inputs import Values
    from dagrelay.runtime.run_facts import RunFacts

__all__ = ("Split", "elements_at_hand", "read_elements")


class Split(NamedTuple):
    """What a mapped task is mapped over."""

    elements: Elements
    lineage: str | None
    """What was read for it."""


def elements_at_hand(run: RunFacts, index: int, attempt: int) -> Split | None:
    """Return the elements of a task if all that it takes is in memory; None if something has to be read.

    Raises:
        DagrelayError: it can't be expanded; see `dag.mapping.split`.
    """
    expansion = run.data.plan.tasks[index].expansion
    assert expansion is not None
    values, missing = at_hand(run.data, expansion.reads)
    return None if missing or expansion.earlier else _split(run, index, attempt, values)


async def read_elements(run: RunFacts, index: int, attempt: int) -> Split:
    """Return the elements of a task.

    Raises:
        DagrelayError: it can't be expanded; see `dag.mapping.split`.
        StoreError: the store can't be read.

    Cancellation: nothing is left behind.
    """
    expansion = run.data.plan.tasks[index].expansion
    assert expansion is not None
    values, missing = at_hand(run.data, expansion.reads)
    values.update(await fetch(run.data, missing, expansion.earlier))
    return _split(run, index, attempt, values)


def _split(run: RunFacts, index: int, attempt: int, values: Values) -> Split:
    task = run.data.plan.tasks[index]
    facts = {
        ("run", "id"): run.data.book.run_id,
        ("run", "dag_id"): run.data.plan.dag_id,
        ("run", "started_at"): from_us(run.started_us).isoformat(),
        ("task", "id"): task.task_id,
        ("task", "attempt"): attempt,
        ("task", "map_index"): None,
    }
    inputs = Inputs(run.data, values, params=run.params, facts=facts if task.has_templates else {})
    elements = split(
        task,
        inputs,
        params=run.params,
        missing=task.missing or run.missing,
        max_chars=run.max_chars,
        max_length=run.max_map_length,
    )
    return Split(elements, lineage_text(texts_of(run.data, values), run.data.lineage_mark))
