"""Signals while a run is under way: the first interrupts it in good order, the second ends the process at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from dagrelay.cli.output import tell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskStatus

__all__ = ("Interrupted", "until_signal")

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 - no error: somebody asked for it
    """A signal ended the work."""

    def __init__(self, number: signal.Signals) -> None:
        """Take the signal."""
        self.number = number
        super().__init__(number.name)


async def until_signal(work: Callable[[], Awaitable[T]]) -> T:
    """Return what `work` returns. A first SIGINT or SIGTERM cancels it; what it records then is given all the time it needs.

    A second signal ends the process at once, as a kill does, and what was committed stays.

    Raises:
        Interrupted: a signal ended it.
        BaseException: what `work` raised.
    """
    received: list[signal.Signals] = []
    outcome: list[T] = []
    failure: BaseException | None = None
    scope = anyio.CancelScope()

    async def watch(*, task_status: TaskStatus[None]) -> None:  # noqa: ASYNC114 - its one start stands below
        with anyio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                received.append(number)
                break
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        tell(f"{received[0].name}: interrupting the run; once more ends the process at once")
        scope.cancel()

    before = {each: signal.getsignal(each) for each in _SIGNALS}
    try:
        async with anyio.create_task_group() as group:
            await group.start(watch)
            with scope:
                try:
                    outcome.append(await work())
                except anyio.get_cancelled_exc_class():
                    raise
                except BaseException as error:  # noqa: BLE001 - raised below, lest the task group wrap it
                    failure = error
            group.cancel_scope.cancel()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)  # None stands for one that Python did not set.
    if failure is not None:
        raise failure
    if not outcome:
        raise Interrupted(received[0])
    return outcome[0]
