"""A run's page: who may write, what is seen, and what it all weighs."""

from __future__ import annotations

import pytest

from dagrelay.errors import StaleAttemptError, XComTooLargeError
from dagrelay.model.records import InstanceKey
from dagrelay.xcom.book import RunAccount, RunBook

A = InstanceKey("run", "a", None)


def new_book(*, next_seq: int = 1, stored_bytes: int = 0, max_bytes: int = 100) -> RunBook:
    """Return a page."""
    return RunBook(RunAccount("run", next_seq=next_seq, stored_bytes=stored_bytes, max_bytes=max_bytes))


def test_places_are_given_out_once() -> None:
    """One or several at a time, over all pages of the run."""
    book = new_book(next_seq=7)
    assert book.next_seq() == 7
    assert book.next_seq(3) == 8
    assert RunBook(book.account).next_seq() == 11
    assert book.next_seq() == 12


def test_only_the_open_attempt_may_write() -> None:
    """Stale attempts are those before it, those closed, and those never opened."""
    book = new_book()
    with pytest.raises(StaleAttemptError):
        book.check_open(A, 1)
    book.open_attempt(A, 1)
    book.check_open(A, 1)
    book.open_attempt(A, 2)
    with pytest.raises(StaleAttemptError, match="attempt 1 of task 'a' in run 'run'"):
        book.check_open(A, 1)
    book.close_attempt(A, 1)
    book.check_open(A, 2)
    book.close_attempt(A, 2)
    with pytest.raises(StaleAttemptError):
        book.check_open(A, 2)


def test_what_others_see_depends_on_how_the_task_stands() -> None:
    """The succeeded attempt's entries win over task-lifetime ones, those over outside ones; a running one's are the store's."""
    book = new_book()
    assert book.slots_seen(A) == (0,)
    book.open_attempt(A, 1)
    assert book.slots_seen(A) is None
    book.close_attempt(A, 1)
    assert book.slots_seen(A, include_failed=True) == (0,)
    book.open_attempt(A, 2)
    book.close_attempt(A, 2)
    book.note_failure(A, 2)
    assert book.slots_seen(A) == (0,)
    assert book.slots_seen(A, include_failed=True) == (2, -1, 0)
    book.open_attempt(A, 3)
    assert book.slots_seen(A, include_failed=True) is None
    book.close_attempt(A, 3)
    book.note_success(A, 3)
    assert book.slots_seen(A) == book.slots_seen(A, include_failed=True) == (3, -1, 0)
    book.open_attempt(A, 4)
    assert book.slots_seen(A) is None


def test_the_budget_counts_what_is_stored_and_on_its_way() -> None:
    """Exactly the limit is accepted; what was not stored is given back."""
    book = new_book(stored_bytes=40)
    book.check_budget(60)
    book.accept(50)
    assert book.is_over_budget(11)
    with pytest.raises(XComTooLargeError, match=r"101 bytes exceed the limit of 100.*max_run_xcom_bytes"):
        book.check_budget(11)
    book.release(50, is_stored=False)
    book.check_budget(60)
    book.accept(50)
    book.release(50, is_stored=True)
    assert book.is_over_budget(11)
    assert book.account.pending_operations == book.account.pending_bytes == 0


def test_the_sum_is_corrected_by_the_store() -> None:
    """What is on its way counts on top."""
    book = new_book(stored_bytes=90)
    book.accept(10)
    book.correct_bytes(20)
    book.check_budget(70)
    assert book.is_over_budget(71)
