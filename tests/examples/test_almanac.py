"""The example streams, maps, waits for its editor and branches, and all of that survives a stop."""

from __future__ import annotations

import runpy
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from dagrelay import Approval, RunState, Runtime, TaskState, TaskStateChanged
from dagrelay.examples import almanac

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PATIENCE_S = 30
PRINTED = """\
2012: 1226 mm of rain in 366 days
2013: 828 mm of rain in 365 days
2014: 1233 mm of rain in 365 days
2015: 1139 mm of rain in 365 days
From 1461 days, approved by Ada."""


async def approve(runtime: Runtime, run_id: str) -> None:
    """Agree as soon as the run, which is about to go on, waits for its editor."""
    while [task.state for task in await runtime.task_instances(run_id, task_id="editor")] != [TaskState.WAITING]:
        await anyio.lowlevel.checkpoint()
    await runtime.provide(run_id, "editor", Approval(approved=True, by="Ada"))


async def test_it_is_printed_once_its_editor_agrees(tmp_path: Path) -> None:
    """Who answers while nobody runs it; what had ended does not run again."""
    path = tmp_path / "runs.db"
    with anyio.fail_after(PATIENCE_S):
        async with Runtime(path, on_exit="interrupt") as runtime:
            handle = await runtime.start(almanac.dag, run_id="spring")
            async for event in handle.events():
                if isinstance(event, TaskStateChanged) and (event.task_id, event.state) == ("editor", TaskState.WAITING):
                    break
        async with Runtime(path) as runtime:
            assert (await runtime.get_run("spring")).state is RunState.INTERRUPTED
            await runtime.provide("spring", "editor", Approval(approved=True, by="Ada"))
        async with Runtime(path) as runtime:
            result = await runtime.resume("spring", almanac.dag)

    assert result[almanac.publish] == PRINTED
    assert {task_id: task.attempt for task_id, task in result.tasks.items() if task_id != "editor"} == {
        "read": 1,
        "sort": 1,
        "describe": 1,
        "decide": 1,
        "publish": 1,
        "shelve": 0,
    }
    assert result.tasks["shelve"].state is TaskState.SKIPPED


async def test_it_is_shelved_if_its_editor_does_not() -> None:
    """Which fails nothing."""
    with anyio.fail_after(PATIENCE_S):
        async with Runtime(":memory:") as runtime:
            handle = await runtime.start(almanac.dag)
            await runtime.provide(handle.run_id, "editor", Approval(approved=False, note="too much rain"))
            result = await handle.result()

    assert result[almanac.shelve] == "Not printed: too much rain"
    assert (result.state, result.tasks["publish"].state) == (RunState.SUCCESS, TaskState.SKIPPED)


async def test_its_months_are_counted_once_though_it_broke_off(tmp_path: Path) -> None:
    """A day that can't be read fails both sides of the stream; retried, both go on where they were."""
    path = tmp_path / "days.csv"
    days = "date,precipitation\n2020/01/01,1.5\n2020/01/02,2.5\n2021/02/01,{}\n"
    path.write_text(days.format("much"), encoding="utf-8")
    async with Runtime(":memory:") as runtime:
        broken = await runtime.run(almanac.dag, params={"path": str(path)}, run_id="r", raise_on_failure=False)
        path.write_text(days.format(4), encoding="utf-8")
        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(approve, runtime, "r")
                await runtime.retry("r", "read", almanac.dag)
        published = await runtime.xcom.pull("r", "publish")

    assert broken.tasks["read"].state is broken.tasks["sort"].state is TaskState.FAILED
    assert published == "2020: 4 mm of rain in 2 days\n2021: 4 mm of rain in 1 days\nFrom 3 days, approved by Ada."


def test_the_file_runs_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """As `python almanac.py`."""
    runpy.run_path(almanac.__file__, run_name="__main__")

    assert capsys.readouterr().out == PRINTED.replace("Ada", "the author") + "\n"
