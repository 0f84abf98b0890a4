"""Whatever text a public method is given, the schema stays, and no row comes or goes that was not asked for."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pytest

from dagrelay import (
    DAG,
    DagrelayError,
    InvalidIdError,
    MemoryStore,
    Runtime,
    SqliteStore,
    TaskContext,
    TaskXCom,
    XComManager,
    XComOptions,
    resolve_templates,
)
from dagrelay.model.records import InstanceKey
from dagrelay.stores import Lookup, RunQuery
from tests.security.dumps import dump

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dagrelay import Store

CANARIES: Final = {
    "drop": "'; DROP TABLE run; --",
    "drop in double quotes": '"; DROP TABLE xcom; --',
    "drop in brackets": "); DROP TABLE instance; --",
    "delete": "x'; DELETE FROM xcom WHERE 'a' = 'a",
    "always true": "' OR '1'='1",
    "always true number": "1 OR 1=1",
    "union": "' UNION SELECT value FROM xcom --",
    "comment": "r'/*",
    "pragma": "'; PRAGMA writable_schema = 1; --",
    "attach": "'; ATTACH DATABASE '/tmp/planted.db' AS planted; --",
    "any letters": "%",
    "any letter": "_",
    "glob": "*",
    "escape": "a\\%' ESCAPE '\\",
    "placeholder": "?",
    "named placeholder": ":run_pk",
    "quoted name": '"key"',
    "blob": "x'00'",
    "nul": "r\0'; DROP TABLE run; --",
    "surrogate": "\ud800'; DROP TABLE run; --",
}

dag = DAG("plain", tags=["one"])


@dag.task
async def first(ctx: TaskContext) -> int:
    """Push something beside the return value."""
    await ctx.xcom.push("a%b", 1)
    await ctx.xcom.push("aXb", 2)
    return 3


@dag.task
async def second(number: int = first.output) -> int:
    """Depend on the first."""
    return number


async def fill(path: Path) -> None:
    """Make a store with one finished run."""
    async with Runtime(path) as runtime:
        await runtime.run(dag, run_id="r")


# Reads, and writes that name what is not there.
RUNTIME_CALLS: Final[dict[str, Callable[[Runtime, Any], Any]]] = {
    "Runtime.run.run_id": lambda runtime, text: runtime.run(DAG("none"), run_id=text + "'"),
    "Runtime.start.run_id": lambda runtime, text: runtime.start(DAG("none"), run_id=text + "'"),
    "Runtime.resume.run_id": lambda runtime, text: runtime.resume(text, dag),
    "Runtime.retry.run_id": lambda runtime, text: runtime.retry(text, "first", dag),
    "Runtime.retry.task_id": lambda runtime, text: runtime.retry("r", text, dag),
    "Runtime.cancel.run_id": lambda runtime, text: runtime.cancel(text),
    "Runtime.get_run.run_id": lambda runtime, text: runtime.get_run(text),
    "Runtime.runs.dag_id": lambda runtime, text: runtime.runs(dag_id=text),
    "Runtime.runs.state": lambda runtime, text: runtime.runs(state=text),
    "Runtime.runs.tags": lambda runtime, text: runtime.runs(tags=[text]),
    "Runtime.task_instances.run_id": lambda runtime, text: runtime.task_instances(text),
    "Runtime.task_instances.task_id": lambda runtime, text: runtime.task_instances("r", task_id=text),
    "Runtime.task_instances.state": lambda runtime, text: runtime.task_instances("r", state=text),
    "Runtime.fork.run_id": lambda runtime, text: runtime.fork(text, dag, from_task="first"),
    "Runtime.fork.from_task": lambda runtime, text: runtime.fork("r", dag, from_task=text),
    "Runtime.fork.params": lambda runtime, text: runtime.fork("r", dag, from_task="first", params={text: text}),
    "Runtime.fork.new_run_id": lambda runtime, text: runtime.fork("r", dag, from_task="first", new_run_id=text + "'"),
    "Runtime.provide.run_id": lambda runtime, text: runtime.provide(text, "first", 1),
    "Runtime.provide.task_id": lambda runtime, text: runtime.provide("r", text, 1),
    "Runtime.lineage.run_id": lambda runtime, text: runtime.lineage(text),
    "Runtime.task_statistics.dag_id": lambda runtime, text: runtime.task_statistics(text),
    "Runtime.delete_run.run_id": lambda runtime, text: runtime.delete_run(text),
    "XComManager.push.run_id": lambda runtime, text: runtime.xcom.push(text + "'", "first", "k", 1),
    "XComManager.push.task_id": lambda runtime, text: runtime.xcom.push("r", text + "'", "k", 1),
    "XComManager.push.key": lambda runtime, text: runtime.xcom.push("r", "first", text + "\0", 1),
    "XComManager.push.options": lambda runtime, text: runtime.xcom.push(
        "r", "first", "k", 1, options=XComOptions(serializer=text)
    ),
    "XComManager.pull.run_id": lambda runtime, text: runtime.xcom.pull(text, "first"),
    "XComManager.pull.task_id": lambda runtime, text: runtime.xcom.pull("r", text),
    "XComManager.pull.key": lambda runtime, text: runtime.xcom.pull("r", "first", text),
    "XComManager.pull_outputs.run_id": lambda runtime, text: runtime.xcom.pull_outputs(text, "first"),
    "XComManager.pull_outputs.task_id": lambda runtime, text: runtime.xcom.pull_outputs("r", text),
    "XComManager.pull_outputs.key": lambda runtime, text: runtime.xcom.pull_outputs("r", "first", text),
    "XComManager.previous.dag_id": lambda runtime, text: runtime.xcom.previous(text, "first", before_run="r"),
    "XComManager.previous.task_id": lambda runtime, text: runtime.xcom.previous("plain", text, before_run="r"),
    "XComManager.previous.key": lambda runtime, text: runtime.xcom.previous("plain", "first", text, before_run="r"),
    "XComManager.previous.before_run": lambda runtime, text: runtime.xcom.previous("plain", "first", before_run=text),
    "XComManager.pull_many.run_id": lambda runtime, text: runtime.xcom.pull_many(text, [("first", "return_value")]),
    "XComManager.pull_many.wanted": lambda runtime, text: runtime.xcom.pull_many("r", [("first", text)]),
    "XComManager.pull_from_upstream.run_id": lambda runtime, text: runtime.xcom.pull_from_upstream(text, "second", dag),
    "XComManager.pull_from_upstream.task_id": lambda runtime, text: runtime.xcom.pull_from_upstream("r", text, dag),
    "XComManager.delete.run_id": lambda runtime, text: runtime.xcom.delete(text, "first"),
    "XComManager.delete.task_id": lambda runtime, text: runtime.xcom.delete("r", text),
    "XComManager.delete.key": lambda runtime, text: runtime.xcom.delete("r", "first", text),
    "XComManager.list.run_id": lambda runtime, text: runtime.xcom.list(text),
    "XComManager.list.task_id": lambda runtime, text: runtime.xcom.list("r", text),
    "XComManager.list.prefix": lambda runtime, text: runtime.xcom.list("r", prefix=text),
    "XComManager.not_found.key": lambda runtime, text: runtime.xcom.not_found(InstanceKey("r", text, None), text, hint=text),
    "XComManager.not_found.hint": lambda runtime, text: runtime.xcom.not_found(InstanceKey(text, text, None), "k", hint=text),
    "resolve_templates.template": lambda runtime, text: resolve_templates(text, "r", runtime.xcom),
    "resolve_templates.run_id": lambda runtime, text: resolve_templates("{{ xcom.first }}", text, runtime.xcom),
}
# The store beneath checks no ids, so that here each text arrives as it is.
STORE_CALLS: Final[dict[str, Callable[[SqliteStore, Any], Any]]] = {
    "SqliteStore.find_run.run_id": lambda store, text: store.find_run(text),
    "SqliteStore.find_runs.query": lambda store, text: store.find_runs(RunQuery(dag_id=text, tags=(text,))),
    "SqliteStore.load_run.run_id": lambda store, text: store.load_run(text),
    "SqliteStore.instances.run_id": lambda store, text: store.instances(text),
    "SqliteStore.instances.task_id": lambda store, text: store.instances("r", task_id=text),
    "SqliteStore.lookup.wanted": lambda store, text: store.lookup(
        [Lookup(instance=InstanceKey("r", "first", None), key=text), Lookup(instance=InstanceKey(text, text, None), key=text)]
    ),
    "SqliteStore.entries.run_id": lambda store, text: store.entries(text),
    "SqliteStore.entries.task_ids": lambda store, text: store.entries("r", task_ids=[text]),
    "SqliteStore.entries.prefix": lambda store, text: store.entries("r", prefix=text),
    "SqliteStore.stored_bytes.run_id": lambda store, text: store.stored_bytes(text),
    "SqliteStore.next_seq.run_id": lambda store, text: store.next_seq(text),
    "SqliteStore.events.run_id": lambda store, text: store.events(text),
    "SqliteStore.previous.dag_id": lambda store, text: store.previous(text, "first", "return_value", before_run="r", limit=9),
    "SqliteStore.previous.task_id": lambda store, text: store.previous("plain", text, "return_value", before_run="r", limit=9),
    "SqliteStore.previous.key": lambda store, text: store.previous("plain", "first", text, before_run="r", limit=9),
    "SqliteStore.previous.before_run": lambda store, text: store.previous("plain", "first", "k", before_run=text, limit=9),
    "SqliteStore.attempts.dag_id": lambda store, text: store.attempts(text),
    "SqliteStore.attempts.task_id": lambda store, text: store.attempts("plain", task_id=text),
    "SqliteStore.message.message_id": lambda store, text: store.message(text),
}
# Not text to a database: a path is a path, and these take operations, numbers or a mode out of a map.
NO_TEXT: Final = {"SqliteStore.checkpoint.mode", "SqliteStore.instances.state"}
HANDLER_CALLS: Final = {
    *(f"TaskXCom.push.{name}" for name in ("key", "serializer", "description", "lifetime")),
    *(f"TaskXCom.push_many.{name}" for name in ("values", "lifetime")),
    *(f"TaskXCom.{name}" for name in ("pull.task", "pull.key", "pull_own.key", "delete.key", "append.key", "of_run.run_id")),
    *(f"TaskXCom.{method}.{name}" for method in ("pull_outputs", "wait", "stream", "previous") for name in ("task", "key")),
    "Runtime.run.params",
    "Runtime.start.params",
}


def takes_text() -> set[str]:
    """Return every parameter of a public method of ours that can be text, as `Class.method.parameter`."""
    found: set[str] = set()
    for kind in (Runtime, XComManager, TaskXCom, SqliteStore):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if name.startswith("_"):
                continue
            for each_name, parameter in inspect.signature(method).parameters.items():
                words = str(parameter.annotation)
                is_text = any(word in words for word in ("str", "State", "Literal", "RunQuery", "Lookup", "XComOptions"))
                if is_text and each_name not in {"path", "target"}:
                    found.add(f"{kind.__name__}.{name}.{each_name}")
    return found


def test_every_public_method_that_takes_text_is_called_below() -> None:
    """A new one must be thought of here."""
    known = {*RUNTIME_CALLS, *STORE_CALLS, *HANDLER_CALLS, *NO_TEXT, "Runtime.events.run_id"}

    assert takes_text() - known == set()
    assert known - takes_text() == {"resolve_templates.template", "resolve_templates.run_id"}


async def each_call(runtime: Runtime, text: str) -> None:
    """Make each call; an error of ours, or of a value that an enumeration or SQLite lacks, is as good as an answer."""
    for call in RUNTIME_CALLS.values():
        with suppress(DagrelayError, ValueError):
            await call(runtime, text)
    with suppress(DagrelayError):
        async for _ in runtime.events(text):
            raise AssertionError(f"{text!r} has a timeline")


async def test_no_text_changes_what_is_stored(tmp_path: Path) -> None:
    """Every canary to every method that reads, or names what is not there: schema and rows are as they were, byte by byte."""
    path = tmp_path / "runs.db"
    await fill(path)
    before = dump(path)
    async with Runtime(path) as runtime:
        for text in CANARIES.values():
            await each_call(runtime, text)
    store = SqliteStore(path)
    await store.open(now_us=0)
    for text in CANARIES.values():
        for ask in STORE_CALLS.values():
            # What finds anything was taken for more than a name; a prefix of one letter may begin a key, here none does.
            try:
                found = await ask(store, text)
            except (UnicodeEncodeError, DagrelayError):
                continue
            assert found in (None, [], [None, None], 0, 1), text
    await store.close()
    assert dump(path) == before
    assert not (tmp_path / "planted.db").exists()


def tagged_dag(text: str, key: str) -> DAG:
    """Return a DAG whose task pushes a text wherever text can stand."""
    tagged = DAG("tagged", tags=[text])

    @tagged.task
    async def push(ctx: TaskContext, param: str) -> str:
        assert param == text
        await ctx.xcom.push(key, text, description=text)
        with pytest.raises(DagrelayError):
            await ctx.xcom.push("other", text, serializer=text)
        assert await ctx.xcom.pull_own(key) == text
        assert await ctx.xcom.pull_own(f"{key}x", default=None) is None
        with pytest.raises(DagrelayError):
            await ctx.xcom.pull(text)
        for read in (ctx.xcom.pull_outputs, ctx.xcom.wait, ctx.xcom.previous):
            for words in ((text,), ("push", text)):
                with pytest.raises(DagrelayError):
                    await read(*words)
        with pytest.raises(DagrelayError):
            ctx.xcom.stream(text, text)
        with pytest.raises(DagrelayError):
            await ctx.xcom.append(f"{text}\0", 1)
        with suppress(InvalidIdError):
            other = ctx.xcom.of_run(text)
            assert await other.pull(key, text, default=None) is None
            assert await other.list() == []
        await ctx.xcom.push_many({f"{key}2": text})
        assert await ctx.xcom.delete(f"{key}2") == 1
        assert await ctx.xcom.delete(f"{key}3") == 0
        return text

    return tagged


async def test_text_that_is_stored_comes_back_as_it_was(tmp_path: Path) -> None:
    """As a value, a key, a description, a param and a tag, each exactly one row, and nothing else changes."""
    path = tmp_path / "runs.db"
    await fill(path)
    before = dump(path)
    stored = {name: text for name, text in CANARIES.items() if name != "surrogate"}
    async with Runtime(path) as runtime:
        # A lone surrogate is no text that JSON or SQLite could give back.
        with pytest.raises(DagrelayError):
            await runtime.run(tagged_dag(CANARIES["surrogate"], "key"), params={"param": CANARIES["surrogate"]})
        for number, text in enumerate(stored.values()):
            key, run_id = text if text.isprintable() else "key", f"t{number}"
            result = await runtime.run(tagged_dag(text, key), run_id=run_id, params={"param": text})
            assert result["push"] == text
            assert [run.run_id for run in await runtime.runs(tags=[text])] == [run_id]
            assert dict((await runtime.get_run(run_id)).params) == {"param": text}
            entries = await runtime.xcom.list(run_id, prefix=key, include_values=True)
            assert [(entry.key, entry.value, entry.description) for entry in entries] == [(key, text, text)]
    after = dump(path)
    assert after.schema == before.schema
    count = len(stored)
    added = {name: after.counts[name] - had for name, had in before.counts.items() if after.counts[name] != had}
    assert added == {"plan": 1, "task": 1, "run": count, "instance": count, "xcom": 2 * count, "event": count}
    assert all(rows == after.tables[name][: len(rows)] for name, rows in before.tables.items())


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Return a store of each kind."""
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "runs.db")


KEYS: Final = ("a%b", "a_b", "aXb", "A_b", "a\\%b", "a*b", "aébc", "a")


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("a%", {"a%b"}),
        ("a_", {"a_b"}),
        ("A", {"A_b"}),
        ("a\\%", {"a\\%b"}),
        ("a*", {"a*b"}),
        ("aé", {"aébc"}),
        ("a\u0301", set[str]()),
        ("%", set[str]()),
        ("_", set[str]()),
        ("a", set(KEYS) - {"A_b"}),
        ("", set(KEYS)),
    ],
)
async def test_a_prefix_is_letters_and_no_pattern(store: Store, prefix: str, found: set[str]) -> None:
    """`%`, `_`, `*` and case mean themselves, on both stores."""
    async with Runtime(store) as runtime:
        for key in KEYS:
            await runtime.xcom.push("r", "t", key, 1)
        assert {entry.key for entry in await runtime.xcom.list("r", prefix=prefix)} == found


async def test_a_checkpoint_takes_no_other_mode(tmp_path: Path) -> None:
    """It chooses a whole statement; anything else is an error before the database is asked."""
    store = SqliteStore(tmp_path / "runs.db")
    await store.open(now_us=0)
    mode: Any = "TRUNCATE); DROP TABLE run; --"
    with pytest.raises(KeyError):
        await store.checkpoint(mode)
    await store.close()


def test_an_id_with_a_canary_is_refused_and_shown_safely() -> None:
    """The error's text holds no raw control character."""
    with pytest.raises(InvalidIdError) as caught:
        DAG(CANARIES["nul"])
    assert str(caught.value).isprintable()
