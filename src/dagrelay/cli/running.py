"""The commands that run something: `demo`, `run`, `resume` and `fork`."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import anyio

from dagrelay.cli.exits import CommandError, ExitCode
from dagrelay.cli.interrupts import Interrupted, Stop, until_signal
from dagrelay.cli.output import as_dict, compact_json, readable_json, seconds, table, tell, write, write_json
from dagrelay.cli.places import command, existing_store, store_path
from dagrelay.cli.pools import limits_for, pool_words
from dagrelay.cli.target import Target, load_target
from dagrelay.errors import XComTypeError
from dagrelay.examples import weather
from dagrelay.model.states import RunState, TaskState
from dagrelay.runtime.environment import Environment
from dagrelay.runtime.runtime import Runtime

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from dagrelay.model.records import TaskInstance
    from dagrelay.runtime.handle import RunHandle
    from dagrelay.runtime.result import RunResult

__all__ = ("demo", "fork", "parse_params", "resume", "run", "until_end")

_DEMO: Final = Target(dag=weather.dag, text="dagrelay.examples.weather:dag")
_PARAM: Final = re.compile(r"(?P<name>[^:=]+)(?P<is_json>:?)=(?P<text>.*)", re.DOTALL)
_FRAMES: Final = "Traceback (most recent call last):"
_MOST_ROWS: Final = 50
"""Tasks shown one by one; of more only those that did not succeed, and counts."""


# -------------------------------------------------------------------------------------------------- commands


def demo(options: Namespace) -> ExitCode:
    """Run the example of four years of weather, and say what can be tried next."""
    store = store_path(options)
    run_id = Environment().new_run_id()
    say = _notice if options.json else write

    def announce() -> None:
        say(f"run {run_id} of {_DEMO.text} (process {os.getpid()})")
        say("if anything stops it, even kill -9, go on with:")
        say(f"  {_resume_command(options, store, run_id, _DEMO)}\n")
        if options.pause_s:
            say(f"It pauses for {options.pause_s:g} s between two tasks: a good moment.\n")
        sys.stdout.flush()

    params = {"pause_s": options.pause_s}
    start = partial(_start, target=_DEMO, params=params, run_id=run_id)
    result = _carry_out(options, store, run_id, _DEMO, start=start, announce=announce)
    if options.json:
        return _show_json(result, store, _DEMO)
    if result.state is not RunState.SUCCESS:
        return _show(result)
    write(result[weather.report])
    write(f"\nEverything is in {store}. Look around:")
    for words in (("show", run_id), ("xcom", "list", run_id), ("xcom", "get", run_id, "yearly"), ("events", run_id), ("runs",)):
        write(f"  {command(store, *words)}")
    return ExitCode.SUCCESS


def run(options: Namespace) -> ExitCode:
    """Run a DAG to its end and show what came of it."""
    target, store, params = load_target(options.target), store_path(options), parse_params(options.params)
    run_id = options.run_id or Environment().new_run_id()

    def announce() -> None:
        _notice(f"run {run_id} of {target.text}; if anything stops it, go on with:")
        _notice(f"  {_resume_command(options, store, run_id, target)}")

    start = partial(_start, target=target, params=params, run_id=run_id)
    result = _carry_out(options, store, run_id, target, start=start, announce=announce)
    return _show_json(result, store, target) if options.json else _show(result)


async def _start(runtime: Runtime, *, target: Target, params: dict[str, Any], run_id: str) -> RunHandle:
    return await runtime.start(target.dag, params=params, run_id=run_id)


def fork(options: Namespace) -> ExitCode:
    """Begin a new run with what another one has come to, run a task of it and all that follows anew, and show what came of it."""
    target, store, params = load_target(options.target), existing_store(options), parse_params(options.params)
    run_id = options.run_id or Environment().new_run_id()

    def announce() -> None:
        _notice(f"run {run_id} of {target.text}, forked from {options.run}; if anything stops it, go on with:")
        _notice(f"  {_resume_command(options, store, run_id, target)}")

    async def start(runtime: Runtime) -> RunHandle:
        return await runtime.fork(options.run, target.dag, from_task=options.from_task, params=params, new_run_id=run_id)

    result = _carry_out(options, store, run_id, target, start=start, announce=announce)
    return _show_json(result, store, target) if options.json else _show(result)


def resume(options: Namespace) -> ExitCode:
    """Go on with an interrupted or cancelled run, to its end, and show what came of it."""
    target, store = load_target(options.target), store_path(options)
    limits = limits_for(options, target)

    async def work(stop: Stop) -> RunResult:
        async with Runtime(store, limits=limits) as runtime:
            stop.gently = runtime.wind_down
            return await runtime.resume(options.run, target.dag, raise_on_failure=False)

    return until_end(options, work, store, options.run, target)


def until_end(
    options: Namespace, work: Callable[[Stop], Awaitable[RunResult]], store: Path, run_id: str, target: Target
) -> ExitCode:
    """Carry work on a run of a DAG through, and show what came of it; a signal ends it early, and it is told how to go on."""
    result = _await_end(options, work, store, run_id, target)
    return _show_json(result, store, target) if options.json else _show(result)


def parse_params(texts: Sequence[str]) -> dict[str, Any]:
    """Return the params of `-p name=text` and `-p name:=json`; the last of a name wins.

    Raises:
        CommandError: one has no name, or its JSON is none.
    """
    params: dict[str, Any] = {}
    for text in texts:
        found = _PARAM.fullmatch(text)
        if found is None:
            raise CommandError(f"{text!r} is no param; use -p name=text, or -p name:=json for anything but text")
        params[found["name"]] = _json(found["name"], found["text"]) if found["is_json"] else found["text"]
    return params


def _json(name: str, text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not in JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"the param {name!r} has no valid JSON after ':=' ({error}); text goes after '='") from error


# -------------------------------------------------------------------------------------------------- carrying out


def _carry_out(
    options: Namespace,
    store: Path,
    run_id: str,
    target: Target,
    *,
    start: Callable[[Runtime], Awaitable[RunHandle]],
    announce: Callable[[], None],
) -> RunResult:
    limits = limits_for(options, target)

    async def work(stop: Stop) -> RunResult:
        async with Runtime(store, limits=limits) as runtime:
            stop.gently = runtime.wind_down
            handle = await start(runtime)
            announce()  # The run is recorded, so that the command printed works from now on.
            return await handle.result(raise_on_failure=False)

    return _await_end(options, work, store, run_id, target)


def _await_end(
    options: Namespace, work: Callable[[Stop], Awaitable[RunResult]], store: Path, run_id: str, target: Target
) -> RunResult:
    if options.backend == "trio" and find_spec("trio") is None:
        raise CommandError("--backend trio needs the package trio; install it by: pip install 'dagrelay[trio]'")
    try:
        return anyio.run(until_signal, work, backend=options.backend)
    except Interrupted:
        tell(f"run {run_id} was interrupted; go on with:\n  {_resume_command(options, store, run_id, target)}")
        raise


def _resume_command(options: Namespace, store: Path, run_id: str, target: Target) -> str:
    return command(store, "resume", run_id, target.text, *pool_words(options))


def _notice(text: str) -> None:
    """Print to stderr, where it is in nobody's way."""
    tell(text, prefix="")


# -------------------------------------------------------------------------------------------------- results


def _show_json(result: RunResult, store: Path, target: Target) -> ExitCode:
    write_json(
        {
            "run_id": result.run_id,
            "dag_id": result.dag_id,
            "state": result.state,
            "params": result.params,
            "started_at": result.started_at,
            "ended_at": result.ended_at,
            "tasks": [as_dict(task) for task in result.tasks.values()],
            "results": _leaf_values(result),
            "store": str(store),
            "target": target.text,
        }
    )
    return _tell_failures(result)


def _show(result: RunResult) -> ExitCode:
    took = None if result.ended_at is None else result.ended_at - result.started_at
    write(f"run {result.run_id} of {result.dag_id}: {result.state} ({seconds(took)} from start to end)\n")
    _show_tasks(list(result.tasks.values()))
    for task_id, value in _leaf_values(result).items():
        write(f"\n{task_id}:\n{value if isinstance(value, str) else readable_json(value)}")
    return _tell_failures(result)


def _show_tasks(tasks: Sequence[TaskInstance]) -> None:
    shown = [task for task in tasks if task.state is not TaskState.SUCCESS] if len(tasks) > _MOST_ROWS else tasks
    rows = [
        (
            task.task_id,
            task.state,
            f"attempt {task.attempt}" if task.attempt else "",
            seconds(task.ended_at - task.started_at) if task.ended_at and task.started_at else "",
        )
        for task in shown[:_MOST_ROWS]
    ]
    if rows:
        write(table(rows, indent="  "))
    if len(rows) < len(tasks):
        counts = Counter(str(task.state) for task in tasks)
        write(f"  {len(tasks)} tasks: {', '.join(f'{count} {state}' for state, count in counts.items())}")


def _leaf_values(result: RunResult) -> dict[str, Any]:
    """Return the values of the leaf tasks that have one, as plain JSON; of a mapped one a list, with null for what it lacks."""
    values: dict[str, Any] = {}
    for task_id, task in result.tasks.items():
        try:
            values[task_id] = result[task_id]
        except XComTypeError:
            if task.state is TaskState.SUCCESS:
                with suppress(LookupError):
                    values[task_id] = result.outputs(task_id, default=None)
        except LookupError:  # No leaf, or one that has no value.
            continue
    return values


def _tell_failures(result: RunResult) -> ExitCode:
    if result.state is RunState.SUCCESS:
        return ExitCode.SUCCESS
    records = [task.error for task_id, task in result.tasks.items() if task_id in result.errors]
    # A timeout has no frames: its text would only be the line below.
    for traceback in [record.traceback for record in records if record is not None and _FRAMES in record.traceback]:
        _notice(traceback.rstrip("\n"))
    for error in result.errors.values():
        tell(str(error))
    tell(f"run {result.run_id} failed with params {compact_json(result.params)}")
    return ExitCode.FAILED
