"""Template and values to result: values are data, put in as they are and never looked at again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from dagrelay.errors import (
    MissingReferenceError,
    TemplateLimitError,
    TemplateValueError,
    XComSerializationError,
    XComTooLargeError,
)
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import MissingPolicy
from dagrelay.serializers import encode_json
from dagrelay.templates.expression import RETURN_VALUE, Expression, Filter, Template, format_reference

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("MAX_RENDERED_CHARS", "Scope", "missing_key_hint", "render", "walk")

MAX_RENDERED_CHARS: Final = 8 * 1_048_576
"""Longest rendered text, as in `Limits`."""

_CONTAINERS: Final[frozenset[type[Any]]] = frozenset({dict, list})
_SIZED: Final[frozenset[type[Any]]] = frozenset({dict, list, str})
_WORD_BITS: Final = 64  # Longer integers are left to the encoder, which knows how long they may be.
_SHOWN_CHARS: Final = 80
_DEEPEST: Final = 1_000  # Values were checked when they were pushed; this is what the encoder can follow.
_BYTES_PER_CHAR: Final = 4  # No character takes more in UTF-8.

_type_of: Final = cast("Callable[[object], type[Any]]", type)


class Scope(Protocol):
    """Where expressions find their values, all read before rendering begins."""

    def get(self, expression: Expression) -> Any:
        """Return what `expression.root` and `expression.names` stand for (its path comes later), or MISSING."""
        ...


def walk(value: Any, path: tuple[str | int, ...]) -> Any:
    """Return what stands at `path` in a value, or MISSING.

    A str step is a key of a dict, an int step an index of a list, counted from the end if negative; `[0]` finds nothing in a
    dict and `["0"]` nothing in a list. Only exact dicts and lists are looked into, so no attribute, property or method of
    anything can be reached. A null that is there is a value; one in the middle of the path is as good as nothing (the rules of
    lodash's `_.get`).
    """
    for step in path:
        kind = _type_of(value)
        if kind is dict and isinstance(step, str):
            value = value.get(step, MISSING)
        elif kind is list and not isinstance(step, str) and -len(value) <= step < len(value):
            value = value[step]
        else:
            return MISSING
    return value


def render(
    template: Template,
    scope: Scope,
    *,
    missing: MissingPolicy = MissingPolicy.ERROR,
    native: bool = False,
    max_chars: int = MAX_RENDERED_CHARS,
    on_missing: Callable[[Expression], Exception | None] | None = None,
) -> Any:
    """Return the template with its expressions replaced by their values.

    A str stands in the text as it is, everything else as compact JSON.

    Args:
        template: what to render.
        scope: where the values are.
        missing: what an expression without value and without `default` does: raise, or stand as an empty string (as None
            where it stands alone and is `native`).
        native: return the value itself, with its type, where the template is exactly one expression; a dict or list is a fresh
            copy, as the scope may share its own.
        max_chars: characters that the text may have.
        on_missing: makes the error for a value that is missing; None for the usual one.

    Raises:
        MissingReferenceError: a value is missing; or what `on_missing` returns.
        TemplateValueError: a filter does not take the value, or the value is not JSON.
        TemplateLimitError: the text would be too long; it is not built.
    """
    rendering = _Rendering(template, scope, max_chars)
    lone = template.lone
    if native and lone is not None:
        value = rendering.evaluate(lone)
        if value is MISSING and missing is MissingPolicy.ERROR:
            raise _not_there(lone, template, on_missing)
        return None if value is MISSING else _copied(value)
    pieces: list[str] = []
    for part in template.parts:
        if isinstance(part, str):
            piece = part
        else:
            value = rendering.evaluate(part)
            if value is MISSING and missing is MissingPolicy.ERROR:
                raise _not_there(part, template, on_missing)
            piece = "" if value is MISSING else rendering.text(value)
        rendering.count(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def missing_key_hint(expression: Expression) -> str:
    """Return a hint for an expression whose key is missing and may be a path of the return value; else an empty string."""
    if expression.root != "xcom" or expression.key == RETURN_VALUE:
        return ""
    path = (expression.key, *expression.path)
    return f"did you mean {format_reference(expression.task_id, RETURN_VALUE, path)}?"


class _Rendering:
    """What one rendering is of, where it is, and how much it may still write."""

    __slots__ = ("_expression", "_left", "_limit", "_scope", "_template", "_written")

    def __init__(self, template: Template, scope: Scope, limit: int) -> None:
        self._template = template
        self._scope = scope
        self._limit = limit
        self._left = limit
        self._expression: Expression | None = None
        # By identity, which can't be reused while the value is kept beside its text.
        self._written: dict[int, tuple[Any, str]] = {}

    def count(self, chars: int) -> None:
        """Account for characters about to be written."""
        self._left -= chars
        if self._left < 0:
            raise self._too_long(self._limit - self._left)

    def evaluate(self, expression: Expression) -> Any:
        """Return the value of an expression, or MISSING."""
        self._expression = expression
        value = self._scope.get(expression)
        if expression.path:
            value = walk(value, expression.path)
        for each in expression.filters:
            value = self._filtered(value, each)
        return value

    def text(self, value: Any) -> str:
        """Return a value as it stands in text; one that stands there several times is written once."""
        if _type_of(value) not in _CONTAINERS:
            return self._text(value)
        written = self._written.get(id(value))
        if written is None:
            written = self._written[id(value)] = (value, self._json(value))
        return written[1]

    def _text(self, value: Any) -> str:
        if isinstance(value, str) and _type_of(value) is str:
            return value
        if isinstance(value, int) and _type_of(value) is int and value.bit_length() < _WORD_BITS:
            return str(value)
        return self._json(value)

    def _filtered(self, value: Any, each: Filter) -> Any:
        if value is MISSING:  # It stays so through all filters but one.
            return each.argument if each.name == "default" else MISSING
        match each.name:
            case "default":
                return value
            case "tojson":
                return self._json(value)
            case "length":
                if _type_of(value) not in _SIZED:
                    raise self._unfit(f"length needs text, a list or a mapping, not {_type_of(value).__name__}")
                return len(value)
            case name:
                assert name == "join", name
                return self._joined(value, each.argument)

    def _joined(self, value: Any, separator: str) -> str:
        if _type_of(value) is not list:
            raise self._unfit(f"join needs a list, not {_type_of(value).__name__}")
        pieces: list[str] = []
        size = -len(separator)
        for item in value:
            piece = self._text(item)
            size += len(separator) + len(piece)
            if size > self._left:
                raise self._too_long(self._limit - self._left + size)
            pieces.append(piece)
        return separator.join(pieces)

    def _json(self, value: Any) -> str:
        try:
            return encode_json(value, max_bytes=_BYTES_PER_CHAR * self._left, max_depth=_DEEPEST).decode()
        except XComTooLargeError:
            raise self._too_long(self._limit + 1) from None
        except XComSerializationError as error:
            raise self._unfit(str(error)) from error

    def _unfit(self, reason: str) -> TemplateValueError:
        assert self._expression is not None
        return TemplateValueError(reason, reference=self._expression.source, text=self._template.text)

    def _too_long(self, at_least: int) -> TemplateLimitError:
        return TemplateLimitError(
            f"characters (at least) rendered from template {self._template.text[:_SHOWN_CHARS]!r}",
            actual=at_least,
            limit=self._limit,
            setting="max_rendered_chars",
        )


def _not_there(
    expression: Expression, template: Template, on_missing: Callable[[Expression], Exception | None] | None
) -> Exception:
    error = None if on_missing is None else on_missing(expression)
    return error or MissingReferenceError(expression.source, text=template.text, hint=missing_key_hint(expression))


def _copied(value: Any) -> Any:
    """Return a JSON value that shares no dict or list with the one given."""
    if _type_of(value) not in _CONTAINERS:
        return value
    copy = value.copy()
    pending = [copy]
    while pending:
        holder = pending.pop()
        for place, item in holder.items() if _type_of(holder) is dict else enumerate(holder):
            if _type_of(item) in _CONTAINERS:
                holder[place] = item.copy()  # No key comes or goes, so that the iteration is not disturbed.
                pending.append(holder[place])
    return copy
