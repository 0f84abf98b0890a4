"""Makes the golden file of schema version 2, and tells what a store says of it: what version 1 did not have.

Run once, when the version is published; afterwards the files only stay: they are what users have on their disks.

    python -m tests.golden.make_v2
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs

from dagrelay import RunState, SqliteStore, TaskState
from dagrelay.model.records import ErrorRecord
from dagrelay.stores import TASK_LIFETIME
from dagrelay.stores.stream_records import StreamQuery
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagrelay.stores import Operation, Store

__all__ = ("DATABASE", "TOLD", "make", "tell")

FOLDER: Final = Path(__file__).parent
DATABASE: Final = FOLDER / "v2.db"
TOLD: Final = FOLDER / "v2.json"
OPENED_US: Final = 1_000_000
"""When the file is opened to tell of it."""
ERROR: Final = ErrorRecord(type="ValueError", message="no \x1b[31m rows é \ud800", traceback="Traceback: ...")
LINEAGE: Final = '[["load",null,"return_value",1],["\\u00e9",3,"k",0]]'
TASKS: Final = ("load", "each", "choose", "report", "ask")
RUN_IDS: Final = ("mapped", "cleared", "expanding", "given", "fork", "stream", "outside")


def _mapped(story: Story) -> Iterator[Operation]:
    """Tell a run with a mapped task whose elements end in all ways, a decision and lineage."""
    yield story.create(*TASKS, tags=("é",))
    yield story.finish("load", values={"return_value": b"[0,1,2,3]"}, lineage="[]")
    yield story.start("each", length=4)
    yield story.finish("each", map_index=0, values={"return_value": b"0"}, lineage=LINEAGE)
    yield story.finish("each", map_index=1, state=TaskState.UP_FOR_RETRY, error=ERROR, retry_us=9, failures=1)
    yield story.finish("each", 2, map_index=1, values={"return_value": b"1", "note": b"null"}, failures=1)
    yield story.finish("each", map_index=2, state=TaskState.SKIPPED, error=ErrorRecord(type="Skip", message=""))
    yield story.start("each", map_index=3)
    yield story.put("each", {"seen": b"1"}, slot=TASK_LIFETIME, attempt=1, map_index=3)
    yield story.finish("each", map_index=3, state=TaskState.FAILED, error=ERROR, failures=1)
    yield story.finish("each", state=TaskState.FAILED)
    yield story.finish("choose", follows=("report",), lineage=LINEAGE)
    yield story.mark("report")
    yield story.end(RunState.FAILED)


def _cleared(story: Story) -> Iterator[Operation]:
    """Tell a run whose mapped task was cleared, by a message, and expanded anew with fewer elements."""
    yield story.create(*TASKS)
    yield story.start("each", length=2)
    yield story.finish("each", map_index=0, values={"return_value": b"0"})
    yield story.finish("each", map_index=1, state=TaskState.FAILED, error=ERROR, failures=1)
    yield story.finish("each", state=TaskState.FAILED)
    yield story.finish("choose", follows=())
    yield story.end(RunState.FAILED)
    yield story.reopen(*(story.key("each", index) for index in (None, 0, 1)), story.key("choose"), message_id="again")
    yield story.start("each", 2, length=1)
    yield story.finish("each", 2, map_index=0, values={"return_value": b"7"})
    yield story.end(RunState.INTERRUPTED)


def _expanding(story: Story) -> Iterator[Operation]:
    """Tell a run that was killed among the elements of a mapped task, while another task waited."""
    yield story.create(*TASKS)
    yield story.start("each", length=3)
    yield story.finish("each", map_index=0, values={"return_value": b"0"})
    yield story.start("each", map_index=1)
    yield story.put("each", {"live": b"1"}, slot=1, map_index=1, published=True)
    yield story.wait("ask", deadline_us=5_000_000)
    yield story.provide("ask", b'{"approved":true}', message_id="yes")


def _given(story: Story) -> Iterator[Operation]:
    """Tell a run in which tasks waited for values from outside, in vain and not."""
    yield story.create(*TASKS)
    yield story.provide("ask", b'"given"')
    yield story.wait("ask")
    yield attrs.evolve(story.finish("ask", values={"return_value": b'"given"'}), start_seq=story.seq - 1)
    yield story.wait("report", deadline_us=9)
    yield story.finish("report", state=TaskState.INTERRUPTED, interruptions=1)
    yield story.end(RunState.CANCELLED)


def _stream(story: Story) -> Iterator[Operation]:
    """Tell a run with a stream that is read half."""
    yield story.create(*TASKS)
    yield story.start("load")
    yield story.append("load", "rows", [b"0", b"11"])
    yield story.append("load", "rows", [b"222"], first_seq=2)
    yield story.start("report")
    yield story.ack("report", "load", "rows", 2, {"sum": b"1"})


def _written() -> Iterator[Operation]:
    yield Story("outside").put("load", {"early": b'{"a":1}'})
    yield from _mapped(Story("mapped"))
    yield from _cleared(Story("cleared"))
    yield from _expanding(Story("expanding"))
    yield from _given(Story("given"))
    yield Story("fork").fork("mapped", "load", "each", tasks=TASKS)
    yield from _stream(Story("stream"))
    yield Story("note").note("late", "refused: task 'ask' has finished", at_us=7)


async def _write(path: Path) -> None:
    store = SqliteStore(path)
    await store.open(now_us=0)
    try:
        for operation in _written():
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


async def tell(path: Path) -> dict[str, Any]:
    """Return all that a store says of a file, which is thereby opened for writing, as plain JSON."""
    store = SqliteStore(path)
    await store.open(now_us=OPENED_US)
    try:
        told: dict[str, Any] = {run_id: await _told_of(store, run_id) for run_id in RUN_IDS}
        told["messages"] = {each: await store.message(each) for each in ("again", "yes", "late", "none")}
        told["previous"] = await store.previous("dag", "load", "return_value", before_run="stream", limit=9)
        told["attempts"] = [each.instance for each in await store.attempts("dag")]
    finally:
        await store.close()  # noqa: ASYNC102 - it shields itself
    plain: dict[str, Any] = json.loads(json.dumps(told, default=_plain))
    return plain


async def _told_of(store: Store, run_id: str) -> dict[str, Any]:
    story = Story(run_id)
    query = StreamQuery(producer=story.key("load"), key="rows", consumer=story.key("report"), generation=1)
    return {
        "run": await store.find_run(run_id),
        "instances": await store.instances(run_id),
        "events": [{"type": type(event).__name__, **attrs.asdict(event)} for event in await store.events(run_id)],
        "seen": await store.entries(run_id, with_values=True),
        "all": await store.entries(run_id, all_attempts=True, with_values=True),
        "stream": await store.stream(query),
        "next_seq": await store.next_seq(run_id),
        "stored_bytes": await store.stored_bytes(run_id),
    }


def _plain(value: Any) -> Any:
    with suppress(attrs.exceptions.NotAnAttrsClassError):
        return attrs.asdict(value, recurse=False)
    if isinstance(value, bytes):
        return value.decode("latin-1")
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
