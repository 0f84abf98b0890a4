"""G20: a full disk stops a run with a word on it, costs nothing that was acknowledged, and when there is room the run goes on."""

from __future__ import annotations

import json
import resource
import sqlite3
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import StoreError, StoreFullError
from dagrelay.stores.sqlite.faults import store_error
from tests.crash.judging import judge_and_resume
from tests.crash.workload import Acks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.crash.judging import Values
    from tests.crash.nursery import Nursery

pytestmark = pytest.mark.crash

KINDS = [(backend, durability) for backend in ("asyncio", "trio") for durability in ("strict", "pipelined")]
ROOMS = {
    "pages": (0, 1, 2, 4, 6, 8, 12),
    "limit": (70_000, 90_000, 130_000, 200_000),
    "shim": (1, 2, 5, 9, 30, 60, 100),
}
"""How the disk is full -> how much room there is: pages, bytes of a file, operations."""


@pytest.mark.parametrize("how", ROOMS)
@pytest.mark.timeout(300)
def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(
    shimmed: Nursery, quick_folder: Path, expected: Values, how: str, is_full: bool, figure: Callable[[str], None]
) -> None:
    """By SQLite's limit of pages, by the kernel's limit of a file's size, and by ENOSPC from every write."""
    stopped = runs = acked = 0
    for room in ROOMS[how]:
        for kind in KINDS if is_full else (KINDS[runs % len(KINDS)],):
            store, outcome = quick_folder / "runs.db", quick_folder / "outcome.json"
            child = shimmed.spawn(
                "starve", store=str(store), backend=kind[0], durability=kind[1], how=how, room=room, outcome=str(outcome)
            )
            assert child.ended() == 0, f"{room}: {child.complaints()}"
            errors = json.loads(outcome.read_text())["errors"]
            assert errors in ([], ["StoreFullError"]), f"{room}: {errors}"
            runs += 1
            stopped += len(errors)
            acks = Acks.read(quick_folder / "runs.db.acks")
            acked += len(acks.pushes) + len(acks.done) + len(acks.finished)
            judge = lambda: judge_and_resume(store, acks, expected, durability=kind[1])  # noqa: B023, E731 - called at once
            assert anyio.run(judge, backend=kind[0]) == []
            for path in quick_folder.iterdir():
                path.unlink()
    figure(f"G20 {runs} runs on a full disk ({how}): {stopped} stopped by it, {acked} acked, 0 lost, {runs} went on in place")
    assert stopped > 2


@pytest.mark.parametrize(
    ("limit", "expected_class"), [(10, StoreFullError), (11, StoreError), (resource.RLIM_INFINITY, StoreError)]
)
def test_a_failed_write_to_a_file_at_its_limit_is_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, expected_class: type[StoreError]
) -> None:
    """SQLite gives no reason for it."""
    path = tmp_path / "runs.db"
    path.write_bytes(bytes(10))

    def getrlimit(_what: int) -> tuple[int, int]:
        return limit, resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", getrlimit)
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert type(store_error(str(path), error)) is expected_class
