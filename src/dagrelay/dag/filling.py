"""From inputs to arguments, for every attempt: what a plan says of each parameter is carried out on values at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, assert_never

from dagrelay.dag.inputs import (
    ConstantInput,
    ContextInput,
    ElementInput,
    ParamInput,
    ReferenceInput,
    TemplateInput,
    TreeInput,
)
from dagrelay.dag.nesting import copy_of
from dagrelay.errors import XComTypeError
from dagrelay.model.missing import MISSING
from dagrelay.serializers.converter import structurer
from dagrelay.templates import MAX_RENDERED_CHARS, Scope, format_path, render, render_tree, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dagrelay.dag.inputs import Input, Read
    from dagrelay.dag.plan import PlannedTask
    from dagrelay.model.policies import MissingPolicy
    from dagrelay.templates import Expression

__all__ = ("Source", "converted", "fill", "fill_inputs")


class Source(Scope, Protocol):
    """Where a task's values come from, all read before its arguments are made; templates take theirs from it as a scope."""

    def read(self, read: Read, /) -> Any:
        """Return a value of its own for each call, decoded, or MISSING where there is no such entry.

        A gathered one is a list by map index, with MISSING for each element that has no such entry.
        """
        ...

    def read_missing(self, read: Read, map_index: int | None = None, /) -> Exception:
        """Return the error for a reference without value and default; of a gathered one, for the first element without."""
        ...

    def expression_missing(self, expression: Expression, /) -> Exception | None:
        """Return the error for a template whose value is missing; None for the usual one."""
        ...


def fill(
    task: PlannedTask,
    source: Source,
    *,
    context: Any,
    params: Mapping[str, Any],
    missing: MissingPolicy,
    max_chars: int = MAX_RENDERED_CHARS,
    elements: tuple[Any, ...] = (),
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and keyword arguments of a task's handler. Nothing is awaited or kept.

    Args:
        task: the task.
        source: where values come from.
        context: what the parameter for the context gets.
        params: the run's params, defaults included.
        missing: what a template does where a value is missing.
        max_chars: characters that a rendered text may have.
        elements: of a mapped task, the element of each axis, none of which is handed out itself.

    Raises:
        XComTypeError: a value is not of the type its parameter is annotated with, or has nothing at a reference's path.
        TemplateError: a template can't be rendered.
        Exception: what `source` made for a value that is missing.
    """
    arguments = fill_inputs(
        task.task_id, task.inputs, source, context=context, params=params, missing=missing, max_chars=max_chars, elements=elements
    )
    if not task.positional:
        return (), arguments
    positional = [arguments.pop(each.name) for each in task.inputs[: task.positional]]
    return tuple(positional), arguments


def fill_inputs(
    task_id: str,
    inputs: Iterable[Input],
    source: Source,
    *,
    context: Any,
    params: Mapping[str, Any],
    missing: MissingPolicy,
    max_chars: int,
    elements: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """Return the values of inputs by their names; for the rest see `fill`."""
    arguments: dict[str, Any] = {}
    for each in inputs:
        match each:
            case ReferenceInput():
                value = source.read(each.read)
                if each.path or value is MISSING or each.read.is_gathered:
                    value = _referred(task_id, each, source, value)
                elif each.into_type is not None:
                    value = converted(task_id, each.name, value, each.into_type)
            case ContextInput():
                value = context
            case ParamInput():
                value = _param(task_id, each, params)
            case TemplateInput():
                native = not each.is_text
                value = render(
                    each.template,
                    source,
                    missing=missing,
                    native=native,
                    max_chars=max_chars,
                    on_missing=source.expression_missing,
                )
                value = _structured(task_id, each.name, value, each.annotation)
            case ConstantInput():
                value = each.value
            case TreeInput():
                value = render_tree(each.tree, source, missing=missing, max_chars=max_chars, on_missing=source.expression_missing)
                value = _structured(task_id, each.name, value, each.annotation)
            case ElementInput():
                value = _element(task_id, each, elements)
            case _ as never:
                assert_never(never)
        arguments[each.name] = value
    return arguments


def _referred(task_id: str, each: ReferenceInput, source: Source, whole: Any) -> Any:
    if each.read.is_gathered and whole is not MISSING:
        return _gathered(task_id, each, source, whole)
    value = walk(whole, each.path)
    if value is not MISSING:
        return value if each.into_type is None else converted(task_id, each.name, value, each.into_type)
    if each.default is not MISSING:
        # A mapped task that never had elements has none that a default could stand in for.
        return [] if each.read.is_gathered and not each.path else copy_of(each.default)
    if whole is MISSING:
        raise source.read_missing(each.read)
    raise _nothing_there(task_id, each)


def _nothing_there(task_id: str, each: ReferenceInput) -> XComTypeError:
    return XComTypeError(
        f"parameter {each.name!r} of task {task_id!r}: the value of {each.reference!r} has nothing there",
        path=f"${format_path(each.path)}",
    )


def _gathered(task_id: str, each: ReferenceInput, source: Source, whole: Any) -> Any:
    """Return what is at a path of a list in which elements may be missing; only what is asked for must be there."""
    if each.default is not MISSING:
        whole = [copy_of(each.default) if value is MISSING else value for value in whole]
    if each.path:
        value, first = walk(whole, each.path), each.path[0]
        if value is MISSING and isinstance(first, int) and -len(whole) <= first < len(whole) and whole[first] is MISSING:
            raise source.read_missing(each.read, first % len(whole))
    else:
        value = whole
        for place, item in enumerate(whole):
            if item is MISSING:
                raise source.read_missing(each.read, place)
    if value is MISSING:
        raise _nothing_there(task_id, each)
    return value if each.into_type is None else converted(task_id, each.name, value, each.into_type)


def _is_pair(value: object) -> bool:
    """Return whether an element is one of a dict, or of lists side by side."""
    return isinstance(value, tuple)


def _element(task_id: str, each: ElementInput, elements: tuple[Any, ...]) -> Any:
    value = elements[each.axis]
    if _is_pair(value):
        value = list(map(copy_of, value))
        if not each.path and each.into_type is None:
            return tuple(value)
    else:
        value = copy_of(value)
    value = walk(value, each.path)
    if value is MISSING:
        raise XComTypeError(
            f"parameter {each.name!r} of task {task_id!r}: the element has nothing there", path=f"${format_path(each.path)}"
        )
    return value if each.into_type is None else converted(task_id, each.name, value, each.into_type)


def _param(task_id: str, each: ParamInput, params: Mapping[str, Any]) -> Any:
    value = params.get(each.param, MISSING)
    if value is not MISSING:
        return _structured(task_id, each.name, copy_of(value), each.annotation)
    if each.default is MISSING:  # The run was recorded before the DAG asked for it.
        raise XComTypeError(f"parameter {each.name!r} of task {task_id!r}: the run was given no param {each.param!r}")
    return each.default


def _structured(task_id: str, name: str, value: Any, annotation: Any) -> Any:
    return value if annotation is MISSING else converted(task_id, name, value, structurer(annotation))


def converted(task_id: str, name: str, value: Any, into_type: Callable[[Any], Any]) -> Any:
    """Return a value structured into the type of a task's parameter.

    Raises:
        XComTypeError: it is not of the type; it names the parameter.
    """
    try:
        return into_type(value)
    except XComTypeError as error:
        raise XComTypeError(f"parameter {name!r} of task {task_id!r}: {error.reason}", path=error.path) from error
