"""What the command line writes: JSON for programs, text for people, and nothing that could steer a terminal.

Values, errors and names come from handlers and from stored data. In text for people every character that does not print (escape
sequences, bidirectional marks) is written as an escape; JSON for programs is pure ASCII.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import timedelta

__all__ = (
    "as_dict",
    "clock",
    "compact_json",
    "cut",
    "printable",
    "readable_json",
    "seconds",
    "table",
    "tell",
    "write",
    "write_json",
)


def printable(text: str, *, keep: str = "") -> str:
    """Return text with all characters that do not print, but those to `keep`, as escapes that Python would read."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def readable_json(value: Any) -> str:
    """Return a value as indented JSON for people: letters of all scripts as they are, valid, and safe for a terminal."""
    text = json.dumps(value, ensure_ascii=False, indent=2, default=_plain)
    if text.isprintable():
        return text
    # What does not print can stand only inside a JSON string, where its JSON escape means the same.
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def compact_json(value: Any) -> str:
    """Return a value as one line of JSON for people, safe for a terminal."""
    return printable(json.dumps(value, ensure_ascii=False, default=_plain))


def cut(text: str, limit: int) -> str:
    """Return at most `limit` characters of a text, with three dots where some are missing."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else dict(value)


def as_dict(record: attrs.AttrsInstance) -> dict[str, Any]:
    """Return a record as a dict whose values JSON can say, but for datetimes and mappings, which `write_json` says."""
    return attrs.asdict(record, value_serializer=_leave_mappings)


def _leave_mappings(_record: object, _field: object, value: Any) -> Any:
    return dict(cast("Mapping[str, Any]", value)) if isinstance(value, Mapping) else value


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON in ASCII; without `indent` on one line, for NDJSON."""
    print(json.dumps(value, indent=indent, default=_plain))


def write(text: str = "") -> None:
    """Print text for people, its lines and tabs as they are."""
    print(printable(text, keep="\n\t"))


def tell(text: str, *, prefix: str = "dagrelay: ") -> None:
    """Print to stderr, at once."""
    print(f"{prefix}{printable(text, keep=chr(10) + chr(9))}", file=sys.stderr, flush=True)


def table(rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Return rows of cells as aligned columns, two spaces apart; cells are made safe and single-lined."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        (indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in cells
    )


def clock(moment: datetime | None) -> str:
    """Return a moment (in UTC) to the second, or a dash."""
    return "-" if moment is None else f"{moment:%Y-%m-%d %H:%M:%SZ}"


def seconds(duration: timedelta | None) -> str:
    """Return a duration in seconds, or a dash."""
    return "-" if duration is None else f"{duration.total_seconds():.2f} s"
