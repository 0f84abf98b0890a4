"""Policies a user chooses: retries, limits, durability, what a missing value means, and options of a push."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING, Any, Literal

import attrs
from attrs import validators

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

__all__ = ("Durability", "Limits", "MissingPolicy", "Pool", "RetryPolicy", "XComOptions")

_KIB = 1024
_MIB = 1024 * 1024


class Durability(StrEnum):
    """When the tasks that depend on an outcome may start."""

    STRICT = "strict"
    """After its commit: a finished task never runs again."""
    PIPELINED = "pipelined"
    """On acceptance, while the commit is under way; what is on disk is always a causally closed prefix of the run."""


class MissingPolicy(StrEnum):
    """What a template does with a reference to a value that is not there."""

    ERROR = "error"
    """Fail, naming template, reference and the upstream's state."""
    EMPTY = "empty"
    """An empty string in text; None where the reference stands alone."""


def _as_tuple(classes: Iterable[type[BaseException]]) -> tuple[type[BaseException], ...]:
    return tuple(classes)


@attrs.frozen
class RetryPolicy:
    """How often a task is tried, and how long to wait between attempts.

    The wait before attempt n+1 is `delay_s * backoff ** (n - 1)`, at most `max_delay_s`, times a random factor in
    `[1 - jitter, 1 + jitter]`. Errors of size, serialisation and input, which no retry mends, are never retried.
    """

    max_attempts: int = attrs.field(validator=[validators.instance_of(int), validators.ge(1)])
    """Attempts in all, the first included (`retries=n` of a task is `n + 1`)."""
    delay_s: float = attrs.field(default=1.0, kw_only=True, validator=validators.ge(0))
    """Seconds before the second attempt."""
    backoff: float = attrs.field(default=2.0, kw_only=True, validator=validators.ge(1))
    """Factor from each wait to the next."""
    max_delay_s: float = attrs.field(default=60.0, kw_only=True, validator=validators.ge(0))
    """Longest wait in seconds, before jitter."""
    jitter: float = attrs.field(default=0.1, kw_only=True, validator=[validators.ge(0), validators.le(1)])
    """Share by which a wait is spread, so that tasks failing together don't come back together."""
    retry_on: tuple[type[BaseException], ...] = attrs.field(default=(Exception,), kw_only=True, converter=_as_tuple)
    """Classes of exceptions worth another attempt."""

    def delay_for(self, attempt: int, random: Random) -> float:
        """Return the seconds to wait after the failed `attempt` (from 1)."""
        try:
            delay = self.delay_s * self.backoff ** (attempt - 1)
        except OverflowError:
            delay = self.max_delay_s if self.delay_s > 0 else 0.0  # No delay times a huge factor is still no delay.
        return min(delay, self.max_delay_s) * (1 + self.jitter * (2 * random.random() - 1))


def _positive(minimum: int = 1) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    return validators.and_(validators.instance_of(int), validators.ge(minimum))


def _check_slots(_pool: Pool, attribute: attrs.Attribute[Any], value: Any) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{attribute.name} of a Pool must be a whole number >= 1, not {value!r}")


def _check_rate(_pool: Pool, _attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (type(value) not in {int, float} or not 0 < value < inf):
        raise ValueError(f"per_s of a Pool must be a number of starts a second above 0, or None for no rate, not {value!r}")


@attrs.frozen
class Pool:
    """A resource that tasks share: how many attempts use it at once, and how many start in a second.

    Name it in the runtime's limits, and have tasks take their slots from it:

        limits = Limits(pools={"database": 4, "api": Pool(2, per_s=10, burst=5)})

        @dag.task(pool="api")
        async def fetch() -> str: ...

    An attempt holds its pool's slot as long as its slot of the runtime: until it ends, or parks to wait for something.
    """

    slots: int = attrs.field(validator=_check_slots)
    """Attempts that use it at once."""
    per_s: float | None = attrs.field(default=None, kw_only=True, validator=_check_rate)
    """Attempts that start in a second, on average (a retry is a start as well); None, the default, for no rate."""
    burst: int = attrs.field(default=1, kw_only=True, validator=_check_slots)
    """Attempts that may start at once after a quiet while, where there is a rate."""


def _as_pools(pools: Mapping[str, int | Pool]) -> Mapping[str, Pool]:
    given: Any = pools
    if not isinstance(given, Mapping):
        raise TypeError(f"pools must be a mapping of names to slots or Pools, not {type(pools).__name__}")
    return {_pool_name(name): _as_pool(name, pool) for name, pool in pools.items()}


def _pool_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise TypeError(f"pools has the name {name!r}; name a pool by a text that is not empty")
    return name


def _as_pool(name: str, pool: Any) -> Pool:
    if isinstance(pool, Pool):
        return pool
    if type(pool) is not int or pool < 1:
        raise ValueError(f"pools[{name!r}] must be a Pool, or a whole number of slots >= 1, not {pool!r}")
    return Pool(pool)


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds that keep one task from taking the process down; all on by default, and an error names the one it met."""

    max_xcom_bytes: int = attrs.field(default=_MIB, validator=_positive())
    """Largest encoded value."""
    max_run_xcom_bytes: int = attrs.field(default=1024 * _MIB, validator=_positive())
    """Largest sum of a run's stored values."""
    max_depth: int = attrs.field(default=200, validator=_positive())
    """Deepest nesting of a value."""
    max_description_chars: int = attrs.field(default=2_000, validator=_positive(0))
    """Longest description of an entry."""
    max_template_chars: int = attrs.field(default=_MIB, validator=_positive())
    """Longest template text."""
    max_template_references: int = attrs.field(default=10_000, validator=_positive(0))
    """Most expressions in one template."""
    max_rendered_chars: int = attrs.field(default=8 * _MIB, validator=_positive())
    """Longest rendered text."""
    max_pending_bytes: int = attrs.field(default=32 * _MIB, validator=_positive())
    """Bytes of values accepted but not yet committed, over all runs; pushers beyond it wait."""
    mailbox_capacity: int = attrs.field(default=4096, validator=_positive())
    """Messages in a mailbox; senders beyond it wait."""
    cache_bytes: int = attrs.field(default=64 * _MIB, validator=_positive(0))
    """Encoded values kept in memory after their commit."""
    max_map_length: int = attrs.field(default=10_000, validator=_positive(0))
    """Most instances of a mapped task."""
    max_stream_window_items: int = attrs.field(default=10_000, validator=_positive())
    """Items that a task may be ahead of the slowest reader of its stream; it waits beyond that."""
    max_stream_window_bytes: int = attrs.field(default=8 * _MIB, validator=_positive())
    """Bytes of these items; one alone may be larger."""
    max_interruptions: int = attrs.field(default=20, validator=_positive(0))
    """How often a task may be interrupted before it counts as failed."""
    pools: Mapping[str, Pool] = attrs.field(factory=dict[str, Pool], converter=_as_pools)
    """What tasks share, by name; a number stands for a Pool with so many slots."""


@attrs.frozen(kw_only=True)
class XComOptions:
    """How one entry is stored."""

    serializer: str | None = None
    """Name of a serializer registered with the runtime; None takes the task's or the runtime's own."""
    max_bytes: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(0)))
    """A limit for this value, lower or higher than `Limits.max_xcom_bytes`."""
    description: str = ""
    """A few words for people."""
    lifetime: Literal["attempt", "task"] = attrs.field(default="attempt", validator=validators.in_(("attempt", "task")))
    """`attempt`: gone with the attempt if it fails; `task`: kept for the task's later attempts."""
    sensitive: bool = False
    """Mask the value in lists, logs, command line and web view (it is not encrypted)."""
