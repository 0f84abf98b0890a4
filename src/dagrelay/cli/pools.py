"""Pools on a command line: `--pool NAME=SLOTS` or `--pool NAME=SLOTS:PER_S`, for DAGs whose tasks name some."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Final

from dagrelay.cli.exits import CommandError
from dagrelay.model.policies import Limits, Pool

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from dagrelay.cli.target import Target

__all__ = ("limits_for", "parse_pools", "pool_words")

_POOL: Final = re.compile(r"(?P<name>.+)=(?P<slots>[0-9]{1,9})(?::(?P<per_s>[0-9.]{1,20}))?", re.DOTALL)


def limits_for(options: Namespace, target: Target) -> Limits:
    """Return a runtime's limits with the pools of the options, among which are all that the DAG's tasks name.

    Raises:
        CommandError: a task names another one, or a pool is not understood.
        DAGValidationError: the DAG can't be planned.
    """
    limits = Limits(pools=parse_pools(options.pools))
    named: dict[str, str] = {}
    for task in target.dag.plan(limits=limits).tasks:
        if task.pool is not None and task.pool not in limits.pools:
            named.setdefault(task.pool, task.task_id)
    if named:
        told = "; ".join(f"task {task_id!r} names the pool {pool!r}" for pool, task_id in named.items())
        words = " ".join(f"--pool {shlex.quote(pool)}=SLOTS" for pool in named)
        known = f" beside {', '.join(map(repr, limits.pools))}" if limits.pools else ""
        raise CommandError(f"DAG {target.dag.dag_id!r} needs pools{known}: {told}; give it by {words}")
    return limits


def parse_pools(texts: Sequence[str]) -> dict[str, Pool]:
    """Return the pools of `NAME=SLOTS` and `NAME=SLOTS:PER_S` by name; the last of a name wins.

    Raises:
        CommandError: one has no name, or its numbers are none, or too small.
    """
    pools: dict[str, Pool] = {}
    for text in texts:
        found = _POOL.fullmatch(text)
        if found is None:
            raise CommandError(f"{text!r} is no pool; use --pool NAME=SLOTS, or NAME=SLOTS:PER_S to bound starts in a second")
        try:
            per_s = None if found["per_s"] is None else float(found["per_s"])
            pools[found["name"]] = Pool(int(found["slots"]), per_s=per_s)
        except ValueError as error:
            raise CommandError(f"{text!r} is no pool: {error}") from error
    return pools


def pool_words(options: Namespace) -> tuple[str, ...]:
    """Return the options that give the same pools again."""
    return tuple(f"--pool={text}" for text in options.pools)
