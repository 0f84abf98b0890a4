"""The grammar: what each form of an expression means, and where exactly everything else is wrong."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dagrelay.errors import TemplateLimitError, TemplateSyntaxError
from dagrelay.model.missing import MISSING
from dagrelay.templates import Expression, Filter, Template, format_path, format_reference, parse


def only(text: str) -> Expression:
    """Return the one expression of a text that is nothing else."""
    lone = parse(text).lone
    assert lone is not None
    return lone


@pytest.mark.parametrize(
    ("text", "names", "path"),
    [
        ("{{ xcom.load.rows }}", ("load", "rows"), ()),
        ("{{xcom.load.rows}}", ("load", "rows"), ()),
        ("{{\n\txcom.load.rows\r\n}}", ("load", "rows"), ()),
        ("{{ xcom.load }}", ("load", "return_value"), ()),
        ('{{ xcom["load"] }}', ("load", "return_value"), ()),
        ("{{ xcom.t-1.row_count }}", ("t-1", "row_count"), ()),
        ("{{ xcom._a-b_.k- }}", ("_a-b_", "k-"), ()),
        ("{{ xcom.load.rows[0].name }}", ("load", "rows"), (0, "name")),
        ("{{ xcom.load.rows[-1] }}", ("load", "rows"), (-1,)),
        ("{{ xcom.load.rows[007][999999999] }}", ("load", "rows"), (7, 999_999_999)),
        ('{{ xcom.load.rows["any key"]["0"] }}', ("load", "rows"), ("any key", "0")),
        ('{{ xcom["2fa"].code }}', ("2fa", "code"), ()),
        ('{{ xcom["task.with.dots"]["a key/é"].x }}', ("task.with.dots", "a key/é"), ("x",)),
        ('{{ xcom.a["k"] }}', ("a", "k"), ()),
        ('{{ xcom.a.b["}}"].c }}', ("a", "b"), ("}}", "c")),
        ('{{ xcom.a.b["\\"\\\\\\/\\n\\u00e9\\ud83d\\ude00"] }}', ("a", "b"), ('"\\/\né😀',)),
        ('{{ xcom.a.b[""] }}', ("a", "b"), ("",)),
        ("{{ xcom.a.items.__class__ }}", ("a", "items"), ("__class__",)),
    ],
)
def test_an_xcom_expression_is_a_task_a_key_and_a_path(text: str, names: tuple[str, str], path: tuple[Any, ...]) -> None:
    """Bare names, quoted ones and indexes mix freely."""
    expression = only(text)

    assert (expression.root, expression.names, expression.path) == ("xcom", names, path)
    assert (expression.task_id, expression.key) == names
    assert expression.source == text[2:-2].strip()
    assert text[expression.column - 1 :].startswith(expression.source)


@pytest.mark.parametrize(
    ("text", "root", "names", "path"),
    [
        ("{{ params.city }}", "params", ("city",), ()),
        ("{{ params.cities[0].name }}", "params", ("cities",), (0, "name")),
        ('{{ params["größe"] }}', "params", ("größe",), ()),
        ("{{ run.id }}", "run", ("id",), ()),
        ("{{ run.dag_id }}", "run", ("dag_id",), ()),
        ("{{ run.started_at }}", "run", ("started_at",), ()),
        ("{{ task.id }}", "task", ("id",), ()),
        ("{{ task.attempt }}", "task", ("attempt",), ()),
        ("{{ task.map_index }}", "task", ("map_index",), ()),
        ("{{ previous.load.rows[0] }}", "previous", ("load", "rows"), (0,)),
        ("{{ previous.load }}", "previous", ("load", "return_value"), ()),
    ],
)
def test_the_other_roots_name_what_they_read(text: str, root: str, names: tuple[str, ...], path: tuple[Any, ...]) -> None:
    """Params and previous values take a path, facts of run and task are plain."""
    expression = only(text)

    assert (expression.root, expression.names, expression.path) == (root, names, path)


def test_a_previous_expression_tells_task_and_key() -> None:
    """It is an xcom of another run."""
    assert (only("{{ previous.a.b }}").task_id, only("{{ previous.a.b }}").key) == ("a", "b")


@pytest.mark.parametrize("name", ["task_id", "key"])
def test_only_expressions_of_tasks_have_a_task(name: str) -> None:
    """Asking a param for its task is a mistake of the caller."""
    with pytest.raises(AssertionError):
        getattr(only("{{ params.city }}"), name)


FILTERS: list[tuple[str, list[tuple[str, Any]]]] = [
    ("tojson", [("tojson", MISSING)]),
    ("length", [("length", MISSING)]),
    ('join(", ")', [("join", ", ")]),
    ('join( "}}" )', [("join", "}}")]),
    ("default(null)", [("default", None)]),
    ("default( -1.5e3\n)", [("default", -1500.0)]),
    ('default("a)}}\\"b")', [("default", 'a)}}"b')]),
    ('default({"a": [1, {"b": []}], ")": "("})', [("default", {"a": [1, {"b": []}], ")": "("})]),
    ("default(1)|tojson | length", [("default", 1), ("tojson", MISSING), ("length", MISSING)]),
]


@pytest.mark.parametrize(("text", "filters"), FILTERS)
def test_filters_chain_and_take_json(text: str, filters: list[tuple[str, Any]]) -> None:
    """An argument is any JSON literal, braces and parentheses in quotes included."""
    expected = tuple(Filter(name=name, argument=argument) for name, argument in filters)

    assert only(f"{{{{ xcom.a.b | {text} }}}}").filters == expected
    assert only(f"{{{{xcom.a.b|{text}}}}}").filters == expected


def test_a_template_is_text_and_expressions_in_turn() -> None:
    """What stands around expressions is kept to the letter."""
    template = parse("a {{ xcom.x.y }}{{ run.id }} }} b{ {{ params.p }}\n")

    a, b, c = template.expressions
    assert template.parts == ("a ", a, b, " }} b{ ", c, "\n")
    assert (a.column, b.column, c.column) == (6, 20, 39)
    assert not template.is_constant
    assert template.lone is None


@pytest.mark.parametrize("text", [" {{ xcom.a.b }}", "{{ xcom.a.b }}\n", '{{ "" }}{{ xcom.a.b }}', "{{ xcom.a.b }}{{ run.id }}"])
def test_an_expression_with_anything_around_it_is_not_alone(text: str) -> None:
    """White space counts, and so does empty quoted text, which thereby asks for text."""
    assert parse(text).lone is None


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("", ""),
        ("plain", "plain"),
        ("}} { }", "}} { }"),
        ('{{ "{{" }} name }}', "{{ name }}"),
        ('a{{"\\u007b{ }}\\n"}}b', "a{{ }}\nb"),
        ('{{ "a" }}{{ "b" }}', "ab"),
        ('{{ "" }}', ""),
    ],
)
def test_text_and_quoted_text_are_merged_into_one_constant(text: str, literal: str) -> None:
    """Nothing is left to do when it is rendered."""
    template = parse(text)

    assert template.parts == ((literal,) if literal else ())
    assert template.text == text
    assert template.is_constant
    assert template.lone is None


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("{{ }}", 1, "empty expression"),
        ("ab {{}}", 4, "empty expression"),
        ("ab {{ xcom.a.b", 4, "unclosed '{{'"),
        ("ab {{", 4, "unclosed '{{'"),
        ("{{ xcom.a.b }", 13, "expected '|' or '}}'"),
        ("{{{{ a }}}}", 3, "unexpected '{'"),
        ("{{{ xcom.a.b }}}", 3, "unexpected '{'"),
        ("{{ xcom.a.b {{ xcom.c.d }}", 13, "expected '|'"),
        ("{{ 7*7 }}", 4, "expected params, previous, run, task, xcom"),
        ("{{ -1 }}", 4, "expected params"),
        ("{{- xcom.a.b }}", 3, "expected params"),
        ("{{ xcom.a.b -}}", 13, "expected '|'"),
        ("{{ user.name }}", 4, "unknown root 'user', expected params, previous, run, task, xcom"),
        ("{{ xcoms.a.b }}", 4, "unknown root 'xcoms'"),
        ("{{ xcom }}", 8, "xcom needs a task: xcom.task.key"),
        ("{{ xcom[0].k }}", 8, "xcom needs a task"),
        ("{{ xcom. }}", 9, "expected a name"),
        ("{{ xcom.2fa.k }}", 9, "expected a name, which begins with a letter or '_' (else quote it"),
        ("{{ xcom.é.k }}", 9, "expected a name"),
        ("{{ xcom.a[0] }}", 10, "a key stands between task and path: xcom.task.return_value[0]"),
        ("{{ previous.a[0] }}", 14, "a key stands between task and path: previous.task.return_value[0]"),
        ('{{ xcom["../../etc/passwd"].k }}', 9, "invalid task id '../../etc/passwd'"),
        ('{{ xcom[""].k }}', 9, "invalid task id ''"),
        ('{{ xcom.a["b\\u0000"] }}', 11, "invalid key 'b\\x00'"),
        ('{{ xcom.a[""] }}', 11, "invalid key ''"),
        (f"{{{{ xcom.a.{'k' * 251} }}}}", 11, "invalid key"),
        (f"{{{{ xcom.{'a' * 251}.k }}}}", 9, "invalid task id"),
        ("{{ xcom.a.b.0 }}", 13, "expected a name"),
        ("{{ xcom.a..b }}", 11, "expected a name"),
        ("{{ xcom.a.b. c }}", 13, "expected a name"),
        ("{{ xcom.a.b [0] }}", 13, "expected '|'"),
        ("{{ xcom.a.b[1.5] }}", 14, "expected ']'"),
        ("{{ xcom.a.b[1:2] }}", 14, "expected ']'"),
        ("{{ xcom.a.b[0 ] }}", 14, "expected ']'"),
        ("{{ xcom.a.b[] }}", 13, "expected an integer or a key in double quotes"),
        ("{{ xcom.a.b['k'] }}", 13, "expected an integer or a key in double quotes"),
        ("{{ xcom.a.b[k] }}", 13, "expected an integer"),
        ("{{ xcom.a.b[+1] }}", 13, "expected an integer"),
        ("{{ xcom.a.b[1234567890] }}", 13, "an index of more than 9 digits"),
        ("{{ xcom.a.b[99999999999999999999] }}", 13, "an index of more than 9 digits"),
        ('{{ xcom.a.b["k" ] }}', 16, "expected ']'"),
        ('{{ xcom.a.b["k }}', 13, "unclosed '\"'"),
        ('{{ xcom.a.b["k\\', 13, "unclosed '\"'"),
        ('{{ xcom.a.b["\\q"] }}', 14, "no JSON literal (Invalid \\escape"),
        ('{{ xcom.a.b["a\nb"] }}', 15, "no JSON literal (Invalid control character"),
        ('{{ xcom.a.b["\\ud800"] }}', 13, "no JSON literal (a lone surrogate)"),
        ('{{ xcom.a.b["\ud800"] }}', 13, "no JSON literal (a lone surrogate)"),
        ("{{ xcom.a.b() }}", 12, "expected '|'"),
        ("{{ xcom.a.b.format(1) }}", 19, "expected '|'"),
        ("{{ xcom.a.b + 1 }}", 13, "expected '|'"),
        ("{{ params }}", 10, "params needs a name: params.name"),
        ("{{ params[0] }}", 10, "params needs a name"),
        ("{{ run }}", 7, "unknown attribute of 'run', expected run.id, run.dag_id, run.started_at"),
        ("{{ run.state }}", 7, "unknown attribute of 'run'"),
        ('{{ run["id"] }}', 7, "unknown attribute of 'run'"),
        ("{{ run. }}", 7, "unknown attribute of 'run'"),
        ("{{ run.id.x }}", 10, "run.id has no parts"),
        ("{{ run.id[0] }}", 10, "run.id has no parts"),
        ("{{ task.state }}", 8, "unknown attribute of 'task', expected task.id, task.attempt, task.map_index"),
        ("{{ xcom.a.b | }}", 15, "expected a filter: default(...), tojson, join(...), length"),
        ("{{ xcom.a.b | upper }}", 15, "unknown filter 'upper', expected default(...), tojson, join(...), length"),
        ("{{ xcom.a.b || length }}", 14, "expected a filter"),
        ("{{ xcom.a.b | length() }}", 21, "expected '|'"),
        ("{{ xcom.a.b | tojson(2) }}", 21, "expected '|'"),
        ("{{ xcom.a.b | default }}", 22, "default needs an argument: default(...)"),
        ("{{ xcom.a.b | join }}", 19, "join needs an argument"),
        ("{{ xcom.a.b | join() }}", 20, "no JSON literal"),
        ("{{ xcom.a.b | join(1) }}", 20, "join needs text in double quotes"),
        ("{{ xcom.a.b | default() }}", 23, "no JSON literal"),
        ("{{ xcom.a.b | default('a') }}", 23, "expected text in double quotes, not in single ones"),
        ("{{ xcom.a.b | default([1, 'a']) }}", 27, "expected text in double quotes, not in single ones"),
        ("{{ xcom.a.b | join(', ') }}", 20, 'expected text in double quotes, not in single ones: ", "'),
        ("{{ xcom.a.b | join( '\"') }}", 21, "expected text in double quotes, not in single ones"),
        ("{{ xcom.a.b | default(a) }}", 23, "no JSON literal"),
        ("{{ xcom.a.b | default(1, 2) }}", 24, "no JSON literal (Extra data)"),
        ("{{ xcom.a.b | default([1) }}", 25, "no JSON literal"),
        ("{{ xcom.a.b | default(NaN) }}", 23, "no JSON literal (NaN is none)"),
        ("{{ xcom.a.b | default([-Infinity]) }}", 23, "no JSON literal (-Infinity is none)"),
        ("{{ xcom.a.b | default(1e999) }}", 23, "no JSON literal (a number too large for a float)"),
        (f"{{{{ xcom.a.b | default(1{'0' * 4300}) }}}}", 23, "no JSON literal"),
        ('{{ xcom.a.b | default(["\\ud800"]) }}', 23, "no JSON literal (a lone surrogate)"),
        ("{{ xcom.a.b | default(1 }}", 22, "unclosed '('"),
        ('{{ xcom.a.b | default("a) }}', 23, "unclosed '\"'"),
        (f"{{{{ xcom.a.b | default({'[' * 101}{']' * 101}) }}}}", 123, "a literal nested deeper than 100 levels"),
        ('{{ "a" | length }}', 8, "expected '}}' after quoted text, which takes no filters"),
        ('{{ "a }}', 4, "unclosed '\"'"),
        ("{{ 'a' }}", 4, "expected params"),
    ],
)
def test_anything_else_is_an_error_at_its_column(text: str, column: int, reason: str) -> None:
    """The error says what was expected, and where."""
    with pytest.raises(TemplateSyntaxError) as caught:
        parse(text)

    assert caught.value.reason.startswith(reason)
    assert (caught.value.column, caught.value.text) == (column, text)


def test_a_literal_may_be_as_deep_as_its_limit() -> None:
    """A hundred levels are read."""
    assert only(f"{{{{ xcom.a.b | default({'[' * 100}{']' * 100}) }}}}").filters[0].name == "default"


# ---------------------------------------------------------------------------------------------- other template languages


ROOTS = frozenset({"xcom", "run.id"})


@pytest.mark.parametrize(
    "text",
    [
        "{{ user.name }}",
        "{{#if x}}{{/if}}",
        "{{ }}",
        "{{}}",
        "{{",
        "{{ unclosed",
        "{{ xcom }}",
        "{{ xcom(1) }}",
        "{{ xcoms.a.b }}",
        "{{ params.city }}",
        "{{ previous.a.b }}",
        "{{ task.id }}",
        "{{ run.started_at }}",
        "{{ run.name }}",
        "{{ run[0] }}",
        "{{{ xcom.a.b }}}",
        "{{{{ xcom.a.b }}}}",
        "{{- xcom.a.b -}}",
        "{{ 7*7 }}",
        '{{ "a" | upper }}',
        '{{ "a" ~ b }}',
        '{{ "\\x" }}',
        '{{ "a }}',
        "{% raw %}{{ '{{' }}{% endraw %}",
    ],
)
def test_expressions_of_other_languages_can_be_kept(text: str) -> None:
    """They come back to the letter, braces and all."""
    template = parse(f"a {text} b", foreign="keep", roots=ROOTS)

    assert template.parts == (f"a {text} b",)


def test_ours_are_found_among_kept_ones() -> None:
    """A foreign expression ends nothing, not even when it is never closed."""
    template = parse('{{ x }}{{ xcom.a.b }}{{ y {{ run.id }}{{ "{{" }}', foreign="keep", roots=ROOTS)

    a, b = template.expressions
    assert template.parts == ("{{ x }}", a, "{{ y ", b, "{{")


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("{{ xcom.1 }}", 9),
        ("{{ xcom[k] }}", 9),
        ("{{ xcom.a.b | upcase }}", 15),
        ("{{ xcom.a.b", 1),
        ("{{ run.id.x }}", 10),
        ('{{ "\\ud800" }}', 4),
    ],
)
def test_what_begins_like_ours_and_goes_on_wrong_is_an_error_all_the_same(text: str, column: int) -> None:
    """Keeping it would hide a slip of the pen."""
    with pytest.raises(TemplateSyntaxError) as caught:
        parse(text, foreign="keep", roots=ROOTS)

    assert caught.value.column == column


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ params.city }}", "unknown root 'params', expected run.id, xcom"),
        ("{{ task.id }}", "unknown root 'task', expected run.id, xcom"),
        ("{{ previous.a.b }}", "unknown root 'previous', expected run.id, xcom"),
        ("{{ run.started_at }}", "unknown attribute of 'run', expected run.id"),
    ],
)
def test_roots_that_are_not_known_here_are_errors(text: str, reason: str) -> None:
    """The error lists what is known."""
    with pytest.raises(TemplateSyntaxError, match=reason):
        parse(text, roots=ROOTS)


def test_even_xcom_can_be_unknown() -> None:
    """The fast way in checks the roots as well."""
    with pytest.raises(TemplateSyntaxError, match="unknown root 'xcom', expected params"):
        parse("{{ xcom.a.b }}", roots=frozenset({"params"}))


# ------------------------------------------------------------------------------------------------------- limits, caching


def test_a_text_as_long_as_its_limit_is_parsed() -> None:
    """One character more is refused, with and without expressions."""
    assert parse("abc", max_chars=3).parts == ("abc",)
    for text in ("abcd", "{{ xcom.a.b }}"):
        with pytest.raises(TemplateLimitError, match="raise it by Limits\\(max_template_chars=") as caught:
            parse(text, max_chars=3)
        assert (caught.value.actual, caught.value.limit) == (len(text), 3)


def test_expressions_are_counted_and_quoted_texts_are_not() -> None:
    """The limit itself is allowed."""
    text = '{{ run.id }}{{ "a" }}{{ run.id }}'

    assert len(parse(text, max_references=2).expressions) == 2
    with pytest.raises(TemplateLimitError, match="max_template_references") as caught:
        parse(text, max_references=1)
    assert (caught.value.actual, caught.value.limit) == (2, 1)


def test_a_template_is_parsed_once() -> None:
    """A second look gives the same object, under the same options."""
    text = "remember {{ xcom.a.b }}"

    assert parse(text) is parse(text)
    assert parse(text, roots=ROOTS) is not parse(text)


def test_long_templates_are_not_remembered() -> None:
    """They would make the cache hold much."""
    text = "{{ xcom.a.b }}" + " " * 5_000

    assert parse(text) == parse(text)
    assert parse(text) is not parse(text)


def test_templates_are_values() -> None:
    """They compare, hash and pickle, filters with lists as arguments included."""
    template = parse('{{ xcom.a.b[0] | default([1, {"a": 2}]) }}!')

    copied = pickle.loads(pickle.dumps(template))  # noqa: S301 - our own bytes, made in the same line
    assert isinstance(copied, Template)
    assert copied == template
    assert hash(copied) == hash(template)


# ------------------------------------------------------------------------------------------------------ writing them back


@pytest.mark.parametrize(
    ("task_id", "key", "path", "text"),
    [
        ("load", "return_value", (), "xcom.load.return_value"),
        ("t-1", "rows", (0, "name", -1), "xcom.t-1.rows[0].name[-1]"),
        ("2fa", 'a "key"', ("é", "a b"), 'xcom["2fa"]["a \\"key\\""]["é"]["a b"]'),
    ],
)
def test_a_reference_is_written_so_that_it_parses_back(task_id: str, key: str, path: tuple[str | int, ...], text: str) -> None:
    """Bare where it can be, quoted where it must."""
    assert format_reference(task_id, key, path) == text
    assert only(f"{{{{ {text} }}}}").names == (task_id, key)
    assert only(f"{{{{ {text} }}}}").path == path


def test_a_reference_reads_the_return_value_unless_told_otherwise() -> None:
    """The key is written out, as a path may follow."""
    assert format_reference("load") == "xcom.load.return_value"


def test_a_path_for_people_is_cut_when_it_is_absurd() -> None:
    """An error about a hostile text stays short."""
    assert format_path(["a", 0, "b c"]) == '.a[0]["b c"]'
    assert format_path(["a"] * 1_000) == ".a" * 100 + "..."
