"""What an attempt has read, as compact JSON that is stored with its outcome, and back.

::

    lineage = [read, ...]                              each once, in order; after MAX_READS of them one number more: how many
                                                       were left out; before them, in a fork, the fork's own run id
    read    = [task, attempt, key, map_index, run]     what stands at the end and is usual is left away

The usual key is `return_value`, the usual place none, the usual run the reader's own. The key of a stream stands in a list of its
own. The attempt is the slot of the entry: 0 for one from outside, -1 for one kept over attempts, null for what all elements of a
mapped task have, which is one read.

A fork begins with rows that are copied as they are. Those without its run id are not its own: what they read, and what is read of
them, is the run's that they were copied from.

It is written on the way of every task, so the commonest read costs one format of a string and no encoder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from dagrelay.model.records import AttemptReads, EntryRead
from dagrelay.stores.operations import RETURN_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dagrelay.model.records import InstanceKey

__all__ = ("MAX_READS", "Reads", "lineage_text", "mark_of", "parse_lineage", "read_text", "stream_text")

MAX_READS: Final = 1_000
"""Reads of an attempt that are told one by one; of more only how many there were."""

_FEWEST_PARTS: Final = 2


def read_text(
    task_id: str, attempt: int | None, key: str = RETURN_VALUE, map_index: int | None = None, run_id: str | None = None
) -> str:
    """Return one read as text; `run_id` is None for the reader's own run, `attempt` for all elements together.

    Task and run ids hold no letter that JSON would escape.
    """
    number = "null" if attempt is None else attempt
    if run_id is not None:
        place = "null" if map_index is None else map_index
        return f'["{task_id}",{number},{json.dumps(key)},{place},"{run_id}"]'
    if map_index is not None:
        return f'["{task_id}",{number},{json.dumps(key)},{map_index}]'
    return f'["{task_id}",{number}]' if key == RETURN_VALUE else f'["{task_id}",{number},{json.dumps(key)}]'


def stream_text(task_id: str, attempt: int, key: str) -> str:
    """Return the read of a stream as text."""
    return f'["{task_id}",{attempt},[{json.dumps(key)}]]'


class Reads:
    """The reads of one attempt that come one after another, as from its handler."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Start with some."""
        self._texts: dict[str, None] = {}
        self._left_out = 0
        self.note(texts)

    def note(self, texts: Iterable[str]) -> None:
        """Add reads; what was read before is not told again, but counts again where it was left out."""
        for text in texts:
            if text in self._texts:
                continue
            if len(self._texts) < MAX_READS:
                self._texts[text] = None
            else:
                self._left_out += 1

    def text(self, mark: str | None) -> str | None:
        """Return them as the text that is stored; None if there are none, and no mark of a fork."""
        parts = [] if mark is None else [f'"{mark}"']
        parts += self._texts
        if self._left_out:
            parts.append(str(self._left_out))
        return f"[{','.join(parts)}]" if parts else None


def lineage_text(reads: Sequence[str], mark: str | None) -> str | None:
    """Return reads that are all different as the text that is stored; None if there are none, and no mark of a fork."""
    if len(reads) > MAX_READS or mark is not None:
        return Reads(reads).text(mark)
    return f"[{','.join(reads)}]" if reads else None


def mark_of(text: str | None) -> str | None:
    """Return the fork that a stored text says its attempt is of; None if it says nothing of it."""
    if text is None or not text.startswith('["'):
        return None
    return text[2:].partition('"')[0]


def parse_lineage(instance: InstanceKey, attempt: int, text: str) -> AttemptReads:
    """Return what a stored text tells.

    Args:
        instance: whose it is; of a copy in a fork the instance that it is a copy of.
        attempt: its attempt.
        text: the text.

    Raises:
        ValueError: it is not what is written here.
    """
    try:
        items = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not _is_list(items):
        raise ValueError("it is no list")
    reads: list[Any] = items
    if reads and isinstance(reads[0], str):
        del reads[0]
    left_out: Any = reads.pop() if reads and not isinstance(reads[-1], list) else 0
    if type(left_out) is not int or left_out < 0:
        raise ValueError(f"{left_out!r} is no count")
    return AttemptReads(
        run_id=instance.run_id,
        task_id=instance.task_id,
        map_index=instance.map_index,
        attempt=attempt,
        reads=tuple(_parsed(instance.run_id, each) for each in reads),
        left_out=left_out,
    )


def _parsed(own_run_id: str, item: Any) -> EntryRead:
    if not _is_list(item):
        raise ValueError(f"{item!r} is no read")
    given: list[Any] = item
    usual = (RETURN_VALUE, None, own_run_id)
    match [*given, *usual[max(len(given) - _FEWEST_PARTS, 0) :]]:
        case [str(task_id), int() | None as attempt, str(key), int() | None as map_index, str(run_id)]:
            return EntryRead(run_id=run_id, task_id=task_id, map_index=map_index, key=key, attempt=attempt)
        case [str(task_id), int() as attempt, [str(key)], None, str(run_id)]:
            return EntryRead(run_id=run_id, task_id=task_id, key=key, attempt=attempt, is_stream=True)
        case _:
            raise ValueError(f"{item!r} is no read")


def _is_list(value: object) -> bool:
    return isinstance(value, list)
