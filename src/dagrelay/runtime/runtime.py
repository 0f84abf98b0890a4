"""The runtime: opens a store, runs DAGs, and looks back."""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import attrs

from dagrelay.errors import NotUpstreamError, ProcessForkedError, RunStateError, RuntimeClosedError, StoreReadOnlyError
from dagrelay.ids import check_dag_id, check_run_id, check_task_id
from dagrelay.model.policies import Durability, Limits, MissingPolicy
from dagrelay.model.records import to_us
from dagrelay.model.states import FINISHED_RUN_STATES, RunState
from dagrelay.runtime.admission import Admission, AdmissionStatistics
from dagrelay.runtime.environment import Environment
from dagrelay.runtime.handle import RunHandle
from dagrelay.runtime.history import follow_events, run_record, task_records, unknown_run
from dagrelay.runtime.hosting import Hosting, HostingStatistics, Job
from dagrelay.runtime.launching import Launch, Services, check_same_run, create, reopen
from dagrelay.runtime.result import RunResult, conclude, result_of_image, result_of_scheduler
from dagrelay.runtime.supervision import Supervisor
from dagrelay.runtime.timers import Timers
from dagrelay.serializers.base import SerializerRegistry
from dagrelay.serializers.json import JsonSerializer
from dagrelay.stores.base import RunQuery, StoreStatistics
from dagrelay.stores.memory import MemoryStore
from dagrelay.stores.operations import DeleteRun, SetRunState
from dagrelay.stores.sqlite.store import SqliteStore
from dagrelay.xcom.broker import Broker, BrokerStatistics
from dagrelay.xcom.door import Door
from dagrelay.xcom.manager import XComManager

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from datetime import datetime
    from types import TracebackType

    from anyio.abc import TaskGroup

    from dagrelay.dag.definition import DAG
    from dagrelay.dag.plan import Plan
    from dagrelay.model.events import Event
    from dagrelay.model.records import Run, TaskInstance
    from dagrelay.model.states import TaskState
    from dagrelay.runtime.scheduler import Scheduler
    from dagrelay.serializers.base import Serializer
    from dagrelay.stores.base import Store

__all__ = ("Runtime", "RuntimeStatistics")


@attrs.frozen(kw_only=True)
class RuntimeStatistics:
    """What a runtime holds and has done."""

    broker: BrokerStatistics
    """The broker, its mailbox and the cache."""
    store: StoreStatistics
    """The store."""
    admission: AdmissionStatistics
    """Slots."""
    hosting: HostingStatistics
    """Hosts."""


@attrs.frozen(kw_only=True)
class _Opened:
    """What there is while the runtime is entered."""

    services: Services
    manager: XComManager
    supervisor: Supervisor
    task_group: TaskGroup
    launch_lock: anyio.Lock


class Runtime:
    """Runs DAGs in this process and keeps what they hand on. An async context manager, used from the loop that entered it.

    Args:
        store: a path for a SQLite file, `":memory:"`, or a `Store`.
        serializer: the serializer of values that name no other; JSON by default.
        serializers: further ones, looked up by name.
        limits: bounds on values, templates and memory.
        missing: what a missing value does in a template.
        durability: when dependants start: after the commit, or on acceptance.
        max_concurrency: attempts that run at once, over all runs.
        max_runs_per_dag: finished runs to keep of each DAG; the oldest are pruned beyond it.
        on_exit: leaving the runtime waits for its runs, or interrupts them. Leaving it by an exception always interrupts.
        grace_s: seconds after which a handler that goes on in spite of its cancellation is named in a warning.
        environment: clock and chance, for tests that replay them.
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        serializer: Serializer | None = None,
        serializers: Iterable[Serializer] = (),
        limits: Limits | None = None,
        missing: MissingPolicy = MissingPolicy.ERROR,
        durability: Durability = Durability.STRICT,
        max_concurrency: int = 128,
        max_runs_per_dag: int = 100,
        on_exit: Literal["wait", "interrupt"] = "wait",
        grace_s: float = 5.0,
        environment: Environment | None = None,
    ) -> None:
        """Set up; nothing is opened, and no loop is needed, before `async with`."""
        if max_concurrency < 1 or max_runs_per_dag < 1:
            raise ValueError("max_concurrency and max_runs_per_dag must be at least 1")
        if on_exit not in {"wait", "interrupt"}:
            raise ValueError(f"on_exit must be 'wait' or 'interrupt', not {on_exit!r}")
        self._store = _as_store(store)
        self._registry = SerializerRegistry(serializer or JsonSerializer(), serializers)
        self._limits = limits or Limits()
        self._missing = MissingPolicy(missing)
        self._durability = Durability(durability)
        self._max_concurrency = max_concurrency
        self._max_runs_per_dag = max_runs_per_dag
        self._on_exit = on_exit
        self._grace_s = grace_s
        self._environment = environment or Environment()
        self._open: _Opened | None = None
        self._pid = 0
        self._is_closing = False
        # Invariant: a run stands here from its record until its scheduler has ended. (test_lifecycle: live runs)
        self._live: dict[str, Scheduler] = {}

    # ---------------------------------------------------------------------------------------------- opening, closing

    async def __aenter__(self) -> Self:
        """Open the store and start the broker.

        Raises:
            StoreError: the store can't be opened; nothing is left open.
            RuntimeClosedError: it was entered before.

        Cancellation: nothing is left open.
        """
        if self._pid:
            raise RuntimeClosedError("a Runtime is entered once; make a new one")
        self._pid = os.getpid()
        await self._store.open(now_us=self._environment.now_us())
        services = self._make_services()
        task_group = anyio.create_task_group()
        await task_group.__aenter__()
        self._open = _Opened(
            services=services,
            manager=XComManager(self._store, services.broker, services.door),
            supervisor=Supervisor(services),
            task_group=task_group,
            launch_lock=anyio.Lock(),
        )
        self._open.supervisor.start(task_group)
        return self

    def _make_services(self) -> Services:
        broker = Broker(self._store, self._limits)
        timers = Timers()
        admission: Admission[Job] = Admission(self._max_concurrency)
        return Services(
            store=self._store,
            broker=broker,
            door=Door(self._registry, self._limits, self._environment.now_us),
            admission=admission,
            hosting=Hosting(admission, timers, grace_s=self._grace_s),
            timers=timers,
            threads=anyio.CapacityLimiter(self._max_concurrency),
            environment=self._environment,
            limits=self._limits,
            missing=self._missing,
            durability=self._durability,
            max_runs_per_dag=self._max_runs_per_dag,
        )

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Await or interrupt the runs, write what was accepted, close the store.

        Cancellation: the runs are interrupted, and the rest goes on.
        """
        opened = self._opened()
        try:
            if exc is None and self._on_exit == "wait":
                await self._runs_ended()
        finally:
            # Shielded apart from the group's end: a shield around that corrupts scopes.
            with anyio.CancelScope(shield=True):
                self._is_closing = True
                for scheduler in list(self._live.values()):
                    scheduler.interrupt()
                await self._runs_ended()
                await opened.supervisor.stop()
                await self._store.close()
            self._open = None
            await opened.task_group.__aexit__(None, None, None)

    async def _runs_ended(self) -> None:
        while self._live:
            await next(iter(self._live.values())).ended.wait()

    def _opened(self) -> _Opened:
        if self._pid and self._pid != os.getpid():
            raise ProcessForkedError(self._pid, os.getpid())
        if self._open is None:
            raise RuntimeClosedError
        return self._open

    @property
    def xcom(self) -> XComManager:
        """The values of all runs, from outside their tasks."""
        return self._opened().manager

    # ------------------------------------------------------------------------------------------------------- running

    async def run(
        self,
        dag: DAG,
        *,
        params: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        raise_on_failure: bool = True,
    ) -> RunResult:
        """Run a DAG to its end and return what came of it.

        The same `run_id` again means the same run: one that has ended gives its stored result (or its error), one running here is
        joined, an interrupted one is resumed.

        Args:
            dag: what to run.
            params: the run's params by name; they win over the DAG's.
            run_id: its id, unique in the store for ever; a fresh one by default.
            raise_on_failure: raise if the run failed; else return the result all the same.

        Raises:
            DAGValidationError: the DAG, or the params, have problems; nothing was recorded.
            RunFailedError: the run failed: a group of one TaskFailedError for each failed task.
            RunCancelledError: the run was cancelled by `cancel`.
            RunIdConflictError: the id belongs to another DAG, other params or a pruned run.
            StoreError: the store failed; the run can be resumed.

        Cancellation: the run is interrupted, that is recorded (for at most `grace_s` seconds), and it can be resumed; a call that
        joined a run only leaves it.
        """
        launch = await self._launch(dag, params, run_id)
        return await self._await_run(launch, raise_on_failure=raise_on_failure)

    async def start(self, dag: DAG, *, params: Mapping[str, Any] | None = None, run_id: str | None = None) -> RunHandle:
        """Start a run that the runtime owns, and return once it is recorded. Arguments and errors are those of `run`.

        Cancellation: the run may be recorded all the same, and is then found interrupted.
        """
        launch = await self._launch(dag, params, run_id)
        return RunHandle(self, launch.run_id, launch.plan, launch.scheduler)

    async def resume(self, run_id: str, dag: DAG, *, raise_on_failure: bool = True) -> RunResult:
        """Go on with an interrupted or cancelled run, to its end. One running here is joined; one that succeeded just returns.

        Finished tasks don't run again. New and unfinished tasks, edited handlers, templates and options apply.

        Raises:
            DAGChangedError: a finished task vanished or was rewired.
            RunStateError: the run failed; `retry` goes on with it.
            RunNotFoundError: there is no such run.
            RunError: as for `run`.

        Cancellation: as for `run`.
        """
        launch = await self._take_up(run_id, dag, None)
        return await self._await_run(launch, raise_on_failure=raise_on_failure)

    async def retry(self, run_id: str, task_id: str, dag: DAG, *, raise_on_failure: bool = True) -> RunResult:
        """Run a task and everything downstream of it again, succeeded ones too, and the run to its end.

        Attempt numbers go on; the retry budget starts anew. What the cleared attempts had pushed is no longer seen.

        Raises:
            RunStateError: the run is running.
            NotUpstreamError: the DAG has no such task.
            RunError: as for `resume`.

        Cancellation: as for `run`.
        """
        launch = await self._take_up(run_id, dag, check_task_id(task_id))
        return await self._await_run(launch, raise_on_failure=raise_on_failure)

    async def recover(self, dags: Iterable[DAG]) -> list[RunHandle]:
        """Go on with all interrupted runs of these DAGs, oldest first, and return their handles; meant for after a crash.

        Raises:
            DAGChangedError: a run can't go on with its DAG; those before it were started.

        Cancellation: those started go on.
        """
        store = self._opened().services.store
        handles: list[RunHandle] = []
        for dag in dags:
            query = RunQuery(dag_id=dag.dag_id, state=RunState.INTERRUPTED, limit=None)
            for run in reversed(await store.find_runs(query)):
                launch = await self._take_up(run.run_id, dag, None)
                handles.append(RunHandle(self, launch.run_id, launch.plan, launch.scheduler))
        return handles

    async def cancel(self, run_id: str) -> None:
        """End a run as cancelled and wait until that is recorded; nothing happens if it has ended already.

        Raises:
            RunNotFoundError: there is no such run.

        Cancellation: the run is cancelled all the same.
        """
        services = self._opened().services
        scheduler = self._live.get(check_run_id(run_id))
        if scheduler is not None:
            scheduler.cancel()
            await scheduler.ended.wait()
            return
        run = await run_record(services.store, run_id)
        if run.state not in FINISHED_RUN_STATES:
            book = await services.broker.book(run_id)
            at_us = services.environment.now_us()
            end = SetRunState(run_id=run_id, state=RunState.CANCELLED, at_us=at_us, seq=book.next_seq())
            await services.broker.write(end, book)

    # ----------------------------------------------------------------------------------------------------- launching

    async def _launch(self, dag: DAG, params: Mapping[str, Any] | None, run_id: str | None) -> Launch:
        opened = self._accepting()
        plan = dag.plan()
        given = dag.check_params(params or {})
        services = opened.services
        if run_id is None:
            fresh = services.environment.new_run_id()
            return self._enter(await create(services, plan, given, run_id=fresh, is_new=True))
        run_id = check_run_id(run_id)
        async with opened.launch_lock:  # Two calls with one id must not both find nothing.
            live = self._live.get(run_id)
            stored = await services.store.find_run(run_id)
            if stored is None:
                return self._enter(await create(services, plan, given, run_id=run_id, is_new=False))
            check_same_run(stored, run_id, plan.dag_id, services.door.params(given))
            if live is not None:
                return Launch(run_id=run_id, plan=plan, scheduler=live, is_owner=False)
            if stored.run.state in FINISHED_RUN_STATES:
                return Launch(run_id=run_id, plan=plan, scheduler=None, is_owner=False)
            return await self._reopen(run_id, plan, None)

    async def _take_up(self, run_id: str, dag: DAG, task_id: str | None) -> Launch:
        opened = self._accepting()
        plan = dag.plan()
        if task_id is not None and task_id not in plan.index:
            raise NotUpstreamError("retry", task_id, known=False, near=get_close_matches(task_id, plan.task_ids))
        run_id = check_run_id(run_id)
        async with opened.launch_lock:
            live = self._live.get(run_id)
            if live is not None:
                if task_id is not None:
                    raise RunStateError(run_id, RunState.RUNNING, "its tasks can't be retried now; cancel it first, or wait")
                return Launch(run_id=run_id, plan=plan, scheduler=live, is_owner=False)
            store = opened.services.store
            found = await store.find_run(run_id)
            if found is None:
                raise await unknown_run(store, run_id)
            stored = check_same_run(found, run_id, plan.dag_id, None)
            if task_id is None and stored.run.state is RunState.SUCCESS:
                return Launch(run_id=run_id, plan=plan, scheduler=None, is_owner=False)
            if task_id is None and stored.run.state is RunState.FAILED:
                raise RunStateError(run_id, RunState.FAILED, "use runtime.retry(run_id, task_id, dag) to go on with it")
            return await self._reopen(run_id, plan, task_id)

    async def _reopen(self, run_id: str, plan: Plan, clear_from: str | None) -> Launch:
        services = self._opened().services
        image = await services.store.load_run(run_id)
        if image is None:
            raise await unknown_run(services.store, run_id)
        return self._enter(await reopen(services, plan, image, clear_from=clear_from))

    def _accepting(self) -> _Opened:
        opened = self._opened()
        if self._is_closing:
            raise RuntimeClosedError("it is being left and takes no new runs")
        if opened.services.store.is_read_only:
            raise StoreReadOnlyError(opened.services.store.name)
        return opened

    def _enter(self, scheduler: Scheduler) -> Launch:
        run_id = scheduler.run_id
        self._live[run_id] = scheduler

        async def serve() -> None:
            try:
                await scheduler.run()
            finally:
                del self._live[run_id]

        self._opened().supervisor.spawn(f"scheduler {run_id}", serve)
        if self._is_closing:
            scheduler.interrupt()
        return Launch(run_id=run_id, plan=scheduler.facts.data.plan, scheduler=scheduler, is_owner=True)

    async def _await_run(self, launch: Launch, *, raise_on_failure: bool) -> RunResult:
        scheduler = launch.scheduler
        if scheduler is not None:
            try:
                await scheduler.ended.wait()
            except BaseException:
                if launch.is_owner:
                    scheduler.interrupt()
                    with anyio.move_on_after(self._grace_s, shield=True):
                        await scheduler.ended.wait()
                raise
        return await self.result_of(launch.run_id, launch.plan, scheduler, raise_on_failure=raise_on_failure)

    async def result_of(self, run_id: str, plan: Plan, scheduler: Scheduler | None, *, raise_on_failure: bool) -> RunResult:
        """Return the result of a run that has ended, or raise its error; what handles and `run` share."""
        services = self._opened().services
        if scheduler is not None:
            await scheduler.ended.wait()
            return conclude(await result_of_scheduler(services, scheduler), scheduler.failure, raise_on_failure=raise_on_failure)
        image = await services.store.load_run(run_id)
        if image is None:
            raise await unknown_run(services.store, run_id)
        return conclude(await result_of_image(services, plan, image), None, raise_on_failure=raise_on_failure)

    # ------------------------------------------------------------------------------------------------------- history

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

        Cancellation: nothing is left behind.
        """
        services = self._opened().services
        return follow_events(services.store, services.broker, check_run_id(run_id))

    async def delete_run(self, run_id: str) -> None:
        """Delete a run with all it has; its id stays taken.

        Raises:
            RunStateError: it is running.
            RunNotFoundError: there is no such run.

        Cancellation: once the call has begun to wait, the run may be deleted all the same.
        """
        services = self._opened().services
        run_id = check_run_id(run_id)
        if run_id in self._live:
            raise RunStateError(run_id, RunState.RUNNING, "it can't be deleted; cancel it first")
        if not await services.broker.write(DeleteRun(run_id=run_id, at_us=services.environment.now_us())):
            raise await unknown_run(services.store, run_id)

    def statistics(self) -> RuntimeStatistics:
        """Return what the runtime holds and has done."""
        services = self._opened().services
        return RuntimeStatistics(
            broker=services.broker.statistics(),
            store=services.store.statistics(),
            admission=services.admission.statistics(),
            hosting=services.hosting.statistics(),
        )


def _as_store(store: Store | str | os.PathLike[str]) -> Store:
    if isinstance(store, (str, os.PathLike)):
        return MemoryStore() if store == ":memory:" else SqliteStore(store)
    return store
