"""Hamilton's AsyncDriver as a measured system, in memory, called as `hamilton_async.py WORKLOAD FOLDER`."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.append(str(Path(__file__).parents[1]))

from hamilton import async_driver

from measuring import serve
from workloads import WARM_UP, WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import ModuleType


def _module(workload: Workload, folder: Path) -> ModuleType:
    """Return a workload as Hamilton wants it: a module with a function for each task, whose parameters name its parents."""
    lines = ["from workloads import body"]
    for number, indices in enumerate(workload.parents):
        parents = [f"t{index}" for index in indices]
        lines += [
            f"async def t{number}({', '.join(f'{parent}: dict' for parent in parents)}) -> dict:",
            f"    return body([{', '.join(parents)}], is_big={workload.is_big})",
        ]
    name = f"measured_{workload.name.replace('-', '_')}"
    path = folder / f"{name}.py"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _driver(workload: Workload, folder: Path) -> Callable[[], Awaitable[int]]:
    driver = await async_driver.Builder().with_modules(_module(workload, folder)).build()
    last = f"t{workload.size - 1}"

    async def run() -> int:
        return int((await driver.execute([last]))[last]["n"])

    return run


async def _main(workload: Workload, folder: Path) -> None:
    await (await _driver(WARM_UP, folder))()
    run = await _driver(workload, folder)
    await serve(workload, run, read_line=lambda: asyncio.to_thread(sys.stdin.readline), sleep=asyncio.sleep)


if __name__ == "__main__":
    asyncio.run(_main(WORKLOADS[sys.argv[1]], Path(sys.argv[2])))
