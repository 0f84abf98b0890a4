"""dagrelay as a measured system, called as `relay.py DURABILITY BACKEND WORKLOAD FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from dagrelay import DAG, Durability, Runtime, TaskContext
from measuring import serve
from workloads import PAD, WARM_UP, WORKLOADS, Value, Workload, body

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dagrelay import Task

__all__ = ("make_dag",)

_MOST_PARAMETERS = 3
"""A task of more parents than this pulls their values in one call."""


def make_dag(workload: Workload) -> tuple[DAG, Task[Value]]:
    """Return a workload as a DAG, and its last task."""

    async def source() -> Value:
        return body([], is_big=workload.is_big)

    async def follow(first: Value) -> Value:
        return body([first])

    async def join(first: Value, second: Value, third: Value) -> Value:
        return body([first, second, third])

    def gather(parents: list[str]) -> Callable[[TaskContext], Coroutine[Any, Any, Value]]:
        async def handler(ctx: TaskContext) -> Value:
            values = await ctx.xcom.pull(parents)
            return body(list(values.values()))

        return handler

    dag = DAG(workload.name)
    tasks: list[Task[Value]] = []
    for number, indices in enumerate(workload.parents):
        parents = [tasks[index] for index in indices]
        task_id = f"t{number}"
        match parents:
            case []:
                task = dag.add(source, id=task_id)
            case [first]:
                task = dag.add(follow, id=task_id, bind={"first": first.output})
            case [first, second, third]:
                task = dag.add(join, id=task_id, bind={"first": first.output, "second": second.output, "third": third.output})
            case _:
                task = dag.add(gather([parent.id for parent in parents]), id=task_id, depends_on=parents)
        tasks.append(task)
    return dag, tasks[-1]


def _make_mapped_dag(workload: Workload) -> tuple[DAG, Task[Value]]:
    """Return a workload of a source, many tasks below it and a sink as one task mapped over a list."""
    dag = DAG(workload.name)

    @dag.task
    async def source() -> list[int]:
        return [0] * (workload.size - 2)

    @dag.task
    async def element(number: int = source.each) -> Value:
        return body([{"n": number, "pad": PAD}])

    @dag.task
    async def sink(values: list[Any] = element.outputs) -> Value:
        return body(values)

    return dag, sink


async def _main(durability: Durability, workload: Workload, folder: Path) -> None:
    dag, last = (_make_mapped_dag if workload.is_mapped else make_dag)(workload)
    async with Runtime(folder / "runs.db", durability=durability) as runtime:
        warm_up, _ = make_dag(WARM_UP)
        await runtime.run(warm_up)

        async def run() -> int:
            result = await runtime.run(dag)
            return int(result[last]["n"])

        await serve(workload, run, read_line=lambda: anyio.to_thread.run_sync(sys.stdin.readline), sleep=anyio.sleep)


if __name__ == "__main__":
    _, durability, backend, workload, folder = sys.argv
    anyio.run(_main, Durability(durability), WORKLOADS[workload], Path(folder), backend=backend)
