"""Models of libraries that do their own converting: pydantic and msgspec, asked only where the program has loaded them."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

from dagrelay.errors import XComTypeError
from dagrelay.serializers.exactness import index_path, key_path, type_name
from dagrelay.serializers.json import STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("model_reader", "model_writer")

_MSGSPEC_PATH: Final = re.compile(r" - at `\$?([^`]*)`\Z")


def model_writer(kind: type[Any]) -> Callable[[Any], Any] | None:
    """Return what turns the instances of a model class into plain values, or None if it is no such class."""
    if _is_model(kind, "pydantic", "BaseModel"):
        return lambda value: value.model_dump(mode="json", by_alias=True, round_trip=True)
    if _is_model(kind, "msgspec", "Struct"):
        return lambda value: sys.modules["msgspec"].to_builtins(value, str_keys=True)
    return None


def model_reader(kind: Any) -> Callable[[Any], Any] | None:
    """Return what makes instances of a model class from plain values, or None if it is no such class.

    Both are strict about types. Whether unknown keys are refused is for the class to say (`extra`, `forbid_unknown_fields`).
    """
    if _is_model(kind, "pydantic", "BaseModel"):
        return lambda value: _read_pydantic(kind, value)
    if _is_model(kind, "msgspec", "Struct"):
        return lambda value: _read_msgspec(kind, value)
    return None


def _is_model(kind: Any, module: str, base: str) -> bool:
    if not isinstance(kind, type) or module not in sys.modules:
        return False
    found = getattr(sys.modules[module], base, None)  # None while the library is still being imported.
    return isinstance(found, type) and issubclass(kind, found)


def _read_pydantic(kind: Any, value: Any) -> Any:
    # By way of JSON, as only there strictness knows that a date is written as text.
    text = STANDARD.dumps(value)
    try:
        return kind.model_validate_json(text, strict=True)
    except sys.modules["pydantic"].ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        steps = [index_path(step) if isinstance(step, int) else key_path(step) for step in first["loc"]]
        raise XComTypeError(f"{type_name(kind)}: {first['msg']}", path="".join(["$", *steps])) from error


def _read_msgspec(kind: Any, value: Any) -> Any:
    msgspec = sys.modules["msgspec"]
    try:
        return msgspec.convert(value, type=kind, strict=True, str_keys=True)
    except msgspec.ValidationError as error:
        told = str(error)
        found = _MSGSPEC_PATH.search(told)
        reason = told if found is None else told[: found.start()]
        raise XComTypeError(f"{type_name(kind)}: {reason}", path=f"${found[1] if found else ''}") from error
