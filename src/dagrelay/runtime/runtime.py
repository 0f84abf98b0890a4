"""The runtime: opens a store, runs DAGs, and looks back."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import AsyncExitStack
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import attrs

from dagrelay.cancellation import to_its_end
from dagrelay.errors import ProcessForkedError, RuntimeClosedError
from dagrelay.ids import check_run_id, check_task_id
from dagrelay.model.policies import Durability, Limits, MissingPolicy
from dagrelay.model.states import RunState
from dagrelay.runtime.admission import Admission, AdmissionStatistics
from dagrelay.runtime.environment import Environment
from dagrelay.runtime.errands import Errands
from dagrelay.runtime.handle import RunHandle
from dagrelay.runtime.hosting import Hosting, HostingStatistics
from dagrelay.runtime.inbox import inbox_of
from dagrelay.runtime.opened import Opened
from dagrelay.runtime.past import RuntimeHistory
from dagrelay.runtime.providing import provide
from dagrelay.runtime.retention import Retention, prune_old_runs
from dagrelay.runtime.runs import Runs
from dagrelay.runtime.services import Services
from dagrelay.runtime.supervision import Supervisor
from dagrelay.runtime.timers import Timers
from dagrelay.serializers.base import SerializerRegistry
from dagrelay.serializers.json import JsonSerializer
from dagrelay.stores.base import RunQuery, StoreStatistics
from dagrelay.stores.memory import MemoryStore
from dagrelay.stores.sqlite.store import SqliteStore
from dagrelay.xcom.broker import Broker
from dagrelay.xcom.door import Door
from dagrelay.xcom.manager import XComManager

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType

    from dagrelay.dag.definition import DAG
    from dagrelay.dag.task import Task
    from dagrelay.runtime.attempt import Attempt
    from dagrelay.runtime.launching import Launch
    from dagrelay.runtime.result import RunResult
    from dagrelay.serializers.base import Serializer
    from dagrelay.stores.base import Store
    from dagrelay.xcom.broker_statistics import BrokerStatistics

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


class Runtime(RuntimeHistory):
    """Runs DAGs in this process and keeps what they hand on. An async context manager, used from the loop that entered it.

    Args:
        store: a path for a SQLite file, `":memory:"`, or a `Store`.
        serializer: the serializer of values that name no other; JSON by default.
        serializers: further ones, looked up by name.
        limits: bounds on values, templates and memory.
        missing: what a missing value does in a template.
        durability: when dependants start: after the commit, or on acceptance.
        max_concurrency: attempts that run at once, over all runs.
        max_runs_per_dag: finished runs to keep of each DAG; those that ended first are pruned beyond it.
        max_run_age_s: seconds after its end for which a finished run is kept; None for as long as there is room. It is looked at
            when the runtime is entered and, of the same DAG, when a run ends.
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
        max_run_age_s: float | None = None,
        on_exit: Literal["wait", "interrupt"] = "wait",
        grace_s: float = 5.0,
        environment: Environment | None = None,
    ) -> None:
        """Set up; nothing is opened, and no loop is needed, before `async with`."""
        if max_concurrency < 1 or max_runs_per_dag < 1:
            raise ValueError("max_concurrency and max_runs_per_dag must be at least 1")
        if max_run_age_s is not None and not 0 <= max_run_age_s < inf:
            raise ValueError(f"max_run_age_s must be a finite number of seconds >= 0, or None, not {max_run_age_s!r}")
        if on_exit not in {"wait", "interrupt"}:
            raise ValueError(f"on_exit must be 'wait' or 'interrupt', not {on_exit!r}")
        self._store = _as_store(store)
        self._limits = limits or Limits()
        self._registry = SerializerRegistry(serializer or JsonSerializer(max_depth=self._limits.max_depth), serializers)
        self._missing = MissingPolicy(missing)
        self._durability = Durability(durability)
        self._max_concurrency = max_concurrency
        age_us = None if max_run_age_s is None else round(max_run_age_s * 1_000_000)
        self._retention = Retention(max_runs_per_dag=max_runs_per_dag, max_age_us=age_us)
        self._on_exit = on_exit
        self._grace_s = grace_s
        self._environment = environment or Environment()
        self._open: Opened | None = None
        self._pid = 0
        self._thread_id = 0

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
        self._pid, self._thread_id = os.getpid(), threading.get_ident()
        await self._store.open(now_us=self._environment.now_us())
        services = self._make_services()
        task_group = anyio.create_task_group()
        await task_group.__aenter__()
        supervisor = Supervisor(services)
        supervisor.start(task_group)
        runs = Runs(services, supervisor, grace_s=self._grace_s)
        self._open = Opened(
            services=services,
            manager=XComManager(self._store, services.broker, services.door, limits=self._limits),
            runs=runs,
            supervisor=supervisor,
            task_group=task_group,
        )
        inbox = inbox_of(self._store, Errands(services, runs), spawn=supervisor.spawn, limits=self._limits)
        try:
            await prune_old_runs(services.store, services.broker, services.retention, self._environment.now_us())
            if inbox is not None:
                await supervisor.serve_inbox(inbox)
        except BaseException:
            await self.__aexit__(*sys.exc_info())  # noqa: ASYNC102 - each step shields itself where it must
            raise
        return self

    def _make_services(self) -> Services:
        broker = Broker(self._store, self._limits)
        timers = Timers()
        admission: Admission[Attempt] = Admission(self._max_concurrency, self._limits.pools)
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
            retention=self._retention,
        )

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Await or interrupt the runs, write what was accepted, close the store.

        Cancellation: the runs are interrupted, and the rest goes on.
        """
        opened = self._opened()
        async with AsyncExitStack() as stack:  # noqa: ASYNC102 - each callback shields itself where it must
            # Run in reverse, each whatever became of those before it. The group's end is apart from the shield of the rest, as a
            # shield around it corrupts scopes; by then nothing runs in it.
            stack.push_async_callback(opened.task_group.__aexit__, None, None, None)
            stack.callback(setattr, self, "_open", None)
            stack.push_async_callback(self._store.close)
            stack.push_async_callback(to_its_end, self._stop(opened))
            if exc is None and self._on_exit == "wait":
                await opened.runs.all_ended()  # noqa: ASYNC102 - waits for the runs, cancellably

    @staticmethod
    async def _stop(opened: Opened) -> None:
        opened.runs.stop()
        await opened.runs.all_ended()
        await opened.supervisor.stop()

    def _opened(self) -> Opened:
        if self._pid and self._pid != os.getpid():
            raise ProcessForkedError(self._pid, os.getpid())
        if self._open is None:
            raise RuntimeClosedError
        if self._thread_id != threading.get_ident():
            # In another loop an answer would wake nobody: the caller would wait for ever.
            raise RuntimeClosedError(
                "the runtime was used outside the thread and event loop that entered it; from a worker thread of its own call "
                "anyio.from_thread.run(runtime.get_run, ...)"
            )
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
        runs = self._opened().runs
        return await runs.finish(await runs.launch(dag, params, run_id), raise_on_failure=raise_on_failure)

    async def start(self, dag: DAG, *, params: Mapping[str, Any] | None = None, run_id: str | None = None) -> RunHandle:
        """Start a run that the runtime owns, and return once it is recorded. Arguments and errors are those of `run`.

        Cancellation: nothing is recorded; or the handle is returned all the same, and the next checkpoint meets the cancellation.
        """
        return RunHandle(self, await self._opened().runs.launch(dag, params, run_id))

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
        runs = self._opened().runs
        return await runs.finish(await runs.take_up(run_id, dag), raise_on_failure=raise_on_failure)

    async def retry(self, run_id: str, task_id: str, dag: DAG, *, raise_on_failure: bool = True) -> RunResult:
        """Run a task and everything downstream of it again, succeeded ones too, and the run to its end.

        Attempt numbers go on; the retry budget starts anew. What the cleared attempts had pushed is no longer seen.

        Raises:
            RunStateError: the run is running.
            TaskNotFoundError: the DAG has no such task.
            RunError: as for `resume`.

        Cancellation: as for `run`.
        """
        runs = self._opened().runs
        return await runs.finish(await runs.take_up(run_id, dag, check_task_id(task_id)), raise_on_failure=raise_on_failure)

    async def fork(
        self,
        run_id: str,
        dag: DAG,
        *,
        from_task: Task[Any] | str,
        params: Mapping[str, Any] | None = None,
        new_run_id: str | None = None,
    ) -> RunHandle:
        """Start a new run that has what another one's tasks have come to, and runs one of them and all that follows it anew.

        Copied, with what it handed on, is whatever has ended, but for `from_task`, what is downstream of it or starts after it
        (`after_start`), and what was cancelled. A task that failed or was skipped is copied too, and a branch with what it chose.
        Everything else runs, with the handlers, templates and options of the DAG given. The other run is left as it is, in
        whatever state; the new one names it as `Run.forked_from`.

        What was given to a task from outside, and what it has appended to streams, is copied with the task only. If the process
        dies, the new run is there whole, and can be resumed, or not at all.

        Args:
            run_id: the run to begin with.
            dag: what to run, of the same DAG id; what it has changed of copied tasks takes no effect.
            from_task: the first task to run again.
            params: params that take the place of that run's, whose others apply as they are (those that the DAG no longer has are
                dropped). What is copied was made with the old ones and does not change.
            new_run_id: the id of the new run; a fresh one by default.

        Raises:
            RunNotFoundError: there is no such run, or it was pruned.
            RunIdConflictError: it is a run of another DAG, or the new id is taken.
            TaskNotFoundError: the DAG has no task `from_task`.
            DAGChangedError: a task that would be copied was rewired.
            DAGValidationError: the DAG, or the params, have problems; nothing was recorded.

        Cancellation: as for `start`.
        """
        runs = self._opened().runs
        task_id = check_task_id(from_task if isinstance(from_task, str) else from_task.id)
        return RunHandle(self, await runs.fork(check_run_id(run_id), dag, task_id, params or {}, new_run_id))

    async def recover(self, dags: Iterable[DAG]) -> list[RunHandle]:
        """Go on with all interrupted runs of these DAGs, oldest first, and return their handles; meant for after a crash.

        Raises:
            DAGChangedError: a run can't go on with its DAG; those before it were started.

        Cancellation: those started go on.
        """
        opened = self._opened()
        handles: list[RunHandle] = []
        for dag in dags:
            query = RunQuery(dag_id=dag.dag_id, state=RunState.INTERRUPTED, limit=None)
            interrupted = await opened.services.store.find_runs(query)
            handles += [RunHandle(self, await opened.runs.take_up(run.run_id, dag)) for run in reversed(interrupted)]
        return handles

    async def cancel(self, run_id: str) -> None:
        """End a run as cancelled and wait until that is recorded; nothing happens if it has ended already.

        Raises:
            RunNotFoundError: there is no such run.

        Cancellation: the run is cancelled all the same.
        """
        await self._opened().runs.cancel(check_run_id(run_id))

    async def provide(self, run_id: str, task_id: str, value: Any) -> None:
        """Give a value to a task made by `dag.external` or `dag.approval`; it is on disk when this returns.

        The run may be running, here or elsewhere, or at rest; the task may wait already, or have yet to start.

        Raises:
            RunNotFoundError: there is no such run.
            TaskNotFoundError: it has no such task.
            RunStateError: the task has a handler of its own.
            XComConflictError: the task has ended, or was given a value already.
            XComTypeError: the value is not of the task's type, as far as that is known here.
            XComSerializationError: it can't be stored exactly.

        Cancellation: once the call has begun to wait, the value may be stored all the same.
        """
        opened = self._opened()
        live = opened.runs.live(check_run_id(run_id))
        plan = None if live is None else live.facts.data.plan
        await provide(opened.services, run_id, task_id, value, plan=plan)

    def wind_down(self) -> None:
        """Start no further task in any run there is; once what runs has ended, each is recorded as interrupted, to be resumed.

        For whoever was asked to stop in good order, as by a signal. Whoever awaits such a run gets RunInterruptedError, or its
        result where nothing was left to start. Leaving the runtime, or a cancellation, still interrupts at once.
        """
        self._opened().runs.pause()

    async def result_of(self, launch: Launch, *, raise_on_failure: bool = True) -> RunResult:
        """Return the result of a run that `start` gave a handle for, once it has ended; `RunHandle.result` is the way to it.

        Cancellation: only the waiting ends; the run goes on.
        """
        return await self._opened().runs.result(launch, raise_on_failure=raise_on_failure)

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
