"""What the user writes: a DAG, and tasks made from functions whose signatures are the wiring."""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from itertools import pairwise, product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, Unpack, cast, overload

from dagrelay.dag.options import OPTION_NAMES, OUTSIDE_NAMES, OutsideOptions, TaskDefaults, TaskOptions, unknown_options
from dagrelay.dag.params import complete_params
from dagrelay.dag.plan import OUTSIDE_KINDS, TaskKind
from dagrelay.dag.planning import Declaration, Edge, Written, compile_plan
from dagrelay.dag.signatures import is_async, local_names, name_of
from dagrelay.dag.task import (
    AsyncTask,
    BranchDecorator,
    Choice,
    ShortCircuitDecorator,
    SyncTask,
    Task,
    TaskDecorator,
    outside_handler,
    several,
)
from dagrelay.errors import InvalidIdError
from dagrelay.ids import check_dag_id, check_task_id
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import Limits
from dagrelay.model.records import Approval

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.dag.plan import Plan
    from dagrelay.dag.references import NamedTask

__all__ = ("DAG",)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_LIMITS: Final = Limits()


class DAG:
    """Tasks and the edges between them, to be run as often as wanted.

    Args:
        dag_id: its id; runs are stored under it.
        description: a few words for people.
        tags: words by which runs are found.
        params: run param -> its default, which must be storable as JSON; read as `ctx.params`, in templates and by parameters
            of that name. A run's own come first.
        max_concurrency: how many attempts of one run go on at once; None for as many as the runtime allows.
        defaults: options for all tasks, each overridden by the task's own.
    """

    def __init__(
        self,
        dag_id: str,
        *,
        description: str = "",
        tags: Iterable[str] = (),
        params: Mapping[str, Any] | None = None,
        max_concurrency: int | None = None,
        defaults: TaskDefaults | None = None,
    ) -> None:
        """Start a DAG without tasks.

        Raises:
            InvalidIdError: the id is not legal. All else is checked when the DAG is planned.
        """
        self.dag_id: Final = check_dag_id(dag_id)
        self.description: Final = description
        self.tags: Final = (tags,) if isinstance(tags, str) else tuple(tags)
        self.params: Final = MappingProxyType(dict(params or {}))
        self.max_concurrency: Final = max_concurrency
        self.defaults: Final = MappingProxyType(dict(defaults or {}))
        self._declarations: list[Declaration] = []
        self._edges: list[Edge] = []
        self._tasks: dict[str, Task[Any]] = {}
        self._plan: tuple[Limits, Plan] | None = None

    @property
    def tasks(self) -> Mapping[str, Task[Any]]:
        """Its tasks by id, in order of definition."""
        return MappingProxyType(self._tasks)

    # A coroutine function is also a Callable[P, R]; the overlap is meant, as the first match wins.
    @overload
    def task(self, handler: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def task(self, handler: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(self, /, *, id: str | None = ..., **options: Unpack[TaskOptions]) -> TaskDecorator: ...
    def task(self, handler: Any = MISSING, /, *, id: str | None = None, **options: Unpack[TaskOptions]) -> Any:  # noqa: A002 - the public name of the option
        """Make a task of the decorated function; `@dag.task` and `@dag.task(...)` both work.

        Parameters are filled, in this order, by: the context (annotated `TaskContext`, or a first one named `ctx`); `bind`; a
        default that is a reference or a `template(...)`; the run param of that name; a plain default.

        Args:
            handler: an async function, or a plain one, which runs in a worker thread.
            id: the task's id; the function's name by default.
            **options: see `TaskOptions`.

        Raises:
            InvalidIdError: the id is not legal.
            TypeError: there is no such option. All else is checked when the DAG is planned.
        """
        _check_options("task", options)
        if handler is MISSING:
            return TaskDecorator(partial(self._declare, task_id=id, options=options))
        return self._declare(handler, id, options)

    @overload
    def add(self, handler: Task[R], *, id: str | None = ..., **options: Unpack[TaskOptions]) -> Task[R]: ...
    @overload
    def add(
        self, handler: Callable[..., Coroutine[Any, Any, R]], *, id: str | None = ..., **options: Unpack[TaskOptions]
    ) -> Task[R]: ...
    @overload
    def add(self, handler: Callable[..., R], *, id: str | None = ..., **options: Unpack[TaskOptions]) -> Task[R]: ...
    def add(self, handler: Any, *, id: str | None = None, **options: Unpack[TaskOptions]) -> Any:  # noqa: A002 - the public name of the option
        """Make a task of a function, partial, bound method or callable object, and return it.

        What `functools.partial` binds by name is no mere default: run params don't replace it.

        Args:
            handler: as for `task`; the handler of another task may be used again.
            id: the task's id; the function's name by default.
            **options: see `TaskOptions`.

        Raises:
            InvalidIdError: the id is not legal.
            TypeError: there is no such option. All else is checked when the DAG is planned.
        """
        _check_options("add", options)
        return self._declare(handler, id, options)

    # A coroutine function is also a Callable[P, Any]; the overlap is meant, as the first match wins.
    @overload
    def branch(self, handler: Callable[P, Coroutine[Any, Any, Choice]], /) -> AsyncTask[P, list[str]]: ...
    @overload
    def branch(self, handler: Callable[P, Choice], /) -> SyncTask[P, list[str]]: ...
    @overload
    def branch(self, /, *, id: str | None = ..., **options: Unpack[TaskOptions]) -> BranchDecorator: ...
    def branch(self, handler: Any = MISSING, /, *, id: str | None = None, **options: Unpack[TaskOptions]) -> Any:  # noqa: A002 - the public name of the option
        """Make a task whose handler returns the direct downstreams to follow: a task or id, several of them, or None for none.

        The others are skipped, unless they are downstream of one that is followed, and what is below them by its trigger rule.
        Tasks directly downstream wait for it, whatever their trigger rules, so that it is never too late to skip them.
        The task's value is the list of the ids followed. In a unit test, call `task.handler` to see what the handler returns.

        Args:
            handler: as for `task`.
            id: the task's id; the function's name by default.
            **options: see `TaskOptions`.

        Raises:
            InvalidIdError: the id is not legal.
            TypeError: there is no such option. That it chose a task it can't is a BranchError, and the attempt fails.
        """
        _check_options("branch", options)
        if handler is MISSING:
            return BranchDecorator(partial(self._declare, task_id=id, options=options, kind=TaskKind.BRANCH))
        return self._declare(handler, id, options, TaskKind.BRANCH)

    @overload
    def short_circuit(self, handler: Callable[P, Coroutine[Any, Any, object]], /) -> AsyncTask[P, bool]: ...  # type: ignore[overload-overlap]
    @overload
    def short_circuit(self, handler: Callable[P, object], /) -> SyncTask[P, bool]: ...
    @overload
    def short_circuit(self, /, *, id: str | None = ..., **options: Unpack[TaskOptions]) -> ShortCircuitDecorator: ...
    def short_circuit(self, handler: Any = MISSING, /, *, id: str | None = None, **options: Unpack[TaskOptions]) -> Any:  # noqa: A002 - the public name of the option
        """Make a task whose direct downstreams are skipped if its handler returns something false; its value is that truth.

        What is below them is skipped, or not, by its trigger rule. Arguments and errors are those of `branch`.
        """
        _check_options("short_circuit", options)
        if handler is MISSING:
            return ShortCircuitDecorator(partial(self._declare, task_id=id, options=options, kind=TaskKind.SHORT_CIRCUIT))
        return self._declare(handler, id, options, TaskKind.SHORT_CIRCUIT)

    @overload
    def external(self, id: str, *, as_type: type[T], **options: Unpack[OutsideOptions]) -> Task[T]: ...
    @overload
    def external(self, id: str, *, as_type: Any = ..., **options: Unpack[OutsideOptions]) -> Task[Any]: ...
    def external(self, id: str, *, as_type: Any = Any, **options: Unpack[OutsideOptions]) -> Task[Any]:  # noqa: A002 - as for task
        """Make a task whose value comes from outside: by `runtime.provide`, or `dagrelay provide` from another process.

        It has no handler and takes no slot. Once its trigger rule lets it, it waits, over restarts too; a value that came before
        is taken at once.

        Args:
            id: its id.
            as_type: what the value must be, structured strictly.
            **options: see `OutsideOptions`.

        Raises:
            InvalidIdError: the id is not legal.
            TypeError: there is no such option.
        """
        _check_options("external", options, OUTSIDE_NAMES)
        return self._declare(outside_handler(as_type), id, options, TaskKind.EXTERNAL)

    def approval(self, id: str, **options: Unpack[OutsideOptions]) -> Task[Approval]:  # noqa: A002 - as for task
        """Make a task whose value is somebody's answer, an Approval; an `external` task otherwise.

        That they did not approve fails nothing: a branch downstream, say, looks at `.approved`.
        """
        _check_options("approval", options, OUTSIDE_NAMES)
        return self._declare(outside_handler(Approval), id, options, TaskKind.APPROVAL)

    def chain(self, *steps: NamedTask | str | Iterable[NamedTask | str]) -> None:
        """Make each step wait for the one before, as in `dag.chain(a, [b, c], d)`.

        Args:
            steps: a task, an id, or several of them; every one of a step waits for every one of the step before.
        """
        groups = [several(step) for step in steps]
        for above, below in pairwise(groups):
            self._edges.extend(product(above, below))
        self._plan = None

    def plan(self, *, limits: Limits = _LIMITS) -> Plan:
        """Return the DAG compiled; the same plan again until the DAG is changed.

        Args:
            limits: how large templates may be.

        Raises:
            DAGValidationError: something is wrong; `.problems` lists everything that is.
        """
        if self._plan is None or self._plan[0] != limits:
            written = Written(
                owner=self,
                dag_id=self.dag_id,
                tags=self.tags,
                params=self.params,
                max_concurrency=self.max_concurrency,
                defaults=self.defaults,
                declarations=self._declarations,
                edges=self._edges,
            )
            self._plan = (limits, compile_plan(written, limits))
        return self._plan[1]

    def check_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the params of a run, the DAG's defaults included; names are checked here, values when they are used.

        Raises:
            DAGValidationError: names that nothing in the DAG takes, or that it needs and were not given; or a bad DAG.
        """
        return complete_params(self.plan(), params)

    def __repr__(self) -> str:
        """Return its id."""
        return f"<DAG {self.dag_id!r}>"

    def _declare(
        self, handler: Any, task_id: str | None, options: TaskOptions | OutsideOptions, kind: TaskKind = TaskKind.PLAIN
    ) -> Task[Any]:
        if isinstance(handler, Task):
            handler = handler.handler
        task_id = _task_id(handler) if task_id is None else check_task_id(task_id)
        if kind in OUTSIDE_KINDS:
            task = Task[Any](self, task_id, handler)
        else:
            task = cast("type[Task[Any]]", AsyncTask if is_async(handler) else SyncTask)(self, task_id, handler)
        # Annotations may name locals of whoever called the public method that called this. At the top of a module these are the
        # globals, which the handler knows by itself.
        frame = sys._getframe(2)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - there is no other way that is as cheap
        is_inner = frame.f_locals is not frame.f_globals
        self._declarations.append(
            Declaration(
                task=task,
                handler=handler,
                kind=kind,
                options=_settled(options),
                names=local_names(handler, frame.f_locals) if is_inner else {},
            )
        )
        self._tasks.setdefault(task_id, task)
        self._plan = None
        return task


def _check_options(called: str, options: TaskOptions | OutsideOptions, known: frozenset[str] = OPTION_NAMES) -> None:
    problem = unknown_options(options, known)
    if problem:
        raise TypeError(f"{called}(): {problem}")


def _settled(options: TaskOptions | OutsideOptions) -> Mapping[str, Any]:
    """Return options so that what is done later to the objects given changes no wiring."""
    settled: dict[str, Any] = dict(options)
    for name in ("depends_on", "after_start"):
        if name in settled:
            settled[name] = several(settled[name])
    if isinstance(settled.get("bind"), Mapping):
        settled["bind"] = dict(settled["bind"])
    return settled


def _task_id(handler: Any) -> str:
    name = name_of(handler)
    if name is None:
        raise InvalidIdError(
            "task id", getattr(handler, "__name__", handler), "the handler has no name of its own; give it an id="
        )
    return check_task_id(name)
