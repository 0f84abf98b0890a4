"""A disk without power: from the shim's log of operations, the files as they may be found after a cut.

Sure is only what was synced before the cut. Of what came later, each write and each truncation may have reached the disk or
not, in any order, and a write may have reached it in part, by sectors. A file's name is sure once its directory was synced;
of the changes of names since then a prefix has reached the disk, as journals of file systems have it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from random import Random

__all__ = ("Operation", "cut_power", "read_log")

_RECORD: Final = struct.Struct("=QQIcc2x")
_SECTOR: Final = 512
_SUFFIXES: Final = {"d": "", "w": "-wal", "j": "-journal"}
"""Kinds of files that a power cut leaves, and their names' ends; the shared memory is rebuilt, the lock is nobody's."""


@attrs.frozen
class Operation:
    """One operation on one file."""

    what: str
    """c(reated), w(ritten), t(runcated), s(ynced), u(nlinked)."""
    kind: str
    """Which of the database's files."""
    file: int
    """The number of the file: one that is made again under the same name is another."""
    offset: int
    """Where it was written."""
    length: int
    """How much, or the length to which it was cut."""
    data: bytes
    """What was written."""


def read_log(path: Path) -> list[Operation]:
    """Read the shim's log."""
    raw, at = path.read_bytes(), 0
    operations: list[Operation] = []
    while at < len(raw):
        offset, length, file, what, kind = _RECORD.unpack_from(raw, at)
        at += _RECORD.size
        data = b""
        if what == b"w":
            data = raw[at : at + length]
            at += length
        assert what in b"cwtsu", f"the model of a power cut knows nothing of {what!r}"
        operations.append(Operation(what.decode(), kind.decode(), file, offset, length, data))
    return operations


@attrs.define
class _File:
    sure: bytearray = attrs.field(factory=bytearray)
    unsynced: list[Operation] = attrs.field(factory=list[Operation])

    def sync(self) -> None:
        for operation in self.unsynced:
            _apply(self.sure, operation)
        self.unsynced.clear()

    def after_cut(self, dice: Random) -> bytes:
        content = bytearray(self.sure)
        # Mostly all or nothing of a file's latest writes arrives; any mixture is possible.
        chance = dice.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        for operation in self.unsynced:
            if dice.random() < chance:
                _apply(content, _torn(operation, dice) if dice.random() < 0.2 else operation)
        return bytes(content)


def _apply(content: bytearray, operation: Operation) -> None:
    if operation.what == "t":
        del content[operation.length :]
        content.extend(bytes(operation.length - len(content)))
    else:
        content.extend(bytes(max(0, operation.offset - len(content))))
        content[operation.offset : operation.offset + len(operation.data)] = operation.data


def _torn(operation: Operation, dice: Random) -> Operation:
    """Return an operation of which only the beginning, or the end, arrives."""
    sectors = len(operation.data) // _SECTOR
    if sectors < 2:
        return operation
    cut = _SECTOR * dice.randrange(1, sectors)
    if dice.random() < 0.5:
        return attrs.evolve(operation, data=operation.data[:cut])
    return attrs.evolve(operation, data=operation.data[cut:], offset=operation.offset + cut)


def cut_power(operations: Iterable[Operation], dice: Random, database: Path) -> bytes:
    """Write the files as they may be after these operations and a power cut; return the side file of acknowledgements.

    The side file stands for what was told to the world outside: all of it counts.
    """
    files: dict[int, _File] = {}
    sure_names: dict[str, int] = {}
    changes: list[Operation] = []
    acks = bytearray()
    for operation in operations:
        match operation.what, operation.kind:
            case "w", "a":
                acks += operation.data
            case _, "a" | "l" | "s":
                pass
            case "s", "D":
                for change in changes:
                    _rename(sure_names, change)
                changes.clear()
            case "c", _:
                files[operation.file] = _File()
                changes.append(operation)
            case "u", _:
                changes.append(operation)
            case "s", _:
                files[operation.file].sync()
            case _:
                files[operation.file].unsynced.append(operation)
    for change in changes[: dice.randint(0, len(changes))]:
        _rename(sure_names, change)
    for kind, number in sure_names.items():
        database.with_name(database.name + _SUFFIXES[kind]).write_bytes(files[number].after_cut(dice))
    return bytes(acks)


def _rename(names: dict[str, int], change: Operation) -> None:
    if change.what == "c":
        names[change.kind] = change.file
    else:
        names.pop(change.kind, None)
