"""Tasks as the user holds them: what they hand on, the edges between them, and their handlers as plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from dagrelay.dag.nesting import holds_marker
from dagrelay.dag.references import NamedTask, ReferenceParts, XComRef, each, make_reference
from dagrelay.ids import check_key
from dagrelay.model.missing import MISSING
from dagrelay.templates import RETURN_VALUE

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = (
    "AsyncTask",
    "BranchDecorator",
    "Choice",
    "ShortCircuitDecorator",
    "SyncTask",
    "Task",
    "TaskDecorator",
    "outside_handler",
    "several",
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
D = TypeVar("D")
Followers = TypeVar("Followers", bound="Task[Any] | Iterable[Task[Any]]")


Choice: TypeAlias = "Task[Any] | str | Iterable[Task[Any] | str] | None"
"""What the handler of a branch returns."""


class _Chains(Protocol):
    """What a task asks of its DAG."""

    def chain(self, *steps: NamedTask | str | Iterable[NamedTask | str]) -> None:
        """Make each step wait for the one before."""
        ...


def several(step: Any) -> tuple[Any, ...]:
    """Return one thing, or all of an iterable of them, as a tuple."""
    return tuple(step) if _are_several(step) else (step,)


def _are_several(step: object) -> bool:
    return isinstance(step, Iterable) and not isinstance(step, str)


class Task(NamedTask, Generic[R_co]):
    """A task whose handler returns R. Tasks are made by `@dag.task` or `dag.add`.

    `task.output`, as the default of another handler's parameter, wires the two together; `a >> b` makes `b` wait for `a`
    without handing anything on.
    """

    def __init__(self, dag: _Chains, task_id: str, handler: Callable[..., Any]) -> None:
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

    @property
    def outputs(self) -> list[R_co]:
        """What the handler of a mapped task returns for each element, as a list by map index, whatever their number.

        An element that failed or was skipped keeps its place, and reading it is an error; see `outputs_or`.
        """
        return cast("list[R_co]", self._reference(is_gathered=True))

    def outputs_or(self, default: D) -> list[R_co | D]:
        """Return the outputs, with `default` in the place of each element that failed or was skipped."""
        if holds_marker(default):
            raise TypeError(f"outputs_or() of task {self.id!r} takes a constant, not {default!r}")
        return cast("list[R_co | D]", self._reference(default=default, is_gathered=True))

    @property
    def each(self: Task[Sequence[T]]) -> T:
        """One element of what the handler returns: `each(task.output)`, which see."""
        return each(self.output)

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

    def _reference(self, key: str = RETURN_VALUE, default: Any = MISSING, *, is_gathered: bool = False) -> XComRef[Any]:
        return make_reference(ReferenceParts(task=self, key=key, default=default, is_gathered=is_gathered))

    def _draw(self, leaders: Any, followers: Any, result: Any) -> Any:
        ends = [several(leaders), several(followers)]
        if not all(isinstance(end, Task) for group in ends for end in group):
            return NotImplemented
        cast("_Chains", self.owner).chain(*ends)
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


class BranchDecorator:
    """What `@dag.branch(...)` with options returns: it makes the task."""

    def __init__(self, declare: Callable[[Any], Task[Any]]) -> None:
        """Take what makes a task of a handler."""
        self._declare = declare

    @overload
    def __call__(self, handler: Callable[P, Coroutine[Any, Any, Choice]], /) -> AsyncTask[P, list[str]]: ...
    @overload
    def __call__(self, handler: Callable[P, Choice], /) -> SyncTask[P, list[str]]: ...
    def __call__(self, handler: Any, /) -> Any:
        """Declare a branch whose handler is the function decorated."""
        return self._declare(handler)


class ShortCircuitDecorator:
    """What `@dag.short_circuit(...)` with options returns: it makes the task."""

    def __init__(self, declare: Callable[[Any], Task[Any]]) -> None:
        """Take what makes a task of a handler."""
        self._declare = declare

    # A coroutine is an object too; the overlap is meant, as the first match wins.
    @overload
    def __call__(self, handler: Callable[P, Coroutine[Any, Any, object]], /) -> AsyncTask[P, bool]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, handler: Callable[P, object], /) -> SyncTask[P, bool]: ...
    def __call__(self, handler: Any, /) -> Any:
        """Declare a task whose handler is the function decorated."""
        return self._declare(handler)


def outside_handler(as_type: Any) -> Callable[[], Coroutine[Any, Any, Any]]:
    """Return what stands in the place of a handler where the value comes from outside: it has the value's type, and no use."""

    async def value_from_outside() -> Any:
        raise TypeError("it has no handler to call: its value comes from outside, by runtime.provide()")

    value_from_outside.__annotations__["return"] = as_type
    value_from_outside.__doc__ = None
    return value_from_outside
