"""Serializers by name: what turns a value into bytes, and what a stored row may name to turn them back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol, cast, runtime_checkable

from dagrelay.errors import XComSerializationError, XComTooLargeError
from dagrelay.ids import check_key

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("MAX_XCOM_BYTES", "BoundedSerializer", "Serializer", "SerializerRegistry", "encode")

MAX_XCOM_BYTES: Final = "Limits(max_xcom_bytes=...)"
"""How the limit of a value's size is raised, for errors."""


class Serializer(Protocol):
    """Turns values into bytes and back.

    Both methods are called on the event loop, before the first checkpoint of a push, so they must be quick. What they raise
    reaches the user as the cause of an `XComSerializationError`.
    """

    @property
    def name(self) -> str:
        """The name that stored rows carry; a legal key, and never changed once rows carry it."""
        ...

    def dumps(self, value: Any) -> bytes:
        """Return a value as bytes, complete: later changes of the value must not reach them."""
        ...

    def loads(self, data: bytes) -> Any:
        """Return a fresh value from bytes that `dumps` has written; they are untrusted data."""
        ...


@runtime_checkable
class BoundedSerializer(Protocol):
    """A serializer that can refuse a value over a limit before it has built all the bytes."""

    def dumps_within(self, value: Any, *, max_bytes: int, what: str, setting: str) -> bytes:
        """Return a value as at most `max_bytes` bytes.

        Raises:
            XComTooLargeError: they would be more; it names `what` and `setting`.
        """
        ...


class SerializerRegistry:
    """The serializers one runtime knows, by name; a stored name is looked up here and nowhere else.

    Args:
        default: the one used where none is named.
        further: others that options and stored rows may name.
    """

    def __init__(self, default: Serializer, further: Iterable[Serializer] = ()) -> None:
        """Take the default and any others.

        Raises:
            InvalidIdError: a name is no legal key.
            ValueError: two of them have one name.
        """
        self._default = default
        self._by_name: dict[str, Serializer] = {}
        for serializer in (default, *further):
            name = check_key(serializer.name)
            known = self._by_name.setdefault(name, serializer)
            if known is not serializer:
                raise ValueError(f"two serializers are named {name!r}: {known!r} and {serializer!r}; rename one of them")

    @property
    def default(self) -> Serializer:
        """The serializer used where none is named."""
        return self._default

    def get(self, name: str) -> Serializer:
        """Return a serializer by its name.

        Raises:
            XComSerializationError: none of that name is registered.
        """
        found = self._by_name.get(name)
        if found is None:
            known = ", ".join(map(repr, self._by_name))
            raise XComSerializationError(
                f"no serializer {name!r} is registered (there are {known}); register it by Runtime(serializers=[...])"
            )
        return found

    def decode(self, name: str, data: bytes) -> Any:
        """Return a fresh value from the bytes that the serializer of that name has written.

        Raises:
            XComSerializationError: there is no such serializer, or it raised (its exception is the cause).
        """
        serializer = self._by_name.get(name) or self.get(name)
        try:
            return serializer.loads(data)
        except XComSerializationError:
            raise
        except Exception as error:
            raise XComSerializationError(f"serializer {name!r} can't read {len(data)} stored bytes: {_told(error)}") from error


def encode(serializer: Serializer, value: Any, *, max_bytes: int, what: str, setting: str = MAX_XCOM_BYTES) -> bytes:
    """Return a value as bytes by a serializer; exactly `max_bytes` are accepted.

    Args:
        serializer: what writes them.
        value: what to write.
        max_bytes: bytes allowed.
        what: the value, for errors, as in "the value of 'rows'".
        setting: how the limit is raised, for errors.

    Raises:
        XComSerializationError: the serializer raised (its exception is the cause) or returned something but bytes.
        XComTooLargeError: they are more than `max_bytes`.
    """
    try:
        if isinstance(serializer, BoundedSerializer):
            data = serializer.dumps_within(value, max_bytes=max_bytes, what=what, setting=setting)
        else:
            data = serializer.dumps(value)
    except (XComSerializationError, XComTooLargeError):
        raise
    except Exception as error:
        raise XComSerializationError(f"serializer {serializer.name!r} can't write {what}: {_told(error)}") from error
    if type(cast("object", data)) is not bytes:
        raise XComSerializationError(f"serializer {serializer.name!r} returned {type(data).__name__} instead of bytes for {what}")
    if len(data) > max_bytes:
        raise XComTooLargeError(what, actual=len(data), limit=max_bytes, setting=setting)
    return data


def _told(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a failing __str__ must not hide the error being told
        return type(error).__name__
