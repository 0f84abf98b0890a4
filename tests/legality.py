"""Triggers that refuse any write of a state the transition tables don't have, for every SqliteStore that a test opens.

They live in the connection (TEMP), so that the file stays what the library made of it. A row may go from pending to an outcome
when its start was never written, as what changes within one batch is written once; the machine may not. A new row may also be the
copy of another run's that a fork begins with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dagrelay.model.states import ENDED_TASK_STATES, RUN_TRANSITIONS, TASK_TRANSITIONS, RunState, TaskState
from dagrelay.stores.sqlite.driver import UnitConnection
from dagrelay.stores.sqlite.rows import RUN_STATE_CODES, TASK_STATE_CODES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    import pytest

__all__ = ("allows_run", "allows_task", "install", "judge_all_writes")

_STARTED: Final = TASK_TRANSITIONS[TaskState.QUEUED] | TASK_TRANSITIONS[TaskState.RUNNING]
"""What an instance that was queued may be found as, when neither that nor its start was written."""
_BETWEEN: Final = frozenset({TaskState.UP_FOR_RETRY, TaskState.INTERRUPTED})
"""How an attempt ends before which another may start in the same batch."""


def allows_task(old: TaskState, new: TaskState, *, is_new_attempt: bool) -> bool:
    """Tell whether a stored instance may be written over so; a new one was pending."""
    if not is_new_attempt:
        return new in TASK_TRANSITIONS[old]
    before = {old} | (TASK_TRANSITIONS[old] & _BETWEEN)
    return new in _STARTED and any(TaskState.QUEUED in TASK_TRANSITIONS[each] for each in before)


def allows_run(old: RunState, new: RunState) -> bool:
    """Tell whether a stored run may be written over so."""
    return new in RUN_TRANSITIONS[old]


def _pairs(pairs: Iterable[tuple[int, int]]) -> str:
    return f"(VALUES {', '.join(f'({old}, {new})' for old, new in pairs)})"


def _task_pairs(*, is_new_attempt: bool) -> str:
    codes = TASK_STATE_CODES
    allowed = ((old, new) for old in TaskState for new in TaskState if allows_task(old, new, is_new_attempt=is_new_attempt))
    return _pairs((codes[old], codes[new]) for old, new in allowed)


def _run_pairs() -> str:
    allowed = ((old, new) for old in RunState for new in RunState if allows_run(old, new))
    return _pairs((RUN_STATE_CODES[old], RUN_STATE_CODES[new]) for old, new in allowed)


_MARKS: Final = (TASK_TRANSITIONS[TaskState.PENDING] | {TaskState.FAILED}) - {TaskState.QUEUED}
"""How an instance may end without an attempt: by the table, or failed where its template could not be rendered."""
_MARKED: Final = _pairs((TASK_STATE_CODES[TaskState.PENDING], TASK_STATE_CODES[new]) for new in _MARKS)
_ENDED: Final = ", ".join(str(TASK_STATE_CODES[state]) for state in sorted(ENDED_TASK_STATES))
_COPIED: Final = """EXISTS (SELECT 1 FROM main.instance AS other WHERE other.run_pk <> NEW.run_pk
    AND other.task_pk = NEW.task_pk AND other.map_index = NEW.map_index AND other.state = NEW.state
    AND other.attempt = NEW.attempt AND other.started_us IS NEW.started_us AND other.ended_us IS NEW.ended_us)"""
_TRIGGERS: Final = (
    f"""CREATE TEMP TRIGGER new_instance AFTER INSERT ON main.instance
    WHEN CASE NEW.attempt WHEN 0 THEN (0, NEW.state) NOT IN {_MARKED}
    ELSE (0, NEW.state) NOT IN {_task_pairs(is_new_attempt=True)} END AND NOT (NEW.state IN ({_ENDED}) AND {_COPIED})
    BEGIN SELECT RAISE(ABORT, 'illegal: a new instance'); END""",
    f"""CREATE TEMP TRIGGER same_attempt AFTER UPDATE ON main.instance
    WHEN NEW.attempt = OLD.attempt AND NEW.state <> OLD.state
    AND (OLD.state, NEW.state) NOT IN {_task_pairs(is_new_attempt=False)}
    BEGIN SELECT RAISE(ABORT, 'illegal: an instance'); END""",
    f"""CREATE TEMP TRIGGER next_attempt AFTER UPDATE ON main.instance
    WHEN NEW.attempt > OLD.attempt AND (OLD.state, NEW.state) NOT IN {_task_pairs(is_new_attempt=True)}
    BEGIN SELECT RAISE(ABORT, 'illegal: an instance with a new attempt'); END""",
    """CREATE TEMP TRIGGER earlier_attempt AFTER UPDATE ON main.instance WHEN NEW.attempt < OLD.attempt
    BEGIN SELECT RAISE(ABORT, 'illegal: an earlier attempt'); END""",
    """CREATE TEMP TRIGGER new_run AFTER INSERT ON main.run WHEN NEW.state <> 0
    BEGIN SELECT RAISE(ABORT, 'illegal: a new run'); END""",
    f"""CREATE TEMP TRIGGER changed_run AFTER UPDATE ON main.run
    WHEN NEW.state IS NOT OLD.state
    AND (OLD.state IS NULL AND NEW.state <> 0 OR NEW.state IS NULL OR (OLD.state, NEW.state) NOT IN {_run_pairs()})
    BEGIN SELECT RAISE(ABORT, 'illegal: a run'); END""",
    """CREATE TEMP TRIGGER pruned_run AFTER UPDATE ON main.run
    WHEN OLD.is_pruned = 1 OR NEW.is_pruned = 1 AND (NEW.state = 0 OR NEW.state IS NOT OLD.state)
    BEGIN SELECT RAISE(ABORT, 'illegal: a pruned run'); END""",
)


def install(connection: sqlite3.Connection) -> bool:
    """Make the triggers, if the tables are there and the triggers are not; return whether they are."""
    cursor = connection.cursor()
    made: int = cursor.execute("SELECT count(*) FROM temp.sqlite_schema WHERE name = 'pruned_run'").fetchone()[0]
    there: int = cursor.execute("SELECT count(*) FROM main.sqlite_schema WHERE name IN ('instance', 'run')").fetchone()[0]
    if there == 2 and not made:
        for trigger in _TRIGGERS:
            cursor.execute(trigger)
    cursor.close()
    return there == 2


def judge_all_writes(patch: pytest.MonkeyPatch) -> None:
    """Have each connection of a store make the triggers before it first writes."""
    execute = UnitConnection.execute
    judged = "_is_judged"

    def judging(self: UnitConnection, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "BEGIN IMMEDIATE" and not vars(self).get(judged):
            vars(self)[judged] = install(self)
        return execute(self, sql, parameters)

    patch.setattr(UnitConnection, "execute", judging)
