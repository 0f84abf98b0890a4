"""What there is of a runtime while it is entered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from dagrelay.runtime.runs import Runs
    from dagrelay.runtime.services import Services
    from dagrelay.runtime.supervision import Supervisor
    from dagrelay.xcom.manager import XComManager

__all__ = ("Opened",)


@attrs.frozen(kw_only=True)
class Opened:
    """What there is while the runtime is entered."""

    services: Services
    """What its runs share."""
    manager: XComManager
    """The values, from outside."""
    runs: Runs
    """What runs."""
    supervisor: Supervisor
    """What serves them all."""
    task_group: TaskGroup
    """Where all of it lives."""
