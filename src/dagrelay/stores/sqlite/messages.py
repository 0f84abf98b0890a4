"""What other processes may ask of a store's owner: frozen messages, and the JSON they travel in.

The owner trusts none of it: the shape is strict, ids are checked, and a value is data like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, assert_never

import attrs

from dagrelay.errors import InvalidIdError
from dagrelay.ids import check_run_id, check_task_id
from dagrelay.serializers.json import STANDARD, encode_json

if TYPE_CHECKING:
    from dagrelay.model.policies import Limits

__all__ = (
    "CancelMessage",
    "InboxMessage",
    "ProvideMessage",
    "RetryMessage",
    "decode_message",
    "encode_message",
    "most_message_bytes",
)

_FORM_BYTES: Final = 4096
"""What a message may weigh beside its value."""


@attrs.frozen(kw_only=True)
class ProvideMessage:
    """Give a task that waits for it the value from outside."""

    run_id: str = attrs.field(converter=check_run_id)
    """The run."""
    task_id: str = attrs.field(converter=check_task_id)
    """The task."""
    value: Any
    """The value, as plain JSON; that of an approval is a mapping of `approved`, `by` and `note`."""


@attrs.frozen(kw_only=True)
class CancelMessage:
    """End a run as cancelled."""

    run_id: str = attrs.field(converter=check_run_id)
    """The run."""


@attrs.frozen(kw_only=True)
class RetryMessage:
    """Run a task and all downstream of it again."""

    run_id: str = attrs.field(converter=check_run_id)
    """The run."""
    task_id: str = attrs.field(converter=check_task_id)
    """The task."""


InboxMessage: TypeAlias = ProvideMessage | CancelMessage | RetryMessage


def encode_message(message: InboxMessage, limits: Limits) -> bytes:
    """Return a message as JSON.

    Raises:
        XComSerializationError: JSON can't say the value exactly.
        XComTooLargeError: the value is over the limit.
    """
    match message:
        case ProvideMessage(run_id=run_id, task_id=task_id, value=value):
            # Looked at for itself, so that an error tells of the value's own path and size.
            encode_json(value, max_bytes=limits.max_xcom_bytes, max_depth=limits.max_depth, what=f"the value for {task_id!r}")
            form: dict[str, Any] = {"ask": "provide", "run_id": run_id, "task_id": task_id, "value": value}
        case CancelMessage(run_id=run_id):
            form = {"ask": "cancel", "run_id": run_id}
        case RetryMessage(run_id=run_id, task_id=task_id):
            form = {"ask": "retry", "run_id": run_id, "task_id": task_id}
        case _ as never:
            assert_never(never)
    return encode_json(form, max_depth=limits.max_depth + 1)


def most_message_bytes(limits: Limits) -> int:
    """Return what a message may weigh whose value keeps to the limits."""
    return limits.max_xcom_bytes + _FORM_BYTES


def decode_message(data: bytes) -> InboxMessage:
    """Return the message that JSON says.

    Raises:
        ValueError: it is none; the text says what is wrong, and nothing of the content.
    """
    try:
        form = STANDARD.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON, or nested too deep") from None
    try:
        match form:
            case {"ask": "provide", "run_id": run_id, "task_id": task_id, "value": value, **rest} if not rest:
                return ProvideMessage(run_id=run_id, task_id=task_id, value=value)
            case {"ask": "cancel", "run_id": run_id, **rest} if not rest:
                return CancelMessage(run_id=run_id)
            case {"ask": "retry", "run_id": run_id, "task_id": task_id, **rest} if not rest:
                return RetryMessage(run_id=run_id, task_id=task_id)
            case _:
                raise ValueError("it asks for nothing that there is, or not in the form it should")
    except InvalidIdError as error:
        raise ValueError(f"it holds an invalid {error.kind}") from None
