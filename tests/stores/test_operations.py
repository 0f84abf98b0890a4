"""What can be told of any operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.stores.operations import run_id_of
from dagrelay.testing.story import Story

if TYPE_CHECKING:
    from dagrelay.stores.operations import Operation


def test_operations_name_their_run() -> None:
    """But for those that concern several, or none."""
    story = Story("r")
    named: list[Operation] = [
        story.create("a"),
        story.reopen(),
        story.end(),
        story.start("a"),
        story.finish("a"),
        story.mark("a"),
        story.put("a", {}),
        story.delete("a"),
        story.fork("other", "a"),
        story.provide("a", b"1"),
        story.append("a", "k", [b"1"]),
        story.ack("a", "b", "k", 1),
        story.delete_run(),
    ]
    assert {run_id_of(operation) for operation in named} == {"r"}
    assert run_id_of(story.prune(1)) is None
    assert run_id_of(story.note("m")) is None
