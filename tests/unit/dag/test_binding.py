"""From signatures to inputs, and from inputs to arguments."""

# ruff: noqa: B006, B008, ARG001 - handlers are never called here; their defaults are what is tested

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NewType

import attrs
import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.filling import fill
from dagrelay.dag.inputs import ConstantInput, ContextInput, ParamInput, Read, ReferenceInput, TemplateInput, TreeInput
from dagrelay.dag.references import template
from dagrelay.errors import DAGValidationError, MissingReferenceError, XComNotFoundError, XComTypeError
from dagrelay.model.injected import Injected
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import MissingPolicy

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo as Unresolvable  # noqa: N812 - it is there for checkers only

    from dagrelay.dag.plan import PlannedTask
    from dagrelay.templates import Expression

Name = NewType("Name", str)


@dataclass
class Stats:
    """Comes by reference."""

    mean: float
    """A number."""


class Thing:
    """Is no value that can be stored."""


class Context(Injected):
    """Is injected."""


VALUES: Final[dict[tuple[str, str], Any]] = {
    ("load", "return_value"): {"rows": [{"mean": 1}, {"mean": 2.5}], "day": "2024-02-29", "n": 5, "null": None},
    ("load", "count"): 3,
}


class Source:
    """The values of one run in which `load` has succeeded."""

    _task_ids = ("load", "task")

    def read(self, read: Read) -> Any:
        """Return a value, or MISSING."""
        return VALUES.get((self._task_ids[read.index], read.key), MISSING)

    def read_missing(self, read: Read, map_index: int | None = None) -> XComNotFoundError:
        """Return the error for a value that is not there."""
        return XComNotFoundError("run-1", self._task_ids[read.index], read.key, map_index=map_index, state="success")

    def expression_missing(self, expression: Expression) -> None:
        """Leave it to the usual error."""

    def get(self, expression: Expression) -> Any:
        """Return a value, or MISSING."""
        if expression.root == "xcom":
            return VALUES.get((expression.task_id, expression.key), MISSING)
        return {"id": "run-1"}.get(expression.names[0], MISSING)


def planned(handler: Callable[..., Any], **options: Any) -> PlannedTask:
    """Return a handler as a task that is planned after `load`."""
    dag = DAG("d")
    load = dag.add(_load, id="load")
    source = handler(load) if handler.__name__.startswith("with_") else handler
    dag.add(source, id="task", depends_on="load", **options)
    plan = dag.plan()
    assert plan.task_ids == ("load", "task")
    return plan.tasks[1]


async def _load() -> Any: ...


def arguments(
    task: PlannedTask, *, params: dict[str, Any] | None = None, missing: MissingPolicy = MissingPolicy.ERROR
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a task in a run in which `load` has succeeded."""
    return fill(task, Source(), context="the context", params=params or {}, missing=missing)


# ------------------------------------------------------------------------------------------------------------ the order


def test_parameters_are_filled_in_the_promised_order() -> None:
    """Context, bind, marked default, run param, plain default: the first that there is."""

    def with_all(load: Any) -> Any:
        async def take(
            ctx: Context,
            bound: int = load.output.n,
            by_default: int = load.output.n,
            given: int = 1,
            not_given: int = 2,
        ) -> None: ...

        return take

    task = planned(with_all, bind={"bound": 7})

    assert [type(each) for each in task.inputs] == [ContextInput, ConstantInput, ReferenceInput, ParamInput, ParamInput]
    assert arguments(task, params={"bound": 8, "by_default": 9, "given": 3}) == (
        (),
        {"ctx": "the context", "bound": 7, "by_default": 5, "given": 3, "not_given": 2},
    )
    assert task.needs_context
    assert not task.has_templates
    assert task.reads == (Read(0, "return_value"),)


def test_positional_parameters_are_passed_by_position() -> None:
    """A handler may name its parameters as it likes, or not at all."""

    def with_slash(load: Any) -> Any:
        async def take(ctx: Context, a: int, b: int = load.output.n, /, c: int = 3, *rest: int, d: int, **more: int) -> None: ...

        return take

    task = planned(with_slash, bind={"e": 5})

    assert task.positional == 3
    assert arguments(task, params={"a": 1, "d": 4}) == (("the context", 1, 5), {"c": 3, "d": 4, "e": 5})


def test_bind_reaches_keywords_that_have_no_name() -> None:
    """A handler with `**kwargs` takes any, references and templates as well."""

    def with_keywords(load: Any) -> Any:
        async def take(**more: Any) -> None: ...

        return take

    task = planned(with_keywords, bind={"a": template("{{ run.id }}!"), "b": [1]})

    assert arguments(task) == ((), {"a": "run-1!", "b": [1]})


def handler(text: str) -> Any:
    """Return a handler that has these parameters, without annotations."""
    return eval(f"lambda {text}: None")  # noqa: S307 - our own text


@pytest.mark.parametrize("parameters", ["ctx", "ctx, /", "ctx, other=1"])
def test_a_first_parameter_named_ctx_gets_the_context(parameters: str) -> None:
    """It needs no annotation."""
    by_position, by_name = arguments(planned(handler(parameters)))

    assert (*by_position, *by_name.values())[0] == "the context"


def test_only_the_first_ctx_without_default_is_the_context() -> None:
    """Others are parameters as any."""
    assert arguments(planned(handler("a, ctx")), params={"a": 1, "ctx": 2}) == ((), {"a": 1, "ctx": 2})
    assert arguments(planned(handler("ctx=3"))) == ((), {"ctx": 3})


def test_the_context_can_not_be_bound() -> None:
    """It is told, also with other problems."""

    async def take(ctx: Context) -> None: ...

    with pytest.raises(DAGValidationError, match="task 'task': bind names 'ctx', which gets the context"):
        planned(take, bind={"ctx": 1})


# ----------------------------------------------------------------------------------------------------------- references


def test_a_reference_is_structured_into_the_annotation() -> None:
    """The value at the path becomes what the parameter says; without annotation, and as Any, it stays plain."""

    def with_types(load: Any) -> Any:
        async def take(  # noqa: PLR0917 - one of each kind
            rows: list[Stats] = load.output.rows,
            last: Stats = load.output.rows[-1],
            day: date = load.output["day"],
            name: Name = load.output.day,
            noted: Annotated[int, "note"] = load.xcom("count"),
            null: int | None = load.output.null,
            anything: Any = load.output.rows[0],
            plain: Any = load.output.rows[0],
        ) -> None: ...

        del take.__annotations__["plain"]
        return take

    assert arguments(planned(with_types))[1] == {
        "rows": [Stats(1.0), Stats(2.5)],
        "last": Stats(2.5),
        "day": date(2024, 2, 29),
        "name": "2024-02-29",
        "noted": 3,
        "null": None,
        "anything": {"mean": 1},
        "plain": {"mean": 1},
    }


def test_a_value_of_another_type_is_told_with_its_parameter_and_path() -> None:
    """Nothing is guessed."""

    def with_text(load: Any) -> Any:
        async def take(rows: list[str] = load.output.rows) -> None: ...

        return take

    with pytest.raises(XComTypeError, match=r"parameter 'rows' of task 'task': .* @ \$\[0\]$"):
        arguments(planned(with_text))


def test_a_missing_value_is_an_error_or_takes_the_default() -> None:
    """A missing entry, and a path to nothing; a stored null is a value."""

    def with_default(load: Any) -> Any:
        async def take(
            a: list[int] = load.output_or({"lost": [1]}).lost,
            c: Any = load.output_or({"null": 3}).null,
        ) -> None: ...

        return take

    def with_gap(load: Any) -> Any:
        async def take(a: Any = load.xcom("lost")) -> None: ...

        return take

    def with_wrong_path(load: Any) -> Any:
        async def take(a: Any = load.output.rows[7].mean) -> None: ...

        return take

    with pytest.raises(XComTypeError, match=r"the value of <reference .*> has nothing there @ \$\.rows\[7\]\.mean$"):
        arguments(planned(with_wrong_path))
    with pytest.raises(XComNotFoundError, match="no XCom 'lost' of task 'load'"):
        arguments(planned(with_gap))
    assert arguments(planned(with_default))[1] == {"a": [1], "c": None}


def test_a_default_is_a_fresh_copy_each_time() -> None:
    """A handler that changes it changes nothing for others."""
    default = {"rows": [1]}

    def with_default(load: Any) -> Any:
        async def take(a: Any = load.output_or(default), b: Any = load.output_or(None)) -> None: ...

        return take

    task = planned(with_default)
    references = [each for each in task.inputs if isinstance(each, ReferenceInput)]
    lost = attrs.evolve(task, inputs=tuple(attrs.evolve(each, read=Read(1, "lost")) for each in references))

    _, first = arguments(lost)
    first["a"]["rows"].append(2)

    assert arguments(lost)[1] == {"a": {"rows": [1]}, "b": None}
    assert default == {"rows": [1]}


# ------------------------------------------------------------------------------------------------------------ templates


def test_a_template_becomes_text_or_what_the_annotation_says() -> None:
    """A str parameter always gets text; for others one reference alone keeps its type."""

    async def take(  # noqa: PLR0917 - one of each kind
        text: str = template("{{ xcom.load.n }} of {{ xcom.load.count }}"),
        lone_text: str = template("{{ xcom.load.count }}"),
        name: Name = template("{{ xcom.load.count }}"),
        unannotated: Any = template("{{ xcom.load.count }}"),
        number: int = template("{{ xcom.load.count }}"),
        day: date = template("{{ xcom.load.return_value.day }}"),
        rows: list[Stats] = template("{{ xcom.load.return_value.rows }}"),
        anything: Any = template("{{ xcom.load.count }}"),
        constant: str = template("no braces"),
    ) -> None: ...

    del take.__annotations__["unannotated"]

    task = planned(take, missing="empty")

    assert all(isinstance(each, TemplateInput) for each in task.inputs)
    assert task.has_templates
    assert task.reads == (Read(0, "n"), Read(0, "count"), Read(0, "return_value"))
    assert arguments(task, missing=MissingPolicy.EMPTY)[1] == {
        "text": " of 3",
        "lone_text": "3",
        "name": "3",
        "unannotated": "3",
        "number": 3,
        "day": date(2024, 2, 29),
        "rows": [Stats(1.0), Stats(2.5)],
        "anything": 3,
        "constant": "no braces",
    }
    with pytest.raises(MissingReferenceError):
        arguments(task)


def test_a_template_that_does_not_fit_is_told() -> None:
    """Text is no number."""

    async def take(number: int = template("{{ xcom.load.count }}!")) -> None: ...

    with pytest.raises(XComTypeError, match="parameter 'number' of task 'task'"):
        arguments(planned(take))


def test_text_without_template_is_never_rendered() -> None:
    """Not as a default, not as a param, not in bind, not beside a reference."""
    text = "{{ xcom.load.count }}"

    def with_text(load: Any) -> Any:
        async def take(a: str = text, b: str = "", c: str = "", d: Any = [text, load.xcom("count")]) -> None: ...

        return take

    task = planned(with_text, bind={"b": text})

    assert arguments(task, params={"c": text})[1] == {"a": text, "b": text, "c": text, "d": [text, 3]}


def test_references_stand_inside_containers() -> None:
    """In lists, tuples and dicts of defaults and bind; the whole is structured."""
    four: Any = {"mean": 4}

    def with_trees(load: Any) -> Any:
        async def take(
            rows: list[Stats] = [load.output.rows[1], four],
            pair: tuple[int, str] = (load.xcom("count"), template("{{ xcom.load.count }} rows")),
            tree: Any = None,
        ) -> None: ...

        return take

    task = planned(with_trees, bind={"tree": {"a": [load_free(), {"b": template("{{ run.id }}")}]}})

    assert [type(each) for each in task.inputs] == [TreeInput] * 3
    assert arguments(task)[1] == {
        "rows": [Stats(2.5), Stats(4.0)],
        "pair": (3, "3 rows"),
        "tree": {"a": [1, {"b": "run-1"}]},
    }


def load_free() -> int:
    """Return a constant that stands beside templates."""
    return 1


def test_config_is_a_tree_of_templates() -> None:
    """Its strings are templates, references stand for theirs, and all they read is fetched."""

    def with_config(load: Any) -> Any:
        async def take(ctx: Context) -> None: ...

        return take

    task = planned(with_config, config={"a": "{{ xcom.load.count }}", "b": ["x", template("{{ run.id }}")], "n": 3})

    assert task.config is not None
    assert [each.source for each in task.config.expressions] == ["xcom.load.count", "run.id"]
    assert task.reads == (Read(0, "count"),)
    assert task.has_templates


# ------------------------------------------------------------------------------------------------------------- params


def test_a_run_param_is_structured_and_copied() -> None:
    """A handler that changes what it gets changes nothing for others."""

    async def take(stats: Stats, rows: list[int], anything: Any) -> None: ...

    params: dict[str, Any] = {"stats": {"mean": 2}, "rows": [1], "anything": {"a": []}}

    _, first = arguments(planned(take), params=params)
    first["rows"].append(2)
    first["anything"]["a"].append(2)

    assert arguments(planned(take), params=params)[1] == {"stats": Stats(2.0), "rows": [1], "anything": {"a": []}}


def test_a_param_that_an_older_run_was_not_given_is_told() -> None:
    """A run taken up again with a DAG that asks for more."""

    async def take(path: str) -> None: ...

    with pytest.raises(XComTypeError, match="parameter 'path' of task 'task': the run was given no param 'path'"):
        arguments(planned(take))


def test_a_plain_default_that_no_run_can_give_stays_itself() -> None:
    """A client, a lock, whatever is no value: it needs no structuring, as nothing replaces it."""
    client = Thing()

    async def take(client: Thing = client, path: str = "x") -> None: ...

    task = planned(take)

    assert isinstance(task.inputs[0], ConstantInput)
    assert arguments(task)[1] == {"client": client, "path": "x"}


# ------------------------------------------------------------------------------------------------------------ problems


def problems(handler: Any, **options: Any) -> tuple[str, ...]:
    """Return what is wrong with a task."""
    with pytest.raises(DAGValidationError) as caught:
        planned(handler, **options)
    return caught.value.problems


def test_what_can_not_be_filled_is_told_with_task_and_parameter() -> None:
    """Before any handler starts."""

    async def take(context: Callable[[], None], lost: Unresolvable) -> None: ...

    first, second = problems(take)

    assert first.startswith("task 'task': parameter 'context' can't be filled: it would get the run param of that name, but ")
    assert second == (
        "task 'task': parameter 'lost' can't be filled: it would get the run param of that name, but the annotation "
        "'Unresolvable' can't be resolved: name 'Unresolvable' is not defined; import it where the handler is written, also at "
        "run time; bind it, or give it a default"
    )


def test_an_annotation_that_can_not_be_used_is_told() -> None:
    """On parameters whose value has to be structured."""

    def with_types(load: Any) -> Any:
        async def take(
            a: Unresolvable = load.output,
            b: Context | type = load.output,
        ) -> None: ...

        return take

    first, second = problems(with_types)

    assert first.startswith("task 'task': parameter 'a': the annotation 'Unresolvable' can't be resolved: ")
    assert second.startswith("task 'task': parameter 'b': ")


def test_a_task_is_not_its_output() -> None:
    """It is told what to write instead."""

    def with_tasks(load: Any) -> Any:
        async def take(a: Any = load, b: Any = [load], c: Any = None) -> None: ...

        return take

    assert problems(with_tasks, config={"x": {"y": DAG("e").add(_load, id="other")}}) == (
        "task 'task': parameter 'a' gets task 'load' itself; write its `.output`",
        "task 'task': parameter 'b' holds task 'load' itself; write its `.output`",
        "task 'task': config holds task 'other' itself; write its `.output`",
    )


def test_what_is_wrong_inside_a_container_is_told() -> None:
    """Other DAGs' tasks, defaults no template can say, loops, depth, and bad templates with their path."""
    other = DAG("e").add(_load, id="other")
    loop: list[Any] = [other.output]
    loop.append(loop)
    deep: Any = "{{ run.id }}"
    for _ in range(300):
        deep = [deep]

    async def take(a: Any = [other.output], b: Any = [1], c: Any = loop, d: Any = None) -> None: ...

    def with_odd_default(load: Any) -> Any:
        async def take_odd(a: Any = [load.output_or({1, 2})]) -> None: ...

        return take_odd

    first, second, third, *bad = problems(
        take, config={"deep": {"x": ["{{ nope }}", "{{ xcom.nobody }}"]}, "bad": "{{ xcom. }}"}, bind={"d": [template("{{"), 1]}
    )
    assert first == "task 'task': parameter 'a' reads task 'other' of another DAG"
    assert second == "task 'task': parameter 'c': a list contains itself"
    assert third.startswith("task 'task': parameter 'd': ")
    assert third.endswith("@ $[0]")
    assert [problem.endswith(path) for problem, path in zip(bad, ["@ $.deep.x[0]", "@ $.bad"], strict=False)] == [True, True]
    assert bad[2].startswith("task 'task': config reads task 'nobody' at column 4")
    assert problems(with_odd_default)[0].startswith(
        "task 'task': parameter 'a': the default of {{ xcom.load.return_value }} can't"
    )
    assert problems(_load, config={"deep": deep})[0].startswith(
        "task 'task': config: levels of a config: 201 exceeds the limit of 200"
    )


def test_a_partial_binds_references_by_name_only() -> None:
    """By position they would reach the handler as they are."""

    def with_partial(load: Any) -> Any:
        return partial(len, load.output)

    def with_keyword(load: Any) -> Any:
        async def take(x: int) -> None: ...

        return partial(take, x=load.xcom("count"))

    assert problems(with_partial) == (
        "task 'task': its handler is a partial that binds a reference by position; bind it by name",
    )
    assert arguments(planned(with_keyword))[1] == {"x": 3}


def test_an_earlier_run_is_read_without_an_edge() -> None:
    """Of any task of the DAG, and beside what is read of the run."""

    async def take(
        x: str = template("{{ previous.load.count }} {{ xcom.load.count }} {{ previous.load.count | length }}"),
    ) -> None: ...

    task = planned(take)
    assert task.earlier == (Read(task.reads[0].index, "count", is_previous=True),)
    assert task.reads == (Read(task.reads[0].index, "count"),)


def test_an_earlier_run_of_an_unknown_task_is_a_problem() -> None:
    """With near names, as anywhere."""

    async def take(x: str = template("{{ previous.laod.count }}")) -> None: ...

    told = "task 'task': parameter 'x' reads task 'laod' at column 4, which is not in the DAG; did you mean 'load'?"
    assert problems(take) == (told,)


def test_an_unknown_root_is_told_with_those_there_are() -> None:
    """All five."""

    async def take(x: str = template("{{ oops.load.count }}")) -> None: ...

    assert "unknown root 'oops', expected params, previous, run, task, xcom at column 4" in problems(take)[0]
