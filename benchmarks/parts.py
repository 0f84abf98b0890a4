"""What no run of a graph tells, part by part: `python benchmarks/parts.py [--quick] [--only NAME,...] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import loops
import pulls
import pushes
import rendering
import resuming
import starting
import width
from figures import as_text
from machine import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from figures import Part

_PARTS: Final[dict[str, Callable[..., Part]]] = {
    "pushes": pushes.measure,
    "pulls": pulls.measure,
    "templates": rendering.measure,
    "wide": width.measure,
    "cold-start": starting.measure,
    "resume": resuming.measure,
    "layered": loops.measure,
}
_CAVEATS: Final = """\
Read this first.
- Tasks do nothing: the tables show what the runtime costs, not what your work costs.
- What stands beside dagrelay is no competitor but a floor: the same rows, or the same text, without states, events, checks,
  limits, checksums, retries or cancellation.
- Figures that wait for commits measure the disk. Virtual disks often sync in a fraction of a real one's time.
- Only ratios within one run mean anything, and under 1.5x on a shared machine not much. Turns are interleaved, and each ratio is
  taken between turns of one round. Absolute figures of another run, or of another part, are not comparable.
- Medians; min-max is the range over the rounds."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What no run of a graph tells, part by part.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and nothing with 100,000 tasks")
    parser.add_argument("--only", metavar="NAME,...", default="", help=f"these of {', '.join(_PARTS)} (parts of names will do)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--folder", type=Path, help="where the databases go; the disk decides (default: the temporary folder)")
    arguments = parser.parse_args()
    names = [name.strip().lower() for name in arguments.only.split(",") if name.strip()]
    for name in names:
        if not any(name in known for known in _PARTS):
            parser.error(f"--only: no part is named like {name!r}")
    arguments.parts = [known for known in _PARTS if not names or any(name in known for name in names)]
    return arguments


def main() -> int:
    """Measure, print, and return 1 if a part failed."""
    arguments = _arguments()
    report: dict[str, Any] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dagrelay-parts-", dir=arguments.folder) as name:
        folder = Path(name)
        facts = describe(folder)
        print(_CAVEATS, "", *(f"{fact}: {text}" for fact, text in facts.items()), sep="\n", flush=True)
        for part in arguments.parts:
            own = folder / part
            own.mkdir()
            try:
                told = _PARTS[part](own, is_quick=arguments.quick)
            except (RuntimeError, subprocess.TimeoutExpired) as failure:
                print(f"\n## {part} failed: {failure}", flush=True)
                failed.append(part)
                continue
            finally:
                shutil.rmtree(own, ignore_errors=True)
            print(f"\n{as_text(told)}", flush=True)
            report[part] = {"ratios": told.ratios, "samples": told.samples}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"facts": facts, "parts": report}, indent=1) + os.linesep, encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
