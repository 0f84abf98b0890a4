"""Both stores give the same answers to any story: what SQL makes of the rules is compared with what dicts make of them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from operator import methodcaller
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from dagrelay.errors import DagrelayError
from dagrelay.model.records import ErrorRecord
from dagrelay.model.states import RunState, TaskState
from dagrelay.stores import Lookup, MemoryStore, RunQuery
from dagrelay.stores.operations import MESSAGES_KEPT_US, OUTSIDE, TASK_LIFETIME
from dagrelay.stores.sqlite import schema
from dagrelay.stores.sqlite.reads import KnownTasks, Snapshot
from dagrelay.stores.sqlite.writer import Writer
from dagrelay.testing.story import Story, plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagrelay.stores.operations import Operation

T = TypeVar("T")
Step: TypeAlias = "list[Callable[[dict[str, Story]], Operation]] | None"
"""A batch, made from the stories of the runs; None closes the store and opens it again."""

RUNS, TASKS, INDICES, KEYS = ("r", "s"), ("a", "b", "c"), (None, *range(6)), ("k", "return_value")
OUTCOMES = [
    TaskState.SUCCESS,
    TaskState.FAILED,
    TaskState.SKIPPED,
    TaskState.UP_FOR_RETRY,
    TaskState.INTERRUPTED,
    TaskState.RUNNING,
]
SLOTS = (TASK_LIFETIME, OUTSIDE, 1, 2, 3)


class SqliteUnits:
    """The units of work of the SQLite store, run at once on a database in memory."""

    def __init__(self) -> None:
        """Make the tables."""
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        schema.migrate(self._connection)
        self._writer = Writer(os.devnull)
        self._tasks = KnownTasks()

    def open(self, *, now_us: int) -> None:
        """Take over, as at an opening."""
        self._writer.take_over(self._connection, now_us=now_us)

    def apply(self, batch: Sequence[Operation]) -> list[int | DagrelayError]:
        """Apply a batch."""
        return self._writer.apply(self._connection, batch)

    def ask(self, question: Callable[[Snapshot], T]) -> T:
        """Ask a snapshot."""
        with contextlib.closing(self._connection.cursor()) as cursor:
            return question(Snapshot(cursor, "units", self._tasks))

    def close(self) -> None:
        """Forget everything."""
        self._connection.close()


@st.composite
def operations(draw: st.DrawFn) -> Callable[[dict[str, Story]], Operation]:
    """Draw an operation on few names, so that they meet each other often."""
    run, task, index = draw(st.sampled_from(RUNS)), draw(st.sampled_from(TASKS)), draw(st.sampled_from(INDICES))
    attempt, key = draw(st.integers(1, 3)), draw(st.sampled_from(KEYS))
    state, slot, flag = draw(st.sampled_from(OUTCOMES)), draw(st.sampled_from(SLOTS)), draw(st.booleans())
    error = ErrorRecord(type="E", message="m") if flag else None
    values = {key: bytes([attempt])}
    writer = max(slot, 0) or (0 if slot == OUTSIDE else attempt)
    tasks = TASKS if flag else TASKS[::-1]
    message = draw(st.sampled_from((None, "m", "n")))
    other = RUNS[RUNS.index(run) - 1]
    kinds: dict[str, Callable[[Story], Operation]] = {
        "expand": lambda story: story.start(task, attempt, length=attempt * 2),
        "wait": lambda story: story.wait(task, attempt, deadline_us=attempt if flag else None),
        "provide": lambda story: story.provide(task, bytes([attempt]), key=key, map_index=index, message_id=message),
        "note": lambda story: story.note(message or "o", key),
        "note late": lambda story: story.note("late", at_us=MESSAGES_KEPT_US + story.now_us - 1_000),
        "fork": lambda story: story.fork(other, *TASKS[:attempt], tasks=tasks, dag_id="d"),
        "create": lambda story: story.create(*tasks[:2], dag_id="d" if flag else "e", tags=("t",) * flag),
        "start": lambda story: story.start(task, attempt, map_index=index),
        "finish": lambda story: story.finish(
            task,
            attempt,
            state,
            map_index=index,
            values=values if flag else {},
            error=error,
            failures=attempt,
            follows=TASKS[:attempt] if flag else None,
            lineage=f"[{attempt}]" if index else None,
        ),
        "put": lambda story: story.put(task, values, slot=slot, attempt=writer, map_index=index, published=flag),
        "mark": lambda story: story.mark(task, TaskState.SKIPPED if flag else TaskState.FAILED, map_index=index, error=error),
        "end": lambda story: story.end(RunState.SUCCESS if flag else RunState.INTERRUPTED),
        "reopen": lambda story: story.reopen(
            *(story.key(each, index) for each in TASKS[:attempt]), plan=plan_of(*tasks) if flag else None, message_id=message
        ),
        "delete": lambda story: story.delete(
            task, key if flag else None, slots=(slot, 1), map_index=index, attempt=writer or None
        ),
        "delete all": lambda story: story.delete(task, key if flag else None),
        "delete run": lambda story: story.delete_run(),
        "prune": lambda story: story.prune(attempt - 1 if flag else None, dag_id="d", before_us=story.now_us - attempt * 1_000),
    }
    often = ["start", "finish", "finish", "finish", "put", "put", "end", "reopen", "create", "fork", "expand"]
    kind = draw(st.sampled_from([*often, *kinds]))
    return lambda stories: kinds[kind](stories[run])


def steps() -> st.SearchStrategy[list[Step]]:
    """Return whole histories: batches, and now and then a reopening."""
    return st.lists(st.one_of(st.lists(operations(), min_size=1, max_size=6), st.none()), max_size=8)


def outcome(result: int | DagrelayError) -> object:
    """Return what can be compared of a result."""
    return (type(result), str(result)) if isinstance(result, DagrelayError) else result


async def compare(memory: MemoryStore, units: SqliteUnits) -> None:
    """Ask both everything there is to ask."""
    for tags in ((), ("t",)):
        query = RunQuery(tags=tags)
        assert units.ask(methodcaller("find_runs", query)) == await memory.find_runs(query)
    for task in TASKS:
        assert units.ask(methodcaller("attempts", "d", task_id=task)) == await memory.attempts("d", task_id=task)
        for run in RUNS:
            named: dict[str, Any] = {"before_run": run, "limit": 2}
            asked = units.ask(methodcaller("previous", "d", task, "return_value", **named))
            assert asked == await memory.previous("d", task, "return_value", **named)
    for message in ("m", "n", "o", "late"):
        assert units.ask(methodcaller("message", message)) == await memory.message(message)
    for run in RUNS:
        await compare_run(memory, units, run)


async def compare_run(memory: MemoryStore, units: SqliteUnits, run: str) -> None:
    """Ask both everything there is to ask about a run."""
    answers: list[tuple[Any, Any]] = [
        (units.ask(lambda snapshot: snapshot.find_run(run)), await memory.find_run(run)),
        (units.ask(lambda snapshot: snapshot.stored_bytes(run)), await memory.stored_bytes(run)),
        (units.ask(lambda snapshot: snapshot.next_seq(run)), await memory.next_seq(run)),
        (units.ask(lambda snapshot: snapshot.instances(run, task_id=None, state=None)), await memory.instances(run)),
        (
            units.ask(lambda snapshot: snapshot.instances(run, task_id="a", state=TaskState.SUCCESS)),
            await memory.instances(run, task_id="a", state=TaskState.SUCCESS),
        ),
        (units.ask(lambda snapshot: snapshot.events(run, after_seq=2, limit=9)), await memory.events(run, after_seq=2, limit=9)),
        (units.ask(lambda snapshot: snapshot.events(run, after_seq=0, limit=999)), await memory.events(run, limit=999)),
    ]
    for tasks in (None, ["b", "a"]):
        for whole in (False, True):
            wanted: dict[str, Any] = {
                "task_ids": tasks,
                "prefix": "k" if tasks else None,
                "all_attempts": whole,
                "with_values": whole,
            }
            asked: Any = units.ask(methodcaller("entries", run, **wanted))
            told = await memory.entries(run, **wanted)
            answers.append((asked, told))
    story = Story(run)
    lookups = [
        Lookup(instance=story.key(task, index), key=key, slots=slots)
        for task in TASKS
        for index in INDICES
        for key in KEYS
        for slots in (None, SLOTS)
    ]
    answers.append((units.ask(lambda snapshot: snapshot.lookup(lookups)), await memory.lookup(lookups)))
    for asked, told in answers:
        assert asked == told
    image, other = units.ask(lambda snapshot: snapshot.load_run(run)), await memory.load_run(run)
    assert (image is None) == (other is None)
    if image is not None and other is not None:
        assert set(image.instances) == set(other.instances)
        assert (image.stored, image.plan, image.highest_attempts) == (other.stored, other.plan, other.highest_attempts)
        assert (image.next_seq, image.stored_bytes) == (other.next_seq, other.stored_bytes)


@given(history=steps())
async def test_any_history_reads_the_same_from_both(history: list[Step]) -> None:
    """Batch by batch, over reopenings: the same results, refusals and answers."""
    memory, units = MemoryStore(), SqliteUnits()
    stories = {run: Story(run) for run in RUNS}
    await memory.open(now_us=0)
    units.open(now_us=0)
    try:
        for step in history:
            if step is None:
                await memory.close()
                await memory.open(now_us=7)
                units.open(now_us=7)
                for story in stories.values():
                    story.seq = max(story.seq, await memory.next_seq(story.run_id))
            else:
                batch = [make(stories) for make in step]
                told = [outcome(result) for result in await memory.apply(batch)]
                assert [outcome(result) for result in units.apply(batch)] == told
                for story in stories.values():
                    # A fork has copied what stands further up in the timeline.
                    story.seq = max(story.seq, await memory.next_seq(story.run_id))
            await compare(memory, units)
    finally:
        await memory.close()  # noqa: ASYNC102 - a store in memory closes without waiting
        units.close()
