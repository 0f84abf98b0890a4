"""Messages from outside and the runs of a runtime: what a value, a cancellation and a retry come to, and that each comes once."""

from __future__ import annotations

import contextlib
import gc
import secrets
import shutil
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from dagrelay import (
    DAG,
    Approval,
    Limits,
    RunCancelledError,
    RunState,
    Runtime,
    SqliteStore,
    StoreSchemaError,
    TaskState,
    XComTooLargeError,
)
from dagrelay.model.events import TaskStateChanged
from dagrelay.runtime import outbox
from dagrelay.runtime.outbox import Sent, send
from dagrelay.stores.operations import CreateRun, ReopenRun, StoredPlan
from dagrelay.stores.sqlite.inbox import InboxFolder
from dagrelay.stores.sqlite.lock import OwnerLock, is_held
from dagrelay.stores.sqlite.messages import CancelMessage, InboxMessage, ProvideMessage, RetryMessage, encode_message
from dagrelay.testing import InlineDriver

if TYPE_CHECKING:
    from collections.abc import Sequence

GOLDEN: Final = Path(__file__).parents[1] / "golden" / "v1.db"
PATIENCE_S: Final = 20


def row(*, task_ids: Sequence[str] = ("a", "b", "c")) -> DAG:
    """Return a DAG of tasks in a row, each of which returns how often it ran."""
    dag = DAG("row")
    counts = dict.fromkeys(task_ids, 0)

    def make(task_id: str) -> Any:
        async def count() -> int:
            counts[task_id] += 1
            return counts[task_id]

        return dag.add(count, id=task_id)

    tasks = [make(task_id) for task_id in task_ids]
    dag.chain(*tasks)
    return dag


def asking() -> DAG:
    """Return a DAG that waits for an approval."""
    dag = DAG("asking")
    approve = dag.approval("approve")

    @dag.task
    async def ship(answer: Approval = approve.output) -> str:
        return answer.by

    return dag


YES: Final = ProvideMessage(run_id="r", task_id="approve", value={"approved": True, "by": "me", "note": ""})
NO: Final = ProvideMessage(run_id="r", task_id="approve", value={"approved": False, "by": "you", "note": ""})


class Left(Exception):  # noqa: N818 - it interrupts a runtime, as an error in the application would
    """The application gave up."""


async def interrupt(path: Path, dag: DAG) -> None:
    """Start a run, and leave its runtime once a task waits."""
    with contextlib.suppress(Left):
        async with Runtime(path) as runtime:
            handle = await runtime.start(dag, run_id="r")
            with anyio.fail_after(PATIENCE_S):
                async for event in handle.events():
                    if isinstance(event, TaskStateChanged) and event.state is TaskState.WAITING:
                        raise Left


async def ask(path: Path, message: InboxMessage, **options: Any) -> Sent:
    """Send a message, with bounds."""
    with anyio.fail_after(PATIENCE_S):
        return await send(path, message, wait_s=PATIENCE_S, **options)


def leave(path: Path, message: InboxMessage, *, message_id: str | None = None) -> str:
    """Put a message into the inbox and go."""
    message_id = message_id or secrets.token_hex(16)
    InboxFolder(str(path)).post(encode_message(message, Limits()), message_id=message_id, sent_ns=time.time_ns())
    return message_id


async def states(runtime: Runtime) -> list[str]:
    """Return the states of the tasks of run r, in their order."""
    return [task.state for task in await runtime.task_instances("r")]


async def attempts(runtime: Runtime) -> list[int]:
    """Return the attempts of the tasks of run r, in their order."""
    return [task.attempt for task in await runtime.task_instances("r")]


# -------------------------------------------------------------------------------------------------- values


async def test_an_approval_releases_a_task_that_waits(tmp_path: Path) -> None:
    """Its run goes on at once."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        handle = await runtime.start(asking(), run_id="r")

        sent = await ask(path, YES)

        assert (sent.is_done, sent.refusal, sent.result) == (True, None, "done")
        with anyio.fail_after(PATIENCE_S):
            assert (await handle.result())["ship"] == "me"


async def test_the_first_answer_counts(tmp_path: Path) -> None:
    """The second is refused, whether the task has ended by then or not."""
    path = tmp_path / "runs.db"
    await interrupt(path, asking())
    assert (await ask(path, YES)).is_done
    sent = await ask(path, NO)
    assert (sent.is_done, sent.result) == (False, f"refused: {sent.refusal}")
    assert "approve" in str(sent.refusal)
    async with Runtime(path) as runtime:
        assert (await runtime.resume("r", asking()))["ship"] == "me"


async def test_what_was_left_while_nobody_ran_is_done_before_the_runtime_is_entered(tmp_path: Path) -> None:
    """In the order of its sending."""
    path = tmp_path / "runs.db"
    await interrupt(path, asking())
    ids = [leave(path, message) for message in (YES, CancelMessage(run_id="r"), NO)]
    store = SqliteStore(path)
    async with Runtime(store) as runtime:
        assert [(await store.message(message_id) or "")[:7] for message_id in ids] == ["done", "done", "refused"]
        assert (await runtime.get_run("r")).state is RunState.CANCELLED
        assert list(InboxFolder(str(path)).collect(without=(), max_bytes=1000).letters) == []


async def test_a_message_whose_file_stayed_is_not_carried_out_again(tmp_path: Path) -> None:
    """Its sender, or its owner, was killed before the file was gone, and it has come back."""
    path, dag = tmp_path / "runs.db", row()
    async with Runtime(path) as runtime:
        await runtime.run(dag, run_id="r")
        for _ in range(2):
            leave(path, RetryMessage(run_id="r", task_id="b"), message_id="a" * 32)
            await until_gone(path)
            with anyio.fail_after(PATIENCE_S):
                await runtime.run(dag, run_id="r")
        assert await attempts(runtime) == [1, 2, 2]
        leave(path, RetryMessage(run_id="r", task_id="b"))
        await until_gone(path)
        with anyio.fail_after(PATIENCE_S):
            await runtime.run(dag, run_id="r")
        assert await attempts(runtime) == [1, 3, 3]


async def until_gone(path: Path) -> None:
    """Wait until the inbox is empty."""
    folder = anyio.Path(f"{path}.inbox")
    with anyio.fail_after(PATIENCE_S):
        while [each async for each in folder.iterdir()]:  # noqa: ASYNC110 - what another process would see
            await anyio.sleep(0.01)


# -------------------------------------------------------------------------------------------------- cancelling


async def test_a_cancellation_of_yesterday_does_not_meet_the_run_resumed_today(tmp_path: Path) -> None:
    """It is carried out first."""
    path = tmp_path / "runs.db"
    await interrupt(path, asking())
    leave(path, CancelMessage(run_id="r"))
    async with Runtime(path) as runtime:
        assert (await runtime.get_run("r")).state is RunState.CANCELLED
        handle = await runtime.start(asking(), run_id="other")
        with anyio.fail_after(PATIENCE_S):
            with anyio.move_on_after(0.3):
                await runtime.resume("r", asking())
            assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        await handle.cancel()


async def test_a_run_is_cancelled_where_it_runs(tmp_path: Path) -> None:
    """And one that has ended is left alone."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        handle = await runtime.start(asking(), run_id="r")
        assert (await ask(path, CancelMessage(run_id="r"))).is_done
        with anyio.fail_after(PATIENCE_S), pytest.raises(RunCancelledError):
            await handle.result()
        await runtime.run(row(), run_id="ended")
        assert (await ask(path, CancelMessage(run_id="ended"))).is_done
        assert (await runtime.get_run("ended")).state is RunState.SUCCESS


# -------------------------------------------------------------------------------------------------- retrying


async def test_a_retry_runs_at_once_where_the_dag_is_known(tmp_path: Path) -> None:
    """The task and its downstream, and nothing else."""
    path, dag = tmp_path / "runs.db", row()
    async with Runtime(path) as runtime:
        await runtime.run(dag, run_id="r")
        assert (await ask(path, RetryMessage(run_id="r", task_id="b"))).is_done
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag, run_id="r")
        assert result["c"] == 2
        assert await attempts(runtime) == [1, 2, 2]


async def test_a_retry_without_the_dag_clears_and_a_resume_goes_on(tmp_path: Path) -> None:
    """The application has let the DAG go; the run is interrupted until it has it again."""
    path, dag = tmp_path / "runs.db", row()
    async with Runtime(path) as runtime:
        await runtime.run(dag, run_id="r")
        del dag
        gc.collect()

        assert (await ask(path, RetryMessage(run_id="r", task_id="b"))).is_done

        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        assert await states(runtime) == ["success", "pending", "pending"]
        times = [event.seq async for event in runtime.events("r")]
        assert times == sorted(set(times))
        with anyio.fail_after(PATIENCE_S):
            await runtime.resume("r", row())
        assert await attempts(runtime) == [1, 2, 2]


async def test_a_retry_without_the_dag_clears_what_was_cancelled_too(tmp_path: Path) -> None:
    """As one with the DAG does."""
    path = tmp_path / "runs.db"
    dag = DAG("two")
    dag.approval("one")
    dag.approval("two")
    await interrupt(path, dag)
    assert (await ask(path, CancelMessage(run_id="r"))).is_done
    assert (await ask(path, RetryMessage(run_id="r", task_id="one"))).is_done
    async with Runtime(path) as runtime:
        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        assert await states(runtime) == ["pending", "pending"]


async def test_a_run_left_running_on_record_is_cleared_as_well(tmp_path: Path) -> None:
    """The store could not take its end when it came."""
    path = tmp_path / "runs.db"
    await interrupt(path, asking())
    async with Runtime(path) as runtime:
        broker = runtime._opened().services.broker  # pyright: ignore[reportPrivateUsage] - a fault is planted where no public door is
        book = await broker.book("r")
        await broker.write(ReopenRun(run_id="r", plan=None, clear=(), at_us=1, seq=book.next_seq()), book)
        assert (await runtime.get_run("r")).state is RunState.RUNNING

        assert (await ask(path, RetryMessage(run_id="r", task_id="ship"))).is_done

        assert (await runtime.get_run("r")).state is RunState.INTERRUPTED
        assert await states(runtime) == ["interrupted", "pending"]


@pytest.mark.parametrize(
    ("run_id", "task_id", "told"),
    [("r", "approve", "can't be retried now"), ("q", "approve", "no run 'q'"), ("ended", "d", "no task 'd'")],
)
async def test_a_retry_that_can_not_be_is_refused(tmp_path: Path, run_id: str, task_id: str, told: str) -> None:
    """What runs goes on."""
    path, dag, ended = tmp_path / "runs.db", asking(), row()
    async with Runtime(path) as runtime:
        handle = await runtime.start(dag, run_id="r")
        await runtime.run(ended, run_id="ended")
        sent = await ask(path, RetryMessage(run_id=run_id, task_id=task_id))
        assert told in str(sent.refusal)
        assert (await ask(path, YES)).is_done
        with anyio.fail_after(PATIENCE_S):
            assert (await handle.result())["ship"] == "me"


@pytest.mark.parametrize(("run_id", "task_id", "told"), [("q", "a", "no run 'q'"), ("r", "d", "no task 'd'")])
async def test_a_retry_of_nothing_is_refused_without_the_dag_too(tmp_path: Path, run_id: str, task_id: str, told: str) -> None:
    """The stored plan knows the tasks."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.run(row(), run_id="r")
    assert told in str((await ask(path, RetryMessage(run_id=run_id, task_id=task_id))).refusal)


async def test_a_run_started_from_a_dag_that_is_gone_runs_on_and_is_not_cleared(tmp_path: Path) -> None:
    """Its tasks can't be cleared below it."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        dag = DAG("alone")
        dag.approval("approve")
        handle = await runtime.start(dag, run_id="r")
        del dag
        gc.collect()
        sent = await ask(path, RetryMessage(run_id="r", task_id="approve"))
        assert "can't be retried now" in str(sent.refusal)
        await handle.cancel()


async def test_a_plan_that_is_damaged_or_can_not_be_understood_is_a_refusal(tmp_path: Path) -> None:
    """It would not mend by waiting."""
    path = tmp_path / "runs.db"
    async with Runtime(path) as runtime:
        await runtime.run(row(), run_id="r")
        broker = runtime._opened().services.broker  # pyright: ignore[reportPrivateUsage] - no public door lets it in
        book = await broker.book("odd")
        plan = StoredPlan(fingerprint="odd", body=b"[[1]]", task_ids=("a",))
        create = CreateRun(run_id="odd", dag_id="odd", params=b"{}", tags=(), plan=plan, created_us=1, seq=book.next_seq())
        await broker.write(create, book)
        assert "can't be understood" in str((await ask(path, RetryMessage(run_id="odd", task_id="a"))).refusal)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE plan SET body = x'00'")
        connection.commit()
    assert "checksum" in str((await ask(path, RetryMessage(run_id="r", task_id="a"))).refusal)


# -------------------------------------------------------------------------------------------------- who has an inbox


async def test_only_the_owner_of_a_file_has_an_inbox(tmp_path: Path) -> None:
    """Not a reader, not a simulation, and not what is closed."""
    store = SqliteStore(tmp_path / "runs.db")
    assert store.inbox is None
    await store.open(now_us=1)
    assert store.inbox is not None
    assert store.inbox.path == f"{store.name}.inbox"
    await store.close()
    assert store.inbox is None
    for other in (SqliteStore(store.name, read_only=True), SqliteStore(store.name, driver=InlineDriver)):
        await other.open(now_us=1)
        assert other.inbox is None
        await other.close()


class Slow(SqliteStore):
    """A store that knows of messages when it is let."""

    gate: anyio.Event
    is_asked: anyio.Event

    async def message(self, message_id: str) -> str | None:
        """Wait, and answer."""
        self.is_asked.set()
        await self.gate.wait()
        return await super().message(message_id)


async def test_an_opening_that_is_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    """What was begun comes to its end, and the rest stays in the inbox."""
    path = tmp_path / "runs.db"
    await interrupt(path, asking())
    leave(path, YES)
    store = Slow(path)
    store.gate, store.is_asked = anyio.Event(), anyio.Event()
    entered: list[Runtime] = []

    async def enter() -> None:
        async with Runtime(store) as runtime:
            entered.append(runtime)

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(enter)
            await store.is_asked.wait()
            group.cancel_scope.cancel()
            store.gate.set()
    assert entered == []
    async with Runtime(path) as runtime:
        assert (await runtime.resume("r", asking()))["ship"] == "me"


# -------------------------------------------------------------------------------------------------- sending


async def test_a_sender_that_finds_somebody_quicker_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between asking and taking the lock another may take it."""
    path = tmp_path / "runs.db"
    answers = [False]

    def held(database: str) -> bool:
        return answers.pop() if answers else is_held(database)

    async with Runtime(path) as runtime:
        handle = await runtime.start(asking(), run_id="r")
        monkeypatch.setattr(outbox, "is_held", held)
        assert (await ask(path, YES)).is_done
        assert answers == []
        with anyio.fail_after(PATIENCE_S):
            await handle.result()


async def test_a_sender_does_not_wait_for_ever(tmp_path: Path) -> None:
    """Whoever holds the lock does nothing; the message stays."""
    path = tmp_path / "runs.db"
    await interrupt(path, asking())
    lock = OwnerLock(str(path))
    await lock.acquire(timeout_s=0, since="now")
    try:
        sent = await send(path, YES, wait_s=0.1)
    finally:
        lock.release()
    assert (sent.result, sent.is_done, sent.refusal) == (None, False, None)
    (letter,) = InboxFolder(str(path)).collect(without=(), max_bytes=1000).letters
    assert letter.message_id == sent.message_id


async def test_an_older_store_is_brought_up_to_date_by_the_sender(tmp_path: Path) -> None:
    """If nobody owns it; an owner of an older version would not look into the inbox, and nothing is sent."""
    path = tmp_path / "runs.db"
    shutil.copy(GOLDEN, path)
    lock = OwnerLock(str(path))
    await lock.acquire(timeout_s=0, since="now")
    with pytest.raises(StoreSchemaError):
        await send(path, CancelMessage(run_id="nothing"))
    assert not Path(f"{path}.inbox").exists()
    lock.release()
    assert "no run 'nothing'" in str((await ask(path, CancelMessage(run_id="nothing"))).refusal)


async def test_a_value_keeps_to_the_limits_given(tmp_path: Path) -> None:
    """Before anything is made."""
    path = tmp_path / "runs.db"
    await interrupt(path, asking())
    with pytest.raises(XComTooLargeError):
        await send(path, YES, limits=Limits(max_xcom_bytes=10))
    assert not Path(f"{path}.inbox").exists()
