"""What handlers of tests report to, and wait at."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from dagrelay import DAG, RetryPolicy, TaskStateChanged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagrelay import RunResult, Runtime, TaskState

__all__ = ("AT_ONCE", "PATIENCE_S", "Probe", "agree", "chain_of", "reached", "retried", "time_is_up")

PATIENCE_S = 10
"""How long a test waits for what should come at once; a machine under load is slow now and then."""


AT_ONCE = RetryPolicy(2, delay_s=0)
"""One retry, without a wait."""


def retried(times: int) -> RetryPolicy:
    """Return a policy of so many retries without a wait."""
    return RetryPolicy(times + 1, delay_s=0)


class Probe:
    """Notes what handlers do, and holds them until a test lets them go on. Made inside the event loop."""

    def __init__(self) -> None:
        """Start with nothing noted and every door shut."""
        self.notes: list[Any] = []
        self._doors: dict[str, anyio.Event] = {}

    def note(self, what: Any) -> None:
        """Note something."""
        self.notes.append(what)

    @property
    def counts(self) -> Counter[Any]:
        """How often each thing was noted."""
        return Counter(self.notes)

    def door(self, name: str) -> anyio.Event:
        """Return the event of a name."""
        return self._doors.setdefault(name, anyio.Event())

    def open(self, name: str) -> None:
        """Let whoever waits at a door go on."""
        self.door(name).set()

    def shut(self, name: str) -> None:
        """Shut a door again, for who comes next."""
        self._doors.pop(name, None)

    async def reach(self, name: str) -> None:
        """Wait, for a bounded time, until a door is opened."""
        with anyio.fail_after(PATIENCE_S):
            await self.door(name).wait()

    async def hold(self, name: str) -> None:
        """Tell that a handler has got to `name`, and wait until `name:go` is opened."""
        self.open(name)
        await self.door(f"{name}:go").wait()

    def let_go(self, name: str) -> None:
        """Let the handler held at `name` go on."""
        self.open(f"{name}:go")


def chain_of(probe: Probe, *task_ids: str, held: str = "", dag_id: str = "chain") -> DAG:
    """Return a DAG of tasks one after another, each of which notes its id and returns it after what came before."""
    dag = DAG(dag_id)
    previous: Any = None
    for task_id in task_ids:
        handler = _step(probe, task_id, is_held=task_id == held)
        bind = {"before": "" if previous is None else previous.output}
        previous = dag.add(handler, id=task_id, bind=bind)
    return dag


def _step(probe: Probe, task_id: str, *, is_held: bool) -> Callable[[str], Awaitable[str]]:
    async def step(before: str) -> str:
        probe.note(task_id)
        await anyio.lowlevel.checkpoint()
        if is_held:
            await probe.hold(task_id)
        return before + task_id

    return step


async def reached(runtime: Runtime, state: TaskState, *task_ids: str, run_id: str = "r") -> None:
    """Return once each of these tasks of a run is on record as having come into a state."""
    waited = set(task_ids)
    with anyio.fail_after(PATIENCE_S):
        async for event in runtime.events(run_id):
            if isinstance(event, TaskStateChanged) and event.state is state:
                waited.discard(event.task_id)
            if not waited:
                return
    raise AssertionError(f"the run ended without {sorted(waited)} being {state}")


async def agree(runtime: Runtime, result: RunResult) -> None:
    """Check that a result and the store tell the same of a run and its tasks."""
    run = await runtime.get_run(result.run_id)
    assert (run.state, run.ended_at, dict(run.params)) == (result.state, result.ended_at, dict(result.params))
    assert list(result.tasks.values()) == await runtime.task_instances(result.run_id)


def time_is_up(runtime: Runtime) -> None:
    """Let every timeout and retry of a runtime be due now, so that a test need not wait for a clock."""
    for _, _, timer in list(runtime._opened().services.timers._heap):  # pyright: ignore[reportPrivateUsage] - see above
        timer.action()
