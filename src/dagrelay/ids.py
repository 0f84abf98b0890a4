"""Identifiers: one rule each for dags, tasks, runs and keys, checked on writes and on reads and never repaired."""

from __future__ import annotations

import re
from typing import Final, Literal

from dagrelay.errors import InvalidIdError

__all__ = ("MAX_ID_CHARS", "IdKind", "check_dag_id", "check_key", "check_map_index", "check_run_id", "check_task_id")

MAX_ID_CHARS: Final = 250
"""Longest identifier, in characters."""

IdKind = Literal["dag id", "task id", "run id", "key"]

# `\Z` and not `$`: the latter would let a trailing newline pass.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,249}\Z", re.ASCII)
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-:+@]{0,249}\Z", re.ASCII)
_NAME_RULE = "use 1 to 250 ASCII letters, digits, '_', '.', '-', not starting with '.' or '-'"
_RUN_RULE = "use 1 to 250 ASCII letters, digits, '_', '.', '-', ':', '+', '@', starting with a letter, digit or '_'"
_KEY_RULE = "use 1 to 250 printable characters (no control, bidirectional or zero-width ones, no lone surrogates)"


def check_dag_id(value: object) -> str:
    """Return `value` if it is a legal dag id.

    Raises:
        InvalidIdError: it is no str, or breaks the rule `[A-Za-z0-9_][A-Za-z0-9_.-]*`, 1 to 250 characters.
    """
    return _check(value, "dag id", _NAME, _NAME_RULE)


def check_task_id(value: object) -> str:
    """Return `value` if it is a legal task id (the rule of dag ids)."""
    return _check(value, "task id", _NAME, _NAME_RULE)


def check_run_id(value: object) -> str:
    """Return `value` if it is a legal run id (the rule of dag ids, and `:`, `+`, `@` besides)."""
    return _check(value, "run id", _RUN, _RUN_RULE)


def check_key(value: object) -> str:
    """Return `value` if it is a legal XCom key: 1 to 250 characters for which `str.isprintable()` holds."""
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS and value.isprintable():
        return str.__str__(value)
    raise InvalidIdError("key", value, _KEY_RULE)


def check_map_index(value: object) -> int | None:
    """Return `value` if it is a legal place in a mapped task: an integer from 0, or None for an unmapped one."""
    if value is None or (type(value) is int and value >= 0):
        return value
    raise InvalidIdError("map index", value, "use None for an unmapped task, else an integer from 0")


def _check(value: object, kind: IdKind, pattern: re.Pattern[str], rule: str) -> str:
    if isinstance(value, str) and pattern.match(value) is not None:
        return str.__str__(value)  # A str subclass (a StrEnum member, say) is stored as its text.
    raise InvalidIdError(kind, value, rule)
