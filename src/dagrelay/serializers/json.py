"""JSON as the one default: exact or refused, and byte for byte the same whether orjson is installed or not.

The standard library's codec defines what is written and read. orjson stands in for it only where both are known to agree:
numbers whose text they would write differently, and integers that orjson would read as floats, go to the standard library.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any, Final, NoReturn, Protocol

from dagrelay.errors import XComSerializationError, XComTooLargeError
from dagrelay.serializers.base import MAX_XCOM_BYTES
from dagrelay.serializers.exactness import check_exact, refusal

__all__ = ("STANDARD", "Codec", "JsonSerializer", "decode_json", "encode_json", "fastest_codec")

_DIGITS: Final = b"0123456789"
_BEFORE_NUMBERS: Final = b",[: \t\r\n-+.eE"
"""What stands before the digits of a number, or of a part of it. Before those of a text its quote does, or more of the text."""
_NUMBERS_ALIKE: Final = bytes.maketrans(b"123456789" + _BEFORE_NUMBERS, b"0" * 9 + b"," * len(_BEFORE_NUMBERS))
_SPARE_BUFFER: Final = 4096
_LONGEST: Final = 19  # Fewer digits than these fit into 64 bits.
_LONG_DIGITS: Final = b"0" * _LONGEST
_LONG_NUMBER: Final = b"," + _LONG_DIGITS


class Codec(Protocol):
    """Compact UTF-8 JSON, unescaped."""

    def dumps(self, value: Any, /) -> bytes:
        """Return a plain value as JSON."""
        ...

    def loads(self, data: bytes, /) -> Any:
        """Return the value of JSON."""
        ...


class _StandardCodec:
    """The codec of the standard library, told to be strict."""

    _encoder: Final = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(parse_float=_finite_float, parse_constant=_no_constant)

    def dumps(self, value: Any, /) -> bytes:
        return self._encoder.encode(value).encode()

    def loads(self, data: bytes, /) -> Any:
        value = self._decoder.decode(data.decode())
        if b"\\ud" in data or b"\\uD" in data:  # Only an escape can bring a lone surrogate in, and this finds it.
            self.dumps(value)
        return value


def _finite_float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large for a float")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


STANDARD: Final[Codec] = _StandardCodec()
"""The codec that defines what is written and read."""


@cache
def fastest_codec() -> Codec:
    """Return orjson if it is installed, else the standard library's codec."""
    try:
        import orjson  # noqa: PLC0415 - imported late, and optional
    except ImportError:
        return STANDARD
    return orjson


def encode_json(
    value: Any,
    *,
    max_bytes: int | None = None,
    max_depth: int = 200,
    what: str = "the value",
    setting: str = MAX_XCOM_BYTES,
    codec: Codec | None = None,
) -> bytes:
    """Return a plain value as compact JSON, unescaped UTF-8; tuples are written as lists.

    Args:
        value: what to write.
        max_bytes: bytes allowed, exactly so many included; None for no limit. A value far over it is refused before its
            JSON is built.
        max_depth: containers inside each other allowed.
        what: the value, for errors.
        setting: how the limit of bytes is raised, for errors.
        codec: what writes; None is the fastest installed.

    Raises:
        XComSerializationError: what would be read is not what was given; with the path of the culprit.
        XComTooLargeError: they are more than `max_bytes`.
    """
    limit = math.inf if max_bytes is None else max_bytes
    try:
        is_alike = check_exact(value, max_depth=max_depth, max_bytes=limit, what=what, setting=setting)
        data = _dumps((codec or fastest_codec()) if is_alike else STANDARD, value)
    except (XComSerializationError, XComTooLargeError):
        raise
    except Exception as error:
        raise refusal(value, max_depth, f"{what} can't be written as JSON ({error})") from error
    if len(data) > limit:
        raise XComTooLargeError(what, actual=len(data), limit=int(limit), setting=setting)
    return data


def _dumps(codec: Codec, value: Any) -> bytes:
    if codec is STANDARD:
        return codec.dumps(value)
    try:
        data = codec.dumps(value)
    except Exception:  # noqa: BLE001 - nested deeper than the fast one goes, or truly wrong: the standard decides
        return STANDARD.dumps(value)
    # orjson hands out buffers of a kibibyte and more, which small values would hold for as long as they are cached.
    return data if len(data) > _SPARE_BUFFER else bytes(memoryview(data))


def decode_json(data: bytes, *, codec: Codec | None = None) -> Any:
    """Return the value of stored JSON.

    Args:
        data: the bytes; NaN, Infinity, numbers too large for a float and lone surrogates are refused, as nobody can have
            pushed them.
        codec: what reads; None is the fastest installed.

    Raises:
        XComSerializationError: they are no such JSON.
    """
    try:
        return _loads(codec or fastest_codec(), data)
    except Exception as error:
        raise XComSerializationError(f"{len(data)} stored bytes are no JSON that was pushed ({error})") from error


def _loads(codec: Codec, data: bytes) -> Any:
    if codec is not STANDARD and not _has_long_number(data):
        try:
            return codec.loads(data)
        except ValueError:  # The standard decides, and its words are the error.
            pass
    return STANDARD.loads(data)


def _has_long_number(data: bytes) -> bool:
    """Return whether a number has as many digits in a row as an integer beyond 64 bits; a text may look as if it held one."""
    # As many in a row hold one of every so many bytes, and those few are looked at in a fraction of the time.
    sample = data[_LONGEST - 1 :: _LONGEST]
    if len(sample.translate(None, _DIGITS)) == len(sample):
        return False
    alike = data.translate(_NUMBERS_ALIKE)
    return _LONG_NUMBER in alike or alike.startswith(_LONG_DIGITS)


class JsonSerializer:
    """The default serializer: plain values as compact JSON, exactly or not at all.

    None, bool, int, float, str, and list, tuple (which comes back as list) and dict with str keys are plain. Whatever else
    the library can store has been converted before it comes here.

    Args:
        max_depth: containers inside each other allowed.
    """

    __slots__ = ("max_depth",)

    def __init__(self, *, max_depth: int = 200) -> None:
        """Take the depth allowed.

        Raises:
            ValueError: it is not positive.
        """
        if max_depth < 1:
            raise ValueError(f"max_depth must be at least 1, not {max_depth}")
        self.max_depth: int = max_depth

    @property
    def name(self) -> str:
        """The name that rows carry."""
        return "json"

    def dumps(self, value: Any) -> bytes:
        """Return a plain value as JSON of any length.

        Raises:
            XComSerializationError: it is not plain.
        """
        return encode_json(value, max_depth=self.max_depth)

    def dumps_within(self, value: Any, *, max_bytes: int, what: str, setting: str) -> bytes:
        """Return a plain value as JSON of at most `max_bytes`.

        Raises:
            XComSerializationError: it is not plain.
            XComTooLargeError: it is longer; found out before it is built if it is far longer.
        """
        return encode_json(value, max_bytes=max_bytes, max_depth=self.max_depth, what=what, setting=setting)

    def loads(self, data: bytes) -> Any:
        """Return the value of stored JSON.

        Raises:
            XComSerializationError: it is none.
        """
        # What decode_json does, in one step: this is called for every value that is handed on.
        if not _has_long_number(data):
            try:
                return fastest_codec().loads(data)
            except ValueError:  # The standard decides, and its words are the error.
                pass
        return decode_json(data, codec=STANDARD)

    def __repr__(self) -> str:
        """Return how it is made."""
        return f"JsonSerializer(max_depth={self.max_depth})"
