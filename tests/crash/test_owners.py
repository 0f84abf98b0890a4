"""G14: one writer at a time, whoever races, dies, sleeps, or has its lock file deleted."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
from datetime import datetime
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import RunState, SqliteStore, StoreLockedError
from tests.crash.children import FAILED
from tests.crash.judging import judge_and_resume, lost, survey
from tests.crash.pipes import Pipes
from tests.crash.workload import AckFile, Acks, carry, make_dag, make_runtime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.judging import Values
    from tests.crash.nursery import Child, Nursery

pytestmark = pytest.mark.crash

BACKENDS = ("asyncio", "trio")
RACERS = 20


@pytest.mark.timeout(3600)
def test_of_racing_openers_one_wins(nursery: Nursery, quick_folder: Path, is_full: bool, figure: Callable[[str], None]) -> None:
    """20 processes; 100 rounds in full. The others are told who it is, on which host, and since when."""
    rounds = 100 if is_full else 3
    store = quick_folder / "runs.db"
    for _ in range(rounds):
        with Pipes(quick_folder) as pipes:
            racers = [
                nursery.spawn("own", store=str(store), backend=BACKENDS[number % 2], told=pipes.told, go=pipes.go)
                for number in range(RACERS)
            ]
            pipes.open()
            said = [pipes.heard() for _ in racers]
            pipes.close()
            assert [racer.ended() for racer in racers] == [0] * RACERS
        winners = [pid for pid, how, *_ in said if how == "won"]
        assert len(winners) == 1, said
        for _, how, *owner in said:
            if how == "locked":
                pid, host, since = owner
                assert (pid, host) == (winners[0], socket.gethostname())
                assert datetime.fromisoformat(since).tzinfo is not None
    figure(f"G14 {rounds} races of {RACERS} openers: one winner each, the others told whose it is")


def start_paused(nursery: Nursery, store: Path, pipes: Pipes, backend: str, outcome: Path | None = None) -> Child:
    """Start the workload and wait until it is in the middle."""
    child = nursery.spawn(
        "work",
        store=str(store),
        backend=backend,
        durability="strict",
        runs=["r"],
        pause=["middle", pipes.told, pipes.go],
        outcome=None if outcome is None else str(outcome),
    )
    assert pipes.heard() == ["paused"]
    pipes.open()
    return child


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_killed_owner_is_followed_at_once(nursery: Nursery, quick_folder: Path, expected: Values, backend: str) -> None:
    """Nothing that it was told is lost, and its run goes on."""
    store = quick_folder / "runs.db"
    with Pipes(quick_folder) as pipes:
        child = start_paused(nursery, store, pipes, backend)
        child.signal(signal.SIGKILL)
        assert child.ended() == -signal.SIGKILL
    acks = Acks.read(quick_folder / "runs.db.acks")
    assert acks.pushes

    async def judge() -> list[str]:
        return await judge_and_resume(store, acks, expected, durability="strict")

    assert anyio.run(judge, backend=backend) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stopped_owner_still_owns(nursery: Nursery, quick_folder: Path, expected: Values, backend: str) -> None:
    """Nobody can tell that it won't go on; when it does, it goes on undisturbed."""
    store = quick_folder / "runs.db"

    async def try_to_open() -> None:
        with pytest.raises(StoreLockedError) as caught:
            async with make_runtime(SqliteStore(store), "strict"):
                pass
        assert caught.value.pid == child.pid

    async def look() -> list[str]:
        async with make_runtime(SqliteStore(store, read_only=True), "strict") as runtime:
            return await lost(runtime, Acks.read(quick_folder / "runs.db.acks"), expected)

    with Pipes(quick_folder) as pipes:
        child = start_paused(nursery, store, pipes, backend)
        child.signal(signal.SIGSTOP)
        try:
            anyio.run(try_to_open, backend=backend)
        finally:
            child.signal(signal.SIGCONT)
        pipes.close()
        assert child.ended() == 0, child.complaints()
    assert anyio.run(look, backend=backend) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_deleted_lock_file_lets_no_two_write(nursery: Nursery, quick_folder: Path, expected: Values, backend: str) -> None:
    """Whoever comes takes over; the earlier owner is told, writes nothing more, and gets nothing more acknowledged."""
    store, outcome = quick_folder / "runs.db", quick_folder / "outcome.json"

    async def take_over(child: Child, pipes: Pipes) -> None:
        async with make_runtime(SqliteStore(store), "strict") as runtime:
            before = Acks.read(quick_folder / "runs.db.acks")
            assert await lost(runtime, before, expected) == []
            assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
            await carry(runtime, make_dag(AckFile(None)), "r", AckFile(None))
            whole, _ = await survey(runtime, "r", expected)
            pipes.close()
            assert child.ended() == FAILED, child.complaints()
            after, succeeded = await survey(runtime, "r", expected)
            assert after == whole
            assert succeeded == set(expected)
            acks = Acks.read(quick_folder / "runs.db.acks")
            # What it reads in the store, and reports, is what the other has done.
            assert await lost(runtime, acks, expected) == []
        assert (acks.pushes, acks.finished) == (before.pushes, set())

    with Pipes(quick_folder) as pipes:
        child = start_paused(nursery, store, pipes, backend, outcome)
        (quick_folder / "runs.db.lock").unlink()
        anyio.run(take_over, child, pipes, backend=backend)
    told = json.loads(outcome.read_text())
    assert told["error"] == "StaleOwnerError", told


@pytest.mark.parametrize(
    ("pid", "is_told"),
    [(os.getpid(), True), (1, True), (10**30, True), (None, False)],
    ids=["this", "the first", "none there can be", "ended"],
)
async def test_a_name_of_a_process_that_has_ended_is_no_name(quick_folder: Path, pid: int | None, *, is_told: bool) -> None:
    """The holder has not signed yet; what stands there is the name of the one before."""
    if pid is None:
        with subprocess.Popen(["true"]) as gone:  # noqa: S607 - any program that ends
            pid = gone.pid
    lock = quick_folder / "runs.db.lock"
    lock.write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "since": "then"}))
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreLockedError) as caught:
            await SqliteStore(quick_folder / "runs.db").open(now_us=0)
    assert caught.value.pid == (pid if is_told else None)
