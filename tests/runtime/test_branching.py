"""Branches and short circuits: what is followed, what is skipped, and that a decision once stored holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from dagrelay import (
    DAG,
    BranchError,
    RunFailedError,
    RunState,
    Runtime,
    Skip,
    TaskState,
)
from dagrelay.errors import StoreError
from tests.runtime.failing import Faults, failing_stores
from tests.runtime.probes import AT_ONCE, PATIENCE_S, Probe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from dagrelay import Durability, RunResult, Store, Task


def named(dag: DAG, task_id: str, above: Iterable[str] = (), **options: Any) -> Task[str]:
    """Add a task that returns its id."""

    async def work() -> str:
        await anyio.lowlevel.checkpoint()
        return task_id

    return dag.add(work, id=task_id, depends_on=list(above), **options)


def states(result: RunResult) -> dict[str, str]:
    """Return the state of each task."""
    return {task_id: str(task.state) for task_id, task in result.tasks.items()}


def fan(choice: Callable[[DAG], Any], **options: Any) -> DAG:
    """Return a DAG of a branch over a, b and c, each with a task below it."""
    dag = DAG("fan")

    async def choose() -> Any:
        await anyio.lowlevel.checkpoint()
        return choice(dag)

    dag.branch(**options)(choose)
    for task_id in "abc":
        named(dag, task_id, ["choose"])
        named(dag, f"{task_id}_below", [task_id])
    return dag


CHOICES: dict[str, tuple[Callable[[DAG], Any], str]] = {
    "id": (lambda _: "a", "a"),
    "task": (lambda dag: dag.tasks["b"], "b"),
    "several": (lambda dag: ["c", dag.tasks["a"], "a"], "ca"),
    "set": (lambda _: {"b"}, "b"),
    "generator": (lambda _: iter("ab"), "ab"),
    "empty": (lambda _: (), ""),
    "none": (lambda _: None, ""),
    "all": (lambda _: ["a", "b", "c"], "abc"),
}
WRONG: dict[str, Callable[[DAG], Any]] = {
    "unknown": lambda _: "d",
    "not direct": lambda _: "a_below",
    "itself": lambda _: "choose",
    "one of two": lambda _: ["a", "nowhere"],
    "number": lambda _: 7,
    "truth": lambda _: True,
    "nested": lambda _: [["a"]],
    "of another DAG": lambda _: named(DAG("other"), "a"),
}


@pytest.mark.parametrize(("choice", "followed"), list(CHOICES.values()), ids=list(CHOICES))
async def test_what_is_chosen_is_followed(
    open_store: Callable[[], Store], choice: Callable[[DAG], Any], followed: str, durability: Durability
) -> None:
    """Ids and tasks, one, several or none; the others are skipped, and what is below them; the value is the list of ids."""
    dag = fan(choice)
    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.run(dag, run_id="r")
        found = states(result)
        assert await result.pull("choose") == list(followed)
        assert "".join(sorted(task_id for task_id in "abc" if found[task_id] == "success")) == "".join(sorted(followed))
        for task_id in "abc":
            wanted = "success" if task_id in followed else "skipped"
            assert (found[task_id], found[f"{task_id}_below"]) == (wanted, wanted)
        assert result.state is RunState.SUCCESS
        stored = {row.task_id: str(row.state) for row in await runtime.task_instances("r")}
        assert stored == found


@pytest.mark.parametrize("choice", list(WRONG.values()), ids=list(WRONG))
async def test_a_wrong_choice_fails_the_attempt(open_store: Callable[[], Store], choice: Callable[[DAG], Any]) -> None:
    """It tells what could have been chosen; nothing is skipped by it, and nothing of it stored."""
    dag = fan(choice)
    async with Runtime(open_store()) as runtime:
        with pytest.raises(RunFailedError) as failed:
            await runtime.run(dag, run_id="r")
        (error,) = failed.value.exceptions
        assert isinstance(error.__cause__, BranchError)
        assert "it can choose from the tasks directly downstream of it: 'a', 'b', 'c'" in str(error)
        assert set(states(failed.value.result).values()) == {"failed", "upstream_failed"}
        assert await runtime.xcom.list("r") == []


async def test_a_wrong_choice_is_tried_again(open_store: Callable[[], Store]) -> None:
    """Like any failure."""
    choices = iter(["wrong", "b"])
    dag = fan(lambda _: next(choices), retries=AT_ONCE)
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert result.tasks["choose"].attempt == 2
    assert (states(result)["a"], states(result)["b"]) == ("skipped", "success")


async def test_paths_join_by_trigger_rules_and_defaults(open_store: Callable[[], Store]) -> None:
    """A join with the default rule is skipped; others run, and read what was skipped by `output_or`."""
    dag = DAG("d")

    @dag.branch
    async def choose() -> str:
        return "left"

    left, right = named(dag, "left", ["choose"]), named(dag, "right", ["choose"])
    named(dag, "strict", ["left", "right"])

    @dag.task(trigger_rule="none_failed_min_one_success")
    async def join(one: str = left.output_or("nobody"), other: str = right.output_or("nobody")) -> str:
        return f"{one} {other}"

    named(dag, "either", ["left", "right"], trigger_rule="one_success")
    named(dag, "none_failed", ["right"], trigger_rule="none_failed")
    named(dag, "all_skipped", ["right"], trigger_rule="all_skipped")
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    found = states(result)
    assert result[join] == "left nobody"
    assert found.pop("right") == found.pop("strict") == "skipped"
    assert set(found.values()) == {"success"}


@pytest.mark.parametrize(("chosen", "wanted"), [(["a"], "success"), (["join"], "success"), ([], "skipped")])
async def test_a_join_may_be_directly_downstream(open_store: Callable[[], Store], chosen: list[str], wanted: str) -> None:
    """It is skipped only if neither it nor anything that leads to it is chosen."""
    dag = DAG("d")

    @dag.branch
    async def choose() -> list[str]:
        return chosen

    for task_id in ("a", "b"):
        named(dag, task_id, ["choose"])
    named(dag, "a_below", ["a"])
    named(dag, "join", ["choose", "a_below", "b"], trigger_rule="none_failed_min_one_success")
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert states(result)["join"] == wanted
    assert states(result)["b"] == "skipped"
    assert states(result)["a_below"] == ("success" if chosen == ["a"] else "skipped")


async def test_a_skip_goes_on_to_what_is_below(open_store: Callable[[], Store]) -> None:
    """To any depth, until a trigger rule lets something run."""
    dag = DAG("d")

    @dag.branch
    async def choose() -> None: ...

    above = "choose"
    for number in range(200):
        above = named(dag, f"t{number}", [above]).id
    named(dag, "end", [above], trigger_rule="all_done")
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    found = states(result)
    assert {found[f"t{number}"] for number in range(200)} == {"skipped"}
    assert found["end"] == "success"


async def test_branches_nest(open_store: Callable[[], Store]) -> None:
    """An inner branch that is skipped chooses nothing; one that runs chooses for itself."""
    dag = DAG("d")

    @dag.branch
    async def outer() -> str:
        return "inner"

    @dag.branch(depends_on=outer)
    async def inner(chosen: list[str] = outer.output) -> str:
        assert chosen == ["inner"]
        return "y"

    @dag.branch(depends_on=outer)
    async def unused() -> str:
        return "z"

    for task_id, above in (("x", "inner"), ("y", "inner"), ("z", "unused")):
        named(dag, task_id, [above])
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert states(result) == {
        "outer": "success",
        "inner": "success",
        "unused": "skipped",
        "x": "skipped",
        "y": "success",
        "z": "skipped",
    }


async def test_a_task_of_two_branches_must_be_followed_by_both(open_store: Callable[[], Store]) -> None:
    """One that does not choose it skips it, whichever decides first."""
    for first in ("one", "two"):
        dag, probe = DAG("d"), Probe()

        async def choose(chosen: str | None, me: str, first: str = first, probe: Probe = probe) -> str | None:
            if me != first:
                await probe.reach(first)
            return chosen

        dag.branch(id="one")(_bound(choose, "shared", "one", probe, first))
        dag.branch(id="two")(_bound(choose, None, "two", probe, first))
        named(dag, "shared", ["one", "two"], trigger_rule="none_failed")
        async with Runtime(open_store()) as runtime:
            result = await runtime.run(dag)
        assert states(result)["shared"] == "skipped"


def _bound(choose: Any, chosen: str | None, me: str, probe: Probe, first: str) -> Any:
    async def decide() -> Any:
        found = await choose(chosen, me)
        if me == first:
            probe.open(first)
        return found

    return decide


@pytest.mark.parametrize(
    ("value", "wanted"), [(1, "success"), ([0], "success"), (0, "skipped"), (None, "skipped"), ("", "skipped")]
)
async def test_a_short_circuit_goes_by_truth(open_store: Callable[[], Store], value: Any, wanted: str) -> None:
    """Something false skips what is directly below; its value is the truth; a trigger rule below decides for itself."""
    dag = DAG("d")

    @dag.short_circuit
    async def go() -> Any:
        return value

    named(dag, "a", ["go"])
    named(dag, "b", ["a"])
    named(dag, "end", ["b"], trigger_rule="all_done")
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
        assert await result.pull("go") is (wanted == "success")
    assert (states(result)["a"], states(result)["b"], states(result)["end"]) == (wanted, wanted, "success")


async def test_a_branch_that_is_skipped_or_fails_decides_nothing(open_store: Callable[[], Store]) -> None:
    """What is below goes by its trigger rule alone."""
    dag = DAG("d")

    @dag.branch
    async def skipped() -> None:
        raise Skip("no choice today")

    @dag.short_circuit
    async def failed() -> bool:
        raise ValueError("no")

    for above in ("skipped", "failed"):
        named(dag, f"{above}_plain", [above])
        named(dag, f"{above}_done", [above], trigger_rule="all_done")
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    found = states(result)
    assert (found["skipped_plain"], found["skipped_done"]) == ("skipped", "success")
    assert (found["failed_plain"], found["failed_done"]) == ("upstream_failed", "success")


async def test_a_sync_branch_decides_too(open_store: Callable[[], Store]) -> None:
    """In its thread; and is still the plain function in a unit test."""
    dag = DAG("d")

    @dag.branch
    def choose(n: int = 3) -> str:
        return "odd" if n % 2 else "even"

    named(dag, "odd", ["choose"])
    named(dag, "even", ["choose"])
    assert choose.handler(2) == "even"
    async with Runtime(open_store()) as runtime:
        result = await runtime.run(dag)
    assert (states(result)["odd"], states(result)["even"]) == ("success", "skipped")


async def test_a_decision_holds_over_a_resume(open_store: Callable[[], Store], durability: Durability) -> None:
    """The branch does not run again, and what it did not choose stays skipped."""
    probe = Probe()

    def build() -> DAG:
        dag = DAG("d")

        @dag.branch
        async def choose() -> str:
            probe.note("choose")
            return "held"

        @dag.task(depends_on=choose)
        async def held() -> str:
            await probe.hold("held")
            return "held"

        named(dag, "other", ["choose"])
        named(dag, "other_done", ["other"], trigger_rule="all_done")
        return dag

    async with Runtime(open_store(), durability=durability, on_exit="interrupt") as runtime:
        await runtime.start(build(), run_id="r")
        await probe.reach("held")
    probe.let_go("held")
    async with Runtime(open_store(), durability=durability) as runtime:
        result = await runtime.resume("r", build())
        assert states(result) == {"choose": "success", "held": "success", "other": "skipped", "other_done": "success"}
    assert probe.counts["choose"] == 1


async def test_a_retry_may_choose_otherwise(open_store: Callable[[], Store]) -> None:
    """The former choice is forgotten; a retry of what was not chosen leaves it skipped."""
    choices = iter("ab")
    dag = fan(lambda _: next(choices))
    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r")
        kept = await runtime.retry("r", "b", dag)
        assert (states(kept)["a"], states(kept)["b"], states(kept)["b_below"]) == ("success", "skipped", "skipped")
        again = await runtime.retry("r", "choose", dag)
        assert (states(again)["a"], states(again)["b"]) == ("skipped", "success")
        assert await again.pull("choose") == ["b"]
        assert (states(again)["a_below"], states(again)["b_below"]) == ("skipped", "success")


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("first", range(1, 7))
async def test_a_decision_holds_whichever_write_fails(tmp_path: Path, kind: str, first: int, durability: Durability) -> None:
    """Between the decision's commit and the marks of what it skips as well: both branches must follow the shared task."""
    faults, seen = Faults(), Probe()
    open_store = failing_stores(kind, tmp_path / "runs.db", faults)
    dag = DAG("d")
    for branch in ("one", "two"):

        async def choose(branch: str = branch) -> list[str]:
            await anyio.lowlevel.checkpoint()
            return ["shared"] if branch == "one" else []

        dag.branch(id=branch)(_ended(choose, branch))
        named(dag, f"{branch}_other", [branch])

    @dag.task(depends_on=["one", "two", "one_other", "two_other"], trigger_rule="none_failed")
    async def shared() -> None:
        seen.note("shared")

    async with Runtime(open_store(), durability=durability) as runtime:
        faults.arm(first, is_for_ever=True, is_full=False)
        try:
            result = await runtime.run(dag, run_id="r")
        except StoreError:
            faults.disarm()
            if not await runtime.runs():
                return
            result = await runtime.resume("r", dag)
        faults.disarm()
        assert states(result)["shared"] == "skipped"
        assert not seen.notes


def _ended(choose: Any, branch: str) -> Any:
    async def decide() -> list[str]:
        found: list[str] = await choose(branch)
        return found

    return decide


async def test_many_choices_of_many_take_no_time(open_store: Callable[[], Store]) -> None:
    """A branch over thousands that follows half of them holds nobody up."""
    size = 3_000
    dag = DAG("d")

    @dag.branch
    async def choose() -> list[str]:
        return [f"t{number}" for number in range(0, size, 2)]

    for number in range(size):
        named(dag, f"t{number}", ["choose"])
    async with Runtime(open_store()) as runtime:
        with anyio.fail_after(PATIENCE_S):
            result = await runtime.run(dag)
    assert sum(task.state is TaskState.SKIPPED for task in result.tasks.values()) == size // 2


@pytest.mark.parametrize("is_branch_first", [True, False])
@pytest.mark.parametrize(
    ("rule", "other_fails"),
    [
        ("all_success", True),
        ("none_failed", True),
        ("one_success", False),
        ("one_failed", True),
        ("one_done", False),
        ("always", False),
    ],
)
async def test_what_is_not_followed_is_skipped_whoever_comes_first(
    rule: str, *, other_fails: bool, is_branch_first: bool
) -> None:
    """Though its rule could start it, or fail it, as soon as another upstream has ended."""
    dag, probe = DAG("d"), Probe()

    @dag.branch
    async def choose() -> str:
        if not is_branch_first:
            await probe.reach("first ended")
        return "a"

    @dag.task
    async def other() -> None:
        if is_branch_first:
            await probe.reach("first ended")
        if other_fails:
            raise ValueError("on purpose")

    async def after() -> None:
        probe.open("first ended")

    dag.add(after, depends_on="choose" if is_branch_first else "other", trigger_rule="all_done")
    named(dag, "a", ["choose"])
    named(dag, "left", ["choose", "other"], trigger_rule=rule)
    async with Runtime(":memory:") as runtime:
        result = await runtime.run(dag, raise_on_failure=False)
    assert states(result)["left"] == "skipped"
