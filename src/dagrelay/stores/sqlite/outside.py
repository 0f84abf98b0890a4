"""What comes from outside a run: values that are provided, and messages that are carried out once.

A message is noted in the transaction that carries it out, so that after a kill it is either done and known, or neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagrelay.errors import RunNotFoundError, RunStateError
from dagrelay.stores import entry_rules
from dagrelay.stores.operations import MESSAGE_DONE, MESSAGES_KEPT_US, OUTSIDE
from dagrelay.stores.sqlite import rows

if TYPE_CHECKING:
    from dagrelay.stores.operations import NoteMessage, Provide
    from dagrelay.stores.sqlite.changes import Changes

__all__ = ("is_noted", "note", "note_done", "provide")

_IS_THERE: Final = "SELECT 1 FROM xcom WHERE run_pk = ? AND task_pk = ? AND map_index = ? AND key = ? AND slot = ?"


def provide(changes: Changes, op: Provide) -> int:
    """Carry out a Provide and return its result.

    Raises:
        DagrelayError: it is refused, and nothing was changed.
    """
    if is_noted(changes, op.message_id):
        return 0
    fields = changes.run(op.instance.run_id)
    if fields is None or fields.row is None:
        raise RunNotFoundError(op.instance.run_id)
    if fields.row.is_pruned:
        raise RunStateError(op.instance.run_id, "pruned", "nothing can be provided to it")
    place = changes.place(op.instance)
    changes.flush()
    found = changes.cursor.execute(_IS_THERE, (*place, op.entry.key, OUTSIDE)).fetchone()
    entry_rules.check_provided(changes.instance(place), op, is_there=found is not None)
    changes.put_encoded_entry(rows.encode_entry(place, OUTSIDE, 0, op.entry))
    note_done(changes, op.message_id, at_us=op.entry.created_us)
    return 1


def note(changes: Changes, op: NoteMessage) -> int:
    """Carry out a NoteMessage and return its result."""
    if is_noted(changes, op.message_id):
        return 0
    _put(changes, op.message_id, at_us=op.at_us, result=op.result)
    return 1


def is_noted(changes: Changes, message_id: str | None) -> bool:
    """Tell whether a message is known; None is no message."""
    if message_id is None:
        return False
    return changes.cursor.execute("SELECT 1 FROM inbox WHERE message_id = ?", (message_id,)).fetchone() is not None


def note_done(changes: Changes, message_id: str | None, *, at_us: int) -> None:
    """Note a message as carried out; None is no message."""
    if message_id is not None:
        _put(changes, message_id, at_us=at_us, result=MESSAGE_DONE)


def _put(changes: Changes, message_id: str, *, at_us: int, result: str) -> None:
    changes.cursor.execute("DELETE FROM inbox WHERE at_us < ?", (at_us - MESSAGES_KEPT_US,))
    changes.cursor.execute("INSERT INTO inbox VALUES (?, ?, ?, ?)", rows.encode_message(message_id, at_us, result))
