"""What an attempt has read, as text and back."""

from __future__ import annotations

import json

import pytest

from dagrelay.model.records import AttemptReads, EntryRead, InstanceKey
from dagrelay.stores.operations import NewEntry
from dagrelay.xcom.cache import Resident
from dagrelay.xcom.finding import slot_of
from dagrelay.xcom.lineage import MAX_READS, Reads, lineage_text, mark_of, parse_lineage, read_text, stream_text

READER = InstanceKey("run", "reader", 2)
READS = [
    EntryRead(run_id="run", task_id="load", key="return_value", attempt=1),
    EntryRead(run_id="run", task_id="load", key='a "key" é', attempt=-1),
    EntryRead(run_id="run", task_id="each", key="return_value", attempt=None),
    EntryRead(run_id="run", task_id="each", map_index=7, key="return_value", attempt=3),
    EntryRead(run_id="other", task_id="load", key="return_value", attempt=0),
    EntryRead(run_id="other", task_id="each", map_index=1, key="k", attempt=2),
    EntryRead(run_id="run", task_id="load", key='a "key" é', attempt=-1, is_stream=True),
]


def texts() -> list[str]:
    """Return the reads as texts."""
    values = [each for each in READS if not each.is_stream]
    streams = [each for each in READS if each.is_stream]
    return [
        *(
            read_text(each.task_id, each.attempt, each.key, each.map_index, None if each.run_id == "run" else each.run_id)
            for each in values
        ),
        *(stream_text(each.task_id, each.attempt or 0, each.key) for each in streams),
    ]


@pytest.mark.parametrize("mark", [None, "run"])
def test_what_is_written_is_read(mark: str | None) -> None:
    """Of every kind, and JSON in between."""
    text = lineage_text(texts(), mark)
    assert text is not None
    assert len(json.loads(text)) == len(READS) + (mark is not None)
    assert mark_of(text) == mark
    assert parse_lineage(READER, 4, text) == AttemptReads(
        run_id="run", task_id="reader", map_index=2, attempt=4, reads=tuple(READS)
    )


def test_the_usual_read_is_short() -> None:
    """It goes with every outcome."""
    assert lineage_text([read_text("load", 1)], None) == '[["load",1]]'


def test_nothing_read_is_no_text_but_in_a_fork() -> None:
    """There it says whose the attempt is."""
    assert lineage_text([], None) is None
    assert Reads().text(None) is None
    assert lineage_text([], "fork") == Reads().text("fork") == '["fork"]'
    assert parse_lineage(READER, 1, '["fork"]').reads == ()
    assert mark_of(None) is None


def test_reads_are_told_once() -> None:
    """In the order in which they came first."""
    reads = Reads(texts()[:2])
    reads.note(texts())
    assert reads.text(None) == lineage_text(texts(), None)


def test_of_many_reads_the_rest_is_counted() -> None:
    """In parameters as in handlers; a fork's mark does not count."""
    many = [read_text(f"t{number}", 1) for number in range(MAX_READS + 3)]
    text = lineage_text(many, "run")
    assert text is not None
    told = parse_lineage(READER, 1, text)
    assert (len(told.reads), told.left_out, told.reads[-1].task_id) == (MAX_READS, 3, f"t{MAX_READS - 1}")
    whole = lineage_text(many[:MAX_READS], None)
    assert whole is not None
    assert parse_lineage(READER, 1, whole).left_out == 0


def test_a_value_without_a_slot_was_in_the_first_looked_into() -> None:
    """One that awaits its commit knows none."""
    pending = NewEntry(key="k", value=b"1", serializer="json", created_us=1, seq=1)
    assert slot_of(pending, (3, -1, 0)) == 3
    assert slot_of(Resident(b"1", "json", -1), (3, -1, 0)) == -1
    assert slot_of(Resident(b"1", "json", 2), None) == 2
    assert slot_of(pending, None) is None


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "no json",
        "[" * 100_000,
        "[1, 2]",
        "[-1]",
        "[true]",
        "[1.5]",
        '[["load"]]',
        "[[]]",
        '[["load", "1"]]',
        '[["load", 1, 2]]',
        '[["load", 1, "k", "x"]]',
        '[["load", 1, "k", null, 5]]',
        '[["load", 1, "k", null, "r", 6]]',
        '[["load", 1], "x"]',
        '["fork", "fork"]',
    ],
)
def test_what_was_never_written_is_refused(text: str) -> None:
    """As somebody may have edited a row."""
    with pytest.raises(ValueError, match=r".+"):
        parse_lineage(READER, 1, text)
