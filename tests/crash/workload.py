"""The DAG that is killed, starved and cut off: each value follows from its place, so that every survivor can be judged.

Handlers write what was acknowledged to them into a file outside the system, each line by one `os.write`.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagrelay import DAG, Durability, MemoryStore, RetryPolicy, Runtime, TaskContext, TaskState
from dagrelay.model.events import TaskStateChanged

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store

__all__ = ("DAG_ID", "TASKS", "AckFile", "Acks", "carry", "make_dag", "make_runtime", "values_of_an_undisturbed_run")

DAG_ID: Final = "work"
TASKS: Final[dict[str, tuple[str, ...]]] = {
    "root": (),
    "left": ("root",),
    "middle": ("root",),
    "right": ("root",),
    "shaky": ("left", "middle"),
    "lower": ("right",),
    "leaf": ("shaky", "lower"),
}
"""Task -> those above it. `shaky` fails in its first attempt, after its pushes."""
_LONG: Final = 1500
"""Characters of the long values, so that commits take several pages."""


class AckFile:
    """The side file: what the system has said is stored."""

    def __init__(self, path: str | None) -> None:
        """Open it for appending; None writes nothing."""
        self._fd = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, *fact: Any) -> None:
        """Append one fact."""
        if self._fd is not None:
            os.write(self._fd, json.dumps(fact).encode() + b"\n")


@attrs.frozen
class Acks:
    """What a side file says was acknowledged."""

    pushes: dict[tuple[str, str, int, str], Any]
    """(run, task, attempt, key) -> value, of acknowledged pushes."""
    done: set[tuple[str, str]]
    """(run, task) reported as succeeded."""
    finished: set[str]
    """Runs whose `run()` returned."""

    @classmethod
    def of(cls, text: bytes) -> Acks:
        """Read a side file."""
        acks = cls({}, set(), set())
        for line in text.splitlines():
            match json.loads(line):
                case ["push", run_id, task_id, attempt, key, value]:
                    acks.pushes[run_id, task_id, attempt, key] = value
                case ["done", run_id, task_id]:
                    acks.done.add((run_id, task_id))
                case ["finished", run_id]:
                    acks.finished.add(run_id)
                case other:
                    raise ValueError(other)
        return acks

    @classmethod
    def read(cls, path: Path) -> Acks:
        """Read a side file that may not have come to exist."""
        return cls.of(path.read_bytes() if path.exists() else b"")


def make_dag(acks: AckFile, *, before_push: Callable[[str], None] | None = None) -> DAG:
    """Return the DAG; `before_push` is called with the task's id before it pushes anything."""
    dag = DAG(DAG_ID, defaults={"retries": RetryPolicy(3, delay_s=0)})

    async def step(ctx: TaskContext) -> int:
        if before_push is not None:
            before_push(ctx.task_id)
        above = await ctx.xcom.pull_from_upstream(direct=True)
        total: int = 1 + sum(values["return_value"] + values["first"]["total"] for values in above.values())

        async def push(key: str, value: Any) -> None:
            await ctx.xcom.push(key, value)
            acks.write("push", ctx.run_id, ctx.task_id, ctx.attempt, key, value)

        await push("first", {"task": ctx.task_id, "total": total})
        many = {"second": [total, ctx.task_id], "third": ctx.task_id * (_LONG // len(ctx.task_id))}
        await ctx.xcom.push_many(many)
        for key, value in many.items():
            acks.write("push", ctx.run_id, ctx.task_id, ctx.attempt, key, value)
        if ctx.task_id == "shaky" and ctx.attempt == 1:
            raise OSError("the first attempt fails")
        await push("fourth", total * 2)
        return total

    for task_id, above in TASKS.items():
        dag.add(step, id=task_id, depends_on=above)
    return dag


def make_runtime(store: Store, durability: str) -> Runtime:
    """Return a runtime whose grace is short."""
    return Runtime(store, durability=Durability(durability), grace_s=2)


async def carry(runtime: Runtime, dag: DAG, run_id: str, acks: AckFile) -> None:
    """Run the DAG, or go on with it, and acknowledge what is reported."""
    handle = await runtime.start(dag, run_id=run_id)
    async for event in handle.events():
        if isinstance(event, TaskStateChanged) and event.state is TaskState.SUCCESS:
            acks.write("done", run_id, event.task_id)
    await handle.result()
    acks.write("finished", run_id)


async def values_of_an_undisturbed_run() -> dict[str, dict[str, Any]]:
    """Return what each task hands on when nothing goes wrong: task -> key -> value."""
    async with make_runtime(MemoryStore(), "strict") as runtime:
        await runtime.run(make_dag(AckFile(None)), run_id="r")
        entries = await runtime.xcom.list("r", include_values=True)
    values: dict[str, dict[str, Any]] = {}
    for entry in entries:
        values.setdefault(entry.task_id, {})[entry.key] = entry.value
    return values
