"""Dagster as a measured system, called as `dagster_job.py WORKLOAD FOLDER`.

A job run in this process, one op after another, as execute_in_process does. fs_io_manager pickles each value into a file, and the
instance keeps events in SQLite.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parents[1]))
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"

from dagster import (
    DagsterInstance,
    DependencyDefinition,
    GraphDefinition,
    In,
    MultiDependencyDefinition,
    NodeInvocation,
    fs_io_manager,
    op,
)

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Value, Workload, body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _job(workload: Workload, instance: DagsterInstance, folder: Path) -> Callable[[], Awaitable[int]]:
    @op
    def source() -> Any:
        return body([], is_big=workload.is_big)

    @op
    def follow(first: Any) -> Any:
        return body([first])

    @op(ins={"values": In(list)})
    def gather(values: list[Value]) -> Any:
        return body(values)

    nodes: dict[Any, Any] = {}
    for number, indices in enumerate(workload.parents):
        parents = [DependencyDefinition(f"t{index}") for index in indices]
        match parents:
            case []:
                used, inputs = source, {}
            case [first]:
                used, inputs = follow, {"first": first}
            case _:
                used, inputs = gather, {"values": MultiDependencyDefinition(parents)}
        nodes[NodeInvocation(used.name, alias=f"t{number}")] = inputs
    names = {node.name for node in nodes}
    graph = GraphDefinition(
        name=f"measured_{workload.name.replace('-', '_')}",
        node_defs=[used for used in (source, follow, gather) if used.name in names],
        dependencies=nodes,
    )
    job = graph.to_job(resource_defs={"io_manager": fs_io_manager.configured({"base_dir": str(folder / "values")})})

    async def run() -> int:
        result = job.execute_in_process(instance=instance)
        return int(result.output_for_node(f"t{workload.size - 1}")["n"])

    return run


async def _main(workload: Workload, folder: Path) -> None:
    (folder / "instance").mkdir()
    with DagsterInstance.local_temp(str(folder / "instance")) as instance:
        await _job(WARM_UP, instance, folder)()
        run = _job(workload, instance, folder)
        await serve(workload, run, read_line=lambda: asyncio.to_thread(sys.stdin.readline), sleep=asyncio.sleep)


if __name__ == "__main__":
    logging.disable(logging.INFO)
    asyncio.run(_main(WORKLOADS[sys.argv[1]], Path(sys.argv[2])))
