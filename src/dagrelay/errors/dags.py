"""Errors of DAGs and templates: what was written can't be planned, rendered or gone on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagrelay.errors.base import DagrelayError, cut

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = (
    "DAGChangedError",
    "DAGValidationError",
    "MissingReferenceError",
    "TemplateError",
    "TemplateLimitError",
    "TemplateSyntaxError",
    "TemplateValueError",
)


class DAGValidationError(DagrelayError, ValueError):
    """Planning found problems; all of them are in `problems`, a tuple of sentences."""

    def __init__(self, dag_id: str, problems: Sequence[str]) -> None:
        """Take the DAG's id and every problem found."""
        self.dag_id = dag_id
        self.problems: tuple[str, ...] = tuple(problems)
        count = len(self.problems)
        head = f"DAG {dag_id!r} has {count} problem{'' if count == 1 else 's'}:"
        shown = [f"  - {problem}" for problem in self.problems[:50]]
        if count > len(shown):
            shown.append(f"  - and {count - len(shown)} more (see .problems)")
        super().__init__("\n".join([head, *shown]))


class DAGChangedError(DagrelayError, ValueError):
    """A stored run can't go on with the DAG given, as finished tasks vanished or were rewired."""

    def __init__(self, run_id: str, changes: Sequence[str]) -> None:
        """Take the run's id and every change that forbids it."""
        self.run_id = run_id
        self.changes: tuple[str, ...] = tuple(changes)
        listed = "; ".join(self.changes[:20])
        super().__init__(f"run {run_id!r} can't go on with this DAG: {listed}. Resume it with the DAG it was started with")


class TemplateError(DagrelayError, ValueError):
    """A template can't be compiled or rendered."""


class TemplateSyntaxError(TemplateError):
    """A template breaks the grammar."""

    def __init__(self, reason: str, *, column: int, text: str, path: str = "") -> None:
        """Take the reason, the `column` (from 1, in characters of `text`), the template's `text`, and its `path` in a config."""
        self.reason = reason
        self.column = column
        self.text = text
        self.path = path
        excerpt = text[max(0, column - 21) : column + 40]
        super().__init__(f"{reason} at column {column} of template, near {excerpt!r}" + (f" @ {path}" if path else ""))


class TemplateLimitError(TemplateError):
    """A template or its rendering is over a limit."""

    def __init__(self, what: str, *, actual: int, limit: int, setting: str) -> None:
        """Take what was measured, the two numbers and the name of the setting in `Limits`."""
        self.actual = actual
        self.limit = limit
        self.setting = setting
        super().__init__(f"{what}: {actual} exceeds the limit of {limit}; raise it by Limits({setting}=...)")


class TemplateValueError(TemplateError):
    """A value does not fit where a template puts it."""

    def __init__(self, reason: str, *, reference: str, text: str) -> None:
        """Take the reason, the `reference` (what stands between the braces) and the template's `text`."""
        self.reason = reason
        self.reference = reference
        self.text = text
        super().__init__(f"{{{{ {cut(reference)} }}}} of template {cut(text)!r}: {reason}")


class MissingReferenceError(TemplateError, LookupError):
    """A value that a template reads is not there, and no default was given."""

    def __init__(self, reference: str, *, text: str, hint: str = "") -> None:
        """Take the `reference` (what stands between the braces), the template's `text` and a hint."""
        self.reference = reference
        self.text = text
        more = f"; {hint}" if hint else ""
        where = f"{{{{ {cut(reference)} }}}} of template {cut(text)!r}"
        super().__init__(f"no value for {where}: add `| default(...)`, or take MissingPolicy.EMPTY{more}")
