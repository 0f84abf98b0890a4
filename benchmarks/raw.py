"""SQLite alone, in one thread: the least that durable rows cost, with the settings that dagrelay has (WAL, synchronous=FULL)."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ("BATCH", "SELECT_VALUE", "RawStore", "StateRow", "ValueRow", "codec")

BATCH: Final = 1024
"""Rows of a table in one transaction."""
SELECT_VALUE: Final = "SELECT value FROM xcom WHERE run = ? AND task = ? AND key = ?"

_TABLES: Final = (
    "CREATE TABLE xcom (run INT, task INT, key TEXT, at REAL, size INT, value BLOB, PRIMARY KEY (run, task, key))",
    "CREATE TABLE state (run INT, task INT, state INT, started REAL, ended REAL, PRIMARY KEY (run, task)) WITHOUT ROWID",
)
_INSERT_VALUE: Final = "INSERT INTO xcom VALUES (?, ?, ?, ?, ?, ?)"
_INSERT_STATE: Final = "INSERT INTO state VALUES (?, ?, ?, ?, ?)"
_CHECKPOINT_PAGES: Final = 4000  # Fewer checkpoints than by default: a floor is to be as low as it can be.

ValueRow: TypeAlias = tuple[int, int, str, float, int, bytes]
StateRow: TypeAlias = tuple[int, int, int, float, float]


def codec() -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return what writes and reads JSON: orjson where it is installed, as in dagrelay."""
    try:
        import orjson  # noqa: PLC0415 - optional
    except ImportError:
        return (lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()), json.loads
    return orjson.dumps, orjson.loads


class RawStore:
    """A new database, for use by one thread at a time, whichever that is."""

    def __init__(self, path: Path) -> None:
        """Make the file and its tables."""
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for setting in ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={_CHECKPOINT_PAGES}"):
            self._connection.execute(f"PRAGMA {setting}").fetchall()
        for table in _TABLES:
            self._connection.execute(table)

    def write(self, values: Sequence[ValueRow], states: Sequence[StateRow] = ()) -> None:
        """Write rows, `BATCH` of a table in each transaction; on disk when this returns."""
        for start in range(0, len(values), BATCH):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT_VALUE, values[start : start + BATCH])
            if states:
                self._connection.executemany(_INSERT_STATE, states[start : start + BATCH])
            self._connection.execute("COMMIT")

    def write_one(self, value: ValueRow) -> None:
        """Write a row as a transaction of its own."""
        self._connection.execute(_INSERT_VALUE, value)

    def read_one(self, run: int, task: int, key: str) -> bytes:
        """Return a value that is there."""
        value: bytes = self._connection.execute(SELECT_VALUE, (run, task, key)).fetchone()[0]
        return value

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
