"""G19: a flipped bit is told, or changes nothing that is answered.

A store is copied, one random bit of the copy is flipped, and every question of the public API is asked. Each answer must be
the right one or an error of ours. A lookup may also find nothing, if an index has lost the row; in the write-ahead log, whose
tail SQLite drops when it is damaged, what is left must be a state that once was.
"""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from dagrelay import DagrelayError, SqliteStore, XComNotFoundError
from tests.crash.judging import survey
from tests.crash.workload import AckFile, carry, make_dag, make_runtime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.crash.judging import Values

pytestmark = pytest.mark.crash

RUN = "r"
LISTS = {"runs", "instances", "entries", "visible", "events"}
"""Questions whose answers are rows."""


@attrs.define
class Tally:
    """What came of the flips."""

    harmless: int = 0
    told: int = 0
    missing: int = 0

    def count(self, answers: dict[str, Any], errors: list[DagrelayError], *, has_missing: bool) -> None:
        """Count one flip by the worst that came of it."""
        if errors or not answers:
            self.told += 1
        elif has_missing:
            self.missing += 1
        else:
            self.harmless += 1


async def make(path: Path, *, keep_log_in: Path | None = None) -> None:
    """Make a store with a whole run; with `keep_log_in` copy its files there before they are closed."""
    async with make_runtime(SqliteStore(path), "strict") as runtime:
        await carry(runtime, make_dag(AckFile(None)), RUN, AckFile(None))
        if keep_log_in is not None:
            for name in (path.name, f"{path.name}-wal"):
                shutil.copy(path.with_name(name), keep_log_in / name)


async def ask(path: Path, expected: Values, *, is_owner: bool) -> tuple[dict[str, Any], list[DagrelayError]]:
    """Ask everything; return the answers by question, and the errors told in place of others."""
    answers: dict[str, Any] = {}
    errors: list[DagrelayError] = []

    async def note(question: str, answer: Awaitable[Any]) -> None:
        try:
            answers[question] = await answer
        except XComNotFoundError:
            answers[question] = None
        except DagrelayError as error:
            errors.append(error)

    try:
        with anyio.fail_after(20):
            async with make_runtime(SqliteStore(path, read_only=not is_owner), "strict") as runtime:
                await note("runs", runtime.runs())
                await note("run", runtime.get_run(RUN))
                await note("instances", runtime.task_instances(RUN))
                await note("entries", runtime.xcom.list(RUN, all_attempts=True, include_values=True))
                await note("visible", runtime.xcom.list(RUN, include_values=True))
                await note("events", _events(runtime.events(RUN)))
                for task_id, values in expected.items():
                    for key in values:
                        await note(f"value {task_id}.{key}", runtime.xcom.pull(RUN, task_id, key))
    except DagrelayError as error:
        errors.append(error)
    return answers, errors


async def _events(timeline: Any) -> list[Any]:
    return [event async for event in timeline]


def compare(answers: dict[str, Any], right: dict[str, Any]) -> bool:
    """Check that no answer is wrong, and tell whether anything is missing."""
    has_missing = False
    for question, answer in answers.items():
        if question in LISTS:
            rows: list[Any] = answer
            wrong = [each for each in rows if each not in right[question]]
            assert not wrong, f"{question}: {wrong}"
            has_missing |= len(rows) < len(right[question])
        else:
            assert answer is None or answer == right[question], question
            has_missing |= answer is None
    return has_missing


def flip(source: Path, target: Path, dice: random.Random) -> int:
    """Copy a file with one bit flipped, and return which."""
    content = bytearray(source.read_bytes())
    place = dice.randrange(len(content) * 8)
    content[place // 8] ^= 1 << place % 8
    target.write_bytes(content)
    return place


def remove(folder: Path) -> None:
    """Remove all files of a folder."""
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.timeout(600)
def test_flipped_bits_of_the_database_give_no_wrong_answer(
    quick_folder: Path, expected: Values, is_full: bool, figure: Callable[[str], None]
) -> None:
    """400 in full; every other time by an owner, who writes to the damaged file too."""
    wanted, dice, tally = 400 if is_full else 40, random.Random(6), Tally()
    original, damaged = quick_folder / "whole", quick_folder / "damaged"
    original.mkdir()
    damaged.mkdir()
    anyio.run(make, original / "runs.db")
    right, errors = anyio.run(lambda: ask(original / "runs.db", expected, is_owner=True))
    assert not errors
    for number in range(wanted):
        place = flip(original / "runs.db", damaged / "runs.db", dice)
        backend = ("asyncio", "trio")[number // 2 % 2]
        try:
            asked = lambda: ask(damaged / "runs.db", expected, is_owner=bool(number % 2))  # noqa: B023, E731 - called at once
            answers, errors = anyio.run(asked, backend=backend)
            tally.count(answers, errors, has_missing=compare(answers, right))
        except BaseException as error:
            error.add_note(f"bit {place} is flipped (flip {number})")
            raise
        remove(damaged)
    figure(
        f"G19 {wanted} bits of the database flipped: {tally.told} told, {tally.missing} left something unfound, "
        f"{tally.harmless} harmless, 0 silent wrong answers"
    )
    assert tally.told > 0


@pytest.mark.timeout(600)
def test_flipped_bits_of_the_log_leave_a_state_that_once_was(
    quick_folder: Path, expected: Values, is_full: bool, figure: Callable[[str], None]
) -> None:
    """60 in full; values are right or not there, and no attempt is half there."""
    wanted, dice = 60 if is_full else 10, random.Random(8)
    original, damaged = quick_folder / "whole", quick_folder / "damaged"
    original.mkdir()
    damaged.mkdir()
    anyio.run(lambda: make(quick_folder / "runs.db", keep_log_in=original))
    earlier = told = 0

    async def look() -> int:
        async with make_runtime(SqliteStore(damaged / "runs.db"), "strict") as runtime:
            _, succeeded = await survey(runtime, RUN, expected)
            return len(succeeded)

    for number in range(wanted):
        place = flip(original / "runs.db-wal", damaged / "runs.db-wal", dice)
        shutil.copy(original / "runs.db", damaged)
        try:
            earlier += anyio.run(look, backend=("asyncio", "trio")[number % 2]) < len(expected)
        except DagrelayError:
            told += 1
        except BaseException as error:
            error.add_note(f"bit {place} is flipped (flip {number})")
            raise
        remove(damaged)
    figure(
        f"G19 {wanted} bits of the log flipped: {told} told, {earlier} left an earlier state, "
        f"{wanted - told - earlier} harmless, 0 silent wrong answers"
    )
    assert earlier > 0
