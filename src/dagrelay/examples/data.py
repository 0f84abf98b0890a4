"""The data set shipped with the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ("WEATHER_CSV",)

WEATHER_CSV: Final[Path] = Path(__file__).with_name("seattle-weather.csv")
"""Daily weather of Seattle, 2012 to 2015: date, precipitation (mm), temp_max and temp_min (C), wind (m/s), weather."""
