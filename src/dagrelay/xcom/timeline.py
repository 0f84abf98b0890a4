"""Events made of committed operations, for those who follow a run live: by the rules by which a store derives its own."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, assert_never

from dagrelay.stores import entry_rules, rules
from dagrelay.stores.operations import (
    OUTSIDE,
    TASK_LIFETIME,
    AckItems,
    AppendItems,
    CreateRun,
    DeleteEntries,
    DeleteRun,
    FinishAttempt,
    ForkRun,
    MarkInstance,
    NoteMessage,
    Operation,
    Provide,
    PruneRuns,
    PutEntries,
    ReopenRun,
    SetRunState,
    StartAttempt,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dagrelay.model.events import Event, XComPushed

__all__ = ("events_of",)


def events_of(operation: Operation, *, dag_id: str, result: int, with_start: bool = False) -> Sequence[Event]:
    """Return the events of one committed operation, in order of `seq`.

    Of a run taken up again it is only that: what was cleared, and not untouched or clear before, only the store can tell.

    Args:
        operation: what was applied.
        dag_id: the run's DAG.
        result: the result of applying it.
        with_start: an outcome's start was not written apart, so that it tells of it too.
    """
    match operation:
        case FinishAttempt():
            row, logged = rules.finished(None, operation)
            changes = logged or rules.derived_events(operation.instance, row)
            return sorted((*_pushes(operation), *(changes if with_start else changes[-1:])), key=attrgetter("seq"))
        case StartAttempt():
            return rules.derived_events(operation.instance, rules.started(None, operation)[0])
        case PutEntries() | AckItems():
            return _pushes(operation)
        case MarkInstance():
            return rules.derived_events(operation.instance, rules.marked(None, operation)._replace(attempt=result))
        case DeleteEntries():
            return [entry_rules.deletion_event(operation, result)] if result else []
        case Provide():
            given = entry_rules.entry_row(operation.entry, slot=OUTSIDE, attempt=0)
            return [entry_rules.push_event(operation.instance, given)] if result else []
        case CreateRun() | ForkRun():
            return rules.run_events(rules.created_run(operation))
        case ReopenRun():
            return [rules.run_started(operation.run_id, dag_id, operation.seq, operation.at_us)] if result else []
        case SetRunState():
            return [rules.run_finished(operation.run_id, operation.state, operation.seq, operation.at_us)]
        case DeleteRun() | PruneRuns() | NoteMessage() | AppendItems():
            return []
        case _ as never:
            assert_never(never)


def _pushes(operation: PutEntries | FinishAttempt | AckItems) -> list[XComPushed]:
    match operation:
        case FinishAttempt():
            slot = operation.attempt
        case PutEntries():
            slot = operation.slot
        case AckItems():
            slot = TASK_LIFETIME
    rows = (entry_rules.entry_row(entry, slot=slot, attempt=operation.attempt) for entry in operation.entries)
    return [entry_rules.push_event(operation.instance, row) for row in rows]
