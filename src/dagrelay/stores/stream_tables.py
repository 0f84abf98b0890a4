"""The streams of one run in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from dagrelay.stores.stream_records import StreamHead, StreamPage, StreamPosition
from dagrelay.stores.stream_rules import chunk_row, is_new_generation, stream_chunk

if TYPE_CHECKING:
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.operations import AckItems, AppendItems
    from dagrelay.stores.stream_records import StreamChunk, StreamQuery
    from dagrelay.stores.stream_rules import ChunkRow

__all__ = ("StreamTables",)

_Stream: TypeAlias = "tuple[InstanceKey, str]"


class StreamTables:
    """Chunks and positions."""

    def __init__(self) -> None:
        """Start empty."""
        # Invariant: the chunks of one stream are of one generation, in order. (conformance: streams)
        self._chunks: dict[_Stream, list[tuple[ChunkRow, bytes]]] = {}
        self._positions: dict[tuple[InstanceKey, _Stream], StreamPosition] = {}

    @property
    def stored_bytes(self) -> int:
        """Bytes of all items."""
        return sum(row.size for chunks in self._chunks.values() for row, _ in chunks)

    def append(self, op: AppendItems) -> None:
        """Add items.

        Raises:
            XComConflictError: their place is taken.
        """
        chunks = self._chunks.setdefault((op.instance, op.key), [])
        if is_new_generation(chunks[-1][0] if chunks else None, op):
            chunks.clear()
        chunks.append((chunk_row(op), op.items))

    def acknowledge(self, op: AckItems) -> None:
        """Move a consumer's position."""
        position = StreamPosition(generation=op.generation, next_seq=op.next_seq)
        self._positions[op.instance, (op.producer, op.key)] = position

    def adopt(self, streams: StreamTables, source: InstanceKey, target: InstanceKey) -> None:
        """Take over the streams of an instance of another run."""
        for (instance, key), chunks in streams._chunks.items():
            if instance == source:
                self._chunks[target, key] = list(chunks)

    def page(self, query: StreamQuery) -> StreamPage:
        """Answer Store.stream."""
        stream = (query.producer, query.key)
        chunks = self._chunks.get(stream, [])
        position = None if query.consumer is None else self._positions.get((query.consumer, stream))
        if not chunks:
            return StreamPage(head=None, position=position, chunks=())
        last = chunks[-1][0]
        head = StreamHead(
            generation=last.generation,
            next_seq=last.next_seq,
            is_numbered=last.is_numbered,
            attempt=last.attempt,
            count=sum(row.item_count for row, _ in chunks),
            size=sum(row.size for row, _ in chunks),
        )
        wanted: list[StreamChunk] = []
        size = 0
        if query.generation == last.generation:
            for row, items in chunks:
                if row.next_seq <= query.from_seq:
                    continue
                size += row.size
                if wanted and size > query.max_bytes:
                    break
                wanted.append(stream_chunk(row, items))
        return StreamPage(head=head, position=position, chunks=tuple(wanted))
