"""The library's logger: structlog events on the stdlib logger `dagrelay`, silent until the application listens.

Events have constant dotted names and carry ids, sizes and states; they never carry values. The library configures neither
structlog nor logging: a bare `structlog.get_logger()` would print to the user's stdout, so the stdlib logger is wrapped here and
only here.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    import structlog

__all__ = ("LOGGER_NAME", "get_logger", "is_debug")

LOGGER_NAME = "dagrelay"

_stdlib = logging.getLogger(LOGGER_NAME)
_stdlib.addHandler(logging.NullHandler())

# What `logging` takes out of an event by itself is not in the way.
_RESERVED = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"}) - {"exc_info", "stack_info"}


def _rename_reserved(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Give facts named like a log record's own (`name`, `args`, `module`) an underscore: `logging` would raise, if it is on."""
    return {f"{key}_" if key in _RESERVED else key: value for key, value in event.items()}


@cache
def _wrapped() -> structlog.stdlib.BoundLogger:
    import structlog  # noqa: PLC0415 - imported late: with rich installed it takes long, and most processes log nothing

    processors: list[Any] = [
        structlog.stdlib.filter_by_level,
        structlog.contextvars.merge_contextvars,
        _rename_reserved,
        structlog.stdlib.render_to_log_kwargs,
    ]
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        _stdlib, processors=processors, wrapper_class=structlog.stdlib.BoundLogger, cache_logger_on_first_use=False
    )
    return logger


def get_logger(**bound: object) -> structlog.stdlib.BoundLogger:
    """Return the library's logger with `bound` on every event it writes."""
    return _wrapped().bind(**bound)


def is_debug() -> bool:
    """Tell whether per-task events would be seen; asked before building one, as two events double a task's cost."""
    return _stdlib.isEnabledFor(logging.DEBUG)
