"""How much of its history a runtime keeps: so many finished runs of each DAG, and none that ended too long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dagrelay.model.records import to_us
from dagrelay.model.states import FINISHED_RUN_STATES
from dagrelay.stores.base import RunQuery
from dagrelay.stores.operations import PruneRuns

if TYPE_CHECKING:
    from dagrelay.stores.base import Store
    from dagrelay.xcom.broker import Broker

__all__ = ("Retention", "prune_old_runs")


@attrs.frozen(kw_only=True)
class Retention:
    """What is kept."""

    max_runs_per_dag: int
    """Finished runs of each DAG, those that ended last."""
    max_age_us: int | None
    """Microseconds since a finished run's end; None for as long as there is room."""

    def prune(self, dag_id: str, at_us: int) -> PruneRuns:
        """Return what deletes, at a moment, the runs of a DAG that are too many or too old."""
        return PruneRuns(dag_id=dag_id, keep=self.max_runs_per_dag, at_us=at_us, before_us=self.oldest_us(at_us))

    def oldest_us(self, at_us: int) -> int | None:
        """Return when a finished run must have ended, at a moment, to be kept."""
        return None if self.max_age_us is None else at_us - self.max_age_us


async def prune_old_runs(store: Store, broker: Broker, retention: Retention, at_us: int) -> None:
    """Delete the finished runs of every DAG that ended too long ago, as when a runtime is entered.

    Cancellation: once it has begun to wait, some may be deleted all the same.
    """
    before_us = retention.oldest_us(at_us)
    if before_us is None or store.is_read_only:
        return
    # What ended before a moment was created before it.
    candidates = await store.find_runs(RunQuery(until_us=before_us, limit=None))
    old = dict.fromkeys(
        run.dag_id
        for run in candidates
        if run.state in FINISHED_RUN_STATES and run.ended_at is not None and to_us(run.ended_at) < before_us
    )
    for dag_id in old:
        await broker.write(PruneRuns(dag_id=dag_id, keep=None, at_us=at_us, before_us=before_us))
