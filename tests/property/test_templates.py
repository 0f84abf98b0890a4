"""Templates as properties: no text surprises the parser, and rendering equals a few lines of oracle."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import attrs
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.errors import TemplateSyntaxError
from dagrelay.ids import check_key
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import MissingPolicy
from dagrelay.templates import Expression, Template, compile_tree, format_reference, parse, render, render_tree, walk
from tests.unit.templates.stopwatch import quickest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sized

FRAGMENTS = [
    "{{", "}}", "{", "}", "[", "]", "(", ")", '"', "'", "\\", ".", "|", "-", ",", ":", " ", "\n", "\x00", "\ud800", "é", "0",
    "9" * 10,
    "xcom", "xcom.a.b", "params", "params.p", "run", "run.id", "task.attempt", "previous", "user", "default(", "join(", "tojson",
    "length", "null", "1e999", "NaN", '"a"', '\\"', "\\u00e9", "\\ud800",
]  # fmt: skip

texts = st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join))
foreigns = st.sampled_from(["error", "keep"])
strings = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | strings
values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(strings, inner, max_size=4), max_leaves=12
)
task_ids = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,9}", fullmatch=True)
keys = st.text(min_size=1, max_size=9).filter(str.isprintable).map(check_key)
steps = strings | st.integers(-999_999_999, 999_999_999)


def dumped(value: Any) -> str:
    """Return compact JSON by the standard library."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def parsed(text: str, foreign: Literal["error", "keep"]) -> Template | TemplateSyntaxError:
    """Return the template, or what is wrong with it."""
    try:
        return parse(text, foreign=foreign)
    except TemplateSyntaxError as error:
        return error


@given(texts, foreigns)
def test_any_text_is_parsed_or_refused_by_an_error_of_ours(text: str, foreign: Literal["error", "keep"]) -> None:
    """The column lies in the text, and what was parsed adds up to it."""
    template = parsed(text, foreign)
    if isinstance(template, TemplateSyntaxError):
        assert 1 <= template.column <= len(text)
        assert template.text == text
        return

    assert template.text == text
    assert template.expressions == tuple(part for part in template.parts if isinstance(part, Expression))
    for expression in template.expressions:
        assert text[expression.column - 1 :].startswith(expression.source)
    kinds = [isinstance(part, str) for part in template.parts]
    assert (True, True) not in pairwise(kinds)
    assert "" not in template.parts


@given(texts)
def test_text_without_opening_braces_is_unchanged(text: str) -> None:
    """Closing braces are text as well."""
    plain = text.replace("{{", "{")
    while "{{" in plain:
        plain = plain.replace("{{", "{")

    template = parse(plain)

    assert template.is_constant
    assert render(template, Values({})) == plain


@given(st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join), foreigns)
def test_repeating_a_text_costs_no_more_than_its_length(fragment: str, foreign: Literal["error", "keep"]) -> None:
    """Thirty thousand characters take far less than what a quadratic scan would need."""
    text = fragment * (30_000 // len(fragment))

    assert quickest(lambda: parsed(text, foreign), within=1) < 1


@given(strings, strings, strings)
def test_quoted_text_comes_out_as_it_was(before: str, quoted: str, after: str) -> None:
    """Any text can be written, braces and quotes included."""
    before, after = before.replace("{", ""), after.replace("{", "")

    for literal in (json.dumps(quoted), json.dumps(quoted, ensure_ascii=False)):
        assert render(parse(f"{before}{{{{ {literal} }}}}{after}"), Values({})) == before + quoted + after


@given(task_ids, keys, st.lists(steps, max_size=5))
def test_a_reference_parses_back_to_what_it_was_written_from(task_id: str, key: str, path: list[str | int]) -> None:
    """Quoting and escaping lose nothing."""
    expression = parse(f"{{{{{format_reference(task_id, key, path)}}}}}").lone

    assert expression is not None
    assert (expression.task_id, expression.key, expression.path) == (task_id, key, tuple(path))


def indexed(value: Any, step: str | int) -> Any:
    """Return an item of a dict by a str or of a list by an int; else MISSING."""
    fits = isinstance(value, dict) if isinstance(step, str) else isinstance(value, list)
    try:
        return value[step] if fits else MISSING
    except LookupError:
        return MISSING


@given(values, st.lists(steps, max_size=4))
def test_walking_equals_indexing(value: Any, path: list[str | int]) -> None:
    """Whatever indexing refuses is missing."""
    expected = value
    for step in path:
        expected = indexed(expected, step)

    assert walk(value, tuple(path)) is expected or walk(value, tuple(path)) == expected


class Values:
    """A scope of XComs by task and key."""

    def __init__(self, entries: dict[tuple[str, str], Any]) -> None:
        """Take the entries."""
        self._entries = entries

    def get(self, expression: Expression) -> Any:
        """Return the entry, or MISSING."""
        return self._entries.get((expression.task_id, expression.key), MISSING)


@attrs.frozen
class Case:
    """An expression, what it reads, and what the oracle makes of it."""

    source: str
    entries: dict[tuple[str, str], Any]
    result: Any


@st.composite
def cases(draw: st.DrawFn, index: int) -> Case:
    """Make an expression with a path that may exist, and filters; find its result by other means."""
    task_id, key = f"t{index}", draw(keys)
    value = draw(values | st.just(MISSING))
    path: list[str | int] = []
    found: Any = value
    while places := places_in(found):
        if draw(st.booleans()):
            break
        path.append(draw(st.sampled_from(places)))
        found = indexed(found, path[-1])
    if draw(st.integers(0, 9)) == 0:
        path.append("no such key")
        found = MISSING
    source = format_reference(task_id, key, path)
    for name in draw(st.lists(st.sampled_from(["default", "tojson", "length", "join"]), max_size=3)):
        argument = draw(strings if name == "join" else values)
        if fits(name, found):
            source += f" | {name}({json.dumps(argument)})" if name in {"default", "join"} else f"|{name}"
            found = filtered(name, found, argument)
    return Case(source, {} if value is MISSING else {(task_id, key): value}, found)


def places_in(value: Any) -> list[Any]:
    """Return the keys of a dict or the indexes of a list, from both ends; else nothing."""
    if isinstance(value, list):
        size = len(cast("Sized", value))
        return list(range(-size, size))
    return sorted(cast("dict[str, Any]", value)) if isinstance(value, dict) else []


def fits(name: str, value: Any) -> bool:
    """Tell whether a filter takes a value."""
    takes = {"length": (str, list, dict), "join": (list,)}
    return value is MISSING or isinstance(value, takes.get(name, object))


def filtered(name: str, value: Any, argument: Any) -> Any:
    """Return what a filter makes of a value, by the oracle."""
    if value is MISSING:
        return argument if name == "default" else MISSING
    results: dict[str, Callable[[], Any]] = {
        "default": lambda: value,
        "tojson": lambda: dumped(value),
        "length": lambda: len(value),
        "join": lambda: argument.join(map(in_text, value)),
    }
    return results[name]()


def in_text(value: Any) -> str:
    """Return a value as it stands in text, by the oracle."""
    if value is MISSING:
        return ""
    return value if isinstance(value, str) else dumped(value)


@given(st.data(), st.lists(strings.map(lambda text: text.replace("{", "")), min_size=1, max_size=4))
def test_rendering_equals_an_oracle(data: st.DataObject, literals: list[str]) -> None:
    """Paths, filters, missing values and text around them, all at once."""
    drawn = [data.draw(cases(index)) for index in range(len(literals) - 1)]
    entries = {place: value for case in drawn for place, value in case.entries.items()}
    text = literals[0] + "".join(f"{{{{ {case.source} }}}}{after}" for case, after in zip(drawn, literals[1:], strict=True))
    expected = literals[0] + "".join(in_text(case.result) + after for case, after in zip(drawn, literals[1:], strict=True))

    assert render(parse(text), Values(entries), missing=MissingPolicy.EMPTY) == expected


@given(cases(0))
def test_a_lone_expression_gives_the_value_itself(case: Case) -> None:
    """Its type is kept, and what is missing is None under that policy."""
    found = render(parse(f"{{{{ {case.source} }}}}"), Values(case.entries), native=True, missing=MissingPolicy.EMPTY)

    expected = None if case.result is MISSING else case.result
    assert found == expected
    assert dumped(found) == dumped(expected)


@given(texts.filter(lambda text: text.isascii()))
def test_a_value_is_never_looked_at_again(value: str) -> None:
    """Whatever it holds, it stands in the output as it is."""
    assert render(parse("<{{ xcom.a.b }}>"), Values({("a", "b"): value})) == f"<{value}>"


@given(values)
def test_a_config_without_templates_comes_out_equal(value: Any) -> None:
    """Structure and scalars are kept."""
    tree = compile_tree(value, on_error=lambda _: None)

    if tree.is_constant and "{{" not in dumped(value):
        assert dumped(render_tree(tree, Values({}))) == dumped(value)


@given(values, values)
def test_a_config_is_rendered_at_every_leaf(shape: Any, value: Any) -> None:
    """Each text replaced by a reference becomes the value, at whatever depth it stands."""
    tree = compile_tree(replaced(shape, "{{ xcom.a.b }}"))

    assert render_tree(tree, Values({("a", "b"): value})) == replaced(shape, value)


def replaced(shape: Any, by: Any) -> Any:
    """Return the shape with every text replaced."""
    if isinstance(shape, str):
        return by
    if isinstance(shape, dict):
        return {key: replaced(item, by) for key, item in cast("dict[str, Any]", shape).items()}
    return [replaced(item, by) for item in cast("Iterable[Any]", shape)] if isinstance(shape, list) else shape


def test_a_template_that_was_drawn_is_a_template() -> None:
    """The strategies above do reach the parser's inside."""
    assert isinstance(parse('{{ xcom["t.0"]["a b"][0] | default({"a": 1}) }}').parts[0], Expression)
    assert isinstance(parse(""), Template)
