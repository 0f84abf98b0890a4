"""The speed guard tells a ratio that has fallen from one that has merely wobbled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.comparing import better_of, compare, worse_of

BASELINE = Path(__file__).parents[2] / "benchmarks" / "baseline.json"


@pytest.mark.parametrize(
    ("now", "has_fallen"),
    [(0.90, False), (0.60, False), (0.41, False), (0.39, True), (0.0, True)],
)
def test_a_ratio_may_lose_a_third(now: float, has_fallen: bool) -> None:
    """What is slower than that is told; what has become faster never is."""
    (verdict,) = compare({"layered": 0.60}, {"layered": now})

    assert verdict.has_fallen is has_fallen
    assert not verdict.is_unguarded


def test_a_verdict_tells_name_baseline_and_now() -> None:
    """Whoever reads only the line knows what to look for."""
    (verdict,) = compare({"layered": 0.6}, {"layered": 0.3})

    assert str(verdict) == "layered: baseline 0.6, now 0.3: FALLEN"


def test_a_ratio_that_could_not_be_measured_is_named_and_has_not_fallen() -> None:
    """What it is compared with may not be installed."""
    (verdict,) = compare({"templates": 4.0}, {})

    assert not verdict.has_fallen
    assert str(verdict) == "templates: baseline 4, now -: not measured"


def test_a_ratio_without_baseline_is_unguarded() -> None:
    """A new one has to be written down before it can fall."""
    known, new = compare({"layered": 0.6}, {"new": 1.0, "layered": 0.6})

    assert (known.name, known.is_unguarded) == ("layered", False)
    assert (new.name, new.is_unguarded, new.has_fallen) == ("new", True, False)
    assert str(new).endswith("no baseline")


def test_the_better_of_two_measurements_counts() -> None:
    """A noisy neighbour met only one of them."""
    first = {"layered": 0.3, "chain": 0.8, "fan": 0.5}

    assert better_of(first, {"layered": 0.6, "chain": 0.7}) == {"layered": 0.6, "chain": 0.8, "fan": 0.5}


def test_a_baseline_is_no_lucky_moment() -> None:
    """The worse of two measurements is written down."""
    assert worse_of({"layered": 0.3, "fan": 0.2}, {"layered": 0.2, "fan": 0.3}) == {"layered": 0.2, "fan": 0.2}


def test_the_baseline_is_one_of_positive_ratios() -> None:
    """It is written by the guard, and kept in the repository."""
    ratios = json.loads(BASELINE.read_text(encoding="utf-8"))["ratios"]

    assert ratios
    assert all(isinstance(value, float | int) and value > 0 for value in ratios.values())
