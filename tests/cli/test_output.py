"""What is printed is valid for programs, readable for people, and harmless to terminals."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.cli import output
from dagrelay.model.records import Run
from dagrelay.model.states import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping

# Lone surrogates are in no stored value.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(text=st.text())
def test_printable_text_holds_nothing_that_steers_a_terminal(text: str) -> None:
    """Every character left prints, and one that is kept was asked for."""
    assert output.printable(text).isprintable()
    assert output.printable(text, keep="\n").replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202egnp", r"\u202egnp"),
        ("\x9b", r"\x9b"),
        ("a\r\nb\n", "a\\r\nb\n"),
    ],
)
def test_what_does_not_print_becomes_an_escape(text: str, shown: str) -> None:
    """Letters of all scripts stand as they are."""
    assert output.printable(text, keep="\n") == shown


@given(value=JSON_VALUES)
def test_readable_json_means_the_same_value(value: Any) -> None:
    """Escaping what does not print keeps it valid JSON."""
    text = output.readable_json(value)

    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()


def test_readable_json_keeps_letters_and_escapes_controls() -> None:
    """A person reads it, a terminal survives it."""
    assert output.readable_json({"é": "\x1b\x7f\u202e"}) == '{\n  "é": "\\u001b\\u007f\\u202e"\n}'
    assert output.readable_json("é") == '"é"'


@given(value=JSON_VALUES)
def test_compact_json_is_one_printable_line(value: Any) -> None:
    """It fits into a cell."""
    assert output.compact_json(value).isprintable()


def test_json_for_programs_is_ascii_and_tells_times_and_mappings(capsys: pytest.CaptureFixture[str]) -> None:
    """No encoding of a pipe can break it."""
    params: Mapping[str, Any] = MappingProxyType({"name": "é"})
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    run = Run(run_id="r", dag_id="d", state=RunState.SUCCESS, params=params, created_at=moment, started_at=moment)

    output.write_json(output.as_dict(run), indent=None)

    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.count("\n") == 1
    assert json.loads(printed) == {
        "run_id": "r",
        "dag_id": "d",
        "state": "success",
        "params": {"name": "é"},
        "tags": [],
        "created_at": "2026-01-02T03:04:05+00:00",
        "started_at": "2026-01-02T03:04:05+00:00",
        "ended_at": None,
    }


def test_a_table_aligns_its_columns_and_keeps_rows_on_their_lines() -> None:
    """A cell with a line break or an escape sequence can't forge a row."""
    text = output.table([("A", "BB", ""), ("long", "x\ny\x1b", "")], indent="  ")

    assert text == "  A     BB\n  long  x\\ny\\x1b"


def test_a_long_text_is_cut_with_dots() -> None:
    """The limit counts the dots."""
    assert output.cut("abcdef", 6) == "abcdef"
    assert output.cut("abcdefg", 6) == "abc..."


def test_times_and_durations_are_short() -> None:
    """What there is none of is a dash."""
    assert output.clock(datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)) == "2026-01-02 03:04:05Z"
    assert output.clock(None) == "-"
    assert output.seconds(timedelta(milliseconds=1234)) == "1.23 s"
    assert output.seconds(None) == "-"


def test_notices_go_to_stderr_under_our_name(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed for programs stays theirs."""
    output.tell("a\n\x1bb")
    output.write("out\x1b")

    assert capsys.readouterr() == ("out\\x1b\n", "dagrelay: a\n\\x1bb\n")
