"""What surprises users of Airflow's XComs, each shown to be gone."""

# ruff: noqa: ARG001, B008 - the signature is the wiring

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dagrelay import (
    DAG,
    DAGValidationError,
    NotUpstreamError,
    RunFailedError,
    Runtime,
    Skip,
    TaskContext,
    XComNotFoundError,
    each,
    template,
)
from tests.runtime.probes import AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Store


@pytest.mark.parametrize("size", [0, 1, 2])
async def test_mapped_over_none_one_or_two_gives_the_same_container(open_store: Callable[[], Store], size: int) -> None:
    """There: None, the bare value, a list. Here: a list, by every way."""
    dag = DAG("d")

    @dag.task
    async def square(n: int = each(list(range(size)))) -> int:
        return n * n

    @dag.task
    async def read(ctx: TaskContext, values: list[int] = square.outputs) -> list[Any]:
        return [values, await ctx.xcom.pull_outputs("square")]

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
        wanted = [n * n for n in range(size)]
        assert result[read] == [wanted, wanted]
        assert await result.pull_outputs(square) == wanted


async def test_one_failed_index_shifts_nothing(open_store: Callable[[], Store]) -> None:
    """There: rows that are missing close up. Here: each index keeps its slot, None included."""
    dag = DAG("d")

    @dag.task
    async def work(n: int = each([0, 1, 2, 3])) -> int | None:
        if n == 1:
            raise ValueError("bad")
        return None if n == 2 else n

    @dag.task(trigger_rule="all_done")
    async def read(values: list[Any] = work.outputs_or("hole")) -> list[Any]:
        return values

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert result[read] == [0, "hole", None, 3]


async def test_default_is_honoured_everywhere(open_store: Callable[[], Store]) -> None:
    """There: only where map indexes are given. Here: by reference, pull, list of ids, own, outputs, template and manager."""
    dag = DAG("d")

    @dag.task
    async def skipped() -> int:
        raise Skip

    @dag.task
    async def mapped(n: int = each([1])) -> int:
        raise Skip

    @dag.task(trigger_rule="all_done", depends_on=[skipped, mapped])
    async def read(
        ctx: TaskContext,
        reference: Any = skipped.output_or("d"),
        gathered: Any = mapped.outputs_or("d"),
        text: str = template('{{ xcom.skipped | default("d") }}'),
        deep: str = template('{{ xcom.skipped.return_value.a[0] | default("d") }}'),
    ) -> list[Any]:
        pulls = [
            await ctx.xcom.pull(skipped, default="d"),
            await ctx.xcom.pull("skipped", "key", default="d"),
            (await ctx.xcom.pull(["skipped"], default="d"))["skipped"],
            await ctx.xcom.pull_own("key", default="d"),
            (await ctx.xcom.pull_outputs(mapped, default="d"))[0],
        ]
        return [reference, gathered[0], text, deep, *pulls]

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, run_id="r")
        assert set(result[read]) == {"d"}
        assert await runtime.xcom.pull("r", "skipped", default="d") == "d"
        assert await result.pull_outputs(mapped, default="d") == ["d"]


async def test_none_is_not_missing(open_store: Callable[[], Store]) -> None:
    """There: a stored None, a typo and a skipped task all read as None. Here: a value, and errors."""
    dag = DAG("d")

    @dag.task
    async def nothing() -> None: ...

    @dag.task
    async def nothings(n: int = each([1, 2])) -> None: ...

    @dag.task
    async def read(
        ctx: TaskContext,
        reference: None = nothing.output,
        safe: Any = nothing.output_or("d"),
        gathered: list[None] = nothings.outputs,
    ) -> list[Any]:
        with pytest.raises(XComNotFoundError, match="did you mean 'return_value'"):
            await ctx.xcom.pull("nothing", "retun_value")
        return [reference, safe, *gathered, await ctx.xcom.pull(nothing, default="d")]

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag))[read] == [None] * 5


async def test_a_typo_in_a_task_id_is_an_error_at_planning() -> None:
    """There: a pull of None at run time. Here: in templates, config, edges and followers, with near names."""
    dag = DAG("d")

    @dag.task
    async def load() -> int:
        return 1

    async def use(text: str = template("{{ xcom.laod }}")) -> str:
        return text

    async def plain() -> None: ...

    dag.add(use, id="templated")
    dag.add(plain, id="configured", config={"a": ["{{ xcom.loda.return_value.x }}"]})
    dag.add(plain, id="depends", depends_on="lod")
    dag.add(plain, id="follows", after_start="loadd")
    dag.add(use, id="mapped", bind={"text": each(template("{{ xcom.lload }}"))})
    with pytest.raises(DAGValidationError) as refused:
        dag.plan()
    assert len(refused.value.problems) == 5
    assert all("did you mean 'load'" in problem for problem in refused.value.problems)


async def test_nested_access_works_on_references_in_maps_and_in_templates(open_store: Callable[[], Store]) -> None:
    """There: `ref["k"]` means another XCom key, and only templates go deeper."""
    dag = DAG("d")

    @dag.task
    async def load() -> dict[str, Any]:
        return {"rows": [{"name": "Ada", "items": [1, 2]}, {"name": "Bob", "items": [3]}]}

    @dag.task
    async def single(
        name: str = load.output["rows"][-1]["name"], text: str = template("{{ xcom.load.return_value.rows[0].name }}")
    ) -> str:
        return f"{name} {text}"

    row: Any = each(load.output["rows"])

    @dag.task
    async def mapped(name: str = row.name, first: int = row["items"][0]) -> dict[str, Any]:
        return {"is": [name, first]}

    @dag.task
    async def inner(n: int = each(load.output["rows"][0]["items"])) -> int:
        return n

    @dag.task
    async def after(
        one: str = mapped.outputs[1]["is"][0], text: str = template("{{ xcom.mapped.return_value[0].is[0] }}")
    ) -> str:
        return f"{one} {text}"

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result[single] == "Bob Ada"
    assert result.outputs(inner) == [1, 2]
    assert result[after] == "Bob Ada"


async def test_keys_named_like_methods_are_data(open_store: Callable[[], Store]) -> None:
    """There: `{{ x.items }}` is a method of dict."""
    dag = DAG("d")

    @dag.task
    async def load() -> dict[str, Any]:
        return {"items": 1, "values": 2, "keys": 3}

    @dag.task
    async def show(
        text: str = template("{{ xcom.load.return_value.items }}{{ xcom.load.return_value.values }}"),
        keys: int = load.output["keys"],
    ) -> str:
        return f"{text}{keys}"

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag))[show] == "123"


async def test_template_references_are_edges(open_store: Callable[[], Store]) -> None:
    """There: a pull in a template draws none, and the consumer may run first. Here: at any depth, of a map's list too."""
    dag = DAG("d")
    order: list[str] = []

    async def use(ctx: TaskContext, text: str = "") -> str:
        order.append("use")
        return str(ctx.config)

    dag.add(use, id="configured", config={"deep": [{"er": "<{{ xcom.load }}>"}]})
    dag.add(use, id="templated", bind={"text": template("{{ xcom.load }}")})
    dag.add(use, id="mapped", bind={"text": each(template("{{ xcom.letters }}"))})

    @dag.task
    async def load() -> str:
        order.append("load")
        return "x"

    @dag.task
    async def letters(after: str = load.output) -> list[str]:
        return [after, "y"]

    plan = dag.plan()
    for task_id, above in (("configured", "load"), ("templated", "load"), ("mapped", "letters")):
        assert [plan.task_ids[index] for index in plan.tasks[plan.index[task_id]].upstream] == [above]
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result["configured"] == "{'deep': [{'er': '<x>'}]}"
    assert order == ["load", "use", "use", "use", "use"]


async def test_values_that_hold_braces_stay_text(open_store: Callable[[], Store]) -> None:
    """There: rendered results may be taken apart as Python literals. Here: values are data, by every way, elements included."""
    dag = DAG("d")
    hostile = ["{{ xcom.load }}", "{{ params.x }}", "[1, 2]", "1.0", "{{"]

    @dag.task
    async def load() -> list[str]:
        return hostile

    @dag.task(config={"value": "{{ xcom.load.return_value[0] }}", "text": "<{{ xcom.load.return_value[2] }}>"})
    async def work(ctx: TaskContext, item: str = load.each, text: str = template("{{ xcom.load.return_value[3] }}")) -> list[Any]:
        return [item, text, ctx.config["value"], ctx.config["text"]]

    constant = dag.add(_same, id="constant", bind={"item": each(hostile)})
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result.outputs(work) == [[item, "1.0", "{{ xcom.load }}", "<[1, 2]>"] for item in hostile]
    assert result.outputs(constant) == hostile


async def _same(item: str) -> str:
    return item


async def test_a_pull_of_several_keeps_them_apart(open_store: Callable[[], Store]) -> None:
    """There: ids and map indexes are flattened into one list that can't be told apart."""
    dag = DAG("d")

    @dag.task
    async def a() -> list[int]:
        return [1, 2]

    @dag.task
    async def b() -> None: ...

    @dag.task(depends_on=[a, b])
    async def read(ctx: TaskContext) -> Any:
        return [await ctx.xcom.pull(["b", "a"]), await ctx.xcom.pull(["a"]), await ctx.xcom.pull([])]

    async with Runtime(open_store()) as runtime:
        assert (await runtime.run(dag))[read] == [{"b": None, "a": [1, 2]}, {"a": [1, 2]}, {}]


async def test_a_failed_attempts_values_are_not_seen(open_store: Callable[[], Store]) -> None:
    """There: what was pushed before a failure stays visible. Here: it is asked for by name."""
    dag = DAG("d")

    @dag.task(retries=AT_ONCE)
    async def work(ctx: TaskContext) -> None:
        await ctx.xcom.push("k", ctx.attempt)
        raise ValueError("no")

    @dag.task(trigger_rule="all_done", depends_on=work)
    async def read(ctx: TaskContext) -> Any:
        return [await ctx.xcom.pull("work", "k", default="none"), await ctx.xcom.pull("work", "k", include_failed=True)]

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert result[read] == ["none", 2]


async def test_a_pull_of_what_is_not_upstream_is_refused(open_store: Callable[[], Store]) -> None:
    """There: a race, whose loser reads None."""
    dag = DAG("d")

    @dag.task
    async def beside(n: int = each([1])) -> int:
        return n

    @dag.task
    async def read(ctx: TaskContext) -> None:
        await ctx.xcom.pull_outputs(beside)

    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag)
    assert isinstance(failed.value.exceptions[0].__cause__, NotUpstreamError)
    assert "depends_on='beside'" in str(failed.value.exceptions[0])
