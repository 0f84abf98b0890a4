"""Reading handlers: what they are, and what their annotations mean where they are written."""

# ruff: noqa: UP037, UP045 - annotations are written here as people write them

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ForwardRef, Generic, Optional, TypeAlias, TypeVar

import pytest

from dagrelay.dag.definition import DAG
from dagrelay.dag.inputs import ContextInput, ParamInput
from dagrelay.dag.signatures import AnnotationError, HandlerError, local_names, name_of, read_signature
from dagrelay.model.injected import Injected
from dagrelay.model.missing import MISSING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date as One  # noqa: N812 - these are there for checkers only
    from datetime import time as Two  # noqa: N812 - as above
    from datetime import tzinfo as Lost  # noqa: N812 - as above

    from dagrelay import TaskContext
    from dagrelay.dag.plan import PlannedTask

T = TypeVar("T")


@dataclass
class Row:
    """Stands at the top of the module."""

    v: float
    """A number."""


class OwnContext(Injected):
    """Is injected, under a name of its own."""


if TYPE_CHECKING:
    Alias: TypeAlias = "list[Row]"
else:
    Alias = "list[Row]"


def planned(handler: Callable[..., Any], **options: Any) -> PlannedTask:
    """Return a handler as a task."""
    dag = DAG("d")
    dag.add(handler, id="task", **options)
    return dag.plan().tasks[0]


def annotations_of(task: PlannedTask) -> dict[str, Any]:
    """Return the types that a task's params are structured into."""
    return {each.name: each.annotation for each in task.inputs if isinstance(each, ParamInput)}


# ---------------------------------------------------------------------------------------------------------- annotations


def test_annotations_are_resolved_among_the_names_of_the_module() -> None:
    """Classes, containers, aliases written as text, and None."""

    async def take(
        a: Row, b: list[Row], *, c: Alias, d: Row | None, e: Optional[int], f: None, g: int, h: "list['Row']"
    ) -> None: ...

    assert annotations_of(planned(take)) == {
        "a": Row,
        "b": list[Row],
        "c": list[Row],
        "d": Row | None,
        "e": Optional[int],
        "f": type(None),
        "g": int,
        "h": list[Row],
    }


def test_annotations_are_resolved_among_the_names_of_the_place_of_decoration() -> None:
    """A class defined in a function is known to handlers beside it."""
    dag = DAG("d")

    @dataclass
    class Local:
        v: int

    @dag.task
    async def bare(a: Local) -> list[Local]:
        return [a]

    @dag.task(retries=1)
    async def with_options(a: Local) -> Local:
        return a

    async def added(a: list[Local]) -> Local:
        return a[0]

    dag.add(added)

    plan = dag.plan()
    assert [annotations_of(task) for task in plan.tasks] == [{"a": Local}, {"a": Local}, {"a": list[Local]}]
    assert [task.return_type for task in plan.tasks] == [list[Local], Local, Local]


def test_annotations_are_resolved_among_the_names_of_the_closure() -> None:
    """Wherever the handler is decorated."""

    @dataclass
    class Local:
        v: int

    def make() -> Any:
        async def take(a: Local) -> Any:
            return Local(a.v)

        return take

    assert annotations_of(planned(make())) == {"a": Local}


def test_a_name_without_value_in_the_closure_is_passed_over() -> None:
    """It may get one later."""

    async def take(a: int) -> Any:
        return (a, later)

    task = planned(take)
    later = 1

    assert annotations_of(task) == {"a": int}
    assert later == 1


def test_only_names_that_annotations_speak_of_are_kept() -> None:
    """A large local is not kept alive by a task."""

    async def take(a: list[One], b: Two | None) -> None: ...

    assert local_names(take, {"One": 1, "Two": 2, "Three": 3, "list": 4}) == {"One": 1, "Two": 2, "list": 4}
    assert local_names(3, {"One": 1}) == {}


def test_each_annotation_is_resolved_alone() -> None:
    """One that can't be does not hide the others."""
    signature = read_signature(lost_and_found, {})
    lost, found = signature.parameters

    assert signature.resolve(found.annotation) is Row
    with pytest.raises(AnnotationError, match="the annotation 'Lost' can't be resolved: name 'Lost' is not defined"):
        signature.resolve(lost.annotation)
    with pytest.raises(AnnotationError, match=r"the annotation '1 \+' can't be resolved: SyntaxError: "):
        signature.resolve("1 +")
    assert signature.resolve(ForwardRef("Row")) is Row
    assert signature.return_type == "Lost"


async def lost_and_found(a: Lost, b: Row) -> Lost:
    """Speak of a name that is there for checkers only."""
    assert b
    return a


def test_annotations_that_are_no_text_mean_themselves() -> None:
    """Text inside them is resolved."""

    async def take(a: Any, b: Any, c: Any, d: Any) -> None: ...

    take.__annotations__ = {"a": Row, "b": list["Row"], "c": dict[str, int], "return": int}

    task = planned(take)

    assert annotations_of(task) == {"a": Row, "b": list[Row], "c": dict[str, int], "d": MISSING}
    assert task.return_type is int


def test_a_handler_without_return_annotation_has_no_return_type() -> None:
    """None would be a type."""
    assert planned(lambda: 1).return_type is MISSING
    assert planned(lost_and_found, bind={"a": 1, "b": 2}).return_type == "Lost"


# -------------------------------------------------------------------------------------------------------------- context


@pytest.mark.parametrize("text", ["TaskContext", "dagrelay.TaskContext", "OwnContext"])
def test_the_context_is_known_by_its_class_or_name(text: str) -> None:
    """Also where it is imported for checkers only, by whatever way."""

    async def take(a: Any, where: Any) -> None: ...

    take.__annotations__ = {"where": text}

    assert planned(take, bind={"a": 1}).inputs[1] == ContextInput(name="where")


def test_the_context_is_known_by_the_class_itself() -> None:
    """Where annotations are no text."""

    async def take(where: TaskContext, other: OwnContext) -> None: ...

    take.__annotations__ = {"where": OwnContext, "other": "TaskContext"}

    assert planned(take).inputs == (ContextInput(name="where"), ContextInput(name="other"))


def test_a_class_of_the_same_name_is_no_context() -> None:
    """It is a type like any other."""
    dag = DAG("d")

    @dataclass
    class TaskContext:
        v: int

    @dag.task
    async def take(a: TaskContext) -> None: ...

    assert annotations_of(dag.plan().tasks[0]) == {"a": TaskContext}


# ------------------------------------------------------------------------------------------------------------- handlers


def wrapped(handler: Any) -> Any:
    """Return a handler in a wrapper that passes all arguments on."""

    @functools.wraps(handler)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await handler(*args, **kwargs)

    return wrapper


async def plain(a: Row) -> list[Row]:
    """Return a row in a list."""
    return [a]


class Holder(Generic[T]):
    """Has handlers for methods."""

    async def method(self, a: Row) -> list[Row]:
        """Return a row in a list."""
        return [a]

    @staticmethod
    async def static(a: Row) -> list[Row]:
        """Return a row in a list."""
        return [a]

    @classmethod
    async def of_class(cls, a: Row) -> list[Row]:
        """Return a row in a list."""
        return [a]

    async def __call__(self, a: Row) -> list[Row]:
        """Return a row in a list."""
        return [a]


@functools.cache
def cached(a: Row) -> list[Row]:
    """Return a row in a list."""
    return [a]


@pytest.mark.parametrize(
    "handler",
    [
        plain,
        wrapped(plain),
        Holder[int]().method,
        Holder.static,
        staticmethod(plain),
        Holder.of_class,
        Holder[int](),
        functools.partial(plain),
        functools.partial(Holder[int]().method),
        cached,
        DAG("d").task(plain),
    ],
)
def test_every_kind_of_handler_is_read(handler: Any) -> None:
    """Its own parameters, return type and first line, by the names of its own module."""
    task = planned(handler)

    assert annotations_of(task) == {"a": Row}
    assert task.return_type == list[Row]
    assert task.description == "Return a row in a list."
    assert task.is_async == (handler is not cached)


def test_what_is_built_in_can_be_a_handler() -> None:
    """If Python can tell its signature."""
    task = planned(len, bind={"obj": [1]})

    assert (task.is_async, task.positional, task.return_type) == (False, 1, MISSING)
    with pytest.raises(HandlerError, match="its signature can't be read"):
        read_signature(iter, {})


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (plain, "plain"),
        (functools.partial(plain), "plain"),
        (Holder[int]().method, "method"),
        (lambda: 1, None),
        (Holder[int](), None),
    ],
)
def test_a_handler_has_the_name_it_was_written_with(handler: Any, name: str | None) -> None:
    """Not one made up."""
    assert name_of(handler) == name
