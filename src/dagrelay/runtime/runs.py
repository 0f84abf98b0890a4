"""The live runs of a runtime: started, joined, taken up again, awaited."""

from __future__ import annotations

from contextlib import nullcontext
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import anyio
import anyio.lowlevel

from dagrelay.cancellation import to_its_end
from dagrelay.dag.params import complete_params
from dagrelay.errors import DAGValidationError, RunStateError, RuntimeClosedError, StoreReadOnlyError, TaskNotFoundError
from dagrelay.ids import check_run_id
from dagrelay.model.states import FINISHED_RUN_STATES, RunState
from dagrelay.runtime.attempt import CARRIED
from dagrelay.runtime.forking import fork, run_again
from dagrelay.runtime.history import unknown_run
from dagrelay.runtime.launching import Launch, check_same_run, create, reopen
from dagrelay.runtime.leftovers import cancel_stored
from dagrelay.runtime.result import RunResult, conclude, result_of_image, result_of_scheduler

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from contextlib import AbstractAsyncContextManager

    from dagrelay.dag.definition import DAG
    from dagrelay.dag.plan import Plan
    from dagrelay.model.policies import Pool
    from dagrelay.runtime.scheduler import Scheduler
    from dagrelay.runtime.services import Services
    from dagrelay.runtime.supervision import Supervisor

__all__ = ("Runs",)


class Runs:
    """What runs in this runtime, and how it came to.

    Args:
        services: what the runs share.
        supervisor: what their schedulers are started in.
        grace_s: how long a cancelled caller waits for the record of its run's interruption.
    """

    def __init__(self, services: Services, supervisor: Supervisor, *, grace_s: float) -> None:
        """Start with none."""
        self._services = services
        self._supervisor = supervisor
        self._grace_s = grace_s
        self.lock: anyio.Lock = anyio.Lock()
        """Held while it is decided, by what is stored and what is live, what becomes of a run."""
        self._is_closing = False
        # Invariant: a run stands here from its record until its scheduler has ended. (test_run_ids: a run is joined)
        self._live: dict[str, Scheduler] = {}
        # Weakly, lest DAGs made for one run each pile up.
        self._dags: WeakValueDictionary[str, DAG] = WeakValueDictionary()

    def known_dag(self, dag_id: str) -> DAG | None:
        """Return the DAG of that id that was asked for last in this runtime, if the application still has it."""
        return self._dags.get(dag_id)

    def live(self, run_id: str) -> Scheduler | None:
        """Return what runs a run here."""
        return self._live.get(run_id)

    async def launch(self, dag: DAG, params: Mapping[str, Any] | None, run_id: str | None) -> Launch:
        """Start a new run, or find, join or resume the one that has the id.

        Cancellation: nothing is recorded; or the launch is made all the same, and the cancellation met at the next checkpoint.
        """
        self._check_accepting()
        await anyio.lowlevel.checkpoint_if_cancelled()
        services = self._services
        plan = self._plan(dag)
        given = complete_params(plan, params or {})
        if run_id is None:
            fresh = services.environment.new_run_id()
            return await self._record(create(services, plan, given, run_id=fresh, is_new=True))
        run_id = check_run_id(run_id)
        async with self.lock:  # Two calls with one id must not both find nothing.
            live = self._live.get(run_id)  # Looked up first: it may end while the store is read, and is ended by that record too.
            stored = await services.store.find_run(run_id)
            if stored is None:
                return await self._record(create(services, plan, given, run_id=run_id, is_new=False))
            check_same_run(stored, run_id, plan.dag_id, services.door.params(given))
            if live is not None:
                return Launch(run_id=run_id, plan=plan, scheduler=live, is_owner=False)
            if stored.run.state in FINISHED_RUN_STATES:
                return Launch(run_id=run_id, plan=plan, scheduler=None, is_owner=False)
            return await self._reopen(run_id, plan, None)

    async def take_up(self, run_id: str, dag: DAG, clear_from: str | None = None, *, message_id: str | None = None) -> Launch:
        """Go on with a stored run: a retry where `clear_from` names a task, else a resume.

        `message_id` names the message from another process that this carries out.

        Cancellation: as for `launch`.
        """
        self._check_accepting()
        plan = self._plan(dag)
        if clear_from is not None and clear_from not in plan.index:
            raise TaskNotFoundError(plan.dag_id, clear_from, get_close_matches(clear_from, plan.task_ids))
        run_id = check_run_id(run_id)
        async with self.lock:
            live = self._live.get(run_id)
            if live is not None:
                if clear_from is not None:
                    raise RunStateError(run_id, RunState.RUNNING, "its tasks can't be retried now; cancel it first, or wait")
                return Launch(run_id=run_id, plan=plan, scheduler=live, is_owner=False)
            found = await self._services.store.find_run(run_id)
            if found is None or found.is_pruned:
                raise await unknown_run(self._services.store, run_id)
            stored = check_same_run(found, run_id, plan.dag_id, None)
            if clear_from is None and stored.run.state is RunState.SUCCESS:
                return Launch(run_id=run_id, plan=plan, scheduler=None, is_owner=False)
            if clear_from is None and stored.run.state is RunState.FAILED:
                raise RunStateError(run_id, RunState.FAILED, "use runtime.retry(run_id, task_id, dag) to go on with it")
            return await self._reopen(run_id, plan, clear_from, message_id)

    async def fork(self, run_id: str, dag: DAG, from_task: str, params: Mapping[str, Any], new_run_id: str | None) -> Launch:
        """Start a new run that begins with what a stored one has come to.

        Cancellation: as for `launch`.
        """
        self._check_accepting()
        await anyio.lowlevel.checkpoint_if_cancelled()
        services = self._services
        plan = self._plan(dag)
        again = run_again(plan, from_task)
        fresh = services.environment.new_run_id() if new_run_id is None else check_run_id(new_run_id)
        async with self.lock:
            image = await services.store.load_run(run_id)
            if image is None:
                raise await unknown_run(services.store, run_id)
            check_same_run(image.stored, run_id, plan.dag_id, None)
            forking = fork(services, plan, image, again, params, run_id=fresh, is_new=new_run_id is None)
            return await self._record(forking)

    def _plan(self, dag: DAG) -> Plan:
        limits = self._services.limits
        plan = dag.plan(limits=limits)
        problems = [
            _unknown_pool(task.task_id, task.pool, limits.pools)
            for task in plan.tasks
            if task.pool is not None and task.pool not in limits.pools
        ]
        if problems:
            raise DAGValidationError(plan.dag_id, problems)
        self._dags[plan.dag_id] = dag
        return plan

    async def _reopen(self, run_id: str, plan: Plan, clear_from: str | None, message_id: str | None = None) -> Launch:
        image = await self._services.store.load_run(run_id)
        if image is None:
            raise await unknown_run(self._services.store, run_id)
        return await self._record(reopen(self._services, plan, image, clear_from=clear_from, message_id=message_id))

    async def _record(self, recording: Coroutine[Any, Any, Scheduler]) -> Launch:
        """Have a run recorded whole; by halves it would stand there as running, with nobody running it."""
        launches: list[Launch] = []

        async def record() -> None:
            launches.append(self._enter(await recording))

        try:
            await to_its_end(record())
        except BaseException:
            # A native cancellation: whoever asked will not learn of the run, and nobody else would end it.
            for launch in launches:
                await self._interrupt(launch)  # noqa: ASYNC102 - it shields itself
            raise
        return launches.pop()

    async def _interrupt(self, launch: Launch) -> None:
        """Interrupt a run whose caller was cancelled, and wait a while for the record of that."""
        assert launch.scheduler is not None
        launch.scheduler.interrupt()
        with anyio.move_on_after(self._grace_s, shield=True):
            await launch.scheduler.ended.wait()

    def _check_accepting(self) -> None:
        if self._is_closing:
            raise RuntimeClosedError("it is being left and takes no new runs")
        if self._services.store.is_read_only:
            raise StoreReadOnlyError(self._services.store.name)

    def _enter(self, scheduler: Scheduler) -> Launch:
        run_id = scheduler.run_id
        self._live[run_id] = scheduler

        async def serve() -> None:
            try:
                await scheduler.run()
            finally:
                del self._live[run_id]

        self._supervisor.spawn(f"scheduler {run_id}", serve)
        if self._is_closing:
            scheduler.interrupt()
        return Launch(run_id=run_id, plan=scheduler.facts.data.plan, scheduler=scheduler, is_owner=True)

    async def finish(self, launch: Launch, *, raise_on_failure: bool) -> RunResult:
        """Wait for a run to end and return its result.

        Cancellation: whoever started the run interrupts it, and waits for the record of that for at most `grace_s`.
        """
        scheduler = launch.scheduler
        if scheduler is not None:
            async with _parked():
                try:
                    await scheduler.ended.wait()
                except BaseException:
                    if launch.is_owner:
                        await self._interrupt(launch)  # noqa: ASYNC102 - it shields itself
                    raise
        return await self.result(launch, raise_on_failure=raise_on_failure)

    async def result(self, launch: Launch, *, raise_on_failure: bool) -> RunResult:
        """Return the result of a run once it has ended, or raise what it ended with.

        Cancellation: only the waiting ends.
        """
        scheduler = launch.scheduler
        if scheduler is not None:
            if not scheduler.ended.is_set():
                async with _parked():
                    await scheduler.ended.wait()
            result = await result_of_scheduler(self._services, scheduler)
            return conclude(result, scheduler.failure, raise_on_failure=raise_on_failure)
        image = await self._services.store.load_run(launch.run_id)
        if image is None:
            raise await unknown_run(self._services.store, launch.run_id)
        return conclude(await result_of_image(self._services, launch.plan, image), None, raise_on_failure=raise_on_failure)

    async def cancel(self, run_id: str) -> None:
        """End a run as cancelled and wait until that is recorded; nothing happens if it has ended.

        Cancellation: the run is cancelled all the same.
        """
        services = self._services
        scheduler = self._live.get(run_id)
        if scheduler is not None:
            scheduler.cancel()
            await scheduler.ended.wait()
            if scheduler.state in FINISHED_RUN_STATES:
                return
            # It came to rest as interrupted before it heard of the cancellation, or couldn't record its end.
        async with self.lock:
            image = await services.store.load_run(run_id)
            if image is None:
                raise await unknown_run(services.store, run_id)
            if image.stored.run.state not in FINISHED_RUN_STATES:
                await to_its_end(cancel_stored(services, image))

    def stop(self) -> None:
        """Take no more runs and interrupt those there are."""
        self._is_closing = True
        for scheduler in list(self._live.values()):
            scheduler.interrupt()

    def pause(self) -> None:
        """Have the runs there are stop once what runs of them has ended."""
        for scheduler in list(self._live.values()):
            scheduler.pause()

    async def all_ended(self) -> None:
        """Return once no run is left.

        Cancellation: the runs go on.
        """
        while self._live:
            await next(iter(self._live.values())).ended.wait()


def _parked() -> AbstractAsyncContextManager[None]:
    """Give the slot back for as long as a handler waits for a run, as that one's tasks need slots too."""
    attempt = CARRIED.get()
    return nullcontext() if attempt is None else attempt.parked()


def _unknown_pool(task_id: str, pool: str, pools: Mapping[str, Pool]) -> str:
    near = get_close_matches(pool, pools)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    known = f"it has {', '.join(sorted(pools))}" if pools else "it has none"
    return (
        f"task {task_id!r} names the pool {pool!r}, which the runtime does not have{guess}; {known}. "
        f"Add it by Runtime(limits=Limits(pools={{{pool!r}: ...}}))"
    )
