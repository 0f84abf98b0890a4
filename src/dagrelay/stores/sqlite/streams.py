"""Streams in the database: many items in one row, and one row for what each consumer has acknowledged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, assert_never
from zlib import crc32

from dagrelay.stores import rules
from dagrelay.stores.operations import TASK_LIFETIME, AckItems, AppendItems
from dagrelay.stores.sqlite import rows
from dagrelay.stores.stream_records import StreamHead, StreamPage, StreamPosition
from dagrelay.stores.stream_rules import ChunkRow, chunk_row, is_new_generation, stream_chunk

if TYPE_CHECKING:
    import sqlite3

    from dagrelay.stores.sqlite.changes import Changes
    from dagrelay.stores.sqlite.rows import Place
    from dagrelay.stores.stream_records import StreamChunk, StreamQuery

__all__ = (
    "carry_out_on_stream",
    "copy_streams",
    "decode_chunk",
    "decode_position",
    "encode_chunk",
    "encode_position",
    "read_stream",
    "stream_bytes",
)

_STREAM: Final = "run_pk = ? AND task_pk = ? AND map_index = ? AND key = ?"
# The items come last, and are left out where they are not asked for.
_CHUNK_COLUMNS: Final = """run_pk, task_pk, map_index, key, generation, first_seq, count, attempt, is_numbered, created_us, size,
    serializer, items_crc, crc"""
_LAST_CHUNK: Final = f"""SELECT {_CHUNK_COLUMNS} FROM stream_chunk WHERE {_STREAM}
    ORDER BY generation DESC, first_seq DESC LIMIT 1"""  # noqa: S608 - constants only
_TOTALS: Final = f"SELECT sum(count), sum(size) FROM stream_chunk WHERE {_STREAM} AND generation = ?"  # noqa: S608 - as above
_FIRST_SEQ: Final = f"SELECT max(first_seq) FROM stream_chunk WHERE {_STREAM} AND generation = ? AND first_seq <= ?"  # noqa: S608 - as above
_CHUNKS: Final = f"""SELECT {_CHUNK_COLUMNS}, items FROM stream_chunk
    WHERE {_STREAM} AND generation = ? AND first_seq >= ? ORDER BY first_seq"""  # noqa: S608 - as above
_PUT_CHUNK: Final = "INSERT INTO stream_chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CHUNK_NAMES: Final = "SELECT key, generation, first_seq FROM stream_chunk WHERE run_pk = ? AND task_pk = ? AND map_index = ?"
_CHUNK: Final = f"SELECT {_CHUNK_COLUMNS}, items FROM stream_chunk WHERE {_STREAM} AND generation = ? AND first_seq = ?"  # noqa: S608 - as above
_DROP_CHUNKS: Final = f"DELETE FROM stream_chunk WHERE {_STREAM}"  # noqa: S608 - as above
_PUT_POSITION: Final = """INSERT INTO stream_position VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_pk, task_pk, map_index, producer_pk, producer_index, key) DO UPDATE SET
    generation = excluded.generation, next_seq = excluded.next_seq, attempt = excluded.attempt, crc = excluded.crc"""
_POSITION: Final = """SELECT * FROM stream_position WHERE run_pk = ? AND task_pk = ? AND map_index = ?
    AND producer_pk = ? AND producer_index = ? AND key = ?"""


# ------------------------------------------------------------------------------------------------------------- rows


def encode_chunk(place: Place, row: ChunkRow, items_crc: int) -> tuple[Any, ...]:
    """Return the row as SQLite takes it, but for the items."""
    key, generation, first_seq, count, attempt, is_numbered, created_us, size, serializer = row
    numbers = (generation, first_seq, count, attempt, int(is_numbered), created_us, size)
    fields = (*place, key, *numbers, serializer, items_crc)
    return (*fields, rows.checksum(fields))


@rows.understood
def decode_chunk(path: str, found: tuple[Any, ...]) -> tuple[Place, ChunkRow, int]:
    """Return where a chunk stands, its row, and the checksum of its items.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    fields = found[:14]
    rows.verify(path, "stream_chunk", fields[:13], fields[13])
    run_pk, task_pk, map_index, key, generation, first_seq, count, attempt, is_numbered, created_us, size, serializer, crc, _ = (
        fields
    )
    row = ChunkRow(key, generation, first_seq, count, attempt, bool(is_numbered), created_us, size, serializer)
    return (run_pk, task_pk, map_index), row, crc


def encode_position(place: Place, producer: Place, key: str, position: StreamPosition, attempt: int) -> tuple[Any, ...]:
    """Return the row as SQLite takes it."""
    fields = (*place, producer[1], producer[2], key, position.generation, position.next_seq, attempt)
    return (*fields, rows.checksum(fields))


@rows.understood
def decode_position(path: str, found: tuple[Any, ...]) -> StreamPosition:
    """Return the position in the row SQLite gave.

    Raises:
        StoreCorruptError: it is not what was written.
    """
    rows.verify(path, "stream_position", found[:-1], found[-1])
    return StreamPosition(generation=found[6], next_seq=found[7])


# ---------------------------------------------------------------------------------------------------------- writing


def carry_out_on_stream(changes: Changes, op: AppendItems | AckItems) -> None:
    """Carry out an operation on a stream.

    Raises:
        DagrelayError: it is refused, and nothing was changed.
    """
    place = changes.place(op.instance)
    rules.check_writer(op.instance, changes.instance(place), op.attempt)
    match op:
        case AppendItems():
            _append(changes, op, place)
        case AckItems():
            position = StreamPosition(generation=op.generation, next_seq=op.next_seq)
            row = encode_position(place, changes.place(op.producer), op.key, position, op.attempt)
            changes.cursor.execute(_PUT_POSITION, row)
            if op.entries:
                changes.put_entries(op, place, TASK_LIFETIME)
        case _ as never:
            assert_never(never)


def _append(changes: Changes, op: AppendItems, place: Place) -> None:
    if is_new_generation(_last_chunk(changes.cursor, changes.path, place, op.key), op):
        changes.cursor.execute(_DROP_CHUNKS, (*place, op.key))
    row = encode_chunk(place, chunk_row(op), crc32(op.items))
    changes.cursor.execute(_PUT_CHUNK, (*row, op.items))


def copy_streams(changes: Changes, source_pk: int, target: Place) -> None:
    """Copy the streams of an instance of one run to the same instance of another one, a chunk at a time."""
    _, task_pk, map_index = target
    names = changes.cursor.execute(_CHUNK_NAMES, (source_pk, task_pk, map_index)).fetchall()
    for name in names:
        found = changes.cursor.execute(_CHUNK, (source_pk, task_pk, map_index, *name)).fetchone()
        _, row, items_crc = decode_chunk(changes.path, found)
        changes.cursor.execute(_PUT_CHUNK, (*encode_chunk(target, row, items_crc), found[14]))


def _last_chunk(cursor: sqlite3.Cursor, path: str, place: Place, key: str) -> ChunkRow | None:
    found = cursor.execute(_LAST_CHUNK, (*place, key)).fetchone()
    return None if found is None else decode_chunk(path, found)[1]


# ---------------------------------------------------------------------------------------------------------- reading


def stream_bytes(cursor: sqlite3.Cursor, run_pk: int) -> int:
    """Return the bytes of all items of a run."""
    size: int | None = cursor.execute("SELECT sum(size) FROM stream_chunk WHERE run_pk = ?", (run_pk,)).fetchone()[0]
    return size or 0


def read_stream(cursor: sqlite3.Cursor, path: str, producer: Place, consumer: Place | None, query: StreamQuery) -> StreamPage:
    """Answer Store.stream."""
    position = None
    if consumer is not None:
        found = cursor.execute(_POSITION, (*consumer, producer[1], producer[2], query.key)).fetchone()
        position = None if found is None else decode_position(path, found)
    last = _last_chunk(cursor, path, producer, query.key)
    if last is None:
        return StreamPage(head=None, position=position, chunks=())
    count, size = cursor.execute(_TOTALS, (*producer, query.key, last.generation)).fetchone()
    head = StreamHead(
        generation=last.generation,
        next_seq=last.next_seq,
        is_numbered=last.is_numbered,
        attempt=last.attempt,
        count=count,
        size=size,
    )
    chunks = _read_chunks(cursor, path, producer, query) if query.generation == last.generation else ()
    return StreamPage(head=head, position=position, chunks=tuple(chunks))


def _read_chunks(cursor: sqlite3.Cursor, path: str, place: Place, query: StreamQuery) -> list[StreamChunk]:
    where = (*place, query.key, query.generation)
    (first_seq,) = cursor.execute(_FIRST_SEQ, (*where, query.from_seq)).fetchone()
    chunks: list[StreamChunk] = []
    size = 0
    for found in cursor.execute(_CHUNKS, (*where, first_seq or 0)):
        _, row, items_crc = decode_chunk(path, found)
        if row.next_seq <= query.from_seq:
            continue
        size += row.size
        if chunks and size > query.max_bytes:
            break
        items = found[14]
        if crc32(items) != items_crc or len(items) != row.size:
            raise rows.damaged(path, "stream_chunk")
        chunks.append(stream_chunk(row, items))
    return chunks
