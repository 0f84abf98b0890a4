"""How the tasks of a DAG have done, over all of its runs that the store still has."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from dagrelay.ids import check_dag_id
from dagrelay.model.records import TaskStatistics
from dagrelay.model.states import TaskState
from dagrelay.runtime.lineage import is_copy
from dagrelay.stores.base import RunQuery

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.stores.base import Store, StoredInstance

__all__ = ("statistics_of",)

_JUDGED = frozenset({TaskState.SUCCESS, TaskState.FAILED})
_MICROSECONDS = 1_000_000


async def statistics_of(store: Store, dag_id: str) -> list[TaskStatistics]:
    """Return how each task of a DAG has done; for the rest see `Runtime.task_statistics`."""
    dag_id = check_dag_id(dag_id)
    forks = {run.run_id: run for run in await store.find_runs(RunQuery(dag_id=dag_id, limit=None)) if run.forked_from is not None}
    counted: dict[str, list[StoredInstance]] = {}
    for row in await store.attempts(dag_id):
        fork = forks.get(row.instance.run_id)
        # A mapped task as a whole makes no attempts of a handler, and what a fork has copied was made in another run.
        if row.attempt and row.length is None and (fork is None or not is_copy(fork, row)):
            counted.setdefault(row.instance.task_id, []).append(row)
    return [_statistics(task_id, rows) for task_id, rows in counted.items()]


def _statistics(task_id: str, rows: Sequence[StoredInstance]) -> TaskStatistics:
    judged = [row for row in rows if row.state in _JUDGED]
    failed = sum(row.state is TaskState.FAILED for row in judged)
    retried = sum(row.failures > (row.state is TaskState.FAILED) for row in rows)
    durations = sorted(
        (row.ended_us - row.started_us) / _MICROSECONDS
        for row in judged
        if row.started_us is not None and row.ended_us is not None
    )
    return TaskStatistics(
        task_id=task_id,
        runs=len({row.instance.run_id for row in rows}),
        instances=len(rows),
        attempts=sum(row.attempt for row in rows),
        p50_s=_percentile(durations, 50),
        p90_s=_percentile(durations, 90),
        p99_s=_percentile(durations, 99),
        failure_rate=failed / len(judged) if judged else 0.0,
        retry_rate=retried / len(rows),
    )


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    """Return the smallest of the values that at least so many percent of them don't exceed (the nearest rank)."""
    return ordered[ceil(len(ordered) * percent / 100) - 1] if ordered else None
