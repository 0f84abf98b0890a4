"""How the parameters of a planned handler are filled: a closed union of frozen inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import attrs

from dagrelay.model.missing import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.dag.references import Step, XComRef
    from dagrelay.templates import Template, Tree

__all__ = (
    "ConstantInput",
    "ContextInput",
    "ElementInput",
    "Expansion",
    "Input",
    "ParamInput",
    "PlannedAxis",
    "Read",
    "ReferenceInput",
    "TemplateInput",
    "TreeInput",
)


class Read(NamedTuple):
    """One entry to be fetched before a handler runs."""

    index: int  # type: ignore[assignment]  # nobody searches in a pair
    """The topological index of the task it belongs to."""
    key: str
    """Its key."""
    is_gathered: bool = False
    """Whether it is the list of what all elements of a mapped task have under the key."""
    is_previous: bool = False
    """Whether it is the entry of the newest earlier run of the DAG that has one."""


@attrs.frozen(kw_only=True)
class ContextInput:
    """The parameter gets the task's context."""

    name: str
    """The parameter."""


@attrs.frozen(kw_only=True)
class ConstantInput:
    """The parameter gets a value that the DAG's author gave, as it is."""

    name: str
    """The parameter."""
    value: Any
    """The value, the same object for every attempt."""
    reason: str
    """Why a run can't give another, as a clause."""


@attrs.frozen(kw_only=True)
class ReferenceInput:
    """The parameter gets what a task has handed on."""

    name: str
    """The parameter."""
    read: Read
    """The entry."""
    path: tuple[Step, ...] = ()
    """The way from the entry's value to what is meant."""
    default: Any = MISSING
    """What stands in where nothing is there; MISSING if that is an error."""
    into_type: Callable[[Any], Any] | None = None
    """What structures it into the parameter's type; None where it stays as it is."""
    reference: XComRef[Any]
    """The reference as it was written, for messages."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all that one entry of the run holds."""
        return not self.path and not self.read.is_gathered and not self.read.is_previous


@attrs.frozen(kw_only=True)
class TemplateInput:
    """The parameter gets a rendered template."""

    name: str
    """The parameter."""
    template: Template
    """The template."""
    is_text: bool
    """Whether it always becomes text; else one reference alone keeps its value's type."""
    annotation: Any = MISSING
    """The type it is structured into; MISSING where it stays as it is."""


@attrs.frozen(kw_only=True)
class TreeInput:
    """The parameter gets a dict, list or tuple that has references or templates somewhere inside."""

    name: str
    """The parameter."""
    tree: Tree
    """The whole, with a template for each of them."""
    annotation: Any = MISSING
    """The type it is structured into; MISSING where it stays as it is."""


@attrs.frozen(kw_only=True)
class ParamInput:
    """The parameter gets the run param of its name."""

    name: str
    """The parameter."""
    param: str
    """The run param."""
    annotation: Any = MISSING
    """The type it is structured into; MISSING where it stays as it is."""
    default: Any = MISSING
    """What stands in where the run has no such param; MISSING if it must have."""


@attrs.frozen(kw_only=True)
class ElementInput:
    """The parameter of a mapped task gets an element of what is mapped over, or a part of it."""

    name: str
    """The parameter."""
    axis: int
    """Which of the expansion's axes."""
    path: tuple[Step, ...] = ()
    """The way from the element to what is meant."""
    into_type: Callable[[Any], Any] | None = None
    """What structures it into the parameter's type; None where it stays as it is."""


Input: TypeAlias = ReferenceInput | ContextInput | ParamInput | TemplateInput | ConstantInput | TreeInput | ElementInput
"""One parameter of a handler and where its value comes from."""


@attrs.frozen(kw_only=True)
class PlannedAxis:
    """What a task is mapped over, as inputs that are filled once, when the task is expanded."""

    sources: tuple[Input, ...]
    """One list, or several side by side; each named by the parameter it is written for."""
    is_zipped: bool
    """Whether an element is a tuple of one from each source."""


@attrs.frozen(kw_only=True)
class Expansion:
    """How a mapped task gets its elements."""

    axes: tuple[PlannedAxis, ...]
    """What is combined, the last varying fastest."""
    reads: tuple[Read, ...]
    """What is fetched for it of the run, each entry once."""
    earlier: tuple[Read, ...] = ()
    """What is fetched for it of earlier runs, each entry once."""
