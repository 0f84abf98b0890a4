"""Four years of weather in Seattle: load it, count it by year, put the facts into a prompt, and write a report.

    load ──┬── yearly ──┬── pause ── prompt ── report
           └── kinds ───┘

`dagrelay demo` runs it, and so does `dagrelay run dagrelay.examples.weather`, or this file itself. Stop it in its pause, with
Ctrl-C or kill -9, and resume it: what had finished does not run again.
"""

from __future__ import annotations

import csv
import datetime as dt
from collections import Counter
from dataclasses import dataclass

import anyio

from dagrelay import DAG, Runtime, TaskContext, template
from dagrelay.examples.data import WEATHER_CSV

__all__ = ("Day", "Year", "dag", "kinds", "load", "main", "pause", "prompt", "report", "yearly")


@dataclass(frozen=True)
class Day:
    """One day, as measured."""

    date: dt.date
    rain_mm: float
    max_c: float
    kind: str


@dataclass(frozen=True)
class Year:
    """One year, in a few figures."""

    year: int
    rain_mm: float
    dry_days: int
    wettest: Day
    warmest: Day


dag: DAG = DAG("weather", description="Four years of weather in Seattle, from a file to a report", tags=["example"])


# A handler's parameter that is wired to nothing is a param of the run: `-p path=...` on the command line.
@dag.task
async def load(ctx: TaskContext, path: str = str(WEATHER_CSV)) -> list[Day]:
    """Read the days from the file, and push how many there are under a key of its own."""
    lines = (await anyio.Path(path).read_text(encoding="utf-8")).splitlines()
    days = [
        Day(
            date=dt.datetime.strptime(row["date"], "%Y/%m/%d").replace(tzinfo=dt.UTC).date(),
            rain_mm=float(row["precipitation"]),
            max_c=float(row["temp_max"]),
            kind=row["weather"],
        )
        for row in csv.DictReader(lines)
    ]
    await ctx.xcom.push("day_count", len(days), description="days read")
    return days


# The signature is the wiring: `days` is what `load` returned, as the dataclasses it was made of.
@dag.task(retries=2, timeout_s=30)
async def yearly(days: list[Day] = load.output) -> list[Year]:
    """Sum up each year, earliest first."""
    by_year: dict[int, list[Day]] = {}
    for day in days:
        by_year.setdefault(day.date.year, []).append(day)
    return [
        Year(
            year=year,
            rain_mm=round(sum(day.rain_mm for day in of_year), 1),
            dry_days=sum(day.rain_mm == 0 for day in of_year),
            wettest=max(of_year, key=lambda day: day.rain_mm),
            warmest=max(of_year, key=lambda day: day.max_c),
        )
        for year, of_year in sorted(by_year.items())
    ]


# With multiple_outputs each item of the dict gets a key of its own as well: `xcom.kinds.snow`.
@dag.task(multiple_outputs=True)
def kinds(days: list[Day] = load.output) -> dict[str, int]:
    """Count the days of each kind of weather; a plain function, which runs in a worker thread."""
    return dict(Counter(day.kind for day in days))


@dag.task(depends_on=[yearly, kinds])
async def pause(ctx: TaskContext, pause_s: float = 0.0) -> None:
    """Wait, so that there is time to stop the run and see it resumed; the resumed one has waited enough."""
    if ctx.attempt == 1:
        await anyio.sleep(pause_s)


# Templates are rendered just before the task starts; whatever they read is an edge of the DAG.
@dag.task(depends_on=pause)
async def prompt(
    text: str = template("""\
Write two sentences for a newspaper about the weather in Seattle. Keep to these facts, from {{ xcom.load.day_count }} days:
- In {{ xcom.yearly.return_value[0].year }} the wettest day was {{ xcom.yearly.return_value[0].wettest.date }} with \
{{ xcom.yearly.return_value[0].wettest.rain_mm }} mm.
- {{ xcom.yearly.return_value[-1].year }} had {{ xcom.yearly.return_value[-1].dry_days }} days without rain, and its warmest \
was {{ xcom.yearly.return_value[-1].warmest.date }}.
- It snowed on {{ xcom.kinds.snow | default(0) }} days of the {{ xcom.yearly | length }} years."""),
) -> str:
    """Return the prompt; a real pipeline would ask a language model here."""
    return text


@dag.task
async def report(years: list[Year] = yearly.output, text: str = prompt.output) -> str:
    """Return a table of the years, and the prompt below it."""
    rows = [
        f"{each.year}  {each.rain_mm:7.1f} mm  {each.dry_days:3} dry days  "
        f"wettest {each.wettest.date} ({each.wettest.rain_mm} mm)  warmest {each.warmest.date} ({each.warmest.max_c} C)"
        for each in years
    ]
    return "\n".join([*rows, "", text])


async def main() -> None:
    """Run the DAG in memory and print the report."""
    async with Runtime(":memory:") as runtime:
        result = await runtime.run(dag)
        print(result[report])


if __name__ == "__main__":
    anyio.run(main)
