"""Children that put messages into an inbox, or empty it, until somebody kills them."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any

import anyio

from dagrelay import DAG, DagrelayError, Limits, SqliteStore
from dagrelay.stores.operations import Provide
from dagrelay.stores.sqlite.inbox import InboxFolder
from dagrelay.stores.sqlite.messages import ProvideMessage, encode_message
from tests.crash.workload import AckFile, make_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.stores.operations import Operation

__all__ = ("CountingStore", "empty_inbox", "make_waiting_dag", "post_values", "value_of")


def make_waiting_dag(count: int) -> DAG:
    """Return a DAG of tasks that all wait for a value from outside."""
    dag = DAG("waiting")
    for number in range(count):
        dag.external(f"t{number}")
    return dag


def value_of(run_id: str, number: int) -> str:
    """Return the value for a task."""
    return f"{run_id}:{number}:{'é' * (number % 50)}"


def post_values(*, store: str, run_id: str, first: int, last: int, acks: str) -> int:
    """Send the values of tasks `first` to `last`, and note each before it is sent and once it is accepted."""
    folder, notes, limits = InboxFolder(store), AckFile(acks), Limits()
    for number in range(first, last):
        message_id = secrets.token_hex(16)
        data = encode_message(ProvideMessage(run_id=run_id, task_id=f"t{number}", value=value_of(run_id, number)), limits)
        notes.write("sent", message_id, run_id, number)
        folder.post(data, message_id=message_id, sent_ns=time.time_ns())
        notes.write("accepted", message_id, run_id, number)
    return 0


class CountingStore(SqliteStore):
    """A store that notes, outside itself, what became of each message it was asked to carry out."""

    def __init__(self, path: str, log: str) -> None:
        """Take where both are."""
        super().__init__(path)
        self._log = AckFile(log)

    async def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply, then note."""
        results = await super().apply(batch)
        for operation, result in zip(batch, results, strict=True):
            if isinstance(operation, Provide):
                told: Any = type(result).__name__ if isinstance(result, DagrelayError) else result
                self._log.write(operation.message_id, told)
        return results


def empty_inbox(*, store: str, backend: str, log: str) -> int:
    """Own a store, and carry out what is asked of it."""

    async def main() -> None:
        async with make_runtime(CountingStore(store, log), "strict"):
            await anyio.sleep_forever()

    anyio.run(main, backend=backend)
    return 0
