"""Planning: every problem at once, each saying where it is, and plans of any size."""

# ruff: noqa: B008 - templates stand in defaults

from __future__ import annotations

from hashlib import md5
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.inputs import Read, ReferenceInput
from dagrelay.dag.plan import TaskKind, parse_body
from dagrelay.dag.references import template
from dagrelay.errors import DAGValidationError
from dagrelay.model.policies import Limits, MissingPolicy, RetryPolicy
from dagrelay.model.states import TriggerRule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


MANY: Final = 100_000


async def nothing() -> None:
    """Do nothing."""


def problems(dag: DAG, limits: Limits | None = None) -> tuple[str, ...]:
    """Return what is wrong with a DAG; nothing if it can be planned."""
    try:
        dag.plan(limits=limits or Limits())
    except DAGValidationError as error:
        return error.problems
    return ()


# ---------------------------------------------------------------------------------------------------------------- plans


def test_an_empty_dag_has_an_empty_plan() -> None:
    """It is a DAG."""
    plan = DAG("empty").plan()

    assert (plan.tasks, plan.leaves, plan.downstream, plan.body, parse_body(plan.body)) == ((), (), (), b"[]", ())


def test_a_plan_is_in_topological_order_and_otherwise_in_that_of_definition() -> None:
    """What was defined last and is upstream of all goes first; reads point to where tasks stand in the plan."""
    dag = DAG("d", tags=["x"], params={"p": 1}, max_concurrency=7)

    async def take(x: int, y: str = template("{{ xcom.a }}")) -> None: ...

    b = dag.add(nothing, id="b", depends_on="z")
    dag.add(take, id="take", bind={"x": b.output})
    dag.add(nothing, id="a", depends_on=["z", "b", "z"])
    dag.add(nothing, id="z")

    plan = dag.plan()

    assert plan.task_ids == ("z", "b", "a", "take")
    assert dict(plan.index) == {"z": 0, "b": 1, "a": 2, "take": 3}
    assert [task.upstream for task in plan.tasks] == [(), (0,), (0, 1), (1, 2)]
    assert plan.downstream == ((1, 2), (2, 3), (3,), ())
    assert plan.leaves == (3,)
    assert plan.tasks[3].reads == (Read(1, "return_value"), Read(2, "return_value"))
    assert [each.read for each in plan.tasks[3].inputs if isinstance(each, ReferenceInput)] == [Read(1, "return_value")]
    assert (plan.dag_id, plan.tags, plan.max_concurrency, plan.params) == ("d", ("x",), 7, {"p": 1})
    assert plan.body == b'[["z","plain",[]],["b","plain",[0]],["a","plain",[0,1]],["take","plain",[1,2]]]'
    assert len(plan.fingerprint) == 64
    assert parse_body(plan.body)[2] == ("a", TaskKind.PLAIN, ("z", "b"))


def test_an_edited_handler_or_option_leaves_the_fingerprint() -> None:
    """What is compared on resume is ids, kinds and edges."""

    async def other(x: int = 3) -> int:
        return x

    one, two = DAG("one"), DAG("two", tags=["t"])
    one.add(nothing, id="a")
    two.add(other, id="a", retries=5, description="b")

    assert one.plan().fingerprint == two.plan().fingerprint


def test_options_come_from_the_task_then_from_the_dag() -> None:
    """A task's own option wins; what neither says has its default."""
    dag = DAG("d", defaults={"retries": 2, "missing": "empty", "timeout_s": 3, "auto_push": False, "serializer": "s"})
    dag.add(nothing, id="plain")
    dag.add(
        nothing,
        id="own",
        retries=RetryPolicy(9),
        timeout_s=None,
        missing=None,
        config=None,
        trigger_rule="all_done",
        multiple_outputs=True,
        serializer=None,
        description="of its own",
    )

    plain, own = dag.plan().tasks

    assert (plain.retry, plain.timeout_s, plain.missing, plain.auto_push) == (RetryPolicy(3), 3.0, MissingPolicy.EMPTY, False)
    assert (plain.trigger_rule, plain.multiple_outputs, plain.serializer) == (TriggerRule.ALL_SUCCESS, False, "s")
    assert plain.description == "Do nothing."
    assert (own.retry, own.timeout_s, own.missing, own.auto_push) == (RetryPolicy(9), None, None, False)
    assert (own.trigger_rule, own.multiple_outputs, own.serializer) == (TriggerRule.ALL_DONE, True, None)
    assert own.description == "of its own"


def wide() -> DAG:
    """Return a DAG of very many tasks side by side, with one that waits for all."""
    dag = DAG("wide")
    for number in range(MANY):
        dag.add(nothing, id=f"t{number}")
    dag.add(nothing, id="last", depends_on=dag.tasks.values())
    return dag


def long() -> DAG:
    """Return a DAG of very many tasks one after another, defined from the last one on."""
    dag = DAG("long")
    for number in reversed(range(MANY)):
        dag.add(nothing, id=f"t{number}", depends_on=f"t{number - 1}" if number else ())
    return dag


@pytest.mark.timeout(120)
def test_very_wide_and_very_long_dags_are_planned() -> None:
    """A hundred thousand tasks need neither recursion nor minutes."""
    wide_plan, long_plan = wide().plan(), long().plan()

    assert len(wide_plan.tasks) == MANY + 1
    assert wide_plan.is_upstream(MANY // 2, MANY)
    assert len(wide_plan.upstream_of(MANY)) == MANY
    assert long_plan.task_ids[:2] == ("t0", "t1")
    assert long_plan.is_upstream(0, MANY - 1)
    assert len(long_plan.upstream_of(MANY - 1)) == MANY - 1


def test_what_is_remembered_of_pairs_is_bounded() -> None:
    """A run may ask for as many pairs as it likes."""
    dag = DAG("d")
    tasks = [dag.add(nothing, id=f"t{number}") for number in range(100)]
    dag.chain(*tasks)
    plan = dag.plan()

    asked = [plan.is_upstream(one, other) for one in range(100) for other in range(100)]

    assert asked == [one < other for one in range(100) for other in range(100)]
    assert len(plan._known_pairs) <= 4096  # pyright: ignore[reportPrivateUsage]


# ------------------------------------------------------------------------------------------------------------- problems


def generator() -> Iterator[int]:
    """Yield."""
    yield 1


async def stream() -> AsyncIterator[int]:
    """Yield, too."""
    yield 1


class Thing:
    """Is a class."""


class Endless:
    """Has a signature that can't be read."""

    __signature__ = 3

    def __call__(self) -> None:
        """Do nothing."""


def test_every_problem_is_told_at_once() -> None:
    """The error lists them all, and says which DAG, task and parameter."""
    bad: dict[str, Any] = {"tags": [3], "params": {"n": 1, 4: 5}, "defaults": {"retry": 1, "timeout_s": -1}}
    dag, other = DAG("d", max_concurrency=0, **bad), DAG("o")
    lost: list[Any] = ["lost", other.add(nothing, id="foreign"), 3]
    foreign = lost[1]
    load = dag.add(nothing, id="load")

    async def wrong(a: Any = template("{{ xcom.laod }}"), b: Any = template("{{ oops"), c: Any = foreign.output) -> None: ...

    dag.add(wrong, id="wrong", depends_on=lost, bind={"d": 1})
    dag.add(nothing, id="load")
    dag.add(nothing, id="self", depends_on="self")
    dag.chain("load", "x", "y")
    dag.chain("y", load)

    assert problems(dag) == (
        (
            "defaults: no such option: 'retry' (did you mean 'retries'?); there are auto_push, config, description, missing, "
            "multiple_outputs, pool, priority, retries, serializer, timeout_s, trigger_rule"
        ),
        "defaults: timeout_s=-1: it must be a finite number of seconds > 0, or None",
        "max_concurrency=0: it must be a whole number >= 1, or None",
        "tag 3 is no text",
        "params: the name 4 is no text",
        "task id 'load' is used more than once; tell them apart by id=",
        "task 'wrong': parameter 'a' reads task 'laod' at column 4, which is not in the DAG; did you mean 'load'?",
        (
            "task 'wrong': parameter 'b': unknown root 'oops', expected params, previous, run, task, xcom at column 4 of "
            "template, near '{{ oops'"
        ),
        "task 'wrong': parameter 'c' reads task 'foreign' of another DAG",
        "task 'wrong': bind names 'd', which is no parameter of its handler",
        "task 'wrong': depends_on names task 'lost', which is not in the DAG",
        "task 'wrong': depends_on names task 'foreign' of another DAG",
        "task 'wrong': depends_on names 3, which is neither a task nor an id",
        "an edge drawn by >> or chain() leads to task 'x', which is not in the DAG",
        "an edge drawn by >> or chain() leads to task 'y', which is not in the DAG",
        "task 'self' depends on itself",
    )


@pytest.mark.parametrize(
    ("handler", "problem"),
    [
        (3, "its handler is int, which can't be called"),
        (Thing, "its handler is a class; give a function that makes what is to be returned"),
        (generator, "its handler is a generator; return a list, or push parts by ctx.xcom.push"),
        (stream, "its handler is an async generator; return a list, or push parts by ctx.xcom.push"),
        (Endless(), "its signature can't be read: unexpected object 3 in __signature__ attribute"),
    ],
)
def test_what_can_be_no_handler_is_refused(handler: Any, problem: str) -> None:
    """It says why."""
    dag = DAG("d")
    dag.add(handler, id="bad")

    assert problems(dag) == (f"task 'bad': {problem}",)


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("retries", -1, "retries=-1: it must be a number of further attempts >= 0, or a RetryPolicy"),
        ("retries", True, "retries=True: it must be a number of further attempts >= 0, or a RetryPolicy"),
        ("timeout_s", 0, "timeout_s=0: it must be a finite number of seconds > 0, or None"),
        ("timeout_s", "3", "timeout_s='3': it must be a finite number of seconds > 0, or None"),
        ("timeout_s", float("inf"), "timeout_s=inf: it must be a finite number of seconds > 0, or None"),
        ("trigger_rule", "all_sucess", "trigger_rule='all_sucess': it must be one of all_success, all_failed"),
        ("trigger_rule", 3, "trigger_rule=3: it must be one of all_success, all_failed"),
        ("auto_push", 1, "auto_push=1: it must be True or False"),
        ("multiple_outputs", None, "multiple_outputs=None: it must be True or False"),
        ("missing", "skip", "missing='skip': it must be one of error, empty, or None"),
        ("serializer", "", "serializer='': it must be the name of a serializer, or None"),
        ("serializer", 3, "serializer=3: it must be the name of a serializer, or None"),
        ("description", None, "description=None: it must be text"),
        ("pool", "", "pool='': it must be the name of a pool, or None"),
        ("pool", 3, "pool=3: it must be the name of a pool, or None"),
        ("priority", True, "priority=True: it must be a whole number"),
        ("priority", 1.0, "priority=1.0: it must be a whole number"),
        ("config", [1], "config=[1]: it must be a mapping"),
        ("config", list(range(99)), f"config={str(list(range(99)))[:60]}...: it must be a mapping"),
        ("bind", [1], "bind=[1]: it must be a mapping of parameter names"),
        ("depends_on", 3, "depends_on names 3, which is neither a task nor an id"),
    ],
)
def test_a_bad_option_is_told_with_what_is_wanted(option: str, value: Any, problem: str) -> None:
    """By name, value and rule."""
    dag, options = DAG("d"), {option: value}
    dag.add(nothing, id="a", **options)

    (told,) = problems(dag)

    assert told.startswith(f"task 'a': {problem}")


def test_pool_and_priority_come_from_the_task_then_from_the_dag() -> None:
    """No pool and priority 0 where neither says."""
    dag = DAG("d", defaults={"pool": "p", "priority": -3})
    dag.add(nothing, id="plain")
    dag.add(nothing, id="own", pool=None, priority=7)
    bare = DAG("bare")
    bare.add(nothing, id="a")

    told = [(task.pool, task.priority) for task in (*dag.plan().tasks, *bare.plan().tasks)]

    assert told == [("p", -3), (None, 7), (None, 0)]


def test_a_misspelt_rule_is_told_the_right_one() -> None:
    """There are eleven to choose from."""
    dag = DAG("d")
    dag.add(nothing, id="a", trigger_rule="none_faild")

    assert problems(dag)[0].endswith("always; did you mean 'none_failed'?")


def test_cycles_are_told_with_their_path() -> None:
    """In the direction of the edges, from the task defined first."""
    dag = DAG("d")
    for task_id in "abcdef":
        dag.add(nothing, id=task_id)
    dag.chain("b", "c", "a", "b")
    dag.chain("d", "e", "d")
    dag.chain("c", "f")

    assert problems(dag) == (
        "tasks depend on each other in a cycle: a -> b -> c -> a",
        "tasks depend on each other in a cycle: d -> e -> d",
    )


def test_a_long_cycle_is_told_in_short() -> None:
    """Ten thousand tasks make no page of text."""
    dag = DAG("d")
    ids = [f"t{number}" for number in range(10_000)]
    for task_id in ids:
        dag.add(nothing, id=task_id)
    for above, below in pairwise([*ids, ids[0]]):
        dag.chain(above, below)

    assert problems(dag) == (
        (
            "tasks depend on each other in a cycle: "
            "t0 -> t1 -> t2 -> t3 -> t4 -> t5 -> t6 -> t7 -> t8 -> t9 -> (9,988 more) -> t9998 -> t9999 -> t0"
        ),
    )


def test_near_names_are_looked_for_within_reason() -> None:
    """Very many wrong names in a large DAG are told in good time, the later ones without a hint."""
    dag = DAG("d")
    ids = [md5(str(number).encode(), usedforsecurity=False).hexdigest() for number in range(1_000)]
    for task_id in ids:
        dag.add(nothing, id=task_id)
    for task_id in ids:
        dag.chain(task_id, task_id[1:])
    dag.chain(ids[0], "")

    told = problems(dag)

    assert len(told) == 1_001
    assert told[0].endswith(f"did you mean {ids[0]!r}?")
    assert told[-2].endswith("not in the DAG")
    assert told[-1].endswith("leads to task '', which is not in the DAG")


def test_a_reference_can_be_no_default_of_a_param() -> None:
    """Params are known before any task runs."""
    dag = DAG("d")
    load = dag.add(nothing, id="load")
    other = DAG("e", params={"x": [load.output]})

    assert problems(other) == ("params: the default of 'x' is known only when a run gets there; use a constant",)


def test_defaults_can_not_wire_tasks() -> None:
    """Edges and parameters belong to one task."""
    wiring: Any = {"depends_on": "a", "bind": {}}
    dag = DAG("d", defaults=wiring)

    assert problems(dag)[0].startswith("defaults: no such option: 'depends_on', 'bind'; there are auto_push, ")


def test_a_single_tag_is_one_tag() -> None:
    """Text is not taken apart."""
    assert DAG("d", tags="nightly").plan().tags == ("nightly",)


def test_limits_of_templates_hold_when_planning() -> None:
    """The error names the limit."""
    dag = DAG("d")

    async def take(x: str = template("{{ run.id }} {{ run.id }}")) -> None: ...

    dag.add(take, config={"a": "{{ run.id }}"})

    assert problems(dag, Limits(max_template_chars=10)) == (
        (
            "task 'take': parameter 'x': characters of a template: 25 exceeds the limit of 10; "
            "raise it by Limits(max_template_chars=...)"
        ),
        "task 'take': config: characters of a template: 12 exceeds the limit of 10; raise it by Limits(max_template_chars=...)",
    )
    assert problems(dag, Limits(max_template_references=1))[0].startswith(
        "task 'take': parameter 'x': expressions in a template: 2"
    )
    assert problems(dag) == ()
