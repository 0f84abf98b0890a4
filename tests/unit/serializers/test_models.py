"""pydantic models and msgspec structs do their own converting, strictly, and only where the program uses them."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pydantic
import pytest

from dagrelay.errors import XComSerializationError, XComTypeError
from dagrelay.serializers import check_type, encode_json, structure, unstructure
from dagrelay.serializers.json import decode_json
from dagrelay.serializers.models import model_reader, model_writer


class User(pydantic.BaseModel):
    """A model that nests itself."""

    id: int
    joined: dt.datetime | None = None
    score: float = 0.0
    tags: set[str] = pydantic.Field(default_factory=set[str])
    by_id: dict[int, str] = pydantic.Field(default_factory=dict[int, str])
    alias: str = pydantic.Field(default="x", alias="other-name")
    friends: list[User] = pydantic.Field(default_factory=list[Any])


class Admin(User):
    """A model with a field more."""

    rights: int = 0


class Account(msgspec.Struct):
    """A struct that nests itself."""

    id: int
    joined: dt.datetime | None = None
    score: float = 0.0
    data: bytes = b""
    amount: Decimal = Decimal(0)
    key: UUID = UUID(int=0)
    by_id: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    parent: Account | None = None


class Owner(Account):
    """A struct with a field more."""

    share: int = 0


class Handled(msgspec.Struct):
    """A struct with a field msgspec can't write."""

    value: object


@dataclass
class Holder:
    """A dataclass of models."""

    users: list[User]
    account: Account


NOW = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
USER: dict[str, Any] = {"id": 1, "joined": NOW, "tags": {"a"}, "by_id": {1: "x"}, "other-name": "y", "friends": [User(id=2)]}
ACCOUNT: dict[str, Any] = {"joined": NOW, "data": b"\xff", "amount": Decimal("1.10"), "key": UUID(int=9), "by_id": {1: "x"}}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (User(**USER), User),
        (Account(1, **ACCOUNT, parent=Account(2)), Account),
        (Holder([User(**USER)], Account(1, **ACCOUNT)), Holder),
        ((User(id=1), Admin(id=2, rights=3)), tuple[User, Admin]),
        ({1: User(id=1)}, dict[int, User]),
        (Account(1), Account | None),
    ],
    ids=lambda item: str(item)[:20],
)
def test_a_model_comes_back_under_its_type(value: Any, kind: Any) -> None:
    """By itself, and inside of other types."""
    check_type(kind)

    stored = decode_json(encode_json(unstructure(value, kind)))

    assert structure(stored, kind) == value


@pytest.mark.parametrize(
    ("value", "kind", "reason", "path"),
    [
        ({"id": "1"}, User, "User: Input should be a valid integer", "$.id"),
        ({"id": 1.0}, User, "User: Input should be a valid integer", "$.id"),
        ({}, User, "User: Field required", "$.id"),
        ({"id": 1, "friends": [{"id": 1}, {"id": None}]}, User, "Input should be a valid integer", "$.friends[1].id"),
        (5, User, "User: Input should be an object", "$"),
        ([{"id": 1}, {"id": True}], list[User], "valid integer", "$[1].id"),
        ({"id": "1"}, Account, "Account: Expected `int`, got `str`", "$.id"),
        ({}, Account, "missing required field `id`", "$"),
        ({"id": 1, "parent": {"id": 1.5}}, Account, "Expected `int`, got `float`", "$.parent.id"),
        (5, Account, "Expected `object`, got `int`", "$"),
        ({"users": [{"id": 1}], "account": {"id": None}}, Holder, "Expected `int`, got `null`", "$.account.id"),
    ],
)
def test_models_are_strict_and_errors_have_paths(value: Any, kind: Any, reason: str, path: str) -> None:
    """Their errors become ours, with the path inside of the whole value."""
    with pytest.raises(XComTypeError, match=reason) as caught:
        structure(value, kind)

    assert caught.value.path == path


@pytest.mark.parametrize(
    ("value", "declared", "reason", "path"),
    [
        ([User(id=1, score=math.nan)], Any, "nan is no number JSON knows", "$[0].score"),
        (Account(1, score=math.inf), Any, "inf is no number JSON knows", "$.score"),
        ([Admin(id=1)], list[User], "declared as .*User and is a .*Admin", "$[0]"),
        ([Owner(1)], list[Account], "declared as .*Account and is a .*Owner", "$[0]"),
        (Handled(object()), Any, "can't be made plain: TypeError", "$"),
    ],
    ids=lambda item: str(item)[:20],
)
def test_what_a_model_could_not_bring_back_is_refused(value: Any, declared: Any, reason: str, path: str) -> None:
    """Neither NaN nor the fields of a subclass get lost."""
    with pytest.raises(XComSerializationError, match=reason) as caught:
        encode_json(unstructure(value, declared))

    assert caught.value.path == path


def test_other_classes_are_no_models() -> None:
    """They are asked for everything the library does not know itself."""
    assert model_writer(Holder) is None
    assert model_reader(Holder) is None
    assert model_reader("User") is None


def test_libraries_that_are_not_loaded_are_not_asked_for() -> None:
    """Nor is one that is only half imported."""
    script = (
        "import sys, types\n"
        "from dagrelay.serializers.models import model_reader, model_writer\n"
        "class Plain: pass\n"
        "assert model_reader(Plain) is model_writer(Plain) is None\n"
        "assert not {'pydantic', 'msgspec'} & set(sys.modules)\n"
        "sys.modules['pydantic'] = types.ModuleType('pydantic')\n"
        "assert model_reader(Plain) is None\n"
    )

    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=20)

    assert done.returncode == 0, done.stderr
