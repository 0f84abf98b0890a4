"""Exceptions of handlers as records: text that can be stored, whatever the exception does when it is asked."""

from __future__ import annotations

import traceback
from pathlib import PurePath
from typing import Final

from dagrelay.model.records import ErrorRecord

__all__ = ("error_record",)

_MAX_TRACEBACK_CHARS: Final = 20_000
_OWN_FOLDER: Final = str(PurePath(__file__).parent.parent)


def error_record(error: BaseException) -> ErrorRecord:
    """Return an exception as text: from the handler's frame on, bounded, and safe from a failing `__str__`."""
    try:
        message = str(error)
    except BaseException as failure:  # noqa: ASYNC103, BLE001 - a hostile __str__ must not hide the error being told, nor end its host
        message = f"(its __str__ raised {type(failure).__name__})"
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        trace = trace.tb_next
    try:
        # Without a frame of the user's there is nothing to trace: the message says it all.
        lines = [] if trace is None else traceback.format_exception(type(error), error, trace)
    except BaseException:  # noqa: ASYNC103, BLE001 - as above
        lines = []
    text = "".join(lines)
    if len(text) > _MAX_TRACEBACK_CHARS:
        text = f"{text[: _MAX_TRACEBACK_CHARS // 2]}\n[...]\n{text[-_MAX_TRACEBACK_CHARS // 2 :]}"
    return ErrorRecord(
        type=type(error).__qualname__, message=_storable(message[:_MAX_TRACEBACK_CHARS]), traceback=_storable(text)
    )


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()  # A lone surrogate is no text that a store can keep.
