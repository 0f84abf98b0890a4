"""The names of a run's params, checked against all that a DAG takes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.references import template
from dagrelay.errors import DAGValidationError
from dagrelay.model.injected import Injected

if TYPE_CHECKING:
    from collections.abc import Mapping


class Context(Injected):
    """Is injected."""


class Thing:
    """Is no value that can be stored."""


def make() -> DAG:
    """Return a DAG that takes params in every way there is."""
    dag = DAG("d", params={"days": 3, "needed_and_given": 1})

    @dag.task
    async def load(path: str, days: int, needed_and_given: int, limit: int = 5) -> int:
        return len(path) + days + needed_and_given + limit

    @dag.task(bind={"bound": 1})
    async def take(
        ctx: Context,
        read: int = load.output,
        text: str = template("{{ params.place }}"),
        tree: Any = [load.output],  # noqa: B006 - rebuilt for every attempt
        bound: int = 0,
        odd: Thing = Thing(),  # noqa: B008 - what no run can give
    ) -> None: ...

    dag.add(partial(load.handler, path="fixed"), id="fixed", bind={"limit": template("{{ params.limit_text }}")})
    return dag


def problems(params: Mapping[Any, Any]) -> tuple[str, ...]:
    """Return what is wrong with params for that DAG."""
    with pytest.raises(DAGValidationError) as caught:
        make().check_params(params)
    return caught.value.problems


def test_params_are_completed_with_the_defaults() -> None:
    """A run's own win; parameters' plain defaults stay where they are."""
    assert make().check_params({"path": "x"}) == {"days": 3, "needed_and_given": 1, "path": "x"}
    assert make().check_params({"path": "x", "days": 4, "limit": 1, "place": "y", "limit_text": "z"}) == {
        "days": 4,
        "needed_and_given": 1,
        "path": "x",
        "limit": 1,
        "place": "y",
        "limit_text": "z",
    }


def test_unknown_and_missing_params_are_told_at_once() -> None:
    """With near names, and with the task that needs one."""
    assert problems({"pth": 1, "completely_different": 2, 3: 4}) == (
        "param 'pth': no parameter, no template and no entry of DAG(params=...) has that name; did you mean 'path'?",
        (
            "param 'completely_different': no parameter, no template and no entry of DAG(params=...) has that name; "
            "a handler that reads ctx.params needs DAG(params={...})"
        ),
        "param 3: its name is no text",
        "param 'path' was not given, and task 'load' needs it",
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ctx", "it gets the context"),
        ("read", "it gets <reference {{ xcom.load.return_value }}>"),
        ("text", "it gets a template"),
        ("tree", "it gets a template"),
        ("bound", "bind gives it"),
        ("odd", "no value can be turned into "),
    ],
)
def test_a_parameter_filled_otherwise_takes_no_param(name: str, reason: str) -> None:
    """A param that would change nothing is an error that says what the parameter gets instead."""
    (told,) = problems({"path": "x", name: 1})

    assert told.startswith(f"param {name!r}: no run can give it, as parameter {name!r} of task 'take' is filled: {reason}")


def test_what_a_partial_binds_is_no_mere_default() -> None:
    """It would otherwise be lost to a run param of the same name."""
    dag = DAG("d")

    async def fetch(city: str) -> str:
        return city

    dag.add(partial(fetch, city="oslo"))

    with pytest.raises(DAGValidationError, match=r"is filled: functools\.partial gives it"):
        dag.check_params({"city": "rome"})


def test_params_are_a_mapping() -> None:
    """A list of pairs is none."""
    assert problems([("path", "x")]) == ("params must be a mapping, not list",)  # type: ignore[arg-type]
