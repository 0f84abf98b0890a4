"""DBOS as a measured system, called as `dbos_workflow.py WORKLOAD FOLDER`.

An async workflow of async steps, a layer gathered at a time, on SQLite as DBOS sets it up itself: what a newcomer gets. In
production it is meant to run on PostgreSQL.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from dbos import DBOS, DBOSConfig

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Value, Workload, body


@DBOS.step()
async def _step(values: list[Value], is_big: bool) -> Value:  # noqa: FBT001 - steps are called by position
    return body(values, is_big=is_big)


@DBOS.workflow()
async def _workflow(name: str) -> int:
    workload = WARM_UP if name == WARM_UP.name else WORKLOADS[name]
    values: dict[int, Value] = {}
    for layer in workload.layers:
        started = [_step([values[parent] for parent in workload.parents[number]], workload.is_big) for number in layer]
        values.update(zip(layer, await asyncio.gather(*started), strict=True))
    return int(values[workload.size - 1]["n"])


async def _main(workload: Workload) -> None:
    await _workflow(WARM_UP.name)
    await serve(
        workload,
        lambda: _workflow(workload.name),
        read_line=lambda: asyncio.to_thread(sys.stdin.readline),
        sleep=asyncio.sleep,
    )


if __name__ == "__main__":
    path = Path(sys.argv[2]).absolute() / "dbos.db"
    config = DBOSConfig(
        name="measured", system_database_url=f"sqlite:///{path}", log_level="ERROR", run_admin_server=False, enable_otlp=False
    )
    DBOS(config=config)
    DBOS.launch()
    try:
        asyncio.run(_main(WORKLOADS[sys.argv[1]]))
    finally:
        DBOS.destroy()
