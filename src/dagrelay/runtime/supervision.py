"""The actors that serve all runs of a runtime, started together and ended in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from dagrelay.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import TaskGroup

    from dagrelay.runtime.inbox import Inbox
    from dagrelay.runtime.services import Services

__all__ = ("Supervisor",)


class Supervisor:
    """Starts broker, reader, timers and hosts, and ends them so that nothing accepted is lost.

    None of them raises into the host application: each fails those who wait for it, and its death is logged.
    """

    def __init__(self, services: Services) -> None:
        """Take what to supervise."""
        self._services = services
        self._ended: dict[str, anyio.Event] = {}
        self._task_group: TaskGroup | None = None
        self._inbox: Inbox | None = None

    def start(self, task_group: TaskGroup) -> None:
        """Start them in a task group."""
        self._task_group = task_group
        services = self._services
        self._spawn("broker", services.broker.run)
        self._spawn("reader", services.broker.reader.run)
        self._spawn("timers", services.timers.run)
        services.hosting.open(task_group)

    async def serve_inbox(self, inbox: Inbox) -> None:
        """Have carried out what other processes have asked for so far, and start to look for what they will.

        Cancellation: what is left stays in the inbox.
        """
        await inbox.catch_up()
        self._inbox = inbox
        self._spawn("inbox", inbox.run)

    def spawn(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Start one more actor, of a run."""
        assert self._task_group is not None
        self._task_group.start_soon(self._serve, name, run, name=name)

    def _spawn(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._ended[name] = anyio.Event()
        self.spawn(name, run)

    async def _serve(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        try:
            await run()
        except Exception:  # noqa: BLE001 - told to those who wait for it; the application must live on
            get_logger().exception("actor.died", actor=name)
        finally:
            if name in self._ended:
                self._ended[name].set()

    async def stop(self) -> None:
        """End them once no run is left: the inbox, hosts and timers, the broker after its last commit, then the reader."""
        services = self._services
        if self._inbox is not None:
            self._inbox.close()
            await self._ended["inbox"].wait()
        services.hosting.close()
        services.timers.close()
        services.broker.close()
        await self._ended["broker"].wait()
        services.broker.reader.close()
        await self._ended["reader"].wait()
        await self._ended["timers"].wait()
