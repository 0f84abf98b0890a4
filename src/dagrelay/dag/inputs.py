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
    "Input",
    "ParamInput",
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


Input: TypeAlias = ReferenceInput | ContextInput | ParamInput | TemplateInput | ConstantInput | TreeInput
"""One parameter of a handler and where its value comes from."""
