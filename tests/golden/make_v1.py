"""Makes the golden file of schema version 1, and tells what the public API says of it.

Run once, when the version is published; afterwards the files only stay: they are what users have on their disks. A later version
of the schema gets a script and files of its own.

    python -m tests.golden.make_v1
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from dagrelay import DAG, RunNotFoundError, RunState, Runtime, SqliteStore, TaskState
from dagrelay.model.records import ErrorRecord
from dagrelay.runtime.environment import Environment
from dagrelay.stores import TASK_LIFETIME, StoredPlan
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from dagrelay.stores import CreateRun, Operation

__all__ = ("DATABASE", "TOLD", "dag", "make", "tell")

FOLDER: Final = Path(__file__).parent
DATABASE: Final = FOLDER / "v1.db"
TOLD: Final = FOLDER / "v1.json"
OPENED_US: Final = 1_000_000
"""When the file is opened to tell of it: all that it says of times is fixed."""
ERROR: Final = ErrorRecord(type="ValueError", message="no \x1b[31m rows é \ud800", traceback="Traceback: ...")

dag = DAG("golden", tags=["nightly", "é"])


@dag.task
async def load(count: int = 3) -> list[int]:
    """Return some rows."""
    return list(range(count))


@dag.task
async def clean(rows: list[int] = load.output) -> list[int]:
    """Return the rows again."""
    return rows


@dag.task
async def report(rows: list[int] = clean.output) -> str:
    """Say how many there are."""
    return f"{len(rows)} rows"


def _created(story: Story) -> CreateRun:
    plan = dag.plan()
    stored = StoredPlan(fingerprint=plan.fingerprint, body=plan.body, task_ids=plan.task_ids)
    return attrs.evolve(story.create(dag_id="golden", params=b'{"count":3}', tags=("nightly", "é")), plan=stored)


def _succeeded(story: Story) -> list[Operation]:
    """Tell a run with a retry, entries of every kind, and a retry of the whole."""
    told = story.finish("load", values={"tried": b"1"}, state=TaskState.UP_FOR_RETRY, error=ERROR, retry_us=9_000, failures=1)
    masked = story.put("load", {"secret": b'"hunter2"'}, slot=2)
    entry = attrs.evolve(masked.entries[0], sensitive=True, description="a pass\x1b[1mword")
    return [
        _created(story),
        told,
        story.start("load", 2),
        story.put("load", {"steps": b"[1,2]"}, slot=2, published=True),
        attrs.evolve(masked, entries=(entry,)),
        story.put("load", {"seen": b"2"}, slot=TASK_LIFETIME, attempt=2),
        story.finish("load", 2, values={"return_value": b"[0,1,2]"}, failures=1),
        story.finish("clean", values={"return_value": b"[0,1,2]"}),
        story.mark("report"),
        story.put("report", {"note": b'"from outside"', "other": b"null"}),
        story.delete("report", "other", slots=[0]),
        story.end(),
        story.reopen(story.key("report")),
        story.finish("report", values={"return_value": b'"3 rows"'}),
        story.end(),
    ]


def _others() -> list[Operation]:
    """Tell runs in all the other states, and what stands under ids that are no runs."""
    failed, cancelled, interrupted = Story("failed"), Story("cancelled"), Story("interrupted")
    running, waiting, gone, outside = Story("running"), Story("waiting"), Story("gone"), Story("outside")
    return [
        _created(failed),
        failed.finish("load", values={"return_value": b"[]"}),
        failed.finish("clean", state=TaskState.FAILED, error=ERROR, failures=1),
        failed.mark("report", TaskState.UPSTREAM_FAILED),
        failed.end(RunState.FAILED),
        _created(cancelled),
        cancelled.finish("load", state=TaskState.SKIPPED, error=ErrorRecord(type="Skip", message="no need")),
        cancelled.mark("clean", TaskState.CANCELLED),
        cancelled.end(RunState.CANCELLED),
        _created(interrupted),
        interrupted.finish("load", values={"return_value": b"[0,1,2]"}),
        interrupted.finish("clean", state=TaskState.INTERRUPTED, values={"half": b"1"}, interruptions=1),
        interrupted.end(RunState.INTERRUPTED),
        _created(waiting),
        waiting.finish("load", state=TaskState.UP_FOR_RETRY, error=ERROR, retry_us=5_000, failures=1),
        waiting.end(RunState.INTERRUPTED),
        _created(gone),
        gone.finish("load", values={"return_value": b"[]"}),
        gone.end(),
        gone.delete_run(),
        outside.put("load", {"early": b'{"a":1}'}),
        _created(running),
        running.finish("load", values={"return_value": b"[0,1,2]"}),
        running.start("clean"),
        running.put("clean", {"live": b"1"}, slot=1, published=True),
    ]


async def _write(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(now_us=0)
    try:
        for operation in [*_succeeded(Story("succeeded")), *_others()]:
            (result,) = await store.apply([operation])
            assert isinstance(result, int), (operation, result)
    finally:
        await store.close()  # noqa: ASYNC102 - it shields itself


def make(path: Path) -> None:
    """Make the file anew."""
    anyio.run(_write, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE owner SET pid = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


RUN_IDS: Final = ("succeeded", "failed", "cancelled", "interrupted", "waiting", "running")


async def tell(path: Path) -> dict[str, Any]:
    """Return all that the public API says of a file, which is thereby opened for writing, as plain JSON."""
    async with Runtime(SqliteStore(path), environment=Environment(now_us=lambda: OPENED_US)) as runtime:
        told: dict[str, Any] = {"runs": [attrs.asdict(run) for run in await runtime.runs()]}
        for run_id in RUN_IDS:
            told[run_id] = {
                "tasks": [attrs.asdict(task) for task in await runtime.task_instances(run_id)],
                "events": [{"type": type(event).__name__, **attrs.asdict(event)} async for event in runtime.events(run_id)],
                "seen": [attrs.asdict(each) for each in await runtime.xcom.list(run_id, include_values=True)],
                "all": [attrs.asdict(each) for each in await runtime.xcom.list(run_id, all_attempts=True, include_values=True)],
            }
        told["outside"] = [attrs.asdict(each) for each in await runtime.xcom.list("outside", include_values=True)]
        told["password"] = await runtime.xcom.pull("succeeded", "load", "secret")
        try:
            await runtime.get_run("gone")
        except RunNotFoundError as error:
            told["gone"] = str(error)
    plain: dict[str, Any] = json.loads(json.dumps(told, default=_plain))
    return plain


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else dict(value)


def main() -> None:
    """Make both files."""
    DATABASE.unlink(missing_ok=True)
    make(DATABASE)
    Path(f"{DATABASE}.lock").unlink()
    copy = FOLDER / "copy.db"
    copy.write_bytes(DATABASE.read_bytes())
    TOLD.write_text(json.dumps(anyio.run(tell, copy), indent=1) + "\n", encoding="utf-8")
    for leftover in FOLDER.glob("copy.db*"):
        leftover.unlink()


if __name__ == "__main__":
    main()
