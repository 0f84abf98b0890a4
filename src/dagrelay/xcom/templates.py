"""Template resolution outside a DAG: prompts that read a run's XComs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, overload

from dagrelay.errors import XComNotFoundError
from dagrelay.ids import check_run_id
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import MissingPolicy
from dagrelay.templates import missing_key_hint, parse, render

if TYPE_CHECKING:
    from dagrelay.templates import Expression
    from dagrelay.xcom.manager import XComManager

__all__ = ("resolve_templates",)

_ROOTS: Final = frozenset({"xcom", "run"})


class _RunScope:
    """The values of one run, read in one batch before rendering."""

    def __init__(self, run_id: str, values: dict[tuple[str, str], Any]) -> None:
        self._run_id = run_id
        self._values = values

    def get(self, expression: Expression) -> Any:
        if expression.root == "run":
            return self._run_id if expression.names == ("id",) else MISSING
        return self._values.get((expression.task_id, expression.key), MISSING)


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
        XComNotFoundError: a value is missing.

    Cancellation: nothing is left behind.
    """
    run_id = check_run_id(run_id)
    parsed = parse(template, foreign=foreign, roots=_ROOTS)
    if not parsed.expressions:
        return render(parsed, _RunScope(run_id, {}), missing=missing, native=native)
    wanted = dict.fromkeys((each.task_id, each.key) for each in parsed.expressions if each.root == "xcom")
    values = await xcom.pull_many(run_id, list(wanted))

    def not_found(expression: Expression) -> Exception:
        hint = f"{{{{ {expression.source} }}}} of the template needs it"
        more = missing_key_hint(expression)
        return XComNotFoundError(
            run_id, expression.task_id, expression.key, state="not known to have it", hint=f"{hint}; {more}" if more else hint
        )

    return render(parsed, _RunScope(run_id, values), missing=missing, native=native, on_missing=not_found)
