"""Snapshots (G24): whatever anybody does to a value afterwards, nobody else sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from dagrelay import (
    DAG,
    Runtime,
    TaskContext,
    template,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Store


async def test_a_push_is_a_snapshot_and_every_puller_gets_a_copy(open_store: Callable[[], Store], durability: Durability) -> None:
    """Whatever is mutated afterwards, pushed or pulled, nobody else sees it."""
    dag = DAG("d")

    @dag.task
    async def source(ctx: TaskContext) -> list[int]:
        pushed = {"rows": [1]}
        async with anyio.create_task_group() as tasks:

            async def push() -> None:
                is_called.set()
                await ctx.xcom.push("k", pushed)

            is_called = anyio.Event()
            tasks.start_soon(push)
            await is_called.wait()
            pushed["rows"].append(2)
        returned.append(7)
        return returned

    @dag.task
    async def vandal(ctx: TaskContext, rows: list[int] = source.output, again: Any = source.output) -> bool:
        rows.append(8)
        again.append(9)
        mine = await ctx.xcom.pull("source", "k")
        mine["rows"].append(3)
        return True

    @dag.task(depends_on=vandal)
    async def reader(ctx: TaskContext, rows: list[int] = source.output) -> list[Any]:
        return [rows, await ctx.xcom.pull("source"), await ctx.xcom.pull("source", "k")]

    returned = list[int]()
    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag)
        returned.append(100)
        assert result[reader] == [[7], [7], {"rows": [1]}]
        result[reader].append("mine")
        assert len(result[reader]) == 3


async def test_params_are_nobodys_to_change(open_store: Callable[[], Store]) -> None:
    """What one handler does to them, or the caller after the start, reaches no other."""
    dag = DAG("d", params={"rows": [0]})

    @dag.task(config={"rows": "{{ params.rows }}"}, bind={"text": template("{{ params.rows }}")})
    async def vandal(ctx: TaskContext, rows: Any, given: Any, text: list[Any]) -> None:
        ctx.config["rows"].append("c")
        text.append("t")
        rows.append("v")
        given["x"].append("v")
        ctx.params["rows"].append("w")
        with pytest.raises(TypeError):
            ctx.params["new"] = 1  # type: ignore[index]

    @dag.task(depends_on=vandal, config={"rows": "{{ params.rows }}"})
    async def reader(ctx: TaskContext, rows: Any, given: Any) -> list[Any]:
        assert ctx.config == {"rows": [0]}
        return [rows, given, dict(ctx.params)]

    given = {"x": [1]}
    async with Runtime(open_store()) as runtime:
        handle = await runtime.start(dag, params={"given": given})
        given["x"].append(2)
        result = await handle.result()
        assert result[reader] == [[0], {"x": [1]}, {"rows": [0], "given": {"x": [1]}}]
        assert result.params == {"rows": [0], "given": {"x": [1]}}
