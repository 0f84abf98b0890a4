"""The params a run is started with, checked by name against what the plan asks for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dagrelay.dag.inputs import ConstantInput, ContextInput, ReferenceInput
from dagrelay.errors import DAGValidationError, XComTypeError
from dagrelay.serializers.converter import structurer

if TYPE_CHECKING:
    from dagrelay.dag.inputs import Input
    from dagrelay.dag.plan import Plan

__all__ = ("check_param_types", "complete_params")


def complete_params(plan: Plan, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's params with the DAG's defaults for those not given.

    Raises:
        DAGValidationError: with every name given that nothing takes, and every one needed and not given.
    """
    if not isinstance(params, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without a type checker
        raise DAGValidationError(plan.dag_id, [f"params must be a mapping, not {type(params).__name__}"])
    problems = [_unknown(plan, name) for name in params if name not in plan.param_names]
    problems += [
        f"param {name!r} was not given, and task {task_id!r} needs it"
        for name, task_id in plan.required_params.items()
        if name not in params
    ]
    if problems:
        raise DAGValidationError(plan.dag_id, problems)
    return {**plan.params, **params}


def check_param_types(plan: Plan, params: Mapping[str, Any]) -> None:
    """Check, before anything of a run is recorded, that each param can fill the parameters that ask for it.

    Args:
        plan: what is to be run.
        params: the run's params as plain JSON values, defaults included.

    Raises:
        DAGValidationError: with every parameter that a param is of the wrong type for.
    """
    problems: list[str] = []
    for task_id, each in plan.typed_params:
        if each.param in params:
            try:
                structurer(each.annotation)(params[each.param])
            except XComTypeError as error:
                problems.append(f"param {each.param!r} can't fill parameter {each.name!r} of task {task_id!r}: {error}")
    if problems:
        raise DAGValidationError(plan.dag_id, problems)


def _unknown(plan: Plan, name: Any) -> str:
    if not isinstance(name, str):
        return f"param {name!r}: its name is no text"
    for task in plan.tasks:
        for each in task.inputs:
            if each.name == name:
                return (
                    f"param {name!r}: no run can give it, as parameter {name!r} of task {task.task_id!r} is filled: {_told(each)}"
                )
    near = get_close_matches(name, plan.param_names)
    hint = (
        f"; did you mean {' or '.join(map(repr, near))}?" if near else "; a handler that reads ctx.params needs DAG(params={...})"
    )
    return f"param {name!r}: no parameter, no template and no entry of DAG(params=...) has that name{hint}"


def _told(each: Input) -> str:
    match each:
        case ReferenceInput():
            return f"it gets {each.reference!r}"
        case ContextInput():
            return "it gets the context"
        case ConstantInput():
            return each.reason
        case _:
            return "it gets a template"
