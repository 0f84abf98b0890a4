"""What a task is mapped over: the markers that stand for elements, and the list that comes of them."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.mapping import Elements
from dagrelay.dag.references import each, element_parts, is_element, template, zip_each

if TYPE_CHECKING:
    from collections.abc import Callable


async def work(item: Any) -> Any:
    """Return the element."""
    return item


def test_an_element_is_no_value_yet() -> None:
    """It has no public attribute of its own, and refuses what only a value can do, saying what to do instead."""
    element: Any = each([{"a": [1]}])
    assert is_element(element)
    assert element_parts(element["a"][0]).path == element_parts(element.a[0]).path == ("a", 0)
    assert element_parts(element.a).axis is element_parts(element).axis
    refusals: tuple[Callable[[], object], ...] = (
        lambda: tuple(map(str, element)),
        lambda: bool(element),
        lambda: len(element),
        lambda: 1 in element,
    )
    for refused, verb in zip(refusals, ("iterated over", "tested for truth", "measured", "searched"), strict=True):
        with pytest.raises(TypeError, match=f"can't be {verb}"):
            refused()
    with pytest.raises(TypeError, match="can't stand in a text"):
        str(element)
    with pytest.raises(TypeError, match="can be indexed by a str or int, not float"):
        _ = cast("Any", element)[1.5]
    with pytest.raises(AttributeError, match="__array__"):
        _ = element.__array__
    assert repr(element["a"][0]) == "<element of [{'a': [1]}].a[0]>"


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ("text", "not str"),
        (7, "not int"),
        (None, "not NoneType"),
        ({1, 2}, "not set"),
        (iter([1]), "not list_iterator"),
    ],
)
def test_what_is_no_list_is_refused_when_written(items: Any, told: str) -> None:
    """A str above all; the error tells what is taken, and how to map over a run param."""
    with pytest.raises(TypeError, match=told) as refused:
        each(items)
    assert "template('{{ params.name }}')" in str(refused.value)
    with pytest.raises(TypeError, match=told):
        zip_each([1], items)


def test_a_task_or_element_is_not_mapped_over() -> None:
    """The error says what of it is."""
    dag = DAG("d")
    task: Any = dag.add(work, id="t", bind={"item": 1})
    with pytest.raises(TypeError, match=r"each\(\) got task 't' itself; write its `\.output`, or `\.outputs` if it is mapped"):
        each(task)
    with pytest.raises(TypeError, match="a task maps over whole lists only"):
        each(each([[1]]))
    with pytest.raises(TypeError, match=r"zip_each\(\) takes two lists or more"):
        zip_each([1])


def test_all_mappings_are_mapped_over() -> None:
    """Read-only ones too."""
    items: Any = MappingProxyType({"a": 1})
    marker: Any = each(items)
    assert element_parts(marker).axis.sources[0] == {"a": 1}


def test_elements_are_found_by_map_index() -> None:
    """The last axis varies fastest; an axis without elements leaves none."""
    elements = Elements(([1, 2], "ab", [None]))
    assert elements.length == 4
    assert [elements.at(place) for place in range(4)] == [(1, "a", None), (1, "b", None), (2, "a", None), (2, "b", None)]
    assert Elements(([1, 2], [])).length == 0


def test_a_plan_knows_what_a_task_is_mapped_over() -> None:
    """One axis for each `each`, read once; what the elements read beside it is read for each attempt."""
    dag = DAG("d")
    load = dag.add(work, id="load", bind={"item": 1})
    other = dag.add(work, id="other", bind={"item": 1})

    async def many(a: Any, b: Any, c: Any, d: Any, e: Any) -> list[Any]:
        return [a, b, c, d, e]

    shared: Any = each(load.output)
    bind = {
        "a": shared.x,
        "b": shared.y,
        "c": each(load.output),
        "d": zip_each([1], template("{{ xcom.load }}")),
        "e": other.output,
    }
    dag.add(many, id="many", bind={**bind, "e": other.output})
    plan = dag.plan()
    task = plan.tasks[plan.index["many"]]
    assert task.expansion is not None
    assert [axis.is_zipped for axis in task.expansion.axes] == [False, False, True]
    assert [read.index for read in task.expansion.reads] == [plan.index["load"]]
    assert [read.index for read in task.reads] == [plan.index["other"]]
    assert set(task.upstream) == {plan.index["load"], plan.index["other"]}


def test_a_gathered_reference_knows_its_way() -> None:
    """A default stands in for elements, of which a path goes on; and no template can say it."""
    dag = DAG("d")
    task: Any = dag.add(work, id="t", bind={"item": each([1])})
    assert str(task.outputs[0].a) == "{{ xcom.t.return_value[0].a }}"
    with pytest.raises(TypeError, match=r"outputs_or\(\) of task 't' can't stand in a template"):
        str(task.outputs_or(None)[0])
    for ask in (task.output_or, task.outputs_or):
        with pytest.raises(TypeError, match="takes a constant"):
            ask(task.outputs)
