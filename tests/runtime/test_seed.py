"""The original request: each of its test lines and acceptance criteria, in its words."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    MissingPolicy,
    Runtime,
    SqliteStore,
    TaskContext,
    XComNotFoundError,
    XComOptions,
    XComTooLargeError,
    resolve_templates,
    template,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store

MIB = 1024 * 1024


# --------------------------------------------------------------------------------------------------- test lines: manager


@pytest.mark.parametrize("value", ["text", 7, 2.5, True, None, [1, "a", None], {"a": {"b": [1]}}], ids=repr)
async def test_push_and_pull_basic_types(open_store: Callable[[], Store], value: Any) -> None:
    """Strings, numbers, booleans, objects, arrays."""
    async with Runtime(open_store()) as runtime:
        entry = await runtime.xcom.push("r", "t", "k", value)
        assert await runtime.xcom.pull("r", "t", "k") == value
    assert (entry.run_id, entry.task_id, entry.key) == ("r", "t", "k")
    assert entry.size_bytes == len(json.dumps(value, separators=(",", ":")))


async def test_size_limit_enforcement_over_1mb_rejected(open_store: Callable[[], Store]) -> None:
    """Exactly 1 MiB is accepted, quotes included; one byte more is not, and nothing is stored of it."""
    async with Runtime(open_store()) as runtime:
        assert (await runtime.xcom.push("r", "t", "fits", "x" * (MIB - 2))).size_bytes == MIB
        with pytest.raises(XComTooLargeError, match=r"exceed the limit of 1,048,576"):
            await runtime.xcom.push("r", "t", "over", "x" * (MIB - 1))
        assert [entry.key for entry in await runtime.xcom.list("r")] == ["fits"]
        allowed = XComOptions(max_bytes=2 * MIB, description="large on purpose")
        entry = await runtime.xcom.push("r", "t", "over", "x" * (MIB - 1), options=allowed)
    assert (entry.size_bytes, entry.description) == (MIB + 1, "large on purpose")


async def test_delete_specific_key_and_all_keys_for_task(open_store: Callable[[], Store]) -> None:
    """One key goes, then the rest; another task's entries stay."""
    async with Runtime(open_store()) as runtime:
        for task_id, key in (("t", "a"), ("t", "b"), ("t", "c"), ("other", "a")):
            await runtime.xcom.push("r", task_id, key, 1)
        assert await runtime.xcom.delete("r", "t", "a") == 1
        assert await runtime.xcom.delete("r", "t", "a") == 0
        assert [entry.key for entry in await runtime.xcom.list("r", "t")] == ["b", "c"]
        assert await runtime.xcom.delete("r", "t") == 2
        assert [(entry.task_id, entry.key) for entry in await runtime.xcom.list("r")] == [("other", "a")]


async def test_list_available_keys(open_store: Callable[[], Store]) -> None:
    """Of a run, or of one task of it, with size and time, without values unless asked for."""
    async with Runtime(open_store()) as runtime:
        for task_id, key in (("a", "z"), ("a", "x"), ("b", "y")):
            await runtime.xcom.push("r", task_id, key, "four")
        rows = await runtime.xcom.list("r")
        assert [(row.task_id, row.key, row.value, row.size_bytes) for row in rows] == [
            ("a", "x", None, 6),
            ("a", "z", None, 6),
            ("b", "y", None, 6),
        ]
        assert [row.key for row in await runtime.xcom.list("r", "a")] == ["x", "z"]
        assert [row.value for row in await runtime.xcom.list("r", "b", include_values=True)] == ["four"]
        assert await runtime.xcom.list("unknown") == []


async def test_pull_from_upstream_collects_correct_values(open_store: Callable[[], Store]) -> None:
    """All upstream values in topological order; nothing of tasks beside or below; only direct ones where asked."""
    dag = DAG("upstream")

    @dag.task
    async def first(ctx: TaskContext) -> int:
        await ctx.xcom.push("extra", "e")
        return 1

    @dag.task
    async def second(value: int = first.output) -> int:
        return value + 1

    @dag.task
    async def beside() -> int:
        return 99

    @dag.task(depends_on=second)
    async def reader(ctx: TaskContext) -> dict[str, Any]:
        return {"all": await ctx.xcom.pull_from_upstream(), "direct": await ctx.xcom.pull_from_upstream(direct=True)}

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        everything = {"first": {"extra": "e", "return_value": 1}, "second": {"return_value": 2}}
        assert result[reader] == {"all": everything, "direct": {"second": {"return_value": 2}}}
        assert list(result[reader]["all"]) == ["first", "second"]
        assert await runtime.xcom.pull_from_upstream("r", "reader", dag) == everything
        assert await runtime.xcom.pull_from_upstream("r", "first", dag) == {}
    assert result[beside] == 99


async def test_missing_value_returns_default_or_throws(open_store: Callable[[], Store]) -> None:
    """Without a default it raises, naming what is near; None is a default like any other, and a value like any other."""
    async with Runtime(open_store()) as runtime:
        await runtime.xcom.push("r", "t", "result", None)
        assert await runtime.xcom.pull("r", "t", "result", default=1) is None
        assert await runtime.xcom.pull("r", "t", "results", default=None) is None
        with pytest.raises(XComNotFoundError, match=r"no XCom 'results' of task 't' in run 'r'.*did you mean 'result'"):
            await runtime.xcom.pull("r", "t", "results")


# -------------------------------------------------------------------------------------------------- test lines: templates


async def test_simple_variable_resolution(open_store: Callable[[], Store]) -> None:
    """`{{ xcom.task1.output }}`."""
    async with Runtime(open_store()) as runtime:
        await runtime.xcom.push("r", "task1", "output", "sunny")
        assert await resolve_templates("It is {{ xcom.task1.output }}.", "r", runtime.xcom) == "It is sunny."


async def test_nested_key_access(open_store: Callable[[], Store]) -> None:
    """`{{ xcom.task1.result.items[0].name }}`."""
    async with Runtime(open_store()) as runtime:
        await runtime.xcom.push("r", "task1", "result", {"items": [{"name": "Ada"}], "count": 1})
        text = "{{ xcom.task1.result.items[0].name }}: {{ xcom.task1.result.count }}"
        assert await resolve_templates(text, "r", runtime.xcom) == "Ada: 1"


async def test_missing_variable_configurable_behavior(open_store: Callable[[], Store]) -> None:
    """An error by default, an empty string on demand, a default where the template has one."""
    async with Runtime(open_store()) as runtime:
        with pytest.raises(XComNotFoundError, match="gone"):
            await resolve_templates("<{{ xcom.t.gone }}>", "r", runtime.xcom)
        assert await resolve_templates("<{{ xcom.t.gone }}>", "r", runtime.xcom, missing=MissingPolicy.EMPTY) == "<>"
        assert await resolve_templates('<{{ xcom.t.gone | default("-") }}>', "r", runtime.xcom) == "<->"


async def test_multiple_variables_in_one_template(open_store: Callable[[], Store]) -> None:
    """Text around and between stays as it is; a value holding braces is not rendered again."""
    async with Runtime(open_store()) as runtime:
        await runtime.xcom.push("r", "a", "x", 1)
        await runtime.xcom.push("r", "b", "y", "{{ xcom.a.x }}")
        text = "{{xcom.a.x}} and {{ xcom.b.y }} and {{ xcom.a.x }}!"
        assert await resolve_templates(text, "r", runtime.xcom) == "1 and {{ xcom.a.x }} and 1!"


async def test_no_xcom_reference_template_unchanged(open_store: Callable[[], Store]) -> None:
    """Plain text, and the expressions of other template languages."""
    async with Runtime(open_store()) as runtime:
        for text in ("", "plain { text } }}", "Dear {{ user.name }}"):
            assert await resolve_templates(text, "r", runtime.xcom) == text


async def test_dag_with_3_tasks_passing_data_via_xcom(open_store: Callable[[], Store]) -> None:
    """The integration test: by return value, by key, and by a template in a prompt."""
    dag = DAG("three")

    @dag.task
    async def extract(ctx: TaskContext) -> list[int]:
        await ctx.xcom.push("source", "api")
        return [1, 2, 3]

    @dag.task
    async def transform(ctx: TaskContext, rows: list[int] = extract.output) -> dict[str, int]:
        assert await ctx.xcom.pull("extract", "source") == "api"
        return {"count": len(rows), "total": sum(rows)}

    @dag.task
    async def load(
        text: str = template(
            "{{ xcom.transform.return_value.total }} in {{ xcom.transform.return_value.count }} rows "
            "from {{ xcom.extract.source }}"
        ),
    ) -> str:
        return text

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result[load] == "6 in 3 rows from api"


# ------------------------------------------------------------------------------------------------- acceptance criteria


@dataclass
class Point:
    """A value that JSON does not know."""

    x: int
    y: float


async def test_tasks_can_push_and_pull_arbitrary_serializable_values(open_store: Callable[[], Store]) -> None:
    """A class comes back as itself where it is annotated, and as plain data where it is not."""
    dag = DAG("values")

    @dag.task
    async def make(ctx: TaskContext) -> Point:
        await ctx.xcom.push("nested", {"a": [1, {"b": None}]})
        return Point(1, 2.5)

    @dag.task
    async def use(ctx: TaskContext, point: Point = make.output) -> bool:
        assert point == Point(1, 2.5) == await ctx.xcom.pull(make)
        assert await ctx.xcom.pull("make") == {"x": 1, "y": 2.5}
        assert await ctx.xcom.pull("make", "nested") == {"a": [1, {"b": None}]}
        return True

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag))[use] is True


async def test_xcom_values_persist_across_process_restarts(tmp_path: Path) -> None:
    """Another process pushes and is gone; this one pulls."""
    path = tmp_path / "runs.db"
    program = dedent("""
        import anyio, sys
        from dagrelay import DAG, Runtime
        dag = DAG("d")
        @dag.task
        async def t() -> dict[str, int]:
            return {"n": 42}
        async def main():
            async with Runtime(sys.argv[1]) as runtime:
                await runtime.run(dag, run_id="r")
        anyio.run(main)
    """)
    with anyio.fail_after(15):
        await anyio.run_process([sys.executable, "-c", program, str(path)])
    async with Runtime(SqliteStore(path)) as runtime:
        assert await runtime.xcom.pull("r", "t") == {"n": 42}


async def test_template_syntax_resolves_in_prompts(open_store: Callable[[], Store]) -> None:
    """In a task's config, just before it runs, at any depth."""
    dag = DAG("prompts")

    @dag.task
    async def extract() -> dict[str, Any]:
        return {"count": 3, "names": ["a", "b"]}

    @dag.task(
        config={
            "prompts": ["Sum up {{ xcom.extract.return_value.count }} rows"],
            "names": "{{ xcom.extract.return_value.names }}",
        }
    )
    async def ask(ctx: TaskContext) -> Any:
        return ctx.config

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag))[ask] == {"prompts": ["Sum up 3 rows"], "names": ["a", "b"]}


async def test_size_limits_prevent_memory_exhaustion(open_store: Callable[[], Store]) -> None:
    """A task that returns too much fails, and nothing of it is stored."""
    dag = DAG("large")

    @dag.task(retries=3)
    async def large() -> str:
        return "x" * 2 * MIB

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        assert isinstance(result.errors["large"].__cause__, XComTooLargeError)
        assert result.tasks["large"].attempt == 1
        assert await runtime.xcom.list("r", all_attempts=True) == []


async def test_auto_push_of_task_return_value_on_success(open_store: Callable[[], Store]) -> None:
    """Under `return_value`; a task that fails pushes none."""
    dag = DAG("push")

    @dag.task
    async def good() -> str:
        return "value"

    @dag.task
    async def bad() -> str:
        raise ValueError("no")

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r", raise_on_failure=False)
        rows = await runtime.xcom.list("r", include_values=True)
    assert [(row.task_id, row.key, row.value) for row in rows] == [("good", "return_value", "value")]
