"""Where values come in and go out: encoded once, before the first checkpoint, and decoded anew for every puller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs

from dagrelay.errors import XComSerializationError, XComTooLargeError
from dagrelay.ids import check_key
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import XComOptions
from dagrelay.model.records import XComEntry, from_us
from dagrelay.serializers.base import encode
from dagrelay.serializers.converter import structure, unstructure
from dagrelay.serializers.json import JsonSerializer, encode_json
from dagrelay.stores.operations import RETURN_VALUE, NewEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dagrelay.model.policies import Limits
    from dagrelay.model.records import InstanceKey
    from dagrelay.serializers.base import Serializer, SerializerRegistry
    from dagrelay.xcom.book import RunBook

__all__ = ("DEFAULT_OPTIONS", "Door", "entry_record", "placed")

DEFAULT_OPTIONS = XComOptions()


class Door:
    """Turns values into entries and back, by one runtime's serializers, limits and clock.

    Args:
        registry: the serializers a row may name.
        limits: the sizes allowed.
        now_us: the wall clock, in microseconds since 1970.
    """

    def __init__(self, registry: SerializerRegistry, limits: Limits, now_us: Callable[[], int]) -> None:
        """Take what one runtime has."""
        self.registry = registry
        self.limits = limits
        self.now_us = now_us

    def draft(
        self,
        key: str,
        value: Any,
        *,
        options: XComOptions = DEFAULT_OPTIONS,
        serializer: str | None = None,
        declared: Any = MISSING,
        published: bool = False,
        seq: int = 0,
    ) -> NewEntry:
        """Return a value as an entry, by default without a place in the timeline yet (see `placed`).

        It is a snapshot: later changes of the value don't reach it.

        Args:
            key: its key.
            value: what to store.
            options: how.
            serializer: the name to use where the options have none; None is the runtime's own.
            declared: the annotation the value was produced under, for keys that JSON can't say.
            published: whether others see it at once.
            seq: its place in the timeline, where it is known.

        Raises:
            InvalidIdError: the key is not legal.
            XComSerializationError: it can't be stored exactly.
            XComTooLargeError: it, or its description, is too long.
        """
        key = check_key(key)
        name = options.serializer or serializer
        chosen = self.registry.default if name is None else self.registry.get(name)
        limit = self.limits.max_xcom_bytes if options.max_bytes is None else options.max_bytes
        if len(options.description) > self.limits.max_description_chars:
            raise XComTooLargeError(
                f"the description of {key!r}",
                actual=len(options.description),
                limit=self.limits.max_description_chars,
                setting="Limits(max_description_chars=...)",
            )
        return NewEntry(
            key=key,
            value=self._encode(chosen, value, declared, limit, f"the value of {key!r}"),
            serializer=chosen.name,
            description=options.description,
            sensitive=options.sensitive,
            published=published,
            created_us=self.now_us(),
            seq=seq,
        )

    def returned(
        self, book: RunBook, value: Any, *, multiple_outputs: bool, serializer: str | None, declared: Any
    ) -> tuple[NewEntry, ...]:
        """Return what a handler returned as entries: the whole, and with `multiple_outputs` each item of a mapping.

        Raises:
            XComSerializationError: `multiple_outputs` and no mapping with str keys.
            XComTooLargeError: one of them is too long.
            InvalidIdError: a key of the mapping is no legal key.
        """
        # What `draft` does where there are no options, in one step: every task comes by here.
        chosen = self.registry.default if serializer is None else self.registry.get(serializer)
        whole = NewEntry(
            key=RETURN_VALUE,
            value=self._encode(chosen, value, declared, self.limits.max_xcom_bytes, "the value of 'return_value'"),
            serializer=chosen.name,
            created_us=self.now_us(),
            seq=book.next_seq(),
        )
        if not multiple_outputs:
            return (whole,)
        items: Any = unstructure(value, declared, max_bytes=self.limits.max_xcom_bytes, what="the returned value")
        if not isinstance(items, dict):
            raise XComSerializationError(f"multiple_outputs needs a mapping with str keys, not {type(value).__name__}")
        known = cast("Mapping[Any, Any]", items)
        if RETURN_VALUE in known:
            raise XComSerializationError(f"multiple_outputs can't have an item named {RETURN_VALUE!r}", path=f"$.{RETURN_VALUE}")
        parts = (self.draft(key, item, serializer=serializer, seq=book.next_seq()) for key, item in known.items())
        return (whole, *parts)

    def item(self, what: str, value: Any, serializer: Serializer) -> bytes:
        """Return the encoded item of a stream; what `draft` does where there are no options and no entry.

        Raises:
            XComSerializationError: it can't be stored exactly.
            XComTooLargeError: it is too long.
        """
        return self._encode(serializer, value, MISSING, self.limits.max_xcom_bytes, what)

    def _encode(self, serializer: Serializer, value: Any, declared: Any, limit: int, what: str) -> bytes:
        if type(serializer) is not JsonSerializer:
            return encode(serializer, value, max_bytes=limit, what=what)
        try:
            return encode_json(value, max_bytes=limit, max_depth=serializer.max_depth, what=what)
        except XComSerializationError:
            # Not plain: the converter may know it. Plain values, the most, never pay for asking.
            plain = unstructure(value, declared, max_bytes=limit, what=what)
            if plain is value:
                raise
        return encode_json(plain, max_bytes=limit, max_depth=serializer.max_depth, what=what)

    def decode(self, serializer: str, data: bytes, as_type: Any = MISSING) -> Any:
        """Return a fresh value from its bytes, structured into `as_type` unless that is MISSING.

        Raises:
            XComSerializationError: no such serializer is registered, or it can't read the bytes.
            XComTypeError: the value is not of the type.
        """
        value = self.registry.decode(serializer, data)
        return value if as_type is MISSING else structure(value, as_type)

    def params(self, values: Mapping[str, Any]) -> bytes:
        """Return a run's params as JSON bytes, canonical in the order of their names.

        Raises:
            XComSerializationError: one can't be stored exactly.
            XComTooLargeError: they are too long.
        """
        plain = {name: values[name] for name in sorted(values)}
        standard = JsonSerializer(max_depth=self.limits.max_depth)
        return self._encode(standard, plain, MISSING, self.limits.max_xcom_bytes, "the params")


def placed(book: RunBook, drafts: Sequence[NewEntry]) -> tuple[NewEntry, ...]:
    """Return drafts with their places in the run's timeline."""
    first = book.next_seq(len(drafts))
    return tuple(attrs.evolve(draft, seq=seq) for seq, draft in enumerate(drafts, start=first))


def entry_record(instance: InstanceKey, entry: NewEntry, *, attempt: int, lifetime: str, dag_id: str | None) -> XComEntry:
    """Return the record of an entry just written."""
    return XComEntry(
        run_id=instance.run_id,
        dag_id=dag_id,
        task_id=instance.task_id,
        map_index=instance.map_index,
        key=entry.key,
        size_bytes=len(entry.value),
        timestamp=from_us(entry.created_us),
        attempt=attempt,
        lifetime=lifetime,
        serializer=entry.serializer,
        description=entry.description,
        sensitive=entry.sensitive,
    )
