"""A secret stands where it was put and nowhere else: not in logs, events, statistics, other columns, or errors about values."""

from __future__ import annotations

import logging
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from dagrelay import (
    DAG,
    DagrelayError,
    Durability,
    Limits,
    RunFailedError,
    RunIdConflictError,
    Runtime,
    TaskContext,
    TaskStateChanged,
    XComOptions,
    resolve_templates,
)
from tests.runtime.probes import AT_ONCE
from tests.security.dumps import dump

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

VALUE: Final = "canary-value-7f3a"
DESCRIPTION: Final = "canary-description-7f3a"
FAILURE: Final = "canary-failure-7f3a"
PARAM: Final = "canary-param-7f3a"
FIRST_FAILURE: Final = "canary-first-failure-7f3a"
SECRETS: Final = (VALUE, DESCRIPTION, FAILURE, FIRST_FAILURE, PARAM)


class Ears(logging.Handler):
    """Keeps everything that anybody logs, with all that is attached to it."""

    def __init__(self) -> None:
        """Hear everything."""
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record as text."""
        self.heard.append(f"{self.format(record)} {vars(record)!r}")


@contextmanager
def listening() -> Generator[list[str]]:
    """Have everything logged that anybody would log, the event loop and the database driver included."""
    ears, root = Ears(), logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("dagrelay", "asyncio", "aiosqlite", "trio"))]
    levels = [logger.level for logger in loggers]
    root.addHandler(ears)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield ears.heard
    finally:
        root.removeHandler(ears)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def secretive() -> DAG:
    """Return a DAG that has a secret in whatever can hold one."""
    dag = DAG("secretive")

    @dag.task
    async def pushes(ctx: TaskContext, param: str) -> dict[str, str]:
        assert param == PARAM
        await ctx.xcom.push("open", VALUE, description=DESCRIPTION)
        await ctx.xcom.push("masked", [VALUE], description=DESCRIPTION, sensitive=True)
        await ctx.xcom.push("kept", VALUE, lifetime="task")
        await ctx.xcom.push("published", VALUE, publish=True)
        await ctx.xcom.push_many({"one": VALUE, "two": VALUE})
        await ctx.xcom.delete("two")
        return {"password": VALUE}

    @dag.task(retries=AT_ONCE)
    async def fails_once(ctx: TaskContext, value: dict[str, str] = pushes.output) -> str:
        assert value == {"password": VALUE}
        if ctx.attempt == 1:
            raise ValueError(FIRST_FAILURE)
        return VALUE

    @dag.task(config={"prompt": "use {{ xcom.pushes.return_value.password }}"})
    async def fails(ctx: TaskContext, value: str = fails_once.output) -> None:
        assert (ctx.config, value) == ({"prompt": f"use {VALUE}"}, VALUE)
        raise RuntimeError(FAILURE)

    del fails
    return dag


def assert_without(texts: list[str], *secrets: str) -> None:
    """Check that no text has a secret in it."""
    assert [text[:300] for text in texts if any(secret in text for secret in secrets)] == []


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_secret_stands_only_where_it_was_put(tmp_path: Path, durability: Durability) -> None:
    """Everything is logged that can be, and every record, event and column is looked through."""
    path, dag = tmp_path / "runs.db", secretive()
    with listening() as heard:
        async with Runtime(path, durability=durability) as runtime:
            with pytest.raises(RunFailedError) as failed:
                await runtime.run(dag, run_id="r", params={"param": PARAM})
            await runtime.xcom.push("r", "pushes", "outside", VALUE, options=XComOptions(description=DESCRIPTION, sensitive=True))
            entries = await runtime.xcom.list("r", all_attempts=True)
            shown = await runtime.xcom.list("r", prefix="masked", include_values=True)
            shown += await runtime.xcom.list("r", prefix="outside", include_values=True)
            events = [event async for event in runtime.events("r")]
            instances = await runtime.task_instances("r")
            statistics = repr(runtime.statistics())
            services = repr(runtime._opened().services)  # pyright: ignore[reportPrivateUsage] - as a debugger would show it
    assert sum("attempt.ended" in text for text in heard) == 4
    assert_without(heard, *SECRETS)
    assert_without([statistics, services, repr(runtime), repr(dag)], *SECRETS)
    # A description is a column of its own, and for people; a value is shown where it was asked for, a sensitive one never.
    assert_without([repr(attrs.evolve(entry, description="")) for entry in (*entries, *shown)], *SECRETS)
    assert len(shown) == 2
    # The text of an exception is the error of its task, in the record and in the event that tells of it.
    assert_without([repr(event) for event in events if not isinstance(event, TaskStateChanged)], *SECRETS)
    changes = [event for event in events if isinstance(event, TaskStateChanged)]
    assert_without([repr(attrs.evolve(event, error=None)) for event in changes], *SECRETS)
    assert_without([repr(attrs.evolve(instance, error=None)) for instance in instances], *SECRETS)
    errors = [repr(event.error) for event in changes] + [repr(instance.error) for instance in instances]
    assert_without([*errors, str(failed.value), repr(failed.value)], VALUE, DESCRIPTION, PARAM)
    stored = dump(path)
    assert stored.columns_with(VALUE) == {"xcom.value"}
    assert stored.columns_with(DESCRIPTION) == {"xcom.description"}
    assert stored.columns_with(PARAM) == {"run.params"}
    assert stored.columns_with(FAILURE) == {"instance.error"}
    assert stored.columns_with(FIRST_FAILURE) == {"event.text"}
    assert_without([(tmp_path / "runs.db.lock").read_text()], *SECRETS)


class Account:
    """A class that nobody can store, with a secret in its text."""

    def __repr__(self) -> str:
        """Return the secret."""
        return VALUE

    __str__ = __repr__


REFUSED: Final[dict[str, Any]] = {
    "too large": VALUE * 1_000,
    "too large in a list": [VALUE] * 1_000,
    "not finite": {"password": VALUE, "x": float("nan")},
    "no type": [VALUE, object()],
    "an object that shows itself": Account(),
    "an object inside": {"a": [VALUE, Account()]},
    "keys of two types": {1: VALUE, "1": VALUE},
    "a surrogate": VALUE + "\ud800",
    "deep": [[[[[[[[[[[VALUE]]]]]]]]]]],
    "an exception": ValueError(VALUE),
    "a long integer": {"password": VALUE, "x": 10**5_000},
}


@pytest.mark.parametrize("name", REFUSED)
async def test_an_error_about_a_value_does_not_show_it(name: str) -> None:
    """Of limits and of what can't be stored: what, where and how much, but nothing of the value."""
    limits = Limits(max_xcom_bytes=1_000, max_depth=10)
    with listening() as heard:
        async with Runtime(":memory:", limits=limits) as runtime:
            with pytest.raises(DagrelayError) as caught:
                await runtime.xcom.push("r", "t", "k", REFUSED[name])
    # As it would be logged, with its causes.
    assert_without([repr(caught.value), *traceback.format_exception(caught.value)], *SECRETS)
    assert_without(heard, *SECRETS)


@attrs.frozen
class Login:
    """What a value may be asked to be."""

    user: int
    password: int


async def test_an_error_about_a_stored_value_does_not_show_it() -> None:
    """Of the wrong type, of what a template can't use, of params that differ."""
    async with Runtime(":memory:") as runtime:
        await runtime.xcom.push("r", "t", "k", {"user": VALUE, "password": VALUE})
        await runtime.xcom.push("r", "t", "text", VALUE)
        messages: list[str] = []
        kinds: list[Any] = [int, Login, list[int], dict[str, int], int | bool, tuple[int, int]]
        for kind in kinds:
            for key in ("k", "text"):
                with pytest.raises(DagrelayError) as caught:
                    await runtime.xcom.pull("r", "t", key, as_type=kind)
                messages.append(str(caught.value))
        for text in ("{{ xcom.t.k.user.deeper }}", "{{ xcom.t.k[0] }}", '{{ xcom.t.k | join(",") }}', "{{ xcom.t.nothing }}"):
            with pytest.raises(DagrelayError) as caught:
                await resolve_templates(text, "r", runtime.xcom)
            messages.append(str(caught.value))
        dag = DAG("d", params={"param": ""})
        await runtime.run(dag, run_id="same", params={"param": PARAM})
        with pytest.raises(RunIdConflictError) as conflict:
            await runtime.run(dag, run_id="same", params={"param": PARAM + "2"})
        messages.append(str(conflict.value))
    assert_without(messages, *SECRETS)
