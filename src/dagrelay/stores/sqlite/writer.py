"""One batch as one unit of work: one transaction, and what to do when it fails."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeAlias

import attrs

from dagrelay.errors import DagrelayError, StaleOwnerError, StoreError, StoreVanishedError
from dagrelay.stores.operations import run_id_of
from dagrelay.stores.sqlite.changes import Changes, Names
from dagrelay.stores.sqlite.faults import is_busy, store_error
from dagrelay.stores.sqlite.writes import Attempted, carry_out, interrupt_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from dagrelay.stores.operations import Operation

__all__ = ("Result", "Writer")

Result: TypeAlias = int | DagrelayError

_FENCE = "UPDATE owner SET last_batch = ? WHERE one = 1 AND epoch = ?"


class _TransactionLostError(Exception):
    """SQLite has rolled the whole transaction back by itself, so that it has to be begun again."""


@attrs.define
class Writer:
    """Applies batches as the owner of one epoch; its methods are units of work of the writing connection."""

    path: str
    """The database, for error messages."""
    replays: int = 0
    """Batches that were applied again one by one."""
    _names: Names = attrs.field(factory=Names)
    _epoch: int = 0
    # The number of the latest transaction: with it a transaction whose COMMIT failed is found, or not found, in the database.
    _token: int = 0
    _file: tuple[int, int] | None = None

    def take_over(self, connection: sqlite3.Connection, *, now_us: int) -> None:
        """Become the owner, and mark what ran under an earlier one as interrupted."""
        status = os.stat(self.path)  # noqa: PTH116 - as in `_check_file`
        self._file = (status.st_dev, status.st_ino)
        self._token = 0
        self._names.forget()
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._epoch = 1 + connection.execute("SELECT epoch FROM owner").fetchone()[0]
            connection.execute(
                "UPDATE owner SET epoch = ?, last_batch = 0, pid = ?, opened_us = ?", (self._epoch, os.getpid(), now_us)
            )
            with self._changes(connection) as changes:
                interrupt_runs(changes, now_us=now_us)
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back(connection)
            raise

    def apply(self, connection: sqlite3.Connection, batch: Sequence[Operation]) -> list[Result]:
        """Apply a batch and return a result for each operation.

        Raises:
            StaleOwnerError: another owner has taken over.
            StoreVanishedError: the file is not the one that was opened.
            sqlite3.Error: nothing was applied.
        """
        self._check_file()
        try:
            return self._transaction(connection, lambda: self._together(connection, batch))
        except StaleOwnerError:
            raise
        except Exception as error:
            if is_busy(error):
                raise
            # A failed member must not take the others with it, nor must the order change: again, one by one.
            self.replays += 1
            return self._one_by_one(connection, batch)

    def _check_file(self) -> None:
        try:
            status = os.stat(self.path)  # noqa: PTH116 - a Path would cost more than the call, for every batch
        except OSError as error:
            raise StoreVanishedError(self.path) from error
        if (status.st_dev, status.st_ino) != self._file:
            raise StoreVanishedError(self.path)

    def _transaction(self, connection: sqlite3.Connection, body: Callable[[], list[Result]]) -> list[Result]:
        self._token += 1
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._check_owner(connection)
            results = body()
        except BaseException:
            self._roll_back(connection)
            raise
        try:
            connection.execute("COMMIT")
        except sqlite3.Error:
            # It may have been committed all the same. If it can't be found out, this raises: then nobody is told "done".
            self._roll_back(connection)
            if not self._has_committed(connection):
                raise
        self._names.trim()
        return results

    @contextmanager
    def _changes(self, connection: sqlite3.Connection) -> Generator[Changes]:
        """Give changes to make, and write them on a normal exit."""
        # Closed, since an exception's traceback may keep it, and an open statement its connection beyond its close.
        with closing(connection.cursor()) as cursor:
            changes = Changes(cursor, self._names, self.path)
            yield changes
            changes.flush()

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        if connection.execute(_FENCE, (self._token, self._epoch)).rowcount != 1:
            raise StaleOwnerError(self.path)

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        self._names.forget()
        # After some errors SQLite has rolled back by itself; a ROLLBACK would then be an error of its own.
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _has_committed(self, connection: sqlite3.Connection) -> bool:
        found: tuple[int, int] = connection.execute("SELECT epoch, last_batch FROM owner").fetchone()
        return found == (self._epoch, self._token)

    def _together(self, connection: sqlite3.Connection, batch: Sequence[Operation]) -> list[Result]:
        results: list[Result] = []
        with self._changes(connection) as changes:
            changes.foresee(op.instance for op in batch if isinstance(op, Attempted))
            for op in batch:
                try:
                    results.append(carry_out(changes, op))
                except StoreError:
                    raise
                except DagrelayError as refusal:
                    # Its traceback would lead back to the list it stands in.
                    results.append(refusal.with_traceback(None))
        return results

    def _one_by_one(self, connection: sqlite3.Connection, batch: Sequence[Operation]) -> list[Result]:
        failed: dict[int, StoreError] = {}
        while True:
            try:
                return self._transaction(connection, lambda: self._separately(connection, batch, failed))
            except _TransactionLostError:
                continue  # Each time one more has failed, so that this comes to an end.

    def _separately(
        self, connection: sqlite3.Connection, batch: Sequence[Operation], failed: dict[int, StoreError]
    ) -> list[Result]:
        """Apply each operation under its own savepoint, and none of a run after one of it has failed."""
        stopped: dict[str, StoreError] = {}
        results: list[Result] = []
        for index, op in enumerate(batch):
            run_id = run_id_of(op)
            if run_id in stopped:
                results.append(stopped[run_id])
                continue
            if index not in failed:
                result = self._member(connection, op)
                results.append(result)
                if not isinstance(result, StoreError):
                    continue
                failed[index] = result
                if not connection.in_transaction:
                    raise _TransactionLostError
            else:
                results.append(failed[index])
            if run_id is not None:
                stopped[run_id] = failed[index]
        return results

    def _member(self, connection: sqlite3.Connection, op: Operation) -> Result:
        try:
            connection.execute("SAVEPOINT member")
            with self._changes(connection) as changes:
                result = carry_out(changes, op)
            connection.execute("RELEASE member")
        except StoreError as error:
            return self._undo(connection, error)
        except DagrelayError as refusal:
            connection.execute("RELEASE member")
            return refusal.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - whatever a member raises is its own result, not the others'
            return self._undo(connection, store_error(self.path, error))
        return result

    def _undo(self, connection: sqlite3.Connection, error: StoreError) -> StoreError:
        self._names.forget()
        if connection.in_transaction:
            connection.execute("ROLLBACK TO member")
            connection.execute("RELEASE member")
        return error
