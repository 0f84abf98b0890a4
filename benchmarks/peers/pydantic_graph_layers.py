"""pydantic-graph as a measured system, in memory, called as `pydantic_graph_layers.py WORKLOAD FOLDER`.

It joins only what it has spread, so what is no chain is spread and joined a layer at a time: less work than the DAG is. Version 2
keeps nothing on disk.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parents[1]))

from pydantic_graph import GraphBuilder, StepContext, reduce_list_append

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Value, Workload, body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _chain(workload: Workload) -> Callable[[], Awaitable[int]]:
    builder: Any = GraphBuilder(output_type=dict)
    steps: list[Any] = []
    for number, parents in enumerate(workload.parents):

        @builder.step(node_id=f"t{number}")
        async def step(ctx: StepContext[None, None, Any], *, is_first: bool = not parents) -> Value:
            return body([] if is_first else [ctx.inputs], is_big=workload.is_big)

        steps.append(step)
    way = itertools.pairwise([builder.start_node, *steps, builder.end_node])
    builder.add(*(builder.edge_from(above).to(below) for above, below in way))
    graph = builder.build()

    async def run() -> int:
        return int((await graph.run())["n"])

    return run


def _layers(workload: Workload) -> Callable[[], Awaitable[int]]:
    """Return what spreads each layer as pairs of a task and its parents' values, and joins the pairs of a task and its value."""
    builder: Any = GraphBuilder(output_type=dict)
    above = builder.start_node
    for depth, layer in enumerate(workload.layers):

        @builder.step(node_id=f"spread{depth}")
        async def spread(
            ctx: StepContext[None, None, Any], *, depth: int = depth, layer: list[int] = layer
        ) -> list[tuple[int, list[Value]]]:
            values: dict[int, Value] = dict(ctx.inputs) if depth else {}
            return [(number, [values[parent] for parent in workload.parents[number]]) for number in layer]

        @builder.step(node_id=f"work{depth}")
        async def work(ctx: StepContext[None, None, tuple[int, list[Value]]]) -> tuple[int, Value]:
            number, values = ctx.inputs
            return number, body(values, is_big=workload.is_big)

        join = builder.join(reduce_list_append, initial_factory=list, node_id=f"join{depth}")
        builder.add(
            builder.edge_from(above).to(spread), builder.edge_from(spread).map().to(work), builder.edge_from(work).to(join)
        )
        above = join

    @builder.step(node_id="last")
    async def last(ctx: StepContext[None, None, list[tuple[int, Value]]]) -> Value:
        [(_, value)] = ctx.inputs
        return value

    builder.add(builder.edge_from(above).to(last), builder.edge_from(last).to(builder.end_node))
    graph = builder.build()

    async def run() -> int:
        return int((await graph.run())["n"])

    return run


async def _main(workload: Workload) -> None:
    await _chain(WARM_UP)()
    run = (_chain if workload.is_chain else _layers)(workload)
    await serve(workload, run, read_line=lambda: asyncio.to_thread(sys.stdin.readline), sleep=asyncio.sleep)


if __name__ == "__main__":
    asyncio.run(_main(WORKLOADS[sys.argv[1]]))
