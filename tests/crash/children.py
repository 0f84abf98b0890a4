"""What children of the nursery do: each function is a job, its facts come as JSON, and what it returns is the exit code."""

from __future__ import annotations

import ctypes
import json
import sys
import threading
from pathlib import Path
from typing import Any, Final

import anyio

from dagrelay import DagrelayError, SqliteStore
from dagrelay.stores.sqlite import store as sqlite_store
from tests.crash.workload import AckFile, carry, make_dag, make_runtime

__all__ = ("FAILED", "work")

FAILED: Final = 3
"""The exit code of a child whose work ended in an error that it has told."""


def _causes(error: BaseException | None) -> list[str]:
    """Return the classes of what is not ours in the chain of an error's causes."""
    names: list[str] = []
    while error is not None and len(names) < 20:
        if not isinstance(error, DagrelayError):
            names.append(type(error).__name__)
        error = error.__cause__
    return names


def _threads_that_stay() -> list[str]:
    """Return the threads that would keep the process from ending."""
    others = [each for each in threading.enumerate() if not each.daemon and each is not threading.current_thread()]
    for each in others:
        each.join(2)
    return [each.name for each in others if each.is_alive()]


def _tell(path: str, **facts: Any) -> None:
    Path(path).write_text(json.dumps(facts))


def work(
    *,
    store: str,
    backend: str,
    durability: str,
    runs: list[str],
    synchronous: Any = "FULL",
    log: str | None = None,
    wal_bytes: int | None = None,
    fault: list[int] | None = None,
    outcome: str | None = None,
) -> int:
    """Carry runs to their end, a session for each; with `log` or `fault` under the eyes of the shim."""
    acks = AckFile(f"{store}.acks")
    shim: Any = ctypes.CDLL(None)
    if log is not None or fault is not None:
        shim.shim_watch(store.encode(), (log or "").encode())
        acks = AckFile(f"{store}.acks")  # Opened again, under its eyes.
    if fault is not None:
        shim.shim_fail(fault[0], ctypes.c_long(fault[1]), fault[2], fault[3])
    if wal_bytes is not None:
        setattr(sqlite_store, "_WAL_BYTES", wal_bytes)  # noqa: B010 - type checkers hold it for a constant
    error: BaseException | None = None
    for run_id in runs:
        try:
            anyio.run(_session, store, durability, run_id, synchronous, acks, backend=backend)
        except Exception as caught:  # noqa: BLE001 - it is told to the test
            error = caught
            break
    if outcome is not None:
        _tell(
            outcome,
            fired=0 if fault is None else shim.shim_fired(),
            count=0 if fault is None else shim.shim_count(fault[0]),
            is_ours=isinstance(error, DagrelayError),
            error=type(error).__name__,
            causes=_causes(error),
            text=str(error),
            threads=_threads_that_stay(),
        )
    elif error is not None:
        sys.excepthook(type(error), error, error.__traceback__)
    return FAILED if error is not None else 0


async def _session(store: str, durability: str, run_id: str, synchronous: Any, acks: AckFile) -> None:
    async with make_runtime(SqliteStore(store, synchronous=synchronous), durability) as runtime:
        await carry(runtime, make_dag(acks), run_id, acks)
