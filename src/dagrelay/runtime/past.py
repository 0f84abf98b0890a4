"""The runtime's face of the past: what the store remembers, for those who look back."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from dagrelay.errors import RunStateError, StoreBackupError
from dagrelay.ids import check_dag_id, check_run_id
from dagrelay.model.records import to_us
from dagrelay.model.states import RunState
from dagrelay.runtime.history import Timeline, run_record, task_records, unknown_run
from dagrelay.runtime.lineage import lineage_of
from dagrelay.runtime.task_statistics import statistics_of
from dagrelay.stores.base import RunQuery, SupportsBackup
from dagrelay.stores.operations import DeleteRun

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from datetime import datetime

    from dagrelay.model.events import Event
    from dagrelay.model.records import AttemptReads, Run, TaskInstance, TaskStatistics
    from dagrelay.model.states import TaskState
    from dagrelay.runtime.opened import Opened

__all__ = ("RuntimeHistory",)


class RuntimeHistory(ABC):
    """Looks back on runs, and deletes them; see `Runtime`."""

    @abstractmethod
    def _opened(self) -> Opened:
        """Return what there is while the runtime is entered; raise where it may not be used."""

    async def get_run(self, run_id: str) -> Run:
        """Return a run's record.

        Raises:
            RunNotFoundError: there is none, or it was pruned.

        Cancellation: nothing is left behind.
        """
        return await run_record(self._opened().services.store, run_id)

    async def runs(
        self,
        *,
        dag_id: str | None = None,
        state: RunState | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        tags: Iterable[str] = (),
        limit: int = 100,
        offset: int = 0,
    ) -> list[Run]:
        """Return runs, newest first; all conditions must hold.

        Args:
            dag_id: runs of this DAG.
            state: runs in this state.
            since: created at or after (aware).
            until: created before (aware).
            tags: having all of these tags.
            limit: at most so many.
            offset: leave out the first so many.

        Cancellation: nothing is left behind.
        """
        query = RunQuery(
            dag_id=None if dag_id is None else check_dag_id(dag_id),
            state=None if state is None else RunState(state),
            since_us=None if since is None else to_us(since),
            until_us=None if until is None else to_us(until),
            tags=tuple(tags),
            limit=limit,
            offset=offset,
        )
        return await self._opened().services.store.find_runs(query)

    async def task_instances(
        self, run_id: str, *, task_id: str | None = None, state: TaskState | None = None
    ) -> list[TaskInstance]:
        """Return a run's task instances in topological order, those never touched included.

        Raises:
            RunNotFoundError: there is no such run.

        Cancellation: nothing is left behind.
        """
        return await task_records(self._opened().services.store, run_id, task_id=task_id, state=state)

    def events(self, run_id: str) -> AsyncIterator[Event]:
        """Iterate over a run's timeline: what is stored, then, while it runs here, what is committed, until it ends.

        Raises:
            RunNotFoundError: there is no such run (at the first step).

        Cancellation: nothing is left behind; the iterator can go on.
        """
        services = self._opened().services
        return Timeline(services.store, services.broker, check_run_id(run_id))

    async def delete_run(self, run_id: str) -> None:
        """Delete a run with all it has; its id stays taken.

        Raises:
            RunStateError: it is running.
            RunNotFoundError: there is no such run.

        Cancellation: once the call has begun to wait, the run may be deleted all the same.
        """
        services = self._opened().services
        run_id = check_run_id(run_id)
        if self._opened().runs.live(run_id) is not None:
            raise RunStateError(run_id, RunState.RUNNING, "it can't be deleted; cancel it first")
        if not await services.broker.write(DeleteRun(run_id=run_id, at_us=services.environment.now_us())):
            raise await unknown_run(services.store, run_id)

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the store, as it is at one moment, to a new file, while runs go on; all that was acknowledged before is in it.

        The file has mode 0600, is synced, and gets its name when it is whole. It is a store like any other: what was running is
        interrupted there and can be resumed.

        Raises:
            StoreBackupError: there is such a file already, it can't be written, or the store is of a kind that can't be copied;
                nothing is left of it.

        Cancellation: nothing is left of it; if it comes too late the backup is there, whole.
        """
        store, target = self._opened().services.store, os.fspath(path)
        if not isinstance(store, SupportsBackup):
            raise StoreBackupError(store.name, target, "it keeps no file to copy; a SqliteStore does")
        await store.backup(target)

    async def lineage(self, run_id: str) -> list[AttemptReads]:
        """Return which attempts of a run have read which entries, in topological order.

        Told are the latest attempts of all instances, once they have ended, that have read anything: parameters, templates and
        config, what a mapped task is mapped over (under the task as a whole), and what handlers got by `pull`, `pull_outputs`,
        `pull_from_upstream`, `wait`, `previous` and `of_run`. A read of what was not there is none. What all elements of a mapped
        task have is one read.

        In a fork what was copied keeps the name of the run that it was copied from, as reader and as what is read.

        Raises:
            RunNotFoundError: there is no such run.
            StoreCorruptError: what is stored of it can't be understood.

        Cancellation: nothing is left behind.
        """
        return await lineage_of(self._opened().services.store, run_id)

    async def task_statistics(self, dag_id: str) -> list[TaskStatistics]:
        """Return how each task of a DAG has done, over all of its runs that the store still has.

        Each instance (of a mapped task, each element) is counted as it stands, with its latest attempt, in the run in which it
        was made: not again in forks. A task of which no attempt has started is left out.

        Cost: O(instances of all these runs), which are read whole.

        Cancellation: nothing is left behind.
        """
        return await statistics_of(self._opened().services.store, dag_id)
