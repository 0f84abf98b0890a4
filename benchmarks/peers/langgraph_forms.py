"""LangGraph as a measured system, called as `langgraph_forms.py FORM WORKLOAD FOLDER`.

FORM is `functional`, an entrypoint that calls a task for each task, or `graph`, a static graph over one state. Both keep
checkpoints in SQLite with durability="sync". That waits for the checkpoints of a graph's steps; what a task of the functional
form returned is written behind the tasks that use it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypedDict

sys.path.append(str(Path(__file__).parents[1]))
os.environ["LANGSMITH_TRACING"] = os.environ["LANGCHAIN_TRACING_V2"] = "false"

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Value, Workload, body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_MOST_STEPS: Final = 5000
_threads: Final = itertools.count(1)


def _merge(old: dict[str, Value], new: dict[str, Value]) -> dict[str, Value]:
    return {**old, **new}


class _Last(TypedDict):
    """A chain's state: the last value is all that anyone needs."""

    value: Value


class _All(TypedDict):
    """The values by task."""

    values: Annotated[dict[str, Value], _merge]


async def _invoke(app: Any, given: Any) -> Any:
    """Run an app in a thread of its own."""
    config = {"configurable": {"thread_id": str(next(_threads))}, "recursion_limit": _MOST_STEPS}
    return await app.ainvoke(given, config, durability="sync")


def _functional(workload: Workload, saver: AsyncSqliteSaver) -> Callable[[], Awaitable[int]]:
    layers = workload.layers

    @task
    async def step(values: list[Value]) -> Value:
        return body(values, is_big=workload.is_big)

    @entrypoint(checkpointer=saver)
    async def app(_: str) -> int:
        values: dict[int, Value] = {}
        for layer in layers:
            started = [step([values[parent] for parent in workload.parents[number]]) for number in layer]
            values.update(zip(layer, await asyncio.gather(*started), strict=True))
        return int(values[workload.size - 1]["n"])

    async def run() -> int:
        return int(await _invoke(app, "start"))

    return run


def _chain_graph(workload: Workload, saver: AsyncSqliteSaver) -> Callable[[], Awaitable[int]]:
    graph = StateGraph(_Last)
    previous = START
    for number, parents in enumerate(workload.parents):

        async def node(state: _Last, *, is_first: bool = not parents) -> _Last:
            return {"value": body([] if is_first else [state["value"]], is_big=workload.is_big)}

        graph.add_node(f"t{number}", node)
        graph.add_edge(previous, f"t{number}")
        previous = f"t{number}"
    graph.add_edge(previous, END)
    app = graph.compile(checkpointer=saver)

    async def run() -> int:
        state = await _invoke(app, {"value": {}})
        return int(state["value"]["n"])

    return run


def _graph(workload: Workload, saver: AsyncSqliteSaver) -> Callable[[], Awaitable[int]]:
    if workload.is_chain:
        return _chain_graph(workload, saver)
    graph = StateGraph(_All)
    for number, indices in enumerate(workload.parents):
        parents = [f"t{index}" for index in indices]

        async def node(state: _All, *, name: str = f"t{number}", parents: list[str] = parents) -> _All:
            return {"values": {name: body([state["values"][parent] for parent in parents], is_big=workload.is_big)}}

        graph.add_node(f"t{number}", node)
        graph.add_edge(parents if len(parents) > 1 else parents[0] if parents else START, f"t{number}")
    last = f"t{workload.size - 1}"
    graph.add_edge(last, END)
    app = graph.compile(checkpointer=saver)

    async def run() -> int:
        state = await _invoke(app, {"values": {}})
        return int(state["values"][last]["n"])

    return run


async def _main(form: str, workload: Workload, folder: Path) -> None:
    make = {"functional": _functional, "graph": _graph}[form]
    async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
        await saver.setup()
        await make(WARM_UP, saver)()
        await serve(workload, make(workload, saver), read_line=lambda: asyncio.to_thread(sys.stdin.readline), sleep=asyncio.sleep)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], WORKLOADS[sys.argv[2]], Path(sys.argv[3])))
