"""Configurations: texts at any depth are templates, and what comes out belongs to whoever asked for it."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from dagrelay.errors import MissingReferenceError, TemplateLimitError, TemplateSyntaxError
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import MissingPolicy
from dagrelay.templates import Expression, LiteralText, compile_tree, literal, render_tree
from tests.unit.templates.stopwatch import quickest

ROWS = [{"name": "Ann"}, {"name": "Bob"}]
VALUES: dict[tuple[str, ...], Any] = {("a", "rows"): ROWS, ("a", "n"): 7, ("city",): "Oslo"}


class Values:
    """A scope of a list and a number."""

    def get(self, expression: Expression) -> Any:
        """Return the value named, or MISSING."""
        return VALUES.get(expression.names, MISSING)


def rendered(value: Any, **options: Any) -> Any:
    """Compile and render a configuration."""
    return render_tree(compile_tree(value), Values(), **options)


class Point(NamedTuple):
    """A tuple with names."""

    x: str
    y: int


class Mode(StrEnum):
    """A text that is more than its characters."""

    FAST = "fast"


WHEN = dt.date(2024, 5, 1)
FORM = object()

RENDERED: list[tuple[Any, Any]] = [
    ("{{ xcom.a.n }}", 7),
    ("n={{ xcom.a.n }}", "n=7"),
    ({"a": "{{ params.city }}", "b": 1}, {"a": "Oslo", "b": 1}),
    ({"x": [{"y": ("{{ xcom.a.n }}", "z")}]}, {"x": [{"y": (7, "z")}]}),
    ({"{{ xcom.a.n }}": "k", 1: "{{ xcom.a.n }}"}, {"{{ xcom.a.n }}": "k", 1: 7}),
    ({"rows": "{{ xcom.a.rows }}"}, {"rows": ROWS}),
    (["{{ xcom.a.n }}", "b", ["{{ xcom.a.rows[0].name }}", "d"], "e"], [7, "b", ["Ann", "d"], "e"]),
    ([[], {}, (), "", None, True, 1.5], [[], {}, (), "", None, True, 1.5]),
    ({"when": WHEN, "form": FORM, "set": {"{{ xcom.a.n }}"}}, {"when": WHEN, "form": FORM, "set": {"{{ xcom.a.n }}"}}),
    (literal("{{ xcom.a.n }}"), "{{ xcom.a.n }}"),
    ({"keep": literal("{{ user.name }}"), "own": '{{ "{{" }}'}, {"keep": "{{ user.name }}", "own": "{{"}),
    (OrderedDict(a="{{ xcom.a.n }}"), {"a": 7}),
    (MappingProxyType({"a": MappingProxyType({"b": "{{ xcom.a.n }}"})}), {"a": {"b": 7}}),
    (Point("{{ xcom.a.n }}", 1), (7, 1)),
    ([Mode.FAST], [Mode.FAST]),
]


@pytest.mark.parametrize(("value", "expected"), RENDERED)
def test_texts_are_rendered_at_any_depth(value: Any, expected: Any) -> None:
    """Values of mappings and items of lists and tuples are, keys and all else are not."""
    found = rendered(value)

    assert found == expected
    assert repr(found) == repr(expected)


def test_a_text_that_is_no_template_stays_the_object_it_is() -> None:
    """A member of a StrEnum is more than its characters."""
    assert rendered({"mode": Mode.FAST})["mode"] is Mode.FAST


def test_each_rendering_is_a_structure_of_its_own() -> None:
    """Changing one changes neither the next, nor the source, nor the values of the scope."""
    source = {"a": [1, {"b": 2}], "rows": "{{ xcom.a.rows }}", "again": "{{ xcom.a.rows }}"}
    tree = compile_tree(source)

    first = render_tree(tree, Values())
    first["a"][1]["b"] = "changed"
    first["a"].append(3)
    first["rows"][0]["name"] = "changed"
    second = render_tree(tree, Values())

    assert first["again"] == ROWS
    assert second == {"a": [1, {"b": 2}], "rows": ROWS, "again": ROWS}
    assert source["a"] == [1, {"b": 2}]
    assert ROWS[0] == {"name": "Ann"}


def test_a_tree_is_compiled_from_what_the_source_was() -> None:
    """Changing the source later changes nothing."""
    source = {"a": ["{{ xcom.a.n }}"]}
    tree = compile_tree(source)

    source["a"].append("b")

    assert render_tree(tree, Values()) == {"a": [7]}


def test_a_tree_tells_its_expressions_in_order() -> None:
    """Planning makes edges of them."""
    tree = compile_tree({"a": ["{{ xcom.one.k }} {{ xcom.two.k }}", {"b": "{{ xcom.three.k }}"}], "c": "{{ run.id }}"})

    assert [each.source for each in tree.expressions] == ["xcom.one.k", "xcom.two.k", "xcom.three.k", "run.id"]
    assert not tree.is_constant


@pytest.mark.parametrize("value", [{}, None, {"a": ["plain", literal("{{ xcom.a.n }}"), '{{ "{{" }}']}])
def test_a_tree_without_expressions_is_constant(value: Any) -> None:
    """Nothing needs to be read for it."""
    assert compile_tree(value).is_constant


def test_a_literal_is_a_text() -> None:
    """Anything else needs no marking."""
    assert literal("a") == LiteralText("a")
    with pytest.raises(TypeError):
        literal(1)  # type: ignore[arg-type]


def test_the_policy_for_missing_values_holds_for_every_text() -> None:
    """A lone expression becomes None, others leave a gap."""
    assert rendered(["{{ xcom.b.k }}", "<{{ xcom.b.k }}>"], missing=MissingPolicy.EMPTY) == [None, "<>"]
    with pytest.raises(MissingReferenceError, match=r"xcom\.b\.k"):
        rendered({"a": ["{{ xcom.b.k }}"]})


def test_the_caller_can_make_the_error_for_a_missing_value() -> None:
    """It knows what the task's state is."""

    def on_missing(expression: Expression) -> Exception:
        return KeyError(expression.source)

    with pytest.raises(KeyError, match=r"xcom\.b\.k"):
        rendered({"a": ["{{ xcom.b.k }}"]}, on_missing=on_missing)


def test_a_bad_text_is_named_by_its_path() -> None:
    """The first one is raised."""
    with pytest.raises(TemplateSyntaxError, match=r" @ \$\.mail\[1\]\[\"to whom\"\]$") as caught:
        compile_tree({"mail": ["ok", {"to whom": "{{ 7*7 }}"}], "later": "{{"})

    assert (caught.value.path, caught.value.column) == ('$.mail[1]["to whom"]', 4)


def test_all_bad_texts_can_be_told_at_once() -> None:
    """Planning reports every problem; such a text counts as constant."""
    problems: list[str] = []

    tree = compile_tree(
        ["{{", {"a": "{{ 7*7 }}", 3: "{{ xcom.a.n }}"}, "{{ }}"], on_error=lambda error: problems.append(error.path)
    )

    assert problems == ["$[0]", "$[1].a", "$[2]"]
    assert render_tree(tree, Values()) == ["{{", {"a": "{{ 7*7 }}", 3: 7}, "{{ }}"]


def test_roots_and_foreign_expressions_are_as_for_one_text() -> None:
    """The options are handed on."""
    tree = compile_tree(["{{ user }}", "{{ xcom.a.n }}"], foreign="keep", roots=frozenset({"xcom"}))

    assert render_tree(tree, Values()) == ["{{ user }}", 7]


# --------------------------------------------------------------------------------------------------------------- limits


def nested(depth: int) -> Any:
    """Return lists inside each other."""
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def test_a_config_may_be_as_deep_as_its_limit() -> None:
    """One level more is refused, and so are many more, without recursion."""
    assert rendered(nested(200)) == nested(200)
    for depth in (201, 100_000):
        with pytest.raises(TemplateLimitError, match="max_depth") as caught:
            compile_tree(nested(depth))
        assert (caught.value.actual, caught.value.limit) == (201, 200)


def test_a_raised_depth_is_compiled_and_rendered_without_recursion() -> None:
    """The interpreter's own limit plays no part."""
    found = render_tree(compile_tree(nested(50_000), max_depth=50_000), Values())

    for _ in range(50_000):
        found = found[0]
    assert found == "x"


def test_a_config_that_holds_itself_is_refused() -> None:
    """It is as deep as one likes."""
    itself: list[Any] = []
    itself.append(itself)

    with pytest.raises(TemplateLimitError, match="max_depth"):
        compile_tree(itself)


def test_a_config_that_is_small_in_memory_only_is_refused() -> None:
    """Ten levels of ten times the same would be ten thousand million items."""
    value: Any = ["x"]
    for _ in range(10):
        value = [value] * 10

    def refused() -> None:
        with pytest.raises(TemplateLimitError, match="max_template_chars"):
            compile_tree(value)

    assert quickest(refused, within=1) < 1


def test_a_config_may_be_as_large_as_its_limit() -> None:
    """Its texts count, and its items ten each."""
    assert compile_tree(["abc", {"k": "d"}], max_chars=34).is_constant
    with pytest.raises(TemplateLimitError, match="max_template_chars") as caught:
        compile_tree(["abc", {"k": "d"}], max_chars=33)
    assert (caught.value.actual, caught.value.limit) == (34, 33)


def test_the_expressions_of_a_config_count_together() -> None:
    """The limit itself is allowed."""
    config = ["{{ xcom.a.n }}", "{{ xcom.a.n }} {{ xcom.a.n }}"]

    assert len(compile_tree(config, max_references=3).expressions) == 3
    with pytest.raises(TemplateLimitError, match="max_template_references") as caught:
        compile_tree(config, max_references=2)
    assert (caught.value.actual, caught.value.limit) == (3, 2)


def test_the_rendered_texts_of_a_config_count_together() -> None:
    """Values that stand alone are no text."""
    config = ["<{{ xcom.a.n }}>", "{{ xcom.a.rows }}", "<{{ xcom.a.n }}>"]

    assert rendered(config, max_chars=6) == ["<7>", ROWS, "<7>"]
    with pytest.raises(TemplateLimitError, match="max_rendered_chars") as caught:
        rendered(config, max_chars=5)
    assert (caught.value.actual, caught.value.limit) == (6, 5)
