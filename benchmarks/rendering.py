"""Rendering of a compiled template from values at hand, beside Jinja2's sandbox, compiled once as well."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, Final

from dagrelay.model.missing import MISSING
from dagrelay.templates import parse, render
from figures import Part, divided, spread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay.templates import Expression

__all__ = ("RATIOS", "measure")

_REFERENCES: Final = (1, 10, 100)
RATIOS: Final = {count: f"Jinja2 / dagrelay, references: {count}" for count in _REFERENCES}
_ROUNDS: Final = 25
_QUICK_ROUNDS: Final = 9
_TURN_S: Final = 0.02


class _AtHand:
    """Values decoded before, as those of an attempt's templates are."""

    def __init__(self, values: dict[str, dict[str, Any]]) -> None:
        self._values = {(task, key): value for task, entries in values.items() for key, value in entries.items()}

    def get(self, expression: Expression) -> Any:
        return self._values.get((expression.task_id, expression.key), MISSING)


def measure(folder: Path, *, is_quick: bool) -> Part:
    """Measure rendering, in this process: it is a function of its arguments, with no loop and no disk."""
    del folder
    rounds = _QUICK_ROUNDS if is_quick else _ROUNDS
    rows: list[tuple[str, ...]] = []
    ratios: dict[str, list[float]] = {}
    samples: dict[str, dict[str, list[float]]] = {}
    has_jinja = True
    for references in _REFERENCES:
        turns = _turns(references)
        has_jinja = "Jinja2" in turns
        times = _take_turns(turns, rounds)
        samples[str(references)] = times
        rows += [(f"{name}, references: {references}", *spread(each, _microseconds)) for name, each in times.items()]
        if has_jinja:
            ratios[RATIOS[references]] = divided(times["Jinja2"], times["dagrelay"])
    return Part(
        title="templates: text with references into values at hand, compiled once",
        head=("what", "us", "min-max"),
        rows=rows,
        ratios=ratios,
        samples=samples,
        notes=() if has_jinja else ("Jinja2 is not installed, so there is nothing to compare with",),
    )


def _turns(references: int) -> dict[str, Callable[[], str]]:
    """Return what renders one text from one set of values, by who does it; all write the same."""
    values: dict[str, dict[str, Any]] = {
        f"t{number}": {"return_value": {"user": {"name": f"name {number}", "age": number}}} for number in range(references)
    }
    text = "".join(f"Line {number}: {{{{ xcom.t{number}.return_value.user.name }}}} came. " for number in range(references))
    template, scope = parse(text), _AtHand(values)
    turns: dict[str, Callable[[], str]] = {"dagrelay": lambda: render(template, scope)}
    try:
        from jinja2.sandbox import SandboxedEnvironment  # noqa: PLC0415 - optional
    except ImportError:
        return turns
    jinja = SandboxedEnvironment().from_string(text)
    turns["Jinja2"] = lambda: jinja.render(xcom=values)
    if turns["Jinja2"]() != turns["dagrelay"]():
        raise SystemExit("Jinja2 writes another text")
    return turns


def _take_turns(turns: dict[str, Callable[[], str]], rounds: int) -> dict[str, list[float]]:
    """Return each one's seconds for one rendering, by rounds."""
    counts = {name: max(1, int(_TURN_S / _seconds_each(turn, 10))) for name, turn in turns.items()}
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        names = list(turns)
        random.Random(number).shuffle(names)
        for name in names:
            times[name].append(_seconds_each(turns[name], counts[name]))
    return times


def _seconds_each(turn: Callable[[], str], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        turn()
    return (time.perf_counter() - start) / count


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.2f}"
