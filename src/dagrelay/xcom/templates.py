"""Template resolution outside a DAG: prompts that read a run's XComs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, overload

from dagrelay.ids import check_run_id
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import MissingPolicy
from dagrelay.model.records import InstanceKey
from dagrelay.templates import missing_key_hint, parse, render

if TYPE_CHECKING:
    from dagrelay.templates import Expression
    from dagrelay.xcom.manager import XComManager

__all__ = ("resolve_templates",)

_ROOTS: Final = frozenset({"xcom", "run.id"})


class _RunScope:
    """The values of one run, read in one batch before rendering."""

    def __init__(self, run_id: str, values: dict[tuple[str, str], Any]) -> None:
        self._run_id = run_id
        self._values = values

    def get(self, expression: Expression) -> Any:
        if expression.root == "run":
            return self._run_id
        return self._values.get((expression.task_id, expression.key), MISSING)


class _NotThereError(Exception):
    """Carries an expression without value out of the rendering, as what is to be said of it stands in the store."""

    def __init__(self, expression: Expression) -> None:
        super().__init__(expression)
        self.expression = expression


@overload
async def resolve_templates(
    template: str,
    run_id: str,
    xcom: XComManager,
    *,
    missing: MissingPolicy = ...,
    native: Literal[False] = ...,
    foreign: Literal["keep", "error"] = ...,
) -> str: ...
@overload
async def resolve_templates(
    template: str,
    run_id: str,
    xcom: XComManager,
    *,
    missing: MissingPolicy = ...,
    native: Literal[True],
    foreign: Literal["keep", "error"] = ...,
) -> Any: ...
async def resolve_templates(
    template: str,
    run_id: str,
    xcom: XComManager,
    *,
    missing: MissingPolicy = MissingPolicy.ERROR,
    native: bool = False,
    foreign: Literal["keep", "error"] = "keep",
) -> Any:
    """Return `template` with its `{{ xcom.<task>.<key> }}` and `{{ run.id }}` expressions resolved from a run's values.

    All references are read in one batch. Values are data: they are never rendered again. Only what every reader may see is
    found, as for `XComManager.pull`.

    Args:
        template: the text; without `{{` it comes back unchanged.
        run_id: the run to read from.
        xcom: `runtime.xcom`.
        missing: what a missing value does: raise, or stand as an empty string.
        native: hand on the value itself, with its type, where the template is exactly one reference.
        foreign: expressions of other template languages, or of roots other than `xcom` and `run.id`: kept as they stand, or an
            error.

    Raises:
        TemplateSyntaxError: an expression breaks the grammar.
        TemplateLimitError: the template, or its rendering, is over one of the runtime's limits.
        TemplateValueError: a filter does not take the value.
        XComNotFoundError: a value is missing.

    Cancellation: nothing is left behind.
    """
    run_id = check_run_id(run_id)
    limits = xcom.limits
    parsed = parse(
        template,
        max_chars=limits.max_template_chars,
        max_references=limits.max_template_references,
        foreign=foreign,
        roots=_ROOTS,
    )
    wanted = dict.fromkeys((each.task_id, each.key) for each in parsed.expressions if each.root == "xcom")
    values = await xcom.pull_many(run_id, list(wanted)) if wanted else {}
    scope = _RunScope(run_id, values)
    try:
        return render(
            parsed, scope, missing=missing, native=native, max_chars=limits.max_rendered_chars, on_missing=_NotThereError
        )
    except _NotThereError as lack:
        expression = lack.expression
    hints = (f"{{{{ {expression.source} }}}} of the template needs it", missing_key_hint(expression))
    instance = InstanceKey(run_id, expression.task_id, None)
    raise await xcom.not_found(instance, expression.key, hint="; ".join(filter(None, hints)))
