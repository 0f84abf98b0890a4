"""Typed values: made plain when they are pushed, and of their type again when they are pulled under an annotation.

Besides plain JSON values these can be stored: attrs classes, dataclasses, TypedDicts, named tuples, pydantic models and msgspec
structs, enums, datetime, date, time, timedelta, UUID, Decimal, paths, bytes, sets, and dicts with other keys than str where
the annotation says so. cattrs does the classes, and is imported when the first one comes by.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dagrelay.errors import XComError, XComSerializationError, XComTypeError
from dagrelay.model.missing import MISSING
from dagrelay.serializers.base import MAX_XCOM_BYTES
from dagrelay.serializers.exactness import is_plain
from dagrelay.serializers.hints import describe, is_hashable
from dagrelay.serializers.structuring import structure_hook
from dagrelay.serializers.unstructuring import Budget, unstructure_hook

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("check_type", "structure", "structurer", "unstructure")


def unstructure(
    value: Any,
    declared: Any = MISSING,
    *,
    max_bytes: int | None = None,
    what: str = "the value",
    setting: str = MAX_XCOM_BYTES,
) -> Any:
    """Return a value as plain as its parts allow; a plain one is returned itself, and costs one quick walk.

    What can't be converted is left in place (or replaced by a `Refused` that says why): encoding refuses it, with its path.
    Fields with `init=False` are not stored. Time zones become their offset.

    Args:
        value: what to convert.
        declared: the annotation it came under, for the keys of `dict[int, T]` at any depth; MISSING if there is none.
        max_bytes: JSON bytes at which to stop, as a value can be small in memory and huge as JSON; None for no limit.
        what: the value, for errors.
        setting: how the limit is raised, for errors.

    Raises:
        XComSerializationError: a part can't be converted at all.
        XComTooLargeError: it is longer than `max_bytes`.
    """
    if is_plain(value):
        return value
    token = Budget.current.set(None if max_bytes is None else Budget(max_bytes, what, setting))
    try:
        return unstructure_hook(declared)(value)
    except XComError:
        raise
    except RecursionError as error:
        raise XComSerializationError(f"{what} is nested too deep, or contains itself") from error
    except Exception as error:
        raise XComSerializationError(f"{what} can't be made plain: {_told(error)}") from error
    finally:
        Budget.current.reset(token)


def structure(value: Any, type_: Any) -> Any:
    """Return a plain value as a type, strictly.

    Args:
        value: what was decoded; where nothing is to be converted it is handed on as it is, not copied.
        type_: a type or an annotation, as in `list[Stats]`, `dict[int, str] | None`.

    Raises:
        XComTypeError: the value is not of the type, or nothing can be; the message ends in its path, as in ` @ $.rows[3].score`.
    """
    return structurer(type_)(value)


def structurer(type_: Any) -> Callable[[Any], Any]:
    """Return `structure` for one type, for those who structure many values into it: the way is looked up once.

    Raises:
        XComTypeError: no value can be turned into the type.
    """
    return _cached_structurer(type_) if is_hashable(type_) else _make_structurer(type_)


@lru_cache(maxsize=4096)
def _cached_structurer(type_: Any) -> Callable[[Any], Any]:
    return _make_structurer(type_)


def _make_structurer(type_: Any) -> Callable[[Any], Any]:
    convert = _hook(type_)

    def into_type(value: Any) -> Any:
        try:
            return convert(value)
        except XComTypeError:
            raise
        except RecursionError as error:
            raise XComTypeError(f"nested too deep to be turned into {describe(type_)}") from error
        except Exception as error:
            raise XComTypeError(f"it can't be turned into {describe(type_)}: {_told(error)}") from error

    return into_type


def check_type(type_: Any) -> None:
    """Raise if no value can be turned into a type, so that planning can tell before any handler starts.

    Raises:
        XComTypeError: there is no way to; it names the type.
    """
    _hook(type_)


def _hook(type_: Any) -> Any:
    try:
        return structure_hook(type_)
    except XComTypeError:
        raise
    except Exception as error:
        raise XComTypeError(f"no value can be turned into {describe(type_)}: {_told(error)}") from error


def _told(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a failing __str__ must not hide the error being told
        return type(error).__name__
