"""The error for an entry that the store does not have, with all that is known of where it should be."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from dagrelay.errors import XComNotFoundError
from dagrelay.model.states import TaskState

if TYPE_CHECKING:
    from dagrelay.model.records import InstanceKey
    from dagrelay.stores.base import Store

__all__ = ("not_found",)


async def not_found(store: Store, instance: InstanceKey, key: str, *, hint: str = "") -> XComNotFoundError:
    """Return the error for a missing entry, with the state of the task or element and the keys or tasks that are near."""
    run_id, task_id, map_index = instance
    # Without the key itself, which elements may have where the task as a whole has not.
    keys = {entry.key for entry, _ in await store.entries(run_id, task_ids=[task_id])} - {key}
    image = await store.load_run(run_id)
    tasks = () if image is None else image.plan.task_ids
    if task_id in tasks:
        known = await store.instances(run_id, task_id=task_id)
        states = [each.state for each in known if each.instance == instance]
        state = str(states[0] if states else TaskState.PENDING)
        near = get_close_matches(key, sorted(keys))
        if map_index is None and any(each.length is not None for each in known):
            hint = f"it is mapped, and not all of its elements have it{'; ' if hint else ''}{hint}"
        return XComNotFoundError(run_id, task_id, key, map_index=map_index, state=state, near=near, hint=hint)
    if image is None:
        hint = f"there is no run {run_id!r}{'; ' if hint else ''}{hint}"
    near = get_close_matches(key, sorted(keys)) if keys else get_close_matches(task_id, tasks)
    return XComNotFoundError(run_id, task_id, key, map_index=map_index, near=near, hint=hint)
