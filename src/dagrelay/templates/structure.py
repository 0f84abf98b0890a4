"""Templates at any depth of a configuration: compiled to a list of steps, so that no depth makes anything recurse."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeGuard, assert_never

import attrs

from dagrelay.errors import TemplateLimitError, TemplateSyntaxError
from dagrelay.model.policies import MissingPolicy
from dagrelay.templates.expression import Expression, Template, format_path
from dagrelay.templates.parser import ALL_ROOTS, MAX_REFERENCES, MAX_TEMPLATE_CHARS, parse
from dagrelay.templates.resolver import MAX_RENDERED_CHARS, Scope, render

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("MAX_DEPTH", "LiteralText", "Tree", "compile_tree", "literal", "render_tree")

MAX_DEPTH: Final = 200
"""Deepest nesting of a configuration, as in `Limits`."""

_ITEM_CHARS: Final = 10  # What an item counts for in the size of a configuration; it takes memory and time without any text.


@attrs.frozen
class LiteralText:
    """A text in a configuration that is handed on as it is."""

    text: str = attrs.field(validator=attrs.validators.instance_of(str))
    """The text; `{{` in it means nothing."""


def literal(text: str) -> LiteralText:
    """Mark a text in `config` as none of our templates: the handler gets it as it stands, as a str."""
    return LiteralText(text)


@attrs.frozen
class _Constant:
    """A value handed on as it is."""

    value: Any


@attrs.frozen
class _Gather:
    """Takes the values made last and builds what holds them, afresh each time."""

    kind: type[list[Any] | tuple[Any, ...]]
    count: int


@attrs.frozen
class _GatherMapping:
    """The same for a mapping."""

    keys: tuple[Any, ...]


_Step: TypeAlias = _Constant | Template | _Gather | _GatherMapping
_Container: TypeAlias = Mapping[Any, Any] | list[Any] | tuple[Any, ...]
_Place: TypeAlias = tuple[Any, object] | None  # The parent's place, and the key or index there.


@attrs.frozen(kw_only=True)
class Tree:
    """A compiled configuration."""

    steps: tuple[_Step, ...]
    """What builds it, in order: the last items of a container first, and all of them before the container."""
    expressions: tuple[Expression, ...]
    """All expressions of its texts, from its first text to its last."""

    @property
    def is_constant(self) -> bool:
        """Whether it renders to an equal value always."""
        return not self.expressions


def compile_tree(
    value: object,
    *,
    max_chars: int = MAX_TEMPLATE_CHARS,
    max_references: int = MAX_REFERENCES,
    max_depth: int = MAX_DEPTH,
    foreign: Literal["error", "keep"] = "error",
    roots: frozenset[str] = ALL_ROOTS,
    on_error: Callable[[TemplateSyntaxError], None] | None = None,
) -> Tree:
    """Return a configuration compiled, in time linear in its size.

    Texts that are values of a mapping or items of a list or tuple, at any depth, are templates; keys are not. Any mapping comes
    out as a dict, any list or tuple (named tuples as well) as a plain one, anything else as the object it is.

    Args:
        value: mostly a mapping.
        max_chars: how large it may be: the characters of its texts, and ten for each item. This also ends the expansion of a
            small object that holds another many times over, at each of many levels.
        max_references: expressions allowed in all.
        max_depth: containers inside each other allowed.
        foreign: as for `parse`.
        roots: as for `parse`.
        on_error: is told of each bad text, in order, instead of the first being raised; the text then counts as constant.

    Raises:
        TemplateSyntaxError: a text is no template; with its column, and its path as in `$.mail.subject`.
        TemplateLimitError: it is too deep or too large, or has too many expressions.
    """
    read = partial(parse, max_chars=max_chars, max_references=max_references, foreign=foreign, roots=roots)
    steps: list[_Step] = []
    expressions: list[Expression] = []
    size = 0
    pending: list[tuple[object, int, _Place]] = [(value, 1, None)]
    while pending:
        item, depth, place = pending.pop()
        match item:
            case str():
                size += len(item)
                step = _leaf(item, place, read, on_error)
                expressions += step.expressions if isinstance(step, Template) else ()
            case LiteralText(text):
                step = _Constant(text)
            case _ if _is_container(item):
                _check("levels of a config", depth, max_depth, "max_depth")
                step, inner = _opened(item)
                pending += [(child, depth + 1, (place, key)) for key, child in reversed(inner)]
                size += _ITEM_CHARS * len(inner)
            case _:
                step = _Constant(item)
        steps.append(step)
        _check("characters of a config (and ten for each item)", size, max_chars, "max_template_chars")
        _check("expressions in a config", len(expressions), max_references, "max_template_references")
    return Tree(steps=tuple(reversed(steps)), expressions=tuple(expressions))


def render_tree(
    tree: Tree,
    scope: Scope,
    *,
    missing: MissingPolicy = MissingPolicy.ERROR,
    max_chars: int = MAX_RENDERED_CHARS,
    on_missing: Callable[[Expression], Exception | None] | None = None,
) -> Any:
    """Return a configuration with its texts rendered: a fresh structure, which its owner may change.

    A text that is exactly one expression becomes the value itself, with its type.

    Args:
        tree: what to render.
        scope: where the values are.
        missing: as for `render`.
        max_chars: characters that all its texts together may have.
        on_missing: as for `render`.

    Raises:
        MissingReferenceError: a value is missing; or what `on_missing` returns.
        TemplateValueError: a filter does not take the value, or the value is not JSON.
        TemplateLimitError: the texts would be too long.
    """
    made: list[Any] = []
    written = 0
    for step in tree.steps:
        match step:
            case _Constant(value):
                made.append(value)
            case Template():
                made.append(render(step, scope, missing=missing, native=True, max_chars=max_chars, on_missing=on_missing))
                if step.lone is None:
                    written += len(made[-1])
                    _check("characters rendered from a config", written, max_chars, "max_rendered_chars")
            case _Gather(kind, count):
                made.append(kind(_taken(made, count)))
            case _GatherMapping(keys):
                made.append(dict(zip(keys, _taken(made, len(keys)), strict=True)))
            case _:
                assert_never(step)
    assert len(made) == 1, "each container took its items"
    return made[0]


def _leaf(
    text: str, place: _Place, read: Callable[[str], Template], on_error: Callable[[TemplateSyntaxError], None] | None
) -> _Step:
    if "{{" not in text:
        return _Constant(text)  # As it is: it may be a member of a StrEnum.
    try:
        return read(text)
    except TemplateSyntaxError as error:
        found = TemplateSyntaxError(error.reason, column=error.column, text=text, path=_path(place))
    if on_error is None:
        raise found
    on_error(found)
    return _Constant(text)


def _is_container(value: object) -> TypeGuard[_Container]:
    return isinstance(value, (Mapping, list, tuple))


def _opened(holder: _Container) -> tuple[_Step, list[tuple[object, Any]]]:
    if isinstance(holder, Mapping):
        items = list(holder.items())
        return _GatherMapping(tuple(key for key, _ in items)), items
    return _Gather(list if isinstance(holder, list) else tuple, len(holder)), list(enumerate(holder))


def _taken(made: list[Any], count: int) -> list[Any]:
    """Take the last values made, which are items of one container with the first one on top."""
    items = made[len(made) - count :]
    del made[len(made) - count :]
    items.reverse()
    return items


def _path(place: _Place) -> str:
    steps: list[object] = []
    while place is not None:
        place, step = place
        steps.append(step)
    return f"${format_path(steps[::-1])}"


def _check(what: str, actual: int, limit: int, setting: str) -> None:
    if actual > limit:
        raise TemplateLimitError(what, actual=actual, limit=limit, setting=setting)
