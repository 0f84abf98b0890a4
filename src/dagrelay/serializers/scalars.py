"""Types that are one text in JSON, and their two directions."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import attrs

from dagrelay.serializers.exactness import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("SCALARS", "Scalar")

_DURATION: Final = re.compile(
    r"(?P<sign>-?)P(?=.)(?:(?P<days>\d{1,9})D)?"
    r"(?:T(?=.)(?:(?P<hours>\d{1,11})H)?(?:(?P<minutes>\d{1,13})M)?(?:(?P<seconds>\d{1,15})(?:\.(?P<fraction>\d{1,6}))?S)?)?\Z",
    re.ASCII,
)
_DECIMAL: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,18})?\Z", re.ASCII)


@attrs.frozen(kw_only=True)
class Scalar:
    """How the values of one type are written as text."""

    form: str
    """The form of the text, for errors."""

    write: Callable[[Any], str | Refused]
    """Returns the text of a value, or why it has none."""

    read: Callable[[str], Any]
    """Returns the value of a text; raises ValueError (or a kin of it) for any other text."""

    kinds: tuple[type, ...]
    """The exact types of the values that come back as they were."""


def _write_datetime(value: datetime) -> str | Refused:
    if value.tzinfo is None:
        return Refused("a naive datetime with fold=1 has no exact text; give it a time zone") if value.fold else value.isoformat()
    if value.utcoffset() is None:
        return Refused("a datetime has a time zone without offset")
    return _read_back(value)


def _write_time(value: time) -> str | Refused:
    if value.fold or (value.tzinfo is not None and value.utcoffset() is None):
        return Refused("a time with fold=1, or with a time zone that has no fixed offset, has no exact text; push a datetime")
    return _read_back(value)


def _read_back(value: datetime | time) -> str | Refused:
    text = value.isoformat()
    # `fromisoformat` takes an offset of less than a second for none (CPython 3.11 to 3.13).
    is_same = type(value).fromisoformat(text).utcoffset() == value.utcoffset()
    return text if is_same else Refused(f"{text} has an offset that can't be read back")


def _write_duration(value: timedelta) -> str:
    sign, positive = ("-", -value) if value < timedelta(0) else ("", value)
    seconds = f"{positive.seconds}.{positive.microseconds:06}" if positive.microseconds else f"{positive.seconds}"
    return f"{sign}P{positive.days}DT{seconds}S"


def _read_duration(text: str) -> timedelta:
    found = _DURATION.match(text)
    if found is None:
        raise ValueError("no duration")
    parts = {name: int(found[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
    value = timedelta(**parts, microseconds=int((found["fraction"] or "0").ljust(6, "0")))
    return -value if found["sign"] else value


def _write_decimal(value: Decimal) -> str | Refused:
    return str(value) if value.is_finite() else Refused("a Decimal is no finite number")


def _read_decimal(text: str) -> Decimal:
    if _DECIMAL.match(text) is None:
        raise ValueError("no decimal number")
    return Decimal(text)


def _read_uuid(text: str) -> UUID:
    value = UUID(text)
    if str(value) != text.lower():
        raise ValueError("UUIDs are written with four hyphens and nothing else")
    return value


def _read_bytes(text: str) -> bytes:
    return b64decode(text, validate=True)


def _write_bytes(value: bytes) -> str:
    return b64encode(value).decode()


def _path(kind: type[PurePath], *also: type[PurePath]) -> Scalar:
    return Scalar(form="a path", write=str, read=kind, kinds=(kind, *also))


SCALARS: Final[dict[type, Scalar]] = {
    datetime: Scalar(form="a date and time (ISO 8601)", write=_write_datetime, read=datetime.fromisoformat, kinds=(datetime,)),
    date: Scalar(form="a date (ISO 8601)", write=date.isoformat, read=date.fromisoformat, kinds=(date,)),
    time: Scalar(form="a time (ISO 8601)", write=_write_time, read=time.fromisoformat, kinds=(time,)),
    timedelta: Scalar(form="a duration (ISO 8601)", write=_write_duration, read=_read_duration, kinds=(timedelta,)),
    Decimal: Scalar(form="a decimal number as str", write=_write_decimal, read=_read_decimal, kinds=(Decimal,)),
    UUID: Scalar(form="a UUID", write=str, read=_read_uuid, kinds=(UUID,)),
    bytes: Scalar(form="bytes in Base64", write=_write_bytes, read=_read_bytes, kinds=(bytes,)),
    Path: _path(Path, PosixPath, WindowsPath),
    PurePath: _path(PurePath, PurePosixPath, PureWindowsPath),
    PosixPath: _path(PosixPath),
    WindowsPath: _path(WindowsPath),
    PurePosixPath: _path(PurePosixPath),
    PureWindowsPath: _path(PureWindowsPath),
}
"""By type. Time zones come back as their offset, and a path as the text it is."""
