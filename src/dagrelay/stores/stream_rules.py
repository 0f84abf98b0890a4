"""What may be appended to a stream, as pure functions from row to row; every store carries them out on its own medium."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dagrelay.errors import XComConflictError
from dagrelay.stores.stream_records import StreamChunk

if TYPE_CHECKING:
    from dagrelay.stores.operations import AppendItems

__all__ = ("ChunkRow", "chunk_row", "is_new_generation", "stream_chunk")


class ChunkRow(NamedTuple):
    """A chunk but for its bytes."""

    key: str
    generation: int
    first_seq: int
    item_count: int
    attempt: int
    is_numbered: bool
    created_us: int
    size: int
    serializer: str

    @property
    def next_seq(self) -> int:
        """One above the last item's seq."""
        return self.first_seq + self.item_count


def is_new_generation(last: ChunkRow | None, op: AppendItems) -> bool:
    """Tell whether the items begin a generation, so that those of the one before go.

    Args:
        last: the last chunk of the stream's latest generation.
        op: what is to be appended.

    Raises:
        XComConflictError: its place is taken, or its generation is over.
    """
    if last is None or op.generation > last.generation:
        return last is not None
    if op.generation < last.generation or op.first_seq < last.next_seq:
        raise XComConflictError(op.instance.run_id, op.instance.task_id, op.key, seq=op.first_seq)
    return False


def chunk_row(op: AppendItems) -> ChunkRow:
    """Return the row of items on their way to the store."""
    return ChunkRow(
        key=op.key,
        generation=op.generation,
        first_seq=op.first_seq,
        item_count=op.count,
        attempt=op.attempt,
        is_numbered=op.is_numbered,
        created_us=op.created_us,
        size=len(op.items),
        serializer=op.serializer,
    )


def stream_chunk(row: ChunkRow, items: bytes) -> StreamChunk:
    """Return the chunk as `Store.stream` gives it."""
    return StreamChunk(first_seq=row.first_seq, count=row.item_count, serializer=row.serializer, items=items)
