"""How SQLite answers the questions that are asked at each run's end: by an index, without a look at what is pruned."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING

from dagrelay.model.states import FINISHED_RUN_STATES
from dagrelay.stores.base import Lookup, RunQuery
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


def prune_by_age(connection: sqlite3.Connection) -> None:
    """Prune a DAG's old runs."""
    writer = Writer(os.devnull)
    writer.take_over(connection, now_us=0)
    assert writer.apply(connection, [Story().prune(None, before_us=9)]) == [0]


def test_pruning_by_age_walks_the_old_runs_of_the_dag() -> None:
    """And no others."""
    plan = plan_of_question("SELECT run_id FROM run", prune_by_age)
    assert plan == "SEARCH run USING INDEX run_by_end (dag_id=? AND ended_us<?)"


def _look(connection: sqlite3.Connection, ask: Callable[[Snapshot], object]) -> None:
    writer, story, later = Writer(os.devnull), Story(), Story("later")
    writer.take_over(connection, now_us=0)
    create = story.create("a")
    elements = [story.finish("a", map_index=index, values={"k": b"1"}) for index in range(500)]
    start, end = story.start("a", length=500), story.finish("a", values={"k": b"1"})
    writer.apply(connection, [create, start, *elements, end, later.create("a")])
    with contextlib.closing(connection.cursor()) as cursor:
        assert ask(Snapshot(cursor, "units", KnownTasks()))


def test_elements_are_gathered_by_one_scan_each_over_instances_and_values() -> None:
    """Of 500 elements; that finds its beginning and its end by the key."""
    wanted = [Lookup(instance=Story().key("a", index), key="k") for index in range(499, -1, -1)]

    def gather(connection: sqlite3.Connection) -> None:
        _look(connection, lambda snapshot: all(snapshot.lookup(wanted)))

    by_key = "(run_pk=? AND task_pk=? AND map_index>? AND map_index<?)"
    values = plan_of_question("SELECT * FROM xcom WHERE run_pk = 1 AND task_pk = 1 AND map_index BETWEEN", gather)
    assert values == f"SEARCH xcom USING INDEX sqlite_autoindex_xcom_1 {by_key}"
    instances = plan_of_question("SELECT * FROM instance WHERE run_pk = 1 AND task_pk = 1 AND map_index BETWEEN", gather)
    assert instances == f"SEARCH instance USING PRIMARY KEY {by_key}"


def test_earlier_values_are_found_run_by_run_by_the_index() -> None:
    """Without a sort, so that the first ones are found without a look at the rest."""

    def ask(connection: sqlite3.Connection) -> None:
        _look(connection, lambda snapshot: snapshot.previous("dag", "a", "k", before_run="later", limit=1))

    plan = plan_of_question("SELECT run_id FROM run WHERE dag_id = 'dag'", ask)
    assert plan.startswith("SEARCH run USING INDEX run_by_dag (dag_id=? AND created_us<?)")
    assert "SEARCH xcom USING COVERING INDEX sqlite_autoindex_xcom_1" in plan
    assert "TEMP B-TREE" not in plan


def test_the_elements_of_a_batch_are_read_many_at_a_time() -> None:
    """One statement for 32 of them."""
    asked: list[str] = []
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.migrate(connection)
        writer, story = Writer(os.devnull), Story()
        writer.take_over(connection, now_us=0)
        writer.apply(connection, [story.create("a"), story.start("a", length=320)])
        connection.set_trace_callback(asked.append)
        writer.apply(connection, [story.start("a", map_index=index) for index in range(320)])
        writer.apply(connection, [story.finish("a", map_index=index) for index in range(320)])
    questions = [each for each in asked if each.startswith("SELECT * FROM instance")]
    assert len(questions) == 20
    assert len([each for each in asked if each.startswith("INSERT INTO instance")]) == 10


def test_the_finished_states_are_written_out_rightly() -> None:
    """Where the index and the question for it name them by their codes."""
    assert {rows.RUN_STATE_CODES[state] for state in FINISHED_RUN_STATES} == {1, 2, 3}
