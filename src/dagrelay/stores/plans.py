"""What a stored plan says, for those who have a run without its DAG; or that it says nothing that can be understood."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

from dagrelay.dag.plan import TaskKind, parse_body, parse_leaders
from dagrelay.errors import StoreCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay.stores.base import RunImage

__all__ = ("stored_leaders", "stored_tasks")

T = TypeVar("T")

_Tasks: TypeAlias = tuple[tuple[str, TaskKind, tuple[str, ...]], ...]


def stored_tasks(store: str, image: RunImage) -> _Tasks:
    """Return the tasks of a run, in topological order: id, kind, and the ids of the direct upstreams.

    Raises:
        StoreCorruptError: the stored plan is none.
    """
    return _understood(store, image, parse_body)


def stored_leaders(store: str, image: RunImage) -> dict[str, tuple[str, ...]]:
    """Return, by task id, whom tasks of a run follow by `after_start`; for the rest see `stored_tasks`."""
    return _understood(store, image, parse_leaders)


def _understood(store: str, image: RunImage, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(image.plan.body)
    except (LookupError, ValueError, TypeError, RecursionError) as error:
        run_id = image.stored.run.run_id
        raise StoreCorruptError(store, f"the plan of run {run_id!r} can't be understood: {error!r}") from error
