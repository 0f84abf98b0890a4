"""What the broker has done and holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from dagrelay.actors.mailbox import MailboxStatistics
    from dagrelay.xcom.cache import CacheStatistics

__all__ = ("BrokerStatistics",)


@attrs.frozen(kw_only=True)
class BrokerStatistics:
    """What the broker has done and holds."""

    mailbox: MailboxStatistics
    """Operations accepted and not yet taken into a batch."""
    reader: MailboxStatistics
    """Lookups not yet read."""
    cache: CacheStatistics
    """Values at hand."""
    batches: int
    """Batches committed."""
    operations: int
    """Operations committed."""
    pending_bytes: int
    """Bytes of values accepted and not yet committed."""
    live_runs: int
    """Runs running in this runtime."""
