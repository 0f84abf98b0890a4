"""Whatever JSON can say comes back as it was, by every codec and in the same bytes."""

from __future__ import annotations

import datetime as dt
import json
import math
from dataclasses import dataclass
from decimal import Decimal  # noqa: TC003 - the converter looks it up
from typing import Any
from uuid import UUID  # noqa: TC003 - the converter looks it up

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.errors import XComSerializationError, XComTooLargeError, XComTypeError
from dagrelay.serializers import structure, unstructure
from dagrelay.serializers.exactness import type_of
from dagrelay.serializers.json import STANDARD, decode_json, encode_json, fastest_codec

CODECS = [STANDARD, fastest_codec()]

texts = st.text(st.characters(exclude_categories=["Cs"]))
integers = st.integers() | st.integers(-(2**70), 2**70) | st.sampled_from([2**63, 2**64, -(2**63), -(2**63) - 1, 10**4299])
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 5e-324, 1e16, 1e-7, 1e-4, 9999999999999998.0])
scalars = st.none() | st.booleans() | integers | floats | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30)
any_text = st.text(st.characters())
anything = st.recursive(
    scalars | st.floats() | any_text | st.binary() | st.complex_numbers() | st.just(object()),
    lambda inner: st.lists(inner) | st.dictionaries(scalars | any_text, inner) | st.tuples(inner, inner) | st.frozensets(scalars),
    max_leaves=20,
)


def is_exactly(one: Any, other: Any) -> bool:
    """Return whether two values are the same in types, signs of zero and order of keys too."""
    kind = type_of(one)
    if kind is not type_of(other):
        return False
    if kind is list:
        return len(one) == len(other) and all(map(is_exactly, one, other))
    if kind is dict:
        return list(one) == list(other) and all(is_exactly(one[key], other[key]) for key in one)
    if kind is float:
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@given(values)
def test_what_is_pushed_is_what_is_pulled(value: Any) -> None:
    """Every JSON value comes back exactly, whichever codec wrote it and whichever reads it."""
    written = [encode_json(value, codec=codec) for codec in CODECS]

    assert written[0] == written[1]
    for codec in CODECS:
        assert is_exactly(decode_json(written[0], codec=codec), value)


@given(floats)
def test_all_floats_are_written_alike(number: float) -> None:
    """Each is the shortest text that reads as itself, as Python writes it."""
    for codec in CODECS:
        assert encode_json([number], codec=codec) == f"[{number!r}]".encode()


@given(values, st.integers(0, 200))
def test_the_limit_is_exact(value: Any, limit: int) -> None:
    """A value is accepted if and only if its bytes are no more than the limit."""
    size = len(encode_json(value))

    if size <= limit:
        assert len(encode_json(value, max_bytes=limit)) == size
    else:
        with pytest.raises(XComTooLargeError) as caught:
            encode_json(value, max_bytes=limit)
        assert limit < caught.value.actual <= size


@given(anything)
def test_what_is_accepted_comes_back_and_all_else_is_one_error(value: Any) -> None:
    """There is no third way."""
    outcomes: list[Any] = []
    for codec in CODECS:
        try:
            data = encode_json(value, codec=codec)
        except XComSerializationError as error:
            outcomes.append(str(error))
        else:
            assert is_exactly(decode_json(data, codec=codec), as_lists(value))
            outcomes.append(data)

    assert outcomes[0] == outcomes[1]


def as_lists(value: Any) -> Any:
    """Return a plain value with its tuples as lists."""
    kind = type_of(value)
    if kind is list or kind is tuple:
        return [as_lists(item) for item in value]
    return {key: as_lists(item) for key, item in value.items()} if kind is dict else value


@given(st.binary() | texts.map(str.encode) | values.map(lambda value: json.dumps(value).encode()))
def test_both_codecs_read_any_bytes_alike(data: bytes) -> None:
    """They accept the same, find the same in it, and refuse the same."""
    outcomes: list[Any] = []
    for codec in CODECS:
        try:
            outcomes.append(decode_json(data, codec=codec))
        except XComSerializationError as error:
            outcomes.append(str(error))

    assert is_exactly(*outcomes)


@attrs.frozen
class Item:
    """Fields of many types."""

    at: dt.datetime
    span: dt.timedelta
    amount: Decimal
    key: UUID
    data: bytes
    by_id: dict[int, float | None]
    tags: frozenset[str]
    pair: tuple[int, dt.date]


@dataclass
class Order:
    """Nests them."""

    items: list[Item]
    note: str | None
    more: Order | None = None


offsets = st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)).filter(
    lambda offset: not offset or abs(offset) >= dt.timedelta(seconds=1)  # CPython can't read shorter ones back.
)
zones = st.none() | offsets.map(dt.timezone)
items = st.builds(
    Item,
    at=st.datetimes(timezones=zones).map(lambda moment: moment.replace(fold=0)),
    span=st.timedeltas(),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    key=st.uuids(),
    data=st.binary(),
    by_id=st.dictionaries(st.integers(), floats | st.none()),
    tags=st.frozensets(texts),
    pair=st.tuples(st.integers(), st.dates()),
)
orders = st.builds(
    Order,
    items=st.lists(items, max_size=2),
    note=texts | st.none(),
    more=st.none() | st.builds(Order, items=st.lists(items, max_size=1), note=st.none()),
)


@given(st.dictionaries(st.integers(), orders, max_size=2))
def test_typed_values_come_back_equal(value: dict[int, Order]) -> None:
    """Through the converter, JSON and the converter again."""
    declared = dict[int, Order]

    stored = encode_json(unstructure(value, declared))

    assert structure(decode_json(stored), declared) == value


kinds = st.sampled_from([int, str, bool, float, None, list[int], dict[str, int], dict[int, str], Item, Order | None, int | str])


@given(values, kinds)
def test_any_stored_value_is_of_the_type_or_one_error(value: Any, kind: Any) -> None:
    """Structuring never fails in another way, and what it accepts is written as it was."""
    try:
        found = structure(value, kind)
    except XComTypeError:
        return
    assert decode_json(encode_json(unstructure(found, kind))) == value
