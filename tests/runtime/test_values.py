"""Values in running DAGs: what `ctx.xcom` promises, point by point of the specification."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay import (
    DAG,
    JsonSerializer,
    Limits,
    NotUpstreamError,
    RunFailedError,
    Runtime,
    RuntimeClosedError,
    Skip,
    SqliteStore,
    StaleAttemptError,
    TaskContext,
    TaskState,
    TriggerRule,
    XComNotFoundError,
    XComSerializationError,
    XComTooLargeError,
)
from tests.runtime.probes import Probe

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dagrelay import Durability, Store, XComEntry


async def within(open_store: Callable[[], Store], body: Callable[[TaskContext], Awaitable[Any]], **options: Any) -> Any:
    """Run a body as a task below `source`, which pushed a few values, and return what it returns."""
    dag = DAG("d")

    @dag.task
    async def source(ctx: TaskContext) -> dict[str, Any]:
        await ctx.xcom.push("none", None)
        await ctx.xcom.push("rows", [1, 2])
        return {"a": 1}

    @dag.task
    async def second() -> str:
        return "second"

    @dag.task
    async def beside() -> int:
        return 0

    @dag.task
    async def skipped() -> int:
        raise Skip

    dag.add(body, id="body", depends_on=[source, second, skipped], trigger_rule=TriggerRule.ALL_DONE)

    @dag.task(depends_on="body")
    async def below() -> int:
        return 0

    del beside, below
    async with Runtime(open_store(), **options) as runtime:
        result = await runtime.run(dag, run_id="r")
        return await result.pull("body")


# --------------------------------------------------------------------------------------------------- 1 and 2: what is there


async def test_missing_is_not_none(open_store: Callable[[], Store]) -> None:
    """A stored None is a value on every path; a default is honoured on every path, None too."""

    async def body(ctx: TaskContext) -> list[Any]:
        pull = ctx.xcom.pull
        return [
            await pull("source", "none"),
            await pull("source", "none", default=1),
            await pull("source", "missing", default=None),
            await pull("skipped", default="skipped"),
            await pull(["source", "second"], "none", default="-"),
            await ctx.xcom.pull_own("missing", default=3),
            await pull("source", "missing", default=4, as_type=str),
        ]

    assert await within(open_store, body) == [None, None, None, "skipped", {"source": None, "second": "-"}, 3, 4]


@pytest.mark.parametrize("task_id", ["source", "skipped"])
async def test_a_missing_value_is_named_with_run_task_key_state_and_near_names(
    open_store: Callable[[], Store], task_id: str
) -> None:
    """What helps to find the mistake."""

    async def body(ctx: TaskContext) -> str:
        with pytest.raises(XComNotFoundError) as missing:
            await ctx.xcom.pull(task_id, "row")
        with pytest.raises(XComNotFoundError):
            await ctx.xcom.pull([task_id], "row")
        with pytest.raises(XComNotFoundError):
            await ctx.xcom.pull_own("row")
        return str(missing.value)

    text = await within(open_store, body)
    state, near = ("success", "; did you mean 'rows'?") if task_id == "source" else ("skipped", "")
    assert text == f"no XCom 'row' of task '{task_id}' in run 'r' (the task is {state}){near}"


@pytest.mark.parametrize("task_id", ["beside", "below", "body", "unknown"])
async def test_only_upstreams_are_pulled(open_store: Callable[[], Store], task_id: str) -> None:
    """Anything else is a race, even with a default; the hint says what to do."""

    async def body(ctx: TaskContext) -> str:
        texts = list[str]()
        for ask in (ctx.xcom.pull(task_id, default=0), ctx.xcom.pull(["source", task_id], default=0)):
            with pytest.raises(NotUpstreamError) as refused:
                await ask
            texts.append(str(refused.value))
        assert texts[0] == texts[1]
        return texts[0]

    text = await within(open_store, body)
    assert ("the DAG has no such task" if task_id == "unknown" else f"add depends_on='{task_id}'") in text


# -------------------------------------------------------------------------------------------------------------- 3: shapes


async def test_shapes_are_decided_by_argument_types(open_store: Callable[[], Store]) -> None:
    """An id gives a value; a list of ids a dict by id, for none, one and two alike."""

    async def body(ctx: TaskContext) -> list[Any]:
        pull = ctx.xcom.pull
        return [
            await pull("second"),
            await pull([]),
            await pull(["second"]),
            await pull(["second", "source"]),
            await pull(["source"], "rows", as_type=list[int]),
        ]

    assert await within(open_store, body) == [
        "second",
        {},
        {"second": "second"},
        {"second": "second", "source": {"a": 1}},
        {"source": [1, 2]},
    ]


# ------------------------------------------------------------------------------------------------------ 5: write-through


async def test_a_push_that_returned_is_on_disk(tmp_path: Path, durability: Durability) -> None:
    """A second reader of the file sees the row, with the handler still running."""
    dag, probe = DAG("d"), Probe()
    path = tmp_path / "runs.db"

    @dag.task
    async def pusher(ctx: TaskContext) -> None:
        entry = await ctx.xcom.push("k", "on disk")
        probe.note((entry.key, entry.attempt, entry.size_bytes))
        async with Runtime(SqliteStore(path, read_only=True)) as reader:
            probe.note([(row.key, row.attempt) for row in await reader.xcom.list("r", all_attempts=True)])
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            (count,) = connection.execute("SELECT count(*) FROM xcom WHERE value = ?", (b'"on disk"',)).fetchone()
        connection.close()
        probe.note(count)

    async with Runtime(path, durability=durability) as runtime:
        await runtime.run(dag, run_id="r")
    assert probe.notes == [("k", 1, 9), [("k", 1)], 1]


# ------------------------------------------------------------------------------------------------------ 8: multiple outputs


async def test_multiple_outputs_are_pushed_with_the_whole(open_store: Callable[[], Store]) -> None:
    """All in one; what is no mapping with str keys fails, and nothing is stored of it."""
    dag = DAG("d")

    @dag.task(multiple_outputs=True)
    async def good() -> dict[str, Any]:
        return {"x": 1, "y": None}

    def returning(value: Any) -> Callable[[], Awaitable[Any]]:
        async def bad() -> Any:
            return value

        return bad

    for name, value in (("list", [1]), ("keys", {1: 2}), ("own", {"return_value": 1}), ("key", {"a\n": 1})):
        dag.add(returning(value), id=name, multiple_outputs=True)
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        rows = await runtime.xcom.list("r", include_values=True, all_attempts=True)
    assert result[good] == {"x": 1, "y": None}
    assert sorted((row.task_id, row.key, row.value) for row in rows if row.key != "y") == [
        ("good", "return_value", {"x": 1, "y": None}),
        ("good", "x", 1),
    ]
    assert {task_id for task_id, row in result.tasks.items() if row.state is TaskState.FAILED} == {"list", "keys", "own", "key"}


# ----------------------------------------------------------------------------------------------------------- 9: budgets


async def test_the_budget_of_a_run_is_kept(open_store: Callable[[], Store], durability: Durability) -> None:
    """Overwritten values count once; what is refused leaves room; return values count too."""
    dag = DAG("d")

    @dag.task
    async def pusher(ctx: TaskContext) -> str:
        for _ in range(20):
            await ctx.xcom.push("same", "x" * 100)
        await ctx.xcom.push("other", "x" * 100)
        with pytest.raises(XComTooLargeError, match=r"the values of run 'r': \d+ bytes exceed the limit of 300"):
            await ctx.xcom.push("third", "x" * 100)
        with pytest.raises(XComTooLargeError):
            await ctx.xcom.push_many({"s": 1, "third": "x" * 100})
        return "y" * 50

    @dag.task(depends_on=pusher)
    async def over() -> str:
        return "z" * 100

    async with Runtime(open_store(), limits=Limits(max_run_xcom_bytes=300), durability=durability) as runtime:
        result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        assert result.tasks["pusher"].state is TaskState.SUCCESS
        assert isinstance(result.errors["over"].__cause__, XComTooLargeError)
        assert sorted(row.key for row in await runtime.xcom.list("r")) == ["other", "return_value", "same"]


async def test_many_at_once_stay_within_the_budget(open_store: Callable[[], Store], durability: Durability) -> None:
    """However their returns race, the sum stored is never over the limit."""
    dag = DAG("d")

    async def large() -> str:
        return "x" * 98

    for number in range(20):
        dag.add(large, id=f"t{number}")
    async with Runtime(open_store(), limits=Limits(max_run_xcom_bytes=1_000), durability=durability) as runtime:
        result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        rows = await runtime.xcom.list("r", all_attempts=True)
    assert sum(row.size_bytes for row in rows) == 1_000
    assert len(result.errors) == 10


# ----------------------------------------------------------------------------------------------------- 10: exact or refused


@pytest.mark.parametrize(
    ("value", "path"),
    [({"rows": [0, {"score": float("nan")}]}, "$.rows[1].score"), ({"a": {2: 1}}, "$.a"), (["\ud800"], "$[0]"), ([open], "$[0]")],
    ids=["nan", "key", "surrogate", "function"],
)
async def test_what_is_not_exact_is_refused_with_its_path(open_store: Callable[[], Store], value: Any, path: str) -> None:
    """At the push, by key or by return; nothing is stored."""

    async def body(ctx: TaskContext) -> int:
        with pytest.raises(XComSerializationError) as refused:
            await ctx.xcom.push("k", value)
        assert str(refused.value).endswith(f"@ {path}")
        return len(await ctx.xcom.list())

    assert await within(open_store, body) == 0


# ---------------------------------------------------------------------------------------------------------- 12 and the rest


async def test_sensitive_values_are_masked_in_lists_and_pulled_all_the_same(open_store: Callable[[], Store]) -> None:
    """Also those pushed by several."""
    rows = list["XComEntry"]()

    async def body(ctx: TaskContext) -> list[str]:
        await ctx.xcom.push("token", "secret", sensitive=True)
        await ctx.xcom.push_many({"other": "secret too"}, sensitive=True)
        rows.extend(await runtime.xcom.list("r", "body", all_attempts=True, include_values=True))
        return [await ctx.xcom.pull_own("token"), await ctx.xcom.pull_own("other")]

    dag = DAG("d")
    dag.add(body)
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
    assert result["body"] == ["secret", "secret too"]
    assert [(row.key, row.value, row.sensitive) for row in rows] == [("other", None, True), ("token", None, True)]
    assert "secret" not in repr(rows)


async def test_push_many_is_all_or_none(open_store: Callable[[], Store]) -> None:
    """One bad value, and none is stored; an empty mapping is nothing to do."""

    async def body(ctx: TaskContext) -> list[str]:
        with pytest.raises(XComSerializationError):
            await ctx.xcom.push_many({"good": 1, "bad": object()})
        assert await ctx.xcom.push_many({}) == []
        return [entry.key for entry in await ctx.xcom.push_many({"b": 1, "a": 2})]

    assert await within(open_store, body) == ["b", "a"]


async def test_a_context_used_after_its_attempt_writes_nothing(open_store: Callable[[], Store]) -> None:
    """By an orphan of the handler's, during the run and after it; reading goes on."""
    dag, kept = DAG("d"), list[TaskContext]()

    @dag.task
    async def first(ctx: TaskContext) -> None:
        kept.append(ctx)

    @dag.task(depends_on=first)
    async def second() -> None:
        await refuse()

    async def refuse() -> None:
        for ask in (kept[0].xcom.push("late", 1), kept[0].xcom.push_many({"late": 1}), kept[0].xcom.delete("k")):
            with pytest.raises(StaleAttemptError, match="attempt 1 of task 'first' in run 'r' is over"):
                await ask

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r")
        await refuse()
        assert sorted(row.task_id for row in await runtime.xcom.list("r", all_attempts=True)) == ["first", "second"]


async def test_a_sync_handler_that_awaits_nothing_is_told_how_to_push(open_store: Callable[[], Store]) -> None:
    """Driving the coroutine in another thread would corrupt the loop."""
    dag = DAG("d")

    @dag.task
    def wrong(ctx: TaskContext) -> str:
        coroutine = ctx.xcom.push("k", 1)
        with pytest.raises(RuntimeClosedError, match=r"anyio\.from_thread\.run\(ctx\.xcom\.push"):
            coroutine.send(None)
        return "told"

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag))[wrong] == "told"


class Shouting(JsonSerializer):
    """A serializer made from the default one."""

    @property
    def name(self) -> str:
        """Its name."""
        return "shouting"

    def dumps(self, value: Any) -> bytes:
        """Write in capitals."""
        return super().dumps(value).upper()

    def dumps_within(self, value: Any, *, max_bytes: int, what: str, setting: str) -> bytes:
        """Write in capitals."""
        return super().dumps_within(value, max_bytes=max_bytes, what=what, setting=setting).upper()


async def test_a_serializer_made_from_the_default_one_is_asked(open_store: Callable[[], Store]) -> None:
    """And not the one it is made from."""
    dag = DAG("d")

    @dag.task
    async def task() -> str:
        return "value"

    async with Runtime(open_store(), serializer=Shouting()) as runtime:
        assert (await runtime.run(dag))[task] == "VALUE"


@pytest.mark.parametrize("depth", [3, 300])
async def test_the_depth_of_values_is_the_runtimes_limit(open_store: Callable[[], Store], depth: int) -> None:
    """With the default serializer; one that is given has its own."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    dag = DAG("d")
    task = dag.add(lambda: value, id="task")
    async with Runtime(open_store(), limits=Limits(max_depth=depth)) as runtime:
        assert (await runtime.run(dag))[task] == value
    async with Runtime(open_store(), serializer=JsonSerializer(max_depth=depth - 1)) as runtime:
        with pytest.raises(RunFailedError, match="failed") as failed:
            await runtime.run(dag)
    assert "nested deeper" in str(failed.value.exceptions[0])
