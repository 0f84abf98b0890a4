"""Logging can be switched on at any level without changing what happens; no fact of ours is named as `logging` forbids."""

from __future__ import annotations

import ast
import logging
from typing import TYPE_CHECKING

import pytest

from dagrelay import DAG, Runtime, TaskContext
from dagrelay.log import get_logger
from tests.unit.sources import MODULES, Module, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

RESERVED = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})
LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "exception", "bind", "get_logger"})


def reserved_facts(module: Module) -> Iterator[str]:
    """Name every fact of a log event that is named like a log record's own."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in LEVELS:
            yield from (f"line {node.lineno}: {each.arg}" for each in node.keywords if each.arg in RESERVED)


def test_no_fact_of_ours_is_named_like_a_records_own() -> None:
    """It would be renamed, and not be found under its name."""
    assert {module.name: found for module in MODULES if (found := list(reserved_facts(module)))} == {}


def test_a_planted_fact_is_seen() -> None:
    """The rule can fail."""
    assert list(reserved_facts(parse("get_logger().debug('x', name=1, size=2)"))) == ["line 1: name"]


@pytest.mark.parametrize("name", ["name", "args", "module", "message", "msg", "asctime", "levelname", "process"])
def test_a_fact_named_like_a_records_own_gets_an_underscore(caplog: pytest.LogCaptureFixture, name: str) -> None:
    """Users bind what they like; it must not raise only once somebody listens."""
    caplog.set_level(logging.DEBUG, logger="dagrelay")
    get_logger(**{name: "bound"}).info("event", size=3)
    (record,) = caplog.records
    facts = vars(record)
    assert (record.getMessage(), facts[f"{name}_"], facts["size"]) == ("event", "bound", 3)


def test_a_traceback_is_still_one(caplog: pytest.LogCaptureFixture) -> None:
    """What `logging` takes as its own stays its own."""
    try:
        int("x")
    except ValueError:
        get_logger().exception("event")
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize("level", [logging.DEBUG, logging.CRITICAL])
async def test_a_run_is_the_same_at_any_level(caplog: pytest.LogCaptureFixture, level: int) -> None:
    """Whoever switches it on to look for a fault must not find another."""
    caplog.set_level(level, logger="dagrelay")
    dag = DAG("d")

    @dag.task
    async def one(ctx: TaskContext) -> int:
        ctx.log.debug("mine", name="x", args=(1,))
        return 1

    async with Runtime(":memory:") as runtime:
        assert (await runtime.run(dag))[one] == 1
