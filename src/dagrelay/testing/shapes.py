"""What random DAGs are made of: each task's wiring and behaviour, drawn by chance before there is any DAG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import attrs

from dagrelay.dag.plan import TaskKind
from dagrelay.model.states import TaskState, TriggerRule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

__all__ = ("MOST_ELEMENTS", "ElementShape", "TaskShape", "draw_shapes")

MOST_ELEMENTS: Final = 5
"""The most elements a mapped task has."""
_Rule = TriggerRule
_EAGER: Final = frozenset({_Rule.ONE_SUCCESS, _Rule.ONE_FAILED, _Rule.ONE_DONE, _Rule.ALWAYS})
"""Rules that may start a task before all its upstreams have ended, so that what they hand on by then is a matter of time."""
_RULES: Final = (*_Rule, *[_Rule.ALL_SUCCESS] * 8, *[_Rule.ALL_DONE] * 3)
_KINDS: Final = (*[TaskKind.PLAIN] * 14, *[TaskKind.MAPPED] * 3, *[TaskKind.BRANCH] * 2, TaskKind.SHORT_CIRCUIT)
_ENDINGS: Final = (*[TaskState.SUCCESS] * 8, TaskState.FAILED, TaskState.SKIPPED)
_MOST_UPSTREAMS: Final = 4


@attrs.frozen(kw_only=True)
class ElementShape:
    """What an element of a mapped task does."""

    ending: TaskState
    """How it ends if it runs: success, failed or skipped."""
    failures: int
    """How many attempts fail before the one that ends it; one that is to fail for good does so until all attempts are used up."""


@attrs.frozen(kw_only=True)
class TaskShape:
    """What a generated task is and does."""

    number: int
    """Its number; its id is `t<number>`."""
    kind: TaskKind
    """Plain, mapped, a branch or a short-circuit."""
    upstream: tuple[int, ...]
    """Its direct upstreams, all with lower numbers."""
    left_by: tuple[int, ...]
    """Those of its upstreams that choose, and don't choose it."""
    rule: TriggerRule
    """Its trigger rule."""
    ending: TaskState
    """How it ends if it runs: success, failed or skipped. Of a mapped task it says nothing; its elements end on their own."""
    failures: int
    """How many attempts fail before the one that ends it; of a mapped task the most of any element."""
    times_out: bool
    """Whether those failures are attempts that take too long."""
    reads_templates: bool
    """Whether it reads its upstreams' values by templates in its config; else it pulls them."""
    gathers: Literal["pulls", "outputs_or", "outputs"]
    """How it reads mapped upstreams, unless by templates; by `outputs` it fails if one of their elements has none."""
    pushes: bool
    """Whether it pushes something while it runs, and so waits for the store."""
    has_outputs: bool
    """Whether it has multiple outputs."""
    items: tuple[int, ...]
    """The list among its multiple outputs; of a task mapped over a constant, what that is."""
    pause_s: float
    """How long it works."""
    delay_s: float
    """How long it waits before it is retried."""
    lets_through: bool
    """Whether, as a short-circuit, it has all its downstreams followed."""
    mapped_over: int | None
    """Of which upstream, mapped itself or with multiple outputs, it has a list to be mapped over; None for a constant."""
    has_default: bool
    """Whether an empty list stands in for that list where there is none; else it fails."""
    elements: tuple[ElementShape, ...]
    """What its elements do, by map index; there may be fewer."""
    most_elements_at_once: int | None
    """How many of them may run at once."""

    @property
    def task_id(self) -> str:
        """Its id."""
        return f"t{self.number}"

    @property
    def adds_up(self) -> bool:
        """Whether its value depends on its upstreams': not where it may start before they end."""
        return self.rule not in _EAGER

    @property
    def is_mapped(self) -> bool:
        """Whether it has elements."""
        return self.kind is TaskKind.MAPPED

    @property
    def chooses(self) -> bool:
        """Whether it chooses which of its downstreams are followed; it has then no value that others add up."""
        return self.kind in {TaskKind.BRANCH, TaskKind.SHORT_CIRCUIT}

    def unit(self, map_index: int | None) -> ElementShape | TaskShape:
        """Return what says how an instance behaves: an element, or the task itself."""
        return self if map_index is None else self.elements[map_index]


def draw_shapes(random: Random, count: int) -> tuple[TaskShape, ...]:
    """Return so many tasks, in topological order."""
    shapes: list[TaskShape] = []
    for number in range(count):
        shapes.append(_draw(random, number, shapes))
    return tuple(shapes)


def _draw(random: Random, number: int, shapes: Sequence[TaskShape]) -> TaskShape:
    upstream = tuple(sorted(random.sample(range(number), min(number, random.choice((0, 1, 1, 2, 3, _MOST_UPSTREAMS))))))
    rule, kind = random.choice(_RULES), random.choice(_KINDS)
    is_eager, is_mapped = rule in _EAGER, kind is TaskKind.MAPPED
    has_outputs = kind is TaskKind.PLAIN and random.random() < 0.35  # noqa: PLR2004 - one in three
    elements = tuple(_draw_element(random) for _ in range(MOST_ELEMENTS)) if is_mapped else ()
    failures = max((each.failures for each in elements), default=random.choice((0, 0, 0, 0, 1, 2)))
    listing = [above for above in upstream if shapes[above].has_outputs or shapes[above].is_mapped]
    left_by = [
        above
        for above in upstream
        if (shapes[above].kind is TaskKind.BRANCH and random.random() < 0.5)  # noqa: PLR2004 - an even chance
        or (shapes[above].kind is TaskKind.SHORT_CIRCUIT and not shapes[above].lets_through)
    ]
    return TaskShape(
        number=number,
        kind=kind,
        upstream=upstream,
        left_by=tuple(left_by),
        rule=rule,
        ending=random.choice(_ENDINGS),
        failures=failures,
        times_out=random.random() < 0.2,  # noqa: PLR2004 - one in five
        reads_templates=not is_eager and random.random() < 0.4,  # noqa: PLR2004 - two in five
        gathers=random.choice(("pulls", "outputs_or", "outputs")),
        pushes=random.random() < 0.5,  # noqa: PLR2004 - every other
        has_outputs=has_outputs,
        items=tuple(range(random.randint(0, MOST_ELEMENTS))) if has_outputs or is_mapped else (),
        pause_s=random.choice((0.0, 0.0, random.expovariate(1.0))),
        delay_s=random.choice((0.0, random.expovariate(1.0))),
        lets_through=random.random() < 0.6,  # noqa: PLR2004 - three in five
        mapped_over=random.choice(listing) if is_mapped and not is_eager and listing and random.random() < 0.8 else None,  # noqa: PLR2004 - four in five
        has_default=random.random() < 0.5,  # noqa: PLR2004 - every other
        elements=elements,
        most_elements_at_once=random.choice((None, 1, 2)) if is_mapped else None,
    )


def _draw_element(random: Random) -> ElementShape:
    return ElementShape(ending=random.choice(_ENDINGS), failures=random.choice((0, 0, 0, 0, 1, 2)))
