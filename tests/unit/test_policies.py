"""Policies: waits between attempts, limits that are checked when they are set, and options of a push."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrelay.model.policies import Durability, Limits, MissingPolicy, RetryPolicy, XComOptions

LIMITS = [field.name for field in attrs.fields(Limits) if field.name != "pools"]
MAY_BE_NOUGHT = {"max_description_chars", "max_template_references", "cache_bytes", "max_map_length", "max_interruptions"}


def limits(**settings: Any) -> Limits:
    """Set limits by name, whatever a checker would say to the values."""
    return Limits(**settings)


class Dice(Random):
    """A source of randomness that always throws the same."""

    def __init__(self, throw: float) -> None:
        """Take the number thrown, in [0, 1)."""
        super().__init__(0)
        self._throw = throw

    def random(self) -> float:
        """Throw it."""
        return self._throw


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (8, 60.0)])
def test_waits_double_up_to_the_longest(attempt: int, seconds: float) -> None:
    """The defaults are 1 s, a factor of 2, and at most 60 s."""
    assert RetryPolicy(10, jitter=0).delay_for(attempt, Random(0)) == seconds


@pytest.mark.parametrize(("throw", "factor"), [(0.0, 0.9), (0.5, 1.0), (0.75, 1.05)])
def test_jitter_spreads_a_wait_to_both_sides(throw: float, factor: float) -> None:
    """The factor runs over `[1 - jitter, 1 + jitter]`."""
    assert RetryPolicy(2, delay_s=10).delay_for(1, Dice(throw)) == pytest.approx(10 * factor)


def test_a_wait_beyond_all_numbers_is_the_longest_wait() -> None:
    """`2.0 ** 5000` overflows a float, and the attempt still has its wait."""
    assert RetryPolicy(10_000, jitter=0).delay_for(5_001, Random(0)) == 60.0


def test_no_delay_stays_none_however_often_it_is_tried() -> None:
    """Nought times an overflow is not the longest wait."""
    assert RetryPolicy(10_000, delay_s=0, jitter=0).delay_for(5_001, Random(0)) == 0.0


@given(
    attempt=st.integers(1, 10_000),
    delay_s=st.floats(0, 1e6),
    backoff=st.floats(1, 1e6),
    max_delay_s=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_every_wait_is_finite_and_within_its_bounds(
    attempt: int, delay_s: float, backoff: float, max_delay_s: float, jitter: float, seed: int
) -> None:
    """No setting yields a wait that is negative, endless or above the longest one plus jitter."""
    policy = RetryPolicy(10, delay_s=delay_s, backoff=backoff, max_delay_s=max_delay_s, jitter=jitter)

    wait = policy.delay_for(attempt, Random(seed))

    assert math.isfinite(wait)
    assert 0 <= wait <= max_delay_s * (1 + jitter) * (1 + 1e-9)


@pytest.mark.parametrize(
    "facts",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 2, "delay_s": -0.1},
        {"max_attempts": 2, "delay_s": math.nan},
        {"max_attempts": 2, "backoff": 0.5},
        {"max_attempts": 2, "max_delay_s": -1},
        {"max_attempts": 2, "jitter": -0.1},
        {"max_attempts": 2, "jitter": 1.1},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(facts: dict[str, Any]) -> None:
    """It is refused where it is written, and not at the first retry."""
    with pytest.raises(ValueError, match=list(facts)[-1]):
        RetryPolicy(**facts)


def test_attempts_are_a_whole_number() -> None:
    """Half an attempt is a mistake."""
    with pytest.raises(TypeError, match="max_attempts"):
        RetryPolicy(1.5)  # type: ignore[arg-type]


def test_classes_worth_a_retry_are_kept_as_a_tuple() -> None:
    """A list given is fixed at once, so that changing it later changes no policy."""
    classes: Any = [ValueError, OSError]

    policy = RetryPolicy(2, retry_on=classes)
    classes.clear()

    assert policy.retry_on == (ValueError, OSError)


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_has_a_smallest_value(name: str) -> None:
    """Nought where it makes sense ("none at all"), else one."""
    least = 0 if name in MAY_BE_NOUGHT else 1

    assert getattr(limits(**{name: least}), name) == least
    with pytest.raises(ValueError, match=name):
        limits(**{name: least - 1})


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [1.0, "1", None])
def test_a_limit_is_a_whole_number(name: str, value: Any) -> None:
    """A limit that can't be compared would limit nothing."""
    with pytest.raises(TypeError, match=name):
        limits(**{name: value})


def test_the_limits_are_the_published_ones() -> None:
    """A changed default is a change users must read about."""
    assert attrs.asdict(Limits()) == {
        "max_xcom_bytes": 1_048_576,
        "max_run_xcom_bytes": 1_073_741_824,
        "max_depth": 200,
        "max_description_chars": 2_000,
        "max_template_chars": 1_048_576,
        "max_template_references": 10_000,
        "max_rendered_chars": 8_388_608,
        "max_pending_bytes": 33_554_432,
        "mailbox_capacity": 4096,
        "cache_bytes": 67_108_864,
        "max_map_length": 10_000,
        "max_stream_window_items": 10_000,
        "max_stream_window_bytes": 8_388_608,
        "max_interruptions": 20,
        "pools": {},
    }


def test_the_default_is_to_lose_nothing_and_to_fail_loudly() -> None:
    """Policies compare as their stored names."""
    assert list(Durability) == ["strict", "pipelined"]
    assert list(MissingPolicy) == ["error", "empty"]


def test_options_of_a_push_are_plain_by_default() -> None:
    """A push without options takes the runtime's serializer and limit, and ends with its attempt."""
    options = XComOptions()

    assert attrs.asdict(options) == {
        "serializer": None,
        "max_bytes": None,
        "description": "",
        "lifetime": "attempt",
        "sensitive": False,
    }


@pytest.mark.parametrize(("name", "value"), [("lifetime", "run"), ("lifetime", ""), ("max_bytes", -1)])
def test_an_option_that_makes_no_sense_is_refused(name: str, value: Any) -> None:
    """The lifetime is one of two words, and a limit is not negative."""
    options: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=name):
        XComOptions(**options)


@pytest.mark.parametrize("policy", [RetryPolicy(2), Limits(), XComOptions()], ids=lambda policy: type(policy).__name__)
def test_a_policy_can_not_be_changed(policy: Any) -> None:
    """It may be shared by many tasks."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        setattr(policy, next(iter(attrs.asdict(policy))), 5)
