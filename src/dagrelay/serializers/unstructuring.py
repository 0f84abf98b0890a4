"""From typed values to plain ones, by the type of each value and, where it says more, by the annotation it came under.

An annotation is needed for what JSON can't say: the keys of a `dict[int, T]`. It is trusted no further than it fits: where a
value is of another type than declared and would come back as something else, a `Refused` takes its place.
"""

from __future__ import annotations

from contextvars import ContextVar
from enum import Enum
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final, cast, get_args, get_origin, get_type_hints

from dagrelay.errors import XComTooLargeError
from dagrelay.model.missing import MISSING
from dagrelay.serializers.exactness import Refused, type_of
from dagrelay.serializers.hints import (
    DICT_LIKE,
    LIST_LIKE,
    PLAIN_SCALARS,
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
from dagrelay.serializers.models import model_writer
from dagrelay.serializers.scalars import SCALARS

if TYPE_CHECKING:
    from collections.abc import Callable

    import cattrs

__all__ = ("Budget", "by_class", "identity", "unstructure_hook")

_PLAIN: Final = frozenset({*PLAIN_SCALARS, list, dict, tuple})
_CACHED: Final = 4096


class Budget:
    """How many bytes of JSON the conversions of this context may come to; a value may hold one part many times over."""

    current: ContextVar[Budget | None] = ContextVar("current", default=None)

    def __init__(self, limit: int, what: str, setting: str) -> None:
        """Take the limit, and what the error will say of it."""
        self._limit = limit
        self._what = what
        self._setting = setting
        self._spent = 0

    def spend(self, size: int) -> None:
        """Count a part, of at least `size` bytes.

        Raises:
            XComTooLargeError: all parts are more than the limit.
        """
        self._spent += size
        if self._spent > self._limit:
            raise XComTooLargeError(self._what, actual=self._spent, limit=self._limit, setting=self._setting)


def _spend(size: int) -> None:
    budget = Budget.current.get()
    if budget is not None:
        budget.spend(size)


def identity(value: Any) -> Any:
    """Return what was given; what is not plain will be refused by the check for exactness."""
    return value


def by_class(value: Any) -> Any:
    """Return a value as plain by its class alone."""
    return _class_hook(type_of(value))(value)


def unstructure_hook(declared: Any) -> Hook:
    """Return what makes values plain that came under an annotation."""
    return _cached_hook(declared) if is_hashable(declared) else _build(declared)


@lru_cache(maxsize=_CACHED)
def _cached_hook(declared: Any) -> Hook:
    return _build(declared)


def _build_for_class(kind: type[Any]) -> Hook:
    """Return the hook for values of exactly this class; only classes known here are ever looked into."""
    if kind is dict:
        return _any_dict
    if kind in {list, tuple, set, frozenset}:
        return _any_list
    if kind in SCALARS:
        return _scalar_hook(kind)
    if issubclass(kind, Enum):
        return _enum_hook(kind)
    if is_record(kind):
        return _record_hook(kind)
    if is_named_tuple(kind):
        return _named_tuple_hook(kind)
    writer = model_writer(kind)
    return identity if writer is None else _guarded(kind, writer)


_class_hook: Final = cast("Callable[[type[Any]], Hook]", lru_cache(maxsize=_CACHED)(_build_for_class))


def _build(declared: Any) -> Hook:
    declared = unwrap(declared)
    if is_plain_scalar(declared):
        return identity
    alias = alias_value(declared)
    if alias is not MISSING:
        return hooks_of_parts(get_origin(declared) or declared, {"": alias}, unstructure_hook)[""]
    if is_union(declared):
        return _union_hook(declared)
    if is_typed_dict(declared):
        return _typed_dict_hook(declared)
    if is_record(declared):
        return _record_hook(declared)
    return _container_hook(declared) or _declared_class_hook(declared)


def _declared_class_hook(declared: Any) -> Hook:
    if not isinstance(declared, type):
        return by_class
    hook = _class_hook(declared)
    return by_class if hook is identity else hook


def _container_hook(declared: Any) -> Hook | None:
    origin, args = get_origin(declared) or declared, get_args(declared)
    if origin in LIST_LIKE:
        return _list_hook(args[0] if args else Any)
    if origin in DICT_LIKE:
        return _dict_hook(*args) if args else by_class
    if origin in SET_LIKE:
        return _set_hook(args[0] if args else Any)
    if origin is tuple:
        return _tuple_hook(args)
    return None


def _mismatch(value: Any, declared: Any) -> Any:
    """Return a plain value as it is, and refuse one of a type that would come back as another."""
    if type_of(value) in _PLAIN:
        return by_class(value)
    return Refused(
        f"it is declared as {describe(declared)} and is a {describe(type_of(value))}, which would not come back as such"
    )


def _guarded(kind: type[Any], convert: Hook) -> Hook:
    def unstructure(value: Any) -> Any:
        return convert(value) if type_of(value) is kind else _mismatch(value, kind)

    return unstructure


# ------------------------------------------------------------------------------------------------------------ scalars


def _scalar_hook(kind: type[Any]) -> Hook:
    scalar = SCALARS[kind]

    def unstructure(value: Any) -> Any:
        if type_of(value) not in scalar.kinds:
            return _mismatch(value, kind)
        if type_of(value) is bytes:
            _spend(len(value) * 4 // 3)  # before they are written
        return scalar.write(value)

    return unstructure


def _enum_hook(kind: type[Enum]) -> Hook:
    return _guarded(kind, lambda member: by_class(member.value))


# --------------------------------------------------------------------------------------------------------- containers


def _any_dict(value: dict[Any, Any]) -> Any:
    _spend(5 * len(value))
    return {key: _class_hook(type_of(item))(item) for key, item in value.items()}


def _any_list(value: Any) -> Any:
    _spend(2 * len(value))
    return [_class_hook(type_of(item))(item) for item in value]


def _list_hook(item_type: Any) -> Hook:
    convert = unstructure_hook(item_type)

    def unstructure(value: Any) -> Any:
        kind = type_of(value)
        if kind is not list and kind is not tuple:
            return _mismatch(value, list)
        _spend(2 * len(value))
        return [convert(item) for item in value]

    return identity if convert is identity else unstructure


def _set_hook(item_type: Any) -> Hook:
    convert = unstructure_hook(item_type)

    def unstructure(value: Any) -> Any:
        kind = type_of(value)
        if kind is not set and kind is not frozenset:
            return _mismatch(value, set)
        _spend(2 * len(value))
        return [convert(item) for item in value]

    return unstructure


def _tuple_hook(args: tuple[Any, ...]) -> Hook:
    if not args or args[-1] is Ellipsis:
        return _list_hook(args[0] if args else Any)
    converts = [unstructure_hook(arg) for arg in args]

    def unstructure(value: Any) -> Any:
        kind = type_of(value)
        if kind is not tuple or len(value) != len(converts):
            return _mismatch(value, tuple)
        return [convert(item) for convert, item in zip(converts, value, strict=True)]

    return unstructure


def _named_tuple_hook(kind: Any) -> Hook:
    hints = get_type_hints(kind)
    parts = hooks_of_parts(kind, {field: hints.get(field, Any) for field in kind._fields}, unstructure_hook)
    converts = list(parts.values())

    def unstructure(value: Any) -> Any:
        _spend(2 * len(value))
        return [convert(item) for convert, item in zip(converts, value, strict=True)]

    return _guarded(kind, unstructure)


def _dict_hook(key_type: Any, item_type: Any) -> Hook:
    convert = unstructure_hook(item_type)
    key_type = unwrap(key_type)
    write = _key_writer(key_type)
    if convert is identity and write is None:
        return identity

    def unstructure(value: Any) -> Any:
        kind = type_of(value)
        if kind is not dict:
            return _mismatch(value, dict)
        _spend(5 * len(value))
        items = {key: convert(item) for key, item in value.items()}
        if write is None:
            return items
        written = {write(key): item for key, item in items.items()}
        if len(written) < len(items) or any(type_of(key) is not str for key in written):
            return Refused(f"it is declared as a dict with keys of {describe(key_type)}, and a key is none or is there twice")
        return written

    return unstructure


def _key_writer(key_type: Any) -> Hook | None:
    """Return what makes keys of a type str, or None if they stay as they are."""
    if key_type is int:
        return lambda key: str(key) if type_of(key) is int else None
    if isinstance(key_type, type) and (key_type in SCALARS or issubclass(key_type, Enum)):
        convert = unstructure_hook(key_type)
        # What is no such key stays what it is, unless it is a str: that would come back as one.
        return lambda key: None if type_of(key) is str else convert(key)
    return None


# --------------------------------------------------------------------------------------------------- records, unions


def _record_hook(declared: Any) -> Hook:
    from cattrs.gen import make_dict_unstructure_fn  # noqa: PLC0415 - imported late, as it takes long

    kind = get_origin(declared) or declared
    convert = make_dict_unstructure_fn(declared, _converter())

    def unstructure(value: Any) -> Any:
        _spend(2)
        return convert(value)

    return _guarded(kind, unstructure)


def _typed_dict_hook(declared: Any) -> Hook:
    hints = {name: hint for name, (hint, _) in typed_dict_fields(declared).items()}
    converts = hooks_of_parts(get_origin(declared) or declared, hints, unstructure_hook)

    def unstructure(value: dict[str, Any]) -> Any:
        _spend(5 * len(value))
        return {key: converts.get(key, by_class)(item) for key, item in value.items()}

    return _guarded(dict, unstructure)


@cache
def _converter() -> cattrs.Converter:
    """Return the converter from which cattrs takes the hooks for the fields of classes."""
    import cattrs  # noqa: PLC0415 - imported late, as it takes long

    class Converter(cattrs.Converter):
        """Asks the hooks of this module, for any type."""

        def get_unstructure_hook(self, type: Any, cache_result: bool = True) -> Hook:  # noqa: A002, ARG002, FBT001, FBT002 - cattrs' own
            return unstructure_hook(type)

        def unstructure(self, obj: Any, unstructure_as: Any = None) -> Any:
            return by_class(obj) if unstructure_as is None else unstructure_hook(unstructure_as)(obj)

    return Converter()


def _union_hook(declared: Any) -> Hook:
    members = [unwrap(member) for member in get_args(declared)]
    converts = [(member, unstructure_hook(member)) for member in members]
    if any(map(is_any, members)):
        return by_class
    is_open = any(convert is by_class for _, convert in converts)

    def unstructure(value: Any) -> Any:
        kind = type_of(value)
        if kind in PLAIN_SCALARS:
            return value
        fitting = [convert for member, convert in converts if _takes(member, kind)]
        if fitting:
            plain = fitting[0](value) if len(fitting) == 1 else by_class(value)
        else:
            plain = by_class(value) if is_open else _mismatch(value, declared)
        if type_of(plain) in PLAIN_SCALARS and type_of(plain) in members:
            return Refused(
                f"it is declared as {describe(declared)}, and a {describe(kind)} would come back as {describe(type_of(plain))}"
            )
        return plain

    return unstructure


def _takes(member: Any, kind: type[Any]) -> bool:
    """Return whether values of a class belong to a member of a union."""
    root = get_origin(member) or member
    if kind in {list, tuple}:
        return root is kind or root in LIST_LIKE
    if kind is dict:
        return root in DICT_LIKE or is_typed_dict(member)
    if kind in {set, frozenset}:
        return root in SET_LIKE
    return root is kind or (root in SCALARS and kind in SCALARS[root].kinds)
