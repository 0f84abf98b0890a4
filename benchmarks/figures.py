"""What a part tells: a table, and ratios, each taken in every round between turns of that round."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ("Part", "as_text", "divided", "spread")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the suite, measured."""

    title: str
    """What was measured."""
    head: tuple[str, ...]
    """The columns' names."""
    rows: Sequence[tuple[str, ...]]
    """What is shown: the name first."""
    ratios: dict[str, list[float]]
    """By name, one for each round."""
    samples: Any
    """Every figure, for the JSON file."""
    notes: Sequence[str] = field(default=())
    """What a reader has to know of just these figures."""


def divided(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratio of two figures in each round."""
    return [one / other for one, other in zip(above, below, strict=True)]


def spread(values: Sequence[float], show: Callable[[float], str]) -> tuple[str, str]:
    """Return a figure's median, and its range over the rounds."""
    return show(statistics.median(values)), f"{show(min(values))}-{show(max(values))}"


def as_text(part: Part) -> str:
    """Return a part as it is printed."""
    lines = [f"## {part.title}", "", *_aligned([part.head, *part.rows])]
    if part.ratios:
        ratios = [(name, *spread(values, _ratio)) for name, values in part.ratios.items()]
        lines += ["", *_aligned([("ratio", "median", "min-max"), *ratios])]
    return "\n".join([*lines, *(f"({note})" for note in part.notes)])


def _ratio(value: float) -> str:
    return f"{value:.3g}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines: the first column flush left, figures flush right."""
    first, *others = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in rows
    ]
