"""Unions: the one member that a plain value can be, or an error.

A value of a type that JSON has itself is taken as that if the union has it. Else exactly one member must fit; of several, the
one that would have been written exactly like this.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from types import NoneType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin, get_type_hints

import attrs

from dagrelay.errors import XComTypeError
from dagrelay.serializers.exactness import is_same, type_of
from dagrelay.serializers.hints import (
    DICT_LIKE,
    LIST_LIKE,
    SET_LIKE,
    Hook,
    describe,
    is_any,
    is_named_tuple,
    is_plain_scalar,
    is_record,
    is_typed_dict,
    typed_dict_fields,
    unwrap,
)
from dagrelay.serializers.scalars import SCALARS
from dagrelay.serializers.unstructuring import identity, unstructure_hook

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("describe_plain", "expected", "union_hook")

_PLAIN_NAMES: Final[dict[type[Any], str]] = {
    str: "a str",
    int: "an int",
    float: "a float",
    bool: "a bool",
    NoneType: "None",
    list: "a list",
    dict: "a dict",
}


def describe_plain(kind: type[Any]) -> str:
    """Return how to say that a value is of a type."""
    return _PLAIN_NAMES.get(kind) or describe(kind)


def expected(what: str, value: Any) -> XComTypeError:
    """Return the error of a value that is not what it should be; of the value it names the type only."""
    return XComTypeError(f"expected {what}, not {describe_plain(type_of(value))}")


@attrs.frozen(kw_only=True)
class _Member:
    declared: Any
    convert: Hook
    may_fit: Callable[[Any], bool]


def union_hook(declared: Any, hook_of: Callable[[Any], Hook]) -> Hook:
    """Return what turns plain values into a union, by the hooks of its members."""
    types = [unwrap(member) for member in get_args(declared)]
    if any(map(is_any, types)):
        return identity
    exact = frozenset(member for member in types if is_plain_scalar(member))
    members = [
        _Member(declared=member, convert=hook_of(member), may_fit=_shallow_test(member, hook_of))
        for member in types
        if member not in exact or member is float
    ]

    def structure(value: Any) -> Any:
        if type_of(value) in exact:
            return value
        fitting = [member for member in members if member.may_fit(value)]
        if len(fitting) == 1:
            return fitting[0].convert(value)
        if not fitting:
            raise expected(describe(declared), value)
        return _the_one_match(declared, fitting, value)

    return structure


def _the_one_match(declared: Any, members: list[_Member], value: Any) -> Any:
    """Return the value as the one member it can be; of several, as the one that would have been written like this."""
    matches: list[tuple[_Member, Any]] = []
    faults: list[str] = []
    for member in members:
        try:
            matches.append((member, member.convert(value)))
        except XComTypeError as error:
            faults.append(f"{describe(member.declared)}: {error}")
    if not matches:
        raise XComTypeError(f"no member of {describe(declared)} fits ({'; '.join(faults)})")
    if len(matches) > 1:
        matches = [(member, found) for member, found in matches if is_same(unstructure_hook(member.declared)(found), value)]
    if len(matches) != 1:
        raise XComTypeError(f"more than one member of {describe(declared)} fits; ask for one of them")
    return matches[0][1]


def _shallow_test(declared: Any, hook_of: Callable[[Any], Hook]) -> Callable[[Any], bool]:
    """Return a test that looks at a value's type, keys and simple fields only, so that nested unions stay cheap."""
    root = get_origin(declared) or declared
    if is_record(declared) or is_typed_dict(declared):
        return _fields_test(declared, hook_of)
    if root in LIST_LIKE or root in SET_LIKE or root is tuple or is_named_tuple(root):
        return lambda value: type_of(value) is list
    if root in DICT_LIKE:
        return lambda value: type_of(value) is dict
    return _test(hook_of(declared)) if _is_simple(declared) else lambda _: True


def _fields_test(declared: Any, hook_of: Callable[[Any], Hook]) -> Callable[[Any], bool]:
    hints = _field_hints(declared)
    tests = {name: _test(hook_of(hint)) for name, hint in hints.items() if _is_simple(unwrap(hint))}
    fields = hints.keys()

    def may_fit(value: Any) -> bool:
        return (
            type_of(value) is dict
            and value.keys() <= fields
            and all(test(value[name]) for name, test in tests.items() if name in value)
        )

    return may_fit


def _field_hints(declared: Any) -> dict[str, Any]:
    if is_typed_dict(declared):
        return {name: hint for name, (hint, _) in typed_dict_fields(declared).items()}
    kind: Any = get_origin(declared) or declared
    hints = get_type_hints(kind)
    fields = attrs.fields(kind) if attrs.has(kind) else dataclasses.fields(kind)
    return {field.name: hints.get(field.name, Any) for field in fields if field.init}


def _is_simple(declared: Any) -> bool:
    if isinstance(declared, type):
        return is_plain_scalar(declared) or declared in SCALARS or issubclass(declared, Enum)
    return get_origin(declared) is Literal


def _test(convert: Hook) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        try:
            convert(value)
        except XComTypeError:
            return False
        return True

    return fits
