"""Rows edited by hand, their checksums put right: a typed error or the documented result, never a hang or an object."""

from __future__ import annotations

import resource
import sqlite3
import time
from contextlib import closing
from shutil import copyfile
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from dagrelay import DAG, RunFailedError, Runtime, SqliteStore, StoreCorruptError, StoreError, XComSerializationError
from dagrelay.stores.sqlite import rows
from tests.security.dumps import dump
from tests.security.forgery import forge, forge_entry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

AT_MOST_S: Final = 5
"""A second is the promise; a shared machine is slow now and then."""
LARGE: Final = 10_000_000_000

dag = DAG("d", tags=["t"])


@dag.task
async def good() -> str:
    """Return something."""
    return "honest"


@dag.task
async def bad() -> None:
    """Fail."""
    raise ValueError("told")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a run that failed."""
    path = tmp_path_factory.mktemp("rows") / "runs.db"

    async def fill() -> None:
        async with Runtime(path) as runtime:
            with pytest.raises(RunFailedError):
                await runtime.run(dag, run_id="r", params={})

    anyio.run(fill)
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    """Return a copy of that store."""
    copy = tmp_path / "runs.db"
    copyfile(filled, copy)
    return copy


async def all_events(runtime: Runtime) -> list[Any]:
    """Return the whole timeline."""
    return [event async for event in runtime.events("r")]


READERS: Final[dict[str, Callable[[Runtime], Awaitable[Any]]]] = {
    "get_run": lambda runtime: runtime.get_run("r"),
    "runs": lambda runtime: runtime.runs(),
    "runs by tag": lambda runtime: runtime.runs(tags=["t"]),
    "task_instances": lambda runtime: runtime.task_instances("r"),
    "pull": lambda runtime: runtime.xcom.pull("r", "good"),
    "list": lambda runtime: runtime.xcom.list("r", all_attempts=True, include_values=True),
    "events": all_events,
    # Last, as they would write if they could.
    "resume": lambda runtime: runtime.resume("r", dag),
    "retry": lambda runtime: runtime.retry("r", "bad", dag),
    "run": lambda runtime: runtime.run(dag, run_id="r"),
}


async def outcomes(path: Path) -> dict[str, str]:
    """Ask every question of a store and return what came of each: "answered", or the error's name."""
    found: dict[str, str] = {}
    began = time.monotonic()
    async with Runtime(path) as runtime:
        for name, ask in READERS.items():
            try:
                await ask(runtime)
            except Exception as error:  # noqa: BLE001 - the test looks at what it was
                found[name] = type(error).__name__
            else:
                found[name] = "answered"
    assert time.monotonic() - began < AT_MOST_S
    return found


OURS: Final = frozenset(
    {
        "answered",
        "DAGChangedError",
        "RunFailedError",
        "RunIdConflictError",
        "RunStateError",
        "StoreCorruptError",
        "XComNotFoundError",
    }
)
DEEP: Final = "[" * 100_000 + "]" * 100_000
FORGED: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "params: no JSON": ("run", {"params": b"{"}),
    "params: no object": ("run", {"params": b"[1]"}),
    "params: deep": ("run", {"params": DEEP.encode()}),
    "params: no UTF-8": ("run", {"params": b"\xff\xfe"}),
    "tags: no JSON": ("run", {"tags": "bad"}),
    "tags: no texts": ("run", {"tags": "[[1], {}]"}),
    "tags: no list": ("run", {"tags": "7"}),
    "tags: deep": ("run", {"tags": DEEP}),
    "run state: unknown": ("run", {"state": 77}),
    "run state: negative": ("run", {"state": -1}),
    "time: too far": ("run", {"created_us": 2**62}),
    "plan: no JSON": ("plan", {"task_ids": "bad"}),
    "plan: no texts": ("plan", {"task_ids": "[1, null]"}),
    "plan: no list": ("plan", {"task_ids": "7"}),
    "plan: deep": ("plan", {"task_ids": DEEP}),
    "plan body: no JSON": ("plan", {"body": b"bad"}),
    "plan body: no list": ("plan", {"body": b"7"}),
    "plan body: no tasks": ("plan", {"body": b"[[1], {}]"}),
    "plan body: unknown kind": ("plan", {"body": b'[["good","planted",[]]]'}),
    "plan body: no such upstream": ("plan", {"body": b'[["good","task",[9]]]'}),
    "plan body: deep": ("plan", {"body": DEEP.encode()}),
    "task state: unknown": ("instance", {"state": 77}),
    "task error: no JSON": ("instance", {"error": "bad"}),
    "task error: too few": ("instance", {"error": '["E"]'}),
    "task error: no texts": ("instance", {"error": "[1, [], {}]"}),
    "task error: deep": ("instance", {"error": DEEP}),
    "task id: a path": ("task", {"task_id": "../../etc/passwd"}),
    "task id: escapes": ("task", {"task_id": "\x1b[31m"}),
}


@pytest.mark.parametrize(("table", "changes"), FORGED.values(), ids=FORGED)
async def test_a_forged_row_is_told_or_read_as_it_is(path: Path, table: str, changes: dict[str, Any]) -> None:
    """Whatever is asked ends in an answer or an error of ours, at once, and what was forged is not overwritten."""
    forge(path, table, **changes)

    found = await outcomes(path)

    assert set(found.values()) <= OURS, found
    if table == "task":  # Any text can be an id to whoever writes the file; it is shown with care.
        assert "answered" in found.values()
    else:
        assert "StoreCorruptError" in found.values(), found
    assert all(item in dump(path).tables[table][0].items() for item in changes.items())


async def test_a_lying_size_is_told(path: Path) -> None:
    """Budgets and lists go by it, so a value that is not of its size is damage, however large the lie."""
    for lie in (0, 7, LARGE, 2**62):
        forge_entry(path, "return_value", size=lie)
        async with Runtime(SqliteStore(path, read_only=True)) as runtime:
            with pytest.raises(StoreCorruptError):
                await runtime.xcom.pull("r", "good")
            with pytest.raises(StoreCorruptError):
                await runtime.xcom.list("r", include_values=True)


STORED_VALUES: Final = {
    "no JSON": b"{",
    "nothing": b"",
    "two": b"1 2",
    "NaN": b"NaN",
    "infinity": b"[1e999]",
    "no UTF-8": b'"\xff"',
    "a lone surrogate": b'"\\ud800"',
    "deep": DEEP.encode(),
    "a byte order mark": b"\xef\xbb\xbf1",
    "single quotes": b"{'a': 1}",
    "a trailing comma": b"[1,]",
}


async def test_a_value_that_nobody_can_have_pushed_is_told(tmp_path: Path) -> None:
    """Bytes that are no JSON of ours, under right checksums."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        for name in STORED_VALUES:
            await runtime.xcom.push("r", "t", name, 1)
    for name, data in STORED_VALUES.items():
        forge_entry(path, name, value=data)
    before = dump(path)
    began = time.monotonic()
    async with Runtime(SqliteStore(path, read_only=True)) as runtime:
        for name in STORED_VALUES:
            with pytest.raises(XComSerializationError):
                await runtime.xcom.pull("r", "t", name)
    assert time.monotonic() - began < AT_MOST_S
    assert dump(path) == before


@pytest.mark.parametrize("lie", ["the record", "the cell"])
async def test_ten_gigabytes_that_are_not_there_are_told(tmp_path: Path, lie: str) -> None:
    """A row that claims so much, in a file of some pages, is damage, found without setting the memory aside."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.xcom.push("r", "t", "k", "x" * 500)
    claim_ten_gigabytes(path, in_record=lie == "the record")
    before, began = path.read_bytes(), time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with Runtime(SqliteStore(path, read_only=True)) as runtime:
        for ask in (lambda: runtime.xcom.pull("r", "t", "k"), lambda: runtime.xcom.list("r", include_values=True)):
            with pytest.raises(StoreError):
                await ask()
    assert time.monotonic() - began < AT_MOST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000
    assert path.read_bytes() == before


def claim_ten_gigabytes(path: Path, *, in_record: bool) -> None:
    """Have the only entry of a database say that its value has ten gigabytes: in its record's head, or its cell's."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'xcom'").fetchone()
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    start = (page - 1) * page_size
    assert data[start] == 13, "a leaf of a table"
    assert int.from_bytes(data[start + 3 : start + 5]) == 1, "with one cell"
    cell = start + int.from_bytes(data[start + 8 : start + 10])
    length, rowid_at = varint(data, cell)
    _, head_at = varint(data, rowid_at)
    head_size, place = varint(data, head_at)
    if in_record:
        last = place
        while place < head_at + head_size:
            last = place
            _, place = varint(data, place)
        # The value's type says its length. Its five bytes push the body on, over the end of the value itself.
        body_at, end = head_at + head_size, head_at + length
        grown = as_varint(12 + 2 * LARGE)
        more = len(grown) - (body_at - last)
        body = bytes(data[body_at : end - more])
        data[last : last + len(grown)] = grown
        data[head_at] = head_size + more
        data[body_at + more : end] = body
    else:
        # Two bytes hold the cell's length: the largest that fits there is told, of which the page has not as much.
        data[cell : cell + 2] = b"\xff\x7f"
    path.write_bytes(data)


def varint(data: bytes | bytearray, place: int) -> tuple[int, int]:
    """Return SQLite's variable-length integer at a place, of at most eight bytes, and the place after it."""
    value = 0
    while True:
        value = value << 7 | data[place] & 0x7F
        place += 1
        if data[place - 1] < 0x80:
            return value, place


def as_varint(value: int) -> bytes:
    """Return an integer as SQLite writes it."""
    parts = [value & 0x7F]
    while value := value >> 7:
        parts.append(value & 0x7F | 0x80)
    return bytes(reversed(parts))


def test_a_logged_event_of_a_task_that_names_none_is_told() -> None:
    """Of another kind it would be none of a task."""
    fields = (1, 1, 3, 0, None, -1, 1, 5, None, None)
    with pytest.raises(StoreCorruptError, match="names none"):
        rows.decode_event("x.db", "r", None, (*fields, rows.checksum(fields)))
