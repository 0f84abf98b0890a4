"""Values that JSON does not know: they come back as they were."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import attrs
import pytest

from dagrelay import (
    DAG,
    Runtime,
    TaskContext,
    XComTypeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Store


class Colour(Enum):
    """An Enum."""

    RED = "red"


@attrs.frozen
class Inner:
    """An attrs class."""

    at: dt.datetime
    by_number: dict[int, str]


@dataclass
class Everything:
    """What JSON does not know."""

    inner: Inner
    when: dt.date
    took: dt.timedelta
    id: UUID
    price: Decimal
    colour: Colour
    path: Path
    raw: bytes
    tags: set[str]


EVERYTHING = Everything(
    inner=Inner(at=dt.datetime(2030, 1, 1, tzinfo=dt.UTC), by_number={1: "one"}),
    when=dt.date(2030, 1, 1),
    took=dt.timedelta(seconds=1.5),
    id=UUID(int=5),
    price=Decimal("1.10"),
    colour=Colour.RED,
    path=Path("/a/b"),
    raw=b"\x00\xff",
    tags={"a"},
)


async def test_typed_values_come_back_as_they_were(open_store: Callable[[], Store]) -> None:
    """Through an annotation, a Task, `as_type`, and from the result."""
    dag = DAG("d")

    @dag.task
    async def make() -> Everything:
        return EVERYTHING

    @dag.task
    async def use(ctx: TaskContext, value: Everything = make.output) -> Everything:
        assert value == EVERYTHING
        assert await ctx.xcom.pull(make) == EVERYTHING
        assert await ctx.xcom.pull("make", as_type=Everything) == EVERYTHING
        assert isinstance(await ctx.xcom.pull("make"), dict)
        with pytest.raises(XComTypeError, match=r"@ \$"):
            await ctx.xcom.pull("make", as_type=Inner)
        return value

    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
        assert result[use] == EVERYTHING
        assert await result.pull(make) == EVERYTHING
