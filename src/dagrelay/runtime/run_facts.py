"""What all attempts of one run share beside its values, and what is kept of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextvars import Context

    import anyio

    from dagrelay.dag.mapping import Elements
    from dagrelay.model.policies import MissingPolicy
    from dagrelay.model.records import ErrorRecord
    from dagrelay.runtime.environment import Environment
    from dagrelay.runtime.timers import Timers
    from dagrelay.xcom.run_data import RunData

__all__ = ("RunFacts", "TaskEnd")


@attrs.frozen(kw_only=True)
class RunFacts:
    """What all attempts of one run share beside its data."""

    data: RunData
    """Its values."""
    params: Mapping[str, Any]
    """Its params, defaults included."""
    started_us: int
    """When it was recorded."""
    missing: MissingPolicy
    """What a missing value means in a template, where the task does not say."""
    max_chars: int
    """Characters that a rendered text may have."""
    max_map_length: int
    """Elements that a mapped task may have."""
    elements: dict[int, Elements] = attrs.field(factory=dict[int, "Elements"])
    """What tasks expanded in this part of the run are mapped over, by topological index."""
    context: Context
    """The context variables of whoever started it."""
    environment: Environment
    """Clock and chance."""
    timers: Timers
    """Timeouts."""
    threads: anyio.CapacityLimiter
    """Worker threads for sync handlers."""


class TaskEnd(NamedTuple):
    """How a task's latest attempt, or the task without one, ended."""

    attempt: int
    """The attempt; 0 if there was none."""
    started_us: int | None
    """When it started."""
    ended_us: int | None
    """When it ended; None if its owner died."""
    error: ErrorRecord | None
    """Why it ended badly."""
