"""What the figures were measured on: machine, disk, versions."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

__all__ = ("describe", "full_commit_s")

_PACKAGES: Final = ("dagrelay", "anyio", "aiosqlite", "attrs", "cattrs", "trio", "orjson", "uvloop")
_PROBES: Final = 50


def describe(folder: Path) -> dict[str, str]:
    """Return facts by name; `folder` is where the databases will be."""
    packages = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    return {
        "machine": f"{os.cpu_count()} x {_processor()}, {_memory()}, {platform.system()} {platform.release()}",
        "load": f"{os.getloadavg()[0]:.2f} (one minute, at the start)",
        "disk": f"{_file_system(folder)}; one FULL commit of a 200 B row takes {full_commit_s(folder) * 1000:.2f} ms (median)",
        "versions": f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}",
        "values": f"encoded by {'json' if _version('orjson') == 'none' else 'orjson'} in dagrelay and in the floors",
    }


def full_commit_s(folder: Path) -> float:
    """Return how long one small durable commit takes on this disk: what decides every figure that waits for one."""
    path = folder / "probe.db"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE probe (value BLOB)")
        times: list[float] = []
        for _ in range(_PROBES):
            start = time.perf_counter()
            connection.execute("INSERT INTO probe VALUES (?)", (b"x" * 200,))
            times.append(time.perf_counter() - start)
    finally:
        connection.close()
        path.unlink()
    return statistics.median(times)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _processor() -> str:
    return _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def _memory() -> str:
    size = _field(Path("/proc/meminfo"), "MemTotal")
    return f"{int(size.split()[0]) / 2**20:.0f} GiB" if size else "memory unknown"


def _field(path: Path, name: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds a folder."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    except OSError:
        return "file system unknown"
    holding = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(holding, key=lambda mount: len(mount[1]))[2] if holding else "file system unknown"
