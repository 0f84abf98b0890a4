"""What the tests of a store share: how it is made and opened, and short ways to ask it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import pytest

from dagrelay.errors import (
    DagrelayError,
)
from dagrelay.model.events import RunFinished, RunStarted, TaskStateChanged, XComDeleted, XComPushed
from dagrelay.model.records import ErrorRecord, InstanceKey
from dagrelay.stores.base import Lookup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from dagrelay.model.events import Event
    from dagrelay.stores.base import Store, StoredInstance
    from dagrelay.stores.operations import Operation

__all__ = ("ERROR", "StoreContract", "accept", "find", "instance_of", "refusal", "summary")

ERROR = ErrorRecord(type="ValueError", message="no \udc80 way", traceback="Traceback ...")


async def accept(store: Store, *batch: Operation) -> list[int]:
    """Apply a batch none of which may be refused, and return the counts."""
    counts: list[int] = []
    for result in await store.apply(batch):
        if isinstance(result, DagrelayError):
            raise result
        counts.append(result)
    return counts


async def refusal(store: Store, op: Operation) -> DagrelayError | None:
    """Apply one operation and return the error it was refused with."""
    (result,) = await store.apply([op])
    return result if isinstance(result, DagrelayError) else None


async def find(store: Store, instance: InstanceKey, key: str, slots: tuple[int, ...] | None = None) -> bytes | None:
    """Return the bytes of one value."""
    (found,) = await store.lookup([Lookup(instance=instance, key=key, slots=slots)])
    return None if found is None else found.value


async def instance_of(store: Store, instance: InstanceKey) -> StoredInstance | None:
    """Return one instance."""
    found = await store.instances(instance.run_id, task_id=instance.task_id)
    return next((each for each in found if each.instance == instance), None)


def summary(events: Sequence[Event]) -> list[tuple[int, str]]:
    """Return place and gist of each event."""
    gists: list[tuple[int, str]] = []
    for event in events:
        match event:
            case RunStarted():
                gist = "run started"
            case RunFinished():
                gist = f"run {event.state}"
            case TaskStateChanged():
                gist = f"{event.task_id} {event.state} {event.attempt}"
            case XComPushed():
                gist = f"{event.task_id} pushed {event.key}"
            case XComDeleted():
                gist = f"{event.task_id} lost {event.count}"
        gists.append((event.seq, gist))
    return gists


class StoreContract(ABC):
    """A store to be tested; each test gets a place of its own."""

    pytestmark: ClassVar[pytest.MarkDecorator] = pytest.mark.anyio

    @abstractmethod
    def make_store(self, place: Path) -> Store:
        """Return an unopened store whose data belong to `place`: called again, one that finds what an earlier one left there."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        """Give an open store."""
        store = self.make_store(tmp_path)
        await store.open(now_us=1_000_000)
        yield store
        await store.close()
