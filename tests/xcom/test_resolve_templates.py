"""Templates outside a DAG: prompts that read a run's values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dagrelay.errors import (
    InvalidIdError,
    TemplateLimitError,
    TemplateSyntaxError,
    TemplateValueError,
    XComNotFoundError,
)
from dagrelay.model.policies import Limits, MissingPolicy
from dagrelay.model.states import TaskState
from dagrelay.xcom.templates import resolve_templates
from tests.xcom.desk import at_work

if TYPE_CHECKING:
    from dagrelay.stores.base import Store
    from dagrelay.xcom.manager import XComManager

VALUES: dict[str, Any] = {
    "return_value": {"rows": [1, {"x": "é"}], "none": None},
    "text": "hi",
    "number": 1.0,
    "braces": "{{ xcom.a.text }}",
    "key with spaces": True,
}


async def fill(xcom: XComManager) -> None:
    """Push what the templates read."""
    for key, value in VALUES.items():
        await xcom.push("r", "a", key, value)
    await xcom.push("r", "dotted.id", "k", 7)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("", ""),
        ("no braces } }} {", "no braces } }} {"),
        ("{{ xcom.a.text }}", "hi"),
        ("<{{xcom.a.text}} {{ xcom.a.number }}>", "<hi 1.0>"),
        ("{{ xcom.a }}", '{"rows":[1,{"x":"é"}],"none":null}'),
        ("{{ xcom.a.return_value.rows[1].x }}{{ xcom.a.return_value.rows[-2] }}", "é1"),
        ("{{ xcom.a.return_value.none }}", "null"),
        ('{{ xcom["dotted.id"]["k"] }}', "7"),
        ('{{ xcom.a["key with spaces"] }}', "true"),
        ("{{ run.id }}", "r"),
        ("{{ xcom.a.return_value.rows | length }}", "2"),
        ('{{ xcom.a.return_value.gone | default("-") }}', "-"),
        ('{{ xcom.none.gone | default("{{ run.id }}") }}', "{{ run.id }}"),
        ('{{ "{{" }} {{ run.id }}', "{{ r"),
    ],
)
async def test_expressions_are_resolved(memory: Store, template: str, text: str) -> None:
    """Into text."""
    async with at_work(memory) as desk:
        await fill(desk.manager)
        assert await resolve_templates(template, "r", desk.manager) == text


async def test_values_are_never_rendered_again(memory: Store) -> None:
    """They are data."""
    async with at_work(memory) as desk:
        await fill(desk.manager)
        assert await resolve_templates("{{ xcom.a.braces }}", "r", desk.manager) == "{{ xcom.a.text }}"


async def test_all_references_are_one_read(store: Store) -> None:
    """And text without any is none."""
    async with at_work(store) as desk:
        await fill(desk.manager)
        reads = store.statistics().reads
        template = "{{ xcom.a.text }} {{ xcom.a.number }} {{ xcom.a.text }} {{ xcom.a.return_value.rows }} {{ run.id }}"
        assert await resolve_templates(template, "r", desk.manager) == 'hi 1.0 hi [1,{"x":"é"}] r'
        assert store.statistics().reads == reads + 1
        assert await resolve_templates("{{ run.id }}, {{ foreign }}", "r", desk.manager) == "r, {{ foreign }}"
        assert store.statistics().reads == reads + 1


async def test_native_hands_on_the_value_itself(memory: Store) -> None:
    """Where the template is exactly one reference; else it is text all the same."""
    async with at_work(memory) as desk:
        await fill(desk.manager)

        async def native(template: str, **options: Any) -> Any:
            return await resolve_templates(template, "r", desk.manager, native=True, **options)

        assert await native("{{ xcom.a.number }}") == 1.0
        assert await native("{{ xcom.a }}") == VALUES["return_value"]
        assert await native("{{ xcom.a.return_value.none }}") is None
        assert await native(" {{ xcom.a.number }}") == " 1.0"
        assert await native("{{ xcom.a.gone }}", missing=MissingPolicy.EMPTY) is None
        assert await native("text") == "text"


async def test_other_languages_are_left_alone(memory: Store) -> None:
    """Unless they are asked to be errors; a slip of the pen in our own always is one."""
    foreign = "{{ user.name }} {% if x %} {{ params.a }} {{ task.id }} {{ run.started_at }} {{{ x }}} {{ 7*7 }} {{"
    async with at_work(memory) as desk:
        await fill(desk.manager)
        assert await resolve_templates(foreign, "r", desk.manager) == foreign
        assert await resolve_templates(foreign + " {{ xcom.a.text }}", "r", desk.manager) == foreign + " hi"
        for each in ("{{ user.name }}", "{{ params.a }}", "{{ task.id }}", "{{ run.started_at }}", "{{ 7*7 }}"):
            with pytest.raises(TemplateSyntaxError):
                await resolve_templates(each, "r", desk.manager, foreign="error")
        for each in ("{{ xcom.a.text", "{{ xcom.a.text() }}", "{{ xcom.a.text | upper }}", "{{ xcom. }}"):
            with pytest.raises(TemplateSyntaxError):
                await resolve_templates(each, "r", desk.manager)


async def test_a_missing_value_is_an_error_that_says_all(store: Store) -> None:
    """Template's reference, run, task, key, the task's state, near keys, and the path that may be meant."""
    async with at_work(store) as desk:
        run = await desk.enter(tasks=["stats"])
        run.finish("stats", state=TaskState.SUCCESS, values={"return_value": b"{}", "row_count": b"1"})
        await desk.broker.barrier()
        with pytest.raises(XComNotFoundError) as caught:
            await resolve_templates("{{ xcom.stats.row_cuont }}", "run", desk.manager)
        assert str(caught.value) == (
            "no XCom 'row_cuont' of task 'stats' in run 'run' (the task is success); did you mean 'row_count'?; "
            "{{ xcom.stats.row_cuont }} of the template needs it; did you mean xcom.stats.return_value.row_cuont?"
        )
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        with pytest.raises(XComNotFoundError, match=r"the run has no such task"):
            await resolve_templates("{{ xcom.nobody }}", "run", desk.manager)


async def test_a_path_that_leads_nowhere_is_missing(memory: Store) -> None:
    """Though the entry is there."""
    async with at_work(memory) as desk:
        await fill(desk.manager)
        with pytest.raises(XComNotFoundError, match=r"\{\{ xcom.a.return_value.rows\[9\] \}\} of the template needs it"):
            await resolve_templates("{{ xcom.a.return_value.rows[9] }}", "r", desk.manager)


async def test_missing_values_may_be_empty(memory: Store) -> None:
    """If asked to."""
    async with at_work(memory) as desk:
        await fill(desk.manager)
        found = await resolve_templates("<{{ xcom.a.gone }}{{ xcom.b }}>", "r", desk.manager, missing=MissingPolicy.EMPTY)
        assert found == "<>"


async def test_only_what_everybody_may_see_is_found(memory: Store) -> None:
    """Nothing of a failed attempt."""
    async with at_work(memory) as desk:
        run = await desk.enter()
        run.finish(state=TaskState.FAILED, values={"return_value": b"1"})
        await desk.broker.barrier()
        with pytest.raises(XComNotFoundError, match="the task is failed"):
            await resolve_templates("{{ xcom.a }}", "run", desk.manager)


async def test_bad_input_is_refused(memory: Store) -> None:
    """Run ids, unfit filters, too long a text."""
    async with at_work(memory) as desk:
        await fill(desk.manager)
        with pytest.raises(InvalidIdError):
            await resolve_templates("text", "../r", desk.manager)
        with pytest.raises(TemplateValueError):
            await resolve_templates("{{ xcom.a.number | length }}", "r", desk.manager)
        with pytest.raises(TemplateLimitError):
            await resolve_templates("x" * 2_000_000, "r", desk.manager)


@pytest.mark.parametrize(
    ("setting", "limit", "template"),
    [
        ("max_template_chars", 30, "{{ xcom.a.text }} and much text behind it"),
        ("max_template_references", 1, "{{ xcom.a.text }}{{ xcom.a.text }}"),
        ("max_rendered_chars", 8, "{{ xcom.a.text }} and text"),
    ],
)
async def test_the_runtimes_limits_hold(memory: Store, setting: str, limit: int, template: str) -> None:
    """What the error says to raise, raised, lets the template pass."""
    for value, is_enough in ((limit, False), (100, True)):
        limits = Limits(**{setting: value})  # type: ignore[arg-type]
        async with at_work(memory, limits=limits) as desk:
            await fill(desk.manager)
            if is_enough:
                assert (await resolve_templates(template, "r", desk.manager)).startswith("hi")
            else:
                with pytest.raises(TemplateLimitError, match=setting):
                    await resolve_templates(template, "r", desk.manager)
