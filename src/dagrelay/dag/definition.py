"""What the user writes: a DAG, and tasks made from functions whose signatures are the wiring."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from itertools import pairwise, product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from dagrelay.dag.nesting import holds_marker
from dagrelay.dag.options import OPTION_NAMES, TaskDefaults, TaskOptions, unknown_options
from dagrelay.dag.params import complete_params
from dagrelay.dag.planning import Declaration, Edge, Written, compile_plan
from dagrelay.dag.references import NamedTask, ReferenceParts, XComRef, make_reference
from dagrelay.dag.signatures import is_async, local_names, name_of
from dagrelay.errors import InvalidIdError
from dagrelay.ids import check_dag_id, check_key, check_task_id
from dagrelay.model.missing import MISSING
from dagrelay.model.policies import Limits
from dagrelay.templates import RETURN_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.dag.plan import Plan

__all__ = ("DAG", "AsyncTask", "SyncTask", "Task", "TaskDecorator")

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
D = TypeVar("D")
Followers = TypeVar("Followers", bound="Task[Any] | Iterable[Task[Any]]")

_LIMITS: Final = Limits()


class Task(NamedTask, Generic[R_co]):
    """A task whose handler returns R. Tasks are made by `@dag.task` or `dag.add`.

    `task.output`, as the default of another handler's parameter, wires the two together; `a >> b` makes `b` wait for `a`
    without handing anything on.
    """

    def __init__(self, dag: DAG, task_id: str, handler: Callable[..., Any]) -> None:
        """Take its place and its function; use `@dag.task` or `dag.add` instead."""
        super().__init__(task_id, dag)
        self.handler: Final = handler
        self._signature: inspect.Signature | None = None
        self.__doc__ = handler.__doc__
        self.__wrapped__: Final = handler  # So that `help` and `inspect.signature` show the handler's parameters.

    @property
    def output(self) -> R_co:
        """What the handler returns; an `XComRef` until a run gets there, so that items and attributes lead into it."""
        return cast("R_co", self._reference())

    def output_or(self, default: D) -> R_co | D:
        """Return the output, or `default` where there is none, as the task was skipped or failed."""
        if holds_marker(default):
            raise TypeError(f"output_or() of task {self.id!r} takes a constant, not {default!r}")
        return cast("R_co", self._reference(default=default))

    def xcom(self, key: str) -> Any:
        """Return what the task pushes under a key, as a reference like `output`.

        Raises:
            InvalidIdError: the key is not legal.
        """
        return self._reference(check_key(key))

    @property
    def ref(self) -> XComRef[R_co]:
        """The same as `output`, typed as the reference it is."""
        return self._reference()

    def __rshift__(self, followers: Followers) -> Followers:
        """Make tasks wait for this one, as in `extract >> [clean, count]`; return them."""
        return cast("Followers", self._draw((self,), followers, followers))

    def __lshift__(self, leaders: Followers) -> Followers:
        """Make this task wait for others; return them."""
        return cast("Followers", self._draw(leaders, (self,), leaders))

    def __rrshift__(self, leaders: Iterable[Task[Any]]) -> Task[R_co]:
        """Make this task wait for several, as in `[clean, count] >> report`; return it."""
        return cast("Task[R_co]", self._draw(leaders, (self,), self))

    def __rlshift__(self, followers: Iterable[Task[Any]]) -> Task[R_co]:
        """Make several tasks wait for this one; return it."""
        return cast("Task[R_co]", self._draw((self,), followers, self))

    def __repr__(self) -> str:
        """Return its id and DAG."""
        return f"<task {self.id!r} of {self.owner!r}>"

    def _reference(self, key: str = RETURN_VALUE, default: Any = MISSING) -> XComRef[Any]:
        return make_reference(ReferenceParts(task=self, key=key, default=default))

    def _draw(self, leaders: Any, followers: Any, result: Any) -> Any:
        ends = [_several(leaders), _several(followers)]
        if not all(isinstance(end, Task) for several in ends for end in several):
            return NotImplemented
        cast("DAG", self.owner).chain(*ends)
        return result

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the handler as the plain function it is, which has no run to fill its parameters from."""
        if self._signature is None:
            self._signature = inspect.signature(self.handler)
        given = self._signature.bind(*args, **kwargs).arguments
        for name, parameter in self._signature.parameters.items():
            if name not in given and holds_marker(parameter.default):
                raise TypeError(
                    f"{self.id}() is called as a plain function and lacks argument {name!r}: only a run fills it from its "
                    f"default, {parameter.default!r}"
                )
        return self.handler(*args, **kwargs)


class AsyncTask(Task[R_co], Generic[P, R_co]):
    """A task whose handler is awaited in the runtime's loop."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the handler as the plain function it is, in a unit test say.

        Raises:
            TypeError: an argument is left out whose default is a reference or template.
        """
        return cast("Coroutine[Any, Any, R_co]", self._call(args, kwargs))


class SyncTask(Task[R_co], Generic[P, R_co]):
    """A task whose handler runs in a worker thread."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the handler as the plain function it is, in a unit test say.

        Raises:
            TypeError: an argument is left out whose default is a reference or template.
        """
        return cast("R_co", self._call(args, kwargs))


class TaskDecorator:
    """What `@dag.task(...)` with options returns: it makes the task."""

    def __init__(self, declare: Callable[[Any], Task[Any]]) -> None:
        """Take what makes a task of a handler."""
        self._declare = declare

    # A coroutine function is also a Callable[P, R]; the overlap is meant, as the first match wins.
    @overload
    def __call__(self, handler: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, handler: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, handler: Any, /) -> Any:
        """Declare a task whose handler is the function decorated."""
        return self._declare(handler)


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

    def chain(self, *steps: NamedTask | str | Iterable[NamedTask | str]) -> None:
        """Make each step wait for the one before, as in `dag.chain(a, [b, c], d)`.

        Args:
            steps: a task, an id, or several of them; every one of a step waits for every one of the step before.
        """
        several = [_several(step) for step in steps]
        for above, below in pairwise(several):
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

    def _declare(self, handler: Any, task_id: str | None, options: TaskOptions) -> Task[Any]:
        if isinstance(handler, Task):
            handler = handler.handler
        task_id = _task_id(handler) if task_id is None else check_task_id(task_id)
        kind = cast("type[Task[Any]]", AsyncTask if is_async(handler) else SyncTask)
        task = kind(self, task_id, handler)
        # Annotations may name locals of whoever called the public method that called this. At the top of a module these are the
        # globals, which the handler knows by itself.
        frame = sys._getframe(2)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - there is no other way that is as cheap
        is_inner = frame.f_locals is not frame.f_globals
        self._declarations.append(
            Declaration(
                task=task,
                handler=handler,
                options=_settled(options),
                names=local_names(handler, frame.f_locals) if is_inner else {},
            )
        )
        self._tasks.setdefault(task_id, task)
        self._plan = None
        return task


def _several(step: Any) -> tuple[Any, ...]:
    return tuple(step) if _is_several(step) else (step,)


def _is_several(step: Any) -> bool:
    return isinstance(step, Iterable) and not isinstance(step, str)


def _check_options(called: str, options: TaskOptions) -> None:
    problem = unknown_options(options, OPTION_NAMES)
    if problem:
        raise TypeError(f"{called}(): {problem}")


def _settled(options: TaskOptions) -> Mapping[str, Any]:
    """Return options so that what is done later to the objects given changes no wiring."""
    settled: dict[str, Any] = dict(options)
    if "depends_on" in settled:
        settled["depends_on"] = _several(settled["depends_on"])
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
