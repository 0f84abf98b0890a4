"""Reading a handler: what it is, which parameters it has, and what their annotations mean."""

from __future__ import annotations

import inspect
import re
import sys
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, ForwardRef, get_type_hints

import attrs

from dagrelay.dag.references import Pathed
from dagrelay.model.injected import Injected
from dagrelay.model.missing import MISSING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = (
    "AnnotationError",
    "HandlerError",
    "HandlerSignature",
    "Parameter",
    "is_async",
    "local_names",
    "name_of",
    "read_signature",
)

# Annotations are evaluated one by one, by us: one that can't be must not hide the others.
_SIGNATURE_AS_WRITTEN: Final[dict[str, Any]] = {}
_ANNOTATIONS_AS_WRITTEN: Final[dict[str, Any]] = {}
if sys.version_info >= (3, 14):  # pragma: no cover - Python evaluates them late only there
    from annotationlib import Format

    _SIGNATURE_AS_WRITTEN["annotation_format"] = Format.FORWARDREF
    _ANNOTATIONS_AS_WRITTEN["format"] = Format.FORWARDREF

_WORD: Final = re.compile(r"[^\W\d]\w*")
_PLAIN: Final[dict[str, Any]] = {kind.__name__: kind for kind in (str, int, float, bool, list, dict, tuple, set, bytes, object)}
"""Annotations so common that they are looked up before anything is evaluated."""


class HandlerError(Exception):
    """Something can't be a handler; the message is a clause that says why."""


class AnnotationError(Exception):
    """An annotation can't be resolved; the message is a clause that says why."""


@attrs.frozen(kw_only=True, eq=False)
class Parameter:
    """A parameter of a handler."""

    name: str
    """Its name."""
    is_positional: bool
    """Whether it can only be passed by position."""
    is_fixed: bool
    """Whether its default was bound by `functools.partial`, and is no mere fallback."""
    default: Any
    """Its default; MISSING if it has none."""
    annotation: Any
    """Its annotation as it stands in the code, perhaps as text; MISSING if it has none."""


@attrs.frozen(kw_only=True, eq=False)
class HandlerSignature:
    """What is to be known of a handler."""

    is_async: bool
    """Whether calling it makes a coroutine."""
    parameters: tuple[Parameter, ...]
    """Its parameters, without `*args` and `**kwargs`."""
    takes_any_name: bool
    """Whether it has `**kwargs`."""
    return_type: Any
    """Its return annotation; as it stands in the code where it can't be resolved, MISSING where there is none."""
    description: str
    """The first line of its docstring."""
    global_names: dict[str, Any] = attrs.field(repr=False)
    """The names of its module."""
    other_names: dict[str, Any] = attrs.field(repr=False)
    """The names of its closure, its type parameters, and local ones of the place where it was given."""

    def resolve(self, annotation: Any) -> Any:
        """Return what an annotation of this handler means.

        Raises:
            AnnotationError: a name in it stands for nothing where the handler is written.
        """
        return _resolved(annotation, self.global_names, self.other_names)

    def is_context(self, parameter: Parameter) -> bool:
        """Return whether a parameter gets the task's context.

        It does if it is annotated with a class that is injected, also where the name `TaskContext` is imported only for type
        checkers; or if it is the first, named `ctx`, without annotation and default.
        """
        if parameter.annotation is MISSING:
            return parameter.name == "ctx" and parameter is self.parameters[0] and parameter.default is MISSING
        text = _text_of(parameter.annotation)
        if text is not None and not text.replace(".", "").isidentifier():
            return False  # It is more than a name, and need not be evaluated before it is known to be needed.
        try:
            annotation = self.resolve(parameter.annotation)
        except AnnotationError:
            return text is not None and text.rpartition(".")[2] == "TaskContext"
        return isinstance(annotation, type) and issubclass(annotation, Injected)


def read_signature(handler: Any, names: Mapping[str, Any]) -> HandlerSignature:
    """Return what is to be known of a handler.

    Args:
        handler: what was given as one.
        names: local names of the place where it was given (see `local_names`).

    Raises:
        HandlerError: it can't be one.
    """
    _refuse_strangers(handler)
    try:
        signature = inspect.signature(handler, **_SIGNATURE_AS_WRITTEN)
    except (TypeError, ValueError) as error:
        raise HandlerError(f"its signature can't be read: {error}") from error
    function = _function_of(handler)
    global_names: dict[str, Any] = getattr(function, "__globals__", {})
    other_names = {**names, **_closure(function), **_type_parameters(function)}
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    fixed: Mapping[str, Any] = handler.keywords if isinstance(handler, partial) else {}
    return HandlerSignature(
        is_async=is_async(handler),
        parameters=tuple(
            _parameter(each, fixed)
            for each in signature.parameters.values()
            if each.kind not in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        ),
        takes_any_name=inspect.Parameter.VAR_KEYWORD in kinds,
        return_type=_return_type(_given(signature.return_annotation), global_names, other_names),
        description=(function.__doc__ or "").strip().partition("\n")[0],
        global_names=global_names,
        other_names=other_names,
    )


def is_async(handler: Any) -> bool:
    """Return whether calling a handler makes a coroutine."""
    # An object may be marked as making coroutines; its `__call__` may be a coroutine function all by itself.
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(_called(handler))


def name_of(handler: Any) -> str | None:
    """Return a handler's own name, which becomes its task's id; None if it has none."""
    while isinstance(handler, partial):
        handler = handler.func
    name = getattr(handler, "__name__", None)
    return name if isinstance(name, str) and name != "<lambda>" else None


def local_names(handler: Any, names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return of the local names of a place those that annotations of a handler speak of, so that no others are kept alive."""
    function = _function_of(handler)
    annotations = inspect.get_annotations(function, **_ANNOTATIONS_AS_WRITTEN) if callable(function) else {}
    words = {word for text in annotations.values() if isinstance(text, str) for word in _WORD.findall(text)}
    return {word: names[word] for word in words if word in names}


# ------------------------------------------------------------------------------------------------------------- handlers


def _refuse_strangers(handler: Any) -> None:
    if inspect.isclass(handler):
        raise HandlerError("its handler is a class; give a function that makes what is to be returned")
    if not callable(handler):
        raise HandlerError(f"its handler is {type(handler).__name__}, which can't be called")
    called = _called(handler)
    if inspect.isasyncgenfunction(called):
        raise HandlerError("its handler is an async generator; return a list, or push parts by ctx.xcom.push")
    if inspect.isgeneratorfunction(called):
        raise HandlerError("its handler is a generator; return a list, or push parts by ctx.xcom.push")
    if isinstance(handler, partial) and any(isinstance(value, Pathed) for value in handler.args):
        raise HandlerError("its handler is a partial that binds a reference by position; bind it by name")


def _called(handler: Any) -> Any:
    """Return the function that a call goes to, as far as what it makes is concerned."""
    while isinstance(handler, (partial, staticmethod)):
        handler = handler.func if isinstance(handler, partial) else handler.__func__
    is_function = inspect.isroutine(handler) or inspect.isclass(handler) or not callable(handler)
    return handler if is_function else type(handler).__call__


def _function_of(handler: Any) -> Any:
    """Return the function that was written, below partials, methods and wrappers: its names are those annotations mean."""
    while isinstance(handler, partial):
        handler = handler.func
    function = _called(inspect.unwrap(handler))
    return getattr(function, "__func__", function)


def _closure(function: Any) -> dict[str, Any]:
    cells = getattr(function, "__closure__", None)
    if not cells:
        return {}
    found: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue  # The name has no value yet.
    return found


def _type_parameters(function: Any) -> dict[str, Any]:
    return {parameter.__name__: parameter for parameter in getattr(function, "__type_params__", ())}


def _parameter(parameter: inspect.Parameter, fixed: Mapping[str, Any]) -> Parameter:
    return Parameter(
        name=parameter.name,
        is_positional=parameter.kind is inspect.Parameter.POSITIONAL_ONLY,
        is_fixed=parameter.name in fixed,
        default=_given(parameter.default),
        annotation=_given(parameter.annotation),
    )


def _given(value: Any) -> Any:
    return MISSING if value is inspect.Parameter.empty else value


# ---------------------------------------------------------------------------------------------------------- annotations


def _resolved(annotation: Any, global_names: dict[str, Any], other_names: dict[str, Any]) -> Any:
    text = _text_of(annotation)
    if text is None and not _has_text(annotation):
        return annotation
    for names in (other_names, global_names, _PLAIN):
        found = names.get(text, MISSING) if text else MISSING
        if found is not MISSING and not isinstance(found, str):
            return found
    holder = SimpleNamespace(__annotations__={"it": annotation})
    try:
        return get_type_hints(holder, global_names, other_names, include_extras=True)["it"]
    except Exception as error:
        raise AnnotationError(f"the annotation {_shown(annotation)} can't be resolved: {_told(error)}") from error


def _return_type(annotation: Any, global_names: dict[str, Any], other_names: dict[str, Any]) -> Any:
    try:
        return annotation if annotation is MISSING else _resolved(annotation, global_names, other_names)
    except AnnotationError:
        return annotation  # It matters only to whoever asks for the value as of this type, and will be told then.


def _text_of(annotation: Any) -> str | None:
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    return annotation if isinstance(annotation, str) else None


def _has_text(annotation: Any) -> bool:
    """Return whether something inside an annotation may be text, as in `list["Row"]`: then it has to be evaluated."""
    return not isinstance(annotation, type) or hasattr(annotation, "__args__")


def _shown(annotation: Any) -> str:
    return repr(_text_of(annotation) or annotation)


def _told(error: Exception) -> str:
    if isinstance(error, NameError):
        return f"{error}; import it where the handler is written, also at run time"
    return f"{type(error).__name__}: {error}"
