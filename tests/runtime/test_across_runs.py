"""Reading other runs: earlier ones, in handlers, from outside and in templates, and one by its id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay import (
    DAG,
    DAGValidationError,
    InvalidIdError,
    MissingPolicy,
    NotUpstreamError,
    RunFailedError,
    Runtime,
    RuntimeClosedError,
    TaskContext,
    XComNotFoundError,
    XComOptions,
    XComTypeError,
    each,
    template,
)
from tests.runtime.probes import Probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dagrelay import Durability, Store
    from dagrelay.xcom import OtherRun


@dataclass
class Page:
    """What a handler returns."""

    number: int


def counting() -> DAG:
    """Return a DAG whose task returns one more than it did in the run before, and fails where it is told to."""
    dag = DAG("counting", params={"fails": False})

    @dag.task
    async def count(
        fails: bool,
        last: int = template("{{ previous.count.return_value | default(0) }}"),
    ) -> int:
        if fails:
            raise ValueError("no")
        return last + 1

    return dag


async def failure(runtime: Runtime, dag: DAG, **options: Any) -> BaseException | None:
    """Return what the only failed task of a run failed of."""
    with pytest.raises(RunFailedError) as caught:
        await runtime.run(dag, **options)
    (error,) = caught.value.exceptions
    return error.__cause__


# ------------------------------------------------------------------------------------------------------------- templates


async def test_a_template_reads_the_run_before(open_store: Callable[[], Store], durability: Durability) -> None:
    """Its own task's value, kept over runtimes; a run that failed is passed over."""
    dag = counting()
    counts: list[int] = []
    for _ in range(2):
        async with Runtime(open_store(), durability=durability) as runtime:
            counts.append((await runtime.run(dag))["count"])
            await runtime.run(dag, params={"fails": True}, raise_on_failure=False)
            counts.append((await runtime.run(dag))["count"])
    assert counts == [1, 2, 3, 4]


async def test_a_template_goes_into_an_earlier_value_and_makes_no_edge(open_store: Callable[[], Store]) -> None:
    """Paths, filters, other keys, text and config, and a task that comes later; a lone reference keeps its type."""
    dag = DAG("d")

    @dag.task(config={"whole": "{{ previous.late.return_value }}", "n": "{{ previous.late.note | default(null) }}"})
    async def early(ctx: TaskContext, text: str = template("{{ previous.late.return_value.rows[-1].n | default(7) }}!")) -> Any:
        return [text, ctx.config]

    @dag.task(missing=MissingPolicy.EMPTY, depends_on=early)
    async def late(ctx: TaskContext, empty: str = template("<{{ previous.early.nothing }}>")) -> Any:
        await ctx.xcom.push("note", empty)
        return {"rows": [{"n": 1}, {"n": 2}]}

    assert [task.upstream for task in dag.plan().tasks] == [(), (0,)]
    async with Runtime(open_store(), missing=MissingPolicy.EMPTY) as runtime:
        first, second = await runtime.run(dag), await runtime.run(dag)
        assert await first.pull("early") == ["7!", {"whole": None, "n": None}]
        assert await second.pull("early") == ["2!", {"whole": {"rows": [{"n": 1}, {"n": 2}]}, "n": "<>"}]


async def test_earlier_values_are_those_of_the_tasks_named_in_whatever_order_they_are_defined(
    open_store: Callable[[], Store],
) -> None:
    """In inputs and in what a task is mapped over."""
    dag = DAG("d")

    @dag.task(depends_on="b")
    async def c(text: str = template("{{ previous.a | default(0) }} {{ previous.b | default(0) }}")) -> str:
        return text

    @dag.task(depends_on="b")
    async def d(item: int = each(template("{{ previous.e | default([0]) }}"))) -> int:
        return item

    for name, value in (("e", [7]), ("b", "B"), ("a", "A")):
        dag.add(returning(value), id=name, depends_on=[] if name == "a" else "a")
    async with Runtime(open_store()) as runtime:
        results = [await runtime.run(dag) for _ in range(2)]
    assert [(result[c], result.outputs(d)) for result in results] == [("0 0", [0]), ("A B", [7])]


def returning(value: Any) -> Any:
    """Return a handler of a constant."""

    async def give() -> Any:
        return value

    return give


async def test_an_earlier_value_that_is_not_there_is_missing(open_store: Callable[[], Store]) -> None:
    """The error says where it was looked for, or that it has nothing at the path."""
    dag = DAG("d")

    @dag.task
    async def a(path: str = template("{{ params.path }}{{ previous.a.return_value.deep }}"), path_: int = 0) -> Any:
        raise AssertionError(path, path_)

    dag.params = {"path": ""}  # type: ignore[misc,assignment]
    async with Runtime(open_store()) as runtime:
        first = await failure(runtime, dag, run_id="first")
        assert isinstance(first, XComNotFoundError)
        assert "no XCom 'return_value' of task 'a' in any run of DAG 'd' before run 'first'" in str(first)
        assert "{{ previous.a.return_value.deep }}; the first run takes `| default(...)`" in str(first)
        await runtime.xcom.push("first", "a", "return_value", {"flat": 1})
        second = await failure(runtime, dag)
        assert "no value for {{ previous.a.return_value.deep }}" in str(second)


async def test_a_mapped_task_takes_its_list_from_an_earlier_run(open_store: Callable[[], Store]) -> None:
    """Read once, when it is expanded, beside what is read of this run."""
    dag = DAG("d")

    @dag.task
    async def todo() -> list[int]:
        return [1, 2]

    @dag.task(depends_on=todo)
    async def done(item: int = each(template("{{ previous.todo.return_value | default([9]) }}"))) -> int:
        return item * 10

    async with Runtime(open_store()) as runtime:
        results = [await runtime.run(dag) for _ in range(2)]
    assert [result.outputs(done) for result in results] == [[90], [10, 20]]


def test_an_earlier_value_of_a_mapped_task_is_a_planning_error() -> None:
    """In inputs and in what is mapped over, with the way round; before the task, and after it."""
    dag = DAG("d")

    @dag.task
    async def before(text: str = template("{{ previous.mapped.key }}")) -> None: ...

    @dag.task
    async def mapped(item: int = each([1]), last: str = template("{{ previous.mapped | default(0) }}")) -> int:
        return item + len(last)

    @dag.task
    async def over(item: int = each(template("{{ previous.mapped }}"))) -> None: ...

    with pytest.raises(DAGValidationError) as caught:
        dag.plan()
    assert [problem.split(" reads")[0] for problem in caught.value.problems] == [
        "task 'before'",
        "task 'mapped'",
        "task 'over'",
    ]
    assert "ctx.xcom.of_run(run_id).pull_outputs('mapped')" in caught.value.problems[0]


# -------------------------------------------------------------------------------------------------------------- previous


async def test_a_handler_reads_earlier_runs(open_store: Callable[[], Store], durability: Durability) -> None:
    """Typed by the annotation, by key, with a default; None is a value."""
    dag = DAG("d")

    @dag.task
    async def page(ctx: TaskContext) -> Page:
        await ctx.xcom.push("nothing", None)
        return Page((await ctx.xcom.previous(page, default=Page(0))).number + 1)

    @dag.task
    async def look(ctx: TaskContext) -> list[Any]:  # not downstream of it
        previous = ctx.xcom.previous
        return [
            (await previous(page)).number,
            await previous("page"),
            (await previous("page", as_type=Page)).number,
            await previous(page, "nothing", default="default"),
            await previous(page, "none", default="default"),
        ]

    async with Runtime(open_store(), durability=durability) as runtime:
        first = await failure(runtime, dag)
        assert isinstance(first, XComNotFoundError)
        result = await runtime.run(dag)
    assert result[look] == [1, {"number": 1}, 1, None, "default"]


async def test_a_handler_reads_no_earlier_run_of_what_has_none(open_store: Callable[[], Store]) -> None:
    """A task that the DAG does not have, one that is mapped, a key that is none."""
    dag, errors = DAG("d"), list[type[Exception]]()

    @dag.task
    async def mapped(item: int = each([1])) -> int:
        return item

    @dag.task
    async def look(ctx: TaskContext) -> None:
        for task, key in (("lok", "k"), ("mapped", "k"), ("look", "")):
            with pytest.raises((NotUpstreamError, XComTypeError, InvalidIdError)) as caught:
                await ctx.xcom.previous(task, key, default=0)
            errors.append(caught.type)

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag)
    assert errors == [NotUpstreamError, XComTypeError, InvalidIdError]


async def test_the_manager_lists_earlier_values_newest_first(open_store: Callable[[], Store]) -> None:
    """As pairs; typed where it is asked for."""
    dag = counting()
    async with Runtime(open_store()) as runtime:
        for number in range(4):
            await runtime.run(dag, run_id=f"r{number}")
        previous = runtime.xcom.previous
        assert await previous("counting", "count", before_run="r3") == [("r2", 3)]
        assert await previous("counting", "count", before_run="r3", limit=9) == [("r2", 3), ("r1", 2), ("r0", 1)]
        assert await previous("counting", "count", before_run="r0") == await previous("counting", "x", before_run="r3") == []
        assert await previous("counting", "count", before_run="none") == []
        with pytest.raises(XComTypeError):
            await previous("counting", "count", before_run="r3", as_type=str)
        with pytest.raises(ValueError, match="at least 1"):
            await previous("counting", "count", before_run="r3", limit=0)
        wrongs: list[dict[str, Any]] = [{"dag_id": "/"}, {"task_id": "/"}, {"key": ""}, {"before_run": "/"}]
        for wrong in wrongs:
            given: dict[str, Any] = {"dag_id": "d", "task_id": "t", "key": "k", "before_run": "r", **wrong}
            with pytest.raises(InvalidIdError):
                await previous(**given)


# --------------------------------------------------------------------------------------------------------- another's run


def source() -> DAG:
    """Return a DAG with a bit of everything."""
    dag = DAG("source")

    @dag.task
    async def page(ctx: TaskContext) -> Page:
        await ctx.xcom.push("secret", 1, sensitive=True)
        return Page(5)

    @dag.task
    async def odd(item: int = each([1, 2, 3])) -> int:
        if item == 2:
            raise ValueError("even")
        return item

    @dag.task
    async def none(item: int = each(template("{{ xcom.page.none }}"))) -> int:  # can't be expanded
        return item

    return dag


def reading(read: Callable[[OtherRun], Awaitable[Any]], run_id: str = "s") -> DAG:
    """Return a DAG whose task returns what is read of a run."""
    dag = DAG("reader")

    @dag.task
    async def look(ctx: TaskContext) -> Any:
        return await read(ctx.xcom.of_run(run_id))

    return dag


async def test_another_run_is_read_as_everybody_sees_it(open_store: Callable[[], Store]) -> None:
    """Values by id and by Task of another DAG, lists with holes filled, elements, and entries with sensitive ones masked."""
    dag = source()
    page, odd = dag.tasks["page"], dag.tasks["odd"]

    async def read(run: OtherRun) -> Any:
        assert await run.pull("other", default=None) is None
        entries = [[e.task_id, e.map_index, e.key, e.value] for e in await run.list(include_values=True)]
        return [
            run.run_id,
            await run.pull("page"),
            (await run.pull(page)).number,
            await run.pull(page, "secret"),
            await run.pull("page", "none", default="d"),
            await run.pull("odd", map_index=2),
            await run.pull_outputs(odd, default=0),
            await run.pull_outputs("none", default=0),
            await run.pull_outputs("nothing", default=0),
            await run.pull_outputs("odd", "nothing", default=0),
            entries,
            [entry.value for entry in await run.list(page, prefix="se")],
        ]

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="s", raise_on_failure=False)
        result = await runtime.run(reading(read))
    assert result["look"] == [
        "s",
        {"number": 5},
        5,
        1,
        "d",
        3,
        [1, 0, 3],
        [],
        [],
        [0, 0, 0],
        [
            ["page", None, "return_value", {"number": 5}],
            ["page", None, "secret", None],
            ["odd", 0, "return_value", 1],
            ["odd", 2, "return_value", 3],
        ],
        [None],
    ]


ABSENT: list[tuple[Callable[[OtherRun], Awaitable[Any]], type[Exception], str]] = [
    (lambda run: run.pull("page", "secrt"), XComNotFoundError, "did you mean 'secret'?"),
    (lambda run: run.pull("pag"), XComNotFoundError, "did you mean 'page'?"),
    (lambda run: run.pull("odd"), XComTypeError, "use pull_outputs()"),
    (lambda run: run.pull("odd", default=1), XComTypeError, "use pull_outputs()"),
    (lambda run: run.pull("page", map_index=-1), InvalidIdError, "map index"),
    (lambda run: run.pull("page", as_type=int), XComTypeError, "int"),
    (lambda run: run.pull_outputs("page"), XComTypeError, "use pull()"),
    (lambda run: run.pull_outputs("odd"), XComNotFoundError, "element 1 of task 'odd' in run 's' (the element is failed)"),
    (lambda run: run.pull_outputs("none"), XComNotFoundError, "it was not expanded"),
    (lambda run: run.pull("/"), InvalidIdError, "task id"),
    (lambda run: run.list("/"), InvalidIdError, "task id"),
]


@pytest.mark.parametrize(("read", "error", "words"), ABSENT)
async def test_what_another_run_does_not_have_is_an_error(
    open_store: Callable[[], Store], read: Callable[[OtherRun], Awaitable[Any]], error: type[Exception], words: str
) -> None:
    """Of a type and with words that tell why."""
    async with Runtime(open_store()) as runtime:
        await runtime.run(source(), run_id="s", raise_on_failure=False)
        caught = await failure(runtime, reading(read))
    assert type(caught) is error
    assert words in str(caught)


async def test_a_run_that_is_not_there_is_missing_too(open_store: Callable[[], Store]) -> None:
    """`default` stands in for it; the own run, and what is no run id, are refused."""
    dag, caught = DAG("d"), list[str]()

    @dag.task
    async def look(ctx: TaskContext) -> Any:
        for run_id in (ctx.run_id, "/"):
            with pytest.raises(InvalidIdError) as error:
                ctx.xcom.of_run(run_id)
            caught.append(str(error.value))
        other = ctx.xcom.of_run("none")
        with pytest.raises(XComNotFoundError, match="there is no run 'none'"):
            await other.pull("a")
        return [await other.pull("a", default=1), await other.pull_outputs("a", default=1), await other.list()]

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result["look"] == [1, [], []]
    assert "it is this run's own; read it by ctx.xcom.pull" in caught[0]


async def test_of_another_run_only_what_is_committed_is_seen(open_store: Callable[[], Store]) -> None:
    """A running task's pushes are its own, but for those it published; what comes from outside is seen at once."""
    probe, dag = Probe(), DAG("source")

    @dag.task
    async def a(ctx: TaskContext) -> int:
        await ctx.xcom.push("own", 1)
        await ctx.xcom.push("shown", 2, publish=True)
        await probe.hold("a")
        return 3

    async def read(run: OtherRun) -> list[Any]:
        return [await run.pull("a", key, default=None) for key in ("own", "shown", "outside", "return_value")]

    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="s")
        await probe.reach("a")
        await runtime.xcom.push("s", "a", "outside", 4, options=XComOptions(sensitive=True))
        before = await runtime.run(reading(read))
        probe.let_go("a")
        await handle.result()
        after = await runtime.run(reading(read))
    assert before["look"] == [None, 2, 4, None]
    assert after["look"] == [1, 2, 4, 3]


async def test_other_runs_are_read_as_long_as_the_runtime_is_open(open_store: Callable[[], Store]) -> None:
    """A context that is kept reads no more then."""
    dag, kept = DAG("d"), list[TaskContext]()

    @dag.task
    async def keep(ctx: TaskContext) -> None:
        kept.append(ctx)

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag)
    for read in (kept[0].xcom.previous("keep"), kept[0].xcom.of_run("x").pull("a"), kept[0].xcom.of_run("x").list()):
        with pytest.raises(RuntimeClosedError):
            await read
