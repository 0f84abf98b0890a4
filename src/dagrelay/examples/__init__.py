"""Examples that run as they stand, and the data they run on.

`weather` is a whole DAG on four years of daily weather, and what `dagrelay demo` runs. `WEATHER_CSV` is the path of its data set,
which is shipped in the package; PROVENANCE.md beside it tells where it comes from.
"""

from __future__ import annotations

from dagrelay.examples.data import WEATHER_CSV as WEATHER_CSV

__all__ = ("WEATHER_CSV",)
