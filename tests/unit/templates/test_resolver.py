"""Rendering: values are put in as data, a missing one is never mistaken for null, and no text grows without bound."""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from typing import Any

import pytest

from dagrelay.errors import MissingReferenceError, TemplateError, TemplateLimitError, TemplateValueError
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import MissingPolicy
from dagrelay.templates import Expression, Template, missing_key_hint, parse, render, walk
from tests.unit.templates.stopwatch import quickest

VALUES: dict[tuple[str, ...], Any] = {
    ("xcom", "a", "text"): "1.0",
    ("xcom", "a", "null"): None,
    ("xcom", "a", "number"): 7,
    ("xcom", "a", "huge"): 10**30,
    ("xcom", "a", "float"): 1e16,
    ("xcom", "a", "yes"): True,
    ("xcom", "a", "data"): {"é": [1, None, "x"], "0": "zero", "items": "own", "deep": {"n": None}},
    ("xcom", "a", "rows"): [{"name": "Ann"}, {"name": "Bob"}],
    ("xcom", "a", "words"): ["a", "b", 3, None, {"k": [1]}],
    ("xcom", "a", "braces"): "{{ xcom.a.text }} {{ 7*7 }} %s {0}",
    ("params", "city"): "Oslo",
    ("params", "when"): dt.date(2024, 5, 1),
    ("params", "nan"): [float("nan")],
    ("run", "id"): "r1",
    ("task", "attempt"): 2,
}


class Values:
    """A scope over `VALUES`."""

    def get(self, expression: Expression) -> Any:
        """Return the value named, or MISSING."""
        return VALUES.get((expression.root, *expression.names), MISSING)


def text_of(template: str, **options: Any) -> Any:
    """Return the template rendered in text mode."""
    return render(parse(template), Values(), **options)


def value_of(template: str, **options: Any) -> Any:
    """Return the template rendered natively."""
    return render(parse(template), Values(), native=True, **options)


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ((), {"a": [1, {"b": None}], "0": "zero", "": "empty"}),
        (("a",), [1, {"b": None}]),
        (("a", 0), 1),
        (("a", -1), {"b": None}),
        (("a", -2), 1),
        (("a", 1, "b"), None),
        (("0",), "zero"),
        (("",), "empty"),
        (("a", 2), MISSING),
        (("a", -3), MISSING),
        (("a", 999_999_999), MISSING),
        (("a", "0"), MISSING),
        (("a", "append"), MISSING),
        ((0,), MISSING),
        (("b",), MISSING),
        (("items",), MISSING),
        (("__class__",), MISSING),
        (("a", 0, "real"), MISSING),
        (("a", 1, "b", "c"), MISSING),
        (("0", 0), MISSING),
        (("0", "upper"), MISSING),
    ],
)
def test_a_path_indexes_dicts_and_lists_and_nothing_else(path: tuple[str | int, ...], found: Any) -> None:
    """What is out of range, or beyond a null or scalar, is missing; a null at the end is a value."""
    assert walk({"a": [1, {"b": None}], "0": "zero", "": "empty"}, path) == found


class Hostile:
    """Has whatever is asked for."""

    def __getattr__(self, name: str) -> str:
        """Give a secret away."""
        return "secret"

    def __getitem__(self, key: object) -> str:
        """Give a secret away."""
        return "secret"


OTHERS: list[Any] = [Hostile(), OrderedDict(a=1), (1, 2), "text", {1: "int key"}.keys(), MISSING, None]


@pytest.mark.parametrize("value", OTHERS)
@pytest.mark.parametrize("step", ["a", 0, "__class__"])
def test_only_exact_dicts_and_lists_are_looked_into(value: Any, step: str | int) -> None:
    """No subclass and no other object has a say."""
    assert walk(value, (step,)) is MISSING


# ----------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("plain }} text", "plain }} text"),
        ('{{ "{{" }}', "{{"),
        ("{{ xcom.a.text }}", "1.0"),
        ("<{{ xcom.a.null }}>", "<null>"),
        ("{{ xcom.a.number }}", "7"),
        ("{{ xcom.a.huge }}", "1" + "0" * 30),
        ("{{ xcom.a.float }}", "1e+16"),
        ("{{ xcom.a.yes }}", "true"),
        ("{{ xcom.a.data }}", '{"é":[1,null,"x"],"0":"zero","items":"own","deep":{"n":null}}'),
        ("{{ xcom.a.data.items }}", "own"),
        ('{{ xcom.a.data["0"] }}', "zero"),
        ("{{ xcom.a.data.deep.n }}", "null"),
        ("{{ xcom.a.data.deep }} {{ xcom.a.data.deep }}", '{"n":null} {"n":null}'),
        ("{{ xcom.a.rows[0].name }} and {{ xcom.a.rows[-1].name }}", "Ann and Bob"),
        ("{{ params.city }} {{ run.id }} {{ task.attempt }}", "Oslo r1 2"),
        ("{{ xcom.a.text | tojson }}", '"1.0"'),
        ("{{ xcom.a.null | tojson }}", "null"),
        ("{{ xcom.a.data | tojson | length }}", "61"),
        ("{{ xcom.a.data | length }} {{ xcom.a.rows | length }} {{ xcom.a.text | length }}", "4 2 3"),
        ('{{ xcom.a.words | join(", ") }}', 'a, b, 3, null, {"k":[1]}'),
        ('{{ xcom.a.words | join("") | length }}', "16"),
        ('{{ xcom.a.words | join("-") | tojson }}', '"a-b-3-null-{\\"k\\":[1]}"'),
        ('{{ xcom.a.none | default([]) | join(", ") }}|', "|"),
    ],
)
def test_text_takes_str_as_it_is_and_all_else_as_compact_json(template: str, text: str) -> None:
    """The JSON is that of the serializer."""
    assert text_of(template) == text


def test_a_value_is_never_looked_at_again() -> None:
    """Braces, percent signs and format fields in a value are text."""
    assert text_of("<{{ xcom.a.braces }}>") == f"<{VALUES['xcom', 'a', 'braces']}>"
    assert value_of("{{ xcom.a.braces }}") == VALUES["xcom", "a", "braces"]


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{{ xcom.a.text }}", "1.0"),
        ("{{ xcom.a.null }}", None),
        ("{{ xcom.a.number }}", 7),
        ("{{ xcom.a.yes }}", True),
        ("{{ xcom.a.rows }}", [{"name": "Ann"}, {"name": "Bob"}]),
        ("{{ xcom.a.rows | length }}", 2),
        ("{{ xcom.a.number | tojson }}", "7"),
        ("{{ params.when }}", dt.date(2024, 5, 1)),
        ("{{ xcom.a.none | default(1.5) }}", 1.5),
        (" {{ xcom.a.number }}", " 7"),
        ('{{ "" }}{{ xcom.a.number }}', "7"),
        ("plain", "plain"),
    ],
)
def test_a_lone_native_expression_keeps_the_type(template: str, value: Any) -> None:
    """Anything beside it makes it text."""
    found = value_of(template)

    assert found == value
    assert type(found) is type(value)


def test_a_native_value_is_a_copy_of_its_own() -> None:
    """Whoever changes it changes neither the scope's value nor a template's default."""
    changed = value_of("{{ xcom.a.data }}")
    changed["é"].append(1)
    changed["deep"]["n"] = 1
    default = value_of('{{ xcom.a.none | default({"a": [[1]]}) }}')
    default["a"][0].append(2)

    assert value_of("{{ xcom.a.data }}") == VALUES["xcom", "a", "data"]
    assert VALUES["xcom", "a", "data"]["deep"] == {"n": None}
    assert value_of('{{ xcom.a.none | default({"a": [[1]]}) }}') == {"a": [[1]]}


def test_a_deep_native_value_is_copied_without_recursion() -> None:
    """Depth is the user's."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    class Deep:
        def get(self, expression: Expression) -> Any:
            return {expression.root: deep}["xcom"]

    copied = render(parse("{{ xcom.a.b }}"), Deep(), native=True)

    for _ in range(100_000):
        copied = copied[0]
    assert copied == []


# -------------------------------------------------------------------------------------------------------------- missing


@pytest.mark.parametrize(
    "reference",
    ["xcom.none", "xcom.a.none", "xcom.a.rows[2]", "xcom.a.null.x", "xcom.a.text.upper", "params.none", "xcom.a.none | tojson"],
)
@pytest.mark.parametrize("native", [True, False])
def test_a_missing_value_is_an_error_that_names_reference_and_template(reference: str, native: bool) -> None:
    """It can be caught as a template error and as a failed look-up."""
    template = f"{{{{ {reference} }}}}"

    with pytest.raises(MissingReferenceError) as caught:
        render(parse(template), Values(), native=native)

    assert caught.value.reference == reference
    assert caught.value.text == template
    assert isinstance(caught.value, LookupError)
    assert reference in str(caught.value)


def test_the_caller_can_make_the_error() -> None:
    """It knows what the task's state is."""

    def on_missing(expression: Expression) -> Exception:
        return KeyError(expression.source)

    for template in ("{{ xcom.a.none }}", "<{{ xcom.a.none }}>"):
        with pytest.raises(KeyError, match=r"xcom\.a\.none"):
            value_of(template, on_missing=on_missing)


def test_a_missing_value_can_stand_as_nothing() -> None:
    """An empty string in text, None alone; no braces are left."""
    empty = MissingPolicy.EMPTY

    assert text_of("<{{ xcom.a.none }}>", missing=empty) == "<>"
    assert text_of("{{ xcom.a.none }}", missing=empty) == ""
    assert text_of("<{{ xcom.a.none | length }}>", missing=empty) == "<>"
    assert value_of("{{ xcom.a.none }}", missing=empty) is None
    assert value_of("{{ xcom.a.rows[9].name | tojson }}", missing=empty) is None


@pytest.mark.parametrize("missing", MissingPolicy)
@pytest.mark.parametrize(
    ("template", "value"),
    [
        ('{{ xcom.a.none | default("d") }}', "d"),
        ('{{ xcom.a.rows[2].name | default("d") }}', "d"),
        ('{{ xcom.a.null.x | default("d") }}', "d"),
        ('{{ xcom.a.null | default("d") }}', None),
        ("{{ xcom.a.none | default(null) }}", None),
        ("{{ xcom.a.none | default(1) | default(2) }}", 1),
        ("{{ xcom.a.none | length | default(0) }}", 0),
        ("{{ xcom.a.none | default([1, 2]) | length }}", 2),
        ('{{ xcom.a.number | default("d") }}', 7),
    ],
)
def test_a_default_stands_in_for_what_is_missing_and_not_for_null(missing: MissingPolicy, template: str, value: Any) -> None:
    """Filters before it let the gap through, filters after it get the default."""
    assert value_of(template, missing=missing) == value


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("{{ xcom.load.rows }}", "did you mean xcom.load.return_value.rows?"),
        ('{{ xcom["a.b"]["k k"][0].x }}', 'did you mean xcom["a.b"].return_value["k k"][0].x?'),
        ("{{ xcom.load.return_value.rows }}", ""),
        ("{{ xcom.load }}", ""),
        ("{{ params.city }}", ""),
    ],
)
def test_a_missing_key_may_be_a_path_of_the_return_value(text: str, hint: str) -> None:
    """The hint writes it out; there is none where the return value was asked for."""
    assert missing_key_hint(parse(text).expressions[0]) == hint


def test_the_error_carries_the_hint() -> None:
    """Who wrote `xcom.a.name` sees what would work."""
    with pytest.raises(MissingReferenceError, match=r"did you mean xcom\.a\.return_value\.name\?"):
        text_of("{{ xcom.a.name }}")


# ---------------------------------------------------------------------------------------------------- values that don't fit


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ xcom.a.number | length }}", "length needs text, a list or a mapping, not int"),
        ("{{ xcom.a.null | length }}", "length needs text, a list or a mapping, not NoneType"),
        ('{{ xcom.a.text | join(",") }}', "join needs a list, not str"),
        ('{{ xcom.a.data | join(",") }}', "join needs a list, not dict"),
        ("<{{ params.when }}>", "date"),
        ("{{ params.when | tojson }}", "date"),
        ("{{ params.nan }}!", r"nan is no number JSON knows @ \$\[0\]"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_with_a_reason(template: str, reason: str) -> None:
    """It names the reference."""
    with pytest.raises(TemplateValueError, match=reason) as caught:
        value_of(template)

    assert caught.value.reference == parse(template).expressions[0].source
    assert caught.value.text == template
    assert isinstance(caught.value, TemplateError)


# --------------------------------------------------------------------------------------------------------------- bounds


@pytest.mark.parametrize(
    ("template", "size"),
    [
        ("abcdef", 6),
        ("{{ xcom.a.text }}+{{ xcom.a.text }}", 7),
        ("{{ xcom.a.number }}234", 4),
        ("{{ xcom.a.rows }}", 31),
        ("é{{ xcom.a.data }}", 62),
        ('{{ xcom.a.words | join(", ") }}', 24),
        ("{{ xcom.a.text | tojson }}", 5),
    ],
)
def test_a_text_may_be_as_long_as_its_limit(template: str, size: int) -> None:
    """One character more is refused."""
    assert len(text_of(template, max_chars=size)) == size
    with pytest.raises(TemplateLimitError, match="raise it by Limits\\(max_rendered_chars=") as caught:
        text_of(template, max_chars=size - 1)
    assert caught.value.limit == size - 1
    assert caught.value.actual >= size


@pytest.mark.parametrize("template", ["{{ xcom.a.rows | tojson }}", '{{ xcom.a.words | join(", ") }}'])
def test_text_made_by_a_lone_filter_is_bounded_too(template: str) -> None:
    """A native value of its own is not text."""
    with pytest.raises(TemplateLimitError):
        value_of(template, max_chars=4)
    assert value_of("{{ xcom.a.rows }}", max_chars=0) == VALUES["xcom", "a", "rows"]


class One:
    """A scope where everything is the same value."""

    def __init__(self, value: Any) -> None:
        """Take the value."""
        self._value = value

    def get(self, expression: Expression) -> Any:
        """Return it."""
        return self._value if expression.root == "xcom" else MISSING


def refused(template: Template, value: Any) -> None:
    """Expect that a template of this value is too long."""
    with pytest.raises(TemplateLimitError, match="max_rendered_chars"):
        render(template, One(value))


@pytest.mark.parametrize("value", ["x" * 1_000_000, ["x" * 100_000] * 10, [1] * 500_000], ids=["text", "texts", "numbers"])
def test_many_references_to_a_large_value_stop_at_the_limit(value: Any) -> None:
    """The giant text is never built, and the refusal is quick."""
    template = parse(" ".join(["{{ xcom.a.b }}"] * 10))

    assert quickest(lambda: refused(template, value), within=1) < 1


def test_a_value_made_anew_for_each_expression_is_written_as_what_it_is() -> None:
    """What was written is remembered by identity, and no identity is reused while it counts."""

    class Fresh:
        def get(self, expression: Expression) -> Any:
            return [expression.key]

    template = parse("".join(f"{{{{ xcom.a.k{number} }}}}" for number in range(100)))

    assert render(template, Fresh()) == "".join(f'["k{number}"]' for number in range(100))


def test_ten_references_to_a_large_value_fit_a_raised_limit() -> None:
    """Ten million characters take well under a second."""
    template = parse("".join(["{{ xcom.a.b }}"] * 10))

    scope = One("x" * 1_000_000)

    assert quickest(lambda: render(template, scope, max_chars=10_000_000), within=1) < 1
    assert len(render(template, scope, max_chars=10_000_000)) == 10_000_000


@pytest.mark.parametrize("filters", ["| tojson", '| join(", ")', ""])
def test_a_value_shared_over_and_over_is_refused_before_it_is_written(filters: str) -> None:
    """Ten levels of ten times the same would be ten thousand million items."""
    value: Any = ["x"]
    for _ in range(10):
        value = [value] * 10

    template = parse(f"<{{{{ xcom.a.b {filters} }}}}>")

    assert quickest(lambda: refused(template, value), within=1) < 1
