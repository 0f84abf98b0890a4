"""References: what stands in a signature for a value that only a run has.

A reference is made of a task, a key and a path into the value. For type checkers it is the value itself, so that the wiring is
checked like a call; to Python it is an `XComRef`, which any attribute or item leads further into.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, NoReturn, TypeGuard, TypeVar, cast, overload

import attrs

from dagrelay.model.missing import MISSING
from dagrelay.templates import format_path, format_reference, walk

__all__ = (
    "Axis",
    "ElementParts",
    "ElementRef",
    "NamedTask",
    "Pathed",
    "ReferenceParts",
    "Step",
    "TemplateText",
    "XComRef",
    "each",
    "element_parts",
    "is_element",
    "is_reference",
    "make_element",
    "make_reference",
    "reference_parts",
    "template",
    "template_of",
    "zip_each",
)

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")
K = TypeVar("K")

Step = str | int
"""One step of a path into a value: a key of a dict, or an index of a list."""

_STEPS: Final = frozenset({str, int})
_FEWEST_ZIPPED: Final = 2
_LONGEST_SHOWN: Final = 60


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
    is_gathered: bool = False
    """Whether it is the list of what a mapped task's elements have under the key; a default then stands in for each of them."""


@attrs.frozen(kw_only=True, eq=False)
class Axis:
    """What a task is mapped over: one list, or several side by side. Each `each(...)` is an axis of its own."""

    sources: tuple[Any, ...]
    """References, templates, lists or dicts."""
    is_zipped: bool
    """Whether an element is a tuple of one from each."""


@attrs.frozen(kw_only=True)
class ElementParts:
    """What stands for an element is made of."""

    axis: Axis
    """What is mapped over."""
    path: tuple[Step, ...] = ()
    """The way from the element to what is meant."""


class Pathed:
    """What stands for a value that only a run has: it has no public attribute of its own, as any name or item leads into it."""

    __slots__ = ("__parts",)

    def __getattr__(self, name: str) -> Any:
        """Return what stands for an item of a dict, or field of a class, by name."""
        if name.startswith("__"):
            # Protocols of Python (copying, pickling, arrays) look for such names, and must find none.
            raise AttributeError(f"{self!r} has no {name}; write a key that looks so as an item, [{name!r}]")
        return _further(self, name)

    def __getitem__(self, step: Step) -> Any:
        """Return what stands for an item, by its key or index."""
        if type(step) not in _STEPS:
            raise TypeError(f"{self!r} can be indexed by a str or int, not {type(step).__name__}")
        return _further(self, step)

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


class XComRef(Pathed, Generic[R_co]):
    """A value of a task, to be read when a run gets there.

    It has no public attribute of its own: `ref.rows[0].name` is a path. Written into text, as in
    `template(f"of {ref.rows}")`, it becomes its template.
    """

    __slots__ = ()

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


class ElementRef(Pathed):
    """One element of what a task is mapped over, or a part of it: `each(...)` or a path into it."""

    __slots__ = ()

    def __str__(self) -> str:
        """Refuse: a template can't say it."""
        raise TypeError(f"{self!r} can't stand in a text; give it a parameter of its own, and make the text in the handler")

    def __repr__(self) -> str:
        """Return what is mapped over, marked as what it is."""
        parts = element_parts(self)
        return f"<element of {', '.join(map(_shown, parts.axis.sources))}{format_path(parts.path)}>"


def is_reference(value: object) -> TypeGuard[XComRef[Any]]:
    """Return whether a value is a reference."""
    return isinstance(value, XComRef)


def is_element(value: object) -> TypeGuard[ElementRef]:
    """Return whether a value stands for an element of what a task is mapped over."""
    return isinstance(value, ElementRef)


# Reached around the class, whose attributes are all paths.
_PARTS: Final = "_Pathed__parts"


def make_reference(parts: ReferenceParts) -> XComRef[Any]:
    """Return a reference made of `parts`."""
    reference: XComRef[Any] = XComRef()
    object.__setattr__(reference, _PARTS, parts)
    return reference


def reference_parts(reference: XComRef[Any]) -> ReferenceParts:
    """Return what a reference is made of."""
    return cast("ReferenceParts", object.__getattribute__(reference, _PARTS))


def make_element(parts: ElementParts) -> ElementRef:
    """Return what stands for an element, made of `parts`."""
    element = ElementRef()
    object.__setattr__(element, _PARTS, parts)
    return element


def element_parts(element: ElementRef) -> ElementParts:
    """Return what stands for an element is made of."""
    return cast("ElementParts", object.__getattribute__(element, _PARTS))


def _further(marker: Pathed, step: Step) -> Pathed:
    """Return what stands one step further; a default goes the same step, as it stands in for the whole value."""
    if isinstance(marker, ElementRef):
        known = element_parts(marker)
        return make_element(attrs.evolve(known, path=(*known.path, step)))
    parts = reference_parts(cast("XComRef[Any]", marker))
    default = parts.default
    if parts.is_gathered:
        pass  # It stands in for elements, of which the path may go on.
    elif type(default) in {dict, list}:
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
    if parts.is_gathered:
        raise TypeError(f"outputs_or() of task {parts.task.id!r} can't stand in a template; give it a parameter of its own")
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


# -------------------------------------------------------------------------------------------------------------- mapping


@overload
def each(items: Mapping[K, V]) -> tuple[K, V]: ...
@overload
def each(items: Sequence[T]) -> T: ...
def each(items: Any) -> Any:
    """Return what stands for one element of `items`, as the default of a parameter or in `bind`: the task is then mapped.

    A mapped task has an instance for each element, each with attempts, retries and values of its own. With several `each` in one
    signature there is an instance for each combination, the last varying fastest. A path goes on into the element:
    `each(load.output)["name"]`; two paths into one `each`, kept in a variable, are of the same element.

    Args:
        items: a reference to a list or dict, `template("{{ params.cities }}")`, a list, tuple or dict; the elements of a dict are
            (key, value) tuples. `task.each` is short for `each(task.output)`; over a mapped task it is `each(task.outputs)`.

    Raises:
        TypeError: `items` is nothing that can be mapped over.
    """
    return make_element(ElementParts(axis=Axis(sources=(_mappable(items, "each"),), is_zipped=False)))


@overload
def zip_each(first: Sequence[T], second: Sequence[U], /) -> tuple[T, U]: ...
@overload
def zip_each(first: Sequence[T], second: Sequence[U], third: Sequence[V], /) -> tuple[T, U, V]: ...
@overload
def zip_each(*several: Any) -> tuple[Any, ...]: ...
def zip_each(*several: Any) -> Any:
    """Return what stands for a tuple of one element from each of several lists, side by side; otherwise like `each`.

    The lists must be of one length: that a longer one lost its end would be noticed too late.

    Raises:
        TypeError: fewer than two were given, or one is nothing that can be mapped over.
    """
    if len(several) < _FEWEST_ZIPPED:
        raise TypeError("zip_each() takes two lists or more; each() takes one")
    sources = tuple(_mappable(items, "zip_each") for items in several)
    return make_element(ElementParts(axis=Axis(sources=sources, is_zipped=True)))


def _mappable(items: Any, called: str) -> Any:
    if isinstance(items, (XComRef, TemplateText, list, tuple, Mapping)):
        return cast("Any", items)
    if isinstance(items, NamedTask):
        raise TypeError(f"{called}() got task {items.id!r} itself; write its `.output`, or `.outputs` if it is mapped")
    if isinstance(items, ElementRef):
        raise TypeError(f"{called}() got {items!r}, an element; a task maps over whole lists only")
    raise TypeError(
        f"{called}() takes a reference, a template(...), a list, a tuple or a dict, not {type(items).__name__}; "
        "for a run param write template('{{ params.name }}')"
    )


def _shown(source: Any) -> str:
    text = repr(source)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
