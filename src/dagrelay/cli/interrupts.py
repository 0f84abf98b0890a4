"""Signals while a run is under way: the first lets what runs finish, the second interrupts that, the third ends the process."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from dagrelay.cli.output import tell
from dagrelay.errors import RunInterruptedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

__all__ = ("Interrupted", "Stop", "until_signal")

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal ended the work."""

    def __init__(self, number: signal.Signals) -> None:
        """Take the signal."""
        self.number = number
        super().__init__(number.name)


class Stop:
    """How work under way is asked to come to an end in good order; until it has said how, it is cancelled."""

    def __init__(self) -> None:
        """Know of no way yet."""
        self.gently: Callable[[], None] | None = None


async def until_signal(work: Callable[[Stop], Awaitable[T]]) -> T:
    """Return what `work` returns. SIGINT and SIGTERM end it early.

    The first has it come to an end in good order, by the way it has put into its Stop; the second cancels it, and what it records
    then is given all the time it needs; the third ends the process at once, as a kill does, and what was committed stays.

    Raises:
        Interrupted: a signal ended it.
        BaseException: what `work` raised.
    """
    received: list[signal.Signals] = []
    outcome: list[T] = []
    failure: BaseException | None = None
    scope, stop = anyio.CancelScope(), Stop()

    async def watch(*, task_status: TaskStatus[None]) -> None:  # noqa: ASYNC114 - its one start stands below
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                received.append(number)
                gently, stop.gently = stop.gently, None
                if gently is None:
                    break
                tell(f"{number.name}: tasks that run may finish; once more interrupts them")
                gently()
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        tell(f"{received[-1].name}: interrupting the run; once more ends the process at once")
        scope.cancel()

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    try:
        async with anyio.create_task_group() as group:
            await group.start(watch)
            with scope:
                try:
                    outcome.append(await work(stop))
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001 - raised below, lest the task group wrap it
                    failure = error
            group.cancel_scope.cancel()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)  # None stands for one that Python did not set.
    if isinstance(failure, RunInterruptedError) and received:
        raise Interrupted(received[0])
    if failure is not None:
        raise failure
    if not outcome:
        raise Interrupted(received[0])
    return outcome[0]
