"""Values come in as exact copies and go out as fresh ones."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pytest

from dagrelay.errors import InvalidIdError, XComSerializationError, XComTooLargeError, XComTypeError
from dagrelay.model.policies import Limits, XComOptions
from dagrelay.model.records import InstanceKey
from dagrelay.serializers.base import SerializerRegistry
from dagrelay.serializers.json import JsonSerializer
from dagrelay.xcom.book import RunAccount, RunBook
from dagrelay.xcom.door import Door, entry_record, placed


class Reversed:
    """A serializer that writes JSON backwards."""

    name = "reversed"

    def dumps(self, value: Any) -> bytes:
        """Write it."""
        return json.dumps(value).encode()[::-1]

    def loads(self, data: bytes) -> Any:
        """Read it."""
        return json.loads(data[::-1])


@dataclass
class Point:
    """A value that JSON can't say by itself."""

    x: int
    day: date


def new_door(limits: Limits | None = None) -> Door:
    """Return a door whose clock stands still."""
    limits = limits or Limits()
    return Door(SerializerRegistry(JsonSerializer(max_depth=limits.max_depth), [Reversed()]), limits, lambda: 7)


def new_book() -> RunBook:
    """Return a page."""
    return RunBook(RunAccount("run", max_bytes=1000))


def test_a_draft_says_all_that_is_known_of_an_entry() -> None:
    """But for its place, which comes at acceptance."""
    options = XComOptions(description="a few", sensitive=True)
    found = new_door().draft("k", [1, "é"], options=options, published=True, seq=3)
    assert (found.key, found.value, found.serializer) == ("k", '[1,"é"]'.encode(), "json")
    assert (found.description, found.sensitive, found.published) == ("a few", True, True)
    assert (found.created_us, found.seq) == (7, 3)


def test_a_draft_is_a_snapshot() -> None:
    """What happens to the value later does not reach it, and everybody decodes a copy."""
    door, value = new_door(), {"rows": [1]}
    found = door.draft("k", value)
    value["rows"].append(2)
    one, two = door.decode(found.serializer, found.value), door.decode(found.serializer, found.value)
    assert one == two == {"rows": [1]}
    assert one is not two


def test_the_serializer_is_the_pushs_then_the_tasks_then_the_runtimes() -> None:
    """Each only if registered."""
    door = new_door()
    assert door.draft("k", 1).serializer == "json"
    assert door.draft("k", 1, serializer="reversed").serializer == "reversed"
    assert door.draft("k", 1, serializer="json", options=XComOptions(serializer="reversed")).serializer == "reversed"
    assert door.decode("reversed", door.draft("k", [1, 2], serializer="reversed").value) == [1, 2]
    with pytest.raises(XComSerializationError, match="no serializer 'pickle' is registered"):
        door.draft("k", 1, serializer="pickle")
    with pytest.raises(XComSerializationError, match="no serializer 'pickle' is registered"):
        door.decode("pickle", b"1")


def test_exactly_the_limit_is_accepted() -> None:
    """By bytes of the encoded value; a push may set a limit of its own."""
    door = new_door(Limits(max_xcom_bytes=10))
    assert len(door.draft("k", "é" * 4).value) == 10
    with pytest.raises(XComTooLargeError, match=r"the value of 'k': 11 bytes exceed the limit of 10"):
        door.draft("k", "x" * 9)
    assert door.draft("k", "x" * 9, options=XComOptions(max_bytes=11)).value
    with pytest.raises(XComTooLargeError):
        door.draft("k", [], options=XComOptions(max_bytes=1))
    with pytest.raises(XComTooLargeError):
        door.draft("k", "x" * 20, serializer="reversed")


def test_descriptions_have_a_limit() -> None:
    """In characters."""
    door = new_door(Limits(max_description_chars=3))
    door.draft("k", 1, options=XComOptions(description="ééé"))
    with pytest.raises(XComTooLargeError, match=r"description of 'k'.*max_description_chars"):
        door.draft("k", 1, options=XComOptions(description="four"))


@pytest.mark.parametrize("key", ["", "a\n", "x" * 251, None, 1])
def test_keys_are_checked(key: Any) -> None:
    """Never repaired."""
    with pytest.raises(InvalidIdError):
        new_door().draft(key, 1)


def test_what_json_can_not_say_goes_through_the_converter() -> None:
    """And comes back typed, strictly."""
    door = new_door()
    found = door.draft("k", Point(1, date(2024, 5, 6)))
    assert json.loads(found.value) == {"x": 1, "day": "2024-05-06"}
    assert door.decode("json", found.value, Point) == Point(1, date(2024, 5, 6))
    assert door.decode("json", found.value) == {"x": 1, "day": "2024-05-06"}
    with pytest.raises(XComTypeError, match=r"@ \$\.x"):
        door.decode("json", b'{"x":"1","day":"2024-05-06"}', Point)


def test_what_can_not_be_stored_exactly_is_refused_with_its_path() -> None:
    """Plain or not."""
    door = new_door(Limits(max_depth=3))
    with pytest.raises(XComSerializationError, match=r"@ \$\.rows\[1\]"):
        door.draft("k", {"rows": [1, float("nan")]})
    with pytest.raises(XComSerializationError):
        door.draft("k", lambda: None)
    with pytest.raises(XComSerializationError):
        door.draft("k", [[[[1]]]])


def test_a_returned_value_is_one_entry() -> None:
    """With its place in the timeline."""
    book = new_book()
    (whole,) = new_door().returned(book, None, multiple_outputs=False, serializer=None, declared=None)
    assert (whole.key, whole.value, whole.seq) == ("return_value", b"null", 1)
    assert book.next_seq() == 2


def test_multiple_outputs_are_entries_too() -> None:
    """Beside the whole, in order of their places; attrs and dataclasses have items as well."""
    entries = new_door().returned(new_book(), {"a": 1, "b": [2]}, multiple_outputs=True, serializer=None, declared=dict[str, Any])
    assert [(entry.key, entry.value, entry.seq) for entry in entries] == [
        ("return_value", b'{"a":1,"b":[2]}', 1),
        ("a", b"1", 2),
        ("b", b"[2]", 3),
    ]
    of_class = new_door().returned(new_book(), Point(1, date(2024, 5, 6)), multiple_outputs=True, serializer=None, declared=Point)
    assert [entry.key for entry in of_class] == ["return_value", "x", "day"]


def test_multiple_outputs_need_a_mapping_with_keys_for_entries() -> None:
    """Anything else is refused as a whole."""
    door, book = new_door(), new_book()

    def returned(value: Any) -> None:
        door.returned(book, value, multiple_outputs=True, serializer=None, declared=Any)

    with pytest.raises(XComSerializationError, match="multiple_outputs needs a mapping with str keys, not list"):
        returned([1])
    with pytest.raises(XComSerializationError, match=r"named 'return_value' @ \$\.return_value"):
        returned({"return_value": 1})
    with pytest.raises(InvalidIdError):
        returned({"a\n": 1})


def test_drafts_get_their_places_together() -> None:
    """One after another."""
    door, book = new_door(), new_book()
    book.next_seq()
    assert [entry.seq for entry in placed(book, [door.draft("a", 1), door.draft("b", 1)])] == [2, 3]
    assert placed(book, []) == ()


def test_the_record_of_an_entry_says_what_was_stored() -> None:
    """Without its value."""
    entry = new_door().draft("k", "é", options=XComOptions(description="d", sensitive=True))
    record = entry_record(InstanceKey("run", "a", 3), entry, attempt=2, lifetime="task", dag_id=None)
    assert (record.run_id, record.task_id, record.map_index, record.key) == ("run", "a", 3, "k")
    assert (record.size_bytes, record.attempt, record.lifetime, record.dag_id) == (4, 2, "task", None)
    assert (record.description, record.sensitive, record.value, record.serializer) == ("d", True, None, "json")
    assert record.timestamp == datetime(1970, 1, 1, 0, 0, 0, 7, tzinfo=UTC)


def test_params_are_canonical_json() -> None:
    """In order of their names, exact, and within the limit."""
    door = new_door(Limits(max_xcom_bytes=30))
    assert door.params({"b": date(2024, 1, 2), "a": [1]}) == b'{"a":[1],"b":"2024-01-02"}'
    with pytest.raises(XComSerializationError):
        door.params({"a": float("inf")})
    with pytest.raises(XComTooLargeError, match="the params"):
        door.params({"a": "x" * 30})
