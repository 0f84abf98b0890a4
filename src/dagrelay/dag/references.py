"""References: what stands in a signature for a value that only a run has.

A reference is made of a task, a key and a path into the value. For type checkers it is the value itself, so that the wiring is
checked like a call; to Python it is an `XComRef`, which any attribute or item leads further into.
"""

from __future__ import annotations

import json
from typing import Any, Final, Generic, NoReturn, TypeGuard, TypeVar, cast

import attrs

from dagrelay.model.missing import MISSING
from dagrelay.templates import format_reference, walk

__all__ = (
    "NamedTask",
    "ReferenceParts",
    "Step",
    "TemplateText",
    "XComRef",
    "is_reference",
    "make_reference",
    "reference_parts",
    "template",
    "template_of",
)

R_co = TypeVar("R_co", covariant=True)

Step = str | int
"""One step of a path into a value: a key of a dict, or an index of a list."""

_STEPS: Final = frozenset({str, int})


class NamedTask:
    """What a task is to the modules below the one that defines it: an id in a DAG."""

    def __init__(self, task_id: str, owner: object) -> None:
        """Take its id and its DAG."""
        self._id = task_id
        self._owner = owner

    @property
    def id(self) -> str:
        """Its id, unique in its DAG."""
        return self._id

    @property
    def owner(self) -> object:
        """The DAG it belongs to."""
        return self._owner


@attrs.frozen(kw_only=True)
class ReferenceParts:
    """What a reference is made of."""

    task: NamedTask
    """The task whose entry is read."""
    key: str
    """The entry's key."""
    path: tuple[Step, ...] = ()
    """The way from the entry's value to what is meant."""
    default: Any = MISSING
    """What stands in where nothing is there; MISSING if that is an error."""


class XComRef(Generic[R_co]):
    """A value of a task, to be read when a run gets there.

    It has no public attribute of its own: `ref.rows[0].name` is a path. Written into text, as in
    `template(f"of {ref.rows}")`, it becomes its template.
    """

    __slots__ = ("__parts",)

    def __getattr__(self, name: str) -> Any:
        """Return the reference to an item of a dict, or field of a class, by name."""
        if name.startswith("__"):
            # Protocols of Python (copying, pickling, arrays) look for such names, and must find none.
            raise AttributeError(f"{self!r} has no {name}; write a key that looks so as an item, [{name!r}]")
        return _further(self, name)

    def __getitem__(self, step: Step) -> Any:
        """Return the reference to an item by its key or index."""
        if type(step) not in _STEPS:
            raise TypeError(f"{self!r} can be indexed by a str or int, not {type(step).__name__}")
        return _further(self, step)

    def __str__(self) -> str:
        """Return its template, so that f-strings inside `template(...)` work."""
        return template_of(reference_parts(self))

    def __repr__(self) -> str:
        """Return its template, marked as what it is."""
        parts = reference_parts(self)
        return f"<reference {template_of(attrs.evolve(parts, default=MISSING))}>"

    def __format__(self, spec: str) -> str:
        """Return its template; the value can't be formatted, as it is not here yet."""
        if spec:
            raise TypeError(f"{self!r} can't be formatted by {spec!r}: its value is known only when a run gets there")
        return str(self)

    def __iter__(self) -> NoReturn:
        """Refuse: what it stands for is not here yet."""
        self.__refuse("iterated over")

    def __bool__(self) -> NoReturn:  # noqa: PLE0304 - it never returns
        """Refuse: what it stands for is not here yet."""
        self.__refuse("tested for truth")

    def __len__(self) -> NoReturn:  # noqa: PLE0303 - it never returns
        """Refuse: what it stands for is not here yet."""
        self.__refuse("measured")

    def __contains__(self, item: object) -> NoReturn:
        """Refuse: what it stands for is not here yet."""
        self.__refuse("searched")

    def __refuse(self, what: str) -> NoReturn:
        raise TypeError(
            f"{self!r} can't be {what} while the DAG is written: its value is known only when a run gets there. "
            "Pass it to a task as the default of a parameter, and do it there"
        )


def is_reference(value: object) -> TypeGuard[XComRef[Any]]:
    """Return whether a value is a reference."""
    return isinstance(value, XComRef)


# Reached around the class, whose attributes are all paths.
_PARTS: Final = "_XComRef__parts"


def make_reference(parts: ReferenceParts) -> XComRef[Any]:
    """Return a reference made of `parts`."""
    reference: XComRef[Any] = XComRef()
    object.__setattr__(reference, _PARTS, parts)
    return reference


def reference_parts(reference: XComRef[Any]) -> ReferenceParts:
    """Return what a reference is made of."""
    return cast("ReferenceParts", object.__getattribute__(reference, _PARTS))


def _further(reference: XComRef[Any], step: Step) -> XComRef[Any]:
    """Return the reference one step further; a default goes the same step, as it stands in for the whole value."""
    parts = reference_parts(reference)
    default = parts.default
    if type(default) in {dict, list}:
        default = walk(default, (step,))
    elif default is not MISSING:
        default = getattr(default, step, MISSING) if isinstance(step, str) else MISSING
    return make_reference(attrs.evolve(parts, path=(*parts.path, step), default=default))


# -------------------------------------------------------------------------------------------------------------- as text


def template_of(parts: ReferenceParts) -> str:
    """Return the template that reads what a reference does, as in `{{ xcom.load.return_value.rows[0] }}`.

    Raises:
        TypeError: its default is nothing a template can say.
    """
    return f"{{{{ {format_reference(parts.task.id, parts.key, parts.path)}{_default_text(parts)} }}}}"


def _default_text(parts: ReferenceParts) -> str:
    if parts.default is MISSING:
        return ""
    try:
        return f" | default({json.dumps(parts.default, ensure_ascii=False, allow_nan=False)})"
    except (TypeError, ValueError) as error:
        where = template_of(attrs.evolve(parts, default=MISSING))
        raise TypeError(f"the default of {where} can't be written in a template: {error}") from error


@attrs.frozen
class TemplateText:
    """A template standing in a signature, in `bind` or in `config`."""

    text: str
    """The text to be rendered."""

    def __repr__(self) -> str:
        """Return it as it was written."""
        return f"template({self.text!r})"


def template(text: str) -> Any:
    """Return a marker for text that is rendered before the handler runs, as the default of a parameter or in `bind`.

    The type checker takes it for whatever the parameter is annotated with: a `str` parameter gets the text; for another type,
    what was rendered is structured into it, and a template of one reference alone keeps the value's type.

    Args:
        text: text with expressions, as in `"{{ xcom.stats.row_count }} days"`; references may be written into an f-string.
    """
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise TypeError(f"template() takes text, not {type(text).__name__}; a reference stands by itself, without template()")
    return TemplateText(text)
