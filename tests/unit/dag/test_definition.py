"""Declaring tasks: the decorator, `add`, edges, and handlers as the plain functions they are."""

# ruff: noqa: B008 - handlers are never called here; their defaults are what is tested

from __future__ import annotations

from functools import partial
from inspect import iscoroutine, signature
from typing import Any

import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.references import template
from dagrelay.dag.task import AsyncTask, SyncTask, Task
from dagrelay.errors import DAGValidationError, InvalidIdError
from dagrelay.model.policies import Limits


def edges(dag: DAG) -> set[tuple[str, str]]:
    """Return a DAG's edges by id."""
    plan = dag.plan()
    return {(plan.task_ids[above], task.task_id) for task in plan.tasks for above in task.upstream}


async def nothing() -> None:
    """Do nothing."""


def make(*ids: str) -> tuple[DAG, list[Task[None]]]:
    """Return a DAG of tasks that do nothing."""
    dag = DAG("d")
    return dag, [dag.add(nothing, id=task_id) for task_id in ids]


# ------------------------------------------------------------------------------------------------------------ declaring


def test_a_decorated_function_becomes_a_task_named_like_it() -> None:
    """Bare and with options, async and plain."""
    dag = DAG("d")

    @dag.task
    async def one() -> int:
        """Return one."""
        return 1

    @dag.task(id="second", retries=2)
    def two() -> int:
        return 2

    assert isinstance(one, AsyncTask)
    assert isinstance(two, SyncTask)
    assert (one.id, two.id) == ("one", "second")
    assert one.__doc__ == "Return one."
    assert dag.tasks == {"one": one, "second": two}
    assert repr(one) == "<task 'one' of <DAG 'd'>>"
    assert [task.is_async for task in dag.plan().tasks] == [True, False]


def test_an_empty_pair_of_brackets_decorates_too() -> None:
    """`@dag.task()` is `@dag.task`."""
    dag = DAG("d")

    task = dag.task()(nothing)

    assert dag.tasks == {"nothing": task}


class Robot:
    """Has handlers for methods, and is one."""

    async def walk(self) -> str:
        """Walk."""
        return "walked"

    def __call__(self) -> str:
        """Do what it does."""
        return "called"


class Walker:
    """Is an async handler."""

    async def __call__(self) -> str:
        """Walk."""
        return "walked"


async def step(length: int, /, *, side: str) -> str:
    """Step aside."""
    return f"{length} {side}"


def test_partials_methods_and_callable_objects_are_added() -> None:
    """`add` takes whatever can be called, and sees which are async."""
    dag = DAG("d")

    walk = dag.add(Robot().walk)
    called = dag.add(Robot(), id="robot")
    walker = dag.add(Walker(), id="walker")
    stepped = dag.add(partial(partial(step, 3), side="left"))
    static = dag.add(staticmethod(nothing), id="static")
    again = dag.add(walk, id="walk-again")

    plan = dag.plan()
    assert [task.id for task in (walk, called, walker, stepped, static, again)] == list(plan.task_ids)
    assert [task.is_async for task in plan.tasks] == [True, False, True, True, True, True]
    assert plan.tasks[5].handler == plan.tasks[0].handler
    assert plan.task_ids[3] == "step"


@pytest.mark.parametrize("handler", [lambda: 1, partial(lambda: 1), Robot(), 3])
def test_a_handler_without_a_name_needs_an_id(handler: Any) -> None:
    """No id is made up."""
    with pytest.raises(InvalidIdError, match="the handler has no name of its own; give it an id="):
        DAG("d").add(handler)


@pytest.mark.parametrize("bad", ["", "a b", "../x", "é", "a" * 251, 3])
def test_an_illegal_id_is_refused_at_once(bad: Any) -> None:
    """The task is not added."""
    dag = DAG("d")

    with pytest.raises(InvalidIdError):
        dag.add(nothing, id=bad)
    with pytest.raises(InvalidIdError):
        DAG(bad)

    assert dag.tasks == {}


def test_an_unknown_option_is_refused_at_once_with_a_near_name() -> None:
    """As Python refuses an unknown argument."""
    dag, options = DAG("d"), {"retrys": 3}

    with pytest.raises(
        TypeError, match=r"task\(\): no such option: 'retrys' \(did you mean 'retries'\?\); there are after_start, auto_push, "
    ):
        dag.task(**options)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"add\(\): no such option: 'retrys'"):
        dag.add(nothing, **options)  # type: ignore[call-overload]


def test_what_is_done_later_to_what_was_given_changes_nothing() -> None:
    """Mappings and lists are copied when a task is declared, and iterators are used up once."""
    params, bind, tags = {"a": 1}, {"x": 1}, ["t"]
    dag = DAG("d", params=params, tags=tags)
    first = dag.add(nothing, id="first")
    upstream = [first]

    async def take(x: int) -> int:
        return x

    dag.add(take, bind=bind, depends_on=upstream)
    dag.add(nothing, id="last", depends_on=iter(("first", "take")))
    params["b"], bind["y"] = 2, 2
    tags.append("u")
    upstream.clear()

    plan = dag.plan()
    assert (plan.params, plan.tags) == ({"a": 1}, ("t",))
    assert edges(dag) == {("first", "take"), ("first", "last"), ("take", "last")}


def test_the_plan_is_kept_until_the_dag_is_changed() -> None:
    """Tasks and edges added later are in the next plan."""
    dag, (a, b) = make("a", "b")
    plan = dag.plan()

    assert dag.plan() is plan
    assert dag.plan(limits=Limits(max_depth=3)) is not plan

    changed = [dag.plan()]
    _ = a >> b
    changed.append(dag.plan())
    dag.add(nothing, id="c")
    changed.append(dag.plan())
    dag.chain("b", "c")
    changed.append(dag.plan())
    assert len({id(plan) for plan in changed}) == 4
    assert len({plan.fingerprint for plan in changed}) == 4


# ---------------------------------------------------------------------------------------------------------------- edges


def test_arrows_draw_edges_and_hand_on_their_right_side() -> None:
    """Tasks and lists of tasks stand on either side."""
    dag, (a, b, c, d, e) = make("a", "b", "c", "d", "e")

    assert (a >> b >> [c, d] >> e) is e

    assert edges(dag) == {("a", "b"), ("b", "c"), ("b", "d"), ("c", "e"), ("d", "e")}


def test_arrows_to_the_left_draw_the_same_edges() -> None:
    """`b << a` is `a >> b`."""
    dag, (a, b, c, d, e) = make("a", "b", "c", "d", "e")

    assert (e << [c, d] << b) is b
    assert (b << a) is a

    assert edges(dag) == {("a", "b"), ("b", "c"), ("b", "d"), ("c", "e"), ("d", "e")}


@pytest.mark.parametrize("other", [3, None, [3], "b"])
def test_an_arrow_to_something_else_is_no_arrow(other: Any) -> None:
    """An id is text, and text has no side in `a >> "b"`."""
    dag, (a,) = make("a")

    with pytest.raises(TypeError, match="unsupported operand"):
        _ = a >> other
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = a << other
    assert edges(dag) == set()


def test_chain_joins_every_step_to_the_one_before() -> None:
    """Steps are tasks, ids, or several of them."""
    dag, (a, b, *_) = make("a", "b", "c", "d", "e")

    dag.chain(a, [b, "c"], ("d", "e"))

    assert edges(dag) == {("a", "b"), ("a", "c"), ("b", "d"), ("b", "e"), ("c", "d"), ("c", "e")}


def test_edges_come_from_everywhere_a_value_is_read() -> None:
    """Defaults, bind, config and text, at any depth."""
    dag, (a, _, c, d, _, f) = make("a", "b", "c", "d", "e", "f")
    output: Any = a.output

    async def take(
        ctx: Any,
        one: Any = output.x,
        two: Any = template("{{ xcom.b.key }}"),
        three: Any = ({"k": [c.output]},),
        four: Any = None,
    ) -> None: ...

    dag.add(take, bind={"four": d.xcom("k")}, config={"deep": [{"text": "of {{ xcom.e }}"}], "ref": f.output})

    assert edges(dag) == {(upstream, "take") for upstream in "abcdef"}


def test_a_default_replaced_by_bind_is_no_edge() -> None:
    """What is not read is not waited for."""
    dag, (a, _) = make("a", "b")

    async def take(x: Any = a.output) -> None: ...

    dag.add(take, bind={"x": 1})

    assert edges(dag) == set()


# ---------------------------------------------------------------------------------------------------------- plain calls


def test_a_task_without_references_is_called_like_its_function() -> None:
    """Positional and keyword arguments, and plain defaults, are as ever."""
    dag = DAG("d")

    @dag.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert (add(1), add(1, 3), add(b=4, a=1)) == (3, 4, 5)
    assert str(signature(add)) == "(a: 'int', b: 'int' = 2) -> 'int'"


async def test_an_async_task_is_awaited_like_its_function() -> None:
    """A unit test needs no runtime."""
    dag, (a,) = make("a")
    number: Any = a.output

    @dag.task
    async def double(x: int = number) -> int:
        return 2 * x

    assert await double(3) == 6
    coroutine = double(x=4)
    assert iscoroutine(coroutine)
    assert await coroutine == 8


@pytest.mark.parametrize("marker", ["reference", "template", "nested"])
def test_leaving_out_what_only_a_run_fills_is_a_type_error(marker: str) -> None:
    """The handler never sees a reference."""
    dag, (a,) = make("a")
    markers: dict[str, Any] = {"reference": a.output, "template": template("{{ run.id }}"), "nested": [a.output]}

    @dag.task
    def take(x: int, y: int = markers[marker]) -> int:
        return x + y

    assert take(1, 2) == 3
    with pytest.raises(TypeError, match=r"take\(\) is called as a plain function and lacks argument 'y': only a run fills it"):
        take(1)
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        take(y=1)  # type: ignore[call-arg]


def test_a_class_has_no_task_to_call() -> None:
    """What is no function is refused by the plan, and called as what it is until then."""
    dag = DAG("d")
    task: Any = dag.add(Robot, id="robot")

    assert isinstance(task(), Robot)
    with pytest.raises(DAGValidationError, match="its handler is a class"):
        dag.plan()
