"""The judge: compares a store, asked by the public API only, with what was acknowledged and with an undisturbed run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from dagrelay import RunState, SqliteStore, TaskState
from dagrelay.model.events import XComPushed
from tests.crash.nursery import CAP_S
from tests.crash.workload import AckFile, carry, make_dag, make_runtime

if TYPE_CHECKING:
    from pathlib import Path

    from dagrelay import Runtime
    from tests.crash.workload import Acks

__all__ = ("Place", "Values", "judge_and_resume", "lost", "pushed_places", "survey")

Values = dict[str, dict[str, Any]]
Place = tuple[int, str, int, str]
"""Where an entry stands in a run's timeline, and its task, attempt and key."""


async def survey(runtime: Runtime, run_id: str, expected: Values) -> tuple[dict[tuple[str, str, int, str], Any], set[str]]:
    """Check that no attempt is half there, and return what is stored: entries of all attempts, and tasks that succeeded."""
    if run_id not in {run.run_id for run in await runtime.runs()}:
        return {}, set()
    everything = await runtime.xcom.list(run_id, all_attempts=True, include_values=True)
    visible: Values = {}
    for entry in await runtime.xcom.list(run_id, include_values=True):
        visible.setdefault(entry.task_id, {})[entry.key] = entry.value
    succeeded = {row.task_id for row in await runtime.task_instances(run_id, state=TaskState.SUCCESS)}
    for task_id in expected:
        whole = expected[task_id] if task_id in succeeded else {}
        seen = visible.get(task_id, {})
        assert seen == whole, (
            f"task {task_id} of {run_id} is half visible: {sorted(seen)}, and it did{'' if whole else ' not'} succeed"
        )
    return {(run_id, entry.task_id, entry.attempt, entry.key): entry.value for entry in everything}, succeeded


async def lost(runtime: Runtime, acks: Acks, expected: Values, runs: tuple[str, ...] = ("r",)) -> list[str]:
    """Return what was acknowledged and is not there; nothing is half there in any case."""
    missing: list[str] = []
    for run_id in runs:
        stored, succeeded = await survey(runtime, run_id, expected)
        for place, value in acks.pushes.items():
            if place[0] == run_id and stored.get(place) != value:
                missing.append(f"push {place}")
        missing += [f"success of {task_id} in {run}" for run, task_id in acks.done if run == run_id and task_id not in succeeded]
        if run_id in acks.finished and (await runtime.get_run(run_id)).state is not RunState.SUCCESS:
            missing.append(f"end of {run_id}")
    return missing


async def judge_and_resume(
    path: Path, acks: Acks, expected: Values, *, durability: str, runs: tuple[str, ...] = ("r",)
) -> list[str]:
    """Open a store again, return what is lost of what was acknowledged, and check that its runs come to the usual end.

    What had succeeded must not run again.
    """
    ran: set[str] = set()
    with anyio.fail_after(CAP_S):
        async with make_runtime(SqliteStore(path), durability) as runtime:
            missing = await lost(runtime, acks, expected, runs)
            for run_id in runs:
                _, before = await survey(runtime, run_id, expected)
                ran.clear()
                await carry(runtime, make_dag(AckFile(None), before_push=ran.add), run_id, AckFile(None))
                assert not ran & before, f"{ran & before} had succeeded and ran again"
                _, succeeded = await survey(runtime, run_id, expected)
                assert succeeded == set(expected)
    return missing


async def pushed_places(runtime: Runtime, run_id: str) -> list[Place]:
    """Return the timeline's entries in its order."""
    if run_id not in {run.run_id for run in await runtime.runs()}:
        return []
    return [
        (event.seq, event.task_id, event.attempt, event.key)
        async for event in runtime.events(run_id)
        if isinstance(event, XComPushed)
    ]
