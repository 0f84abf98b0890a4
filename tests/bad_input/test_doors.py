"""Bad ids and bad values at every public door: a typed error, at once, and a store as it was.

The rules themselves are tried in `tests/unit`; here is that every door has them, before anything is stored.
"""

from __future__ import annotations

import time
import unicodedata
from typing import TYPE_CHECKING, Any, Final

import pytest

from dagrelay import (
    DAG,
    DagrelayError,
    InvalidIdError,
    Limits,
    RunFailedError,
    Runtime,
    TaskContext,
    XComSerializationError,
    XComTooLargeError,
    resolve_templates,
)
from tests.security.dumps import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AT_MOST_S: Final = 5
"""A second is the promise; a shared machine is slow now and then."""
BAD_NAMES: Final[tuple[Any, ...]] = (
    *("../../etc/passwd", "..", "/abs", "a/b", "'; DROP TABLE", "a\0b", "a\ud800", "a\u202eb", "a\u200bb", "e\u0301", "\u00e9"),
    *("\u0430", "\u0661", "", " ", "a\n", "-rf", "a" * 251, "a" * 1_000_000, 7, b"a", None, True, ["a"], str),
)
# `None` for a task or key of some doors means all of them.
BAD_KEYS: Final[tuple[Any, ...]] = (
    "",
    "a\0b",
    "a\ud800",
    "a\u202eb",
    "a\u200bb",
    "a\n",
    "a" * 251,
    "a" * 1_000_000,
    7,
    b"a",
    True,
)
GOOD_KEYS: Final = (
    "__class__",
    "items",
    "0",
    "Load",
    "load",
    "e\u0301",
    "\u00e9",
    "a" * 250,
    "../../etc/passwd",
    " ",
    "-rf",
    "\u0430",
)

dag = DAG("d")


@dag.task
async def one() -> int:
    """Return something."""
    return 1


RUN_DOORS: Final[dict[str, Callable[[Runtime, Any], Any]]] = {
    "start": lambda runtime, bad: runtime.start(dag, run_id=bad),
    "run": lambda runtime, bad: runtime.run(dag, run_id=bad),
    "resume": lambda runtime, bad: runtime.resume(bad, dag),
    "retry": lambda runtime, bad: runtime.retry(bad, "one", dag),
    "cancel": lambda runtime, bad: runtime.cancel(bad),
    "get_run": lambda runtime, bad: runtime.get_run(bad),
    "task_instances": lambda runtime, bad: runtime.task_instances(bad),
    "delete_run": lambda runtime, bad: runtime.delete_run(bad),
    "push": lambda runtime, bad: runtime.xcom.push(bad, "one", "k", 1),
    "pull": lambda runtime, bad: runtime.xcom.pull(bad, "one"),
    "pull_outputs": lambda runtime, bad: runtime.xcom.pull_outputs(bad, "one"),
    "pull_many": lambda runtime, bad: runtime.xcom.pull_many(bad, []),
    "pull_from_upstream": lambda runtime, bad: runtime.xcom.pull_from_upstream(bad, "one", dag),
    "delete": lambda runtime, bad: runtime.xcom.delete(bad, "one"),
    "list": lambda runtime, bad: runtime.xcom.list(bad),
    "resolve_templates": lambda runtime, bad: resolve_templates("{{ run.id }}", bad, runtime.xcom),
}
TASK_DOORS: Final[dict[str, Callable[[Runtime, Any], Any]]] = {
    "retry": lambda runtime, bad: runtime.retry("r", bad, dag),
    "push": lambda runtime, bad: runtime.xcom.push("r", bad, "k", 1),
    "pull": lambda runtime, bad: runtime.xcom.pull("r", bad),
    "pull_outputs": lambda runtime, bad: runtime.xcom.pull_outputs("r", bad),
    "pull_many": lambda runtime, bad: runtime.xcom.pull_many("r", [(bad, "k")]),
    "pull_from_upstream": lambda runtime, bad: runtime.xcom.pull_from_upstream("r", bad, dag),
    "delete": lambda runtime, bad: runtime.xcom.delete("r", bad),
}
KEY_DOORS: Final[dict[str, Callable[[Runtime, Any], Any]]] = {
    "push": lambda runtime, bad: runtime.xcom.push("r", "one", bad, 1),
    "pull": lambda runtime, bad: runtime.xcom.pull("r", "one", bad),
    "pull_outputs": lambda runtime, bad: runtime.xcom.pull_outputs("r", "one", bad),
    "pull_many": lambda runtime, bad: runtime.xcom.pull_many("r", [("one", bad)]),
    "delete": lambda runtime, bad: runtime.xcom.delete("r", "one", bad),
}


async def test_a_bad_id_is_refused_at_every_door(tmp_path: Path) -> None:
    """Of runs, tasks and keys: InvalidIdError, and nothing is stored or deleted."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.run(dag, run_id="r")
    before, began = dump(path), time.monotonic()
    async with Runtime(path) as runtime:
        for doors, bad_ones in ((RUN_DOORS, BAD_NAMES), (TASK_DOORS, BAD_NAMES), (KEY_DOORS, BAD_KEYS)):
            for name, door in doors.items():
                for bad in bad_ones:
                    if bad is None and name in {"start", "run"}:
                        continue  # It stands for a fresh id.
                    with pytest.raises(InvalidIdError):
                        await door(runtime, bad)
    assert time.monotonic() - began < AT_MOST_S
    assert dump(path) == before


async def test_keys_that_look_alike_stay_apart(tmp_path: Path) -> None:
    """Case, composition and script are not folded, and names of Python's own are names like any."""
    assert unicodedata.normalize("NFC", "e\u0301") == "\u00e9"
    async with Runtime(tmp_path / "runs.db") as runtime:
        for number, key in enumerate(GOOD_KEYS):
            await runtime.xcom.push("r", "t", key, number)
        assert [await runtime.xcom.pull("r", "t", key) for key in GOOD_KEYS] == list(range(len(GOOD_KEYS)))
        for run_id in ("Load", "load", "__class__", "items", "0"):
            await runtime.run(dag, run_id=run_id)
        assert {run.run_id for run in await runtime.runs()} == {"Load", "load", "__class__", "items", "0"}


class HostileList(list[Any]):
    """Must not be walked."""

    def __iter__(self) -> Iterator[Any]:
        """Never end."""
        while True:
            yield 1


class HostileDict(dict[str, Any]):
    """Must not be asked."""

    def items(self) -> Any:
        """Raise worse than an error."""
        raise SystemExit


def nested(depth: int) -> list[Any]:
    """Return lists inside each other."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def holding_itself() -> list[Any]:
    """Return a list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


def widening() -> list[Any]:
    """Return ten levels of ten times the same."""
    value: list[Any] = [1]
    for _ in range(10):
        value = [value] * 10
    return value


BAD_VALUES: Final[dict[str, Callable[[], Any]]] = {
    "one byte over": lambda: "x" * (1024 * 1024 - 1),
    "over by bytes, not by letters": lambda: "é" * (512 * 1024),
    "over by escapes": lambda: "\x01" * 200_000,
    "NaN": lambda: float("nan"),
    "infinity inside": lambda: {"a": [float("inf")]},
    "a very long integer": lambda: 10**4300,
    "keys that meet": lambda: {1: "a", "1": "b"},
    "a key of another type": lambda: {True: 1},
    "very deep": lambda: nested(100_000),
    "holding itself": holding_itself,
    "small in memory only": widening,
    "a lone surrogate": lambda: "\ud800",
    "a hostile list": lambda: HostileList([1]),
    "a hostile dict": lambda: HostileDict(a=1),
    "a generator": lambda: (number for number in range(3)),
    "a function": lambda: len,
    "an object": object,
    "a class": lambda: int,
}
REFUSALS: Final = (XComSerializationError, XComTooLargeError)


async def test_a_bad_value_is_refused_at_every_door(tmp_path: Path) -> None:
    """Pushed from outside, by a handler, several at once, as a return value and as a param: an error of ours, no row, at once."""
    path = tmp_path / "runs.db"
    returning = DAG("returning")

    @returning.task
    async def give(ctx: TaskContext, name: str) -> Any:
        for push in (ctx.xcom.push("k", BAD_VALUES[name]()), ctx.xcom.push_many({"good": 1, "bad": BAD_VALUES[name]()})):
            with pytest.raises(REFUSALS):
                await push
        return BAD_VALUES[name]()

    # The doors of a handler share their encoder with the one outside: a few of each kind tell whether they use it.
    inside = dict(list(BAD_VALUES.items())[::4])
    began = time.monotonic()
    async with Runtime(path) as runtime:
        for make in BAD_VALUES.values():
            with pytest.raises(REFUSALS):
                await runtime.xcom.push("outside", "t", "k", make())
        for name, make in inside.items():
            with pytest.raises(DagrelayError):
                await runtime.run(DAG("p", params={"value": None}), params={"value": make()})
            with pytest.raises(RunFailedError) as failed:
                await runtime.run(returning, params={"name": name})
            assert isinstance(failed.value.exceptions[0].__cause__, REFUSALS), name
    assert time.monotonic() - began < 2 * AT_MOST_S
    counts = dump(path).counts
    assert (counts["xcom"], counts["run"]) == (0, len(inside))


class Bad:
    """A serializer with one fault."""

    def __init__(self, fault: str) -> None:
        """Take the fault."""
        self.name = fault

    def dumps(self, value: Any) -> Any:
        """Return bytes, or whatever the fault is."""
        match self.name:
            case "raises":
                raise RuntimeError("planted")
            case "text":
                return "text"
            case "none":
                return None
            case "bytearray":
                return bytearray(b"1")
            case "large":
                return b"x" * 2_000
            case _:
                time.sleep(0.05)
                return repr(value).encode()

    def loads(self, data: bytes) -> Any:
        """Raise, or return text."""
        if self.name == "slow":
            return data.decode()
        raise RuntimeError("planted")


FAULTS: Final = ("raises", "text", "none", "bytearray", "large", "slow")


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_bad_serializer_is_told_and_stores_nothing(fault: str) -> None:
    """It raises, returns no bytes or too many: an error that names it. A slow one only takes its time."""
    async with Runtime(":memory:", serializer=Bad(fault), limits=Limits(max_xcom_bytes=1_000)) as runtime:
        if fault == "slow":
            await runtime.xcom.push("r", "t", "k", 1)
            assert await runtime.xcom.pull("r", "t", "k") == "1"
            return
        with pytest.raises(REFUSALS):
            await runtime.xcom.push("r", "t", "k", 1)
        assert await runtime.xcom.list("r") == []
