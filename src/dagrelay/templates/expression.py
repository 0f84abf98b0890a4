"""What a template is once parsed: text, and expressions that say which value to read and what to do with it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagrelay.model.missing import MISSING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("NAME", "RETURN_VALUE", "Expression", "Filter", "Template", "format_path", "format_reference")

RETURN_VALUE: Final = "return_value"
"""The key read when an expression names a task only."""
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
"""What may follow a dot without quotes."""

_LONGEST_PATH: Final = 200


@attrs.frozen(kw_only=True)
class Filter:
    """What is done to a value: `| name` or `| name(argument)`."""

    name: str
    """`default`, `tojson`, `join` or `length`."""
    argument: Any = attrs.field(default=MISSING, hash=False)
    """The decoded JSON literal in parentheses, or MISSING; never hand it on without a copy."""


@attrs.frozen(kw_only=True)
class Expression:
    """One `{{ ... }}`: where to start, a path into the value found there, and filters."""

    root: str
    """`xcom`, `params`, `run`, `task` or `previous`."""
    names: tuple[str, ...]
    """What the root is asked for: (task id, key) of `xcom` and `previous`, (name,) of all others."""
    path: tuple[str | int, ...] = ()
    """Keys and indexes to follow from there."""
    filters: tuple[Filter, ...] = ()
    """What is done to the value, in this order."""
    source: str
    """The text between the braces, stripped."""
    column: int
    """Where `source` begins in the template, from 1."""

    @property
    def task_id(self) -> str:
        """The task whose value `xcom` or `previous` reads."""
        assert self.root in {"xcom", "previous"}, self.root
        return self.names[0]

    @property
    def key(self) -> str:
        """The key that `xcom` or `previous` reads."""
        assert self.root in {"xcom", "previous"}, self.root
        return self.names[1]


@attrs.frozen(kw_only=True)
class Template:
    """A parsed text, immutable and shared by all who render it."""

    text: str
    """The text as it was written."""
    parts: tuple[str | Expression, ...]
    """Literal text and expressions in turn; no two texts stand side by side, and quoted text is literal text."""
    expressions: tuple[Expression, ...] = ()
    """The expressions among the parts."""
    lone: Expression | None = None
    """The expression, if the text is that one expression and nothing else, not even white space."""

    @property
    def is_constant(self) -> bool:
        """Whether it renders to the same text always."""
        return not self.expressions


def format_path(path: Sequence[object]) -> str:
    """Return a path as templates write it: `.name`, `[0]`, `["any key"]`.

    Long ones, which only a hostile text has, are cut in the middle of nowhere and end in dots.
    """
    steps: list[str] = []
    size = 0
    for step in path:
        steps.append(_format_step(step))
        size += len(steps[-1])
        if size > _LONGEST_PATH:
            return f"{''.join(steps)[:_LONGEST_PATH]}..."
    return "".join(steps)


def format_reference(task_id: str, key: str = RETURN_VALUE, path: Sequence[str | int] = ()) -> str:
    """Return the expression (without braces) that reads a task's value: `xcom.load.rows[0].name`.

    It parses back to exactly these. The key is written always, as what follows a task is a key.
    """
    return "".join(["xcom", *map(_format_step, (task_id, key, *path))])


def _format_step(step: object) -> str:
    if isinstance(step, str):
        return f".{step}" if NAME.fullmatch(step) else f"[{json.dumps(step, ensure_ascii=False)}]"
    return f"[{step}]"
