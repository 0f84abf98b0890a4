"""The options of a task, and what they come to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, TypedDict, cast

import attrs

from dagrelay.model.policies import MissingPolicy, RetryPolicy
from dagrelay.model.states import TriggerRule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dagrelay.dag.references import NamedTask

__all__ = (
    "DEFAULT_NAMES",
    "OPTION_NAMES",
    "OUTSIDE_NAMES",
    "OutsideOptions",
    "TaskDefaults",
    "TaskOptions",
    "TaskSettings",
    "settings_of",
    "unknown_options",
)


class TaskDefaults(TypedDict, total=False):
    """The options that `DAG(defaults={...})` can set for all tasks at once."""

    config: Mapping[str, Any] | None
    """A mapping whose strings are templates at any depth; the handler finds it, rendered, as `ctx.config`."""
    retries: int | RetryPolicy
    """How many further attempts a failed one gets, or a RetryPolicy; 0 by default."""
    timeout_s: float | None
    """Seconds an attempt may take; None, the default, for no limit."""
    trigger_rule: TriggerRule | str
    """When the task starts, judged on its direct upstreams; all_success by default."""
    auto_push: bool
    """Whether the return value is pushed under `return_value`; True by default."""
    multiple_outputs: bool
    """Whether each item of a returned mapping is pushed under its key, besides the whole; False by default."""
    missing: MissingPolicy | str | None
    """What a missing value means in the task's templates; None, the default, is as the runtime has it."""
    serializer: str | None
    """Name of the serializer, registered with the runtime, for what the task pushes; None is the runtime's own."""
    description: str
    """A few words for people; the first line of the handler's docstring by default."""
    pool: str | None
    """Name of one of `Limits.pools`, of whose slots each attempt takes one; None, the default, for no pool."""
    priority: int
    """Among attempts that wait for a slot, those of higher priority go first; 0 by default."""


class TaskOptions(TaskDefaults, total=False):
    """The keyword options of a task, besides its `id`."""

    depends_on: NamedTask | str | Iterable[NamedTask | str]
    """Upstream tasks, or their ids, besides those whose values are read."""
    bind: Mapping[str, Any]
    """Parameter name -> constant, reference or `template(...)`; it comes before the parameter's default."""
    after_start: NamedTask | str | Iterable[NamedTask | str]
    """Tasks whose first attempt must have started, as to read a stream of theirs; their outcomes don't matter to the trigger
    rule, but for one that ended without ever starting."""
    max_concurrency: int | None
    """How many elements of a mapped task run at once; None, the default, for as many as the runtime and the DAG allow."""


class OutsideOptions(TypedDict, total=False):
    """The keyword options of a task whose value comes from outside."""

    timeout_s: float | None
    """Seconds to wait from when the task is ready, an absolute time that survives restarts; None, the default, for no limit."""
    depends_on: NamedTask | str | Iterable[NamedTask | str]
    """Upstream tasks, or their ids."""
    trigger_rule: TriggerRule | str
    """When it begins to wait, judged on its direct upstreams; all_success by default."""
    description: str
    """A few words for people."""


DEFAULT_NAMES: Final = frozenset(TaskDefaults.__annotations__)
"""Names of the options that a DAG's `defaults` may hold."""

OPTION_NAMES: Final = frozenset(TaskOptions.__annotations__)
"""Names of the options of a task."""

OUTSIDE_NAMES: Final = frozenset(OutsideOptions.__annotations__)
"""Names of the options of a task whose value comes from outside."""


_ONE_ATTEMPT: Final = RetryPolicy(1)
_LONGEST_SHOWN: Final = 60


@attrs.frozen(kw_only=True, eq=False)
class TaskSettings:
    """What a task's options come to, checked and with defaults filled in."""

    trigger_rule: TriggerRule = TriggerRule.ALL_SUCCESS
    """When it starts."""
    retry: RetryPolicy = _ONE_ATTEMPT
    """How often it is tried."""
    timeout_s: float | None = None
    """Seconds for each attempt."""
    auto_push: bool = True
    """Whether its return value is pushed."""
    multiple_outputs: bool = False
    """Whether the items of its return value are pushed too."""
    missing: MissingPolicy | None = None
    """What a missing value means in its templates."""
    serializer: str | None = None
    """Name of its serializer."""
    description: str | None = None
    """A few words; None if it has none of its own."""
    config: Mapping[str, Any] | None = None
    """Its config, as written."""
    pool: str | None = None
    """The pool that its attempts take a slot of."""
    priority: int = 0
    """Who goes first."""
    max_concurrency: int | None = None
    """How many of its elements run at once."""


def unknown_options(names: Iterable[str], known: frozenset[str]) -> str:
    """Return a sentence on the names that are no options, with near ones; empty if all are."""
    told: list[str] = []
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            told.append(f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name))
    return f"no such option: {', '.join(told)}; there are {', '.join(sorted(known))}" if told else ""


def settings_of(options: Mapping[str, Any], base: TaskSettings, problems: list[str]) -> TaskSettings:
    """Return what options come to on top of `base`; what is wrong with them goes to `problems`, one clause each."""
    settings: dict[str, Any] = {}
    for name, value in options.items():
        check = _CHECKS.get(name)
        if check is None:
            continue  # The wiring, which is not settled here.
        try:
            settings["retry" if name == "retries" else name] = check(value)
        except (TypeError, ValueError) as error:
            problems.append(f"{name}={_shown(value)}: {error}")
    return attrs.evolve(base, **settings) if settings else base


# --------------------------------------------------------------------------------------------------------------- checks


def _retries(value: Any) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    if type(value) is not int or value < 0:
        raise TypeError("it must be a number of further attempts >= 0, or a RetryPolicy")
    return RetryPolicy(value + 1)


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise TypeError("it must be a finite number of seconds > 0, or None")
    return float(value)


def _trigger_rule(value: Any) -> TriggerRule:
    try:
        return TriggerRule(value)
    except ValueError:
        near = get_close_matches(str(value), list(TriggerRule), n=1)
        hint = f"; did you mean {str(near[0])!r}?" if near else ""
        raise ValueError(f"it must be one of {', '.join(TriggerRule)}{hint}") from None


def _missing(value: Any) -> MissingPolicy | None:
    try:
        return None if value is None else MissingPolicy(value)
    except ValueError:
        raise ValueError(f"it must be one of {', '.join(MissingPolicy)}, or None") from None


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError("it must be True or False")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("it must be text")
    return value


def _name(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise TypeError("it must be the name of a serializer, or None")
    return value


def _pool(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value):
        raise TypeError("it must be the name of a pool, or None")
    return value


def _priority(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("it must be a whole number")
    return value


def _max_concurrency(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise TypeError("it must be a whole number >= 1, or None")
    return value


def _config(value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise TypeError("it must be a mapping")
    return cast("Mapping[str, Any]", value)


_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "config": _config,
    "retries": _retries,
    "timeout_s": _timeout,
    "trigger_rule": _trigger_rule,
    "auto_push": _flag,
    "multiple_outputs": _flag,
    "missing": _missing,
    "serializer": _name,
    "description": _text,
    "pool": _pool,
    "priority": _priority,
    "max_concurrency": _max_concurrency,
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
