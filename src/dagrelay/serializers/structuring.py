"""From plain values to the type asked for, strictly: nothing is parsed, rounded, dropped or guessed.

A `str` is no number, `1` is no bool and `1.0` no int; unknown and missing keys are refused; an int is taken for a float if the
float is that number. Messages name types and never values, as they end in logs.
"""

from __future__ import annotations

import re
from enum import Enum, Flag
from functools import cache, lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args, get_origin, get_type_hints

from dagrelay.errors import XComTypeError
from dagrelay.model.missing import MISSING
from dagrelay.serializers.exactness import MAX_INT_DIGITS, index_path, is_same, key_path, type_of
from dagrelay.serializers.hints import (
    DICT_LIKE,
    LIST_LIKE,
    SET_LIKE,
    Hook,
    alias_value,
    describe,
    hooks_of_parts,
    is_any,
    is_hashable,
    is_named_tuple,
    is_plain_scalar,
    is_record,
    is_typed_dict,
    is_union,
    typed_dict_fields,
    unwrap,
)
from dagrelay.serializers.models import model_reader
from dagrelay.serializers.scalars import SCALARS
from dagrelay.serializers.unions import describe_plain, expected, union_hook
from dagrelay.serializers.unstructuring import by_class, identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import cattrs

__all__ = ("structure_hook",)

_INT_KEY: Final = re.compile(rf"(?:0|-?[1-9][0-9]{{0,{MAX_INT_DIGITS - 1}}})\Z")


def structure_hook(declared: Any) -> Hook:
    """Return what turns plain values into a type.

    Raises:
        XComTypeError: no value can be turned into it.
    """
    return _cached_hook(declared) if is_hashable(declared) else _build(declared)


@lru_cache(maxsize=4096)
def _cached_hook(declared: Any) -> Hook:
    return _build(declared)


def _build(declared: Any) -> Hook:
    declared = unwrap(declared)
    if is_any(declared):
        return identity
    if is_plain_scalar(declared):
        return _float if declared is float else _exact_hook(declared)
    alias = alias_value(declared)
    if alias is not MISSING:
        return hooks_of_parts(get_origin(declared) or declared, {"": alias}, structure_hook)[""]
    if is_union(declared):
        return union_hook(declared, structure_hook)
    if get_origin(declared) is Literal:
        return _one_of(declared, get_args(declared))
    hook = _container_hook(declared) or _class_hook(declared)
    if hook is None:
        if isinstance(declared, str):
            raise XComTypeError(f"the annotation {declared!r} was not resolved; import what it names where it is written")
        raise XComTypeError(f"no value can be turned into {describe(declared)}")
    return hook


def _class_hook(declared: Any) -> Hook | None:
    if is_typed_dict(declared):
        return _typed_dict_hook(declared)
    if is_record(declared):
        return _record_hook(declared)
    if is_named_tuple(get_origin(declared) or declared):
        return _named_tuple_hook(get_origin(declared) or declared)
    if not isinstance(declared, type):
        return None
    if declared in SCALARS:
        return _scalar_hook(declared)
    if issubclass(declared, Enum):
        return _flag_hook(declared) if issubclass(declared, Flag) else _one_of(declared, declared)
    return model_reader(declared)


def _container_hook(declared: Any) -> Hook | None:
    origin, args = get_origin(declared) or declared, get_args(declared)
    if origin in LIST_LIKE:
        return _list_hook(args[0] if args else Any, list)
    if origin in SET_LIKE:
        return _set_hook(args[0] if args else Any, frozenset if origin is frozenset else set)
    if origin in DICT_LIKE:
        return _dict_hook(*args) if args else _exact_hook(dict)
    if origin is tuple:
        if declared is tuple or args[-1:] == (Ellipsis,):
            return _list_hook(args[0] if args else Any, tuple)
        return _tuple_hook(args)
    return None


def _within(step: str, error: XComTypeError) -> XComTypeError:
    """Return an error of a part as one of the whole."""
    return XComTypeError(error.reason, path=f"${step}{error.path[1:]}")


# ------------------------------------------------------------------------------------------------------------ scalars


def _exact_hook(kind: type[Any]) -> Hook:
    return partial(_require, kind)


def _require(kind: type[Any], value: Any) -> Any:
    if type_of(value) is not kind:
        raise expected(describe_plain(kind), value)
    return value


def _float(value: Any) -> float:
    if type_of(value) is float:
        return cast("float", value)
    if type_of(value) is not int:
        raise expected("a float", value)
    try:
        number = float(value)
    except OverflowError:
        number = None
    if number is None or number != value:
        raise XComTypeError("an int is too large to be a float exactly")
    return number


def _scalar_hook(kind: type) -> Hook:
    scalar = SCALARS[kind]

    def structure(value: Any) -> Any:
        if type_of(value) is not str:
            raise expected(scalar.form, value)
        try:
            return scalar.read(value)
        except Exception as error:
            raise expected(f"{scalar.form} for {describe(kind)}", value) from error

    return structure


def _one_of(declared: Any, members: Iterable[Any]) -> Hook:
    """Return the hook for members of an enum or a Literal, known by their plain values and the types of these."""
    table: list[tuple[Any, Any]] = [(by_class(member), member) for member in members]
    quick: dict[tuple[type[Any], Any], Any] = {
        (type_of(plain), plain): member for plain, member in reversed(table) if is_hashable(plain)
    }

    def structure(value: Any) -> Any:
        if is_hashable(value):
            found = quick.get((type_of(value), value), MISSING)
        else:
            found = next((member for plain, member in table if is_same(plain, value)), MISSING)
        if found is MISSING:
            raise expected(f"a value of {describe(declared)}", value)
        return found

    return structure


def _flag_hook(kind: type[Flag]) -> Hook:
    def structure(value: Any) -> Any:
        if type_of(value) is not int:
            raise expected(f"an int for {describe(kind)}", value)
        try:
            found = kind(value)
        except ValueError as error:
            raise expected(f"a value of {describe(kind)}", value) from error
        if found.value != value:
            raise expected(f"a value of {describe(kind)}", value)
        return found

    return structure


# --------------------------------------------------------------------------------------------------------- containers


def _list_hook(item_type: Any, kind: type) -> Hook:
    convert = structure_hook(item_type)

    def structure(value: Any) -> Any:
        items = _items(convert, _require(list, value))
        return items if kind is list else kind(items)

    return structure


def _items(convert: Hook, values: list[Any]) -> list[Any]:
    items: list[Any] = []
    try:
        for value in values:
            items.append(convert(value))  # noqa: PERF401 - its length is the index of a culprit
    except XComTypeError as error:
        raise _within(index_path(len(items)), error) from error.__cause__
    return items


def _set_hook(item_type: Any, kind: type) -> Hook:
    convert = structure_hook(item_type)

    def structure(value: Any) -> Any:
        items = _items(convert, _require(list, value))
        try:
            found = kind(items)
        except TypeError as error:
            raise XComTypeError("an element can't be part of a set, as it is not hashable") from error
        if len(found) < len(items):
            raise XComTypeError("expected the elements of a set, and one is there twice")
        return found

    return structure


def _tuple_hook(args: tuple[Any, ...]) -> Hook:
    converts = [structure_hook(arg) for arg in args]

    def structure(value: Any) -> Any:
        return tuple(_fixed(converts, value))

    return structure


def _fixed(converts: list[Hook], value: Any) -> list[Any]:
    values = _require(list, value)
    if len(values) != len(converts):
        raise XComTypeError(f"expected a list of {len(converts)} elements, not {len(values)}")
    items: list[Any] = []
    try:
        for convert, item in zip(converts, values, strict=True):
            items.append(convert(item))
    except XComTypeError as error:
        raise _within(index_path(len(items)), error) from error.__cause__
    return items


def _named_tuple_hook(kind: Any) -> Hook:
    hints = get_type_hints(kind)
    parts = hooks_of_parts(kind, {field: hints.get(field, Any) for field in kind._fields}, structure_hook)
    converts = list(parts.values())
    return lambda value: kind._make(_fixed(converts, value))


def _dict_hook(key_type: Any, item_type: Any) -> Hook:
    if key_type is str and is_any(item_type):
        return _plain_dict
    read_key = _key_reader(unwrap(key_type))
    convert = structure_hook(item_type)

    def structure(value: Any) -> Any:
        plain = _require(dict, value)
        items: dict[Any, Any] = {}
        key = ""
        try:
            for key, item in plain.items():
                items[read_key(key)] = convert(item)
        except XComTypeError as error:
            raise _within(key_path(key), error) from error.__cause__
        if len(items) < len(plain):
            raise XComTypeError(f"two keys are the same {describe(key_type)}")
        return items

    return structure


def _plain_dict(value: Any) -> Any:
    """Hand on the mapping that most handlers ask for, in which nothing is to be converted."""
    plain = _require(dict, value)
    for key in plain:
        if type_of(key) is not str:
            raise _within(key_path(key), expected("a str", key))
    return plain


def _key_reader(key_type: Any) -> Hook:
    return _int_key if key_type is int else structure_hook(key_type)


def _int_key(key: str) -> int:
    if _INT_KEY.match(key) is None:
        raise XComTypeError("expected an int as key")
    return int(key)


# ------------------------------------------------------------------------------------------------------------ records


def _record_hook(declared: Any) -> Hook:
    from cattrs.gen import make_dict_structure_fn  # noqa: PLC0415 - imported late, as it takes long

    return _fields_hook(declared, make_dict_structure_fn(declared, _converter()))


def _typed_dict_hook(declared: Any) -> Hook:
    fields = typed_dict_fields(declared)
    hints = {name: hint for name, (hint, _) in fields.items()}
    converts = hooks_of_parts(get_origin(declared) or declared, hints, structure_hook)
    required = [name for name, (_, is_required) in fields.items() if is_required]

    def structure(value: Any) -> Any:
        plain = _require(dict, value)
        missing = next((name for name in required if name not in plain), None)
        if missing is not None:
            raise _missing(declared, missing)
        extra = next((name for name in plain if name not in converts), None)
        if extra is not None:
            raise _unknown(declared, extra)
        found: dict[str, Any] = {}
        name = ""
        try:
            for name, item in plain.items():
                found[name] = converts[name](item)
        except XComTypeError as error:
            raise _within(key_path(name), error) from error.__cause__
        return found

    return structure


def _missing(declared: Any, name: str) -> XComTypeError:
    return XComTypeError(f"a field of {describe(declared)} is missing", path=f"${key_path(name)}")


def _unknown(declared: Any, name: str) -> XComTypeError:
    return XComTypeError(f"{describe(declared)} has no such field", path=f"${key_path(name)}")


def _fields_hook(declared: Any, convert: Callable[[Any, Any], Any]) -> Hook:
    from cattrs import BaseValidationError  # noqa: PLC0415 - imported late, as it takes long

    def structure(value: Any) -> Any:
        if type_of(value) is not dict:
            raise expected(f"a dict with the fields of {describe(declared)}", value)
        try:
            return convert(value, declared)
        except BaseValidationError as group:
            first: Exception = group.exceptions[0]
            raise _field_fault(first, declared) from (first.__cause__ if isinstance(first, XComTypeError) else first)

    return structure


def _field_fault(error: Exception, declared: Any) -> XComTypeError:
    """Return what cattrs says of the first field at fault, as one error with a path."""
    from cattrs import AttributeValidationNote, ForbiddenExtraKeysError  # noqa: PLC0415 - imported late, as it takes long

    name = next((note.name for note in getattr(error, "__notes__", ()) if isinstance(note, AttributeValidationNote)), None)
    if isinstance(error, ForbiddenExtraKeysError):
        return _unknown(declared, min(error.extra_fields))
    if name is None:
        return XComTypeError(f"{describe(declared)} refuses its fields: {type(error).__name__}: {error}")
    if isinstance(error, XComTypeError):
        return _within(key_path(name), error)
    if isinstance(error, RecursionError):
        return XComTypeError("nested too deep", path=f"${key_path(name)}")
    if isinstance(error, KeyError):
        return _missing(declared, name)
    return XComTypeError(f"{type(error).__name__}: {error}", path=f"${key_path(name)}")


@cache
def _converter() -> cattrs.Converter:
    """Return the converter from which cattrs takes the hooks for the fields of classes."""
    import cattrs  # noqa: PLC0415 - imported late, as it takes long

    class Converter(cattrs.Converter):
        """Asks the hooks of this module, for any type; built-in ones, which would parse "12" as an int, are never reached."""

        def get_structure_hook(self, type: Any, cache_result: bool = True) -> Callable[[Any, Any], Any]:  # noqa: A002, ARG002, FBT001, FBT002 - cattrs' own
            hook = structure_hook(type)
            return lambda value, _: hook(value)

        def structure(self, obj: Any, cl: Any) -> Any:
            return obj if cl is None else structure_hook(cl)(obj)  # None is a field without annotation.

    return Converter(forbid_extra_keys=True, detailed_validation=True)
