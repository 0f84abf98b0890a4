"""How a command ends: its exit codes, and the error that says in one line what was wrong with it."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from dagrelay.errors import DagrelayError, RunCancelledError, RunInterruptedError, StoreError

__all__ = ("EXIT_CODES", "CommandError", "ExitCode", "exit_code_of")


class ExitCode(IntEnum):
    """What a shell is told."""

    SUCCESS = 0
    FAILED = 1
    WRONG = 2
    CANCELLED = 3
    STORE = 4
    SIGINT = 130
    OUTPUT_CLOSED = 141
    SIGTERM = 143


EXIT_CODES: Final = """\
exit codes:
  0    done; of provide, cancel and retry also: accepted, and carried out as soon as the store's owner gets to it
  1    the run failed, or a check found something
  2    wrong usage, a bad DAG or param, something that is not there (a run, a task, a key, a file), or a refusal
  3    the run was cancelled
  4    the store failed, or another process writes to it
  130  interrupted by SIGINT (Ctrl-C); the run is recorded and can be resumed
  141  nobody read the output any more
  143  interrupted by SIGTERM; the run is recorded and can be resumed
"""
"""The exit codes in words, for `--help`."""


class CommandError(Exception):
    """A command can't do what was asked of it; the message says what to do about it."""

    def __init__(self, message: str, *, details: str = "") -> None:
        """Take the message, and what is to be printed before it (a traceback of the user's own module)."""
        self.details = details
        super().__init__(message)


def exit_code_of(error: DagrelayError) -> ExitCode:
    """Return the exit code that an error of the library means."""
    match error:
        case RunCancelledError():
            return ExitCode.CANCELLED
        case StoreError() | RunInterruptedError():
            return ExitCode.STORE
        case _:
            return ExitCode.WRONG
