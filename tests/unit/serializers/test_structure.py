"""A stored value is of the type asked for, or an error says where it is not; nothing is coerced."""

from __future__ import annotations

import datetime as dt
import enum
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import InitVar, dataclass, field
from decimal import Decimal
from pathlib import Path, PosixPath, WindowsPath
from typing import Any, ForwardRef, Generic, Literal, NamedTuple, NewType, Protocol, TypedDict, TypeVar
from uuid import UUID

import attrs
import pytest

from dagrelay.errors import XComTypeError
from dagrelay.serializers import check_type, structure

T = TypeVar("T")
UserId = NewType("UserId", int)


class Color(enum.Enum):
    """Members by value."""

    RED = "red"
    ONE = 1
    PAIR = (1, "a")


class Access(enum.Flag):
    """Members that combine."""

    READ = 1
    WRITE = 2


class Lenient(enum.Flag, boundary=enum.CONFORM):
    """A flag that would drop bits it does not know."""

    READ = 1


@attrs.define
class Point:
    """Two fields, one with a default."""

    x: int
    y: float = 0.0


@dataclass
class Nested:
    """Fields that hold others."""

    points: list[Point]
    by_id: dict[int, Point] = field(default_factory=dict[int, Point])


@attrs.define
class Positive:
    """Refuses what is not positive."""

    n: int = attrs.field(validator=attrs.validators.gt(0))


@attrs.define
class Box(Generic[T]):
    """A generic class."""

    content: T


@dataclass
class Needy:
    """Needs at construction what is no field."""

    a: int
    b: InitVar[int]


@dataclass
class Unresolved:
    """Names what is not there."""

    a: Nowhere  # type: ignore[name-defined] # noqa: F821


@dataclass
class Unreadable:
    """Has a field nobody can turn a value into."""

    stream: io.StringIO


class UnreadableRow(TypedDict):
    """Has a field nobody can turn a value into."""

    stream: io.StringIO


class UnreadablePair(NamedTuple):
    """Has a field nobody can turn a value into."""

    a: int
    stream: io.StringIO


class UnresolvedPair(NamedTuple):
    """Names what is not there."""

    a: Nowhere  # type: ignore[name-defined] # noqa: F821


class Row(TypedDict, total=False):
    """Keys that may be absent."""

    name: str
    points: list[Point]


class Full(TypedDict):
    """A key that must be there."""

    name: str


@dataclass(frozen=True)
class Unhashable:
    """Fails where it is put into a set."""

    a: int

    def __hash__(self) -> int:
        """Fail."""
        raise ValueError("no hash")


@dataclass
class OfUnhashable:
    """Puts it into a set."""

    items: set[Unhashable]


class Pair(NamedTuple):
    """Two places."""

    a: int
    b: str


@dataclass
class A:
    """Told apart by a key."""

    x: int
    a: int = 0


@dataclass
class B:
    """Told apart by a key."""

    x: int
    b: int = 0


@dataclass
class Twin:
    """The same fields as `Other`."""

    x: int


@dataclass
class Other:
    """The same fields as `Twin`."""

    x: int


@dataclass
class OfList:
    """One of two that differ in depth only."""

    items: list[int]


@dataclass
class OfListOfStr:
    """One of two that differ in depth only."""

    items: list[str]


class Reader(Protocol):
    """No class a value could be of."""

    def read(self) -> str:
        """Read."""
        ...


UUID_TEXT = "00000000-0000-0000-0000-00000000000a"

ACCEPTED: list[Any] = [
    (1, int, 1),
    (1.5, float, 1.5),
    (1, float, 1.0),
    (2**53, float, 2.0**53),
    (True, bool, True),
    ("a", str, "a"),
    (None, None, None),
    (None, type(None), None),
    ([1], list, [1]),
    ({"a": 1}, dict, {"a": 1}),
    ({"a": 1}, object, {"a": 1}),
    ([1, "a"], Any, [1, "a"]),
    ([1], T, [1]),
    ([1], Sequence[int], [1]),
    ([1], Iterable[int], [1]),
    ({"a": 1}, Mapping[str, int], {"a": 1}),
    ([1], AbstractSet[int], {1}),
    ([1], frozenset[int], frozenset({1})),
    ([1, "a"], tuple[int, str], (1, "a")),
    ([], tuple[()], ()),
    ([1, 2], tuple[int, ...], (1, 2)),
    ([1, 2], tuple, (1, 2)),
    ({"0": 1, "-7": 2}, dict[int, int], {0: 1, -7: 2}),
    ({"red": 1}, dict[Color, int], {Color.RED: 1}),
    ({"7": 1}, dict[UserId, int], {7: 1}),
    ({"7": 1}, dict[int | str, int], {"7": 1}),
    ({"x": 1}, Point, Point(1)),
    ({"x": 1, "y": 2}, Point, Point(1, 2.0)),
    ({"content": {"x": 1}}, Box[Point], Box(Point(1))),
    ({}, Row, {}),
    ([1, "b"], Pair, Pair(1, "b")),
    ("red", Color, Color.RED),
    (1, Color, Color.ONE),
    ([1, "a"], Color, Color.PAIR),
    (3, Access, Access.READ | Access.WRITE),
    ("a", Literal["a", 1], "a"),
    ("2024-02-29", dt.date, dt.date(2024, 2, 29)),
    ("2024-02-29T01:02:03Z", dt.datetime, dt.datetime(2024, 2, 29, 1, 2, 3, tzinfo=dt.UTC)),
    ("01:02", dt.time, dt.time(1, 2)),
    ("PT5M", dt.timedelta, dt.timedelta(minutes=5)),
    ("-P1DT1H0.5S", dt.timedelta, -dt.timedelta(days=1, hours=1, seconds=0.5)),
    ("P2D", dt.timedelta, dt.timedelta(days=2)),
    ("1.10", Decimal, Decimal("1.10")),
    (".5e-3", Decimal, Decimal("0.0005")),
    (UUID_TEXT, UUID, UUID(int=10)),
    (UUID_TEXT.upper(), UUID, UUID(int=10)),
    ("a/b", Path, Path("a/b")),
    ("a/b", PosixPath, PosixPath("a/b")),
    ("AP8=", bytes, b"\x00\xff"),
    ({"x": 1, "a": 2}, A | B, A(1, 2)),
    ({"x": 1, "b": 2}, A | B, B(1, 2)),
    ({"items": ["a"]}, OfList | OfListOfStr, OfListOfStr(["a"])),
    ({"x": 1}, Point | Positive, Point(1)),
    ("a", Path | str, "a"),
    (UUID_TEXT, UUID | int, UUID(int=10)),
    (1, float | None, 1.0),
    (1, float | int, 1),
    ([1], list[int] | dict[str, int], [1]),
    ({"a": 1}, list[int] | dict[str, int], {"a": 1}),
    ([1, 2], set[int] | Point, {1, 2}),
    ([1, "b"], Pair | Point, Pair(1, "b")),
    ([1], tuple[int] | list[str], (1,)),
    ([b"x"], Any | None, [b"x"]),
    ({"name": "a"}, Row | list[int], {"name": "a"}),
]


@pytest.mark.parametrize(("value", "kind", "found"), ACCEPTED, ids=lambda item: repr(item)[:30])
def test_a_value_of_the_type_is_accepted(value: Any, kind: Any, found: Any) -> None:
    """It comes back as the type says, to the class."""
    result = structure(value, kind)

    assert result == found
    assert type(result) is type(found)


REFUSED: list[Any] = [
    ("12", int, "expected an int, not a str", "$"),
    (1.0, int, "expected an int, not a float", "$"),
    (True, int, "expected an int, not a bool", "$"),
    (None, int, "expected an int, not None", "$"),
    (1, bool, "expected a bool, not an int", "$"),
    ("no", bool, "expected a bool, not a str", "$"),
    ("1.5", float, "expected a float, not a str", "$"),
    (True, float, "expected a float, not a bool", "$"),
    (2**53 + 1, float, "too large to be a float exactly", "$"),
    (10**400, float, "too large to be a float exactly", "$"),
    (5, str, "expected a str, not an int", "$"),
    (None, str, "expected a str, not None", "$"),
    (0, None, "expected None, not an int", "$"),
    ("ab", list, "expected a list, not a str", "$"),
    ("12", list[int], "expected a list, not a str", "$"),
    ({"a": 1}, list[str], "expected a list, not a dict", "$"),
    ([1, "2"], list[int], "expected an int, not a str", "$[1]"),
    ([[1], [2, None]], list[list[int]], "expected an int, not None", "$[1][1]"),
    ("a", set[str], "expected a list, not a str", "$"),
    ([1, 1], set[int], "one is there twice", "$"),
    ([[1]], set[list[int]], "not hashable", "$"),
    (["1"], frozenset[int], "expected an int", "$[0]"),
    ([1], tuple[int, str], "expected a list of 2 elements, not 1", "$"),
    ([1, 2], tuple[int, str], "expected a str, not an int", "$[1]"),
    ([1], tuple[()], "expected a list of 0 elements, not 1", "$"),
    ("ab", tuple[str, ...], "expected a list, not a str", "$"),
    ([["a", 1]], dict[str, int], "expected a dict, not a list", "$"),
    ({"a": 1, "b c": "1"}, dict[str, int], "expected an int", '$["b c"]'),
    ({"x": 1}, dict[int, int], "expected an int as key", "$.x"),
    ({"01": 1}, dict[int, int], "expected an int as key", '$["01"]'),
    ({"-0": 1}, dict[int, int], "expected an int as key", '$["-0"]'),
    ({"1\n": 1}, dict[int, int], "expected an int as key", '$["1\\n"]'),
    ({"\u0661": 1}, dict[int, int], "expected an int as key", '$["\\u0661"]'),
    ({"blue": 1}, dict[Color, int], "expected a value of .*Color", "$.blue"),
    ({UUID_TEXT: 1, UUID_TEXT.upper(): 2}, dict[UUID, int], "two keys are the same", "$"),
    ({}, Point, "a field of .*Point is missing", "$.x"),
    ({"x": 1, "z": 2}, Point, "Point has no such field", "$.z"),
    ({"x": "1"}, Point, "expected an int, not a str", "$.x"),
    (5, Point, "expected a dict with the fields of .*Point, not an int", "$"),
    ([1, 2], Point, "expected a dict with the fields", "$"),
    ({"points": [{"x": 1}, {"x": 1, "y": "2"}]}, Nested, "expected a float, not a str", "$.points[1].y"),
    ({"points": [], "by_id": {"3": {"x": None}}}, Nested, "expected an int, not None", '$.by_id["3"].x'),
    ({"n": -1}, Positive, "Positive refuses its fields: ValueError", "$"),
    ({"content": 1}, Box[str], "expected a str", "$.content"),
    ({"a": 1}, Needy, "refuses its fields: TypeError", "$"),
    ({"title": "a"}, Row, "Row has no such field", "$.title"),
    ({"points": [{"x": 1.5}]}, Row, "expected an int, not a float", "$.points[0].x"),
    ({}, Full, "a field of .*Full is missing", "$.name"),
    ({"items": [{"a": 1}]}, OfUnhashable, "ValueError: no hash", "$.items"),
    ([], Row, "expected a dict, not a list", "$"),
    ({"a": 1, "b": "x"}, Pair, "expected a list, not a dict", "$"),
    ([1], Pair, "expected a list of 2 elements", "$"),
    ([1, 2], Pair, "expected a str", "$[1]"),
    ("RED", Color, "expected a value of .*Color, not a str", "$"),
    (True, Color, "expected a value of .*Color, not a bool", "$"),
    (1.0, Color, "expected a value of .*Color, not a float", "$"),
    ([1.0, "a"], Color, "expected a value of .*Color, not a list", "$"),
    (8, Access, "expected a value of .*Access", "$"),
    (-1, Access, "expected a value of .*Access", "$"),
    ("1", Access, "expected an int for .*Access", "$"),
    (True, Access, "expected an int for .*Access", "$"),
    (3, Lenient, "expected a value of .*Lenient", "$"),
    (True, Literal[1, "a"], "expected a value of Literal", "$"),
    ("b", Literal["a"], "expected a value of Literal", "$"),
    ([1], Literal["a"], "expected a value of Literal", "$"),
    ("2024-02-30", dt.date, "expected a date", "$"),
    ("2024-02-29T00:00:00", dt.date, "expected a date", "$"),
    ("noon", dt.datetime, "expected a date and time", "$"),
    (1709164800, dt.datetime, "expected a date and time .* not an int", "$"),
    ("25:00", dt.time, "expected a time", "$"),
    ("5 minutes", dt.timedelta, "expected a duration", "$"),
    ("P", dt.timedelta, "expected a duration", "$"),
    ("P1DT", dt.timedelta, "expected a duration", "$"),
    ("P999999999DT24H", dt.timedelta, "expected a duration", "$"),
    (60, dt.timedelta, "expected a duration", "$"),
    (1.1, Decimal, "expected a decimal number as str", "$"),
    ("1_0", Decimal, "expected a decimal number", "$"),
    (" 1", Decimal, "expected a decimal number", "$"),
    ("NaN", Decimal, "expected a decimal number", "$"),
    ("{" + UUID_TEXT + "}", UUID, "expected a UUID", "$"),
    (UUID_TEXT.replace("-", ""), UUID, "expected a UUID", "$"),
    ("nope", UUID, "expected a UUID", "$"),
    (5, Path, "expected a path", "$"),
    ("not base64!", bytes, "expected bytes in Base64", "$"),
    ("é", bytes, "expected bytes in Base64", "$"),
    ([1], bytes, "expected bytes in Base64", "$"),
    ("1", int | None, "expected int | None", "$"),
    ("1", int | Point, "expected", "$"),
    ({"x": "1"}, Point | None, "expected", "$"),
    ({"items": [1, None]}, OfList | None, "expected an int, not None", "$.items[1]"),
    ({"items": [None]}, OfList | OfListOfStr, "no member of .*OfList.* fits .*expected an int.*expected a str", "$"),
    ({"x": 1}, Twin | Other, "more than one member of .* fits", "$"),
    (UUID_TEXT, UUID | Path, "more than one member", "$"),
    ({"x": 1, "a": 1, "b": 1}, A | B, "expected", "$"),
    ([["1"]], list[list[int] | None], "expected an int", "$[0][0]"),
]


@pytest.mark.parametrize(("value", "kind", "reason", "path"), REFUSED, ids=lambda item: repr(item)[:30])
def test_a_value_of_another_type_is_refused_with_its_path(value: Any, kind: Any, reason: str, path: str) -> None:
    """The message ends in the path of what is at fault."""
    with pytest.raises(XComTypeError, match=reason) as caught:
        structure(value, kind)

    assert caught.value.path == path
    assert str(caught.value).endswith(f" @ {path}")


def test_a_path_of_another_system_is_a_clear_error() -> None:
    """It can't be made here."""
    with pytest.raises(XComTypeError, match=r"expected a path for pathlib\.WindowsPath"):
        structure("a", WindowsPath)


CANARY = "canary-4711"


@pytest.mark.parametrize("value", [CANARY, [CANARY], {"items": [[CANARY]]}], ids=["text", "list", "dict"])
@pytest.mark.parametrize(
    "kind", [int, dt.datetime, Decimal, UUID, Color, Literal["a"], Point, list[int], dict[int, str] | None, OfList | OfListOfStr]
)
def test_messages_do_not_hold_the_value(kind: Any, value: Any) -> None:
    """Errors end in logs, and values may be secrets."""
    with pytest.raises(XComTypeError) as caught:
        structure(value, kind)

    assert CANARY not in str(caught.value)


IMPOSSIBLE: list[Any] = [
    (complex, "no value can be turned into complex"),
    (Callable[[], int], "no value can be turned into collections.abc.Callable"),
    (io.StringIO, "no value can be turned into _io.StringIO"),
    (list[io.StringIO], "no value can be turned into _io.StringIO"),
    (dict[complex, int], "no value can be turned into complex"),
    (io.StringIO | None, "no value can be turned into _io.StringIO"),
    (Reader, "no value can be turned into .*Reader"),
    (Unreadable, "no value can be turned into _io.StringIO"),
    (UnreadableRow, "no value can be turned into _io.StringIO"),
    (UnreadablePair, "no value can be turned into _io.StringIO"),
    (Unresolved, "no value can be turned into .*Unresolved: NameError"),
    (UnresolvedPair, "no value can be turned into .*UnresolvedPair: NameError"),
    (Box, "no value can be turned into .*Box: .*Missing type for generic argument T"),
    (type[int], r"no value can be turned into type\[int\]"),
    ("Nowhere", "the annotation 'Nowhere' was not resolved"),
    (list["Nowhere"], "the annotation 'Nowhere' was not resolved"),  # type: ignore[name-defined] # noqa: F821
    (ForwardRef("Nowhere"), "the annotation 'Nowhere' was not resolved"),
    (5, "no value can be turned into 5"),
]


@pytest.mark.parametrize(("kind", "reason"), IMPOSSIBLE, ids=lambda item: str(item)[:30])
def test_a_type_that_cant_be_is_known_at_planning(kind: Any, reason: str) -> None:
    """The check says what the pull would say, and before any handler starts."""
    with pytest.raises(XComTypeError, match=reason):
        check_type(kind)
    with pytest.raises(XComTypeError, match=reason):
        structure({}, kind)


def test_what_user_code_raises_is_a_clear_error() -> None:
    """A hash that fails is the cause."""
    with pytest.raises(XComTypeError, match=r"can't be turned into set.*ValueError: no hash") as caught:
        structure([{"a": 1}], set[Unhashable])

    assert isinstance(caught.value.__cause__, ValueError)


def test_the_original_error_is_the_cause() -> None:
    """What a validator raised is there for whoever looks."""
    with pytest.raises(XComTypeError) as caught:
        structure({"n": 0}, Positive)

    assert caught.value.__cause__ is not None
