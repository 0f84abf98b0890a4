"""What a handler is told of the run and attempt it runs in."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

import attrs

from dagrelay.log import get_logger
from dagrelay.model.injected import Injected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from structlog.stdlib import BoundLogger

    from dagrelay.xcom.task_xcom import TaskXCom

__all__ = ("TaskContext",)


@attrs.frozen(kw_only=True)
class TaskContext(Injected):
    """The context of one attempt; a handler gets it in the parameter annotated `TaskContext`, or a first one named `ctx`."""

    run_id: str
    """The run."""
    dag_id: str
    """The DAG."""
    task_id: str
    """The task."""
    map_index: int | None = None
    """The place in a mapped task; None if unmapped."""
    attempt: int
    """The attempt's number, from 1."""
    params: Mapping[str, Any]
    """The run's params, the DAG's defaults included, as plain JSON values; read-only."""
    config: Any
    """The task's `config` with its templates rendered; None if it has none."""
    xcom: TaskXCom
    """Push and pull values."""
    deadline: float = inf
    """When the attempt's time is up, by `anyio.current_time()`; infinite without `timeout_s`."""
    run_started_at: datetime
    """When the run was recorded (aware UTC); the same on a resume."""

    @property
    def idempotency_key(self) -> str:
        """The same string for every attempt of this task in this run, and for no other: give it to services that accept one."""
        suffix = "" if self.map_index is None else f"[{self.map_index}]"
        return f"{self.run_id}/{self.task_id}{suffix}"

    @property
    def log(self) -> BoundLogger:
        """A structlog logger on the stdlib logger `dagrelay`, with the run, task and attempt bound."""
        return get_logger(run_id=self.run_id, task_id=self.task_id, attempt=self.attempt)
