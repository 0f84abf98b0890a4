"""From a handler's signature to inputs, once, when the DAG is planned.

Parameters are filled in this order: the context; what `bind` says; a default that is, or holds, a reference or template; the
run param of that name; the plain default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import attrs

from dagrelay.dag.inputs import (
    ConstantInput,
    ContextInput,
    ElementInput,
    Expansion,
    Input,
    ParamInput,
    PlannedAxis,
    Read,
    ReferenceInput,
    TemplateInput,
    TreeInput,
)
from dagrelay.dag.nesting import holds_marker, map_leaves
from dagrelay.dag.references import (
    Axis,
    ElementRef,
    NamedTask,
    TemplateText,
    XComRef,
    element_parts,
    is_element,
    is_reference,
    reference_parts,
    template_of,
)
from dagrelay.dag.signatures import AnnotationError, Parameter
from dagrelay.errors import TemplateError, XComTypeError
from dagrelay.model.missing import MISSING
from dagrelay.serializers.converter import check_type, structurer
from dagrelay.serializers.hints import is_any, unwrap
from dagrelay.templates import compile_tree, literal, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dagrelay.dag.references import ReferenceParts
    from dagrelay.dag.signatures import HandlerSignature
    from dagrelay.model.policies import Limits
    from dagrelay.templates import Expression, Template, Tree

__all__ = ("Binding", "BindingPlace", "bind_handler")

_ROOTS: Final = frozenset({"xcom", "params", "run", "task", "previous"})


@attrs.frozen(kw_only=True, eq=False)
class BindingPlace:
    """Where handlers are bound: a DAG whose tasks are known by id."""

    owner: object
    """The DAG."""
    positions: Mapping[str, int]
    """Position, in order of definition, by task id."""
    near: Callable[[str], str]
    """Returns a hint at task ids like a wrong one, as in `; did you mean 'load'?`, or nothing."""
    limits: Limits
    """How large templates may be."""


@attrs.frozen(kw_only=True, eq=False)
class Binding:
    """How one handler is to be called, and what that takes."""

    inputs: tuple[Input, ...]
    """Its inputs, in order of its parameters."""
    positional: int
    """How many of them, from the first, are passed by position."""
    config: Tree | None
    """Its config, compiled; None if it has none."""
    reads: tuple[Read, ...]
    """What is read of the run for each attempt, each entry once; tasks are given by position."""
    earlier: tuple[Read, ...]
    """What is read of earlier runs for each attempt, likewise; these reads make no edges."""
    expansion: Expansion | None
    """What it is mapped over; None if it is not mapped."""
    referred: tuple[Read, ...]
    """Those of all reads that references ask for, which say whether they want one value or a list; templates take either."""
    params: frozenset[str]
    """Run params that its templates speak of."""
    needs_context: bool
    """Whether an input is the context."""
    has_templates: bool
    """Whether there is an expression in inputs or config."""

    @property
    def wholes(self) -> tuple[ReferenceInput, ...]:
        """Its inputs, where each of them is the whole of one entry of the run and nothing else is read; else none."""
        wholes = tuple(each for each in self.inputs if isinstance(each, ReferenceInput) and each.is_whole)
        is_all = len(wholes) == len(self.inputs) and self.config is None and not self.earlier and not self.positional
        return wholes if is_all else ()


def bind_handler(
    place: BindingPlace,
    signature: HandlerSignature,
    *,
    bind: Mapping[str, Any],
    config: Mapping[str, Any] | None,
    problems: list[str],
) -> Binding:
    """Return how a handler is called.

    Args:
        place: the DAG it stands in.
        signature: the handler.
        bind: its task's `bind`.
        config: its task's `config`.
        problems: takes what is wrong, one clause each; a parameter with a problem is left out of the inputs.
    """
    return _Binder(place, signature, problems).bind(bind, config)


class _Binder:
    """Gathers what one task reads, and what is wrong with how it is wired."""

    def __init__(self, place: BindingPlace, signature: HandlerSignature, problems: list[str]) -> None:
        self._place = place
        self._signature = signature
        self._problems = problems
        self._reads: dict[Read, None] = {}
        self._axes: dict[int, tuple[Axis, PlannedAxis | None]] = {}
        self._axis_reads: dict[Read, None] = {}
        self._earlier: dict[Read, None] = {}
        self._axis_earlier: dict[Read, None] = {}
        self._referred: dict[Read, None] = {}
        self._params: set[str] = set()
        self._has_templates = False

    def bind(self, bind: Mapping[str, Any], config: Mapping[str, Any] | None) -> Binding:
        signature = self._signature
        names = {parameter.name for parameter in signature.parameters}
        inputs = [self._input(parameter, bind.get(parameter.name, MISSING)) for parameter in signature.parameters]
        for name, value in bind.items():
            if name in names:
                continue
            if signature.takes_any_name:
                inputs.append(self._bound(_unnamed(name), value))
            else:
                self._problems.append(f"bind names {name!r}, which is no parameter of its handler")
        filled = tuple(each for each in inputs if each is not None)
        tree = None if config is None else self._tree(config, "config", strings_are_templates=True)
        return Binding(
            inputs=filled,
            positional=sum(parameter.is_positional for parameter in signature.parameters),
            config=tree,
            reads=tuple(self._reads),
            earlier=tuple(self._earlier),
            expansion=self._expansion(),
            referred=tuple(self._referred),
            params=frozenset(self._params),
            needs_context=any(isinstance(each, ContextInput) for each in filled),
            has_templates=self._has_templates,
        )

    # -------------------------------------------------------------------------------------------------- parameters

    def _input(self, parameter: Parameter, bound: Any) -> Input | None:
        """Return how a parameter is filled, or None where a problem was found."""
        if self._signature.is_context(parameter):
            if bound is not MISSING:
                self._problems.append(f"bind names {parameter.name!r}, which gets the context")
            return ContextInput(name=parameter.name)
        if bound is not MISSING:
            return self._bound(parameter, bound)
        if holds_marker(parameter.default):
            return self._marked(parameter, parameter.default)
        return self._from_run(parameter)

    def _bound(self, parameter: Parameter, value: Any) -> Input | None:
        if holds_marker(value):
            return self._marked(parameter, value)
        return ConstantInput(name=parameter.name, value=value, reason="bind gives it")

    def _marked(self, parameter: Parameter, marker: Any) -> Input | None:
        """Return how a parameter is filled by what is, or holds, a reference or template."""
        name, where = parameter.name, f"parameter {parameter.name!r}"
        try:
            annotation = self._annotation(parameter)
        except (AnnotationError, XComTypeError) as error:
            self._problems.append(f"{where}: {_reason(error)}")
            annotation = MISSING
        if is_reference(marker):
            return self._reference(name, marker, annotation)
        if is_element(marker):
            return self._element(name, marker, annotation)
        if isinstance(marker, TemplateText):
            found = self._template(marker.text, where)
            is_text = parameter.annotation is MISSING or annotation is str
            kept = MISSING if is_text else annotation
            return None if found is None else TemplateInput(name=name, template=found, is_text=is_text, annotation=kept)
        if isinstance(marker, NamedTask):
            self._problems.append(f"{where} gets task {marker.id!r} itself; write its `.output`")
            return None
        # What is to be structured has to be plain, as a pulled value is.
        tree = self._tree(marker, where, strings_are_templates=False, keep_tuples=annotation is MISSING)
        return None if tree is None else TreeInput(name=name, tree=tree, annotation=annotation)

    def _from_run(self, parameter: Parameter) -> Input | None:
        name, default = parameter.name, parameter.default
        if parameter.is_fixed:
            return ConstantInput(name=name, value=default, reason="functools.partial gives it")
        try:
            annotation = self._annotation(parameter)
        except (AnnotationError, XComTypeError) as error:
            if default is not MISSING:
                return ConstantInput(name=name, value=default, reason=_reason(error))
            self._problems.append(
                f"parameter {name!r} can't be filled: it would get the run param of that name, but {_reason(error)}; "
                "bind it, or give it a default"
            )
            return None
        return ParamInput(name=name, param=name, annotation=annotation, default=default)

    def _annotation(self, parameter: Parameter) -> Any:
        """Return the type that a value is structured into for a parameter; MISSING where it stays as it is."""
        if parameter.annotation is MISSING:
            return MISSING
        plain = unwrap(self._signature.resolve(parameter.annotation))
        if is_any(plain):
            return MISSING
        check_type(plain)
        return plain

    # ------------------------------------------------------------------------------------------------------- reads

    def _reference(self, name: str, reference: XComRef[Any], annotation: Any) -> Input | None:
        parts = reference_parts(reference)
        read = self._read(parts, f"parameter {name!r}")
        if read is None:
            return None
        into_type = None if annotation is MISSING else structurer(annotation)
        return ReferenceInput(
            name=name, read=read, path=parts.path, default=parts.default, into_type=into_type, reference=reference
        )

    def _read(self, parts: ReferenceParts, where: str) -> Read | None:
        task = parts.task
        if task.owner is not self._place.owner:
            self._problems.append(f"{where} reads task {task.id!r} of another DAG")
            return None
        read = Read(self._place.positions[task.id], parts.key, parts.is_gathered)
        self._reads[read] = self._referred[read] = None
        return read

    # ------------------------------------------------------------------------------------------------------ mapping

    def _element(self, name: str, element: ElementRef, annotation: Any) -> Input:
        parts = element_parts(element)
        if id(parts.axis) not in self._axes:
            # Read once, when the task is expanded, and not for each of its elements.
            own, self._reads, self._earlier = (self._reads, self._earlier), self._axis_reads, self._axis_earlier
            self._axes[id(parts.axis)] = (parts.axis, self._axis(name, parts.axis))
            self._reads, self._earlier = own
        axis = list(self._axes).index(id(parts.axis))
        planned = self._axes[id(parts.axis)][1]
        # Constants are of their own types, as everywhere; what is read is plain.
        is_constant = planned is not None and all(isinstance(source, ConstantInput) for source in planned.sources)
        into_type = None if is_constant or annotation is MISSING else structurer(annotation)
        return ElementInput(name=name, axis=axis, path=parts.path, into_type=into_type)

    def _axis(self, name: str, axis: Axis) -> PlannedAxis | None:
        sources = [self._source(name, source) for source in axis.sources]
        found = tuple(source for source in sources if source is not None)
        return None if len(found) < len(sources) else PlannedAxis(sources=found, is_zipped=axis.is_zipped)

    def _source(self, name: str, source: Any) -> Input | None:
        where = f"parameter {name!r}"
        if is_reference(source):
            return self._reference(name, source, MISSING)
        if isinstance(source, TemplateText):
            found = self._template(source.text, where)
            return None if found is None else TemplateInput(name=name, template=found, is_text=False)
        if not holds_marker(source):
            return ConstantInput(name=name, value=source, reason="it is mapped over a constant")
        tree = self._tree(source, where, strings_are_templates=False)
        return None if tree is None else TreeInput(name=name, tree=tree)

    def _expansion(self) -> Expansion | None:
        if not self._axes:
            return None
        axes = tuple(planned for _, planned in self._axes.values() if planned is not None)
        return Expansion(axes=axes, reads=tuple(self._axis_reads), earlier=tuple(self._axis_earlier))

    def _template(self, text: str, where: str) -> Template | None:
        limits = self._place.limits
        try:
            found = parse(text, max_chars=limits.max_template_chars, max_references=limits.max_template_references, roots=_ROOTS)
        except TemplateError as error:
            self._problems.append(f"{where}: {error}")
            return None
        self._note(found.expressions, where)
        return found

    def _tree(self, value: Any, where: str, *, strings_are_templates: bool, keep_tuples: bool = True) -> Tree | None:
        limits = self._place.limits

        def leaf(item: Any) -> Any:
            if isinstance(item, str) and not strings_are_templates:
                return literal(item)
            if isinstance(item, TemplateText):
                return item.text
            if is_reference(item):
                parts = reference_parts(item)
                return None if self._read(parts, where) is None else template_of(parts)
            if is_element(item):
                self._problems.append(f"{where} has {item!r} inside; give it a parameter of its own")
                return None
            if isinstance(item, NamedTask):
                self._problems.append(f"{where} holds task {item.id!r} itself; write its `.output`")
            return item

        try:
            plain = map_leaves(value, leaf, keep_tuples=keep_tuples) if holds_marker(value) else value
            tree = compile_tree(
                plain,
                max_chars=limits.max_template_chars,
                max_references=limits.max_template_references,
                max_depth=limits.max_depth,
                roots=_ROOTS,
                on_error=lambda error: self._problems.append(f"{where}: {error}"),
            )
        except (TemplateError, TypeError, ValueError) as error:
            self._problems.append(f"{where}: {error}")
            return None
        self._note(tree.expressions, where)
        return tree

    def _note(self, expressions: Iterable[Expression], where: str) -> None:
        """Note what expressions read."""
        for each in expressions:
            self._has_templates = True
            if each.root == "params":
                self._params.add(each.names[0])
            elif each.root in {"xcom", "previous"}:
                position = self._place.positions.get(each.task_id)
                if position is None:
                    near = self._place.near(each.task_id)
                    self._problems.append(
                        f"{where} reads task {each.task_id!r} at column {each.column}, which is not in the DAG{near}"
                    )
                elif each.root == "xcom":
                    self._reads[Read(position, each.key)] = None
                else:
                    self._earlier[Read(position, each.key, is_previous=True)] = None


def _unnamed(name: str) -> Parameter:
    """Return the parameter that `**kwargs` stands for where `bind` names one."""
    return Parameter(name=name, is_positional=False, is_fixed=False, default=MISSING, annotation=MISSING)


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, XComTypeError) else str(error)
