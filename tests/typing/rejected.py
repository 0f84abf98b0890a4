"""Wirings that checkers must reject, each in a line marked `rejected`. Read by checkers only; see test_checkers.py.

The marks are ignored errors: both checkers are set to complain of an ignore that ignores nothing, so that what is no longer
rejected is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

from dagrelay import DAG, RunResult


@dataclass
class Row:
    """One row."""

    v: float


dag = DAG("weather", defaults={"retry": 1})  # type: ignore[arg-type]  # rejected: no such option


@dag.task
async def load(path: str) -> list[Row]:
    """Return a handler's value as declared."""
    return [Row(float(len(path)))]


@dag.task
def count(rows: list[Row] = load.output) -> int:
    """Run in a thread."""
    return len(rows)


@dag.task
async def other_items(rows: list[int] = load.output) -> None:  # type: ignore[assignment]  # rejected: other items
    """Take rows for numbers."""


@dag.task
async def no_list(row: Row = load.output) -> None:  # type: ignore[assignment]  # rejected: a list for one of it
    """Take all rows for one."""


@dag.task
async def no_field(v: float = load.output[0].w) -> None:  # type: ignore[attr-defined]  # rejected: a path that is none
    """Take a field that rows don't have."""


@dag.task
async def no_reference(rows: list[Row] = load) -> None:  # type: ignore[assignment]  # rejected: the task for its output
    """Take a task for its output."""


maybe_rows = load.output_or(None)


@dag.task
async def not_optional(rows: list[Row] = maybe_rows) -> None:  # type: ignore[assignment]  # rejected: may be None
    """Take a value that may be none."""


@dag.task
async def of_a_thread(text: str = count.output) -> None:  # type: ignore[assignment]  # rejected: a number for text
    """Take a number for text."""


@dag.task(retrys=2)  # type: ignore[call-overload,untyped-decorator]  # rejected: no such option
async def misspelt() -> None:
    """Misspell an option."""


@dag.task
async def other_elements(row: int = load.each) -> None:  # type: ignore[assignment]  # rejected: an element of rows
    """Take a row for a number."""


@dag.task
async def no_elements(item: int = count.each) -> None:  # type: ignore[misc]  # rejected: no list
    """Map over a number."""


@dag.task(retries="2")  # type: ignore[call-overload,untyped-decorator]  # rejected: text for a number
async def mistyped() -> None:
    """Mistake an option."""


dag.add(count, retrys=2)  # type: ignore[call-overload]  # rejected: no such option
load >> 3  # type: ignore[type-var]  # rejected: no task
single: str = count.outputs  # type: ignore[assignment]  # rejected: a list for text


async def outcome(result: RunResult) -> None:
    """Read results as what they are not."""
    text: str = result[count]  # type: ignore[assignment]  # rejected: a number for text
    one: int = await load("path")  # type: ignore[assignment]  # rejected: a list for a number
    await load(1)  # type: ignore[arg-type]  # rejected: a number for a path
    print(text, one)  # noqa: T201 - used, so that nothing else is found here
