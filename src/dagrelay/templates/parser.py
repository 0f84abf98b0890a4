"""Text to template: one scan from left to right, in linear time whatever the text.

::

    expression = "{{" (reference ("|" filter)* | quoted) "}}"
    reference  = ("xcom" | "previous") step [step] step*     the task, its key (return_value if left out), a path
               | "params" step step*                         the param, a path
               | "run" ("." "id" | "." "dag_id" | "." "started_at")
               | "task" ("." "id" | "." "attempt" | "." "map_index")
    step       = "." name | "[" index "]" | "[" quoted "]"   task, key and param are names or quoted
    name       = [A-Za-z_][A-Za-z0-9_-]*
    index      = "-"? up to nine digits
    quoted     = a JSON string
    filter     = "default" "(" JSON ")" | "join" "(" quoted ")" | "tojson" | "length"

White space may stand inside the braces, around `|` and around what is in parentheses. Quoted text alone is text: `{{ "{{" }}`
writes braces. A `}}` outside an expression is text as well.
"""

from __future__ import annotations

import json
import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from dagrelay.errors import InvalidIdError, TemplateLimitError, TemplateSyntaxError
from dagrelay.ids import check_key, check_task_id
from dagrelay.templates.expression import NAME, RETURN_VALUE, Expression, Filter, Template

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("ALL_ROOTS", "MAX_REFERENCES", "MAX_TEMPLATE_CHARS", "parse")

ALL_ROOTS: Final = frozenset({"xcom", "params", "run", "task", "previous"})
"""Every root of the grammar."""
MAX_TEMPLATE_CHARS: Final = 1_048_576
"""Longest template, as in `Limits`."""
MAX_REFERENCES: Final = 10_000
"""Most expressions in a template, as in `Limits`."""

_ATTRIBUTES: Final = {"run": ("id", "dag_id", "started_at"), "task": ("id", "attempt", "map_index")}
_BARE_FILTERS: Final = frozenset({"tojson", "length"})
_ALL_FILTERS: Final = "default(...), tojson, join(...), length"
_MAX_INDEX_DIGITS: Final = 9
_MAX_LITERAL_DEPTH: Final = 100
_CACHED_TEMPLATES: Final = 256
_LONGEST_CACHED: Final = 4_096  # Longer ones are rare, and would make the cache hold much.

# Each repeats one class of characters, with nothing to go back to: whatever the text, they take linear time.
_SPACE: Final = re.compile(r"[ \t\r\n]*+")
_BRACES: Final = re.compile(r"\{+")
_OPENING: Final = re.compile(r"\{\{[ \t\r\n]*+([A-Za-z_][A-Za-z0-9_-]*+)?")
_XCOM: Final = re.compile(
    r"\{\{[ \t\r\n]*+(xcom)\.([A-Za-z_][A-Za-z0-9_-]{0,249}+)\.([A-Za-z_][A-Za-z0-9_-]{0,249}+)(?![A-Za-z0-9_-])"
)
_CLOSING: Final = re.compile(r"[ \t\r\n]*+\}\}")
_STEP: Final = re.compile(r'\.([A-Za-z_][A-Za-z0-9_-]*+)|\[(-?[0-9]{1,9})\]|\["([^"\\\x00-\x1f\ud800-\udfff]*+)"\]')
_INDEX: Final = re.compile(r"-?[0-9]++")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_LITERAL_RUN: Final = re.compile(r"""[^"')\[\]{}]*+""")
_OURS: Final = re.compile(
    r"""
    \{\{ [ \t\r\n]*+
    (?: (?P<root>[A-Za-z_][A-Za-z0-9_-]*+) (?: \. (?P<name>[A-Za-z_][A-Za-z0-9_-]*+) | [.\[] )
      | " (?: [^"\\\x00-\x1f] | \\["\\/bfnrt] | \\u[0-9A-Fa-f]{4} )*+ " [ \t\r\n]*+ \}\}
    )""",
    re.VERBOSE,
)


def parse(
    text: str,
    *,
    max_chars: int = MAX_TEMPLATE_CHARS,
    max_references: int = MAX_REFERENCES,
    foreign: Literal["error", "keep"] = "error",
    roots: frozenset[str] = ALL_ROOTS,
) -> Template:
    """Return the template of a text, in linear time; the last few hundred are remembered.

    Args:
        text: what to parse.
        max_chars: characters allowed.
        max_references: expressions allowed.
        foreign: what becomes of expressions of other template languages. `keep` leaves them as text, braces and all; foreign is
            what does not begin with a root of `roots` and a `.` or `[`, an unknown attribute of `run` or `task`, quoted
            text with anything behind it, and three or more braces in a row. What begins like one of ours and goes on
            wrong is an error all the same, as keeping it would hide a slip of the pen.
        roots: the roots known here; `run.id` in place of `run` allows that one attribute only.

    Raises:
        TemplateSyntaxError: an expression breaks the grammar; with its column.
        TemplateLimitError: the text is too long, or has too many expressions.
    """
    if len(text) > max_chars:
        raise TemplateLimitError("characters of a template", actual=len(text), limit=max_chars, setting="max_template_chars")
    if "{{" not in text:
        return Template(text=text, parts=(text,) if text else ())
    scan = _cached_scan if len(text) <= _LONGEST_CACHED else _scan
    return scan(text, max_references, foreign == "keep", roots)


def _scan(text: str, max_references: int, keeps_foreign: bool, roots: frozenset[str]) -> Template:  # noqa: FBT001 - a cache's key
    scanner = _Scanner(text, roots)
    parts: list[str | Expression] = []
    expressions: list[Expression] = []
    pending: list[str] = []  # Literal text since the last expression.
    copied = 0  # Invariant: text[:copied] stands in `parts` and `pending`.
    opening = text.find("{{")
    while opening >= 0:
        if keeps_foreign and not scanner.is_ours(opening):
            opening = text.find("{{", scanner.position)
            continue
        found = scanner.read(opening)
        pending.append(text[copied:opening])
        copied = scanner.position
        if isinstance(found, str):
            pending.append(found)
        else:
            parts += _merged(pending)
            parts.append(found)
            expressions.append(found)
            if len(expressions) > max_references:
                raise TemplateLimitError(
                    "expressions in a template", actual=len(expressions), limit=max_references, setting="max_template_references"
                )
            pending.clear()
        opening = text.find("{{", copied)
    pending.append(text[copied:])
    parts += _merged(pending)
    is_lone = len(expressions) == 1 and expressions[0] is scanner.covering
    return Template(text=text, parts=tuple(parts), expressions=tuple(expressions), lone=expressions[0] if is_lone else None)


_cached_scan: Final = lru_cache(maxsize=_CACHED_TEMPLATES)(_scan)


def _merged(pieces: list[str]) -> list[str]:
    merged = "".join(pieces)
    return [merged] if merged else []


class _Scanner:
    """A place in a text; whatever is read moves it on."""

    __slots__ = ("_opening", "_roots", "_text", "covering", "position")

    def __init__(self, text: str, roots: frozenset[str]) -> None:
        self._text = text
        self._roots = roots
        self._opening = 0
        self.position: int = 0
        self.covering: Expression | None = None  # The expression that is the whole text.

    # ------------------------------------------------------------------------------------------------------ expressions

    def is_ours(self, opening: int) -> bool:
        """Tell whether what opens here begins like an expression of ours, or is quoted text; else move behind its braces."""
        match = _OURS.match(self._text, opening)
        if match is not None and (match["root"] is None or self._is_known(match["root"], match["name"])):
            return True
        self.position = _end(_BRACES, self._text, opening)
        return False

    def _is_known(self, root: str, name: str | None) -> bool:
        return name in self._attributes(root) if root in _ATTRIBUTES else root in self._roots

    def _attributes(self, root: str) -> tuple[str, ...]:
        return tuple(name for name in _ATTRIBUTES[root] if root in self._roots or f"{root}.{name}" in self._roots)

    def read(self, opening: int) -> Expression | str:
        """Read the expression that opens here, or the quoted text."""
        self._opening = opening
        match = _XCOM.match(self._text, opening)  # The commonest beginning, whose names are legal as they match.
        if match is not None and "xcom" in self._roots:
            self.position = match.end()
            return self._expression("xcom", (match[2], match[3]), match.start(1))
        match = _OPENING.match(self._text, opening)
        assert match is not None
        self.position = match.end()
        root = match[1]
        if root is not None:
            return self._expression(root, self._names(root, match.start(1)), match.start(1))
        match self._text[self.position : self.position + 1]:
            case '"':
                return self._quoted_text()
            case "{":
                raise self._error("unexpected '{' (write '{{ \"{\" }}' for a brace before an expression)", self.position)
            case _ if self._text.startswith("}}", self.position):
                raise self._error("empty expression", opening)
            case _:
                raise self._error(f"expected {self._known_roots()}", self.position)

    def _quoted_text(self) -> str:
        text = self._quoted()
        if not self._closes():
            raise self._error("expected '}}' after quoted text, which takes no filters", self.position)
        return text

    def _expression(self, root: str, names: tuple[str, ...], start: int) -> Expression:
        path: tuple[str | int, ...] = ()
        if root not in _ATTRIBUTES:
            path = self._path()
        elif self._has_step():
            raise self._error(f"{root}.{names[0]} has no parts", self.position)
        filters = () if self._closes() else self._filters()
        source = self._text[start : self.position - 2].rstrip()
        expression = Expression(root=root, names=names, path=path, filters=filters, source=source, column=start + 1)
        if self._opening == 0 and self.position == len(self._text):
            self.covering = expression
        return expression

    def _names(self, root: str, start: int) -> tuple[str, ...]:
        match root:
            case "xcom" | "previous" if root in self._roots:
                return self._task_and_key(root)
            case "params" if root in self._roots:
                return (self._named_step("params needs a name: params.name"),)
            case "run" | "task" if known := self._attributes(root):
                return (self._attribute(root, known),)
            case _:
                raise self._error(f"unknown root {root!r}, expected {self._known_roots()}", start)

    def _known_roots(self) -> str:
        return ", ".join(sorted(self._roots))

    def _task_and_key(self, root: str) -> tuple[str, str]:
        task_id = self._identifier(check_task_id, f"{root} needs a task: {root}.task.key")
        if not self._has_step():
            return task_id, RETURN_VALUE
        return task_id, self._identifier(check_key, f"a key stands between task and path: {root}.task.{RETURN_VALUE}[0]")

    def _identifier(self, check: Callable[[str], str], otherwise: str) -> str:
        start = self.position
        step = self._named_step(otherwise)
        try:
            return check(step)
        except InvalidIdError as error:
            raise self._error(str(error), start + 1) from None

    def _attribute(self, root: str, known: tuple[str, ...]) -> str:
        start = self.position
        match = NAME.match(self._text, start + 1)
        if self._text[start : start + 1] != "." or match is None or match.group() not in known:
            expected = ", ".join(f"{root}.{name}" for name in known)
            raise self._error(f"unknown attribute of {root!r}, expected {expected}", start)
        self.position = match.end()
        return match.group()

    # ------------------------------------------------------------------------------------------------------------ steps

    def _has_step(self) -> bool:
        return self._text[self.position : self.position + 1] in {".", "["}

    def _path(self) -> tuple[str | int, ...]:
        path: list[str | int] = []
        while self._has_step():
            path.append(self._step())
        return tuple(path)

    def _named_step(self, otherwise: str) -> str:
        start = self.position
        if self._has_step():
            step = self._step()
            if isinstance(step, str):
                return step
        raise self._error(otherwise, start)

    def _step(self) -> str | int:
        match = _STEP.match(self._text, self.position)
        if match is None:
            return self._rare_step()
        self.position = match.end()
        name, index, key = match.groups()
        if name is not None:
            return name
        return key if index is None else int(index)

    def _rare_step(self) -> str:
        """Read a key with escapes, or say what is wrong with the step."""
        self.position += 1
        start = self.position
        if self._text[start - 1] == ".":
            raise self._error("expected a name, which begins with a letter or '_' (else quote it: [\"any key\"])", start)
        if self._text[start : start + 1] == '"':
            key = self._quoted()
            if self._text[self.position : self.position + 1] != "]":
                raise self._error("expected ']'", self.position)
            self.position += 1
            return key
        match = _INDEX.match(self._text, start)
        if match is None:
            raise self._error('expected an integer or a key in double quotes: [0], [-1], ["any key"]', start)
        if self._text[match.end() : match.end() + 1] != "]":
            raise self._error("expected ']'", match.end())
        raise self._error(f"an index of more than {_MAX_INDEX_DIGITS} digits", start)

    # ---------------------------------------------------------------------------------------------------------- filters

    def _filters(self) -> tuple[Filter, ...]:
        filters: list[Filter] = []
        while not self._closes():
            if self._text[self.position : self.position + 1] != "|":
                raise self._error("expected '|' or '}}'", self.position)
            self.position = _end(_SPACE, self._text, self.position + 1)
            filters.append(self._filter())
        return tuple(filters)

    def _filter(self) -> Filter:
        start = self.position
        match = NAME.match(self._text, start)
        if match is None:
            raise self._error(f"expected a filter: {_ALL_FILTERS}", start)
        self.position = match.end()
        name = match.group()
        if name in _BARE_FILTERS:
            return Filter(name=name)
        if name not in {"default", "join"}:
            raise self._error(f"unknown filter {name!r}, expected {_ALL_FILTERS}", start)
        if self._text[self.position : self.position + 1] != "(":
            raise self._error(f"{name} needs an argument: {name}(...)", self.position)
        opening = self.position
        argument = self._argument()
        if name == "join" and not isinstance(argument, str):
            raise self._error('join needs text in double quotes: join(", ")', opening + 1)
        return Filter(name=name, argument=argument)

    def _argument(self) -> Any:
        """Read a JSON literal in parentheses."""
        opening = self.position
        position = opening + 1
        depth = 0
        while True:
            position = _end(_LITERAL_RUN, self._text, position)
            match self._text[position : position + 1]:
                case ")":
                    self.position = position + 1
                    return self._decoded(opening + 1, position)
                case '"':
                    position = self._quoted_end(position)
                case "[" | "{":
                    depth += 1
                    position += 1
                case "":
                    raise self._error("unclosed '('", opening)
                case "'":
                    raise self._error('expected text in double quotes, not in single ones: ", "', position)
                case _:
                    depth -= 1
                    position += 1
            if depth > _MAX_LITERAL_DEPTH:  # Bounded, as the decoder recurses.
                raise self._error(f"a literal nested deeper than {_MAX_LITERAL_DEPTH} levels", position - 1)

    # ----------------------------------------------------------------------------------------------------------- tokens

    def _closes(self) -> bool:
        """Move behind the closing braces; if there are none, to what stands in their place."""
        match = _CLOSING.match(self._text, self.position)
        self.position = _end(_SPACE, self._text, self.position) if match is None else match.end()
        return match is not None

    def _quoted(self) -> str:
        start = self.position
        self.position = self._quoted_end(start)
        text = self._decoded(start, self.position)
        assert isinstance(text, str)
        return text

    def _quoted_end(self, start: int) -> int:
        match = _STRING.match(self._text, start)
        if match is None:
            raise self._error("unclosed '\"'", start)
        return match.end()

    def _decoded(self, start: int, end: int) -> Any:
        # Decoded from its slice, as the decoder's errors count the lines of all that they are given.
        literal = self._text[start:end]
        try:
            value = _DECODER.decode(literal)
            if not literal.isascii() or "\\u" in literal:
                json.dumps(value, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise self._error(f"no JSON literal ({error.msg})", start + error.pos) from None
        except UnicodeEncodeError:
            raise self._error("no JSON literal (a lone surrogate)", start) from None
        except ValueError as error:
            raise self._error(f"no JSON literal ({error})", start) from None
        return value

    def _error(self, reason: str, position: int) -> TemplateSyntaxError:
        if position >= len(self._text):
            return TemplateSyntaxError("unclosed '{{'", column=self._opening + 1, text=self._text)
        return TemplateSyntaxError(reason, column=position + 1, text=self._text)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    assert match is not None, "the pattern matches nothing as well"
    return match.end()


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number too large for a float")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is none")


_DECODER: Final = json.JSONDecoder(parse_float=_finite_float, parse_constant=_no_constant)
