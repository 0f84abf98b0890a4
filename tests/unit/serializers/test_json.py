"""What is pushed as JSON is what is pulled, or an error that says where; with orjson and without."""

from __future__ import annotations

import collections
import enum
import json
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay.errors import XComSerializationError, XComTooLargeError
from dagrelay.serializers.exactness import Refused, check_exact, is_plain
from dagrelay.serializers.json import STANDARD, Codec, decode_json, encode_json, fastest_codec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CODECS = [pytest.param(STANDARD, id="standard"), pytest.param(fastest_codec(), id="fastest")]


class SubStr(str):
    """A str that is more than one."""

    __slots__ = ()


class SubInt(int):
    """An int that is more than one."""


class SubFloat(float):
    """A float that is more than one."""


class Level(enum.IntEnum):
    """An int that is more than one."""

    LOW = 1


class HostileList(list[int]):
    """A list that must not be walked."""

    def __iter__(self) -> Iterator[int]:
        """Never end."""
        while True:
            yield 1


class HostileDict(dict[str, int]):
    """A dict that must not be asked."""

    def items(self) -> Any:
        """Fail."""
        raise SystemExit


def nest(depth: int) -> Any:
    """Return lists inside each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def holding_itself() -> Any:
    """Return a list that contains itself, twice."""
    value: list[Any] = []
    value += [value, value]
    return value


def dict_holding_itself() -> Any:
    """Return a dict that contains itself by way of a list."""
    value: dict[str, Any] = {}
    value["rows"] = [1, value]
    return value


def shared(levels: int) -> Any:
    """Return lists of ten times the same list, which would be 10 ** levels elements."""
    value: Any = "x"
    for _ in range(levels):
        value = [value] * 10
    return value


EXACT: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**4300 - 1,
    -(10**4300) + 1,
    0.0,
    -0.0,
    5e-324,
    1e16,
    1e-7,
    1e-4,
    9.99e-5,
    0.1 + 0.2,
    1.7976931348623157e308,
    -1.7976931348623157e308,
    9007199254740993.0,
    "",
    "é",
    '\x00\x1f\x7f"\\/',
    "\u2028\U0001f600",
    "2024-01-01",
    [],
    {},
    {"": None},
    {"a": [1, 2.0, {"b": [None, True]}]},
    {"1": "a"},
    [1e300, 2**70, "x"],
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("value", EXACT, ids=lambda value: repr(value)[:20])
def test_a_plain_value_comes_back_exactly(value: Any, codec: Codec) -> None:
    """Value and types are the same, the sign of zero included."""
    data = encode_json(value, codec=codec)

    found = decode_json(data, codec=codec)

    assert repr(found) == repr(value) if not isinstance(value, int) else (found == value and type(found) is type(value))
    assert data == STANDARD.dumps(value)


@pytest.mark.parametrize("codec", CODECS)
def test_a_tuple_comes_back_as_a_list(codec: Codec) -> None:
    """JSON has lists only; this is documented."""
    assert decode_json(encode_json((1, ("a",)), codec=codec), codec=codec) == [1, ["a"]]


REFUSED: list[Any] = [
    pytest.param(float("nan"), "nan is no number JSON knows", "$", id="nan"),
    pytest.param([1, {"a": float("inf")}], "inf is no number", "$[1].a", id="inf"),
    pytest.param({"rows": [0, 1, 2, {"score": -float("inf")}]}, "-inf is no number", "$.rows[3].score", id="minus-inf"),
    pytest.param(10**4300, "an int has more than 4300 digits", "$", id="huge-int"),
    pytest.param({"n": -(10**4300)}, "an int has more than 4300 digits", "$.n", id="huge-negative-int"),
    pytest.param({1: "a", "1": "b"}, "a key is of type int", "$", id="int-key-beside-str"),
    pytest.param({"a": {True: 1}}, "a key is of type bool", "$.a", id="bool-key"),
    pytest.param({None: 1}, "a key is of type NoneType", "$", id="none-key"),
    pytest.param({SubStr("a"): 1}, "a key is of type .*SubStr", "$", id="subclassed-key"),
    pytest.param({(1, 2): 1}, "a key is of type tuple", "$", id="tuple-key"),
    pytest.param({10**5000: 1}, "a key is of type int", "$", id="huge-key"),
    pytest.param(nest(201), "nested deeper than 200 levels", "$" + "[0]" * 200, id="too-deep"),
    pytest.param(nest(100_000), "nested deeper than 200 levels", "$" + "[0]" * 200, id="far-too-deep"),
    pytest.param({"odd key": holding_itself()}, "a list contains itself", '$["odd key"][0]', id="itself"),
    pytest.param(dict_holding_itself(), "a dict contains itself", "$.rows[1]", id="dict-itself"),
    pytest.param(["a", "\ud800"], "a str holds a lone surrogate", "$[1]", id="surrogate"),
    pytest.param({"a\udfff": 1}, "a key holds a lone surrogate", "$", id="surrogate-key"),
    pytest.param({"when": {1, 2}}, "set is no type that can be stored", "$.when", id="set"),
    pytest.param(b"x", "bytes is no type that can be stored", "$", id="bytes"),
    pytest.param([object()], "object is no type that can be stored", r"$[0]", id="object"),
    pytest.param((i for i in [1]), "a generator can't be stored: make a list", "$", id="generator"),
    pytest.param([lambda: 1], "a function can't be stored", "$[0]", id="lambda"),
    pytest.param(int, "type is no type that can be stored", "$", id="class"),
    pytest.param(SubInt(1), "SubInt is a subclass of int", "$", id="int-subclass"),
    pytest.param(SubFloat(1), "SubFloat is a subclass of float", "$", id="float-subclass"),
    pytest.param(SubStr("x"), "SubStr is a subclass of str", "$", id="str-subclass"),
    pytest.param(Level.LOW, "Level is a subclass of int", "$", id="int-enum"),
    pytest.param(collections.OrderedDict[str, int](a=1), "OrderedDict is a subclass of dict", "$", id="dict-subclass"),
    pytest.param(HostileList(), "HostileList is a subclass of list", "$", id="hostile-iter"),
    pytest.param({"a": HostileDict(a=1)}, "HostileDict is a subclass of dict", "$.a", id="hostile-items"),
    pytest.param([Refused("because")], "because", "$[0]", id="refused"),
    pytest.param({"x" * 100: {"y\n": 1j}}, "complex is no type", "$." + "x" * 100 + '["y\\n"]', id="long-and-odd-keys"),
    pytest.param({" " * 100: 1j}, "complex is no type", '$["' + " " * 80 + '..."]', id="cut-key"),
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("value", "reason", "path"), REFUSED)
def test_what_would_not_come_back_is_refused_with_its_path(value: Any, reason: str, path: str, codec: Codec) -> None:
    """The error says why and where, whichever codec is installed, in well under a second."""
    began = time.process_time()
    with pytest.raises(XComSerializationError, match=reason) as caught:
        encode_json(value, max_bytes=1_000_000, codec=codec)

    assert caught.value.path == path
    assert str(caught.value).endswith(f" @ {path}")
    assert time.process_time() - began < 1


def test_a_file_is_refused(tmp_path: Path) -> None:
    """An open file is no value."""
    with (tmp_path / "f").open("w") as file, pytest.raises(XComSerializationError, match=r"open file .* push its path"):
        encode_json({"f": file})


async def test_coroutines_are_refused_and_closed() -> None:
    """A forgotten await is named, and no warning about it follows, however many there were."""

    async def handler() -> int:
        return 1

    value: Any = {"a": [handler(), handler()], "b": (handler(), "x"), "c": 1}
    value["d"] = value["a"]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(XComSerializationError, match="is an `await` missing") as caught:
            encode_json(value)
        del value

    assert caught.value.path == "$.a[0]"


def test_an_async_generator_is_refused() -> None:
    """It is no list of what it yields."""

    async def numbers() -> Any:
        yield 1

    with pytest.raises(XComSerializationError, match="a async_generator can't be stored: make a list"):
        encode_json([numbers()])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("value", "size"),
    [("é", 4), ("x" * 10, 12), ("\x01" * 10, 62), ([1, 2], 5), ({"a": None}, 10), (10**400, 401), ((), 2), (1.5, 3)],
)
def test_the_limit_is_of_encoded_bytes(value: Any, size: int, codec: Codec) -> None:
    """UTF-8 counts unescaped, escapes count whole; exactly the limit is accepted, one byte less is not."""
    assert len(encode_json(value, max_bytes=size, codec=codec)) == size
    with pytest.raises(XComTooLargeError, match=f"exceed the limit of {size - 1};"):
        encode_json(value, max_bytes=size - 1, codec=codec)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(shared(10), id="ten-levels-of-ten"),
        pytest.param({"a": ["x" * 1_000_000] * 1000}, id="one-gigabyte-of-text"),
        pytest.param({"k" * 2_000_000: 1}, id="a-huge-key"),
        pytest.param([10**4000] * 100_000, id="huge-ints"),
        pytest.param([()] * 300_000, id="wide"),
    ],
)
def test_a_huge_value_is_refused_before_its_json_is_built(value: Any) -> None:
    """The walk stops where a lower bound of the size is over the limit."""
    touched: list[str] = []  # What a codec raises is not seen: the standard one is asked then.

    class Untouched:
        def dumps(self, value: Any, /) -> bytes:
            touched.append(type(value).__name__)
            raise AssertionError(value)

        loads = dumps

    began = time.process_time()
    with pytest.raises(XComTooLargeError) as caught:
        encode_json(value, max_bytes=400_000, codec=Untouched())

    assert caught.value.actual > 400_000
    assert touched == []
    assert time.process_time() - began < 1


@pytest.mark.parametrize("max_bytes", [2**30, 2**40])
def test_a_shared_value_is_weighed_in_linear_time(max_bytes: int) -> None:
    """Even under a limit of a terabyte nobody walks through ten thousand billion elements."""
    began = time.process_time()
    with pytest.raises(XComTooLargeError):
        encode_json({"rows": shared(16)}, max_bytes=max_bytes)

    assert time.process_time() - began < 5


def test_a_value_that_holds_itself_in_width_is_refused_without_a_limit() -> None:
    """Its layers would double for ever."""
    with pytest.raises(XComSerializationError, match="contains itself"):
        encode_json(holding_itself())


def test_a_wide_value_without_sharing_is_fine() -> None:
    """Being wide is no fault."""
    value = [[str(number), {"n": number}] for number in range(30_000)]
    size = len(encode_json(value))

    assert decode_json(encode_json(value, max_bytes=size)) == value
    with pytest.raises(XComTooLargeError):
        encode_json(value, max_bytes=size - 1)


@pytest.mark.parametrize("codec", CODECS)
def test_the_depth_allowed_does_not_depend_on_the_codec(codec: Codec) -> None:
    """The fast one gives up at 255 levels, where the standard one goes on."""
    value = nest(300)

    assert decode_json(encode_json(value, max_depth=300, codec=codec), codec=codec) == value
    assert decode_json(encode_json(nest(200), codec=codec), codec=codec) == nest(200)


def test_a_depth_no_codec_can_follow_is_one_clear_error() -> None:
    """A limit raised too far ends in an error of ours."""
    with pytest.raises(XComSerializationError, match="can't be written as JSON"):
        encode_json(nest(100_000), max_depth=200_000, what="it")


def test_a_culprit_that_is_gone_is_still_an_error() -> None:
    """Another thread may change a value while it is encoded."""

    class Failing:
        def dumps(self, value: Any, /) -> bytes:
            value.clear()
            raise RuntimeError("dictionary changed size")

        loads = dumps

    value: dict[str, Any] = {"a": "\ud800"}

    assert encode_json(value, codec=Failing()) == b"{}"  # What it is by now.


def test_shared_parts_are_searched_once() -> None:
    """The search for a culprit behind a part held ten billion times ends at once."""
    value = [shared(10), 1j]
    began = time.process_time()

    with pytest.raises(XComSerializationError) as caught:
        check_exact(value, max_depth=200, max_bytes=float("inf"), what="it", setting="")

    assert caught.value.path == "$[1]"
    assert time.process_time() - began < 5


@pytest.mark.parametrize("value", [shared(3), {"a": (1, 2.5, None, True, "x")}, nest(500)])
def test_plain_is_plain(value: Any) -> None:
    """Plainness asks for no limit."""
    assert is_plain(value)


@pytest.mark.parametrize("value", [{1: 2}, [1j], float("nan"), [10**5000], holding_itself(), {"a": {1}}])
def test_what_is_not_plain_is_not(value: Any) -> None:
    """The converter is asked for these."""
    assert not is_plain(value)


STORED_BADLY = [
    b"",
    b"nonsense",
    b"NaN",
    b"[Infinity]",
    b"-Infinity",
    b"1e999",
    b"[-1e999]",
    b'"\\ud800"',
    b'"\\uD800x"',
    b'{"\\udc00": 1}',
    b"\xff",
    b"\xef\xbb\xbf1",
    b"[1,]",
    b"01",
    b'"\x01"',
    b"1" * 5000,
    b"{'a': 1}",
    b"1 2",
    b"[" * 100_000,
]


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("data", STORED_BADLY, ids=lambda data: repr(data)[:20])
def test_bytes_that_nobody_pushed_are_refused(data: bytes, codec: Codec) -> None:
    """Rows edited by hand are an error and never a wrong value."""
    with pytest.raises(XComSerializationError, match=f"{len(data)} stored bytes"):
        decode_json(data, codec=codec)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"18446744073709551615", 2**64 - 1),
        (b"18446744073709551616", 2**64),
        (b"-9223372036854775809", -(2**63) - 1),
        (b'["1234567890123456789012", 1]', ["1234567890123456789012", 1]),
        (b"-0", 0),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'"\\uD83D\\uDE00"', "\U0001f600"),
        (b'"\\\\ud800"', "\\ud800"),
    ],
)
def test_both_codecs_read_alike(data: bytes, value: Any, codec: Codec) -> None:
    """Integers of any size stay integers, and escapes are what they were."""
    found = decode_json(data, codec=codec)

    assert (type(found), found) == (type(value), value)


LONG = "18446744073709551617"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "text",
    [
        "{}", "-{}", " {}", "\t{}", "\r{}", "\n{}", "[{}]", "[-{}]", "[0,{}]", "[0, {}]", "[0,\n-{}]", '{{"a":{}}}',
        '{{"a": {}}}', '{{"a":\t-{}}}', '["x",{},"x"]', "[[],{}]", "[[{}]]",
    ],
)  # fmt: skip
def test_integers_beyond_64_bits_stay_integers_wherever_they_stand(text: str, codec: Codec) -> None:
    """The fast codec would read a float; it is told by what stands before the digits."""
    data = text.format(LONG).encode()

    assert repr(decode_json(data, codec=codec)) == repr(STANDARD.loads(data))
    assert LONG in repr(decode_json(data, codec=codec))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("text", ["0.{}", "-1.{}", "[0.{}]", "1e-{}", "1E+000{}", "[2e-000{}]"])
def test_long_parts_of_floats_are_read_alike(text: str, codec: Codec) -> None:
    """Or refused alike."""
    data = text.format(LONG).encode()
    results: list[str] = []
    for each in (codec, STANDARD):
        try:
            results.append(repr(decode_json(data, codec=each)))
        except XComSerializationError:
            results.append("refused")

    assert results[0] == results[1]


def test_texts_of_digits_are_left_to_the_fast_codec() -> None:
    """As ids and numbers of telephones are, they are no numbers; only after a sign or a space inside a text they look so."""
    calls: list[bytes] = []

    class Spy:
        def dumps(self, value: Any, /) -> bytes:
            raise NotImplementedError

        def loads(self, data: bytes, /) -> Any:
            calls.append(data)
            return STANDARD.loads(data)

    texts = [f'["{LONG}"]'.encode(), f'{{"{LONG}":"x{LONG}"}}'.encode()]
    for data in [*texts, f"[{LONG}]".encode(), f'["{LONG} {LONG}"]'.encode()]:
        assert decode_json(data, codec=Spy()) == STANDARD.loads(data)

    assert calls == texts


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    "odd", [None, True, 1, 2**70, 1.5, 1e300, [], {"k": "v"}, ("x",)], ids=lambda odd: f"{type(odd).__name__}-{odd!r:.5}"
)
@pytest.mark.parametrize("place", [0, 1, 40, 99])
def test_one_that_is_no_text_is_found_in_a_long_list_of_texts(odd: Any, place: int, codec: Codec) -> None:
    """Lists of nothing but texts are looked at all at once."""
    texts = [f"t{number}" for number in range(100)]
    value = [*texts[:place], odd, *texts[place:]]
    plain = json.loads(json.dumps(value))

    assert repr(decode_json(encode_json(value, codec=codec), codec=codec)) == repr(plain)
    assert decode_json(encode_json(dict(enumerate_as_text(texts)), codec=codec), codec=codec) == dict(enumerate_as_text(texts))
    for bad in (float("nan"), b"x", Text("x"), {1: 2}):
        with pytest.raises(XComSerializationError):
            encode_json([*value, bad], codec=codec)
        with pytest.raises(XComSerializationError):
            encode_json([*texts, bad], codec=codec)


def test_a_long_list_of_texts_is_weighed() -> None:
    """Before it is written."""
    texts = ["x" * 10] * 100
    size = len(encode_json(texts))

    assert len(encode_json(texts, max_bytes=size)) == size
    with pytest.raises(XComTooLargeError):
        encode_json(texts, max_bytes=size - 1)
    with pytest.raises(XComTooLargeError):
        check_exact(texts, max_depth=200, max_bytes=1_000, what="it", setting="")


class Text(str):
    """A text that would come back as another."""

    __slots__ = ()


def enumerate_as_text(texts: list[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of two texts."""
    return ((str(number), text) for number, text in enumerate(texts))


def test_orjson_is_used_where_it_is_installed() -> None:
    """It is what makes it fast."""
    orjson = pytest.importorskip("orjson")

    assert fastest_codec() is orjson


def test_without_orjson_the_standard_library_serves() -> None:
    """It is optional."""
    script = (
        "import sys; sys.modules['orjson'] = None\n"
        "from dagrelay.serializers.json import STANDARD, JsonSerializer, fastest_codec\n"
        "assert fastest_codec() is STANDARD\n"
        "assert JsonSerializer().loads(JsonSerializer().dumps({'a': 1})) == {'a': 1}\n"
    )

    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=20)

    assert done.returncode == 0, done.stderr


def test_nothing_slow_is_imported_with_the_package() -> None:
    """Codecs and converters load when the first value needs them, and plain annotations never need cattrs."""
    script = (
        "import sys\n"
        "import dagrelay.serializers as s\n"
        "late = {'cattrs', 'msgspec', 'orjson', 'pydantic'}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
        "for kind in (int, str, float, bool, None, dict, list, list[str], dict[str, object], list[dict[str, str]], int | None):\n"
        "    s.check_type(kind)\n"
        "assert s.unstructure({'a': 1}) == {'a': 1}\n"
        "assert not late & set(sys.modules), late & set(sys.modules)\n"
    )

    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=20)

    assert done.returncode == 0, done.stderr
