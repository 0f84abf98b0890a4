"""Mapped tasks by chance: whatever fails, is skipped, retried, interrupted or cancelled, in any order, every slot is kept."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay import (
    DAG,
    Durability,
    MemoryStore,
    RunCancelledError,
    RunFailedError,
    RunInterruptedError,
    Runtime,
    Skip,
    TaskContext,
    zip_each,
)
from dagrelay.dag.mapping import Elements
from tests.runtime.probes import retried

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.timeout(600)

BEHAVIOURS = st.lists(st.sampled_from(["value", "none", "fail", "skip", "retry"]), max_size=8)
STOPS = st.lists(st.tuples(st.sampled_from(["interrupt", "cancel", "wind_down"]), st.integers(0, 30)), max_size=3)


@given(axes=st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=4))
def test_elements_are_the_cross_product_in_order(axes: list[list[int]]) -> None:
    """As nested loops give them, the last innermost."""
    wanted: list[tuple[int, ...]] = [()]
    for axis in axes:
        wanted = [(*before, item) for before in wanted for item in axis]
    elements = Elements(tuple(axes))
    assert elements.length == len(wanted)
    assert [elements.at(map_index) for map_index in range(elements.length)] == wanted


@given(
    behaviours=BEHAVIOURS,
    stops=STOPS,
    limit=st.none() | st.integers(1, 3),
    slots=st.integers(1, 4),
    durability=st.sampled_from(list(Durability)),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_every_element_keeps_its_slot(
    behaviours: list[str], stops: list[tuple[str, int]], limit: int | None, slots: int, durability: Durability, backend: str
) -> None:
    """Through any stops and resumes: the gathered list, the states and the errors are those of an undisturbed run."""
    anyio.run(_carry, behaviours, stops, limit, slots, durability, backend=backend)


async def _carry(
    behaviours: Sequence[str], stops: Sequence[tuple[str, int]], limit: int | None, slots: int, durability: Durability
) -> None:
    dag = DAG("d")

    async def work(ctx: TaskContext, item: Any) -> Any:
        place, behaviour = item
        assert place == ctx.map_index
        failures = await ctx.xcom.pull_own("failures", default=0)
        await anyio.lowlevel.checkpoint()
        match behaviour:
            case "fail":
                raise ValueError(str(place))
            case "skip":
                raise Skip
            case "retry" if failures == 0:
                await ctx.xcom.push("failures", 1, lifetime="task")
                raise ValueError("once")
            case _:
                return None if behaviour == "none" else place

    over = zip_each(list(range(len(behaviours))), list(behaviours))
    mapped = dag.add(work, id="work", bind={"item": over}, max_concurrency=limit, retries=retried(1))

    @dag.task(trigger_rule="all_done")
    async def read(values: list[Any] = mapped.outputs_or("hole")) -> list[Any]:  # noqa: B008 - the signature is the wiring
        return values

    store = MemoryStore()
    for how, turns in stops:
        async with Runtime(store, on_exit="interrupt", max_concurrency=slots, durability=durability) as runtime:
            handle = await runtime.start(dag, run_id="r")
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            if how == "cancel":
                await handle.cancel()
            elif how == "wind_down":
                runtime.wind_down()
                with suppress(RunInterruptedError, RunCancelledError, RunFailedError):
                    await handle.result()
    async with Runtime(store, max_concurrency=slots, durability=durability) as runtime:
        if [run for run in await runtime.runs() if str(run.state) == "cancelled"]:
            result = await runtime.resume("r", dag, raise_on_failure=False)
        else:
            result = await runtime.run(dag, run_id="r", raise_on_failure=False)
        values = {"value": None, "retry": None, "none": None, "fail": "hole", "skip": "hole"}
        wanted = [place if each in {"value", "retry"} else values[each] for place, each in enumerate(behaviours)]
        assert result[read] == wanted
        assert await result.pull_outputs(mapped, default="hole") == wanted
        failed = [f"work[{place}]" for place, each in enumerate(behaviours) if each == "fail"]
        assert list(result.errors) == failed
        states = {"value": "success", "retry": "success", "none": "success", "fail": "failed", "skip": "skipped"}
        rows = await runtime.task_instances("r", task_id="work")
        assert [str(row.state) for row in rows[1:]] == [states[each] for each in behaviours]
