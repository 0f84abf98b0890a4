"""What is in a database file, read behind the store's back while it is closed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("Dump", "dump", "edit")


@attrs.frozen
class Dump:
    """A database: its schema, and the rows of each table but `owner`, which tells who opened it last."""

    schema: list[tuple[Any, ...]]
    """Type, name and SQL of whatever there is."""
    tables: dict[str, list[dict[str, Any]]]
    """Rows by table, each a mapping of column to value."""

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each table has."""
        return {name: len(rows) for name, rows in self.tables.items()}

    def columns_with(self, text: str) -> set[str]:
        """Return the columns, as `table.column`, that have a text somewhere in them."""
        return {
            f"{table}.{column}"
            for table, rows in self.tables.items()
            for row in rows
            for column, value in row.items()
            if text in (value.decode(errors="replace") if isinstance(value, bytes) else str(value))
        }


def dump(path: Path) -> Dump:
    """Return all that is in a closed database."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        schema = connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()
        connection.row_factory = sqlite3.Row
        tables = {
            name: [dict(row) for row in connection.execute(f'SELECT * FROM "{name}"')]  # noqa: S608 - names of our own tables
            for kind, name, _ in schema
            if kind == "table" and name != "owner"
        }
    return Dump(schema, tables)


def edit(path: Path, statement: str, *parameters: object) -> None:
    """Change rows of a closed database by hand."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement, parameters).rowcount > 0
