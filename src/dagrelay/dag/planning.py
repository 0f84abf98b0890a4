"""From what the user wrote to a plan, or to every problem with it at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import attrs

from dagrelay.dag.binding import Binding, BindingPlace, bind_handler
from dagrelay.dag.graph import cycles, downstream_of, topological_order
from dagrelay.dag.inputs import Expansion, Input, ParamInput, PlannedAxis, Read, ReferenceInput
from dagrelay.dag.nesting import holds_marker
from dagrelay.dag.options import DEFAULT_NAMES, TaskSettings, settings_of, unknown_options
from dagrelay.dag.plan import OUTSIDE_KINDS, Plan, PlannedTask, TaskKind, body_of
from dagrelay.dag.references import NamedTask
from dagrelay.dag.signatures import HandlerError, HandlerSignature, read_signature
from dagrelay.errors import DAGValidationError
from dagrelay.model.missing import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dagrelay.model.policies import Limits

__all__ = ("Declaration", "Edge", "Written", "compile_plan")

_MOST_COMPARISONS: Final = 20_000
"""Ids compared in search of near ones, over all problems of a DAG: about a second."""
_SKIMMED_AT_THE_COST_OF_ONE: Final = 100
_LONGEST_CYCLE_SHOWN: Final = 12
_RETURNED: Final[Mapping[TaskKind, Any]] = {TaskKind.BRANCH: list[str], TaskKind.SHORT_CIRCUIT: bool}
"""What tasks hand on whose handlers return something else."""


@attrs.frozen(kw_only=True, eq=False)
class Declaration:
    """A task as the user declared it."""

    task: NamedTask
    """Its id and DAG."""
    handler: Any
    """What was given as its handler."""
    options: Mapping[str, Any]
    """Its options, as given, with `depends_on` as a tuple."""
    names: Mapping[str, Any]
    """Local names of the place of its declaration that its annotations speak of."""
    kind: TaskKind = TaskKind.PLAIN
    """What sort of task it was declared as."""


Edge = tuple[NamedTask | str, NamedTask | str]
"""Upstream and downstream, each a task or an id."""


@attrs.frozen(kw_only=True, eq=False)
class Written:
    """A DAG as the user wrote it."""

    owner: object
    """The DAG itself, by which its tasks are told from another's."""
    dag_id: str
    """Its id."""
    tags: tuple[str, ...]
    """Its tags."""
    params: Mapping[str, Any]
    """Defaults of run params."""
    max_concurrency: int | None
    """How many attempts of one run go on at once."""
    defaults: Mapping[str, Any]
    """Task options."""
    declarations: Sequence[Declaration]
    """Its tasks, in order of declaration; ids may be there twice."""
    edges: Sequence[Edge]
    """Edges drawn by `>>` and `chain`."""


@attrs.frozen(kw_only=True, eq=False)
class _Draft:
    """A task between declaration and plan; tasks are given by position."""

    task_id: str
    kind: TaskKind
    handler: Any
    signature: HandlerSignature
    binding: Binding
    settings: TaskSettings


def compile_plan(written: Written, limits: Limits) -> Plan:
    """Return the plan of a DAG; about 20 us a task.

    Raises:
        DAGValidationError: with every problem found.
    """
    return _Planner(written, limits).plan()


class _Planner:
    """Works through the tasks once, gathering problems on the way."""

    def __init__(self, written: Written, limits: Limits) -> None:
        self._written = written
        self._problems: list[str] = []
        self._positions: dict[str, int] = {}
        for position, declaration in enumerate(written.declarations):
            self._positions.setdefault(declaration.task.id, position)
        self._near = _NearIds(self._positions)
        self._place = BindingPlace(owner=written.owner, positions=self._positions, near=self._near.hint, limits=limits)
        self._default_settings = TaskSettings()
        # Handlers are often shared by many tasks, above all in generated graphs.
        self._signatures: dict[int, HandlerSignature | HandlerError] = {}
        self._bindings: dict[int, Binding] = {}

    def plan(self) -> Plan:
        self._check_dag()
        drafts = [self._draft(declaration) for declaration in self._written.declarations]
        drafts = self._with_lists_gathered(drafts)
        upstream = self._upstream(drafts)
        after_start = self._after_start(upstream)
        # A follower stands after those it follows, as it does after its upstreams.
        above = upstream if not after_start else [_merged(nodes, after_start.get(at, ())) for at, nodes in enumerate(upstream)]
        order = topological_order(above)
        if len(order) < len(above):
            self._problems += [self._told_cycle(cycle) for cycle in cycles(above)]
        if self._problems:
            raise DAGValidationError(self._written.dag_id, list(dict.fromkeys(self._problems)))
        return _assemble(self._written, [draft for draft in drafts if draft is not None], upstream, after_start, order)

    # ------------------------------------------------------------------------------------------------------- checks

    def _check_dag(self) -> None:
        written, problems = self._written, self._problems
        unknown = unknown_options(written.defaults, DEFAULT_NAMES)
        if unknown:
            problems.append(f"defaults: {unknown}")
        found: list[str] = []
        self._default_settings = settings_of(written.defaults, self._default_settings, found)
        problems += [f"defaults: {problem}" for problem in found]
        limit: Any = written.max_concurrency
        if limit is not None and (type(limit) is not int or limit < 1):
            problems.append(f"max_concurrency={limit!r}: it must be a whole number >= 1, or None")
        problems += [f"tag {tag!r} is no text" for tag in written.tags if not _is_text(tag)]
        for name, value in written.params.items():
            if not _is_text(name):
                problems.append(f"params: the name {name!r} is no text")
            if holds_marker(value):
                problems.append(f"params: the default of {name!r} is known only when a run gets there; use a constant")
        seen: set[str] = set()
        for declaration in written.declarations:
            task_id = declaration.task.id
            if task_id in seen:
                problems.append(f"task id {task_id!r} is used more than once; tell them apart by id=")
            seen.add(task_id)

    def _told_cycle(self, cycle: list[int]) -> str:
        ids = [self._written.declarations[position].task.id for position in cycle]
        if len(ids) > _LONGEST_CYCLE_SHOWN:
            head, tail = ids[: _LONGEST_CYCLE_SHOWN - 2], ids[-2:]
            ids = [*head, f"({len(ids) - len(head) - len(tail):,} more)", *tail]
        return f"tasks depend on each other in a cycle: {' -> '.join([*ids, ids[0]])}"

    # ------------------------------------------------------------------------------------------------------- tasks

    def _draft(self, declaration: Declaration) -> _Draft | None:
        task_id, options = declaration.task.id, declaration.options
        problems: list[str] = []
        base = TaskSettings() if declaration.kind in OUTSIDE_KINDS else self._default_settings
        settings = settings_of(options, base, problems) if options else base
        draft = None
        signature = self._signature(declaration)
        if isinstance(signature, HandlerError):
            problems.append(str(signature))
        else:
            binding = self._binding(declaration, signature, settings, problems)
            kind = declaration.kind
            if binding.expansion is not None:
                if kind is not TaskKind.PLAIN:
                    problems.append(f"a {kind.value.replace('_', '-')} can't be mapped; let it decide once, over the whole list")
                kind = TaskKind.MAPPED
            elif settings.max_concurrency is not None and "max_concurrency" in options:
                problems.append("max_concurrency is of the elements of a mapped task, and it is mapped over nothing")
            draft = _Draft(
                task_id=task_id,
                kind=kind,
                handler=declaration.handler,
                signature=signature,
                binding=binding,
                settings=settings,
            )
        if problems:
            self._problems += [f"task {task_id!r}: {problem}" for problem in problems]
        return draft

    def _signature(self, declaration: Declaration) -> HandlerSignature | HandlerError:
        place = id(declaration.handler)
        known = None if declaration.names else self._signatures.get(place)
        if known is None:
            try:
                known = read_signature(declaration.handler, declaration.names)
            except HandlerError as error:
                known = error
            if not declaration.names:
                self._signatures[place] = known
        return known

    def _binding(
        self, declaration: Declaration, signature: HandlerSignature, settings: TaskSettings, problems: list[str]
    ) -> Binding:
        bind: Any = declaration.options.get("bind") or {}
        if not isinstance(bind, Mapping):
            problems.append(f"bind={bind!r}: it must be a mapping of parameter names")
            bind = {}
        is_shared = not bind and settings.config is None and not declaration.names
        place = id(declaration.handler)
        if is_shared and place in self._bindings:
            return self._bindings[place]
        found: list[str] = []
        binding = bind_handler(
            self._place, signature, bind=cast("Mapping[str, Any]", bind), config=settings.config, problems=found
        )
        if is_shared and not found:
            self._bindings[place] = binding
        problems += found
        return binding

    def _with_lists_gathered(self, drafts: list[_Draft | None]) -> list[_Draft | None]:
        """Return drafts in which templates read the list of a mapped task; check that references ask for what there is."""
        mapped = {position for position, draft in enumerate(drafts) if draft is not None and draft.kind is TaskKind.MAPPED}
        gathered = list(drafts)
        for position, draft in enumerate(drafts):
            if draft is None:
                continue
            binding = draft.binding
            for read in binding.referred:
                if (read.index in mapped) is not read.is_gathered and drafts[read.index] is not None:
                    self._problems.append(self._told_misread(draft.task_id, read))
            if mapped:
                self._problems += [
                    self._told_misread(draft.task_id, read) for read in _earlier_of(binding) if read.index in mapped
                ]
                expansion = binding.expansion
                reads = _gathered(binding.reads, mapped)
                if expansion is not None:
                    expansion = attrs.evolve(expansion, reads=_gathered(expansion.reads, mapped))
                gathered[position] = attrs.evolve(draft, binding=attrs.evolve(binding, reads=reads, expansion=expansion))
        return gathered

    def _told_misread(self, task_id: str, read: Read) -> str:
        other = self._written.declarations[read.index].task.id
        if read.is_previous:
            return (
                f"task {task_id!r} reads what task {other!r} had in an earlier run, and it is mapped; in the handler read it by "
                f"ctx.xcom.of_run(run_id).pull_outputs({other!r})"
            )
        if read.is_gathered:
            return f"task {task_id!r} reads the outputs of task {other!r}, which is not mapped; read its .output"
        return (
            f"task {task_id!r} reads the output of task {other!r}, which is mapped and has a list of them; read its .outputs, "
            f"or map over them by each({other}.outputs)"
        )

    # ------------------------------------------------------------------------------------------------------- edges

    def _upstream(self, drafts: Sequence[_Draft | None]) -> list[tuple[int, ...]]:
        """Return the direct upstreams of each task, by position, rising."""
        sets = [{read.index for read in _reads_of(draft.binding)} if draft is not None else set[int]() for draft in drafts]
        for position, declaration in enumerate(self._written.declarations):
            for end in declaration.options.get("depends_on", ()):
                above = self._locate(end, f"task {declaration.task.id!r}: depends_on names")
                if above is not None:
                    sets[position].add(above)
        for ends in self._written.edges:
            above, below = (self._locate(end, "an edge drawn by >> or chain() leads to") for end in ends)
            if above is not None and below is not None:
                sets[below].add(above)
        for position, nodes in enumerate(sets):
            if position in nodes:
                nodes.discard(position)
                self._problems.append(f"task {self._written.declarations[position].task.id!r} depends on itself")
        return [tuple(sorted(nodes)) if len(nodes) > 1 else tuple(nodes) for nodes in sets]

    def _after_start(self, upstream: Sequence[tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        """Return, of each task that follows others once they have started, these others, by position, rising."""
        found: dict[int, tuple[int, ...]] = {}
        for position, declaration in enumerate(self._written.declarations):
            ends = declaration.options.get("after_start", ())
            if not ends:
                continue
            task_id = declaration.task.id
            located = {self._locate(end, f"task {task_id!r}: after_start names") for end in ends} - {None, *upstream[position]}
            if position in located:
                self._problems.append(f"task {task_id!r}: after_start names the task itself")
                located.discard(position)
            found[position] = tuple(sorted(cast("set[int]", located)))
        return found

    def _locate(self, end: NamedTask | str, where: str) -> int | None:
        """Return the position of a task given by itself or its id; None, and a problem, if the DAG does not have it."""
        match end:
            case NamedTask():
                if end.owner is self._written.owner:
                    return self._positions[end.id]
                self._problems.append(f"{where} task {end.id!r} of another DAG")
            case str():
                if end in self._positions:
                    return self._positions[end]
                self._problems.append(f"{where} task {end!r}, which is not in the DAG{self._near.hint(end)}")
            case _:
                self._problems.append(f"{where} {end!r}, which is neither a task nor an id")
        return None


class _NearIds:
    """Looks for ids like a wrong one, as long as that does not take too long."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._hints: dict[str, str] = {"": ""}
        self._left = _MOST_COMPARISONS

    def hint(self, wrong: str) -> str:
        if wrong not in self._hints:
            near: list[str] = []
            if self._left > 0:
                # Most slips of the pen leave one end of a word; looking at the ends is far cheaper than comparing.
                alike = [known for known in self._ids if known[0] == wrong[0] or known[-1] == wrong[-1]][: self._left]
                self._left -= len(alike) + len(self._ids) // _SKIMMED_AT_THE_COST_OF_ONE
                near = get_close_matches(wrong, alike)
            self._hints[wrong] = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        return self._hints[wrong]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# ------------------------------------------------------------------------------------------------------------ assembly


def _gathered(reads: tuple[Read, ...], mapped: set[int]) -> tuple[Read, ...]:
    return tuple(dict.fromkeys(read._replace(is_gathered=read.index in mapped) for read in reads))


def _reads_of(binding: Binding) -> tuple[Read, ...]:
    return binding.reads if binding.expansion is None else (*binding.reads, *binding.expansion.reads)


def _earlier_of(binding: Binding) -> tuple[Read, ...]:
    return binding.earlier if binding.expansion is None else (*binding.earlier, *binding.expansion.earlier)


def _merged(some: tuple[int, ...], others: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*some, *others})) if others else some


def _assemble(
    written: Written,
    drafts: list[_Draft],
    upstream: list[tuple[int, ...]],
    after_start: dict[int, tuple[int, ...]],
    order: list[int],
) -> Plan:
    """Return the plan of drafts without problems: from positions in order of definition to topological indices."""
    index_of = list(range(len(order)))
    is_moved = order != index_of
    if is_moved:
        for index, position in enumerate(order):
            index_of[position] = index
        upstream = [tuple(sorted(index_of[above] for above in upstream[position])) for position in order]
    renumber = _renumber(index_of) if is_moved else _as_it_is
    leaders = {index_of[at]: tuple(sorted(index_of[each] for each in ends)) for at, ends in after_start.items()}
    tasks = tuple(
        _planned(index, drafts[position], renumber(drafts[position].binding), upstream[index], leaders.get(index, ()))
        for index, position in enumerate(order)
    )
    required, named = _params_of(tasks, drafts, written.params)
    downstream = tuple(map(tuple, downstream_of(upstream)))
    body = body_of((task.task_id, task.kind, task.upstream, task.after_start) for task in tasks)
    return Plan(
        dag_id=written.dag_id,
        tags=written.tags,
        tasks=tasks,
        task_ids=tuple(task.task_id for task in tasks),
        index=MappingProxyType({task.task_id: task.index for task in tasks}),
        downstream=downstream,
        followers=MappingProxyType(_followers(leaders)),
        leaves=tuple(index for index, below in enumerate(downstream) if not below),
        max_concurrency=written.max_concurrency,
        params=written.params,
        required_params=MappingProxyType(required),
        param_names=frozenset(named),
        typed_params=tuple(
            (task.task_id, each)
            for task in tasks
            for each in task.inputs
            if isinstance(each, ParamInput) and each.annotation is not MISSING
        ),
        body=body,
        fingerprint=hashlib.sha256(body).hexdigest(),
    )


def _followers(leaders: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for follower in sorted(leaders):
        for leader in leaders[follower]:
            found[leader] = (*found.get(leader, ()), follower)
    return found


def _planned(index: int, draft: _Draft, binding: Binding, upstream: tuple[int, ...], after_start: tuple[int, ...]) -> PlannedTask:
    signature, settings = draft.signature, draft.settings
    return PlannedTask(
        index=index,
        task_id=draft.task_id,
        kind=draft.kind,
        handler=draft.handler,
        is_async=signature.is_async,
        upstream=upstream,
        inputs=binding.inputs,
        positional=binding.positional,
        config=binding.config,
        reads=binding.reads,
        earlier=binding.earlier,
        wholes=binding.wholes,
        expansion=binding.expansion,
        needs_context=binding.needs_context,
        has_templates=binding.has_templates,
        return_type=_RETURNED.get(draft.kind, signature.return_type),
        trigger_rule=settings.trigger_rule,
        retry=settings.retry,
        timeout_s=settings.timeout_s,
        auto_push=settings.auto_push,
        multiple_outputs=settings.multiple_outputs,
        missing=settings.missing,
        serializer=settings.serializer,
        description=signature.description if settings.description is None else settings.description,
        pool=settings.pool,
        priority=settings.priority,
        max_concurrency=settings.max_concurrency,
        after_start=after_start,
    )


def _as_it_is(binding: Binding) -> Binding:
    return binding


def _renumber(index_of: Sequence[int]) -> Callable[[Binding], Binding]:
    """Return what gives a binding's reads by topological index instead of position."""

    def moved(read: Read) -> Read:
        return read._replace(index=index_of[read.index])

    def moved_inputs(inputs: Iterable[Input]) -> tuple[Input, ...]:
        return tuple(attrs.evolve(each, read=moved(each.read)) if isinstance(each, ReferenceInput) else each for each in inputs)

    def moved_expansion(expansion: Expansion) -> Expansion:
        axes = tuple(PlannedAxis(sources=moved_inputs(axis.sources), is_zipped=axis.is_zipped) for axis in expansion.axes)
        reads, earlier = tuple(map(moved, expansion.reads)), tuple(map(moved, expansion.earlier))
        return Expansion(axes=axes, reads=reads, earlier=earlier)

    def renumber(binding: Binding) -> Binding:
        if not _reads_of(binding) and not _earlier_of(binding):
            return binding
        return attrs.evolve(
            binding,
            inputs=moved_inputs(binding.inputs),
            reads=tuple(map(moved, binding.reads)),
            earlier=tuple(map(moved, binding.earlier)),
            expansion=None if binding.expansion is None else moved_expansion(binding.expansion),
        )

    return renumber


def _params_of(
    tasks: Iterable[PlannedTask], drafts: Iterable[_Draft], params: Mapping[str, Any]
) -> tuple[dict[str, str], set[str]]:
    """Return the run params that must be given, each with the first task that needs it, and all that may be given."""
    required: dict[str, str] = {}
    named = set(params)
    for task in tasks:
        for each in task.inputs:
            if isinstance(each, ParamInput):
                named.add(each.param)
                if each.default is MISSING and each.param not in params:
                    required.setdefault(each.param, task.task_id)
    for draft in drafts:
        named |= draft.binding.params
    return required, named
