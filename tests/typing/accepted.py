"""Wirings that checkers must accept, and what they must infer of them. Read by checkers only; see test_checkers.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, assert_type

from dagrelay import (
    DAG,
    Approval,
    RetryPolicy,
    RunResult,
    Task,
    TaskContext,
    TriggerRule,
    XComManager,
    XComRef,
    each,
    template,
    zip_each,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine


@dataclass
class Row:
    """One row."""

    v: float


@dataclass
class Stats:
    """What is said of rows."""

    mean: float


dag = DAG("weather", tags=["a"], params={"days": 3}, defaults={"retries": 1, "missing": "empty"})


@dag.task
async def load(path: str) -> list[Row]:
    """Return a handler's value as declared."""
    return [Row(float(len(path)))]


@dag.task(retries=2, timeout_s=3, trigger_rule=TriggerRule.ALL_DONE, depends_on=[load, "load"], description="a mean")
async def stats(ctx: TaskContext, rows: list[Row] = load.output) -> Stats:
    """Take the context and a reference."""
    assert_type(await ctx.xcom.pull(load), list[Row])
    assert_type(await ctx.xcom.pull(load, default=None), list[Row] | None)
    assert_type(await ctx.xcom.pull("load", "key", as_type=int), int)
    assert_type(await ctx.xcom.pull(["load"]), dict[str, Any])
    return Stats(rows[0].v)


@dag.task(retries=RetryPolicy(3), bind={"x": load.output[0].v}, config={"to": "{{ params.days }}"})
def halve(x: float) -> float:
    """Run in a thread."""
    return x / 2


@dag.task
async def total(
    first: Row = load.output[0],
    mean: float = stats.output.mean,
    maybe: Stats | None = stats.output_or(None),  # noqa: B008 - a reference is made once, and never changes
    days: int = template("{{ params.days }}"),
    text: str = template(f"of {stats.output.mean}"),
    parts: list[float] = [halve.output, stats.output.mean],  # noqa: B006 - rebuilt for every attempt
) -> str:
    """Take everything that can stand in a signature."""
    return f"{first} {mean} {maybe} {days} {text} {parts}"


@dag.task(id="nothing")
async def nothing() -> None:
    """Return nothing."""


class Sender:
    """Has methods that become tasks."""

    async def send(self, text: str) -> int:
        """Return how much was sent."""
        return len(text)


async def fetch(city: str, day: int) -> list[Row]:
    """Return rows of a city."""
    return [Row(len(city) + day)]


sent = dag.add(Sender().send, bind={"text": total.output}, retries=3)
fetched = dag.add(partial(fetch, city="oslo"), id="fetch-oslo")
again = dag.add(halve, id="halve-again", bind={"x": 1.0})

assert_type(sent, Task[int])
assert_type(fetched, Task[list[Row]])
assert_type(again, Task[float])
assert_type(load.output, list[Row])
assert_type(stats.xcom("count"), Any)
assert_type(load.ref, XComRef[list[Row]])
assert_type(stats.output.mean, float)
assert_type(stats.output_or(None), Stats | None)
assert_type((load >> stats >> [halve, total])[0].id, str)
assert_type(([stats, halve] >> total).output, str)
assert_type((total << [stats, halve])[0].id, str)
dag.chain(load, [stats, "halve"], total)
tasks: list[Task[Any]] = [load, stats, halve]
wide: Task[object] = load  # covariant


@dag.task
async def one(row: Row = load.each) -> float:
    """Take one element."""
    return row.v


@dag.task(max_concurrency=3, pool="api", priority=2)
def twice(value: float = each(one.outputs)) -> int:
    """Map over what was mapped."""
    return round(2 * value)


@dag.task
async def by_city() -> dict[str, Row]:
    """Return a dict."""
    return {}


@dag.task
async def city(
    item: tuple[str, Row] = each(by_city.output),
    pair: tuple[float, int] = zip_each(one.outputs, [1, 2]),
    name: str = each(template("{{ params.names }}")),
) -> str:
    """Take elements of a dict, of lists side by side, and of a param."""
    return f"{item} {pair} {name}"


@dag.task(after_start=[load])
async def gather(
    ctx: TaskContext,
    values: list[float] = one.outputs,
    some: list[float | None] = one.outputs_or(None),  # noqa: B008 - as above
) -> str:
    """Take all outputs."""
    assert_type(await ctx.xcom.pull_outputs(one), list[float])
    assert_type(await ctx.xcom.pull_outputs(one, default=None), list[float | None])
    assert_type(await ctx.xcom.wait(load), list[Row])
    assert_type(await ctx.xcom.wait("load", "rows", as_type=int), int)
    assert_type(await ctx.xcom.previous(load), list[Row])
    assert_type(await ctx.xcom.previous(load, default=None), list[Row] | None)
    assert_type(await ctx.xcom.previous("load", "rows", as_type=int), int)
    other = ctx.xcom.of_run("other")
    assert_type(await other.pull(load, default=None), list[Row] | None)
    assert_type(await other.pull("load", as_type=int), int)
    assert_type(await other.pull_outputs(one), list[float])
    return f"{values} {some}"


@dag.branch
async def choose(rows: list[Row] = load.output) -> list[str]:
    """Choose by id."""
    return ["stats"] if rows else []


@dag.branch(id="choose-again")
def choose_again() -> Task[Any]:
    """Choose by task."""
    return total


@dag.short_circuit
async def any_rows(rows: list[Row] = load.output) -> bool:
    """Tell whether to go on."""
    return bool(rows)


answer = dag.external("answer", as_type=Stats, timeout_s=60, depends_on=load)
consent = dag.approval("consent", depends_on=[load])

assert_type(load.each, Row)
assert_type(answer.output, Stats)
assert_type(consent.output.approved, bool)
assert_type(choose.output, list[str])
assert_type(any_rows.output, bool)


def mapped(result: RunResult) -> None:
    """Read the outputs of mapped tasks."""
    assert_type(result.outputs(one), list[float])
    assert_type(result.outputs(twice), list[int])
    assert_type(result.outputs(one, default=None), list[float | None])
    assert_type(result[consent], Approval)


async def gathered(xcom: XComManager) -> None:
    """Read them from outside."""
    assert_type(await xcom.pull_outputs("r", "one"), list[Any])
    assert_type(await xcom.pull_outputs("r", "one", "key", as_type=float), list[float])
    assert_type(await xcom.pull_outputs("r", "one", default=None, as_type=float), list[float | None])


def outcome(result: RunResult) -> None:
    """Read a result by task."""
    assert_type(result[total], str)
    assert_type(result[stats], Stats)
    assert_type(result[halve], float)
    assert_type(result[nothing], None)
    assert_type(result["total"], Any)


async def plain_calls(ctx: TaskContext) -> None:
    """Call handlers as plain functions."""
    assert_type(await stats(ctx, [Row(1)]), Stats)
    waiting: Coroutine[Any, Any, Stats] = stats(ctx, rows=[])
    await waiting
    assert_type(halve(1.0), float)
