"""Records and events are frozen, comparable data; times keep every microsecond."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, get_args

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.model import events, injected
from dagrelay.model.events import Event, RunFinished, RunStarted, TaskStateChanged, XComDeleted, XComPushed
from dagrelay.model.records import ErrorRecord, InstanceKey, Run, TaskInstance, XComEntry, from_us, to_us
from dagrelay.model.states import RunState, TaskState

NOON: Final = datetime(2026, 7, 1, 12, tzinfo=UTC)
RECORDS: Final[list[Any]] = [
    ErrorRecord(type="ValueError", message="no"),
    Run(run_id="r1", dag_id="etl", state=RunState.RUNNING, params={}, created_at=NOON, started_at=NOON),
    TaskInstance(run_id="r1", task_id="a", state=TaskState.PENDING),
    XComEntry(run_id="r1", dag_id=None, task_id="a", key="k", size_bytes=1, timestamp=NOON, attempt=0, serializer="json"),
    RunStarted(run_id="r1", seq=1, time=NOON, dag_id="etl"),
    RunFinished(run_id="r1", seq=9, time=NOON, state=RunState.SUCCESS),
    TaskStateChanged(run_id="r1", seq=2, time=NOON, task_id="a", map_index=None, attempt=1, state=TaskState.RUNNING),
    XComPushed(run_id="r1", seq=3, time=NOON, task_id="a", map_index=None, attempt=1, key="k", size_bytes=4),
    XComDeleted(run_id="r1", seq=4, time=NOON, task_id="a", map_index=None, key=None, count=2),
]


@given(st.integers(to_us(datetime.min.replace(tzinfo=UTC)), to_us(datetime.max.replace(tzinfo=UTC))))
def test_microseconds_survive_the_way_to_a_datetime_and_back(us: int) -> None:
    """No float is on the way, so the years 1 to 9999 are exact."""
    moment = from_us(us)

    assert to_us(moment) == us
    assert moment.tzinfo is UTC


@given(st.datetimes(timezones=st.timezones()), st.sampled_from([-12, -5, 0, 5, 14]))
def test_a_moment_counts_the_same_in_every_zone(moment: datetime, hours: int) -> None:
    """An aware datetime of any zone is the same count."""
    try:
        elsewhere = moment.astimezone(timezone(timedelta(hours=hours)))
    except OverflowError:
        return  # the first and the last day there is have no other side of the world

    assert to_us(elsewhere) == to_us(moment.astimezone(UTC))


@pytest.mark.parametrize(
    ("moment", "us"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 1),
        (datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), -1),
        (datetime(2262, 4, 11, 23, 47, 16, 854_775, tzinfo=UTC), 9_223_372_036_854_775),
    ],
)
def test_known_moments_have_known_counts(moment: datetime, us: int) -> None:
    """The epoch, one beside it on each side, and one that a float of seconds would round."""
    assert to_us(moment) == us
    assert from_us(us) == moment


def test_a_naive_datetime_is_refused() -> None:
    """A moment without a zone is no moment."""
    with pytest.raises(TypeError):
        to_us(NOON.replace(tzinfo=None))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_can_not_be_changed_and_compares_by_value(record: Any) -> None:
    """Records may be shared between tasks."""
    first = next(iter(attrs.asdict(record)))

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(record, first, None)
    assert attrs.evolve(record) == record
    assert attrs.evolve(record, **{first: "other"}) != record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_takes_its_facts_by_name_only(record: Any) -> None:
    """A fact can be added without anybody's positions shifting."""
    with pytest.raises(TypeError):
        type(record)("r1")


def test_the_union_of_events_holds_every_event() -> None:
    """A `match` over the union is complete."""
    public = {getattr(events, name) for name in events.__all__ if name != "Event"}

    assert set(get_args(Event)) == public
    assert {type(record) for record in RECORDS} >= public


def test_an_error_record_reads_like_the_last_line_of_a_traceback() -> None:
    """A class without a message stands alone."""
    assert str(ErrorRecord(type="ValueError", message="no rows")) == "ValueError: no rows"
    assert str(ErrorRecord(type="KeyboardInterrupt", message="")) == "KeyboardInterrupt"


def test_an_instance_key_is_unmapped_unless_told() -> None:
    """It is a tuple, so it sorts and hashes as one."""
    assert InstanceKey("r1", "a") == ("r1", "a", None)


def test_the_marker_of_injected_parameters_costs_no_dictionary() -> None:
    """Each attempt makes one."""
    assert not hasattr(injected.Injected(), "__dict__")
