"""G20: a full disk stops a run with a word on it, costs nothing that was acknowledged, and when there is room the run goes on."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from dagrelay import StoreError, StoreFullError
from dagrelay.stores.sqlite.faults import store_error
from tests.crash.judging import judge_and_resume
from tests.crash.workload import Acks

if TYPE_CHECKING:
    from collections.abc import Callable

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
_ROOT: Final = Path(__file__).parents[2]
_MOUNT: Final = 'mount -t tmpfs -o size=2m tmpfs "$1" && shift && exec "$@"'


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


@pytest.mark.parametrize(
    ("error", "expected_class"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), StoreFullError),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StoreFullError),
        (OSError(errno.EIO, "Input/output error"), StoreError),
    ],
)
def test_a_full_disk_is_one_beside_sqlite_too(tmp_path: Path, error: OSError, expected_class: type[StoreError]) -> None:
    """The lock's file is written without SQLite."""
    assert type(store_error(str(tmp_path / "runs.db"), error)) is expected_class


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_an_index_that_can_not_grow_is_no_full_disk_where_there_is_room(tmp_path: Path, folder: str) -> None:
    """Where there is none stands in the test of a disk that is full; where nobody can tell, it is told as it is."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    assert type(store_error(str(tmp_path / folder / "runs.db"), error)) is StoreError


def way_to_mount(folder: Path) -> list[str] | None:
    """Return a command that runs another one in a mount namespace of its own; None where nobody lets us have one."""
    ways = [["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]]
    if os.environ.get("DAGRELAY_REQUIRE_ALL") == "1":
        ways.append(["sudo", "--non-interactive", "unshare", "--mount"])  # Some CI allows this and no other.
    for way in ways:
        if shutil.which(way[0]) is not None:
            tried = subprocess.run([*way, "sh", "-c", _MOUNT, "sh", folder, "true"], capture_output=True, timeout=20, check=False)
            if tried.returncode == 0:
                return way
    return None


@pytest.mark.timeout(300)
def test_a_run_on_a_small_disk_goes_on_when_there_is_room(
    tmp_path: Path, is_full: bool, figure: Callable[[str], None], missing: Callable[[str], None]
) -> None:
    """A file system of 2 MB, filled by another file while the store is open or before: told as full, read, and gone on with."""
    disk = tmp_path / "disk"
    disk.mkdir()
    way = way_to_mount(disk)
    if way is None:
        missing("a way to mount a small disk (`unshare --mount`, as root or with user namespaces)")
        return
    program = [sys.executable, "-B", "-m", "tests.crash.small_disk", str(disk), str(tmp_path / "acks"), "1" if is_full else "5"]
    command = [*way, "sh", "-c", _MOUNT, "sh", str(disk), *program]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(runs) == (64 if is_full else 13)
    for told in runs:
        assert told["errors"] == ["StoreFullError"], told
        assert told["lost"] == [], told
    acked = sum(told["acked"] for told in runs)
    figure(f"G20 {len(runs)} runs on a file system of 2 MB: all stopped by it, {acked} acked, 0 lost, all went on")
