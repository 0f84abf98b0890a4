"""Ids and keys are taken as they are or refused; none is repaired."""

from __future__ import annotations

import string
import unicodedata
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.errors import InvalidIdError
from dagrelay.ids import MAX_ID_CHARS, check_dag_id, check_key, check_run_id, check_task_id

if TYPE_CHECKING:
    from collections.abc import Callable

    Check = Callable[[object], str]

NAME_CHECKS: Final = (check_dag_id, check_task_id)
CHECKS: Final = (*NAME_CHECKS, check_run_id, check_key)
NAME_LETTERS: Final = string.ascii_letters + string.digits + "_.-"
RUN_LETTERS: Final = NAME_LETTERS + ":+@"

GOOD_NAMES: Final = [
    "a",
    "0",
    "_",
    "load",
    "Load-2.csv",
    "__class__",
    "items",
    "a" * MAX_ID_CHARS,
    "a..b",
    "con",
    "None",
    "-".join("ab"),
]
GOOD_RUN_IDS: Final = [*GOOD_NAMES, "scheduled__2026-01-01T00:00:00+00:00", "me@home"]
GOOD_KEYS: Final = [
    *GOOD_RUN_IDS,
    "../../etc/passwd",
    "..",
    "/abs",
    "a/b",
    "'; DROP TABLE",
    " ",
    "   ",
    "-leading",
    "two words",
    "größe",
    "\u0430",  # Cyrillic a
    "\u0661\u0662",  # Arabic digits
    "{{ xcom.a }}",
    "<b>",
    "100 %",
    "\U0001f40e",
]

BAD_FOR_NAMES: Final = {
    "parent path": "../../etc/passwd",
    "two dots": "..",
    "leading dot": ".hidden",
    "absolute path": "/abs",
    "slash": "a/b",
    "backslash": "a\\b",
    "sql": "'; DROP TABLE",
    "blank": " ",
    "inner blank": "two words",
    "leading dash": "-rf",
    "umlaut": "größe",
    "composed": unicodedata.normalize("NFC", "e\u0301"),
    "decomposed": unicodedata.normalize("NFD", "\u00e9"),
    "cyrillic": "\u0430",
    "arabic digits": "\u0661\u0662",
    "fullwidth": "\uff41",
    "emoji": "\U0001f40e",
    "template": "{{ xcom.a }}",
    "leading colon": ":a",
    "leading plus": "+a",
    "leading at": "@a",
}
BAD_FOR_ALL: Final[dict[str, object]] = {
    "empty": "",
    "nul": "a\0b",
    "newline": "a\nb",
    "trailing newline": "a\n",
    "trailing return": "a\r",
    "tab": "a\tb",
    "escape": "a\x1b[31mb",
    "delete": "a\x7f",
    "c1 control": "a\x85",
    "lone surrogate": "a\ud800",
    "right-to-left override": "a\u202eb",
    "isolate": "a\u2066b",
    "zero-width space": "a\u200bb",
    "zero-width joiner": "a\u200db",
    "byte order mark": "\ufeffa",
    "line separator": "a\u2028b",
    "no-break space": "a\u00a0b",
    "private use": "a\ue000",
    "251 characters": "a" * (MAX_ID_CHARS + 1),
    "a megabyte": "a" * 1_000_000,
    "int": 7,
    "bytes": b"load",
    "none": None,
    "bool": True,
    "list": ["load"],
    "class": str,
}
REFUSED: Final = [
    *(
        (check, value, f"{check.__name__}-{name}")
        for check in (*NAME_CHECKS, check_run_id)
        for name, value in BAD_FOR_NAMES.items()
    ),
    *((check, value, f"{check.__name__}-{name}") for check in CHECKS for name, value in BAD_FOR_ALL.items()),
    *((check, f"a{letter}b", f"{check.__name__}-{letter}") for check in NAME_CHECKS for letter in ":+@"),
]
ACCEPTED: Final = [
    *((check, value) for check in NAME_CHECKS for value in GOOD_NAMES),
    *((check_run_id, value) for value in GOOD_RUN_IDS),
    *((check_key, value) for value in GOOD_KEYS),
]


class Colour(StrEnum):
    """An enumeration whose members are text."""

    RED = "red"


@pytest.mark.parametrize(("check", "value"), ACCEPTED)
def test_a_good_id_comes_back_as_it_is(check: Check, value: str) -> None:
    """Nothing is folded, trimmed or escaped."""
    assert check(value) == value


@pytest.mark.parametrize(("check", "value"), [row[:2] for row in REFUSED], ids=[row[2] for row in REFUSED])
def test_a_bad_id_is_refused_with_its_kind_and_rule(check: Check, value: object) -> None:
    """The error is short, printable ASCII, and says what was wrong with what."""
    with pytest.raises(InvalidIdError) as caught:
        check(value)

    message = str(caught.value)
    kind = check.__name__.removeprefix("check_").replace("_", " ")
    assert message.startswith(f"invalid {kind} ")
    assert ": use 1 to 250 " in message
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 300
    assert caught.value.value is value


@pytest.mark.parametrize("check", CHECKS)
def test_the_longest_id_has_250_characters(check: Check) -> None:
    """The ceiling itself is allowed, and one above it is not."""
    assert check("a" * 250) == "a" * 250
    with pytest.raises(InvalidIdError):
        check("a" * 251)


@pytest.mark.parametrize("check", CHECKS)
def test_ids_differing_in_case_stay_two_ids(check: Check) -> None:
    """Case is kept."""
    assert check("Load") != check("load")


@pytest.mark.parametrize("check", CHECKS)
def test_a_member_of_a_text_enumeration_is_taken_as_its_text(check: Check) -> None:
    """What is stored is a plain str, so that no class of the user's gets into a record."""
    result = check(Colour.RED)

    assert result == "red"
    assert type(result) is str


@given(st.text(NAME_LETTERS, min_size=1, max_size=MAX_ID_CHARS))
def test_a_name_is_legal_unless_it_starts_with_dot_or_dash(text: str) -> None:
    """The rule of names holds for every text of its letters."""
    if text[0] in ".-":
        with pytest.raises(InvalidIdError):
            check_task_id(text)
    else:
        assert check_task_id(text) == check_dag_id(text) == check_run_id(text) == text


@given(st.text(max_size=MAX_ID_CHARS + 10))
def test_a_key_is_legal_exactly_if_it_is_printable_and_of_good_length(text: str) -> None:
    """The rule of keys holds for every text."""
    if text.isprintable() and 1 <= len(text) <= MAX_ID_CHARS:
        assert check_key(text) == text
    else:
        with pytest.raises(InvalidIdError):
            check_key(text)


@given(st.text(min_size=1, max_size=20))
def test_a_legal_name_has_letters_of_the_rule_only(text: str) -> None:
    """No letter outside ASCII slips through."""
    try:
        check_run_id(text)
    except InvalidIdError:
        return
    assert set(text) <= set(RUN_LETTERS)
