"""Serializers are known by name, and whatever they do wrong is one clear error."""

from __future__ import annotations

from typing import Any

import pytest

from dagrelay.errors import InvalidIdError, XComSerializationError, XComTooLargeError
from dagrelay.serializers import JsonSerializer, SerializerRegistry, encode


class Odd:
    """A serializer made of what it is told to return or raise."""

    def __init__(self, name: str = "odd", written: Any = b"", read: Any = None) -> None:
        """Take its name and the results of its methods."""
        self.name = name
        self._written = written
        self._read = read

    def dumps(self, value: Any) -> bytes:
        """Return or raise what was told, whatever the value."""
        del value
        written: bytes = self._result(self._written)
        return written

    def loads(self, data: bytes) -> Any:
        """Return or raise what was told, whatever the data."""
        del data
        return self._result(self._read)

    def _result(self, result: Any) -> Any:
        if isinstance(result, Exception):
            raise result
        return result


class UnprintableError(Exception):
    """An error that can't be told."""

    def __str__(self) -> str:
        """Fail."""
        raise RuntimeError("no text")


def test_the_default_is_found_by_its_name() -> None:
    """A row names its serializer, the default included."""
    default = JsonSerializer()
    further = Odd()

    registry = SerializerRegistry(default, [further, default])

    assert registry.default is default
    assert registry.get("json") is default
    assert registry.get("odd") is further


def test_an_unknown_name_is_a_clear_error() -> None:
    """There is no fallback: the error tells the names there are."""
    registry = SerializerRegistry(JsonSerializer())

    with pytest.raises(XComSerializationError, match=r"no serializer 'pickle' is registered \(there are 'json'\)"):
        registry.decode("pickle", b"")


def test_two_serializers_of_one_name_are_refused() -> None:
    """Which one would read a row must never be a guess."""
    with pytest.raises(ValueError, match="two serializers are named 'odd'"):
        SerializerRegistry(Odd(), [Odd()])


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 251, "\ud800", None])
def test_a_name_must_be_a_legal_key(name: Any) -> None:
    """Names are stored in rows."""
    with pytest.raises(InvalidIdError):
        SerializerRegistry(JsonSerializer(), [Odd(name)])


def test_exactly_the_limit_is_accepted() -> None:
    """The limit is the size that may be reached."""
    data = b"12345"

    assert encode(Odd(written=data), 1, max_bytes=5, what="it") == data
    with pytest.raises(XComTooLargeError, match=r"it: 5 bytes exceed the limit of 4; .* raise Limits\(max_xcom_bytes"):
        encode(Odd(written=data), 1, max_bytes=4, what="it")


def test_the_default_serializer_refuses_within_the_limit() -> None:
    """JSON is bounded while it is checked; the setting named is the caller's."""
    value: Any = 1
    for _ in range(12):
        value = [value] * 10

    assert encode(JsonSerializer(), "é", max_bytes=4, what="it") == '"é"'.encode()
    with pytest.raises(XComTooLargeError, match="raise XComOptions"):
        encode(JsonSerializer(), value, max_bytes=1_000_000, what="it", setting="XComOptions(max_bytes=...)")


@pytest.mark.parametrize("written", ["text", bytearray(b"1"), None, memoryview(b"1")])
def test_what_is_no_bytes_is_refused(written: Any) -> None:
    """A serializer that returns a str would be stored as something else."""
    with pytest.raises(XComSerializationError, match=f"returned {type(written).__name__} instead of bytes"):
        encode(Odd(written=written), 1, max_bytes=10, what="it")


@pytest.mark.parametrize(
    "error", [TypeError("t"), ValueError("v"), OverflowError("o"), RecursionError("r"), UnprintableError(), KeyError("k")]
)
def test_what_a_serializer_raises_becomes_the_cause(error: Exception) -> None:
    """There is one public error for all that can go wrong in either direction."""
    odd = Odd(written=error, read=error)
    registry = SerializerRegistry(odd)

    with pytest.raises(XComSerializationError, match="serializer 'odd' can't write it") as writing:
        encode(odd, 1, max_bytes=10, what="it")
    with pytest.raises(XComSerializationError, match="serializer 'odd' can't read 3 stored bytes") as reading:
        registry.decode("odd", b"abc")

    assert writing.value.__cause__ is error
    assert reading.value.__cause__ is error


def test_our_own_errors_pass_unchanged() -> None:
    """What names a path already needs no second telling."""
    own = XComSerializationError("why", path="$.a")
    odd = Odd(written=own, read=own)

    with pytest.raises(XComSerializationError) as writing:
        encode(odd, 1, max_bytes=10, what="it")
    with pytest.raises(XComSerializationError) as reading:
        SerializerRegistry(odd).decode("odd", b"abc")

    assert writing.value is own
    assert reading.value is own


def test_a_value_comes_back_through_the_registry() -> None:
    """Encoding and decoding are each other's inverse."""
    registry = SerializerRegistry(JsonSerializer())
    value = {"a": [1, 2.5, None, True]}

    data = encode(registry.default, value, max_bytes=100, what="it")

    assert registry.decode("json", data) == value


def test_the_default_serializer_takes_a_depth() -> None:
    """The depth can be chosen, and zero is none."""
    serializer = JsonSerializer(max_depth=1)

    assert serializer.loads(serializer.dumps([1])) == [1]
    assert repr(serializer) == "JsonSerializer(max_depth=1)"
    with pytest.raises(XComSerializationError, match="deeper than 1 levels"):
        serializer.dumps([[1]])
    with pytest.raises(ValueError, match="at least 1"):
        JsonSerializer(max_depth=0)
