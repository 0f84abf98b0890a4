"""What a message of the inbox does to the runs of a runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.cancellation import to_its_end
from dagrelay.dag.plan import OUTSIDE_KINDS
from dagrelay.errors import RunStateError, TaskNotFoundError
from dagrelay.model.states import RunState, TaskState
from dagrelay.runtime.history import unknown_run
from dagrelay.runtime.leftovers import forget_given, settle
from dagrelay.runtime.providing import provide
from dagrelay.stores.operations import NoteMessage, ReopenRun, SetRunState
from dagrelay.stores.plans import stored_leaders, stored_tasks

if TYPE_CHECKING:
    from dagrelay.runtime.runs import Runs
    from dagrelay.runtime.services import Services
    from dagrelay.stores.base import RunImage
    from dagrelay.stores.sqlite.messages import CancelMessage, ProvideMessage, RetryMessage

__all__ = ("Errands", "clear_stored")


class Errands:
    """Carries out messages; see InboxTarget.

    Args:
        services: what the runs share.
        runs: the live runs.
    """

    def __init__(self, services: Services, runs: Runs) -> None:
        """Take what the messages are about."""
        self._services = services
        self._runs = runs

    async def result(self, message_id: str) -> str | None:
        """Return what has become of a message."""
        return await self._services.store.message(message_id)

    async def note(self, message_id: str, result: str) -> None:
        """Record what has become of a message."""
        at_us = self._services.environment.now_us()
        await self._services.broker.write(NoteMessage(message_id=message_id, at_us=at_us, result=result))

    async def provide(self, message: ProvideMessage, message_id: str) -> None:
        """Give a task its value, as `Runtime.provide` does."""
        live = self._runs.live(message.run_id)
        plan = None if live is None else live.facts.data.plan
        await provide(self._services, message.run_id, message.task_id, message.value, plan=plan, message_id=message_id)

    async def cancel(self, message: CancelMessage) -> None:
        """End a run as cancelled, as `Runtime.cancel` does."""
        await self._runs.cancel(message.run_id)

    async def retry(self, message: RetryMessage, message_id: str) -> None:
        """Run a task and its downstream again, as `Runtime.retry` does, if the run's DAG was seen in this runtime.

        Without it the tasks are only cleared: the run is interrupted, and a resume with the DAG goes on with it.
        """
        services, runs, run_id = self._services, self._runs, message.run_id
        found = await services.store.find_run(run_id)
        dag = None if found is None else runs.known_dag(found.run.dag_id)
        if dag is not None:
            await runs.take_up(run_id, dag, message.task_id, message_id=message_id)
            return
        async with runs.lock:
            image = await services.store.load_run(run_id)
            if image is None:
                raise await unknown_run(services.store, run_id)
            if runs.live(run_id) is not None:
                raise RunStateError(run_id, RunState.RUNNING, "its tasks can't be retried now; cancel it first, or wait")
            await to_its_end(clear_stored(services, image, message.task_id, message_id))


async def clear_stored(services: Services, image: RunImage, task_id: str, message_id: str) -> None:
    """Clear a task of a run that nobody runs, and all downstream of it by the stored plan; the run is interrupted then.

    Cancellation: the run may be left running on record, and is found interrupted later.

    Raises:
        TaskNotFoundError: the run's plan has no such task.
        StoreCorruptError: the stored plan is none.
    """
    run, broker, now_us = image.stored.run, services.broker, services.environment.now_us
    again = _downstream(image, task_id, services.store.name)
    book = await broker.book(run.run_id)
    image = settle(services, book, image, TaskState.INTERRUPTED)
    if run.state is RunState.RUNNING:
        stop = SetRunState(run_id=run.run_id, state=RunState.INTERRUPTED, at_us=now_us(), seq=book.next_seq())
        await broker.write(stop, book)
    clear = tuple(
        each.instance for each in image.instances if each.instance.task_id in again or each.state is TaskState.CANCELLED
    )
    seq = book.next_seq(1 + len(clear))
    reopen = ReopenRun(run_id=run.run_id, plan=None, clear=clear, at_us=now_us(), seq=seq, message_id=message_id)
    outside = {name for name, kind, _ in stored_tasks(services.store.name, image) if kind in OUTSIDE_KINDS}
    forget = forget_given(book, image, clear, outside, at_us=now_us())
    rest = SetRunState(run_id=run.run_id, state=RunState.INTERRUPTED, at_us=now_us(), seq=book.next_seq())
    # In one transaction as a rule; between two, a crash leaves the run running on record, which the next owner finds interrupted.
    await broker.write(reopen, book, then=[*forget, rest])


def _downstream(image: RunImage, task_id: str, store: str) -> set[str]:
    """Return a task and all that is downstream of it or follows it, by the stored plan, which is in topological order."""
    run = image.stored.run
    tasks, leaders = stored_tasks(store, image), stored_leaders(store, image)
    if task_id not in {each for each, _, _ in tasks}:
        raise TaskNotFoundError(run.dag_id, task_id)
    again = {task_id}
    for each, _, upstream in tasks:
        if not again.isdisjoint((*upstream, *leaders.get(each, ()))):
            again.add(each)
    return again
