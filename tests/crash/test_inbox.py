"""Messages accepted from senders that are killed, by an owner that is killed too: each is carried out, and none twice."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from dagrelay import RunInterruptedError, RunState, SqliteStore
from dagrelay.model.events import TaskStateChanged
from dagrelay.model.states import TaskState
from tests.crash.messaging import CountingStore, make_waiting_dag, value_of
from tests.crash.nursery import CAP_S
from tests.crash.workload import make_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.crash.nursery import Child, Nursery

pytestmark = pytest.mark.crash

BACKENDS: Final = ("asyncio", "trio")


def lines(path: Path) -> list[Any]:
    """Return the whole lines of a side file; a kill may have cut the last one off."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


async def make_runs(store: Path, runs: list[str], count: int) -> None:
    """Start runs whose tasks wait, and leave them interrupted."""
    dag = make_waiting_dag(count)
    async with make_runtime(SqliteStore(store), "strict") as runtime:
        for run_id in runs:
            handle = await runtime.start(dag, run_id=run_id)
            waiting = 0
            async for event in handle.events():
                waiting += isinstance(event, TaskStateChanged) and event.state is TaskState.WAITING
                if waiting == count:
                    break
            runtime.wind_down()
            with pytest.raises(RunInterruptedError):
                await handle.result()


async def judge(store: Path, sent: dict[str, tuple[str, int]], accepted: set[str], log: Path) -> tuple[list[str], int]:
    """Open the store once more, and return what is wrong with it, and how many messages were carried out."""
    wrong: list[str] = []
    database = CountingStore(str(store), str(log))
    async with make_runtime(database, "strict") as runtime:
        stored = {
            (run.run_id, entry.task_id): entry.value
            for run in await runtime.runs(limit=1000)
            for entry in await runtime.xcom.list(run.run_id, include_values=True)
        }
        assert all(run.state is RunState.INTERRUPTED for run in await runtime.runs(limit=1000))
        for message_id, (run_id, number) in sent.items():
            result = await database.message(message_id)
            if message_id in accepted and result != "done":
                wrong.append(f"{message_id} was accepted and is {result}")
            if result == "done" and stored.pop((run_id, f"t{number}"), None) != value_of(run_id, number):
                wrong.append(f"{message_id} is done and its value is not there")
    wrong += [f"{place} has a value that nobody sent" for place in stored]
    times = Counter(message_id for message_id, result in lines(log) if result == 1)
    wrong += [f"{message_id} was carried out {count} times" for message_id, count in times.items() if count > 1]
    wrong += [f"{message_id} was refused: {result}" for message_id, result in lines(log) if isinstance(result, str)]
    return wrong, len(times)


def wait_for_lines(path: Path, count: int) -> None:
    """Wait until a side file has so many lines."""
    end = time.monotonic() + CAP_S / 2
    while time.monotonic() < end and not (path.exists() and path.read_bytes().count(b"\n") >= count):
        time.sleep(0.002)


@pytest.mark.timeout(1200)
def test_accepted_messages_are_carried_out_once_whoever_is_killed(
    nursery: Nursery, quick_folder: Path, is_full: bool, figure: Callable[[str], None]
) -> None:
    """25 senders killed, and 12,500 messages, in full; the owner is killed at each third."""
    kills, count = (25, 500) if is_full else (5, 40)
    chance, store, log = random.Random(4), quick_folder / "runs.db", quick_folder / "log"
    runs = [f"r{number}" for number in range(kills)]
    anyio.run(make_runs, store, runs, count)
    owners = [nursery.spawn("empty_inbox", store=str(store), backend="asyncio", log=str(log))]
    others: list[Child] = []
    late = 0
    for number, run_id in enumerate(runs):
        acks = quick_folder / f"acks-{run_id}"
        sender = nursery.spawn("post_values", store=str(store), run_id=run_id, first=0, last=count, acks=str(acks))
        wait_for_lines(acks, chance.randrange(1, 2 * count - 4))
        sender.signal(signal.SIGKILL)
        late += sender.ended() != -signal.SIGKILL
        # Another one sends the rest, beside the next one; what was on its way at the kill is left in doubt.
        first = 1 + max((fact[3] for fact in lines(acks)), default=-1)
        facts = {"store": str(store), "run_id": run_id, "acks": str(acks)}
        others.append(nursery.spawn("post_values", first=first, last=count, **facts))
        if number % 3 == 2:
            owners[-1].signal(signal.SIGKILL)
            assert owners[-1].ended() == -signal.SIGKILL
            owners.append(nursery.spawn("empty_inbox", store=str(store), backend=BACKENDS[len(owners) % 2], log=str(log)))
    for other in others:
        assert other.ended() == 0, other.complaints()
    owners[-1].signal(signal.SIGKILL)
    assert owners[-1].ended() == -signal.SIGKILL, owners[-1].complaints()
    facts_told = [fact for run_id in runs for fact in lines(quick_folder / f"acks-{run_id}")]
    sent = {message_id: (run_id, number) for kind, message_id, run_id, number in facts_told if kind == "sent"}
    accepted = {message_id for kind, message_id, _, _ in facts_told if kind == "accepted"}

    wrong, carried_out = anyio.run(judge, store, sent, accepted, log)

    left = [path.name for path in Path(f"{store}.inbox").iterdir()]
    figure(
        f"inbox  {kills - late} senders and {len(owners)} owners killed: {len(accepted)} accepted, {len(wrong)} lost or doubled, "
        f"{len(sent) - len(accepted)} in doubt, {carried_out} seen carried out"
    )
    assert wrong == []
    assert all(name.startswith(".unfinished-") for name in left)
    assert len(left) <= kills
    assert kills - late >= kills // 2, "most kills should meet a sender at work"
    assert len(accepted) >= kills * (count - 2)
