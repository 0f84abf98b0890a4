"""References: paths into values not there yet, and what they refuse while the DAG is written."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.references import TemplateText, XComRef, is_reference, reference_parts, template
from dagrelay.errors import InvalidIdError
from dagrelay.model.missing import MISSING
from dagrelay.templates import parse

if TYPE_CHECKING:
    from collections.abc import Callable

dag: Final = DAG("d")


@dag.task
async def load() -> Any:
    """Return anything."""


dotted = dag.add(load, id="load.2-x")


def test_attributes_and_items_lead_into_the_value() -> None:
    """A path is made of names and indices, however they are written."""
    parts = reference_parts(load.output.rows[0]["any key"][-1].key)

    assert parts.task is load
    assert parts.key == "return_value"
    assert parts.path == ("rows", 0, "any key", -1, "key")
    assert parts.default is MISSING


def test_a_reference_has_no_public_attribute_of_its_own() -> None:
    """Every name leads into the value, so that no field of a user's can be hidden."""
    public = [name for name in dir(XComRef) if not name.startswith("_")]

    assert public == []
    assert reference_parts(load.output.items).path == ("items",)
    assert reference_parts(load.output._private).path == ("_private",)


def test_another_key_and_the_typed_reference() -> None:
    """`xcom` names a key; `ref` is the output."""
    assert reference_parts(load.xcom("row count")).key == "row count"
    assert reference_parts(load.ref) == reference_parts(load.output)
    with pytest.raises(InvalidIdError):
        load.xcom("a\nb")


USES: Final[list[Callable[[Any], Any]]] = [
    iter,
    bool,
    len,
    list,
    lambda ref: 1 in ref,
    lambda ref: [*ref],
    lambda ref: 1 if ref else 2,
    lambda ref: f"{ref:>9}",
]


@pytest.mark.parametrize("use", USES)
def test_a_reference_refuses_what_only_a_value_can_do(use: Callable[[Any], Any]) -> None:
    """Iteration, truth, length, search and formatting are errors that say so, and not wrong answers."""
    with pytest.raises(TypeError, match=r"<reference \{\{ xcom.load.return_value.a \}\}> can't be .* only when a run gets there"):
        use(load.output.a)


@pytest.mark.parametrize("step", [1.5, None, True, slice(1, 2), ("a",)])
def test_only_names_and_indices_are_steps(step: Any) -> None:
    """A slice or float would never be found in a value."""
    with pytest.raises(TypeError, match="can be indexed by a str or int"):
        load.output[step]


def test_python_finds_no_protocol_in_a_reference() -> None:
    """Names with two underscores are no paths, so that libraries that look for protocols find none."""
    assert not hasattr(load.output, "__array__")
    assert not hasattr(load.output, "__wrapped__")
    with pytest.raises(AttributeError, match=r"as an item, \['__len2__'\]"):
        _ = load.output.__len2__
    assert reference_parts(load.output["__len2__"]).path == ("__len2__",)


def test_a_reference_can_be_copied() -> None:
    """A copy reads the same."""
    parts = reference_parts(load.output.a)

    assert reference_parts(copy.copy(load.output.a)) == parts


def test_references_are_equal_only_to_themselves() -> None:
    """They can be keys and members, as any object can."""
    one, other = load.output, load.output

    assert one == one  # noqa: PLR0124 - the point of it
    assert one != other
    assert len({one, other}) == 2


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (load.output, "{{ xcom.load.return_value }}"),
        (load.output.a[0]["b"][-1], "{{ xcom.load.return_value.a[0].b[-1] }}"),
        (load.xcom("row count"), '{{ xcom.load["row count"] }}'),
        (load.output["}}"]['"'], '{{ xcom.load.return_value["}}"]["\\""] }}'),
        (dotted.output["é"], '{{ xcom["load.2-x"].return_value["é"] }}'),
        (load.output_or(None), "{{ xcom.load.return_value | default(null) }}"),
        (load.output_or({"a": [1, "é"]}), '{{ xcom.load.return_value | default({"a": [1, "é"]}) }}'),
    ],
)
def test_the_text_of_a_reference_is_its_template(reference: Any, text: str) -> None:
    """What stands in an f-string reads what the reference does."""
    parts = reference_parts(reference)

    (expression,) = parse(f"of {reference}").expressions

    assert str(reference) == text
    assert expression.names == (parts.task.id, parts.key)
    assert expression.path == parts.path


def test_a_default_that_json_does_not_know_has_no_text() -> None:
    """It is said where the text is made."""
    reference = load.output_or({1, 2})

    with pytest.raises(TypeError, match=r"the default of \{\{ xcom.load.return_value \}\} can't be written in a template"):
        str(reference)
    assert repr(reference) == "<reference {{ xcom.load.return_value }}>"


def output_or(default: Any) -> Any:
    """Return the output with a default, of which checkers know nothing."""
    return load.output_or(default)


@attrs.frozen
class Point:
    """Has a field."""

    x: int
    """It."""


@pytest.mark.parametrize(
    ("reference", "default"),
    [
        (output_or({"a": [1, 2]}).a[1], 2),
        (output_or({"a": 1}).b, MISSING),
        (output_or([1])[3], MISSING),
        (output_or(Point(3)).x, 3),
        (output_or(Point(3)).y, MISSING),
        (output_or(Point(3))[0], MISSING),
        (output_or(None).x, MISSING),
    ],
)
def test_a_path_goes_into_the_default_too(reference: Any, default: Any) -> None:
    """The default stands in for the whole output."""
    assert reference_parts(reference).default == default


@pytest.mark.parametrize("default", [dotted.output, template("{{ run.id }}"), [dotted.output], dotted])
def test_a_default_is_a_constant(default: Any) -> None:
    """A value that only a run has can't stand in for another."""
    with pytest.raises(TypeError, match=r"output_or\(\) of task 'load' takes a constant"):
        load.output_or(default)


def test_what_is_a_reference() -> None:
    """Nothing else passes for one."""
    assert is_reference(load.output)
    assert not is_reference(load)
    assert not is_reference("{{ xcom.load }}")


def test_a_template_is_a_marker_for_text() -> None:
    """It keeps the text, and refuses all else."""
    marker: Any = template(f"{load.output} rows")

    assert marker == TemplateText("{{ xcom.load.return_value }} rows")
    assert repr(marker) == "template('{{ xcom.load.return_value }} rows')"
    assert pickle.loads(pickle.dumps(marker)) == marker  # noqa: S301 - our own bytes
    with pytest.raises(TypeError, match="a reference stands by itself"):
        template(load.output)
