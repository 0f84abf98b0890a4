"""Random DAGs, and how each must end: a small model apart from the engine, that knows neither order nor time nor attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
import attrs

from dagrelay.dag.definition import DAG
from dagrelay.errors import Skip
from dagrelay.model.policies import RetryPolicy
from dagrelay.model.states import RunState, TaskState, TriggerRule
from dagrelay.stores.operations import RETURN_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from dagrelay.runtime.context import TaskContext

__all__ = ("GeneratedDag", "TaskShape", "generate_dag", "predicted_run_state", "predicted_state")

_Rule = TriggerRule
_FAILED: Final = frozenset({TaskState.FAILED, TaskState.UPSTREAM_FAILED})
_EAGER: Final = frozenset({_Rule.ONE_SUCCESS, _Rule.ONE_FAILED, _Rule.ONE_DONE, _Rule.ALWAYS})
"""Rules that may start a task before all its upstreams have ended, so that what they hand on by then is a matter of time."""
_RULES: Final = (*_Rule, *[_Rule.ALL_SUCCESS] * 8, *[_Rule.ALL_DONE] * 3)
_ENDINGS: Final = (*[TaskState.SUCCESS] * 8, TaskState.FAILED, TaskState.SKIPPED)
_MOST_UPSTREAMS: Final = 4
_TIMEOUT_S: Final = 50.0
_MODULUS: Final = 1_000_003
"""Values are sums, kept small."""


@attrs.frozen(kw_only=True)
class TaskShape:
    """What a generated task is and does."""

    number: int
    """Its number; its id is `t<number>`."""
    upstream: tuple[int, ...]
    """Its direct upstreams, all with lower numbers."""
    rule: TriggerRule
    """Its trigger rule."""
    ending: TaskState
    """How it ends if it runs: success, failed or skipped."""
    failures: int
    """How many attempts fail before the one that ends it."""
    times_out: bool
    """Whether those failures are attempts that take too long."""
    reads_templates: bool
    """Whether it reads its upstreams' values by templates in its config; else it pulls them."""
    pushes: bool
    """Whether it pushes something while it runs, and so waits for the store."""
    has_outputs: bool
    """Whether it has multiple outputs."""
    pause_s: float
    """How long it works."""
    delay_s: float
    """How long it waits before it is retried."""

    @property
    def task_id(self) -> str:
        """Its id."""
        return f"t{self.number}"

    @property
    def adds_up(self) -> bool:
        """Whether its value depends on its upstreams': not where it may start before they end."""
        return self.rule not in _EAGER


@attrs.frozen(kw_only=True)
class GeneratedDag:
    """A random DAG and what a run of it must come to, however often it is interrupted and resumed."""

    dag: DAG
    """The DAG; its handlers are async functions."""
    shapes: tuple[TaskShape, ...]
    """What its tasks are, in topological order."""
    states: Mapping[str, TaskState]
    """Each task's final state."""
    state: RunState
    """The run's."""
    xcoms: Mapping[str, Mapping[str, Any]]
    """What each task that succeeds hands on in the end: mapping task_id -> {key: value}."""


def generate_dag(
    random: Random, *, max_tasks: int = 30, on_start: Callable[[TaskContext], None] = lambda _: None
) -> GeneratedDag:
    """Return a random DAG: trigger rules, retries, timeouts, failures, skips, templates, multiple outputs, values that are sums.

    The same `random` gives the same DAG.

    Args:
        random: chance.
        max_tasks: the most tasks it has.
        on_start: called by each handler as it begins.
    """
    shapes = tuple(_shape(random, number) for number in range(random.randint(1, max_tasks)))
    dag = DAG("generated")
    for shape in shapes:
        config = {f"t{above}": _template(shapes[above]) for above in shape.upstream} if shape.reads_templates else None
        dag.add(
            _handler(shapes, shape, on_start),
            id=shape.task_id,
            depends_on=[f"t{above}" for above in shape.upstream],
            trigger_rule=shape.rule,
            retries=RetryPolicy(shape.failures + 1, delay_s=shape.delay_s),
            timeout_s=_TIMEOUT_S if shape.times_out else None,
            multiple_outputs=shape.has_outputs,
            config=config,
        )
    states = _predict(shapes)
    return GeneratedDag(
        dag=dag,
        shapes=shapes,
        states={shape.task_id: state for shape, state in zip(shapes, states, strict=True)},
        state=predicted_run_state(shapes, states),
        xcoms=_predicted_xcoms(shapes, states),
    )


def _shape(random: Random, number: int) -> TaskShape:
    above = random.sample(range(number), min(number, random.choice((0, 1, 1, 2, 3, _MOST_UPSTREAMS))))
    rule = random.choice(_RULES)
    return TaskShape(
        number=number,
        upstream=tuple(sorted(above)),
        rule=rule,
        ending=random.choice(_ENDINGS),
        failures=random.choice((0, 0, 0, 0, 1, 2)),
        times_out=random.random() < 0.2,  # noqa: PLR2004 - one in five
        reads_templates=rule not in _EAGER and random.random() < 0.4,  # noqa: PLR2004 - two in five
        pushes=random.random() < 0.5,  # noqa: PLR2004 - every other
        has_outputs=random.random() < 0.3,  # noqa: PLR2004 - three in ten
        pause_s=random.choice((0.0, 0.0, random.expovariate(1.0))),
        delay_s=random.choice((0.0, random.expovariate(1.0))),
    )


# ------------------------------------------------------------------------------------------------------------- handlers


def _template(above: TaskShape) -> str:
    return f"{{{{ xcom.{above.task_id}.{_value_key(above)} | default(0) }}}}"


def _value_key(shape: TaskShape) -> str:
    return "total" if shape.has_outputs else RETURN_VALUE


def _handler(
    shapes: Sequence[TaskShape], shape: TaskShape, on_start: Callable[[TaskContext], None]
) -> Callable[[TaskContext], Any]:
    async def handler(ctx: TaskContext) -> Any:
        on_start(ctx)
        if shape.failures and await _fails(ctx, shape):
            raise ValueError("not yet")
        await _work(shape.pause_s)
        if shape.ending is TaskState.SKIPPED:
            raise Skip("as it was made to")
        if shape.pushes:
            await ctx.xcom.push("half", shape.number)
        total = (1 + shape.number + await _sum(ctx, shapes, shape)) % _MODULUS
        if shape.ending is TaskState.FAILED:
            raise RuntimeError("for good")
        return {"total": total, "name": shape.task_id} if shape.has_outputs else total

    return handler


async def _fails(ctx: TaskContext, shape: TaskShape) -> bool:
    """Count a failure where it outlives the attempt, and tell whether this one is still to fail."""
    failed: int = await ctx.xcom.pull_own("failed", default=0)
    if failed == shape.failures:
        return False
    await ctx.xcom.push("wrong", failed)
    await ctx.xcom.push("failed", failed + 1, lifetime="task")
    if shape.times_out:
        await anyio.sleep(2 * _TIMEOUT_S)
    return True


async def _work(seconds: float) -> None:
    if seconds:
        await anyio.sleep(seconds)
    else:
        await anyio.lowlevel.checkpoint()


async def _sum(ctx: TaskContext, shapes: Sequence[TaskShape], shape: TaskShape) -> int:
    if not shape.adds_up or not shape.upstream:
        return 0
    if shape.reads_templates:
        assert ctx.config is not None
        return sum(ctx.config.values())
    total = 0
    for key in (RETURN_VALUE, "total"):
        wanted = [shapes[above].task_id for above in shape.upstream if _value_key(shapes[above]) == key]
        values: dict[str, int] = await ctx.xcom.pull(wanted, key, default=0)
        total += sum(values.values())
    return total


# ---------------------------------------------------------------------------------------------------------- predictions


def predicted_state(rule: TriggerRule, above: Sequence[TaskState], ending: TaskState) -> TaskState:
    """Return a task's final state.

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


def _predict(shapes: Sequence[TaskShape]) -> list[TaskState]:
    states: list[TaskState] = []
    for shape in shapes:
        states.append(predicted_state(shape.rule, [states[above] for above in shape.upstream], shape.ending))
    return states


def predicted_run_state(shapes: Sequence[TaskShape], states: Sequence[TaskState]) -> RunState:
    """Return a run's state: failed if a leaf is; a clean-up task that succeeded leaves the judgement to its upstreams."""
    deciding = {shape.number for shape in shapes} - {above for shape in shapes for above in shape.upstream}
    for shape in reversed(shapes):
        cleans_up = shape.rule in {_Rule.ALL_DONE, _Rule.ALWAYS} and states[shape.number] is TaskState.SUCCESS
        if cleans_up and shape.upstream and shape.number in deciding:
            deciding.remove(shape.number)
            deciding.update(shape.upstream)
    return RunState.FAILED if any(states[number] in _FAILED for number in deciding) else RunState.SUCCESS


def _predicted_xcoms(shapes: Sequence[TaskShape], states: Sequence[TaskState]) -> dict[str, dict[str, Any]]:
    totals: dict[int, int] = {}
    xcoms: dict[str, dict[str, Any]] = {}
    for shape, state in zip(shapes, states, strict=True):
        if state is not TaskState.SUCCESS:
            continue
        above = sum(totals.get(number, 0) for number in shape.upstream) if shape.adds_up else 0
        total = totals[shape.number] = (1 + shape.number + above) % _MODULUS
        value: dict[str, Any] = {"total": total, "name": shape.task_id}
        xcoms[shape.task_id] = {RETURN_VALUE: value if shape.has_outputs else total}
        if shape.pushes:
            xcoms[shape.task_id]["half"] = shape.number
        if shape.has_outputs:
            xcoms[shape.task_id] |= value
        if shape.failures:
            xcoms[shape.task_id]["failed"] = shape.failures
    return xcoms
