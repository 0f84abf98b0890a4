"""Burr as a measured system, called as `burr_machine.py WORKLOAD FOLDER`.

A state machine has no joins, so this runs chains only. AsyncSQLitePersister keeps the whole state after every action.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parents[1]))

from burr.core import ApplicationBuilder, State, action
from burr.integrations.persisters.b_aiosqlite import AsyncSQLitePersister

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Workload, body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _machine(workload: Workload, persister: AsyncSQLitePersister, run_ids: itertools.count[int]) -> Callable[[], Awaitable[int]]:
    actions: dict[str, Any] = {}
    for number, parents in enumerate(workload.parents):

        @action(reads=["value"], writes=["value"])
        async def step(state: State, is_first: bool = not parents) -> State:  # noqa: FBT001 - Burr calls it by position
            return state.update(value=body([] if is_first else [state["value"]], is_big=workload.is_big))

        actions[f"t{number}"] = step
    names = list(actions)

    async def run() -> int:
        application = await (
            ApplicationBuilder()
            .with_actions(**actions)
            .with_transitions(*itertools.pairwise(names))
            .with_identifiers(app_id=str(next(run_ids)))
            .with_state_persister(persister)
            .with_state(value={})
            .with_entrypoint(names[0])
            .abuild()
        )
        _, _, state = await application.arun(halt_after=[names[-1]])
        return int(state["value"]["n"])

    return run


async def _main(workload: Workload, folder: Path) -> None:
    run_ids = itertools.count(1)
    async with await AsyncSQLitePersister.from_values(db_path=str(folder / "burr.db")) as persister:
        await persister.initialize()
        await _machine(WARM_UP, persister, run_ids)()
        run = _machine(workload, persister, run_ids)
        await serve(workload, run, read_line=lambda: asyncio.to_thread(sys.stdin.readline), sleep=asyncio.sleep)


if __name__ == "__main__":
    asyncio.run(_main(WORKLOADS[sys.argv[1]], Path(sys.argv[2])))
