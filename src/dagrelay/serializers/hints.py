"""What a type annotation says, without its wrappings."""

from __future__ import annotations

import sys
import types
from collections import abc
from contextvars import ContextVar
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    ForwardRef,
    NewType,
    NotRequired,
    Required,
    TypeAlias,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from dagrelay.model.missing import MISSING
from dagrelay.model.records import XComValue
from dagrelay.serializers.exactness import type_name

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = (
    "DICT_LIKE",
    "LIST_LIKE",
    "PLAIN_SCALARS",
    "SET_LIKE",
    "Hook",
    "alias_value",
    "describe",
    "hooks_of_parts",
    "is_any",
    "is_hashable",
    "is_named_tuple",
    "is_plain_scalar",
    "is_record",
    "is_typed_dict",
    "is_union",
    "typed_dict_fields",
    "unwrap",
)

Hook: TypeAlias = "Callable[[Any], Any]"
"""Turns one value into another."""

_OPENED: ContextVar[frozenset[tuple[Any, Any]]] = ContextVar("_OPENED", default=frozenset())

PLAIN_SCALARS: Final[frozenset[Any]] = frozenset({str, int, float, bool, types.NoneType})
"""Types that JSON has itself, but for its containers."""

LIST_LIKE: Final[frozenset[Any]] = frozenset({list, abc.Sequence, abc.MutableSequence, abc.Collection, abc.Iterable})
"""Annotations whose values come back as list."""

DICT_LIKE: Final[frozenset[Any]] = frozenset({dict, abc.Mapping, abc.MutableMapping})
"""Annotations whose values come back as dict."""

SET_LIKE: Final[frozenset[Any]] = frozenset({set, frozenset, abc.Set, abc.MutableSet})
"""Annotations whose values come back as set; as frozenset if they say so."""


def unwrap(declared: Any) -> Any:
    """Return an annotation without `Annotated`, `Final`, `NewType` and type variables around it.

    None becomes its type; an unbound type variable, and whatever stands for any JSON value, becomes Any.
    """
    while True:
        if get_origin(declared) in {Annotated, Final}:
            declared = get_args(declared)[0]
        elif isinstance(declared, NewType):
            declared = declared.__supertype__
        elif isinstance(declared, TypeVar):
            declared = Any
        elif isinstance(declared, ForwardRef):
            declared = declared.__forward_arg__
        else:
            break
    if declared is None:
        return types.NoneType
    return Any if declared is object or declared is MISSING or _is_json(declared) else declared


def _is_json(declared: Any) -> bool:
    return isinstance(declared, str) and declared in {XComValue, "XComValue"}


def is_hashable(declared: Any) -> bool:
    """Return whether an annotation can be a key; the metadata of `Annotated` may be anything."""
    try:
        hash(declared)
    except TypeError:
        return False
    return True


def is_plain_scalar(declared: Any) -> bool:
    """Return whether an unwrapped annotation is a type that JSON has itself, containers aside."""
    return isinstance(declared, type) and declared in PLAIN_SCALARS


def is_any(declared: Any) -> bool:
    """Return whether an unwrapped annotation takes every value as it is."""
    return declared is Any


def is_union(declared: Any) -> bool:
    """Return whether an unwrapped annotation is a union."""
    return get_origin(declared) in {Union, types.UnionType}


def is_typed_dict(declared: Any) -> bool:
    """Return whether an unwrapped annotation is a TypedDict."""
    return is_typeddict(get_origin(declared) or declared)


def _is_alias(declared: Any) -> bool:
    # `typing` has the type from 3.12 on; whoever uses that of typing_extensions has imported it.
    found = [getattr(sys.modules.get(name), "TypeAliasType", None) for name in ("typing", "typing_extensions")]
    return type(declared) in found


def alias_value(declared: Any) -> Any:
    """Return what a `type X = ...` alias stands for, and MISSING for all else."""
    origin = get_origin(declared)
    if _is_alias(origin):
        return origin.__value__[get_args(declared)]
    return declared.__value__ if _is_alias(declared) else MISSING


def typed_dict_fields(declared: Any) -> dict[str, tuple[Any, bool]]:
    """Return the keys of a TypedDict, each with its type and whether it is required."""
    kind = get_origin(declared) or declared
    arguments = dict(zip(getattr(kind, "__parameters__", ()), get_args(declared), strict=False))
    fields: dict[str, tuple[Any, bool]] = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        # The class itself does not see these words in annotations that are kept as text.
        said = get_origin(hint)
        is_required = said is Required or (said is not NotRequired and name in kind.__required_keys__)
        bare = get_args(hint)[0] if said in {Required, NotRequired} else hint
        fields[name] = _filled_in(bare, arguments), is_required
    return fields


def _filled_in(hint: Any, arguments: dict[Any, Any]) -> Any:
    if hint in arguments:
        return arguments[hint]
    parameters = getattr(hint, "__parameters__", ())
    return hint[tuple(arguments.get(parameter, parameter) for parameter in parameters)] if arguments and parameters else hint


def hooks_of_parts(owner: Any, hints: dict[str, Any], hook_of: Callable[[Any], Hook]) -> dict[str, Hook]:
    """Return the hooks for the parts of a type, of which one may be the type itself: its hook is looked up when called.

    Args:
        owner: what tells the type from others.
        hints: the annotation of each part.
        hook_of: what returns the hook for an annotation.
    """
    opened = _OPENED.get()
    if (hook_of, owner) in opened:
        return {name: _late(hook_of, hint) for name, hint in hints.items()}
    token = _OPENED.set(opened | {(hook_of, owner)})
    try:
        return {name: hook_of(hint) for name, hint in hints.items()}
    finally:
        _OPENED.reset(token)


def _late(hook_of: Callable[[Any], Hook], hint: Any) -> Hook:
    return lambda value: hook_of(hint)(value)  # noqa: PLW0108 - inlined, it would be looked up at once


def is_record(kind: Any) -> bool:
    """Return whether a class is itself an attrs class or dataclass; a subclass that was not decorated may hold more."""
    kind = get_origin(kind) or kind
    return isinstance(kind, type) and ("__attrs_attrs__" in vars(kind) or "__dataclass_fields__" in vars(kind))


def is_named_tuple(kind: Any) -> bool:
    """Return whether a class is a named tuple."""
    return isinstance(kind, type) and tuple in kind.__mro__ and hasattr(kind, "_fields")


def describe(declared: Any) -> str:
    """Return an annotation as its user would write it."""
    if isinstance(declared, type) and get_origin(declared) is None:
        return "None" if declared is types.NoneType else type_name(declared)
    return str(declared).replace("typing.", "")
