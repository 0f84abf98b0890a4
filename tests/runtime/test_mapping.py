"""Mapped tasks from the first list to the last result: what they are mapped over, what stands where, and what others see."""

# ruff: noqa: B008 - the signature is the wiring

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import pytest

from dagrelay import (
    DAG,
    DAGValidationError,
    Limits,
    MissingPolicy,
    RunFailedError,
    RunInterruptedError,
    RunState,
    Runtime,
    Skip,
    TaskContext,
    TaskState,
    TaskStateChanged,
    XComNotFoundError,
    XComTypeError,
    each,
    template,
    zip_each,
)
from dagrelay.errors import StoreError
from tests.runtime.failing import Faults, failing_stores
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe, reached, time_is_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dagrelay import Durability, Store, Task
    from dagrelay.stores.base import Lookup, StoredEntry

SIZES = pytest.mark.parametrize("size", [0, 1, 2])


@dataclass
class Point:
    """A value of a type of its own."""

    x: int
    y: int


async def double(item: int) -> int:
    """Return twice as much."""
    await anyio.lowlevel.checkpoint()
    return 2 * item


def mapped(dag: DAG, over: Any, **options: Any) -> Task[int]:
    """Add a task that doubles each element."""
    return dag.add(double, id="double", bind={"item": each(over)}, **options)


def fragile(dag: DAG, behaviour: str, **options: Any) -> Task[Any]:
    """Add a task mapped over letters: `o` is handed on, `n` gives None, `f` fails, `s` is skipped."""

    async def work(ctx: TaskContext, letter: str = each(list(behaviour))) -> str | None:
        await anyio.lowlevel.checkpoint()
        match letter:
            case "f":
                raise ValueError(f"element {ctx.map_index} is bad")
            case "s":
                raise Skip("not wanted")
            case "n":
                return None
            case _:
                return f"{letter}{ctx.map_index}"

    return dag.add(work, id="work", **options)


# ------------------------------------------------------------------------------------------------------ what is mapped over


async def test_each_source_is_split_in_order(open_store: Callable[[], Store]) -> None:
    """References and paths into them, params by a template, lists, tuples and dicts are all mapped over."""
    dag = DAG("d", params={"cities": ["Rom", "Oslo"]})

    @dag.task
    async def load() -> dict[str, Any]:
        return {"rows": [{"n": 1}, {"n": 2}], "by_name": {"a": 1, "b": [2]}}

    async def keep(item: Any) -> Any:
        return item

    sources: dict[str, Any] = {
        "path": each(load.output["rows"]),
        "inside": cast("Any", each(load.output["rows"]))["n"],
        "pairs": each(load.output["by_name"]),
        "key": each(load.output["by_name"])[0],
        "param": each(template("{{ params.cities }}")),
        "list": each([1, "two", None]),
        "tuple": each((1, 2)),
        "dict": each({"k": 1}),
        "holding": each([load.output["rows"][1]["n"], 7]),
    }
    tasks = {name: dag.add(keep, id=name, bind={"item": source}) for name, source in sources.items()}
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
        assert {name: result.outputs(task) for name, task in tasks.items()} == {
            "path": [{"n": 1}, {"n": 2}],
            "inside": [1, 2],
            "pairs": [["a", 1], ["b", [2]]],
            "key": ["a", "b"],
            "param": ["Rom", "Oslo"],
            "list": [1, "two", None],
            "tuple": [1, 2],
            "dict": [["k", 1]],
            "holding": [2, 7],
        }


async def test_several_lists_are_combined_row_by_row(open_store: Callable[[], Store]) -> None:
    """The last varies fastest; two paths into one `each` are of the same element, two `each` of every combination."""
    dag = DAG("d")

    @dag.task
    async def letters() -> list[str]:
        return ["a", "b"]

    pair: Any = each([{"x": 1, "y": 10}, {"x": 2, "y": 20}])

    @dag.task
    async def cell(
        letter: str = letters.each, x: int = pair.x, y: int = pair["y"], flag: bool = each([True, False])
    ) -> list[Any]:
        return [letter, x, y, flag]

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    wanted = [[letter, x, y, flag] for letter in "ab" for x, y in ((1, 10), (2, 20)) for flag in (True, False)]
    assert result.outputs(cell) == wanted


async def test_lists_side_by_side_must_be_of_one_length(open_store: Callable[[], Store]) -> None:
    """`zip_each` gives tuples; a longer list is an error that tells both lengths, and nothing ran."""
    dag, bad = DAG("d"), DAG("bad")

    async def add(pair: tuple[int, str]) -> str:
        assert type(pair) is tuple
        return f"{pair[0]}{pair[1]}"

    good = dag.add(add, bind={"pair": zip_each([1, 2], template("{{ params.s }}"))})
    bad.add(add, bind={"pair": zip_each([1, 2], ["a", "b", "c"])})
    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag, params={"s": ["a", "b"]})).outputs(good) == ["1a", "2b"]
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(bad, run_id="bad")
        assert [row.map_index for row in await runtime.task_instances("bad")] == [None]
    (error,) = failed.value.exceptions
    assert "parameter 'pair' of task 'add': lists side by side have lengths 2, 3" in str(error)
    assert isinstance(error.__cause__, XComTypeError)


@pytest.mark.parametrize("value", ["text", 7, None, True])
async def test_what_is_no_list_is_not_mapped_over(open_store: Callable[[], Store], value: Any) -> None:
    """A str least of all: the error names task, parameter and type."""
    dag = DAG("d")

    @dag.task
    async def load() -> Any:
        return value

    mapped(dag, load.output)
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    told = str(result.errors["double"])
    assert f"parameter 'item' of task 'double': it is mapped over a {type(value).__name__}, and needs a list or dict" in told
    assert list(result.errors) == ["double"]


async def test_elements_are_typed(open_store: Callable[[], Store]) -> None:
    """By the annotation: dataclasses, tuples of a dict's items; a wrong element fails alone, and tells where."""
    dag = DAG("d")

    @dag.task
    async def points() -> list[Point]:
        return [Point(1, 2), Point(3, 4)]

    @dag.task
    async def total(point: Point = points.each) -> int:
        assert type(point) is Point
        return point.x + point.y

    @dag.task
    async def by_name() -> dict[str, Point]:
        return {"a": Point(1, 2)}

    @dag.task
    async def named(item: tuple[str, Point] = each(by_name.output)) -> str:
        return f"{item[0]} {item[1].x}"

    @dag.task
    async def numbers() -> list[Any]:
        return [1, "2"]

    @dag.task
    async def strict(n: int = numbers.each) -> int:
        return n

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert result.outputs(total) == [3, 7]
    assert result.outputs(named) == ["a 1"]
    assert result.outputs(strict, default=0) == [1, 0]
    assert list(result.errors) == ["strict[1]"]
    assert "parameter 'n' of task 'strict'" in str(result.errors["strict[1]"])


async def test_typed_constants_are_elements_as_they_are(open_store: Callable[[], Store]) -> None:
    """A list of dataclasses or dates written into the DAG checks as such, and comes as such."""
    dag = DAG("d")

    @dag.task
    async def total(point: Point = each([Point(1, 2), Point(3, 4)])) -> int:
        return point.x + point.y

    @dag.task
    async def year(day: date = each((date(1999, 1, 1), date(2000, 1, 1)))) -> int:
        return day.year

    @dag.task
    async def pairs(pair: tuple[str, Point] = each({"k": Point(5, 6)})) -> int:
        return pair[1].x

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result.outputs(total) == [3, 7]
    assert result.outputs(year) == [1999, 2000]
    assert result.outputs(pairs) == [5]


async def test_elements_are_copies(open_store: Callable[[], Store]) -> None:
    """A handler that changes its element changes nothing for another attempt, element, parameter or run."""
    dag = DAG("d")
    shared = {"n": [1]}
    constant = [shared, shared]
    pair = each(constant)

    @dag.task(retries=AT_ONCE)
    async def spoil(ctx: TaskContext, item: dict[str, list[int]] = pair, same: dict[str, list[int]] = pair) -> list[int]:
        item["n"].append(9)
        if ctx.attempt == 1:
            raise ValueError("again")
        return same["n"]

    @dag.task
    async def load() -> list[list[int]]:
        return [[1], [2]]

    @dag.task
    async def grow(item: list[int] = load.each, rest: list[list[int]] = load.output) -> int:
        item.append(0)
        rest.append(item)
        return len(item) + len(rest)

    async with Runtime(open_store()) as runtime:
        for _ in range(2):
            result = await runtime.run(dag)
            assert result.outputs(spoil) == [[1], [1]]
            assert result.outputs(grow) == [5, 5]
            assert await result.pull(load) == [[1], [2]]
    assert constant == [{"n": [1]}, {"n": [1]}]


async def test_a_list_is_split_once(open_store: Callable[[], Store]) -> None:
    """A constant that a handler changes meanwhile is what it was when the task was expanded."""
    dag = DAG("d", max_concurrency=1)
    items, others = [1, 2, 3], ["a", "b"]

    @dag.task
    async def work(item: int = each(items), other: str = each(others)) -> str:
        items.clear()
        others.append("c")
        return f"{item}{other}"

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result.outputs(work) == ["1a", "1b", "2a", "2b", "3a", "3b"]


# ------------------------------------------------------------------------------------------------- one shape for any length


@SIZES
async def test_every_way_of_reading_gives_a_list(open_store: Callable[[], Store], size: int) -> None:
    """For none, one and several elements: references, pulls, templates, config, upstream collection and results."""
    dag = DAG("d")
    task = mapped(dag, list(range(size)))

    @dag.task(config={"all": "{{ xcom.double }}", "text": "of {{ xcom.double | length }}"})
    async def read(
        ctx: TaskContext,
        values: list[int] = task.outputs,
        safe: list[int | None] = task.outputs_or(None),
        text: str = template("{{ xcom.double.return_value }}"),
    ) -> dict[str, Any]:
        return {
            "outputs": values,
            "outputs_or": safe,
            "text": text,
            "config": ctx.config,
            "pulled": await ctx.xcom.pull_outputs(task),
            "by id": await ctx.xcom.pull_outputs("double", default=0),
            "upstream": await ctx.xcom.pull_from_upstream(),
        }

    last = dag.add(double, id="last", bind={"item": each(task.outputs)})
    wanted = [2 * n for n in range(size)]
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        found = result[read]
        assert found["outputs"] == found["outputs_or"] == found["pulled"] == found["by id"] == wanted
        assert found["text"] == str(wanted).replace(" ", "")
        assert found["config"] == {"all": wanted, "text": f"of {size}"}
        assert found["upstream"] == {"double": {"return_value": wanted} if size else found["upstream"]["double"]}
        assert result.outputs(last) == [2 * n for n in wanted]
        assert await result.pull_outputs(task) == await result.pull_outputs("double", default=None) == wanted
        assert await runtime.xcom.pull_from_upstream("r", "read", dag) == found["upstream"]
        assert result.tasks["double"].state is TaskState.SUCCESS
        again = await runtime.run(dag, run_id="r")
        assert again.outputs(last) == result.outputs(last)
        assert await again.pull_outputs(task) == wanted


@SIZES
async def test_a_single_value_is_never_read_of_a_mapped_task(open_store: Callable[[], Store], size: int) -> None:
    """Nor a list of one that is not mapped: each error names the way."""
    dag = DAG("d")
    task = mapped(dag, list(range(size)))

    @dag.task
    async def plain() -> int:
        return 1

    @dag.task(depends_on=[task, plain])
    async def read(ctx: TaskContext) -> list[str]:
        told: list[str] = []
        for read in (ctx.xcom.pull(task), ctx.xcom.pull("double"), ctx.xcom.pull(["double"]), ctx.xcom.pull_outputs(plain)):
            with pytest.raises(XComTypeError) as refused:
                await read
            told.append(str(refused.value))
        return told

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
        *singles, gathered = result[read]
        assert all("task 'double' is mapped and has a list of outputs; use pull_outputs()" in text for text in singles)
        assert "task 'plain' is not mapped and has no list of outputs; use pull()" in gathered
        with pytest.raises(XComTypeError, match=r"use result\.outputs\(\)"):
            result[task]
        with pytest.raises(XComTypeError, match=r"use result\.outputs\(\)"):
            await result.pull(task)
        with pytest.raises(XComTypeError, match=r"not mapped and has no list of outputs; use result\[\.\.\.\]"):
            result.outputs(plain)
        with pytest.raises(XComTypeError, match="not mapped"):
            await result.pull_outputs(plain)


async def test_the_outputs_of_a_task_that_is_no_leaf_are_pulled(open_store: Callable[[], Store]) -> None:
    """`result.outputs` says how."""
    dag = DAG("d")
    task = mapped(dag, [1])
    dag.add(double, id="last", bind={"item": each(task.outputs)})
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
        with pytest.raises(LookupError, match=r"await result\.pull_outputs\('double'\)"):
            result.outputs(task)


# ----------------------------------------------------------------------------------------- failed, skipped and None elements


async def test_an_element_without_a_value_keeps_its_place(open_store: Callable[[], Store]) -> None:
    """None is a value; a failed or skipped element is a hole, which takes the default, or is an error naming its index."""
    dag = DAG("d")
    work = fragile(dag, "onfso")

    @dag.task(trigger_rule="all_done")
    async def read(ctx: TaskContext, values: list[Any] = work.outputs_or("hole")) -> dict[str, Any]:
        with pytest.raises(XComNotFoundError, match=r"element 2 of task 'work'.*the element is failed"):
            await ctx.xcom.pull_outputs(work)
        return {"outputs_or": values, "default": await ctx.xcom.pull_outputs(work, default="hole")}

    @dag.task(trigger_rule="all_done")
    async def strict(values: list[Any] = work.outputs) -> Any:
        return values

    @dag.task(trigger_rule="all_done")
    async def at(first: str = work.outputs[0], last: str = work.outputs[-1], none: Any = work.outputs[1]) -> list[Any]:
        return [first, last, none]

    @dag.task(trigger_rule="all_done")
    async def at_hole(value: str = work.outputs[3]) -> str:
        return value

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        wanted = ["o0", None, "hole", "hole", "o4"]
        assert result[read] == {"outputs_or": wanted, "default": wanted}
        assert result[at] == ["o0", "o4", None]
        assert await result.pull_outputs(work, default="hole") == wanted
        with pytest.raises(XComNotFoundError, match="element 2 of task 'work'"):
            await result.pull_outputs(work)
        assert sorted(result.errors) == ["at_hole", "strict", "work[2]"]
        assert "element 2 of task 'work'" in str(result.errors["strict"])
        assert "element 3 of task 'work'" in str(result.errors["at_hole"])
        rows = await runtime.task_instances("r", task_id="work")
        assert [(row.map_index, str(row.state)) for row in rows] == [
            (None, "failed"),
            (0, "success"),
            (1, "success"),
            (2, "failed"),
            (3, "skipped"),
            (4, "success"),
        ]


async def test_templates_see_holes_as_references_do(open_store: Callable[[], Store]) -> None:
    """An element beside a hole is read all the same; the hole, and the list as a whole, are missing and take a default."""
    dag = DAG("d")
    fragile(dag, "ofo")
    texts = {
        "beside": "{{ xcom.work.return_value[2] }}",
        "hole": '{{ xcom.work.return_value[1] | default("none") }}',
        "whole": '{{ xcom.work | default("none") }}',
        "missing": "{{ xcom.work.return_value[-2] }}",
    }

    async def show(text: str) -> str:
        return text

    for name, text in texts.items():
        dag.add(show, id=name, bind={"text": template(text)}, trigger_rule="all_done")
    empty = dag.add(
        show, id="empty", bind={"text": template("<{{ xcom.work }}>")}, missing=MissingPolicy.EMPTY, trigger_rule="all_done"
    )
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert (result["beside"], result["hole"], result["whole"], result[empty]) == ("o2", "none", "none", "<>")
    assert sorted(result.errors) == ["missing", "work[1]"]
    assert "element 1 of task 'work'" in str(result.errors["missing"])


@pytest.mark.parametrize(
    ("behaviour", "state"),
    [
        ("", "success"),
        ("o", "success"),
        ("os", "success"),
        ("ss", "skipped"),
        ("sf", "failed"),
        ("of", "failed"),
        ("n", "success"),
    ],
)
async def test_the_whole_ends_as_its_elements_do(open_store: Callable[[], Store], behaviour: str, state: str) -> None:
    """Failed if one failed, skipped if all were, else success; downstreams go by that."""
    dag = DAG("d")
    work = fragile(dag, behaviour)
    dag.add(double, id="below", bind={"item": 1}, depends_on=work)
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    below = {"success": "success", "skipped": "skipped", "failed": "upstream_failed"}
    assert (str(result.tasks["work"].state), str(result.tasks["below"].state)) == (state, below[state])


async def test_errors_name_the_elements(open_store: Callable[[], Store]) -> None:
    """One for each failed element, with the exception it raised; from the store as well, then without."""
    dag = DAG("d")
    fragile(dag, "offo")
    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag, run_id="r")
        errors: Any = failed.value.exceptions
        told: list[Any] = [(error.task_id, error.map_index, type(error.__cause__)) for error in errors]
        assert told == [("work", 1, ValueError), ("work", 2, ValueError)]
        assert list(failed.value.result.errors) == ["work[1]", "work[2]"]
        assert str(failed.value.exceptions[0]).startswith("task 'work[1]' failed in attempt 1: ValueError: element 1 is bad")
        stored = await runtime.run(dag, run_id="r", raise_on_failure=False)
        assert [str(error) for error in stored.errors.values()] == [str(error) for error in failed.value.exceptions]
        assert list(stored.errors) == ["work[1]", "work[2]"]


async def test_what_was_never_expanded_has_no_list(open_store: Callable[[], Store]) -> None:
    """As upstreams were skipped: reading it is an error, with a default an empty list."""
    dag = DAG("d")

    @dag.task
    async def load() -> list[int]:
        raise Skip("nothing today")

    task = mapped(dag, load.output)

    @dag.task(trigger_rule="all_done")
    async def read(ctx: TaskContext, safe: list[int] = task.outputs_or(0)) -> dict[str, Any]:
        with pytest.raises(XComNotFoundError, match="it was never expanded"):
            await ctx.xcom.pull_outputs(task)
        return {"outputs_or": safe, "default": await ctx.xcom.pull_outputs(task, default=0)}

    @dag.task(trigger_rule="all_done")
    async def strict(values: list[int] = task.outputs) -> list[int]:
        return values

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
        assert result[read] == {"outputs_or": [], "default": []}
        assert "no XCom 'return_value' of task 'double'" in str(result.errors["strict"])
        assert "(the task is skipped)" in str(result.errors["strict"])
        assert await result.pull_outputs(task, default=0) == []
        with pytest.raises(XComNotFoundError):
            await result.pull_outputs(task)


# --------------------------------------------------------------------------------------------------- attempts of elements


async def test_every_element_has_attempts_of_its_own(open_store: Callable[[], Store], durability: Durability) -> None:
    """Retries, keys, checkpoints and idempotency keys are an element's own; the context and templates name it."""
    dag = DAG("d")
    keys: list[str] = []

    @dag.task(retries=AT_ONCE, config={"me": "{{ task.id }}/{{ task.map_index }}/{{ task.attempt }}"})
    async def work(ctx: TaskContext, item: str = each(["a", "b"]), me: int = template("{{ task.map_index }}")) -> Any:
        keys.append(ctx.idempotency_key)
        seen = await ctx.xcom.pull_own("seen", default=0)
        await ctx.xcom.push("seen", seen + 1, lifetime="task")
        await ctx.xcom.push("letter", item)
        if item == "b" and ctx.attempt == 1:
            raise ValueError("once")
        return [ctx.map_index, me, ctx.attempt, seen, ctx.config["me"], [row.key for row in await ctx.xcom.list()]]

    @dag.task
    async def read(ctx: TaskContext, values: list[Any] = work.outputs) -> dict[str, Any]:
        return {
            "letters": await ctx.xcom.pull_outputs(work, "letter"),
            "upstream": await ctx.xcom.pull_from_upstream(),
            "v": values,
        }

    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag, run_id="r")
        own = ["letter", "seen"]
        values = [[0, 0, 1, 0, "work/0/1", own], [1, 1, 2, 1, "work/1/2", own]]
        assert result[read]["v"] == values
        assert result[read]["letters"] == ["a", "b"]
        assert result[read]["upstream"]["work"] == {"letter": ["a", "b"], "seen": [1, 2], "return_value": values}
        assert len(keys) == 3
        assert len(set(keys)) == 2
        rows = await runtime.task_instances("r", task_id="work")
        assert [(row.map_index, row.attempt, str(row.state)) for row in rows] == [
            (None, 1, "success"),
            (0, 1, "success"),
            (1, 2, "success"),
        ]
        entries = await runtime.xcom.list("r", "work")
        assert {(entry.map_index, entry.key) for entry in entries if entry.key == "letter"} == {(0, "letter"), (1, "letter")}
        assert await runtime.xcom.pull("r", "work", "letter", map_index=1) == "b"


async def test_events_tell_of_the_whole_before_and_after_its_elements(
    open_store: Callable[[], Store], durability: Durability
) -> None:
    """It runs, they run and end, it ends; each change carries its map index."""
    dag = DAG("d", max_concurrency=1)
    mapped(dag, [1, 2])
    async with Runtime(open_store(), durability=durability) as runtime:
        await runtime.run(dag, run_id="r")
        events = [event async for event in runtime.events("r") if isinstance(event, TaskStateChanged)]
    changes = [(event.map_index, str(event.state)) for event in events]
    assert changes[0] == (None, "running")
    assert changes[-1] == (None, "success")
    assert changes[1:-1] == [(0, "running"), (0, "success"), (1, "running"), (1, "success")]


async def test_an_element_that_takes_too_long_times_out_alone(open_store: Callable[[], Store]) -> None:
    """`timeout_s` is for each attempt of each element."""
    dag = DAG("d")

    @dag.task(timeout_s=0.05)
    async def work(item: int = each([0, 1])) -> int:
        if item:
            await anyio.sleep_forever()
        return item

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert list(result.errors) == ["work[1]"]
    assert "TaskTimeoutError" in str(result.errors["work[1]"])
    assert result.outputs(work, default="late") == [0, "late"]


async def test_a_mapped_tasks_own_limit_holds(open_store: Callable[[], Store]) -> None:
    """`max_concurrency` bounds its elements, in order of map index, and nobody else; a retried one goes before new ones."""
    dag, probe = DAG("d"), Probe()
    running, most = 0, 0

    @dag.task(max_concurrency=2, retries=AT_ONCE)
    async def work(ctx: TaskContext, item: int = each(range_list(6))) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        probe.note((item, ctx.attempt))
        probe.open(str(item))
        await probe.reach(str(item ^ 1))  # Its neighbour must run beside it.
        running -= 1
        if item == 0 and ctx.attempt == 1:
            raise ValueError("again")
        return item

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert most == 2
    assert result.outputs(work) == list(range(6))
    assert [item for item, attempt in probe.notes if attempt == 1] == list(range(6))


def range_list(size: int) -> list[int]:
    """Return the first whole numbers as a list."""
    return list(range(size))


async def test_too_many_elements_are_refused(open_store: Callable[[], Store]) -> None:
    """The error names task, length and cap; as many as the cap are accepted; the product counts, and is not built."""
    dag, over, huge = DAG("d"), DAG("over"), DAG("huge")
    task = mapped(dag, range_list(3))
    mapped(over, range_list(4))

    async def many(a: int, b: int, c: int) -> int:
        return a + b + c

    huge.add(many, bind={name: each(range_list(10_000)) for name in "abc"})
    async with Runtime(open_store(), limits=Limits(max_map_length=3)) as runtime:
        assert (await runtime.run(dag)).outputs(task) == [0, 2, 4]
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(over)
        assert "task 'double' is mapped over 4 elements, more than the limit of 3" in str(failed.value.exceptions[0])
        assert "max_map_length" in str(failed.value.exceptions[0])
        result = await runtime.run(huge, raise_on_failure=False)
        assert "1,000,000,000,000 elements" in str(result.errors["many"])


# --------------------------------------------------------------------------------- stopped, resumed, retried, disturbed


def held(dag: DAG, probe: Probe, items: Any, **options: Any) -> Task[int]:
    """Add a mapped task that notes what it does, and in which the element 1 is held."""

    async def work(ctx: TaskContext, item: int) -> int:
        probe.note((ctx.map_index, ctx.attempt))
        await anyio.lowlevel.checkpoint()
        if ctx.map_index == 1:
            await probe.hold("held")
        return item

    return dag.add(work, bind={"item": each(items)}, **options)


async def start_and_hold(runtime: Runtime, dag: DAG, probe: Probe) -> None:
    """Run until element 0 has ended and 1 is held."""
    await runtime.start(dag, run_id="r")
    await probe.reach("held")
    with anyio.fail_after(PATIENCE_S):
        async for event in runtime.events("r"):
            if isinstance(event, TaskStateChanged) and (event.map_index, event.state) == (0, TaskState.SUCCESS):
                return


@pytest.mark.parametrize("how", ["interrupt", "cancel", "wind_down"])
async def test_finished_elements_are_kept_by_a_resume(open_store: Callable[[], Store], durability: Durability, how: str) -> None:
    """Whatever stopped it: what was done is not done again, the rest is, in further attempts."""
    dag, probe = DAG("d", max_concurrency=2), Probe()
    work = held(dag, probe, [10, 11, 12], max_concurrency=1 if how == "wind_down" else 2)
    async with Runtime(open_store(), durability=durability, on_exit="interrupt") as runtime:
        await start_and_hold(runtime, dag, probe)
        if how == "cancel":
            await runtime.cancel("r")
        elif how == "wind_down":
            runtime.wind_down()
            probe.let_go("held")
    async with Runtime(open_store(), durability=durability) as runtime:
        states = {"cancel": "cancelled", "interrupt": "interrupted", "wind_down": "interrupted"}
        assert str((await runtime.get_run("r")).state) == states[how]
        whole, first, *_ = await runtime.task_instances("r", task_id="work")
        assert (str(whole.state), str(first.state)) == (states[how], "success")
        probe.let_go("held")
        result = await runtime.resume("r", dag)
        assert result.outputs(work) == [10, 11, 12]
        assert probe.counts[0, 1] == 1
        assert [note for note in probe.notes if note[0] == 0] == [(0, 1)]
        assert [row.map_index for row in await runtime.task_instances("r")] == [None, 0, 1, 2]
        assert {str(row.state) for row in await runtime.task_instances("r")} == {"success"}


@pytest.mark.parametrize("how", ["interrupt", "cancel"])
async def test_a_list_of_another_length_is_refused_on_resume(open_store: Callable[[], Store], how: str) -> None:
    """The finished elements were of the list as it was: the error tells both lengths, and a retry begins anew."""
    dag, longer, probe = DAG("d"), DAG("d"), Probe()
    held(dag, probe, [10, 11])
    work = held(longer, probe, [20, 21, 22])
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await start_and_hold(runtime, dag, probe)
        if how == "cancel":
            await runtime.cancel("r")
    probe.let_go("held")
    async with Runtime(open_store()) as runtime:
        result = await runtime.resume("r", longer, raise_on_failure=False)
        assert result.state is RunState.FAILED
        told = "task 'work' was mapped over 2 elements, and is now over 3; retry it"
        assert told in str(result.errors["work"])
        result = await runtime.retry("r", "work", longer)
        assert result.outputs(work) == [20, 21, 22]


async def test_a_list_of_the_same_length_applies_to_what_is_left(open_store: Callable[[], Store]) -> None:
    """As any edited option does on resume."""
    dag, edited, probe = DAG("d"), DAG("d"), Probe()
    held(dag, probe, [10, 11])
    work = held(edited, probe, [20, 21])
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await start_and_hold(runtime, dag, probe)
    probe.let_go("held")
    async with Runtime(open_store()) as runtime:
        assert (await runtime.resume("r", edited)).outputs(work) == [10, 21]


async def test_a_retried_mapped_task_may_have_fewer_elements(open_store: Callable[[], Store]) -> None:
    """Nothing of the former ones is seen; attempt numbers go on; and it may have more again the third time."""
    dag = DAG("d")
    lengths = iter([3, 1, 4])

    @dag.task
    async def load() -> list[int]:
        return list(range(next(lengths)))

    task = mapped(dag, load.output)

    @dag.task
    async def read(ctx: TaskContext, values: list[int] = task.outputs) -> Any:
        return [values, await ctx.xcom.pull_outputs(task), await ctx.xcom.pull_from_upstream(direct=True)]

    async with Runtime(open_store()) as runtime:
        for number, length in enumerate([3, 1, 4], 1):
            result = await (runtime.run(dag, run_id="r") if number == 1 else runtime.retry("r", "load", dag))
            wanted = [2 * n for n in range(length)]
            assert result[read] == [wanted, wanted, {"double": {"return_value": wanted}}]
            assert await result.pull_outputs(task) == wanted
            rows = await runtime.task_instances("r", task_id="double")
            assert [row.map_index for row in rows] == [None, *range(length)]
            assert rows[0].attempt == number
            assert rows[1].attempt == number
            listed = await runtime.xcom.list("r", "double")
            assert [entry.map_index for entry in listed] == list(range(length))
            stored = await runtime.run(dag, run_id="r")
            assert stored[read] == result[read]


async def test_a_failed_element_alone_runs_again_on_no_retry_of_the_whole(open_store: Callable[[], Store]) -> None:
    """`retry` clears the task with all its elements."""
    dag, probe = DAG("d"), Probe()

    @dag.task
    async def work(ctx: TaskContext, item: int = each([0, 1])) -> int:
        probe.note((item, ctx.attempt))
        if item == 1 and ctx.attempt == 1:
            raise ValueError("once")
        return item

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r", raise_on_failure=False)
        result = await runtime.retry("r", "work", dag)
        assert result.outputs(work) == [0, 1]
        assert not result.errors
        assert sorted(probe.notes) == [(0, 1), (0, 2), (1, 1), (1, 2)]


async def test_an_element_interrupted_too_often_fails_alone(open_store: Callable[[], Store]) -> None:
    """The whole may be interrupted as often as it likes."""
    dag, probe = DAG("d"), Probe()
    work = held(dag, probe, [10, 11, 12])
    for number in range(1, 4):
        probe.shut("held")
        async with Runtime(open_store(), on_exit="interrupt", limits=Limits(max_interruptions=2)) as runtime:
            if number == 1:
                await start_and_hold(runtime, dag, probe)
            else:
                (await runtime.recover([dag]))[0]
                await probe.reach("held")
    async with Runtime(open_store(), limits=Limits(max_interruptions=2)) as runtime:
        result = await runtime.resume("r", dag, raise_on_failure=False)
        assert list(result.errors) == ["work[1]"]
        assert "TooManyInterruptions" in str(result.errors["work[1]"])
        assert result.outputs(work, default=0) == [10, 0, 12]


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("first", range(1, 9))
async def test_a_store_fault_in_the_middle_consumes_nothing(
    tmp_path: Path, kind: str, first: int, durability: Durability
) -> None:
    """Whichever write fails: the run is interrupted or unharmed, and goes on to the same values without a retry used up."""
    dag, faults = DAG("d", max_concurrency=2), Faults()
    open_store = failing_stores(kind, tmp_path / "runs.db", faults)

    @dag.task
    async def load() -> list[int]:
        await anyio.lowlevel.checkpoint()
        return [0, 1, 2]

    @dag.task
    async def work(ctx: TaskContext, item: int = load.each) -> int:
        await ctx.xcom.push("k", item)
        return 2 * item

    @dag.task
    async def total(values: list[int] = work.outputs) -> int:
        return sum(values)

    async with Runtime(open_store(), durability=durability) as runtime:
        faults.arm(first, is_for_ever=False, is_full=False)
        try:
            result = await runtime.run(dag, run_id="r")
        except StoreError:
            faults.disarm()
            if not [run for run in await runtime.runs() if run.run_id == "r"]:
                return  # It was not even recorded.
            result = await runtime.resume("r", dag)
        faults.disarm()
        assert result[total] == 6
        assert await result.pull_outputs(work) == [0, 2, 4]
        assert [row.map_index for row in await runtime.task_instances("r", task_id="work")] == [None, 0, 1, 2]


async def test_cancel_marks_retries_and_what_never_ran(open_store: Callable[[], Store]) -> None:
    """An element that waits for its retry is cancelled too, and the whole."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=3, max_concurrency=1)
    async def work(item: int = each([0, 1])) -> int:
        if item:
            await probe.hold("second")
        raise ValueError("later")

    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await probe.reach("second")
        await handle.cancel()
        rows = await runtime.task_instances("r")
        assert [(row.map_index, str(row.state)) for row in rows] == [
            (None, "cancelled"),
            (0, "cancelled"),
            (1, "cancelled"),
        ]


async def test_a_wind_down_does_not_wait_for_retries(open_store: Callable[[], Store]) -> None:
    """Elements that wait to be tried again rest where they are, and are due at their time after the resume."""
    dag, probe = DAG("d"), Probe()

    @dag.task(retries=1)
    async def work(ctx: TaskContext, item: int = each([0, 1])) -> int:
        probe.note(item)
        if ctx.attempt == 1:
            raise ValueError("later")
        return item

    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await reached(runtime, TaskState.UP_FOR_RETRY, "work")
        runtime.wind_down()
        with anyio.fail_after(PATIENCE_S), pytest.raises(RunInterruptedError):
            await handle.result()
    async with Runtime(open_store()) as runtime:
        (handle,) = await runtime.recover([dag])
        time_is_up(runtime)
        await anyio.lowlevel.checkpoint()
        with anyio.fail_after(PATIENCE_S):
            result = await handle.result()
        assert result.outputs(work) == [0, 1]
        assert sorted(probe.notes) == [0, 0, 1, 1]


# ----------------------------------------------------------------------------------------------------------------- cost


async def test_gathering_is_one_read(open_store: Callable[[], Store]) -> None:
    """However many elements: one look into the store for all, by each way there is."""
    size = 2_000
    dag, store = DAG("d"), open_store()
    lookups: list[int] = []
    real = store.lookup

    async def counted(wanted: Sequence[Lookup]) -> list[StoredEntry | None]:
        lookups.append(len(wanted))
        return await real(wanted)

    async def quick(item: int) -> int:
        return item

    task = dag.add(quick, bind={"item": each(range_list(size))})

    @dag.task
    async def read(ctx: TaskContext, values: list[int] = task.outputs) -> list[int]:
        lookups.append(0)
        pulled = await ctx.xcom.pull_outputs(task)
        return [len(values), len(pulled), values[-1], pulled[-1]]

    setattr(store, "lookup", counted)  # noqa: B010 - it counts, and changes nothing
    async with Runtime(store, limits=Limits(cache_bytes=0)) as runtime:
        result = await runtime.run(dag)
        assert result[read] == [size, size, size - 1, size - 1]
        lookups.append(0)
        assert await result.pull_outputs(task) == range_list(size)
    assert [each for each in lookups if each >= size] == [size] * 3
    assert lookups.index(size) < lookups.index(0)


async def test_planning_refuses_what_can_not_be_mapped() -> None:
    """All at once, each with the way round."""
    dag = DAG("d")
    task = mapped(dag, [1])
    dag.add(double, id="over_elements", bind={"item": each(cast("Any", task.output))})
    dag.add(double, id="single", bind={"item": task.output})
    plain = dag.add(double, id="plain", bind={"item": 1})
    dag.add(double, id="gathered", bind={"item": plain.outputs})
    dag.add(double, id="limited", bind={"item": 1}, max_concurrency=2)

    @dag.branch
    async def choose(item: int = cast("Any", task).each) -> None: ...

    with pytest.raises(DAGValidationError) as refused:
        dag.plan()
    told = "\n".join(refused.value.problems)
    assert "task 'over_elements' reads the output of task 'double', which is mapped" in told
    assert "task 'single' reads the output of task 'double', which is mapped" in told
    assert "each(double.outputs)" in told
    assert "task 'gathered' reads the outputs of task 'plain', which is not mapped; read its .output" in told
    assert "task 'limited': max_concurrency is of the elements of a mapped task" in told
    assert "task 'choose': a branch can't be mapped" in told
