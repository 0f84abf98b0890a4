"""Lineage: which attempt has read which entry, whatever way, without a write of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import attrs
import pytest

from dagrelay import (
    DAG,
    AttemptReads,
    EntryRead,
    MemoryStore,
    RunNotFoundError,
    Runtime,
    Skip,
    StoreCorruptError,
    TaskContext,
    TriggerRule,
    each,
    template,
)
from dagrelay.stores.operations import FinishAttempt, StartAttempt
from dagrelay.testing import FaultyStore
from tests.runtime.probes import Probe, chain_of, retried

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagrelay import Durability, Store
    from dagrelay.stores.base import RunImage

Shown: TypeAlias = "dict[str, list[tuple[str, int | None, str, int | None]]]"


def shown(lineage: list[AttemptReads], run_id: str = "r") -> Shown:
    """Return lineage in short: what was read, with its run where that is another's, by reader."""
    return {
        (each.task_id if each.map_index is None else f"{each.task_id}[{each.map_index}]"): [
            (
                read.task_id if read.run_id == run_id else f"{read.run_id}/{read.task_id}",
                read.map_index,
                read.key,
                read.attempt,
            )
            for read in each.reads
        ]
        for each in lineage
    }


VALUE = "return_value"


async def test_whatever_inputs_read_is_told(open_store: Callable[[], Store], durability: Durability) -> None:
    """Parameters, templates and config, what a task is mapped over, and earlier runs; what was not there is no read."""
    dag = DAG("d")

    @dag.task
    async def a(ctx: TaskContext, last: str = template("{{ previous.a.note | default(0) }}")) -> list[int]:
        await ctx.xcom.push("note", int(last) + 1)
        return [1, 2]

    @dag.task
    async def skipped() -> int:
        raise Skip

    @dag.task(config={"note": "{{ xcom.a.note }}", "none": "{{ xcom.a.none | default(1) }}"})
    async def b(ctx: TaskContext, items: list[int] = a.output, first: int = a.output[0]) -> int:
        return len([ctx, items]) + first

    @dag.task
    async def mapped(item: int = a.each, extra: int = b.output, also: int = each([1])) -> int:
        return item + extra + also

    @dag.task(trigger_rule=TriggerRule.NONE_FAILED)
    async def end(all_: list[int] = mapped.outputs, or_: int = skipped.output_or(0)) -> int:
        return sum(all_) + or_

    async with Runtime(open_store(), durability=durability) as runtime:
        await runtime.run(dag, run_id="r0")
        await runtime.run(dag, run_id="r")
        lineage = await runtime.lineage("r")
        first = await runtime.lineage("r0")
    assert shown(lineage) == {
        "a": [("r0/a", None, "note", 1)],
        "b": [("a", None, VALUE, 1), ("a", None, "note", 1)],
        "mapped": [("a", None, VALUE, 1)],
        "mapped[0]": [("b", None, VALUE, 1)],
        "mapped[1]": [("b", None, VALUE, 1)],
        "end": [("mapped", None, VALUE, None)],
    }
    assert "a" not in shown(first)
    assert lineage[0] == AttemptReads(
        run_id="r", task_id="a", attempt=1, reads=(EntryRead(run_id="r0", task_id="a", key="note", attempt=1),)
    )


async def test_whatever_a_handler_reads_is_told(open_store: Callable[[], Store], durability: Durability) -> None:
    """Each once, in order, with the slot in which it was found."""
    probe, dag = Probe(), DAG("d")

    @dag.task(retries=retried(1))
    async def a(ctx: TaskContext) -> int:
        await ctx.xcom.push("kept", 1, lifetime="task")
        if ctx.attempt == 1:
            raise ValueError("again")
        return 2

    @dag.task
    async def mapped(item: int = each([1, 2])) -> int:
        return item

    @dag.task
    async def beside(ctx: TaskContext) -> None:
        await ctx.xcom.push("shown", 1, publish=True)
        await probe.hold("beside")

    @dag.task(depends_on=[a, mapped])
    async def read(ctx: TaskContext, value: int = a.output) -> None:
        xcom = ctx.xcom
        await xcom.pull(["a"], "kept")
        await xcom.pull("a", "outside")
        await xcom.pull(a)
        await xcom.pull("a", "nothing", default=value)
        await xcom.pull_outputs(mapped)
        await xcom.wait(beside, "shown")
        probe.let_go("beside")
        await xcom.previous(a)
        await xcom.of_run("r0").pull("a", "outside")
        await xcom.of_run("r0").pull("mapped", map_index=1)
        await xcom.of_run("r0").pull_outputs("mapped")

    @dag.task(depends_on=[a, mapped])
    async def gather(ctx: TaskContext) -> None:
        await ctx.xcom.pull_from_upstream()

    async with Runtime(open_store(), durability=durability) as runtime:
        for run_id in ("r0", "r"):
            if run_id == "r0":
                await runtime.xcom.push("none", "a", "outside", 1)
            await runtime.xcom.push(run_id, "a", "outside", 1)
            await runtime.run(dag, run_id=run_id, raise_on_failure=False)
        lineage = shown(await runtime.lineage("r"))
    assert lineage == {
        "read": [
            ("a", None, VALUE, 2),
            ("a", None, "kept", -1),
            ("a", None, "outside", 0),
            ("mapped", None, VALUE, None),
            ("beside", None, "shown", 1),
            ("r0/a", None, VALUE, 2),
            ("r0/a", None, "outside", 0),
            ("r0/mapped", 1, VALUE, 1),
            ("r0/mapped", None, VALUE, None),
        ],
        "gather": [
            ("a", None, "kept", -1),
            ("a", None, "outside", 0),
            ("a", None, VALUE, 2),
            ("mapped", None, VALUE, None),
        ],
    }


@pytest.mark.parametrize("retries", [0, 1])
async def test_a_failed_attempt_tells_what_it_read(open_store: Callable[[], Store], retries: int) -> None:
    """The latest one does: each has its own."""
    dag = DAG("d")

    @dag.task
    async def a(ctx: TaskContext) -> int:
        await ctx.xcom.push("k", 1)
        return 1

    @dag.task(retries=retried(retries))
    async def b(ctx: TaskContext, x: int = a.output) -> int:
        if ctx.attempt == 1:
            await ctx.xcom.pull("a", "k")
            raise ValueError("b")
        return x

    async with Runtime(open_store()) as runtime:
        await runtime.run(dag, run_id="r", raise_on_failure=False)
        (told,) = await runtime.lineage("r")
    assert (told.attempt, len(told.reads)) == ((1, 2), (2, 1))[retries]


async def test_lineage_is_no_write_of_its_own(open_store: Callable[[], Store]) -> None:
    """It goes with the outcome; 10,000 elements are one read, and a long list is cut."""
    count = 1_200
    dag = DAG("d")
    many = [dag.add(one, id=f"t{number}") for number in range(count)]

    @dag.task
    async def mapped(item: int = each(list(range(2_000)))) -> int:
        return item

    @dag.task(depends_on=[mapped, *many])
    async def read(ctx: TaskContext) -> int:
        await ctx.xcom.pull_outputs("mapped")
        await ctx.xcom.pull([task.id for task in many])
        return len(await ctx.xcom.pull([task.id for task in many]))

    store = FaultyStore(open_store())
    async with Runtime(store) as runtime:
        await runtime.run(dag, run_id="r")
        (told,) = await runtime.lineage("r")
    operations = [op for batch in store.batches for op in batch if getattr(op, "instance", ("", ""))[1] == "read"]
    assert [type(op) for op in operations if not isinstance(op, StartAttempt)] == [FinishAttempt]
    assert (len(told.reads), told.left_out) == (1_000, 2 * 201)
    assert told.reads[0] == EntryRead(run_id="r", task_id="mapped", key=VALUE, attempt=None)


async def one() -> int:
    """Return one."""
    return 1


async def test_lineage_is_kept_over_a_resume(open_store: Callable[[], Store]) -> None:
    """What had ended tells what it had read then."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", "c", held="c")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        await runtime.start(dag, run_id="r")
        await probe.reach("c")
        assert list(shown(await runtime.lineage("r"))) == ["b"]
    probe.let_go("c")
    async with Runtime(open_store()) as runtime:
        await runtime.resume("r", dag)
        lineage = await runtime.lineage("r")
    assert shown(lineage) == {"b": [("a", None, VALUE, 1)], "c": [("b", None, VALUE, 1)]}
    assert [each.attempt for each in lineage] == [1, 2]


async def test_what_a_fork_copied_keeps_the_name_of_its_run(open_store: Callable[[], Store]) -> None:
    """As reader and as what is read; over several forks, resumes and runs that are gone."""
    probe = Probe()
    dag = chain_of(probe, "a", "b", "c", "d", held="d")
    async with Runtime(open_store(), on_exit="interrupt") as runtime:
        probe.let_go("d")
        await runtime.run(dag, run_id="r0")
        await (await runtime.fork("r0", dag, from_task="c", new_run_id="r1")).result()
        probe.shut("d:go")
        probe.shut("d")
        await runtime.fork("r1", dag, from_task="d", new_run_id="r")
        await probe.reach("d")
    probe.let_go("d")
    async with Runtime(open_store()) as runtime:
        await runtime.resume("r", dag)
        told = await runtime.lineage("r")
        assert [(each.run_id, each.task_id, each.attempt) for each in told] == [("r0", "b", 1), ("r1", "c", 1), ("r", "d", 2)]
        assert shown(told) == {
            "b": [("r0/a", None, VALUE, 1)],
            "c": [("r0/b", None, VALUE, 1)],
            "d": [("r1/c", None, VALUE, 1)],
        }
        await runtime.retry("r", "c", dag)
        assert shown(await runtime.lineage("r")) == {
            "b": [("r0/a", None, VALUE, 1)],
            "c": [("r0/b", None, VALUE, 1)],
            "d": [("c", None, VALUE, 2)],
        }
        await runtime.delete_run("r1")
        assert shown(await runtime.lineage("r"))["c"] == [("r1/b", None, VALUE, 1)]  # Further back nothing is known then.


async def test_a_mapped_and_an_outside_task_of_a_fork_are_its_own(open_store: Callable[[], Store]) -> None:
    """As is a task that reads nothing."""
    dag = DAG("d")
    given = dag.external("given")

    @dag.task
    async def none() -> int:
        return 1

    @dag.task(depends_on=none)
    async def mapped(item: int = each([1])) -> int:
        return item

    @dag.task
    async def end(x: Any = given.output, y: list[int] = mapped.outputs, z: int = none.output) -> Any:
        return [x, y, z]

    async with Runtime(open_store()) as runtime:
        for run_id in ("r0", "r", "s"):
            if run_id == "r0":
                handle = await runtime.start(dag, run_id=run_id)
            else:
                handle = await runtime.fork("r0", dag, from_task="given" if run_id == "s" else "none", new_run_id=run_id)
            if run_id != "r":
                await runtime.provide(run_id, "given", 1)
            await handle.result()
        assert shown(await runtime.lineage("r")) == {
            "end": [("r0/given", None, VALUE, 0), ("mapped", None, VALUE, None), ("none", None, VALUE, 1)]
        }
        assert shown(await runtime.lineage("s"), "s")["end"][0] == ("given", None, VALUE, 0)


async def test_there_is_no_lineage_of_a_run_that_is_not_there(open_store: Callable[[], Store]) -> None:
    """Near ids are named; a run in which nothing was read has none."""
    async with Runtime(open_store()) as runtime:
        await runtime.run(DAG("empty"), run_id="run-1")
        assert await runtime.lineage("run-1") == []
        with pytest.raises(RunNotFoundError, match="run-1"):
            await runtime.lineage("run-2")


class Damaged(FaultyStore):
    """Has rows whose lineage somebody edited."""

    async def load_run(self, run_id: str) -> RunImage | None:
        """Return an image, edited."""
        image = await super().load_run(run_id)
        assert image is not None
        return attrs.evolve(image, instances=tuple(attrs.evolve(row, lineage="[1, 2]") for row in image.instances))


async def test_lineage_that_was_edited_is_told_to_be_damaged() -> None:
    """With the task's name."""
    async with Runtime(Damaged(MemoryStore())) as runtime:
        await runtime.run(chain_of(Probe(), "a", "b"), run_id="r")
        with pytest.raises(StoreCorruptError, match="the lineage of task 'a' in run 'r' can't be understood"):
            await runtime.lineage("r")
