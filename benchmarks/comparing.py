"""What the speed guard makes of its ratios; pure, and without any other module of this folder, so that it can be tested."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("MAY_FALL_BY", "Verdict", "better_of", "compare", "worse_of")

MAY_FALL_BY: Final = 1 / 3
"""How much of a ratio may be gone: beyond what a shared machine does to ratios of one run."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one ratio. The higher a ratio, the better."""

    name: str
    """What is compared with what."""
    baseline: float | None
    """What it was; None if nobody has written that down."""
    now: float | None
    """What it is; None if it was not measured."""

    @property
    def has_fallen(self) -> bool:
        """Whether it is lower than a shared machine explains."""
        return self.baseline is not None and self.now is not None and self.now < self.baseline * (1 - MAY_FALL_BY)

    @property
    def is_unguarded(self) -> bool:
        """Whether it was measured, and there is nothing to hold it against."""
        return self.baseline is None

    def __str__(self) -> str:
        """Return it as a line."""
        before, now = ("-" if value is None else f"{value:.3g}" for value in (self.baseline, self.now))
        word = (
            "FALLEN" if self.has_fallen else "no baseline" if self.is_unguarded else "not measured" if self.now is None else "ok"
        )
        return f"{self.name}: baseline {before}, now {now}: {word}"


def compare(baseline: Mapping[str, float], now: Mapping[str, float]) -> list[Verdict]:
    """Return a verdict on every ratio of either side, in the order of the baseline, then of what is new."""
    return [Verdict(name=name, baseline=baseline.get(name), now=now.get(name)) for name in dict.fromkeys((*baseline, *now))]


def worse_of(first: Mapping[str, float], again: Mapping[str, float]) -> dict[str, float]:
    """Return the worse of two measurements of each ratio: what a baseline is made of, lest a lucky moment binds everybody."""
    return {name: min(value, again.get(name, value)) for name, value in first.items()}


def better_of(first: Mapping[str, float], again: Mapping[str, float]) -> dict[str, float]:
    """Return the better of two measurements of each ratio: a neighbour can make one worse, and none can make it better."""
    return {name: max(value for value in (first.get(name), again.get(name)) if value is not None) for name in {**first, **again}}
