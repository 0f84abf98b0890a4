"""What the runs of one runtime share, made when it is entered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    import anyio

    from dagrelay.model.policies import Durability, Limits, MissingPolicy
    from dagrelay.runtime.admission import Admission
    from dagrelay.runtime.attempt import Attempt
    from dagrelay.runtime.environment import Environment
    from dagrelay.runtime.hosting import Hosting
    from dagrelay.runtime.retention import Retention
    from dagrelay.runtime.timers import Timers
    from dagrelay.stores.base import Store
    from dagrelay.xcom.broker import Broker
    from dagrelay.xcom.door import Door

__all__ = ("Services",)


@attrs.frozen(kw_only=True)
class Services:
    """What the runs of one runtime share."""

    store: Store
    """The store."""
    broker: Broker
    """The broker."""
    door: Door
    """Values in and out."""
    admission: Admission[Attempt]
    """Slots."""
    hosting: Hosting
    """Hosts."""
    timers: Timers
    """Timeouts and retries."""
    threads: anyio.CapacityLimiter
    """Worker threads."""
    environment: Environment
    """Clock and chance."""
    limits: Limits
    """Limits."""
    missing: MissingPolicy
    """What a missing value means."""
    durability: Durability
    """When dependants start."""
    retention: Retention
    """How much of the history is kept."""
