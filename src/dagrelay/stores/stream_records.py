"""What a store tells of streams, and how many items become the bytes of one row.

A stream is named by the task instance that appends to it and a key. Its items stand in *chunks* of items that follow one another:
`seq` numbers items within a *generation*, and a new generation takes the place of the one before.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.model.records import InstanceKey

__all__ = ("StreamChunk", "StreamHead", "StreamPage", "StreamPosition", "StreamQuery", "pack_items", "unpack_items")


@attrs.frozen(kw_only=True)
class StreamQuery:
    """What to read of one stream, as it is at one moment."""

    producer: InstanceKey
    """Who appends to it."""
    key: str
    """Its key."""
    consumer: InstanceKey | None = None
    """Whose position is wanted; None for nobody's."""
    generation: int | None = None
    """Of which generation items are wanted; None for no items."""
    from_seq: int = 0
    """Items from here on; the first chunk may begin before."""
    max_bytes: int = 1_048_576
    """Leave out what goes beyond it, but for the first chunk."""


@attrs.frozen(kw_only=True)
class StreamHead:
    """How far a stream has come."""

    generation: int
    """Its generation, from 1."""
    next_seq: int
    """One above the last item's seq."""
    is_numbered: bool
    """Whether the producer gives the numbers, so that its next attempt goes on where this generation ends."""
    attempt: int
    """The attempt that appended the last item."""
    count: int
    """Items of the generation."""
    size: int
    """Bytes of these."""


@attrs.frozen(kw_only=True)
class StreamPosition:
    """What a consumer has acknowledged."""

    generation: int
    """Of which generation."""
    next_seq: int
    """All items below."""


@attrs.frozen(kw_only=True)
class StreamChunk:
    """Items that follow one another, verified against their checksum."""

    first_seq: int
    """The seq of the first; the others follow without a gap."""
    count: int
    """How many there are."""
    serializer: str
    """Name of the serializer that wrote them."""
    items: bytes
    """As `pack_items` makes them."""


@attrs.frozen(kw_only=True)
class StreamPage:
    """The answer to a StreamQuery."""

    head: StreamHead | None
    """How far the stream has come; None while nothing was ever appended."""
    position: StreamPosition | None
    """The consumer's position, if it has one."""
    chunks: tuple[StreamChunk, ...]
    """The items asked for, in order; none if there are none, or the generation is over."""


def pack_items(items: Sequence[bytes]) -> bytes:
    """Return encoded items as the bytes of one chunk: their lengths, each in four bytes, and then they themselves."""
    return b"".join((struct.pack(f"<{len(items)}I", *map(len, items)), *items))


def unpack_items(count: int, packed: bytes) -> list[bytes]:
    """Return the items of a chunk.

    Raises:
        ValueError: the bytes are not those of so many items.
    """
    start = 4 * count
    if len(packed) < start:
        raise ValueError("a chunk is too short for its items")
    items: list[bytes] = []
    for length in struct.unpack_from(f"<{count}I", packed):
        end = start + length
        items.append(packed[start:end])
        start = end
    if start != len(packed):
        raise ValueError("a chunk is not as long as its items")
    return items
