"""The commands that ask something of a store's owner, in whatever process it is: `provide`, `cancel` and `retry`.

What they ask is accepted durably before anything else happens. Then it is carried out by the owner; or here, if there is none.
"""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Any

import anyio

from dagrelay.cli.exits import CommandError, ExitCode
from dagrelay.cli.output import tell, write, write_json
from dagrelay.cli.places import command, existing_store
from dagrelay.cli.pools import limits_for
from dagrelay.cli.running import until_end
from dagrelay.cli.target import load_target
from dagrelay.errors import StoreLockedError
from dagrelay.model.states import RunState
from dagrelay.runtime.outbox import send
from dagrelay.runtime.runtime import Runtime
from dagrelay.serializers.json import STANDARD
from dagrelay.stores.sqlite.messages import CancelMessage, ProvideMessage, RetryMessage
from dagrelay.stores.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    from dagrelay.cli.interrupts import Stop
    from dagrelay.runtime.outbox import Sent
    from dagrelay.runtime.result import RunResult
    from dagrelay.stores.sqlite.messages import InboxMessage

__all__ = ("cancel", "provide", "retry")


def provide(options: Namespace) -> ExitCode:
    """Give a task that waits for it a value from outside, or an approval its answer."""
    message = ProvideMessage(run_id=options.run, task_id=options.task, value=_value(options))
    return _ask(options, message, f"task {options.task} of run {options.run} has its value")


def cancel(options: Namespace) -> ExitCode:
    """End a run as cancelled; one that has ended already stays as it is."""
    return _ask(options, CancelMessage(run_id=options.run), "")


def retry(options: Namespace) -> ExitCode:
    """Run a task and all downstream of it again, where the store's owner has the DAG, or here with TARGET if there is none."""
    message = RetryMessage(run_id=options.run, task_id=options.task)
    if options.target is None:
        if options.pools:
            raise CommandError("--pool goes with TARGET; an owner of the store has pools of its own")
        return _ask(options, message, "")
    target, store = load_target(options.target), existing_store(options)
    limits = limits_for(options, target)

    async def work(stop: Stop) -> RunResult:
        async with Runtime(store, limits=limits) as runtime:
            stop.gently = runtime.wind_down
            return await runtime.retry(message.run_id, message.task_id, target.dag, raise_on_failure=False)

    try:
        return until_end(options, work, store, message.run_id, target)
    except StoreLockedError:
        return _ask(options, message, "")


def _value(options: Namespace) -> Any:
    """Return the value that the options say.

    Raises:
        CommandError: they say none, more than one, or no JSON.
    """
    given = sum(each is not None for each in (options.value, options.text, options.answer))
    if given != 1:
        many = "a value is missing" if given == 0 else "these are several values"
        raise CommandError(f"{many}: say one of them, VALUE in JSON, --text TEXT, or --approve or --reject for an approval")
    if options.answer is not None:
        return {"approved": options.answer == "approve", "by": options.by or getpass.getuser(), "note": options.note or ""}
    if options.by is not None or options.note is not None:
        raise CommandError("--by and --note go with --approve or --reject")
    return _json(options.value) if options.text is None else options.text


def _json(text: str) -> Any:
    try:
        return STANDARD.loads(text.encode())
    except (ValueError, RecursionError) as error:
        raise CommandError(f"VALUE is no valid JSON ({error}); a text goes after --text") from error


def _ask(options: Namespace, message: InboxMessage, done: str) -> ExitCode:
    """Send a message and tell what has become of it; `done` in words, or else what state the run is in."""
    store = existing_store(options)

    async def ask() -> tuple[Sent, RunState | None]:
        sent = await send(store, message, wait_s=options.wait)
        return sent, await _state(store, message.run_id) if sent.is_done else None

    sent, state = anyio.run(ask)
    if options.json:
        told = "done" if sent.is_done else "accepted" if sent.refusal is None else "refused"
        facts = {"message_id": sent.message_id, "state": told, "reason": sent.refusal, "run_id": message.run_id}
        write_json({**facts, "run_state": state, "store": str(store)})
    elif sent.is_done:
        write(done or _told(store, message, state))
    elif sent.refusal is None:
        write(f"accepted as message {sent.message_id}; the process that owns the store will carry it out")
    if sent.refusal is None:
        return ExitCode.SUCCESS
    tell(sent.refusal)
    return ExitCode.WRONG


async def _state(path: Path, run_id: str) -> RunState:
    async with Runtime(SqliteStore(path, read_only=True)) as runtime:
        return (await runtime.get_run(run_id)).state


def _told(store: Path, message: InboxMessage, state: RunState | None) -> str:
    text = f"run {message.run_id} is {state}"
    if isinstance(message, RetryMessage) and state is RunState.INTERRUPTED:
        text += f"; task {message.task_id} and all downstream of it run again by:\n"
        text += f"  {command(store, 'resume', message.run_id, 'TARGET')}"
    return text
