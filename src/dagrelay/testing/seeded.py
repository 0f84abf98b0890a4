"""Event loops in which time is virtual and a seed decides who runs first: asyncio by a loop of our own, trio by its own means."""

from __future__ import annotations

import asyncio
import selectors
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar, cast

import anyio

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Awaitable, Callable, Coroutine, Generator

__all__ = ("BACKENDS", "Backend", "SeededLoop", "run_seeded")

T = TypeVar("T")
Backend: TypeAlias = Literal["asyncio", "trio"]
"""The event loops that can be seeded."""
BACKENDS: Final[tuple[Backend, ...]] = ("asyncio", "trio")
_PATIENCE_S: Final = 3_600.0
"""Virtual seconds after which what was cancelled for taking too long is no longer shielded."""


class _Task(asyncio.Task[Any]):
    """A task with a number of its own: sets of tasks are ordered by addresses, which no seed repeats."""

    number: int = 0


class _NoWaiting(selectors.SelectSelector):
    """Instead of waiting for files, moves the loop's clock on; instead of first come, first served, lets the seed decide."""

    def __init__(self, loop: SeededLoop) -> None:
        super().__init__()
        self._seeded = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._seeded.turn(timeout)
        return []


class SeededLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop that a seed replays: ready callbacks are shuffled, and time passes only when nothing else can.

    There are no files, sockets or threads to wait for. Tasks are never eager.

    Args:
        random: decides who runs first.
    """

    def __init__(self, random: Random) -> None:
        """Start at time 0."""
        self._random = random
        self._now = 0.0
        super().__init__(_NoWaiting(self))
        self._clock_resolution = 1e-6  # A wait of what is left of a rounding error would never end.
        numbers = count(1)

        def make(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> _Task:
            task = _Task(coroutine, loop=loop, **options)
            task.number = next(numbers)
            return task

        self.set_task_factory(cast("Any", make))  # Its declared type differs between versions of Python.

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def turn(self, timeout: float | None) -> None:
        """Take what asyncio is about to run next: move the clock to it, or shuffle it.

        Raises:
            RuntimeError: nothing is left that could happen.
        """
        if timeout is None:
            raise RuntimeError("a simulation waits for what can't come: nothing is ready, and no time is waited for")
        self._now += timeout
        # The queue is BaseEventLoop's own affair, though as it is now since Python 3.4.
        ready: deque[Any] = vars(self)["_ready"]
        if len(ready) > 1:
            handles: list[Any] = sorted(ready, key=_task_number)
            self._random.shuffle(handles)
            ready.clear()
            ready.extend(handles)


def _task_number(handle: Any) -> int:
    # What runs a task has it as `__self__`; asyncio's own debug output reads the same.
    task = getattr(handle._callback, "__self__", None)  # noqa: SLF001 - see above
    return task.number if isinstance(task, _Task) else 0


def run_seeded(main: Callable[[], Awaitable[T]], seed: int, *, backend: Backend, limit_s: float) -> T:
    """Run a program from virtual time 0, in an order that depends on the seed alone, and return its result.

    Args:
        main: the program.
        seed: decides who runs first.
        backend: the event loop.
        limit_s: virtual seconds after which the program is cancelled; an hour later whatever shields itself is, too.

    Raises:
        TimeoutError: it took too long, or waited for what never came.
    """
    random = Random(f"{seed} order")  # noqa: S311 - repeatable on purpose

    async def bounded() -> T:
        _watch(backend, limit_s + _PATIENCE_S)
        with anyio.fail_after(limit_s):
            return await main()

    if backend == "asyncio":
        try:
            return anyio.run(bounded, backend="asyncio", backend_options={"loop_factory": lambda: SeededLoop(random)})
        except asyncio.CancelledError as error:
            raise TimeoutError("it took too long, and shielded itself from being told") from error  # noqa: ASYNC104 - the loop is over
    import trio.testing  # noqa: PLC0415 - an optional extra

    with _deterministic_trio(random):
        return anyio.run(bounded, backend="trio", backend_options={"clock": trio.testing.MockClock(autojump_threshold=0)})


@contextmanager
def _deterministic_trio(random: Random) -> Generator[None]:
    """Have trio order each batch of tasks by their age, and shuffle it by our source of chance.

    The switch and the source are private to trio, but have been there since 2019: Hypothesis's plug-in for trio uses them.
    """
    import trio._core._run as run  # noqa: PLC0415 - an optional extra

    private = run.__dict__  # As the switch is declared final.
    before = private["_ALLOW_DETERMINISTIC_SCHEDULING"], private["_r"]
    private["_ALLOW_DETERMINISTIC_SCHEDULING"], private["_r"] = True, random
    try:
        yield
    finally:
        private["_ALLOW_DETERMINISTIC_SCHEDULING"], private["_r"] = before


def _watch(backend: Backend, seconds: float) -> None:
    """Break, after a while, what shields itself and does not end, so that a hang is an error."""
    if backend == "asyncio":
        asyncio.get_running_loop().call_later(seconds, _cancel_all)
        return
    import trio  # noqa: PLC0415 - an optional extra

    main = trio.lowlevel.current_task()

    async def watch() -> None:
        await trio.sleep(seconds)
        _break_shields(main)

    trio.lowlevel.spawn_system_task(watch)


def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel("it took too long")


def _break_shields(main: Any) -> None:
    """Let the cancellation of the main task's scopes into every shielded one below it."""
    pending: list[Any] = [main]
    while pending:
        task = pending.pop()
        status = task._cancel_status  # noqa: SLF001 - trio shows a task's scopes to nobody
        while status is not None:
            status._scope.shield = False  # noqa: SLF001 - as above
            status = status._parent  # noqa: SLF001 - as above
        for nursery in task.child_nurseries:
            pending.extend(nursery.child_tasks)
