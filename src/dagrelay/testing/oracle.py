"""Random DAGs, and how each must end: a small model apart from the engine, that knows neither order nor time nor attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import attrs

from dagrelay.dag.definition import DAG
from dagrelay.dag.plan import TaskKind
from dagrelay.dag.references import each, template
from dagrelay.errors import Skip
from dagrelay.model.policies import RetryPolicy
from dagrelay.model.states import RunState, TaskState, TriggerRule
from dagrelay.stores.operations import RETURN_VALUE
from dagrelay.testing.shapes import draw_shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from random import Random

    from dagrelay.dag.task import Task
    from dagrelay.runtime.context import TaskContext
    from dagrelay.testing.shapes import ElementShape, TaskShape

__all__ = ("GeneratedDag", "generate_dag", "predicted_run_state", "predicted_state")

_Rule = TriggerRule
_FAILED: Final = frozenset({TaskState.FAILED, TaskState.UPSTREAM_FAILED})
_TIMEOUT_S: Final = 50.0
_PARAMETERS: Final = ("a", "b", "c", "d")
"""Parameters of the handlers for what they gather of as many mapped upstreams, the most there are."""
_MODULUS: Final = 1_000_003
"""Values are sums, kept small."""


@attrs.frozen(kw_only=True)
class GeneratedDag:
    """A random DAG and what a run of it must come to, however often it is interrupted and resumed."""

    dag: DAG
    """The DAG; its handlers are async functions."""
    shapes: tuple[TaskShape, ...]
    """What its tasks are, in topological order."""
    states: Mapping[str, TaskState]
    """Each task's final state; a mapped one's as a whole."""
    element_states: Mapping[tuple[str, int], TaskState]
    """Each element's final state: mapping (task_id, map_index) -> state. A mapped task that never began has none."""
    state: RunState
    """The run's."""
    xcoms: Mapping[str, Mapping[str, Any]]
    """What each task that succeeds hands on in the end, but for mapped ones: mapping task_id -> {key: value}."""
    element_xcoms: Mapping[tuple[str, int], Mapping[str, Any]]
    """What each element that succeeds hands on in the end: mapping (task_id, map_index) -> {key: value}."""


def generate_dag(
    random: Random, *, max_tasks: int = 30, on_start: Callable[[TaskContext], None] = lambda _: None
) -> GeneratedDag:
    """Return a random DAG: trigger rules, retries, timeouts, failures, skips, templates, multiple outputs, values that are sums.

    Some tasks are mapped, over constants, lists of upstreams or outputs of other mapped tasks; some are branches and
    short-circuits. The same `random` gives the same DAG.

    Args:
        random: chance.
        max_tasks: the most tasks it has.
        on_start: called by each handler as it begins.
    """
    shapes = draw_shapes(random, random.randint(1, max_tasks))
    dag = DAG("generated")
    for shape in shapes:
        _declare(dag, shapes, shape, on_start)
    ends = _predict(shapes)
    elements = [(shape, end, place) for shape, end in zip(shapes, ends, strict=True) for place in range(len(end.elements or ()))]
    return GeneratedDag(
        dag=dag,
        shapes=shapes,
        states={shape.task_id: end.state for shape, end in zip(shapes, ends, strict=True)},
        element_states={(shape.task_id, place): (end.elements or ())[place].state for shape, end, place in elements},
        state=predicted_run_state(shapes, [end.state for end in ends]),
        xcoms={
            shape.task_id: _predicted_xcoms(shapes, shape, shape, end.total)
            for shape, end in zip(shapes, ends, strict=True)
            if end.state is TaskState.SUCCESS and not shape.is_mapped
        },
        element_xcoms={
            (shape.task_id, place): _predicted_xcoms(shapes, shape, shape.elements[place], (end.elements or ())[place].total)
            for shape, end, place in elements
            if (end.elements or ())[place].state is TaskState.SUCCESS
        },
    )


# ------------------------------------------------------------------------------------------------------------- handlers


def _declare(dag: DAG, shapes: Sequence[TaskShape], shape: TaskShape, on_start: Callable[[TaskContext], None]) -> None:
    options: dict[str, Any] = {
        "depends_on": [f"t{above}" for above in shape.upstream],
        "trigger_rule": shape.rule,
        "retries": RetryPolicy(shape.failures + 1, delay_s=shape.delay_s),
        "timeout_s": _TIMEOUT_S if shape.times_out else None,
        "multiple_outputs": shape.has_outputs,
        "max_concurrency": shape.most_elements_at_once,
        "bind": {},
    }
    if shape.reads_templates:
        read = [shapes[number] for number in shape.upstream if not shapes[number].chooses]
        options["config"] = {above.task_id: _template(above) for above in read}
    if shape.is_mapped:
        options["bind"]["item"] = each(_mapped_over(dag, shapes, shape))
    for name, above in zip(_PARAMETERS, _gathered(shapes, shape), strict=False):
        task = dag.tasks[above.task_id]
        options["bind"][name] = task.outputs if shape.gathers == "outputs" else task.outputs_or(0)
    handler = _handler(shapes, shape, on_start)
    if shape.kind is TaskKind.BRANCH:
        dag.branch(id=shape.task_id, **options)(handler)
    elif shape.kind is TaskKind.SHORT_CIRCUIT:
        dag.short_circuit(id=shape.task_id, **options)(handler)
    else:
        dag.add(handler, id=shape.task_id, **options)


def _template(above: TaskShape) -> str:
    return f"{{{{ xcom.{above.task_id}.{_value_key(above)} | default({'[]' if above.is_mapped else 0}) }}}}"


def _value_key(shape: TaskShape) -> str:
    return "total" if shape.has_outputs else RETURN_VALUE


def _mapped_over(dag: DAG, shapes: Sequence[TaskShape], shape: TaskShape) -> Any:
    if shape.mapped_over is None:
        return list(shape.items)
    above: Task[Any] = dag.tasks[f"t{shape.mapped_over}"]
    if shapes[shape.mapped_over].is_mapped:
        return above.outputs_or(0) if shape.has_default else above.outputs
    return template(f"{{{{ xcom.{above.id}.items | default([]) }}}}") if shape.has_default else above.output["items"]


def _gathered(shapes: Sequence[TaskShape], shape: TaskShape) -> list[TaskShape]:
    """Return the mapped upstreams that a task reads by its signature."""
    if not shape.adds_up or shape.reads_templates or shape.gathers == "pulls":
        return []
    return [shapes[above] for above in shape.upstream if shapes[above].is_mapped]


def _chosen(shapes: Sequence[TaskShape], shape: TaskShape) -> list[str]:
    number = shape.number
    return [below.task_id for below in shapes if number in below.upstream and number not in below.left_by]


def _handler(shapes: Sequence[TaskShape], shape: TaskShape, on_start: Callable[[TaskContext], None]) -> Callable[..., Any]:
    async def handler(ctx: TaskContext, item: Any = 0, a: Any = (), b: Any = (), c: Any = (), d: Any = ()) -> Any:
        on_start(ctx)
        unit = shape.unit(ctx.map_index)
        if unit.failures and await _fails(ctx, unit.failures, times_out=shape.times_out):
            raise ValueError("not yet")
        await _work(shape.pause_s)
        if unit.ending is TaskState.SKIPPED:
            raise Skip("as it was made to")
        if shape.pushes:
            await ctx.xcom.push("half", shape.number)
        total = sum((*a, *b, *c, *d)) + await _sum(ctx, shapes, shape)
        if unit.ending is TaskState.FAILED:
            raise RuntimeError("for good")
        return _value(shapes, shape, _total(shape, ctx.map_index, item, total))

    return handler


def _total(shape: TaskShape, map_index: int | None, item: int, above: int) -> int:
    return (1 + shape.number + (map_index or 0) + item + above) % _MODULUS


def _value(shapes: Sequence[TaskShape], shape: TaskShape, total: int) -> Any:
    """Return what a handler returns."""
    if shape.kind is TaskKind.BRANCH:
        return _chosen(shapes, shape)
    if shape.kind is TaskKind.SHORT_CIRCUIT:
        return shape.lets_through
    return {"total": total, "name": shape.task_id, "items": list(shape.items)} if shape.has_outputs else total


async def _fails(ctx: TaskContext, failures: int, *, times_out: bool) -> bool:
    """Count a failure where it outlives the attempt, and tell whether this one is still to fail."""
    failed: int = await ctx.xcom.pull_own("failed", default=0)
    if failed == failures:
        return False
    await ctx.xcom.push("wrong", failed)
    await ctx.xcom.push("failed", failed + 1, lifetime="task")
    if times_out:
        await anyio.sleep(2 * _TIMEOUT_S)
    return True


async def _work(seconds: float) -> None:
    if seconds:
        await anyio.sleep(seconds)
    else:
        await anyio.lowlevel.checkpoint()


async def _sum(ctx: TaskContext, shapes: Sequence[TaskShape], shape: TaskShape) -> int:
    """Return the sum of what upstreams hand on, but for what comes by the handler's parameters."""
    if not shape.adds_up:
        return 0
    if shape.reads_templates:
        assert ctx.config is not None
        values: Iterable[int | list[int]] = ctx.config.values()
        return sum(sum(value) if isinstance(value, list) else value for value in values)
    total = 0
    above = [shapes[number] for number in shape.upstream if not shapes[number].chooses and not shapes[number].is_mapped]
    for key in (RETURN_VALUE, "total"):
        wanted = [one.task_id for one in above if _value_key(one) == key]
        if wanted:
            found: dict[str, int] = await ctx.xcom.pull(wanted, key, default=0)
            total += sum(found.values())
    if shape.gathers == "pulls":
        for number in shape.upstream:
            if shapes[number].is_mapped:
                total += sum(await ctx.xcom.pull_outputs(f"t{number}", default=0))
    return total


# ---------------------------------------------------------------------------------------------------------- predictions


@attrs.frozen
class _End:
    """How an instance ends, and what it hands on to be added up."""

    state: TaskState
    total: int = 0
    elements: tuple[_End, ...] | None = None
    """A mapped task's; None if it never began."""


def predicted_state(rule: TriggerRule, above: Sequence[TaskState], ending: TaskState) -> TaskState:
    """Return a task's final state, if no branch leaves it out.

    Judged on its upstreams' final states, whatever came first, as Airflow's documentation describes the rules.

    Args:
        rule: the task's trigger rule.
        above: its direct upstreams' final states.
        ending: how it ends if it runs.
    """
    if not above:
        return ending
    succeeded = [state is TaskState.SUCCESS for state in above]
    failed = [state in _FAILED for state in above]
    skipped = [state is TaskState.SKIPPED for state in above]
    ran = [state in {TaskState.SUCCESS, TaskState.FAILED} for state in above]
    # What the rule asks for, and whether a failure is passed on where it is not met; else the task is skipped.
    is_met, passes_on = {
        _Rule.ALL_SUCCESS: (all(succeeded), True),
        _Rule.ALL_FAILED: (all(failed), False),
        _Rule.ALL_DONE: (True, False),
        _Rule.ONE_SUCCESS: (any(succeeded), True),
        _Rule.ONE_FAILED: (any(failed), False),
        _Rule.ONE_DONE: (any(ran), False),
        _Rule.NONE_FAILED: (not any(failed), True),
        _Rule.NONE_SKIPPED: (not any(skipped), False),
        _Rule.NONE_FAILED_MIN_ONE_SUCCESS: (not any(failed) and any(succeeded), True),
        _Rule.ALL_SKIPPED: (all(skipped), False),
        _Rule.ALWAYS: (True, False),
    }[rule]
    if is_met:
        return ending
    return TaskState.UPSTREAM_FAILED if passes_on and any(failed) else TaskState.SKIPPED


def _predict(shapes: Sequence[TaskShape]) -> list[_End]:
    ends: list[_End] = []
    for shape in shapes:
        above = [ends[number] for number in shape.upstream]
        # Success stands for "it runs"; how it then ends is seen by itself.
        state = predicted_state(shape.rule, [end.state for end in above], TaskState.SUCCESS)
        if any(ends[number].state is TaskState.SUCCESS and not _is_reached(shapes, shape, number) for number in shape.left_by):
            state = TaskState.SKIPPED
        ends.append(_predict_one(shapes, shape, ends) if state is TaskState.SUCCESS else _End(state))
    return ends


def _is_reached(shapes: Sequence[TaskShape], shape: TaskShape, chooser: int) -> bool:
    """Return whether what a branch chose leads to a task that it did not choose itself."""
    above = _all_above(shapes, shape)
    return any(chooser in shapes[number].upstream and chooser not in shapes[number].left_by for number in above)


def _all_above(shapes: Sequence[TaskShape], shape: TaskShape) -> set[int]:
    above, pending = set[int](), list(shape.upstream)
    while pending:
        number = pending.pop()
        if number not in above:
            above.add(number)
            pending.extend(shapes[number].upstream)
    return above


def _predict_one(shapes: Sequence[TaskShape], shape: TaskShape, ends: Sequence[_End]) -> _End:
    """Return how a task ends that runs."""
    above = sum(_handed_on(ends[number], shape) for number in shape.upstream) if shape.adds_up else 0
    is_whole = all(_is_whole(ends[one.number]) for one in _gathered(shapes, shape))
    lacks = shape.gathers == "outputs" and not is_whole
    if not shape.is_mapped:
        return _End(TaskState.FAILED) if lacks else _End(shape.ending, 0 if shape.chooses else _total(shape, None, 0, above))
    items = _predicted_items(shapes, shape, ends)
    if items is None:
        return _End(TaskState.FAILED)
    elements = tuple(
        _End(TaskState.FAILED if lacks else shape.elements[place].ending, _total(shape, place, item, above))
        for place, item in enumerate(items)
    )
    states = {element.state for element in elements}
    if TaskState.FAILED in states:
        return _End(TaskState.FAILED, elements=elements)
    return _End(TaskState.SKIPPED if states == {TaskState.SKIPPED} else TaskState.SUCCESS, elements=elements)


def _handed_on(end: _End, reader: TaskShape) -> int:
    """Return what a task's end adds to its reader's sum."""
    if end.elements is None:
        return end.total if end.state is TaskState.SUCCESS else 0
    if reader.reads_templates and not _is_whole(end):
        return 0  # A list with holes counts as missing there.
    return sum(element.total for element in end.elements if element.state is TaskState.SUCCESS)


def _is_whole(end: _End) -> bool:
    return end.elements is not None and all(element.state is TaskState.SUCCESS for element in end.elements)


def _predicted_items(shapes: Sequence[TaskShape], shape: TaskShape, ends: Sequence[_End]) -> list[int] | None:
    """Return what a task is mapped over; None if that can't be had."""
    if shape.mapped_over is None:
        return list(shape.items)
    above, end = shapes[shape.mapped_over], ends[shape.mapped_over]
    if not above.is_mapped:
        items = list(above.items) if end.state is TaskState.SUCCESS else None
    elif shape.has_default or _is_whole(end):
        items = [element.total if element.state is TaskState.SUCCESS else 0 for element in end.elements or ()]
    else:
        items = None
    return [] if items is None and shape.has_default else items


def predicted_run_state(shapes: Sequence[TaskShape], states: Sequence[TaskState]) -> RunState:
    """Return a run's state: failed if a leaf is; a clean-up task that succeeded leaves the judgement to its upstreams."""
    deciding = {shape.number for shape in shapes} - {above for shape in shapes for above in shape.upstream}
    for shape in reversed(shapes):
        cleans_up = shape.rule in {_Rule.ALL_DONE, _Rule.ALWAYS} and states[shape.number] is TaskState.SUCCESS
        if cleans_up and shape.upstream and shape.number in deciding:
            deciding.remove(shape.number)
            deciding.update(shape.upstream)
    return RunState.FAILED if any(states[number] in _FAILED for number in deciding) else RunState.SUCCESS


def _predicted_xcoms(shapes: Sequence[TaskShape], shape: TaskShape, unit: ElementShape | TaskShape, total: int) -> dict[str, Any]:
    value = _value(shapes, shape, total)
    xcoms: dict[str, Any] = {RETURN_VALUE: value}
    if shape.pushes:
        xcoms["half"] = shape.number
    if shape.has_outputs:
        xcoms |= value
    if unit.failures:
        xcoms["failed"] = unit.failures
    return xcoms
