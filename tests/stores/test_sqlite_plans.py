"""How SQLite answers the questions that are asked at each run's end: by an index, without a look at what is pruned."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from dagrelay.model.states import FINISHED_RUN_STATES
from dagrelay.stores.base import RunQuery
from dagrelay.stores.sqlite import rows, schema
from dagrelay.stores.sqlite.reads import KnownTasks, Snapshot
from dagrelay.stores.sqlite.writer import Writer
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from collections.abc import Callable


def plan_of_question(beginning: str, ask: Callable[[sqlite3.Connection], object]) -> str:
    """Return the plan of the one question with this beginning among those that `ask` asks of a new database."""
    asked: list[str] = []
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        connection.set_trace_callback(asked.append)
        ask(connection)
        connection.set_trace_callback(None)
        (question,) = [each for each in asked if each.startswith(beginning)]
        return "; ".join(step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {question}"))


def prune(connection: sqlite3.Connection) -> None:
    """Prune a DAG's runs."""
    writer = Writer(os.devnull)
    writer.take_over(connection, now_us=0)
    assert writer.apply(connection, [Story().prune(2)]) == [0]


def find_runs_of_a_dag(connection: sqlite3.Connection) -> None:
    """List a DAG's runs."""
    with contextlib.closing(connection.cursor()) as cursor:
        assert Snapshot(cursor, "units", KnownTasks()).find_runs(RunQuery(dag_id="dag")) == []


def test_pruning_walks_the_finished_runs_of_the_dag_in_order() -> None:
    """Neither tombstones nor a sort, however many runs there have been."""
    assert plan_of_question("SELECT run_id FROM run", prune) == "SEARCH run USING INDEX run_by_end (dag_id=?)"


def test_runs_of_a_dag_are_listed_in_order() -> None:
    """Neither tombstones nor a sort here."""
    assert plan_of_question("SELECT\n    run_pk", find_runs_of_a_dag) == "SEARCH run USING INDEX run_by_dag (dag_id=?)"


def test_the_finished_states_are_written_out_rightly() -> None:
    """Where the index and the question for it name them by their codes."""
    assert {rows.RUN_STATE_CODES[state] for state in FINISHED_RUN_STATES} == {1, 2, 3}
