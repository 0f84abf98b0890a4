"""What children of the nursery do: each function is a job, its facts come as JSON, and what it returns is the exit code."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread

from dagrelay import DagrelayError, SqliteStore, StoreError, StoreLockedError
from dagrelay.stores.sqlite import store as sqlite_store
from tests.crash.messaging import empty_inbox, post_values
from tests.crash.streaming import stream
from tests.crash.workload import AckFile, carry, make_dag, make_runtime

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Coroutine

__all__ = ("FAILED", "empty_inbox", "fork_within", "leave_a_child", "look", "own", "post_values", "starve", "stream", "work")

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
    pause: list[str] | None = None,
) -> int:
    """Carry runs to their end, a session for each; with `log` or `fault` under the eyes of the shim.

    With `pause`, a task and two named pipes, that task tells that it has begun and waits until the second pipe is closed.
    """
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
            anyio.run(_session, store, durability, run_id, synchronous, acks, pause, backend=backend)
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


async def _session(store: str, durability: str, run_id: str, synchronous: Any, acks: AckFile, pause: list[str] | None) -> None:
    def wait(task_id: str) -> None:
        if pause is not None and task_id == pause[0]:
            _say(pause[1], "paused")
            Path(pause[2]).read_bytes()

    async with make_runtime(SqliteStore(store, synchronous=synchronous), durability) as runtime:
        await carry(runtime, make_dag(acks, before_push=wait), run_id, acks)


def _say(pipe: str, *facts: Any) -> None:
    """Write a line to a named pipe that somebody reads."""
    fd = os.open(pipe, os.O_WRONLY)
    os.write(fd, json.dumps(facts).encode() + b"\n")
    os.close(fd)


def own(*, store: str, backend: str, told: str, go: str) -> int:
    """Wait for the start (that somebody opens `go`), try to own the store, say how that went, and own it until `go` is closed."""
    with Path(go).open("rb") as started:

        async def attempt() -> None:
            try:
                async with make_runtime(SqliteStore(store), "strict"):
                    _say(told, os.getpid(), "won")
                    await anyio.to_thread.run_sync(started.read)
            except StoreLockedError as error:
                _say(told, os.getpid(), "locked", error.pid, error.host, error.since)

        anyio.run(attempt, backend=backend)
    return 0


def starve(*, store: str, backend: str, durability: str, how: str, room: int, outcome: str) -> int:
    """Run with too little room until the store fails, make room, and go on in the same runtime."""
    acks, shim = AckFile(f"{store}.acks"), ctypes.CDLL(None)
    errors: list[str] = []
    if how == "shim":
        shim.shim_watch(store.encode(), b"")

    async def main() -> None:
        database = SqliteStore(store)
        async with make_runtime(database, durability) as runtime:

            async def leave(pages: int) -> None:
                """Leave that many pages beyond those in use."""

                def unit(connection: sqlite3.Connection) -> None:
                    used = connection.execute("PRAGMA page_count").fetchone()[0]
                    connection.execute(f"PRAGMA max_page_count = {used + pages}").fetchall()

                assert database._writing is not None  # pyright: ignore[reportPrivateUsage] - a limit is set where no public door is
                await database._writing.run(unit)  # pyright: ignore[reportPrivateUsage] - as above

            match how:
                case "pages":
                    await leave(room)
                case "limit":
                    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
                case _:
                    shim.shim_fail(0, ctypes.c_long(room), errno.ENOSPC, 1)
            try:
                await carry(runtime, make_dag(acks), "r", acks)
            except StoreError as error:
                errors.append(type(error).__name__)
            match how:
                case "pages":
                    await leave(1_000_000)
                case "limit":
                    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                case _:
                    shim.shim_fail(-1, ctypes.c_long(0), 0, 0)
            await carry(runtime, make_dag(acks), "r", acks)

    anyio.run(main, backend=backend)
    _tell(outcome, errors=errors)
    return 0


def look(*, store: str, backend: str, user: int | None, read_only: bool, outcome: str) -> int:
    """Open a store as another user, read a value, run something, and tell what came of it and how long it took."""
    facts: dict[str, Any] = {}
    out = os.open(outcome, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if user is not None:
        # Whatever is imported late is imported now: another user may not reach the library.
        with tempfile.TemporaryDirectory() as folder:
            anyio.run(_session, f"{folder}/runs.db", "strict", "r", "FULL", AckFile(None), None, backend=backend)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)

    async def main() -> None:
        async with make_runtime(SqliteStore(store, read_only=read_only), "strict") as runtime:
            facts["value"] = await runtime.xcom.pull("r", "root")
            if not read_only:
                await carry(runtime, make_dag(AckFile(None)), "another", AckFile(None))

    began = time.monotonic()
    try:
        anyio.run(main, backend=backend)
    except Exception as error:  # noqa: BLE001 - it is told to the test
        facts |= {"error": type(error).__name__, "is_ours": isinstance(error, DagrelayError), "causes": _causes(error)}
        facts["text"] = str(error)
    facts["seconds"] = time.monotonic() - began
    os.write(out, json.dumps(facts).encode())
    return 0


def fork_within(*, store: str, backend: str, outcome: str) -> int:
    """Fork in the middle of a run; the child tries every door of the runtime and tells what each says."""
    acks = AckFile(f"{store}.acks")

    async def main() -> None:
        runtime = make_runtime(SqliteStore(store), "strict")
        dag = make_dag(acks, before_push=lambda task_id: fork() if task_id == "middle" else None)

        async def knock() -> dict[str, str]:
            told: dict[str, str] = {}
            doors: dict[str, Callable[[], Any]] = {
                "run": lambda: runtime.run(dag),
                "start": lambda: runtime.start(dag),
                "resume": lambda: runtime.resume("r", dag),
                "cancel": lambda: runtime.cancel("r"),
                "runs": runtime.runs,
                "pull": lambda: runtime.xcom.pull("r", "root"),
                "delete_run": lambda: runtime.delete_run("r"),
            }
            for name, door in doors.items():
                try:
                    await door()
                except BaseException as error:  # noqa: ASYNC103, BLE001 - it is told to the test
                    told[name] = type(error).__name__
            return told

        def fork() -> None:
            pid = os.fork()
            if pid == 0:
                _tell(outcome, **_stepped(knock()))
                os._exit(0)
            os.waitpid(pid, 0)

        async with runtime:
            await carry(runtime, dag, "r", acks)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks beside threads.
        anyio.run(main, backend=backend)
    return 0


def _stepped(knock: Coroutine[Any, Any, dict[str, str]]) -> dict[str, str]:
    """Carry a coroutine that does not wait to its end: in a forked child there is no loop to wait in."""
    try:
        knock.send(None)
    except StopIteration as end:
        told: dict[str, str] = end.value
        return told
    return {"it": "waits"}


def leave_a_child(*, store: str, backend: str, told: str, go: str) -> int:
    """Fork a child that lives until `go` is closed, while the store is open; end without closing it."""
    with Path(go).open("rb") as end:

        async def main() -> None:
            async with make_runtime(SqliteStore(store), "strict"):
                if os.fork() == 0:
                    _say(told, "forked")
                    end.read()
                    os._exit(0)
                os._exit(0)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of forks beside threads.
            anyio.run(main, backend=backend)
    return 0
