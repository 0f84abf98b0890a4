"""An almanac of four years of weather: streamed, counted, written year by year, and printed once somebody has agreed.

    read ~~~ stream ~~> sort ── describe (one for each year) ── editor ── decide ──┬── publish
                                                                                   └── shelve

`dagrelay run dagrelay.examples.almanac --run-id spring` runs it until it waits for its editor. Be that from another terminal, now
or after the first was killed: `dagrelay provide spring editor --approve --by Ada`. This file itself approves on its own.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import groupby

import anyio

from dagrelay import DAG, Approval, Runtime, Task, TaskContext, template
from dagrelay.examples.data import WEATHER_CSV

__all__ = ("Month", "Year", "dag", "decide", "describe", "editor", "main", "publish", "read", "shelve", "sort")


@dataclass(frozen=True)
class Month:
    """One month of days, as measured."""

    year: int
    days: int
    rain_mm: float


@dataclass
class Year:
    """One year, counted as its months come."""

    year: int
    days: int = 0
    rain_mm: float = 0.0


dag: DAG = DAG("almanac", description="An almanac that an editor has to approve", tags=["example"])


# Items are numbered, so that a second attempt goes on in the same stream; those that are there already are passed over.
@dag.task(retries=1)
async def read(ctx: TaskContext, path: str = str(WEATHER_CSV)) -> int:
    """Hand the months on while the file is read, and return how many days there were."""
    rows = list(csv.DictReader((await anyio.Path(path).read_text(encoding="utf-8")).splitlines()))
    for number, (month, days) in enumerate(groupby(rows, key=lambda row: row["date"][:7])):
        rain = [float(day["precipitation"]) for day in days]
        await ctx.xcom.append("months", Month(year=int(month[:4]), days=len(rain), rain_mm=sum(rain)), seq=number)
    return len(rows)


# Runs beside `read`. After a crash it goes on with the month after the last one that is in `years`: both are one transaction.
@dag.task(after_start=read, retries=1)
async def sort(ctx: TaskContext) -> list[Year]:
    """Sum the months of each year up as they come, and return the years."""
    years: list[Year] = await ctx.xcom.pull_own("years", default=[], as_type=list[Year])
    async for month in ctx.xcom.stream(read, "months", as_type=Month, resume=True):
        if not years or years[-1].year != month.year:
            years.append(Year(month.year))
        years[-1].days += month.days
        years[-1].rain_mm += month.rain_mm
        await ctx.xcom.push("years", years, lifetime="task")
    return years


# One instance for each year, whose number nobody knows before the run.
@dag.task(max_concurrency=2)
async def describe(year: Year = sort.each) -> str:
    """Return a line on one year; a real pipeline would ask a language model here."""
    return f"{year.year}: {year.rain_mm:.0f} mm of rain in {year.days} days"


# Waits, without a slot and over restarts, until somebody answers.
editor: Task[Approval] = dag.approval("editor", depends_on=describe, description="May this be printed?")


@dag.branch
async def decide(answer: Approval = editor.output) -> str:
    """Choose one of the two below; the other is skipped."""
    return "publish" if answer.approved else "shelve"


@dag.task(depends_on=decide)
async def publish(
    lines: list[str] = describe.outputs,
    approved: str = template("From {{ xcom.read }} days, approved by {{ xcom.editor.return_value.by }}."),
) -> str:
    """Return the almanac."""
    return "\n".join([*lines, approved])


@dag.task(depends_on=decide)
async def shelve(answer: Approval = editor.output) -> str:
    """Return why there is none."""
    return f"Not printed: {answer.note}"


async def main() -> None:
    """Run the DAG in memory, approve it, and print the almanac."""
    async with Runtime(":memory:") as runtime:
        handle = await runtime.start(dag)
        await runtime.provide(handle.run_id, editor.id, Approval(approved=True, by="the author"))
        result = await handle.result()
        print(result[publish])


if __name__ == "__main__":
    anyio.run(main)
