"""Runs and the processes that carry them: killed, interrupted, failing, and always gone in seconds."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import anyio
import pytest

from dagrelay import RunState, Runtime, SqliteStore
from tests.runtime.programs import Program, finish, heard

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = ("asyncio", "trio")

PIPELINE = """
@dag.task
async def first(ctx: TaskContext) -> dict[str, int]:
    note("first")
    await ctx.xcom.push("k", "pushed")
    return {"n": 1}

@dag.task
async def second(ctx: TaskContext, value: dict[str, int] = first.output) -> int:
    note("second")
    await ctx.xcom.push("progress", 1, lifetime="task")
    if sys.argv[5:] == ["pause"]:
        tell("paused")
        await anyio.sleep_forever()
    return value["n"] + await ctx.xcom.pull_own("progress")

@dag.task
async def third(ctx: TaskContext, value: int = second.output) -> str:
    note("third")
    return f"{value} {await ctx.xcom.pull('first', 'k')}"

async def main():
    async with runtime() as r:
        result = await r.run(dag, run_id="r")
        tell(result["third"])

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("durability", ["strict", "pipelined"])
def test_a_killed_process_is_taken_over_where_it_was(tmp_path: Path, durability: str, backend: str) -> None:
    """What was acknowledged before SIGKILL is there; what had finished before an acknowledged push is not run again."""
    program = Program(tmp_path, PIPELINE, durability=durability, backend=backend)
    process = program.start("pause")
    assert heard(process) == "paused"
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert program.notes() == ["first", "second"]

    async def look() -> None:
        async with Runtime(SqliteStore(program.store, read_only=True)) as runtime:
            assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
            states = [str(row.state) for row in await runtime.task_instances("r")]
            assert states == ["success", "interrupted", "pending"]
            assert await runtime.xcom.pull("r", "first") == {"n": 1}
            assert await runtime.xcom.pull("r", "first", "k") == "pushed"
            assert await runtime.xcom.list("r", "second") == []

    anyio.run(look)
    code, out, err = finish(program.start())
    assert (code, out.strip()) == (0, "2 pushed"), err
    assert program.notes() == ["first", "second", "second", "third"]


BUSY = """
async def step(ctx: TaskContext) -> int:
    note(f"start {ctx.task_id}")
    above = (await ctx.xcom.pull_from_upstream(direct=True)).values()
    await ctx.xcom.push("mine", ctx.task_id)
    return 1 + sum(value["return_value"] for value in above)

for number in range(12):
    dag.add(step, id=f"t{number}", depends_on=[f"t{above}" for above in range(max(0, number - 3), number)])

async def main():
    async with runtime() as r:
        handle = await r.start(dag, run_id="r")
        tell("started")
        async for event in handle.events():
            if str(getattr(event, "state", "")) == "success" and hasattr(event, "task_id"):
                note(f"done {event.task_id}")
        result = await handle.result()
        tell(str(result["t11"]))

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("durability", ["strict", "pipelined"])
@pytest.mark.timeout(300)
def test_a_kill_at_any_time_loses_nothing_reported(tmp_path: Path, durability: str, backend: str, is_full: bool) -> None:
    """However often it is killed: the values are those of an undisturbed run, and no task reported done runs again."""
    chance = random.Random(7)
    for trial in range(25 if is_full else 2):
        folder = tmp_path / str(trial)
        folder.mkdir()
        program = Program(folder, BUSY, durability=durability, backend=backend)
        for _ in range(2):
            process = program.start()
            if heard(process) == "started":
                time.sleep(chance.random() * 0.05)  # A kill has no better place than any.
            process.kill()
            finish(process)
        code, out, err = finish(program.start())
        assert (code, out.split()) == (0, ["started", "1104"]), err
        notes = program.notes()
        for number in range(12):
            if f"done t{number}" in notes:
                done_at = notes.index(f"done t{number}")
                assert f"start t{number}" not in notes[done_at:], notes


FAILURES = {
    "body": 'await r.start(dag, run_id="r"); await started.wait(); raise LookupError("of the body")',
    "run": 'handle = await r.start(dag, run_id="r"); await started.wait(); await r.run(bad)',
    "exit": 'await r.start(dag, run_id="r"); await started.wait(); sys.exit(3)',
    "keyboard": "await r.run(pressed)",
}

FAILING = """
started = None
bad, pressed = DAG("bad"), DAG("pressed")

@dag.task
async def long() -> None:
    started.set()
    await anyio.sleep_forever()

@dag.task
def in_thread() -> None:
    pass

@bad.task
async def fails() -> None:
    raise ValueError("of the handler")

@pressed.task
async def interrupted() -> None:
    raise KeyboardInterrupt

async def main():
    global started
    started = anyio.Event()
    async with runtime() as r:
        %s

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("how", "code", "text"),
    [
        ("body", 1, "LookupError: of the body"),
        ("run", 1, "of the handler"),
        ("exit", 3, ""),
        ("keyboard", -2, "KeyboardInterrupt"),
    ],
)
def test_a_process_that_fails_is_gone_in_seconds(tmp_path: Path, backend: str, how: str, code: int, text: str) -> None:
    """Whatever ends the body, nothing keeps the process: no thread, no store, no run."""
    program = Program(tmp_path, FAILING % FAILURES[how], durability="strict", backend=backend)
    began = time.monotonic()
    found, _, err = finish(program.start())
    assert time.monotonic() - began < 10
    assert found == code or (code < 0 and found in {code, 1, 130}), err
    assert text in err

    async def look() -> None:
        async with Runtime(SqliteStore(program.store)) as runtime:
            (run,) = [run for run in await runtime.runs() if run.dag_id in {"d", "pressed"}]
            assert run.state is RunState.INTERRUPTED

    anyio.run(look)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_interrupts_the_run(tmp_path: Path, backend: str) -> None:
    """SIGINT while a handler waits: the run is recorded interrupted, not cancelled, and can be resumed by any process."""
    program = Program(tmp_path, PIPELINE, durability="strict", backend=backend)
    process = program.start("pause")
    assert heard(process) == "paused"
    os.kill(process.pid, signal.SIGINT)
    _, _, err = finish(process)
    assert "KeyboardInterrupt" in err
    assert "Traceback" in err

    async def look() -> None:
        async with Runtime(SqliteStore(program.store)) as runtime:
            assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
            rows = await runtime.task_instances("r")
            assert [(str(row.state), row.ended_at is not None) for row in rows] == [
                ("success", True),
                ("interrupted", True),
                ("pending", False),
            ]

    anyio.run(look)
    code, out, err = finish(program.start())
    assert (code, out.strip()) == (0, "2 pushed"), err


def test_a_forked_child_cannot_use_the_runtime(tmp_path: Path) -> None:
    """It is told so, and the parent's is unhurt."""
    body = """
    import warnings
    from dagrelay import ProcessForkedError
    @dag.task
    async def task() -> int:
        return 5
    async def main():
        async with runtime() as r:
            warnings.simplefilter("ignore")
            pid = os.fork()
            if pid == 0:
                try:
                    await r.run(dag)
                except ProcessForkedError as error:
                    note(str(error))
                os._exit(0)
            os.waitpid(pid, 0)
            tell(str((await r.run(dag))[task]))
    anyio.run(main, backend=backend)
    """
    program = Program(tmp_path, body, durability="strict", backend="asyncio")
    code, out, err = finish(program.start())
    assert (code, out.strip()) == (0, "5"), err
    (note,) = program.notes()
    assert "can't be used in its child" in note
