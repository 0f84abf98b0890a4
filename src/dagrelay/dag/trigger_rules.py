"""Trigger rules: from counts of ended upstream tasks to what a task does, without looking at any upstream again."""

from __future__ import annotations

from enum import StrEnum
from typing import assert_never

from dagrelay.model.states import TriggerRule

__all__ = ("Verdict", "evaluate")

_Rule = TriggerRule


class Verdict(StrEnum):
    """What a task does now, by its trigger rule."""

    WAIT = "wait"
    """Nothing is decided: upstreams still have to end."""
    READY = "ready"
    """It may start."""
    SKIP = "skip"
    """It never starts, and is skipped."""
    UPSTREAM_FAILED = "upstream_failed"
    """It never starts, as upstreams failed."""


def evaluate(rule: TriggerRule, *, upstream: int, success: int, failed: int, upstream_failed: int, skipped: int) -> Verdict:
    """Return what a task does, judged on its direct upstreams; O(1).

    ======================================= ============================ =========================== =============================
    rule                                    ready                        skip                        upstream_failed
    ======================================= ============================ =========================== =============================
    all_success                             all succeeded                all ended, none failed,     at once if any failed
                                                                         some skipped
    all_failed                              all failed                   at once if any succeeded    never
                                                                         or was skipped
    all_done                                all ended                    never                       never
    one_success                             at once if any succeeded     all were skipped            all ended, none succeeded,
                                                                                                     some failed
    one_failed                              at once if any failed        all ended, none failed      never
    one_done                                at once if any succeeded     all ended, none succeeded   never
                                            or itself failed             or itself failed
    none_failed                             all ended, none failed       never                       at once if any failed
    none_skipped                            all ended, none skipped      at once if any was skipped  never
    none_failed_min_one_success             all ended, none failed,      all were skipped            at once if any failed
                                            some succeeded
    all_skipped                             all were skipped             at once if any succeeded    never
                                                                         or failed
    always                                  at once                      never                       never
    ======================================= ============================ =========================== =============================

    "Failed" counts tasks that are upstream_failed, but for one_done ("itself failed"), which asks for a task that has run. A
    task without upstreams is always ready. Names and meanings are those of Airflow's `TriggerRuleDep`, with one difference:
    there, all_success goes by whichever of a failure and a skip is seen first; here a skip decides only once nothing can fail
    any more, so that the outcome does not depend on timing.

    Args:
        rule: the task's rule.
        upstream: how many direct upstreams there are.
        success: how many of them succeeded.
        failed: how many failed themselves.
        upstream_failed: how many never ran, as their upstreams failed.
        skipped: how many were skipped.
    """
    if upstream == 0 or rule is _Rule.ALWAYS:
        return Verdict.READY
    bad = failed + upstream_failed
    if success + bad + skipped < upstream:
        return _early(rule, success=success, failed=failed, bad=bad, skipped=skipped)
    return _final(rule, upstream=upstream, success=success, failed=failed, bad=bad, skipped=skipped)


def _early(rule: TriggerRule, *, success: int, failed: int, bad: int, skipped: int) -> Verdict:
    """Return the verdict while some upstreams have not ended: what they do can't change it, or it is to wait."""
    match rule:
        case _Rule.ALL_SUCCESS | _Rule.NONE_FAILED | _Rule.NONE_FAILED_MIN_ONE_SUCCESS:
            return Verdict.UPSTREAM_FAILED if bad else Verdict.WAIT
        case _Rule.ALL_FAILED:
            return Verdict.SKIP if success or skipped else Verdict.WAIT
        case _Rule.NONE_SKIPPED:
            return Verdict.SKIP if skipped else Verdict.WAIT
        case _Rule.ALL_SKIPPED:
            return Verdict.SKIP if success or bad else Verdict.WAIT
        case _Rule.ONE_SUCCESS:
            return Verdict.READY if success else Verdict.WAIT
        case _Rule.ONE_FAILED:
            return Verdict.READY if bad else Verdict.WAIT
        case _Rule.ONE_DONE:
            return Verdict.READY if success or failed else Verdict.WAIT
        case _Rule.ALL_DONE | _Rule.ALWAYS:
            return Verdict.WAIT
        case _ as never:
            assert_never(never)


def _final(rule: TriggerRule, *, upstream: int, success: int, failed: int, bad: int, skipped: int) -> Verdict:
    """Return the verdict on upstreams that have all ended."""
    match rule:
        case _Rule.ALL_SUCCESS | _Rule.NONE_FAILED | _Rule.NONE_FAILED_MIN_ONE_SUCCESS if bad:
            return Verdict.UPSTREAM_FAILED
        case _Rule.ALL_SUCCESS | _Rule.NONE_SKIPPED:
            is_met = skipped == 0
        case _Rule.NONE_FAILED | _Rule.ALL_DONE | _Rule.ALWAYS:
            is_met = True
        case _Rule.NONE_FAILED_MIN_ONE_SUCCESS:
            is_met = success > 0
        case _Rule.ALL_FAILED:
            is_met = bad == upstream
        case _Rule.ALL_SKIPPED:
            is_met = skipped == upstream
        case _Rule.ONE_SUCCESS if bad and not success:
            return Verdict.UPSTREAM_FAILED
        case _Rule.ONE_SUCCESS:
            is_met = success > 0
        case _Rule.ONE_FAILED:
            is_met = bad > 0
        case _Rule.ONE_DONE:
            is_met = success + failed > 0
        case _ as never:
            assert_never(never)
    return Verdict.READY if is_met else Verdict.SKIP
