"""What an attempt has read, as compact JSON that is stored with its outcome, and back.

::

    lineage = [read, ...]                                     each once, in order; after MAX_READS of them one number more:
                                                              how many were left out
    read    = [task, attempt, key, map_index, run]            what stands at the end and is usual is left away

The usual key is `return_value`, the usual place none, the usual run the reader's own. The attempt is the slot of the entry: 0 for
one from outside, -1 for one kept over attempts, null for what all elements of a mapped task have, which is one read.

It is written on the way of every task, so the commonest read costs one format of a string and no encoder.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from dagrelay.model.records import AttemptReads, EntryRead
from dagrelay.stores.operations import RETURN_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dagrelay.model.records import InstanceKey

__all__ = ("MAX_READS", "Reads", "lineage_text", "parse_lineage", "read_text")

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

    def text(self) -> str | None:
        """Return them as the text that is stored; None if there are none."""
        if not self._texts:
            return None
        left_out = [str(self._left_out)] if self._left_out else []
        return f"[{','.join([*self._texts, *left_out])}]"


def lineage_text(reads: list[str]) -> str | None:
    """Return reads that are all different as the text that is stored; None if there are none."""
    if len(reads) > MAX_READS:
        return Reads(reads).text()
    return f"[{','.join(reads)}]" if reads else None


def parse_lineage(instance: InstanceKey, attempt: int, text: str) -> AttemptReads:
    """Return what a stored text tells.

    Raises:
        ValueError: it is not what is written here.
    """
    try:
        items = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(items, list):
        raise ValueError("it is no list")  # noqa: TRY004 - it is text that is wrong, not a caller
    reads = cast("list[Any]", items)
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
    if not isinstance(item, list):
        raise ValueError(f"{item!r} is no read")  # noqa: TRY004 - as above
    given = cast("list[Any]", item)
    usual = (RETURN_VALUE, None, own_run_id)
    match [*given, *usual[max(len(given) - _FEWEST_PARTS, 0) :]]:
        case [str(task_id), int() | None as attempt, str(key), int() | None as map_index, str(run_id)]:
            return EntryRead(run_id=run_id, task_id=task_id, map_index=map_index, key=key, attempt=attempt)
        case _:
            raise ValueError(f"{item!r} is no read")
