"""The plan: a DAG compiled once, immutable, in topological order, ready to be run many times."""

from __future__ import annotations

import json
from bisect import bisect_left
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import attrs

from dagrelay.dag.inputs import Read as Read  # noqa: PLC0414 - a public name of this module
from dagrelay.model.missing import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dagrelay.dag.inputs import Expansion, Input, ParamInput, ReferenceInput
    from dagrelay.model.policies import MissingPolicy, RetryPolicy
    from dagrelay.model.states import TriggerRule
    from dagrelay.templates import Tree

__all__ = ("CHOOSING_KINDS", "OUTSIDE_KINDS", "Plan", "PlannedTask", "Read", "TaskKind", "body_of", "parse_body", "parse_leaders")

_REMEMBERED_PAIRS = 4096


class TaskKind(StrEnum):
    """What sort of task it is, as far as its place in a run goes."""

    PLAIN = "plain"
    """One instance, whose handler returns a value."""
    MAPPED = "mapped"
    """One instance for each element of a list."""
    BRANCH = "branch"
    """Its handler names the downstreams to follow."""
    SHORT_CIRCUIT = "short_circuit"
    """Its handler says whether anything downstream is run."""
    EXTERNAL = "external"
    """Its value arrives from outside."""
    APPROVAL = "approval"
    """Its value is somebody's consent."""


OUTSIDE_KINDS: Final = frozenset({TaskKind.EXTERNAL, TaskKind.APPROVAL})
"""Kinds of tasks that have no handler, as their values come from outside."""

CHOOSING_KINDS: Final = frozenset({TaskKind.BRANCH, TaskKind.SHORT_CIRCUIT})
"""Kinds of tasks that say which of their direct downstreams are followed."""


@attrs.frozen(kw_only=True, eq=False)
class PlannedTask:
    """A task of a plan."""

    index: int
    """Its topological index."""
    task_id: str
    """Its id."""
    kind: TaskKind = TaskKind.PLAIN
    """What sort of task it is."""
    handler: Callable[..., Any]
    """What is called."""
    is_async: bool
    """Whether the handler is awaited; else it runs in a worker thread."""
    upstream: tuple[int, ...]
    """Its direct upstreams, rising."""
    inputs: tuple[Input, ...]
    """How the handler's parameters are filled."""
    positional: int = 0
    """How many of the inputs, from the first, are passed by position."""
    config: Tree | None = None
    """Its config with templates compiled; None if it has none."""
    reads: tuple[Read, ...] = ()
    """What is fetched before the handler runs: all entries of the run that inputs and config read, each once."""
    earlier: tuple[Read, ...] = ()
    """What is fetched of earlier runs before the handler runs, each entry once."""
    wholes: tuple[ReferenceInput, ...] = ()
    """Its inputs, where each of them is the whole of one entry of the run and nothing else is read; else none."""
    expansion: Expansion | None = None
    """How a mapped task gets its elements; None for every other."""
    needs_context: bool
    """Whether a parameter gets the context."""
    has_templates: bool
    """Whether inputs or config have a template in them."""
    return_type: Any = MISSING
    """The handler's return annotation; its text where that can't be resolved, MISSING where there is none."""
    trigger_rule: TriggerRule
    """When it starts."""
    retry: RetryPolicy
    """How often it is tried."""
    timeout_s: float | None
    """Seconds for each attempt; None for no limit."""
    auto_push: bool
    """Whether its return value is pushed."""
    multiple_outputs: bool
    """Whether the items of its return value are pushed too."""
    missing: MissingPolicy | None
    """What a missing value means in its templates; None is as the runtime has it."""
    serializer: str | None
    """Name of its serializer; None is the runtime's own."""
    description: str
    """A few words for people."""
    pool: str | None = None
    """The pool that each attempt takes a slot of."""
    priority: int = 0
    """Who goes first among those that wait for a slot."""
    max_concurrency: int | None = None
    """How many elements of a mapped task run at once; None for no limit of its own."""
    after_start: tuple[int, ...] = ()
    """Tasks whose first attempt must have started before this one may, rising; none of them is among `upstream`."""


@attrs.frozen(kw_only=True, eq=False)
class Plan:
    """A DAG, compiled. Two plans are equal only if they are the same object; compare fingerprints for their shape."""

    dag_id: str
    """The DAG."""
    tags: tuple[str, ...]
    """The DAG's tags."""
    tasks: tuple[PlannedTask, ...]
    """Its tasks in topological order; among those free to go first, in order of definition."""
    task_ids: tuple[str, ...]
    """Their ids, in the same order."""
    index: Mapping[str, int]
    """Topological index by task id."""
    downstream: tuple[tuple[int, ...], ...]
    """For each task its direct downstreams, rising."""
    followers: Mapping[int, tuple[int, ...]]
    """For each task that others follow by `after_start` these others, rising."""
    leaves: tuple[int, ...]
    """The tasks without downstreams, rising."""
    max_concurrency: int | None
    """How many attempts of one run go on at once; None for as many as the runtime allows."""
    params: Mapping[str, Any]
    """Defaults of the run's params."""
    required_params: Mapping[str, str]
    """Params that a run must give, each with the first task that needs it."""
    param_names: frozenset[str]
    """All params that a run may give."""
    typed_params: tuple[tuple[str, ParamInput], ...]
    """The parameters that structure a run param into a type, each with the id of its task."""
    body: bytes
    """Its shape, canonical: JSON of [[task id, kind, [topological indices of its upstreams]], ...].

    Of a task that follows others by `after_start` their indices come after its upstreams'.
    """
    fingerprint: str
    """SHA-256 of the body, in hexadecimal."""
    usual_reads: dict[int, tuple[str, ...]] = attrs.field(factory=dict[int, "tuple[str, ...]"], init=False, repr=False)
    """What tasks, by topological index, read where all of it is there, by first attempts: kept here by those who run the plan."""
    _known_pairs: dict[tuple[int, int], bool] = attrs.field(factory=dict[tuple[int, int], bool], init=False, repr=False)

    def upstream_of(self, index: int, *, direct: bool = False) -> tuple[int, ...]:
        """Return the tasks upstream of one, or only its direct upstreams, in topological order; O(edges above it)."""
        if direct:
            return self.tasks[index].upstream
        seen: set[int] = set()
        pending = [index]
        while pending:
            for above in self.tasks[pending.pop()].upstream:
                if above not in seen:
                    seen.add(above)
                    pending.append(above)
        return tuple(sorted(seen))

    def is_upstream(self, index: int, of: int) -> bool:
        """Return whether the task at `index` is upstream of the one at `of`, directly or not.

        Cost: O(log) for direct upstreams, O(1) for pairs asked for lately, else O(edges between the two).
        """
        direct = self.tasks[of].upstream
        place = bisect_left(direct, index)
        if place < len(direct) and direct[place] == index:
            return True
        pair = (index, of)
        known = self._known_pairs.get(pair)
        if known is None:
            known = self._search(index, of)
            if len(self._known_pairs) >= _REMEMBERED_PAIRS:
                self._known_pairs.clear()
            self._known_pairs[pair] = known
        return known

    def _search(self, index: int, of: int) -> bool:
        """Search upwards; whatever stands before `index` can't be downstream of it."""
        seen: set[int] = set()
        pending = [of]
        while pending:
            for above in self.tasks[pending.pop()].upstream:
                if above == index:
                    return True
                if above > index and above not in seen:
                    seen.add(above)
                    pending.append(above)
        return False


def body_of(tasks: Iterable[tuple[str, TaskKind, tuple[int, ...], tuple[int, ...]]]) -> bytes:
    """Return the canonical body of tasks in topological order: id, kind, direct upstreams, and those they follow, by index."""
    shapes = [(*shape, leaders) if leaders else shape for *shape, leaders in tasks]
    return json.dumps(shapes, ensure_ascii=True, separators=(",", ":")).encode("ascii")


def parse_body(body: bytes) -> tuple[tuple[str, TaskKind, tuple[str, ...]], ...]:
    """Return what a stored body says, in topological order: task id, kind, and the ids of its direct upstreams."""
    tasks: list[list[Any]] = json.loads(body)
    return tuple((task[0], TaskKind(task[1]), tuple(tasks[above][0] for above in task[2])) for task in tasks)


def parse_leaders(body: bytes) -> dict[str, tuple[str, ...]]:
    """Return, by id, whom tasks follow by `after_start`, as a stored body says."""
    tasks: list[list[Any]] = json.loads(body)
    return {task[0]: tuple(tasks[leader][0] for leader in leaders) for task in tasks for leaders in task[3:]}
