"""Mapped tasks, branches and waiters killed at any time: what was done stays done, and an expansion comes before its elements."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import SqliteStore, TaskState
from tests.runtime.programs import Program, finish, heard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_SIZE = 60
_MOST_LIVES = 60

_PROGRAM = """
from dagrelay import each, RetryPolicy, TaskStateChanged

@dag.task
async def load() -> list[int]:
    return list(range(60))

@dag.task(max_concurrency=8, retries=RetryPolicy(2, delay_s=0.001))
async def work(ctx: TaskContext, n: int = load.each) -> int:
    note(f"start {n}")
    await ctx.xcom.push("seen", n, lifetime="task")
    await anyio.sleep(0.004)
    if n % 7 == 3 and ctx.attempt == 1:
        raise ValueError("once")
    return n * n

@dag.branch
async def choose(values: list[int] = work.outputs) -> str:
    note("choose")
    return "good" if values == [n * n for n in range(60)] else "bad"

@dag.task(depends_on=choose)
async def good(ctx: TaskContext) -> int:
    return sum(await ctx.xcom.pull_outputs(work))

@dag.task(depends_on=choose)
async def bad() -> None:
    note("bad")

@dag.task
async def watch(ctx: TaskContext) -> int:
    return await ctx.xcom.wait(good)

async def main():
    async with runtime() as r:
        handle = await r.start(dag, run_id="r")
        tell("started")
        async for event in handle.events():
            if isinstance(event, TaskStateChanged) and str(event.state) == "success":
                note(f"done {event.task_id} {event.map_index}")
        tell(str((await handle.result())["watch"]))

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize(("durability", "backend"), [("strict", "trio"), ("pipelined", "asyncio")])
@pytest.mark.timeout(900)
def test_a_map_killed_at_any_time_goes_on_where_it_was(
    quick_folder: Path, durability: str, backend: str, is_full: bool, figure: Callable[[str], None]
) -> None:
    """Again and again, until the run is through: no element reported done starts anew, and the list is whole."""
    chance = random.Random(f"{durability} {backend}")
    kills = 0
    for trial in range(10 if is_full else 1):
        folder = quick_folder / str(trial)
        folder.mkdir()
        program = Program(folder, _PROGRAM, durability=durability, backend=backend)
        wanted_kills = chance.randrange(5, 10) if is_full else 2
        for life in range(_MOST_LIVES):
            process = program.start()
            assert heard(process) == "started"
            if life < wanted_kills:
                time.sleep(chance.random() * 0.12)
                kills += process.poll() is None
                process.kill()
                finish(process)
                anyio.run(_look, program.store)
                continue
            code, out, err = finish(process)
            assert (code, out.strip()) == (0, str(sum(n * n for n in range(_SIZE)))), err
            break
        _judge(program.notes())
    figure(f"{durability} on {backend}: a map of {_SIZE} killed {kills} times, nothing done twice")


def _judge(notes: list[str]) -> None:
    """Check that nothing started after it was reported done, and that the branch went one way."""
    done: set[str] = set()
    for note in notes:
        what, *words = note.split()
        match what:
            case "done":
                done.add(" ".join(words))
            case "start":
                assert f"work {words[0]}" not in done, f"element {words[0]} was done, and started again"
            case "choose":
                assert "choose None" not in done
            case _:
                raise AssertionError(note)
    assert {f"work {n}" for n in range(_SIZE)} <= done


async def _look(path: Path) -> None:
    """Check what a killed process left: elements only under an expansion, and a whole that ended only after all of them."""
    store = SqliteStore(path, read_only=True)
    await store.open(now_us=0)
    try:
        image = await store.load_run("r")
    finally:
        await store.close()  # noqa: ASYNC102 - it shields itself
    assert image is not None
    rows = {each.instance.map_index: each for each in image.instances if each.instance.task_id == "work"}
    whole = rows.pop(None, None)
    if whole is None:
        assert not rows
        return
    assert whole.length == _SIZE
    assert all(map_index is not None and map_index < _SIZE for map_index in rows)
    if whole.state is TaskState.SUCCESS:
        assert {each.state for each in rows.values()} == {TaskState.SUCCESS}
        assert len(rows) == _SIZE
