"""Hostile texts cost time in proportion to their length, and end in an error of ours or in plain text."""

from __future__ import annotations

from typing import Literal

import pytest

from dagrelay.errors import TemplateError
from dagrelay.model.missing import MISSING
from dagrelay.templates import Expression, parse, render
from tests.unit.templates.stopwatch import quickest

ROOTS = frozenset({"xcom", "run.id"})

# text, milliseconds allowed
SHORT = {
    "spaces": ("{{" + " " * 50_000, 50),
    "openings": ("{{ " * 20_000, 50),
    "braces": ("{" * 100_000, 50),
    "closings": ("{{" + "}}" * 50_000, 50),
    "long-name": ("{{ xcom." + "a" * 200_000, 50),
    "backslashes": ('{{ xcom.a["' + "\\" * 100_000, 50),
    "deep-literal": ("{{ xcom.a.b | default(" + "[" * 100_000, 50),
    "long-number": ("{{ xcom.a.b | default(" + "1" * 100_000 + ") }}", 50),
    "long-index": ("{{ xcom.a.b[" + "9" * 100_000 + "] }}", 50),
    "unclosed-argument": ("{{ xcom.a.b | default(" + "1" * 100_000, 50),
    "spaces-in-an-expression": ("{{ xcom.a.b" + " " * 100_000 + "x", 50),
    "many-quotes": ('{{ "' * 20_000, 100),
    "path": ("{{ xcom.a.b" + "[0]" * 50_000 + "}", 200),
    "pipes": ("{{ xcom.a.b" + "|length" * 20_000 + "}}", 200),
}
MEGABYTE = {
    "no-braces": "x" * 1_000_000,
    "single-braces": "{ } " * 250_000,
    "openings": "{{ " * 333_000,
    "quotes": '{{ "' * 250_000,
    "escaped-quotes": '{{ "\\' * 200_000,
    "bad-escapes": '{{ "\\u' * 160_000,
    "quoted-then-more": '{{ "a" | ' * 110_000,
    "unknown-attributes": "{{ run.foo " * 90_000,
    "spaces": "{{" + " " * 999_000,
    "arguments": '{{ "" | default([' * 58_000,
    "last-one-open": "{{ x }}" * 140_000 + "{{",
}


def attempt(text: str, foreign: Literal["error", "keep"]) -> object:
    """Parse a text for which an error of ours is as good as a result."""
    try:
        return parse(text, foreign=foreign, roots=ROOTS)
    except TemplateError as error:
        return error


@pytest.mark.parametrize("foreign", ["error", "keep"])
@pytest.mark.parametrize(("text", "milliseconds"), SHORT.values(), ids=SHORT)
def test_a_hostile_text_is_done_with_at_once(text: str, milliseconds: int, foreign: Literal["error", "keep"]) -> None:
    """Nothing is scanned twice."""
    limit = milliseconds / 1_000

    assert quickest(lambda: attempt(text, foreign), within=limit) < limit


@pytest.mark.parametrize("foreign", ["error", "keep"])
@pytest.mark.parametrize("text", MEGABYTE.values(), ids=MEGABYTE)
def test_a_megabyte_is_done_with_in_a_second(text: str, foreign: Literal["error", "keep"]) -> None:
    """Also where every foreign expression is kept and the next one looked at."""
    assert quickest(lambda: attempt(text, foreign), within=1) < 1


class Numbers:
    """A scope that knows one task's lists."""

    def get(self, expression: Expression) -> object:
        """Return a list with the number in the key, or MISSING."""
        return [int(expression.key[1:])] if expression.root == "xcom" else MISSING


def test_ten_thousand_references_are_parsed_and_rendered_quickly() -> None:
    """Each in its turn, and each for its own value."""
    text = " ".join(f"{{{{ xcom.t.k{number}[0] }}}}" for number in range(10_000))

    assert quickest(lambda: parse(text), within=0.2) < 0.2
    template = parse(text)
    assert quickest(lambda: render(template, Numbers()), within=0.2) < 0.2
    assert render(template, Numbers()) == " ".join(map(str, range(10_000)))
