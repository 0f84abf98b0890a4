"""The example runs as it stands, on the data shipped with it."""

from __future__ import annotations

import csv
import runpy
from datetime import date
from typing import TYPE_CHECKING

from dagrelay import Runtime
from dagrelay.examples import WEATHER_CSV, weather

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_the_data_set_is_the_one_its_note_describes() -> None:
    """1,461 days in four years, in lines that end as lines do."""
    data = WEATHER_CSV.read_bytes()
    rows = list(csv.DictReader(data.decode("ascii").splitlines()))

    assert b"\r" not in data
    assert len(rows) == 1461
    assert (rows[0]["date"], rows[-1]["date"]) == ("2012/01/01", "2015/12/31")
    assert list(rows[0]) == ["date", "precipitation", "temp_max", "temp_min", "wind", "weather"]
    note = WEATHER_CSV.with_name("PROVENANCE.md").read_text(encoding="utf-8")
    assert "vega-datasets" in note
    assert all(f"`{column}`" in note for column in rows[0])


async def test_the_example_reports_four_years() -> None:
    """Values come typed; nested paths, an index and filters are in the prompt."""
    async with Runtime(":memory:") as runtime:
        result = await runtime.run(weather.dag)
        years = await result.pull(weather.yearly)
        report = result[weather.report]
        counted = await runtime.xcom.pull(result.run_id, "load", "day_count")
        snow = await runtime.xcom.pull(result.run_id, "kinds", "snow")

    assert [year.year for year in years] == [2012, 2013, 2014, 2015]
    assert years[0].wettest == weather.Day(date=date(2012, 11, 19), rain_mm=54.1, max_c=13.3, kind="rain")
    assert (counted, snow) == (1461, 23)
    assert report.splitlines()[0].startswith("2012   1226.0 mm  189 dry days  wettest 2012-11-19 (54.1 mm)")
    assert report.splitlines()[5:] == [
        "Write two sentences for a newspaper about the weather in Seattle. Keep to these facts, from 1461 days:",
        "- In 2012 the wettest day was 2012-11-19 with 54.1 mm.",
        "- 2015 had 221 days without rain, and its warmest was 2015-07-19.",
        "- It snowed on 23 days of the 4 years.",
    ]


async def test_the_example_reads_another_file(tmp_path: Path) -> None:
    """`path` is a param of the run; a year without snow is no error."""
    path = tmp_path / "one.csv"
    path.write_text("date,precipitation,temp_max,temp_min,wind,weather\r\n2020/02/29,1.5,3.0,-1.0,2.0,rain\r\n")

    async with Runtime(":memory:") as runtime:
        result = await runtime.run(weather.dag, params={"path": str(path), "pause_s": 0.0})

    assert "It snowed on 0 days of the 1 years." in result[weather.report]


async def test_its_handlers_are_plain_functions() -> None:
    """A unit test calls them as they are."""
    day = weather.Day(date=date(2020, 2, 29), rain_mm=1.5, max_c=3.0, kind="rain")

    assert weather.kinds([day, day]) == {"rain": 2}
    assert (await weather.yearly([day]))[0].wettest == day


def test_the_file_runs_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """As `python weather.py`."""
    runpy.run_path(weather.__file__, run_name="__main__")

    assert capsys.readouterr().out.startswith("2012   1226.0 mm")
