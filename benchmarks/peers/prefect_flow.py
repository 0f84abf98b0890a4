"""Prefect as a measured system, called as `prefect_flow.py WORKLOAD FOLDER`.

An async flow of async tasks, a layer gathered at a time, with the server that Prefect starts for itself on SQLite. Results are
kept in files, one a task.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[1]))
os.environ["PREFECT_HOME"] = str(Path(sys.argv[-1]).absolute() / "prefect")  # read at the import
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "90"
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"
os.environ["DO_NOT_TRACK"] = "1"

from prefect import flow, task

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Value, Workload, body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


# With no cache policy Prefect keeps no result at all, whatever persist_result says. The default one finds results by what a task
# is given; `number` keeps tasks with the same parents apart.
@task(persist_result=True)
async def _step(number: int, values: list[Value], is_big: bool) -> Value:  # noqa: ARG001, FBT001 - see above; its values are shown
    return body(values, is_big=is_big)


def _flow(workload: Workload) -> Callable[[], Awaitable[int]]:
    layers = workload.layers

    @flow(name=workload.name, persist_result=False)
    async def run() -> int:
        values: dict[int, Value] = {}
        for layer in layers:
            started = [
                _step(number, [values[parent] for parent in workload.parents[number]], workload.is_big) for number in layer
            ]
            values.update(zip(layer, await asyncio.gather(*started), strict=True))
        return int(values[workload.size - 1]["n"])

    return run


async def _main(workload: Workload) -> None:
    await _flow(WARM_UP)()
    await serve(workload, _flow(workload), read_line=lambda: asyncio.to_thread(sys.stdin.readline), sleep=asyncio.sleep)


if __name__ == "__main__":
    asyncio.run(_main(WORKLOADS[sys.argv[1]]))
