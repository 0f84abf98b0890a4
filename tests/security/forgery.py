"""Rows as somebody would write them who can write the file: whatever they say, their checksums are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from dagrelay.stores.sqlite import rows
from tests.security.dumps import dump, edit

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ("forge", "forge_entry")


def forge_entry(path: Path, key: str, **changes: Any) -> None:
    """Change columns of an entry; a new value brings its size and checksum along unless they are given."""
    if "value" in changes:
        changes = {"size": len(changes["value"]), "value_crc": crc32(changes["value"])} | changes
    (row,) = (each for each in dump(path).tables["xcom"] if each["key"] == key)
    fields = tuple((row | changes).values())[:14]
    changes["crc"] = rows._entry_checksum(fields)  # pyright: ignore[reportPrivateUsage] - a forger can compute it as well
    statement = f"UPDATE xcom SET {_assignments(changes)} WHERE key = ?"  # noqa: S608 - names of our own columns
    edit(path, statement, *changes.values(), key)


def forge(path: Path, table: str, **changes: Any) -> None:
    """Change columns of the first row of a table of another kind."""
    row = dump(path).tables[table][0]
    fields = row | changes
    del fields["crc"]
    if table == "instance":
        whole = tuple(fields.values())
        crc = rows.instance_checksum(whole[:13], whole[13:])
    else:
        # The large column of these tables stands last, and for itself its checksum is covered.
        large = {"plan": "body", "run": "params"}.get(table)
        crc = rows.checksum(tuple(crc32(value) if name == large else value for name, value in fields.items()))
    changes["crc"] = crc
    where = " AND ".join(f"{name} IS ?" for name in row)
    statement = f"UPDATE {table} SET {_assignments(changes)} WHERE {where}"  # noqa: S608 - as above
    edit(path, statement, *changes.values(), *row.values())


def _assignments(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name} = ?" for name in changes)
