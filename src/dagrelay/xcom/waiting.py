"""Who in a run waits for which value, so that a push or an end wakes them, and waits that nothing can end are found."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import anyio

from dagrelay.stores.operations import RETURN_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterator

    from dagrelay.model.records import InstanceKey

__all__ = ("Waiter", "Waiting")


class Waiter:
    """One who waits for a value of an instance.

    Args:
        waiting: the instance that waits.
        awaited: the instance whose value is wanted.
        key: under which key.
        let_go: has it go on without what it waits for; None where it can't.
    """

    def __init__(self, waiting: InstanceKey, awaited: InstanceKey, key: str, *, let_go: Callable[[], None] | None = None) -> None:
        """Start unwoken."""
        self.waiting = waiting
        self.awaited = awaited
        self.key = key
        self.let_go = let_go
        self.loop_task_id: int = anyio.get_current_task().id
        """The task of the loop that waits."""
        self.reason = ""
        """Why the value can't come, as a clause; empty while it can."""
        self._event = anyio.Event()

    def wake(self) -> None:
        """Have it look again: the value may be there, or can't come any more."""
        self._event.set()

    def rearm(self) -> None:
        """Forget what woke it, before it looks whether the value is there."""
        self._event = anyio.Event()

    @property
    def is_woken(self) -> bool:
        """Whether something happened since it was armed."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until something happens that it must look at.

        Cancellation: nothing is left behind.
        """
        await self._event.wait()


class Waiting:
    """The waiters of one run. A plain structure: whoever stores, ends or rests tells it within the same step of the loop."""

    def __init__(self) -> None:
        """Start with none."""
        self.on_rest: Callable[[Waiter], None] | None = None
        """Called with a waiter that has come to rest, as then perhaps nothing goes on any more."""
        self._by_instance: dict[InstanceKey, dict[Waiter, None]] = {}
        # Invariant: those here hold no slot, and have not been woken since. (test_waiting: at rest)
        self._still: dict[InstanceKey, dict[Waiter, None]] = {}
        # Invariant: those of them whose attempt can't go on by itself, as by a time limit.
        self._resting: dict[InstanceKey, dict[Waiter, None]] = {}
        # Invariant: those of them that can be let go.
        self._yielding: set[Waiter] = set()
        self._watched: dict[tuple[InstanceKey, str], Callable[[], None]] = {}
        self._being_given: Counter[InstanceKey] = Counter()

    def __bool__(self) -> bool:
        """Tell whether anybody waits."""
        return bool(self._by_instance or self._watched)

    def add(self, waiter: Waiter) -> None:
        """Wake a waiter from now on."""
        self._by_instance.setdefault(waiter.awaited, {})[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """Wake a waiter no more."""
        known = self._by_instance.get(waiter.awaited, {})
        known.pop(waiter, None)
        if not known:
            self._by_instance.pop(waiter.awaited, None)

    def watch(self, instance: InstanceKey, key: str, on_stored: Callable[[], None]) -> None:
        """Call `on_stored` whenever a value is stored under an instance's key, until `unwatch`."""
        self._watched[instance, key] = on_stored

    def unwatch(self, instance: InstanceKey, key: str) -> None:
        """End what `watch` began."""
        self._watched.pop((instance, key), None)

    @contextmanager
    def giving(self, instance: InstanceKey) -> Generator[None]:
        """Have it known, while a value is stored for an instance from outside, that one is on its way; who watches looks then."""
        self._being_given[instance] += 1
        try:
            yield
        finally:
            self._being_given[instance] -= 1
            if not self._being_given[instance]:
                del self._being_given[instance]
            on_stored = self._watched.get((instance, RETURN_VALUE))
            if on_stored is not None:
                on_stored()

    def is_being_given(self, instance: InstanceKey) -> bool:
        """Whether a value for an instance is on its way from outside."""
        return instance in self._being_given

    # ------------------------------------------------------------------------------------------------- happenings

    def stored(self, instance: InstanceKey, key: str) -> None:
        """Wake those who wait for a value that was stored and may be seen."""
        for waiter in self._by_instance.get(instance, ()):
            if waiter.key == key:
                self.wake(waiter)
        on_stored = self._watched.get((instance, key))
        if on_stored is not None:
            on_stored()

    def ended(self, instance: InstanceKey) -> None:
        """Wake those who wait for a value of an instance that has ended: it is there now, or will never be."""
        for waiter in self._by_instance.get(instance, ()):
            self.wake(waiter)

    def give_up(self, waiter: Waiter, reason: str) -> None:
        """Tell a waiter that its value can't come, and why, as a clause."""
        waiter.reason = reason
        self.wake(waiter)

    def wake(self, waiter: Waiter) -> None:
        """Have a waiter look again, which then is not at rest any more."""
        self.rise(waiter)
        waiter.wake()

    # -------------------------------------------------------------------------------------------------------- rest

    def rest(self, waiter: Waiter, *, may_go_on: bool = False) -> None:
        """Count a waiter that nothing but a wake of its own will wake.

        Args:
            waiter: the waiter.
            may_go_on: whether its attempt may go on all the same, as it has a time limit or does something beside. It is then no
                sign that nothing goes on, but others who wait for it can be let go.
        """
        self._still.setdefault(waiter.waiting, {})[waiter] = None
        if not may_go_on:
            self._resting.setdefault(waiter.waiting, {})[waiter] = None
        if waiter.let_go is not None:
            self._yielding.add(waiter)
        if self.on_rest is not None:
            self.on_rest(waiter)

    def rise(self, waiter: Waiter) -> None:
        """Count it no longer."""
        self._yielding.discard(waiter)
        for by_instance in (self._still, self._resting):
            known = by_instance.get(waiter.waiting, {})
            known.pop(waiter, None)
            if not known:
                by_instance.pop(waiter.waiting, None)

    @property
    def resting_count(self) -> int:
        """How many instances rest."""
        return len(self._resting)

    def resting(self) -> Iterator[Waiter]:
        """Iterate over the waiters at rest, one for each instance, those that came to rest first first."""
        return (next(iter(waiters)) for waiters in self._resting.values())

    @property
    def can_let_go(self) -> bool:
        """Whether anybody waits who could go on without what it waits for."""
        return bool(self._yielding)

    def waiters_of(self, instance: InstanceKey) -> Collection[Waiter]:
        """Return the waiters of one instance that stand still, with those that may go on by themselves."""
        return self._still.get(instance, ())

    def waiters_of_task(self, task_id: str) -> list[Waiter]:
        """Return the same of all elements of a mapped task. Cost: O(instances that stand still)."""
        return [each for instance, waiters in self._still.items() if instance.task_id == task_id for each in waiters]

    def is_resting(self, waiter: Waiter) -> bool:
        """Whether a waiter is at rest, and its attempt can't go on by itself."""
        return waiter in self._resting.get(waiter.waiting, ())
