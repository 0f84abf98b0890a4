"""What JSON can say exactly, and where in a value it can't.

A value is walked once before it is encoded, by a loop made to be fast. The path of a culprit is not carried along: only when
there is one, a second walk in the same order looks for it.
"""

from __future__ import annotations

import io
import json
import math
import re
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any, Final, cast

from dagrelay.errors import XComSerializationError, XComTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = (
    "MAX_INT_DIGITS",
    "Refused",
    "check_exact",
    "index_path",
    "is_plain",
    "is_same",
    "key_path",
    "refusal",
    "type_name",
    "type_of",
)

MAX_INT_DIGITS: Final = 4300
"""Digits an int may have: more would be refused when it is pulled, by the interpreter's default limit."""

_INT_END: Final = 10**MAX_INT_DIGITS
_DIGITS_PER_BIT: Final = math.log10(2)
_INT64: Final = 2**63
_SMALL: Final = 1e-4
_LARGE: Final = 1e16
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,249}\Z")
_LONGEST_STEP: Final = 80
_CONTAINERS: Final[frozenset[type[Any]]] = frozenset({dict, list, tuple})
_GENERATORS: Final[tuple[type[Any], ...]] = (GeneratorType, AsyncGeneratorType)
_BASES: Final[dict[str, type[Any]]] = {base.__name__: base for base in (dict, list, tuple, str, int, float)}
_LONG: Final = 32  # Items above which it is worth asking whether all are texts.
_ONLY_TEXT: Final[frozenset[type[Any]]] = frozenset({str})
_DEEPEST: Final = 1_000  # Deeper than what any limit of depth allows that recursion has to follow.
_WIDE: Final = 20_000  # Containers of one layer above which it is worth asking whether they are the same ones over and over.


type_of: Final = cast("Callable[[object], type[Any]]", type)
"""`type`, by a signature that keeps checkers from calling the result unknown."""


class Refused:
    """Stands in a converted value for a part that can't be stored, with the reason; no codec accepts it."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        """Take the reason, to which the path will be added."""
        self.reason: str = reason


def check_exact(value: object, *, max_depth: int, max_bytes: float, what: str, setting: str) -> bool:
    """Return whether all codecs write the numbers of a plain value alike.

    Plain are None, bool, int, float, str, and list, tuple and dict (with str keys) of plain values, all of exactly these
    types. The walk keeps a lower bound of the encoded size and stops where that is over the limit, so that a value which
    is small in memory and huge as JSON (a list that holds one list many times, at each of many levels) is refused in time.

    Args:
        value: what to check.
        max_depth: containers inside each other allowed.
        max_bytes: bytes allowed; may be infinite.
        what: the value, for the error.
        setting: how the limit is raised, for the error.

    Raises:
        XComSerializationError: a part is not plain; with its path.
        XComTooLargeError: its JSON would be longer than `max_bytes`.
    """
    try:
        return _walk(value, max_depth, max_bytes)
    except _NotPlain:
        raise refusal(value, max_depth) from None
    except _TooLarge as error:
        raise XComTooLargeError(what, actual=error.size, limit=int(max_bytes), setting=setting) from None


def is_plain(value: object) -> bool:
    """Return whether a value is plain, as `check_exact` has it, at any depth that an interpreter can follow."""
    try:
        _walk(value, _DEEPEST, math.inf)
    except _NotPlain:
        return False
    return True


class _NotPlain(Exception):  # noqa: N818 - it ends the walk and is seen by nobody
    """A part of the value is not plain."""


class _TooLarge(Exception):  # noqa: N818 - it ends the walk and is seen by nobody
    """The JSON would be too long."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _walk(value: object, max_depth: int, max_bytes: float) -> bool:  # noqa: C901, PLR0912 - a call per item would double its cost
    """Return what `check_exact` does."""
    size = -2  # what the tuple around the value is counted for
    depth = 0
    is_alike = True
    is_weighed = False
    layer: list[Any] = [(value,)]  # Layer by layer: the depth is then one number for all.
    while layer:
        below: list[Any] = []
        for holder in layer:
            items = holder
            kind = type_of(holder)
            if kind is dict:
                for key in holder:
                    if type(key) is not str:
                        raise _NotPlain
                    size += len(key) + 3  # two quotes and a colon
                items = holder.values()
            size += 2 * len(holder)  # at least one byte of value, and a comma or bracket
            if len(holder) > _LONG and type(next(iter(items))) is str and frozenset(map(type_of, items)) == _ONLY_TEXT:
                size += sum(map(len, items))  # What the loop below does, in a fifth of the time.
                items = ()
            for item in items:
                kind = type_of(item)
                if kind is str:
                    size += len(item)
                elif kind is int:
                    if not -_INT64 <= item < _INT64:
                        is_alike = False
                        size += _digits(item)
                elif kind is dict or kind is list or kind is tuple:
                    below.append(item)
                elif kind is float:
                    # Beyond these ranges codecs differ in how they write exponents; NaN is in none of them.
                    if not _SMALL <= item < _LARGE and not -_LARGE < item <= -_SMALL and item != 0:
                        if not math.isfinite(item):
                            raise _NotPlain
                        is_alike = False
                elif item is not None and kind is not bool:
                    raise _NotPlain
            if size > max_bytes:
                raise _TooLarge(size)
        depth += 1
        if below and depth > max_depth:
            raise _NotPlain
        if len(below) > _WIDE:
            if not is_weighed:
                is_weighed = True
                weight = _weight(value)
                if weight > max_bytes:
                    raise _TooLarge(weight)
            below = list({id(item): item for item in below}.values())
        layer = below
    return is_alike


def _digits(number: int) -> int:
    """Return a lower bound of the digits beyond the first that a number has, without writing it."""
    if not -_INT_END < number < _INT_END:
        raise _NotPlain
    return int(number.bit_length() * _DIGITS_PER_BIT) - 2


def _weight(value: Any) -> int:
    """Return a lower bound of the size of JSON of a container in time linear in the distinct containers it holds."""
    sizes: dict[int, int] = {}
    opened: set[int] = set()
    pending = [value]
    while pending:
        holder = pending[-1]
        items = _contents(holder)
        inner = {id(item): item for item in items if type(item) in _CONTAINERS}
        unknown = [item for key, item in inner.items() if key not in sizes]
        if unknown:
            opened.add(id(holder))
            if any(id(item) in opened for item in unknown):
                raise _NotPlain  # One that is opened and has no size yet holds itself.
            pending.extend(unknown)
            continue
        pending.pop()
        sizes[id(holder)] = 2 * len(holder) + sum(
            sizes[id(item)] if type(item) in _CONTAINERS else len(item) if type(item) is str else 0 for item in items
        )
    return sizes[id(value)]


def _contents(container: Any) -> Iterable[Any]:
    kind = type_of(container)
    items: Iterable[Any] = container.values() if kind is dict else container
    return items


def refusal(
    value: object, max_depth: int, otherwise: str = "the value is nested too deep, or was changed meanwhile"
) -> XComSerializationError:
    """Return the error that names the first culprit in a value, and close the coroutines the value holds.

    Args:
        value: what was refused.
        max_depth: containers inside each other allowed.
        otherwise: the reason to give when no culprit is found, as when another thread has changed the value since.
    """
    reason, path = _find_culprit(value, max_depth) or (otherwise, "$")
    _close_coroutines(value)
    return XComSerializationError(reason, path=path)


def key_path(key: str) -> str:
    """Return the step into a key, as in `.score` or `["odd key"]`."""
    if _NAME.match(key):
        return f".{key}"
    shown = key if len(key) <= _LONGEST_STEP else f"{key[:_LONGEST_STEP]}..."
    return f"[{json.dumps(shown)}]"


def index_path(index: int) -> str:
    """Return the step into an element, as in `[3]`."""
    return f"[{index}]"


def is_same(one: object, other: object) -> bool:
    """Return whether two plain values are the same, in types too: 1 is neither 1.0 nor True."""
    return _sorted_json(one) == _sorted_json(other)


def _sorted_json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def type_name(kind: type[Any]) -> str:
    """Return how to name a type to its user: builtins bare, all others with their module."""
    module = kind.__module__.partition("._")[0]  # Where it is defined in there is nobody's business.
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _find_culprit(value: object, max_depth: int) -> tuple[str, str] | None:
    """Return the reason and the path of the first part that is not plain, in the order it would be written."""
    levels: list[Iterator[tuple[str, Any]]] = [iter([("$", value)])]
    trail: list[str] = [""]  # Invariant: trail[i] is the step last taken at levels[i].
    holders: dict[int, None] = {}  # Invariant: in order, the containers that levels[1:] walk.
    clean: set[int] = set()
    while levels:
        for step, item in levels[-1]:
            trail[-1] = step
            reason = _fault(item)
            if reason is None and type(item) in _CONTAINERS and id(item) not in clean:
                if id(item) in holders:
                    reason = f"a {type(item).__name__} contains itself"
                elif len(levels) > max_depth:
                    reason = f"nested deeper than {max_depth} levels; raise Limits(max_depth=...)"
                else:
                    holders[id(item)] = None
                    levels.append(_steps(item))
                    trail.append("")
                    break
            if reason is not None:
                return reason, "".join(trail)
        else:
            levels.pop()
            trail.pop()
            if holders:
                clean.add(holders.popitem()[0])
    return None


def _steps(container: Any) -> Iterator[tuple[str, Any]]:
    kind = type_of(container)
    if kind is dict:
        return ((key_path(key), item) for key, item in container.items())
    return ((index_path(index), item) for index, item in enumerate(container))


def _fault(item: Any) -> str | None:
    """Return why an item, looked at without its contents, is not plain."""
    kind = type_of(item)
    if kind is str:
        return None if _is_encodable(item) else "a str holds a lone surrogate, which UTF-8 can't say"
    if kind is float:
        return None if math.isfinite(item) else f"{item!r} is no number JSON knows"
    if kind is int:
        return None if -_INT_END < item < _INT_END else f"an int has more than {MAX_INT_DIGITS} digits"
    if kind is dict:
        return next(filter(None, map(_key_fault, item)), None)
    if item is None or kind is bool or kind in _CONTAINERS:
        return None
    return item.reason if isinstance(item, Refused) else _stranger(kind)


def _key_fault(key: object) -> str | None:
    if type(key) is not str:
        return (
            f"a key is of type {type_name(type(key))}, and JSON keys are str; keys of other types need a return annotation "
            "that says so, as in dict[int, str]"
        )
    return None if _is_encodable(key) else "a key holds a lone surrogate, which UTF-8 can't say"


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stranger(kind: type[Any]) -> str:
    """Return why JSON can't say an item of a type that is none of its own; nothing of the item itself is called."""
    if issubclass(kind, CoroutineType):
        return "a coroutine can't be stored: is an `await` missing?"
    if issubclass(kind, _GENERATORS):
        return f"a {kind.__name__} can't be stored: make a list of what it yields"
    if issubclass(kind, FunctionType):
        return "a function can't be stored"
    if issubclass(kind, io.IOBase):
        return f"an open file ({type_name(kind)}) can't be stored: push its path or its contents"
    base = next((name for name, base in _BASES.items() if issubclass(kind, base)), None)
    if base is not None:
        return f"{type_name(kind)} is a subclass of {base} and would come back as a plain {base}: convert it first"
    return f"{type_name(kind)} is no type that can be stored"


def _close_coroutines(value: object) -> None:
    """Close the coroutines in a value that was refused, which nobody can await any more."""
    pending = [value]
    seen: set[int] = set()
    while pending:
        item: Any = pending.pop()
        if isinstance(item, CoroutineType):
            item.close()
        elif type(item) in _CONTAINERS and id(item) not in seen:
            seen.add(id(item))
            pending.extend(_contents(item))
