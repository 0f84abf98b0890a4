"""Typed values are made plain on push and come back as they were under their type."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Required,
    TypedDict,
    TypeVar,
    Union,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from typing_extensions import TypeAliasType

from dagrelay.errors import XComSerializationError, XComTooLargeError, XComTypeError
from dagrelay.model.missing import MISSING
from dagrelay.model.records import XComValue
from dagrelay.serializers import check_type, encode_json, structure, unstructure
from dagrelay.serializers.json import decode_json

T = TypeVar("T")
UserId = NewType("UserId", int)
Tree = TypeAliasType("Tree", dict[str, list[bytes | int]])
Pair = TypeAliasType("Pair", tuple[T, T], type_params=(T,))


class Color(enum.Enum):
    """Members whose values are of several kinds."""

    RED = "red"
    ONE = 1
    YES = True
    NESTED = (1, "a")


class Mode(enum.StrEnum):
    """Members that are str."""

    FAST = "fast"
    SLOW = "slow"


class Access(enum.Flag):
    """Members that combine."""

    READ = 1
    WRITE = 2


@dataclass
class Stats:
    """A dataclass with a default."""

    wettest: str
    rain_mm: float = 0.0


@attrs.frozen
class Reading:
    """An attrs class with fields of many types."""

    at: dt.datetime
    by_hour: dict[int, Stats] = attrs.field(factory=dict[int, Stats])
    mode: Mode = Mode.FAST
    parent: Reading | None = None
    _secret: bytes = b""


@attrs.frozen
class Box(Generic[T]):
    """A generic attrs class."""

    content: T


@dataclass
class Base:
    """A class with a subclass that has more."""

    a: int


@dataclass
class Derived(Base):
    """Has more than its base."""

    b: int = 0


class Undecorated(Base):
    """A subclass of a dataclass that is none."""


@dataclass
class Holder:
    """Declares a base class."""

    base: Base


Loose: Any = attrs.make_class("Loose", {"first": attrs.field(), "second": attrs.field(default=None)})
"""Fields without annotations."""


@attrs.define
class Counted:
    """Converts and validates what it is given."""

    n: int = attrs.field(converter=int, validator=attrs.validators.gt(0))
    doubled: int = attrs.field(init=False, default=0)


class Point(NamedTuple):
    """A named tuple that speaks of itself."""

    x: int
    at: dt.date
    next: Point | None = None


Untyped: Any = collections.namedtuple("Untyped", ["a", "b"])  # noqa: PYI024 # pyright: ignore[reportUntypedNamedTuple] - the kind without types


class Row(TypedDict):
    """A TypedDict with nested types."""

    name: str
    stats: NotRequired[list[Stats]]
    by_id: NotRequired[dict[int, str]]


class Node(TypedDict, Generic[T]):
    """A generic TypedDict that speaks of itself."""

    content: Required[T]
    items: NotRequired[list[T]]
    next: NotRequired[Node[Any]]


class Shape:
    """Nothing that has fields."""


@dataclass
class Circle(Shape):
    """One member of a union."""

    radius: float


@dataclass
class Square(Shape):
    """Another member, with a field more."""

    side: float
    name: str = "square"


@dataclass
class Cat:
    """Told apart by a literal."""

    kind: Literal["cat"]
    friend: Cat | Dog | None = None


@dataclass
class Dog:
    """Told apart by a literal."""

    kind: Literal["dog"]
    friend: Cat | Dog | None = None


@dataclass
class Left:
    """Has the fields of `Right`."""

    value: int
    next: Left | Right | None = None


@dataclass
class Right:
    """Has the fields of `Left`, of other types."""

    value: str
    next: Left | Right | None = None


UTC = dt.UTC
HALF_PAST = dt.timezone(dt.timedelta(hours=5, minutes=30, seconds=7))


def push(value: Any, declared: Any = MISSING) -> Any:
    """Return what is stored of a value, decoded."""
    return decode_json(encode_json(unstructure(value, declared)))


ROUND_TRIPS: list[Any] = [
    (dt.datetime(2024, 2, 29, 1, 2, 3, 456789), dt.datetime),
    (dt.datetime(2024, 2, 29, tzinfo=UTC), dt.datetime),
    (dt.datetime(1, 1, 1, tzinfo=HALF_PAST), dt.datetime),
    (dt.datetime.max, dt.datetime),
    (dt.date(2024, 2, 29), dt.date),
    (dt.time(1, 2, 3, 4), dt.time),
    (dt.time(1, tzinfo=UTC), dt.time),
    (dt.timedelta(0), dt.timedelta),
    (dt.timedelta(days=-1, microseconds=1), dt.timedelta),
    (dt.timedelta.max, dt.timedelta),
    (dt.timedelta.min, dt.timedelta),
    (UUID(int=5), UUID),
    (Decimal("1.10"), Decimal),
    (Decimal("-1E+400"), Decimal),
    (Path("/a/b c"), Path),
    (PurePosixPath("a"), PurePosixPath),
    (b"\x00\xff", bytes),
    (b"", bytes),
    ({1, 2}, set[int]),
    (frozenset({dt.date(2024, 1, 1)}), frozenset[dt.date]),
    (set[int](), set),
    (Color.RED, Color),
    (Color.ONE, Color),
    (Color.YES, Color),
    (Color.NESTED, Color),
    (Mode.SLOW, Mode),
    (Access.READ | Access.WRITE, Access),
    (Stats("a", 1.5), Stats),
    (Reading(dt.datetime(2024, 1, 1, tzinfo=UTC), {1: Stats("x"), -2: Stats("y")}, Mode.SLOW, None, b"s"), Reading),
    (Reading(dt.datetime.min, parent=Reading(dt.datetime.max)), Reading),
    (Box(Stats("a")), Box[Stats]),
    (Box({1: [Stats("a")]}), Box[dict[int, list[Stats]]]),
    (Loose(1, "a"), Loose),
    (Counted(3), Counted),
    (Point(1, dt.date(2024, 1, 1), Point(2, dt.date(2024, 1, 2))), Point),
    (Untyped(1, [2]), Untyped),
    ({"name": "a", "stats": [Stats("b")], "by_id": {1: "x"}}, Row),
    ({"name": "a"}, Row),
    ({"content": b"x", "items": [b"y"], "next": {"content": 1}}, Node[bytes]),
    ({"content": 1}, Node),
    ([Stats("a"), Stats("b")], list[Stats]),
    ([Stats("a")], Sequence[Stats]),
    ({"a": Stats("a")}, Mapping[str, Stats]),
    ({1: "a", -10: "b"}, dict[int, str]),
    ({1: {2: [{3: b"x"}]}}, dict[int, dict[int, list[dict[int, bytes]]]]),
    ({UserId(1): "a"}, dict[UserId, str]),
    ({Mode.FAST: 1}, dict[Mode, int]),
    ({UUID(int=1): b"x"}, dict[UUID, bytes]),
    ({dt.date(2024, 1, 1): {1, 2}}, dict[dt.date, set[int]]),
    ((1, "a", b"x"), tuple[int, str, bytes]),
    ((b"x", b"y"), tuple[bytes, ...]),
    ((1, 2), tuple),
    ((), tuple[()]),
    ((b"x", b"y"), Pair[bytes]),
    ({"a": [1, b"x"]}, Tree),
    (UserId(5), UserId),
    (b"x", Annotated[bytes, ["unhashable"]]),
    ([b"x"], list[Annotated[bytes, ["unhashable"]]]),
    (b"x", Final[bytes]),
    (None, None),
    (None, Optional[Stats]),
    (Stats("a"), Stats | None),
    ([1, "a", None], list[int | str | None]),
    ({1: "a"}, dict[int, str] | None),
    ({1: "a"}, Union[dict[int, str], list[str]]),
    (["a"], dict[int, str] | list[str]),
    ({1, 2}, set[int] | None),
    ({"name": "a", "by_id": {1: "x"}}, Row | None),
    ([Circle(1.0), Square(2.0), Square(3.0, "s")], list[Circle | Square]),
    (Cat("cat", Dog("dog", Cat("cat"))), Cat | Dog),
    (dt.date(2024, 1, 1), dt.date | dt.datetime),
    (dt.datetime(2024, 1, 1), dt.date | dt.datetime),
    (1, int | float),
    (1.0, int | float),
    (True, int | bool),
    (Path("a"), Path | None),
    ({"a": 1}, Any),
    ({"a": [1, None]}, XComValue),
    ([{"a": 1}], list[XComValue]),
    ("fast", Literal["fast", "slow"]),
    (Mode.FAST, Literal[Mode.FAST]),
    (2, Literal[1, 2]),
]


@pytest.mark.parametrize(("value", "kind"), ROUND_TRIPS, ids=lambda item: repr(item)[:40])
def test_a_typed_value_comes_back_under_its_type(value: Any, kind: Any) -> None:
    """Equal, and of the same class."""
    check_type(kind)

    found = structure(push(value, kind), kind)

    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (dt.datetime(2024, 1, 1, tzinfo=UTC), dt.datetime),
        ([Stats("a")], list[Stats]),
        ({"a": {b"x"}}, dict[str, set[bytes]]),
        (Reading(dt.datetime(2024, 1, 1), {1: Stats("x")}), Reading),
        (Box({"a": Decimal(1)}), Box[dict[str, Decimal]]),
        (Box(Stats("a")), Box[Stats]),
    ],
    ids=repr,
)
def test_a_push_without_annotation_comes_back_under_as_type(value: Any, kind: Any) -> None:
    """The class of each value is enough, but for the keys of untyped dicts."""
    assert structure(push(value), kind) == value
    assert structure(push(value, Any), kind) == value


def test_a_plain_value_is_returned_itself() -> None:
    """Nothing is copied where nothing is to be done."""
    value = {"a": [1, (2, "x")]}

    assert unstructure(value, dict[str, Any]) is value
    assert unstructure(value) is value


def test_a_time_zone_comes_back_as_its_offset() -> None:
    """The moment is the same; this is documented."""
    value = dt.datetime(2024, 7, 1, tzinfo=ZoneInfo("Europe/Paris"))

    found = structure(push(value), dt.datetime)

    assert found == value
    assert found.utcoffset() == dt.timedelta(hours=2)


class Zone(dt.tzinfo):
    """A zone that knows neither name nor summer time."""

    def tzname(self, _: dt.datetime | None, /) -> None:
        """Return nothing."""

    def dst(self, _: dt.datetime | None, /) -> None:
        """Return nothing."""


class NoOffset(Zone):
    """A zone that does not know its offset."""

    def utcoffset(self, dt: dt.datetime | None, /) -> None:
        """Return nothing."""


REFUSED: list[Any] = [
    (Decimal("NaN"), MISSING, "a Decimal is no finite number", "$"),
    ([Decimal("-Infinity")], MISSING, "a Decimal is no finite number", "$[0]"),
    (dt.datetime(2024, 1, 1, fold=1), MISSING, "fold=1", "$"),
    (dt.time(1, fold=1), MISSING, "fold=1", "$"),
    (dt.time(1, tzinfo=ZoneInfo("Europe/Paris")), MISSING, "no fixed offset", "$"),
    (dt.datetime(2024, 1, 1, tzinfo=NoOffset()), MISSING, "without offset", "$"),
    (dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(microseconds=1))), MISSING, "can't be read back", "$"),
    (dt.time(1, tzinfo=dt.timezone(dt.timedelta(microseconds=-1))), MISSING, "can't be read back", "$"),
    ({1: b"x"}, MISSING, "a key is of type int", "$"),
    ({1: b"x"}, Any, "a key is of type int", "$"),
    ({1: "a"}, dict[str, str], "a key is of type int", "$"),
    ({"a": {1: "a", "1": "b"}}, dict[str, dict[int, str]], "a key is none or is there twice", "$.a"),
    ({True: "a"}, dict[int, str], "a key is none", "$"),
    ({1: "a", "b": "c"}, dict[Mode, str], "a key is none", "$"),
    ({Mode.FAST: "a", "slow": "c"}, dict[Mode, str], "a key is none", "$"),
    ({1: {2: lambda: 1}}, dict[int, dict[int, Any]], "a function can't be stored", '$["1"]["2"]'),
    (Holder(Derived(1, 2)), MISSING, r"declared as .*\.Base and is a .*\.Derived", "$.base"),
    ([Derived(1)], list[Base], "would not come back", "$[0]"),
    (Undecorated(1), MISSING, "Undecorated is no type that can be stored", "$"),
    (Reading(dt.date(2024, 1, 1)), MISSING, "declared as datetime.datetime and is a datetime.date", "$.at"),  # type: ignore[arg-type]
    ([{b"x"}], list[list[bytes]], "declared as list and is a set", "$[0]"),
    ({"a": [b"x", {b"x"}]}, dict[str, list[bytes]], "declared as bytes and is a set", "$.a[1]"),
    (b"x", set[bytes], "declared as set and is a bytes", "$"),
    (b"x", dict[int, bytes], "declared as dict and is a bytes", "$"),
    ({b"x"}, tuple[bytes, str], "declared as tuple and is a set", "$"),
    (b"x", Path | Stats, "declared as", "$"),
    (Path("a"), Path | str, "a pathlib.PosixPath would come back as str", "$"),
    (Color.ONE, Color | int, "a .*Color would come back as int", "$"),
    (Path("a"), str, "PosixPath is no type that can be stored", "$"),
    (collections.deque([1]), MISSING, "deque is no type that can be stored", "$"),
    (collections.OrderedDict(a=b"x"), MISSING, "OrderedDict is a subclass of dict", "$"),
    (bytearray(b"x"), MISSING, "bytearray is no type", "$"),
    (Loose(object()), MISSING, "object is no type", "$.first"),
    (Path("\udc80"), MISSING, "lone surrogate", "$"),
    (Stats, MISSING, "type is no type that can be stored", "$"),
    (Circle(float("nan")), Shape, "nan is no number", "$.radius"),
]


@pytest.mark.parametrize(("value", "declared", "reason", "path"), REFUSED, ids=lambda item: repr(item)[:30])
def test_what_would_come_back_as_something_else_is_refused(value: Any, declared: Any, reason: str, path: str) -> None:
    """A wrong annotation never makes a value change its type in silence."""
    with pytest.raises(XComSerializationError, match=reason) as caught:
        push(value, declared)

    assert caught.value.path == path


@pytest.mark.parametrize(
    ("value", "declared", "stored"),
    [
        ({"a": 1}, list[Stats], {"a": 1}),
        ([b"x"], dict[str, bytes], ["eA=="]),
        ([b"x"], set[bytes], ["eA=="]),
        ([b"x"], tuple[bytes, int], ["eA=="]),
        ({"a": b"x"}, Stats, {"a": "eA=="}),
        ([{"a": b"x"}], list[Path], [{"a": "eA=="}]),
        ((b"x",), list[bytes] | tuple[bytes, ...], ["eA=="]),
        (Circle(1.0), Shape, {"radius": 1.0}),
        (Circle(1.0), Any | None, {"radius": 1.0}),
        ([b"x"], Any | list[int], ["eA=="]),
        (Circle(1.0), Circle | Shape, {"radius": 1.0}),
        (Circle(1.0), type[int], {"radius": 1.0}),
        ([Circle(1.0)], list, [{"radius": 1.0}]),
        ({"a": Circle(1.0)}, dict, {"a": {"radius": 1.0}}),
    ],
    ids=lambda item: repr(item)[:30],
)
def test_plain_values_under_a_wrong_annotation_stay_what_they_are(value: Any, declared: Any, stored: Any) -> None:
    """It is the pull under that annotation which will say so."""
    assert push(value, declared) == stored


def test_a_value_small_in_memory_and_huge_as_json_is_refused_in_time() -> None:
    """Typed parts held many times over, and bytes, are counted before they are written."""
    value: Any = Stats("a")
    for _ in range(12):
        value = [value] * 10
    unstructure([Stats("a"), {b"x"}])  # What is done but once would be timed too.
    began = time.perf_counter()

    with pytest.raises(XComTooLargeError, match=r"it: .*raise XComOptions"):
        unstructure(value, max_bytes=100_000, what="it", setting="XComOptions(max_bytes=...)")
    with pytest.raises(XComTooLargeError):
        unstructure({"a": Box(b"x" * 100_000)}, max_bytes=100_000)
    for declared in (list[set[Stats]], dict[int, Any], tuple[Stats, ...]):
        with pytest.raises(XComTooLargeError):
            unstructure({1: value} if declared == dict[int, Any] else value, declared, max_bytes=10)

    assert time.perf_counter() - began < 5  # for five of them


def test_typed_values_within_the_limit_pass() -> None:
    """The count is a lower bound."""
    value = {1: (Stats("a"), {b"x"}, Point(1, dt.date(2024, 1, 1)))}
    declared = dict[int, tuple[Stats, set[bytes], Point]]
    size = len(encode_json(unstructure(value, declared)))

    assert unstructure(value, declared, max_bytes=size) == unstructure(value, declared)


@pytest.mark.parametrize("depth", [1000, 100_000])
def test_what_is_too_deep_for_the_converter_is_a_clear_error(depth: int) -> None:
    """A value that contains itself is the deepest of all."""
    deep: Any = b"x"
    for _ in range(depth):
        deep = [deep]
    itself: list[Any] = [b"x"]
    itself.append(itself)

    for value in (deep, itself):
        with pytest.raises(XComSerializationError, match="nested too deep, or contains itself"):
            unstructure(value)
    with pytest.raises(XComTypeError, match="nested too deep"):
        structure(parents(depth), Reading)
    with pytest.raises(XComTypeError, match=r"nested too deep to be turned into .*Point"):
        structure(points(depth), Point)


def points(depth: int) -> Any:
    """Return what would be stored of points inside each other."""
    value: Any = None
    for _ in range(depth):
        value = [1, "2024-01-01", value]
    return value


def parents(depth: int) -> Any:
    """Return what would be stored of readings inside each other."""
    value: Any = None
    for _ in range(depth):
        value = {"at": "2024-01-01T00:00:00", "parent": value}
    return value


def test_two_hundred_levels_of_typed_values_are_fine() -> None:
    """The depth allowed is the same for values that need converting."""
    value: Any = b"x"
    for _ in range(200):
        value = [value]

    assert encode_json(unstructure(value)).count(b"[") == 200


def test_what_a_class_raises_is_a_clear_error() -> None:
    """A property that fails is the cause."""

    class Failing(Zone):
        def utcoffset(self, _: dt.datetime | None, /) -> dt.timedelta:
            raise KeyError("zone")

    with pytest.raises(XComSerializationError, match="it can't be made plain: KeyError: 'zone'") as caught:
        unstructure(dt.datetime(2024, 1, 1, tzinfo=Failing()), what="it")

    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_that_cant_be_told_is_told_by_its_type() -> None:
    """A failing `__str__` hides nothing."""

    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Failing(Zone):
        def utcoffset(self, _: dt.datetime | None, /) -> dt.timedelta:
            raise UnprintableError

    with pytest.raises(XComSerializationError, match="UnprintableError"):
        unstructure(dt.datetime(2024, 1, 1, tzinfo=Failing()))


def test_a_generic_type_is_plain_by_the_type_it_is_told() -> None:
    """Keys of a type variable are those of its argument, or must be str."""
    value = Box({1: b"x"})

    assert push(value, Box[dict[int, bytes]]) == {"content": {"1": "eA=="}}
    with pytest.raises(XComSerializationError, match="a key is of type int"):
        push(value)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement came with Python 3.12")
def test_a_type_statement_may_speak_of_itself() -> None:
    """Such an alias is followed as far as the value goes."""
    names: dict[str, Any] = {}
    exec("type Tree = dict[str, Tree] | list[Tree] | bytes", names)  # noqa: S102 - it is no syntax of older versions
    value = {"a": [b"x", {"b": b"y"}]}

    check_type(names["Tree"])

    assert structure(push(value, names["Tree"]), names["Tree"]) == value


def test_a_long_chain_in_a_union_is_read_in_linear_time() -> None:
    """Members are told apart by their simple fields, before any is read as a whole."""
    value: Left | Right | None = None
    for number in range(60):
        value = Left(number, value) if number % 2 else Right(str(number), value)
    began = time.perf_counter()

    assert structure(push(value), Left | Right) == value
    assert time.perf_counter() - began < 2


def test_many_levels_of_a_recursive_type_are_read() -> None:
    """A class may speak of itself."""
    value = Reading(dt.datetime(2024, 1, 1))
    for _ in range(100):
        value = Reading(dt.datetime(2024, 1, 1), parent=value)

    assert structure(push(value), Reading) == value
