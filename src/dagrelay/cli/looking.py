"""The commands that only look: `runs`, `show`, `xcom list`, `xcom get`, `render`, `events` and `lineage`.

They work beside a running owner.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar, assert_never

import anyio

from dagrelay.cli.exits import CommandError, ExitCode
from dagrelay.cli.output import as_dict, clock, compact_json, cut, printable, readable_json, seconds, table, write, write_json
from dagrelay.cli.places import existing_store
from dagrelay.errors import XComTypeError
from dagrelay.model.events import Event, RunFinished, RunStarted, TaskStateChanged, XComDeleted, XComPushed
from dagrelay.model.states import RunState
from dagrelay.runtime.runtime import Runtime
from dagrelay.stores.sqlite.store import SqliteStore
from dagrelay.templates import parse
from dagrelay.xcom.templates import resolve_templates

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Awaitable, Callable

    from dagrelay.model.records import AttemptReads, EntryRead, Run, TaskInstance, XComEntry

__all__ = ("events", "lineage", "render", "runs", "show", "xcom_get", "xcom_list")

T = TypeVar("T")

_MASK: Final = "(sensitive)"
_MOST_CELL_CHARS: Final = 80


def _look(options: Namespace, question: Callable[[Runtime], Awaitable[T]]) -> T:
    store = SqliteStore(existing_store(options), read_only=True)

    async def look() -> T:
        async with Runtime(store) as runtime:
            return await question(runtime)

    return anyio.run(look)


# -------------------------------------------------------------------------------------------------- runs


def runs(options: Namespace) -> ExitCode:
    """List runs, newest first."""
    state = None if options.state is None else RunState(options.state)
    found = _look(options, lambda runtime: runtime.runs(dag_id=options.dag, state=state, limit=options.limit))
    if options.json:
        write_json([as_dict(run) for run in found])
    elif found:
        rows = [(run.run_id, run.dag_id, run.state, clock(run.created_at), _took(run)) for run in found]
        write(table([("RUN", "DAG", "STATE", "CREATED", "TOOK"), *rows]))
    else:
        write("no runs")
    return ExitCode.SUCCESS


def show(options: Namespace) -> ExitCode:
    """Show a run and its tasks."""

    async def question(runtime: Runtime) -> tuple[Run, list[TaskInstance]]:
        return await runtime.get_run(options.run), await runtime.task_instances(options.run)

    run, tasks = _look(options, question)
    if options.json:
        write_json({**as_dict(run), "tasks": [as_dict(task) for task in tasks]})
        return ExitCode.SUCCESS
    facts = [
        ("run", run.run_id),
        ("dag", run.dag_id),
        ("state", run.state),
        ("params", compact_json(run.params)),
        ("tags", ", ".join(run.tags)),
        ("created", clock(run.created_at)),
        ("started", clock(run.started_at)),
        ("ended", clock(run.ended_at)),
    ]
    write(table(fact for fact in facts if fact[1]))
    rows = [
        (
            _place(task.task_id, task.map_index),
            task.state,
            str(task.attempt),
            seconds(task.ended_at - task.started_at) if task.ended_at and task.started_at else "-",
            "" if task.error is None else cut(str(task.error), _MOST_CELL_CHARS),
        )
        for task in tasks
    ]
    if rows:
        write("\n" + table([("TASK", "STATE", "ATTEMPT", "TOOK", "ERROR"), *rows]))
    return ExitCode.SUCCESS


def _took(run: Run) -> str:
    return seconds(None if run.ended_at is None else run.ended_at - run.started_at)


# -------------------------------------------------------------------------------------------------- values


def xcom_list(options: Namespace) -> ExitCode:
    """List the entries of a run, or of one of its tasks; values only if asked for, sensitive ones never."""

    async def question(runtime: Runtime) -> list[XComEntry]:
        found = await runtime.xcom.list(
            options.run, options.task, all_attempts=options.all_attempts, include_values=options.values
        )
        if not found:
            await runtime.get_run(options.run)  # A run that is not there is an error, one without entries is none.
        return found

    found = _look(options, question)
    if options.json:
        write_json([_entry_dict(entry, with_value=options.values) for entry in found])
        return ExitCode.SUCCESS
    heads = ["TASK", "KEY", "BYTES", "ATTEMPT", "PUSHED", "DESCRIPTION"]
    rows = [
        [
            _place(entry.task_id, entry.map_index),
            entry.key,
            str(entry.size_bytes),
            _attempt(entry),
            clock(entry.timestamp),
            _described(entry),
        ]
        for entry in found
    ]
    if options.values:
        heads.append("VALUE")
        for row, entry in zip(rows, found, strict=True):
            row.append(_MASK if entry.sensitive else cut(compact_json(entry.value), _MOST_CELL_CHARS))
    write(table([heads, *rows]) if rows else "no entries")
    return ExitCode.SUCCESS


def _entry_dict(entry: XComEntry, *, with_value: bool) -> dict[str, Any]:
    facts = as_dict(entry)
    if not with_value:
        del facts["value"]
    return facts


def _attempt(entry: XComEntry) -> str:
    return f"{entry.attempt} ({entry.state})" if entry.state is not None else str(entry.attempt)


def _described(entry: XComEntry) -> str:
    return f"{_MASK} {entry.description}".rstrip() if entry.sensitive else entry.description


def xcom_get(options: Namespace) -> ExitCode:
    """Print a value (of a mapped task a list): as indented JSON, or with `--raw` a text as it is and the rest as compact JSON."""
    place, key = (options.run, options.task), options.key

    async def question(runtime: Runtime) -> tuple[list[XComEntry], bool, Any]:
        listed = await runtime.xcom.list(*place, prefix=key)
        entries = [each for each in listed if each.key == key]
        try:
            value = await runtime.xcom.pull(*place, key, map_index=options.index)
        except XComTypeError:  # It is mapped.
            return [each for each in entries if each.map_index is not None], True, await runtime.xcom.pull_outputs(*place, key)
        return [each for each in entries if each.map_index == options.index], False, value

    entries, is_list, value = _look(options, question)
    # Of what was pushed between the two reads nothing is known.
    is_known = len(entries) == (len(value) if is_list else 1)
    if not options.reveal and (not is_known or any(entry.sensitive for entry in entries)):
        raise CommandError(f"XCom {key!r} of task {options.task!r} is sensitive; --reveal prints it all the same")
    if options.json and is_list:
        write_json({"run_id": options.run, "task_id": options.task, "key": key, "value": value})
    elif options.json:
        write_json({**(as_dict(entries[0]) if entries else {}), "value": value})
    elif options.raw:
        _write_raw(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    else:
        print(readable_json(value))
    return ExitCode.SUCCESS


def _write_raw(text: str) -> None:
    """Print a text exactly, but on a terminal, which its control characters would steer."""
    print(printable(text, keep="\n\t") if sys.stdout.isatty() else text)


def render(options: Namespace) -> ExitCode:
    """Print what a template (of `xcom...` and `run.id`) becomes with values of a run; sensitive ones are refused."""

    async def question(runtime: Runtime) -> Any:
        run = await runtime.get_run(options.run)
        if not options.reveal:
            await _refuse_sensitive(runtime, options)
        value = await resolve_templates(options.template, run.run_id, runtime.xcom, native=options.json, foreign="error")
        if not options.reveal:
            await _refuse_sensitive(runtime, options)  # It may have been pushed since.
        return value

    value = _look(options, question)
    if options.json:
        write_json({"run_id": options.run, "template": options.template, "value": value})
    else:
        _write_raw(value)
    return ExitCode.SUCCESS


async def _refuse_sensitive(runtime: Runtime, options: Namespace) -> None:
    """Raise CommandError if the template reads a sensitive value."""
    wanted = {(each.task_id, each.key) for each in parse(options.template).expressions if each.root == "xcom"}
    for task_id in sorted({task_id for task_id, _ in wanted}):
        for entry in await runtime.xcom.list(options.run, task_id):
            if entry.sensitive and (task_id, entry.key) in wanted:
                raise CommandError(f"XCom {entry.key!r} of task {task_id!r} is sensitive; --reveal prints it all the same")


# -------------------------------------------------------------------------------------------------- timeline, lineage


def events(options: Namespace) -> ExitCode:
    """Print the timeline of a run; with `--json` one event a line."""

    async def question(runtime: Runtime) -> None:
        async for event in runtime.events(options.run):
            if options.json:
                write_json({"type": type(event).__name__, **as_dict(event)}, indent=None)
            else:
                write(f"{event.seq:5}  {event.time:%Y-%m-%d %H:%M:%S.%f}Z  {_told(event)}")

    _look(options, question)
    return ExitCode.SUCCESS


def lineage(options: Namespace) -> ExitCode:
    """Show which attempts of a run have read which entries."""
    found = _look(options, lambda runtime: runtime.lineage(options.run))
    if options.json:
        write_json([as_dict(reads) for reads in found])
        return ExitCode.SUCCESS
    rows = [row for reads in found for row in _lineage_rows(reads, options.run)]
    write(table([("READER", "ATTEMPT", "READ", "OF", "RUN"), *rows]) if rows else "no reads")
    return ExitCode.SUCCESS


def _lineage_rows(reads: AttemptReads, run_id: str) -> list[tuple[str, str, str, str, str]]:
    reader = _place(reads.task_id, reads.map_index)
    rows = [(reader, str(reads.attempt), _entry(read), _slot(read), _other(read.run_id, run_id)) for read in reads.reads]
    if reads.left_out:
        rows.append((reader, str(reads.attempt), f"({reads.left_out:,} more)", "", ""))
    return rows


def _entry(read: EntryRead) -> str:
    place = f"{read.task_id}[*]" if read.attempt is None else _place(read.task_id, read.map_index)
    return f"{place} stream {read.key}" if read.is_stream else f"{place} {read.key}"


def _slot(read: EntryRead) -> str:
    match read.attempt:
        case None:
            return "all elements"
        case 0:
            return "outside"
        case -1:
            return "kept over attempts"
        case number:
            return f"attempt {number}"


def _place(task_id: str, map_index: int | None) -> str:
    return task_id if map_index is None else f"{task_id}[{map_index}]"


def _other(run_id: str, own: str) -> str:
    return "" if run_id == own else run_id


def _told(event: Event) -> str:
    match event:
        case RunStarted():
            return f"run started: {event.dag_id}"
        case RunFinished():
            return f"run {event.state}"
        case TaskStateChanged():
            reason = "" if event.error is None else f": {cut(printable(str(event.error)), _MOST_CELL_CHARS)}"
            return f"{event.task_id} {event.state} (attempt {event.attempt}){reason}"
        case XComPushed():
            return f"{event.task_id} pushed {event.key!r} ({event.size_bytes} bytes, attempt {event.attempt})"
        case XComDeleted():
            return f"{event.task_id} lost {event.count} entries under {'all keys' if event.key is None else repr(event.key)}"
        case _ as never:
            assert_never(never)
