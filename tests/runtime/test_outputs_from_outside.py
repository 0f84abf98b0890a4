"""What the elements of mapped tasks handed on, read from outside: a list by every way, in few reads, with no hole closed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest

from dagrelay import (
    DAG,
    MissingPolicy,
    Runtime,
    SqliteStore,
    StoreCorruptError,
    TaskContext,
    XComNotFoundError,
    XComTypeError,
    each,
    resolve_templates,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store


def mapping(size: int) -> DAG:
    """Return a DAG with mapped tasks: one that succeeds, one with a hole, one that is never expanded; and plain ones."""
    dag = DAG("d")

    @dag.task
    async def whole(ctx: TaskContext, n: int = each(list(range(size)))) -> int | None:
        await ctx.xcom.push("name", f"#{n}")
        return None if n == 2 else n * n

    @dag.task
    async def holed(n: int = each([0, 1, 2])) -> int:
        if n == 1:
            raise ValueError("bad")
        return n

    @dag.task
    async def plain() -> list[int]:
        raise ValueError("bad")

    @dag.task
    async def never(item: int = each(plain.output)) -> int:
        return item

    return dag


@pytest.mark.parametrize("size", [0, 1, 2, 4])
async def test_it_is_a_list_by_map_index_whatever_its_length(open_store: Callable[[], Store], size: int) -> None:
    """By value and key, None included, in two reads: how many there are, and the values."""
    wanted = [None if n == 2 else n * n for n in range(size)]
    async with Runtime(open_store()) as runtime:
        await runtime.run(mapping(size), run_id="r", raise_on_failure=False)
        before = runtime.statistics().store.reads
        assert await runtime.xcom.pull_outputs("r", "whole") == wanted
        assert runtime.statistics().store.reads == before + (2 if size else 1)
        assert await runtime.xcom.pull_outputs("r", "whole", "name") == [f"#{n}" for n in range(size)]
        assert await runtime.xcom.pull_outputs("r", "whole", as_type=int | None) == wanted
        if size:
            with pytest.raises(XComTypeError, match="str"):
                await runtime.xcom.pull_outputs("r", "whole", as_type=str)


async def test_a_hole_is_an_error_that_names_it_or_the_default(open_store: Callable[[], Store]) -> None:
    """Of an element that failed; and a list of no known length is missing as a whole."""
    async with Runtime(open_store()) as runtime:
        await runtime.run(mapping(3), run_id="r", raise_on_failure=False)
        pull = runtime.xcom.pull_outputs
        with pytest.raises(XComNotFoundError, match=r"of element 1 of task 'holed' in run 'r' \(the element is failed\)") as hole:
            await pull("r", "holed")
        assert (hole.value.map_index, hole.value.state) == (1, "failed")
        assert await pull("r", "holed", default="hole") == [0, "hole", 2]
        assert await pull("r", "holed", "other", default=None) == [None] * 3
        for run_id, task_id, told in (
            ("r", "never", "it was not expanded"),
            ("r", "nobody", "has no such task"),
            ("s", "whole", "there is no run 's'"),
        ):
            with pytest.raises(XComNotFoundError, match=told):
                await pull(run_id, task_id)
            assert await pull(run_id, task_id, default=0) == []


async def test_a_task_that_is_not_mapped_has_no_list(open_store: Callable[[], Store]) -> None:
    """However it stands: it failed here, and never started there. `of_run` says the same."""
    dag = DAG("e")

    @dag.task
    async def gate() -> None:
        raise ValueError("bad")

    @dag.task(depends_on=gate)
    async def behind() -> int:
        return 1

    @dag.task
    async def look(ctx: TaskContext) -> list[str]:
        told: list[str] = []
        for task_id in ("gate", "behind"):
            with pytest.raises(XComTypeError) as refused:
                await ctx.xcom.of_run("r").pull_outputs(task_id, default=0)
            told.append(str(refused.value))
        return told

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r", raise_on_failure=False)
        told = [
            f"task {task_id!r} of run 'r' is not mapped and has no list of outputs; use pull()" for task_id in ("gate", "behind")
        ]
        for task_id, wanted in zip(("gate", "behind"), told, strict=True):
            with pytest.raises(XComTypeError) as refused:
                await runtime.xcom.pull_outputs("r", task_id, default=0)
            assert (str(refused.value), refused.value.path) == (wanted, "")
        result = await runtime.run(dag, run_id="s", raise_on_failure=False)
        assert result["look"] == told


async def test_a_plan_that_says_nothing_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a task without elements."""
    store = SqliteStore(tmp_path / "runs.db")
    load_run = store.load_run

    async def load_damaged(run_id: str) -> Any:
        image = await load_run(run_id)
        assert image is not None
        return attrs.evolve(image, plan=attrs.evolve(image.plan, body=b"[1"))

    async with Runtime(store) as runtime:
        await runtime.run(mapping(1), run_id="r", raise_on_failure=False)
        monkeypatch.setattr(store, "load_run", load_damaged)
        with pytest.raises(StoreCorruptError, match="the plan of run 'r' can't be understood"):
            await runtime.xcom.pull_outputs("r", "never", default=0)
        with pytest.raises(StoreCorruptError, match="the plan of run 'r' can't be understood"):
            await runtime.provide("r", "gate", 1)


# ------------------------------------------------------------------------------------------------------------- templates


@pytest.mark.parametrize("size", [0, 1, 2])
async def test_templates_read_mapped_tasks_as_lists(open_store: Callable[[], Store], size: int) -> None:
    """As those in DAGs do, whatever the length; paths and filters go on from there."""
    async with Runtime(open_store()) as runtime:
        await runtime.run(mapping(size), run_id="r", raise_on_failure=False)
        wanted = [n * n for n in range(size)]
        assert await resolve_templates("{{ xcom.whole }}", "r", runtime.xcom, native=True) == wanted
        text = '{{ xcom.whole | length }}: {{ xcom.whole.name | join(", ") }} {{ xcom.whole.return_value[-1] | default("-") }}'
        names = ", ".join(f"#{n}" for n in range(size))
        assert await resolve_templates(text, "r", runtime.xcom) == f"{size}: {names} {wanted[-1] if size else '-'}"


async def test_templates_read_all_elements_at_once(open_store: Callable[[], Store]) -> None:
    """Tasks first, then, for each that has no value of its own, how many elements it has, then all elements of all of these."""
    async with Runtime(open_store()) as runtime:
        await runtime.run(mapping(3), run_id="r", raise_on_failure=False)
        before = runtime.statistics().store.reads
        text = "{{ xcom.whole }} {{ xcom.whole.name }} {{ xcom.holed | default(0) }} {{ xcom.whole }}"
        assert await resolve_templates(text, "r", runtime.xcom) == '[0,1,null] ["#0","#1","#2"] 0 [0,1,null]'
        assert runtime.statistics().store.reads == before + 4


async def test_in_templates_a_hole_makes_the_whole_list_missing(open_store: Callable[[], Store]) -> None:
    """It is never shorter than it should be."""
    async with Runtime(open_store()) as runtime:
        await runtime.run(mapping(3), run_id="r", raise_on_failure=False)
        with pytest.raises(XComNotFoundError, match=r"it is mapped, and not all of its elements have it; \{\{ xcom\.holed"):
            await resolve_templates("{{ xcom.holed.return_value[0] }}", "r", runtime.xcom)
        empty: dict[str, Any] = {"missing": MissingPolicy.EMPTY}
        assert await resolve_templates("<{{ xcom.holed }}{{ xcom.never }}>", "r", runtime.xcom, **empty) == "<>"
        assert await resolve_templates('{{ xcom.holed | default("-") }}', "r", runtime.xcom) == "-"
