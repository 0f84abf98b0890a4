"""The commands that look after a store as a whole: `backup` and `check`. They change nothing in it, and work beside its owner."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from dagrelay.cli.exits import ExitCode
from dagrelay.cli.output import as_dict, printable, write, write_json
from dagrelay.cli.places import existing_store
from dagrelay.stores.sqlite.check import StoreCheck
from dagrelay.stores.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from argparse import Namespace

__all__ = ("backup", "check")


def backup(options: Namespace) -> ExitCode:
    """Copy a store, as it is at one moment, to a new file."""
    path, target = existing_store(options), Path(options.target).absolute()

    async def copy() -> int:
        store = SqliteStore(path, read_only=True)
        await store.open(now_us=0)
        try:
            await store.backup(target)
        finally:
            await store.close()  # noqa: ASYNC102 - it shields itself
        return (await anyio.Path(target).stat()).st_size

    size_bytes = anyio.run(copy)
    if options.json:
        write_json({"store": str(path), "target": str(target), "size_bytes": size_bytes})
    else:
        write(f"{printable(str(path))} is backed up to {printable(str(target))} ({size_bytes:,} bytes)")
    return ExitCode.SUCCESS


def check(options: Namespace) -> ExitCode:
    """Look a whole store over: damaged rows, states nobody can have written, and what can be resumed."""
    path, count = existing_store(options), 0
    with StoreCheck(path) as store:
        for finding in store.findings():
            count += 1
            if options.json:
                write_json({"type": "finding", **as_dict(finding)}, indent=None)
            else:
                write(f"finding: {printable(str(finding))}")
        for run in store.resumable():
            if options.json:
                write_json({"type": "resumable", **as_dict(run)}, indent=None)
            else:
                write(f"can be resumed: run {printable(run.run_id)} of DAG {printable(run.dag_id)}")
        if options.json:
            facts = {"store": str(path), "schema_version": store.schema_version, "rows": store.rows, "findings": count}
            write_json({"type": "summary", **facts}, indent=None)
        else:
            told = "no findings" if count == 0 else "1 finding" if count == 1 else f"{count:,} findings"
            write(f"{printable(str(path))}: schema {store.schema_version}, {sum(store.rows.values()):,} rows, {told}")
    return ExitCode.FAILED if count else ExitCode.SUCCESS
