"""Trigger rules, over every way in which a few upstreams can have ended, against an oracle written from their definitions."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Final

import pytest

from dagrelay.dag.trigger_rules import Verdict, evaluate
from dagrelay.model.states import TriggerRule

if TYPE_CHECKING:
    from collections.abc import Callable

Ends = tuple[str, ...]

PENDING: Final = "pending"
ENDS: Final = ("success", "failed", "upstream_failed", "skipped")
BAD: Final = {"failed", "upstream_failed"}
UPSTREAMS: Final = [states for size in range(5) for states in combinations_with_replacement((PENDING, *ENDS), size) if size]


def some(ends: Ends, *wanted: str) -> bool:
    """Return whether an upstream ended in one of the states wanted."""
    return any(end in wanted for end in ends)


def every(ends: Ends, *wanted: str) -> bool:
    """Return whether every upstream ended in one of the states wanted."""
    return all(end in wanted for end in ends)


MET: Final[dict[TriggerRule, Callable[[Ends], bool]]] = {
    TriggerRule.ALL_SUCCESS: lambda ends: every(ends, "success"),
    TriggerRule.ALL_FAILED: lambda ends: every(ends, *BAD),
    TriggerRule.ALL_DONE: lambda _: True,
    TriggerRule.ONE_SUCCESS: lambda ends: some(ends, "success"),
    TriggerRule.ONE_FAILED: lambda ends: some(ends, *BAD),
    TriggerRule.ONE_DONE: lambda ends: some(ends, "success", "failed"),
    TriggerRule.NONE_FAILED: lambda ends: not some(ends, *BAD),
    TriggerRule.NONE_SKIPPED: lambda ends: not some(ends, "skipped"),
    TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS: lambda ends: not some(ends, *BAD) and some(ends, "success"),
    TriggerRule.ALL_SKIPPED: lambda ends: every(ends, "skipped"),
    TriggerRule.ALWAYS: lambda _: True,
}
"""What each rule asks of upstreams that have all ended."""

ASKS_FOR_SUCCESS: Final = {
    TriggerRule.ALL_SUCCESS,
    TriggerRule.ONE_SUCCESS,
    TriggerRule.NONE_FAILED,
    TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
}
"""The rules that a failure can break; of those it makes upstream_failed, of the others skipped."""

STARTS_EARLY: Final = {TriggerRule.ONE_SUCCESS, TriggerRule.ONE_FAILED, TriggerRule.ONE_DONE}
"""The rules that ask for one upstream, and don't wait for the others."""


def final_verdict(rule: TriggerRule, ends: Ends) -> Verdict:
    """Return the verdict on upstreams that have all ended."""
    if MET[rule](ends):
        return Verdict.READY
    return Verdict.UPSTREAM_FAILED if rule in ASKS_FOR_SUCCESS and some(ends, *BAD) else Verdict.SKIP


def outlooks(states: Ends) -> list[Ends]:
    """Return every way in which upstreams still pending can end."""
    if PENDING not in states:
        return [states]
    place = states.index(PENDING)
    return [outlook for end in ENDS for outlook in outlooks((*states[:place], end, *states[place + 1 :]))]


def oracle(rule: TriggerRule, states: Ends) -> Verdict:
    """Return the verdict, found by looking at all that can still happen.

    A verdict stands as soon as nothing can change it; but readiness before the end is for the rules of one upstream, as others
    say "all ended".
    """
    if rule is TriggerRule.ALWAYS:
        return Verdict.READY
    verdicts = {final_verdict(rule, outlook) for outlook in outlooks(states)}
    is_settled = len(verdicts) == 1 and (PENDING not in states or rule in STARTS_EARLY or Verdict.READY not in verdicts)
    return verdicts.pop() if is_settled else Verdict.WAIT


def verdict_on(rule: TriggerRule, states: Ends) -> Verdict:
    """Return the verdict of the library."""
    counts = Counter(states)
    return evaluate(
        rule,
        upstream=len(states),
        success=counts["success"],
        failed=counts["failed"],
        upstream_failed=counts["upstream_failed"],
        skipped=counts["skipped"],
    )


@pytest.mark.parametrize("rule", TriggerRule)
def test_each_rule_says_what_its_definition_says(rule: TriggerRule) -> None:
    """All states of up to four upstreams, pending ones included, get the verdict that follows from the definition."""
    wrong = {states: verdict_on(rule, states) for states in UPSTREAMS if verdict_on(rule, states) != oracle(rule, states)}

    assert wrong == {}


@pytest.mark.parametrize("rule", TriggerRule)
def test_a_task_without_upstreams_is_always_ready(rule: TriggerRule) -> None:
    """Roots start, also under rules that ask for a failure."""
    assert verdict_on(rule, ()) is Verdict.READY


@pytest.mark.parametrize("rule", TriggerRule)
def test_a_verdict_stands_whatever_ends_later(rule: TriggerRule) -> None:
    """Once a task is told to start or not to, no later end of an upstream would have told it otherwise."""
    for states in UPSTREAMS:
        if PENDING in states and verdict_on(rule, states) is not Verdict.WAIT:
            assert {verdict_on(rule, outlook) for outlook in outlooks(states)} == {verdict_on(rule, states)}


@pytest.mark.parametrize("rule", TriggerRule)
def test_nobody_waits_for_upstreams_that_have_ended(rule: TriggerRule) -> None:
    """With all upstreams ended the task gets a verdict, so that no run hangs."""
    assert all(verdict_on(rule, states) is not Verdict.WAIT for states in UPSTREAMS if PENDING not in states)


@pytest.mark.parametrize("rule", sorted(ASKS_FOR_SUCCESS - {TriggerRule.ONE_SUCCESS}))
def test_a_failure_outweighs_a_skip(rule: TriggerRule) -> None:
    """Whichever is seen first, the task is upstream_failed."""
    assert verdict_on(rule, ("skipped", "pending")) is Verdict.WAIT
    assert verdict_on(rule, ("failed", "pending")) is Verdict.UPSTREAM_FAILED
    assert verdict_on(rule, ("failed", "skipped")) is Verdict.UPSTREAM_FAILED


def test_a_rule_of_one_counts_only_what_it_names() -> None:
    """A task that never ran is failed to one_failed, and not done to one_done."""
    assert verdict_on(TriggerRule.ONE_FAILED, ("upstream_failed", "pending")) is Verdict.READY
    assert verdict_on(TriggerRule.ONE_DONE, ("upstream_failed", "pending")) is Verdict.WAIT
    assert verdict_on(TriggerRule.ONE_DONE, ("upstream_failed", "upstream_failed")) is Verdict.SKIP
