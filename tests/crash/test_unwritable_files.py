"""G21: a database, or a folder, that can't be written or read is told at once, by an error that carries its cause."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import SqliteStore
from tests.crash.workload import AckFile, carry, make_dag, make_runtime

if TYPE_CHECKING:
    from collections.abc import Generator

    from tests.crash.nursery import Nursery

pytestmark = pytest.mark.crash

NOBODY = 65534
"""To root every file is writable: a child becomes this user first."""
USER = NOBODY if os.geteuid() == 0 else None


@pytest.fixture
def folder() -> Generator[Path]:
    """Give a folder that the child can reach whoever it is, with a store of its own in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        async def make() -> None:
            async with make_runtime(SqliteStore(folder / "runs.db"), "strict") as runtime:
                await carry(runtime, make_dag(AckFile(None)), "r", AckFile(None))

        anyio.run(make)
        if USER is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, USER, USER)
        yield folder
        folder.chmod(0o700)


def look(nursery: Nursery, folder: Path, outcome: Path, *, read_only: bool) -> dict[str, Any]:
    """Let a child open the store, and return what it tells."""
    child = nursery.spawn(
        "look", store=str(folder / "runs.db"), backend="trio", user=USER, read_only=read_only, outcome=str(outcome)
    )
    assert child.ended() == 0, child.complaints()
    told: dict[str, Any] = json.loads(outcome.read_text())
    return told


@pytest.mark.parametrize(
    ("what", "mode", "error"),
    [
        ("runs.db", 0o400, "StoreReadOnlyError"),
        ("runs.db", 0o000, "StoreError"),
        ("runs.db.lock", 0o400, "StoreError"),
        (".", 0o500, "StoreReadOnlyError"),
    ],
)
def test_what_can_not_be_written_is_told(
    nursery: Nursery, folder: Path, tmp_path: Path, what: str, mode: int, error: str
) -> None:
    """Within a second, and the files stay as they are; given the right to write, the store opens."""
    before = (folder / "runs.db").read_bytes()
    path = folder / what
    usual = path.stat().st_mode
    path.chmod(mode)
    told = look(nursery, folder, tmp_path / "outcome.json", read_only=False)
    assert told.get("error") == error, told
    assert told["is_ours"], told
    assert told["causes"], told
    assert told["seconds"] < 1
    path.chmod(usual)
    assert (folder / "runs.db").read_bytes() == before
    assert "error" not in (told := look(nursery, folder, tmp_path / "outcome.json", read_only=False)), told


@pytest.mark.parametrize(("what", "mode"), [("runs.db", 0o400), ("runs.db", 0o000), ("runs.db.lock", 0o400), (".", 0o500)])
def test_looking_at_what_can_not_be_written_is_right_or_told(
    nursery: Nursery, folder: Path, tmp_path: Path, what: str, mode: int
) -> None:
    """SQLite may need to make a file to read one; then that is told, too."""
    (folder / what).chmod(mode)
    told = look(nursery, folder, tmp_path / "outcome.json", read_only=True)
    if "error" in told:
        assert told["is_ours"], told
        assert told["causes"], told
    else:
        assert told["value"] == 1
    assert told["seconds"] < 1
