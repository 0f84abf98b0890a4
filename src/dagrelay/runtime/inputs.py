"""What an attempt reads before its handler starts: all references of its signature, templates and config, in one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dagrelay.model.missing import MISSING
from dagrelay.stores.base import Lookup
from dagrelay.templates import missing_key_hint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dagrelay.dag.plan import Read
    from dagrelay.errors import XComNotFoundError
    from dagrelay.templates import Expression
    from dagrelay.xcom.cache import Encoded
    from dagrelay.xcom.task_xcom import RunData

__all__ = ("Inputs", "at_hand", "fetch")


def at_hand(data: RunData, reads: tuple[Read, ...]) -> tuple[dict[Read, Encoded | None], list[Read]]:
    """Return the encoded values of `reads` that are in memory, None for the others, and those others, for `fetch`."""
    instances, slots_seen, get = data.instances, data.book.slots_seen, data.broker.cache.get
    found: dict[Read, Encoded | None] = {}
    missing: list[Read] = []
    for read in reads:
        instance = instances[read.index]
        slots = slots_seen(instance)
        value = found[read] = get((instance, slots[0], read.key)) if slots else None
        if value is None:
            missing.append(read)
    return found, missing


async def fetch(data: RunData, reads: Sequence[Read]) -> Iterable[tuple[Read, Encoded | None]]:
    """Return the encoded values of `reads`, None where there is none, from the store as well.

    Cancellation: nothing is left behind.
    """
    instances, book = data.instances, data.book
    wanted = [
        Lookup(instance=instances[read.index], key=read.key, slots=book.slots_seen(instances[read.index])) for read in reads
    ]
    return zip(reads, await data.broker.find(wanted), strict=True)


class Inputs:
    """The values at hand of one attempt, as the template scope and the reader that binding asks for.

    A parameter gets a copy of its own; templates, which only read, share one.
    """

    def __init__(
        self,
        data: RunData,
        values: Mapping[Read, Encoded | None],
        *,
        params: Mapping[str, Any],
        facts: Mapping[tuple[str, str], Any],
    ) -> None:
        """Take encoded `values`, the run's `params`, and `facts`: (root, name) -> value for `run.` and `task.`."""
        self._data = data
        self._decode = data.door.registry.decode
        self._values = values
        self._params = params
        self._facts = facts
        self._shared: dict[tuple[str, str], Any] = {}

    def read(self, read: Read) -> Any:
        """Return a fresh copy of a value, or MISSING."""
        found = self._values.get(read)
        return MISSING if found is None else self._decode(found.serializer, found.value)

    def get(self, expression: Expression) -> Any:
        """Return what an expression of a template starts from, or MISSING."""
        match expression.root:
            case "xcom":
                return self._xcom(expression.task_id, expression.key)
            case "params":
                return self._params.get(expression.names[0], MISSING)
            case root:
                return self._facts.get((root, expression.names[0]), MISSING)

    def _xcom(self, task_id: str, key: str) -> Any:
        place = (task_id, key)
        if place not in self._shared:
            index = self._data.plan.index[task_id]
            self._shared[place] = next((self.read(read) for read in self._values if read == (index, key)), MISSING)
        return self._shared[place]

    def read_missing(self, read: Read) -> XComNotFoundError:
        """Return the error for a reference whose value is not there."""
        return self._data.not_found(read.index, read.key)

    def expression_missing(self, expression: Expression) -> XComNotFoundError | None:
        """Return the error for an expression whose value is not there; None if it is there, and has nothing at its path."""
        if expression.root != "xcom" or self.get(expression) is not MISSING:
            return None
        where = f"the template needs {{{{ {expression.source} }}}}"
        hint = missing_key_hint(expression)
        index = self._data.plan.index[expression.task_id]
        return self._data.not_found(index, expression.key, hint=f"{where}; {hint}" if hint else where)
