"""The error tree is what its drawing says, every error tells facts in words, and all survive pickling."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any, Final

import pytest

from dagrelay import errors
from dagrelay.errors import (
    BranchError,
    DAGChangedError,
    DagrelayError,
    DAGValidationError,
    InvalidIdError,
    InvalidTransitionError,
    MapTooLongError,
    MissingReferenceError,
    NotUpstreamError,
    ProcessForkedError,
    RetryAfter,
    RunCancelledError,
    RunFailedError,
    RunIdConflictError,
    RunInterruptedError,
    RunNotFoundError,
    RunStateError,
    RuntimeClosedError,
    Skip,
    StaleAttemptError,
    StaleOwnerError,
    StoreBackupError,
    StoreClosedError,
    StoreCorruptError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
    StoreSchemaError,
    StoreVanishedError,
    TaskFailedError,
    TaskNotFoundError,
    TaskTimeoutError,
    TemplateLimitError,
    TemplateSyntaxError,
    TemplateValueError,
    XComConflictError,
    XComNotFoundError,
    XComSerializationError,
    XComStreamError,
    XComTooLargeError,
    XComTypeError,
    XComWaitError,
    XComWaitTimeoutError,
)
from dagrelay.model.states import RunState, TaskState

ABSTRACT: Final = frozenset({"DagrelayError", "TemplateError", "XComError", "RunError", "StoreError"})
SIGNALS: Final = frozenset({"Skip", "RetryAfter"})

SAMPLES: Final[list[tuple[BaseException, str]]] = [
    (InvalidIdError("task id", "a\nb", "use letters"), "invalid task id 'a\\nb': use letters"),
    (InvalidIdError("key", 7, "use letters"), "invalid key int 7: use letters"),
    (InvalidIdError("key", "a" * 100, "use letters"), f"invalid key '{'a' * 79}... (102 characters): use letters"),
    (
        InvalidTransitionError("task", "load", TaskState.SUCCESS, TaskState.RUNNING),
        "task 'load' can't go from success to running",
    ),
    (
        MapTooLongError("load", length=20_000, limit=10_000),
        (
            "task 'load' is mapped over 20,000 elements, more than the limit of 10,000; map over batches of them, "
            "or raise Limits(max_map_length=...)"
        ),
    ),
    (
        BranchError("choose", "'c'", ["a", "b"]),
        "branch 'choose' chose 'c'; it can choose from the tasks directly downstream of it: 'a', 'b'",
    ),
    (
        BranchError("choose", "'c'", []),
        "branch 'choose' chose 'c'; it can choose from the tasks directly downstream of it: there are none",
    ),
    (
        XComWaitError("b", "a", "port", "task 'a' has failed"),
        "task 'b' waits for XCom 'port' of task 'a', which can't come: task 'a' has failed",
    ),
    (
        XComWaitTimeoutError("b", "a", "port", 2.5),
        "task 'b' waited 2.5 s for XCom 'port' of task 'a', which did not come",
    ),
    (DAGValidationError("etl", ["no such task"]), "DAG 'etl' has 1 problem:\n  - no such task"),
    (DAGValidationError("etl", ["one", "two"]), "DAG 'etl' has 2 problems:\n  - one\n  - two"),
    (
        DAGChangedError("r1", ["task 'a' vanished", "task 'b' was rewired"]),
        "run 'r1' can't go on with this DAG: task 'a' vanished; task 'b' was rewired. Resume it with the DAG it was started with",
    ),
    (
        TemplateSyntaxError("unknown root 'foo'", column=4, text="{{ foo.bar }}"),
        "unknown root 'foo' at column 4 of template, near '{{ foo.bar }}'",
    ),
    (
        TemplateSyntaxError("unknown root 'foo'", column=4, text="{{ foo.bar }}", path="$.a[0]"),
        "unknown root 'foo' at column 4 of template, near '{{ foo.bar }}' @ $.a[0]",
    ),
    (
        TemplateLimitError("template too long", actual=11, limit=10, setting="max_template_chars"),
        "template too long: 11 exceeds the limit of 10; raise it by Limits(max_template_chars=...)",
    ),
    (
        TemplateValueError("length needs a list", reference="xcom.a.n | length", text="{{ xcom.a.n | length }} rows"),
        "{{ xcom.a.n | length }} of template '{{ xcom.a.n | length }} rows': length needs a list",
    ),
    (
        MissingReferenceError("xcom.a.n", text="{{ xcom.a.n }} rows"),
        ("no value for {{ xcom.a.n }} of template '{{ xcom.a.n }} rows': add `| default(...)`, or take MissingPolicy.EMPTY"),
    ),
    (
        MissingReferenceError("xcom.a.n", text="{{ xcom.a.n }}", hint="did you mean m?"),
        (
            "no value for {{ xcom.a.n }} of template '{{ xcom.a.n }}': add `| default(...)`, or take MissingPolicy.EMPTY; "
            "did you mean m?"
        ),
    ),
    (XComNotFoundError("r1", "a", "rows"), "no XCom 'rows' of task 'a' in run 'r1' (the run has no such task)"),
    (
        XComNotFoundError("r1", "a", "row", state=TaskState.SKIPPED, near=["rows", "rose"], hint="pass default="),
        "no XCom 'row' of task 'a' in run 'r1' (the task is skipped); did you mean 'rows' or 'rose'?; pass default=",
    ),
    (
        NotUpstreamError("b", "a"),
        (
            "task 'b' can't pull from 'a', which is not upstream of it: add depends_on='a', or use wait() for what a task beside "
            "it publishes"
        ),
    ),
    (
        NotUpstreamError("b", "a", is_stream=True),
        "task 'b' can't read a stream of 'a', which is not upstream of it: add after_start='a'",
    ),
    (NotUpstreamError("b", "x", known=False), "task 'b' can't pull from 'x': the DAG has no such task"),
    (
        NotUpstreamError("b", "lod", known=False, near=["load"]),
        "task 'b' can't pull from 'lod': the DAG has no such task; did you mean 'load'?",
    ),
    (
        XComTooLargeError("XCom 'rows' of task 'a'", actual=1_048_577, limit=1_048_576, setting="Limits(max_xcom_bytes=...)"),
        (
            "XCom 'rows' of task 'a': 1,048,577 bytes exceed the limit of 1,048,576; store large data elsewhere and push its "
            "path, or raise Limits(max_xcom_bytes=...)"
        ),
    ),
    (XComSerializationError("NaN is no JSON", path="$.rows[3].score"), "NaN is no JSON @ $.rows[3].score"),
    (XComTypeError("expected int, got str", path="$[0]"), "expected int, got str @ $[0]"),
    (XComTypeError("expected int, got str"), "expected int, got str @ $"),
    (XComTypeError("task 'a' is mapped; use pull_outputs()", path=""), "task 'a' is mapped; use pull_outputs()"),
    (
        XComConflictError("r1", "a", "return_value"),
        (
            "task 'a' of run 'r1' has finished and its 'return_value' can't be replaced: push under another key, or clear the "
            "task by retry"
        ),
    ),
    (
        XComConflictError("r1", "a", "rows", seq=3),
        (
            "item 3 can't be appended to stream 'rows' of task 'a' in run 'r1': what stands there, or was passed over, is not "
            "the same"
        ),
    ),
    (
        XComStreamError("b", "a", "rows", state=TaskState.FAILED),
        "stream 'rows' of task 'a' broke off for task 'b': task 'a' is failed, and what was appended has been handed out",
    ),
    (XComStreamError("b", "a", "rows", reason="no"), "stream 'rows' of task 'a' broke off for task 'b': no"),
    (StaleAttemptError("r1", "a", 2), "attempt 2 of task 'a' in run 'r1' is over and can't write any more"),
    (
        RunFailedError("run 'r1' failed", [TaskFailedError("a", attempt=1, reason="boom")], run_id="r1"),
        "run 'r1' failed (1 sub-exception)",
    ),
    (TaskFailedError("a", attempt=3, reason="ValueError: no"), "task 'a' failed in attempt 3: ValueError: no"),
    (TaskFailedError("a", map_index=4, attempt=1, reason="no"), "task 'a[4]' failed in attempt 1: no"),
    (TaskTimeoutError("a", 1, 0.5), "attempt 1 of task 'a' ran longer than timeout_s=0.5"),
    (
        TaskTimeoutError("a", 1, 0.5, is_outside=True),
        "no value came from outside for attempt 1 of task 'a' within timeout_s=0.5",
    ),
    (RunCancelledError("r1"), "run 'r1' was cancelled; runtime.resume() takes it up again"),
    (RunInterruptedError("r1"), "run 'r1' was interrupted (its runtime was left); runtime.resume() takes it up again"),
    (RunNotFoundError("r1"), "no run 'r1' in this store"),
    (TaskNotFoundError("d", "lod", ["load"]), "DAG 'd' has no task 'lod'; did you mean 'load'?"),
    (RunNotFoundError("r1", ["r10", "r11"]), "no run 'r1' in this store; did you mean 'r10' or 'r11'?"),
    (RunIdConflictError("r1", "stands for a run of DAG 'x'"), "run id 'r1' stands for a run of DAG 'x'; choose another run_id"),
    (RunStateError("r1", RunState.RUNNING, "it can't be deleted"), "run 'r1' is running: it can't be deleted"),
    (
        StoreLockedError("runs.db", pid=12, host="mill", since="2026-01-01"),
        (
            "store 'runs.db' is in use by process 12 on mill since 2026-01-01; one writer at a time (open it with read_only=True "
            "to look)"
        ),
    ),
    (
        StoreLockedError("runs.db", pid=None, host=None, since=None),
        "store 'runs.db' is in use by another process; one writer at a time (open it with read_only=True to look)",
    ),
    (StaleOwnerError("runs.db"), "store 'runs.db' has been taken over by another owner; nothing was written"),
    (StoreFullError("runs.db"), "no room left to write to store 'runs.db'; free some space and resume"),
    (StoreCorruptError("runs.db", "a checksum differs"), "store 'runs.db' is damaged: a checksum differs"),
    (StoreVanishedError("runs.db"), "the file of store 'runs.db' was moved or deleted while in use"),
    (StoreReadOnlyError("runs.db"), "store 'runs.db' is read-only"),
    (StoreSchemaError("runs.db", "it is newer"), "can't open store 'runs.db': it is newer"),
    (
        StoreBackupError("runs.db", "copy.db", "there is such a file"),
        "can't back up store 'runs.db' to 'copy.db': there is such a file",
    ),
    (StoreClosedError("runs.db"), "store 'runs.db' is not open"),
    (RuntimeClosedError(), "the runtime is not running: use it inside `async with Runtime(...) as runtime:`"),
    (
        ProcessForkedError(1, 2),
        "this runtime belongs to process 1 and can't be used in its child 2; open a new one there",
    ),
    (Skip("no rows"), "no rows"),
    (RetryAfter(2), "2.0"),
]
PLAIN: Final = [sample for sample, _ in SAMPLES if not isinstance(sample, BaseExceptionGroup)]


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Read class -> (parent, builtin it inherits too) from the drawing in the module's docstring."""
    drawn: dict[str, tuple[str | None, str | None]] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+Error)(?: \((\w+)\))?(?:\s{2,}\S.*)?$", line)
        if found is None:
            continue
        depth = len(found[1]) // 4 + ("──" in line)
        ancestors = [*ancestors[:depth], found[2]]
        drawn[found[2]] = (ancestors[depth - 1] if depth else None, found[3])
    return drawn


def real_tree() -> dict[str, tuple[str | None, str | None]]:
    """Read the same from the classes."""
    real: dict[str, tuple[str | None, str | None]] = {}
    for name in errors.__all__:
        cls = getattr(errors, name)
        if name in SIGNALS:
            continue
        ours = [base.__name__ for base in cls.__bases__ if issubclass(base, DagrelayError)]
        builtins = [base.__name__ for base in cls.__bases__ if not issubclass(base, DagrelayError) and base is not Exception]
        real[name] = (ours[0] if ours else None, builtins[0] if builtins else None)
    return real


def test_the_tree_drawn_in_the_docstring_is_the_tree_of_the_classes() -> None:
    """The drawing lacks no class, invents none, and shows each parent and builtin."""
    assert drawn_tree() == real_tree()


def test_the_drawing_names_the_signals_outside_the_tree() -> None:
    """Skip and RetryAfter are no errors of the library, and the docstring says so."""
    assert "Skip, RetryAfter (Exception)" in (errors.__doc__ or "")
    assert not issubclass(Skip, DagrelayError)
    assert not issubclass(RetryAfter, DagrelayError)


def test_every_error_has_a_sample_here() -> None:
    """No error goes untested."""
    assert {type(sample).__name__ for sample, _ in SAMPLES} == set(errors.__all__) - ABSTRACT


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_documented(name: str) -> None:
    """Each class has a sentence of its own."""
    documentation = getattr(errors, name).__dict__["__doc__"]

    assert documentation.partition("\n")[0].endswith(".")


@pytest.mark.parametrize(("error", "message"), SAMPLES)
def test_the_message_says_what_where_and_what_to_do(error: BaseException, message: str) -> None:
    """Constructors take facts and find the words."""
    assert str(error) == message


@pytest.mark.parametrize("error", [sample for sample, _ in SAMPLES], ids=lambda error: type(error).__name__)
def test_an_error_survives_pickling_and_copying(error: BaseException) -> None:
    """What crosses a process says the same there."""
    restored = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes, made in the same line

    assert type(restored) is type(copy.copy(error)) is type(error)
    assert str(restored) == str(copy.copy(error)) == str(error)


@pytest.mark.parametrize("error", PLAIN, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_facts_when_pickled(error: BaseException) -> None:
    """A program on the other side finds the facts as attributes, not in the text."""
    restored = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes, made in the same line

    assert vars(restored) == vars(error)
    assert restored.args == error.args


def test_a_failed_run_pickles_its_tasks_but_not_its_result() -> None:
    """A result belongs to a runtime of this process."""
    error = RunFailedError("run 'r1' failed", [TaskFailedError("a", attempt=2, reason="boom")], run_id="r1", result=object())

    restored = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes, made in the same line

    assert restored.run_id == "r1"
    assert restored.result is None
    assert [(task.task_id, task.attempt, task.reason) for task in restored.exceptions] == [("a", 2, "boom")]


def test_splitting_a_failed_run_keeps_its_kind_and_facts() -> None:
    """`except*` hands on groups that still know their run."""
    result = object()
    parts = [TaskFailedError(task_id, attempt=1, reason="boom") for task_id in ("a", "b")]
    error = RunFailedError("run 'r1' failed", parts, run_id="r1", result=result)

    matching, rest = error.split(lambda part: isinstance(part, TaskFailedError) and part.task_id == "a")

    assert isinstance(matching, RunFailedError)
    assert isinstance(rest, RunFailedError)
    assert (matching.run_id, matching.result) == (rest.run_id, rest.result) == ("r1", result)
    assert matching.exceptions == (parts[0],)
    assert rest.exceptions == (parts[1],)


def test_a_bad_dag_with_many_problems_shows_fifty_and_keeps_all() -> None:
    """A terminal is not flooded, and a program loses nothing."""
    error = DAGValidationError("etl", [f"problem {number}" for number in range(60)])

    assert len(error.problems) == 60
    assert str(error).count("\n  - ") == 51
    assert str(error).endswith("\n  - and 10 more (see .problems)")


def test_a_long_template_is_shown_around_the_column() -> None:
    """The excerpt is bounded on both sides."""
    error = TemplateSyntaxError("bad", column=501, text="x" * 500 + "!" + "y" * 500)

    assert str(error) == f"bad at column 501 of template, near {'x' * 20 + '!' + 'y' * 40!r}"


def test_a_value_whose_repr_fails_does_not_hide_the_error() -> None:
    """A hostile object as an id is told of all the same."""

    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

    assert str(InvalidIdError("key", Hostile(), "use text")) == "invalid key Hostile (unprintable): use text"


@pytest.mark.parametrize("seconds", [0, 1.5, 3600])
def test_retry_after_takes_seconds(seconds: float) -> None:
    """Any finite wait will do."""
    assert RetryAfter(seconds).seconds == seconds


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), True, "5", None])
def test_retry_after_refuses_what_is_no_wait(seconds: Any) -> None:
    """A wait that never ends, or is no number, is a mistake of the handler's."""
    with pytest.raises(ValueError, match="finite number of seconds"):
        RetryAfter(seconds)
