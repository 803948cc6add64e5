"""A journal in an SQLite database: an example of a backend of one's own. docs/backends.md explains it.

Two tables: one row that says what the journal holds and whose turn it is, and one row for each batch. Each method is
one transaction on a connection of its own, so it may be called from any thread, and readers see what is committed.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager

from swoosh_async import (
    BackendError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    FencedError,
    LockedError,
    OutcomeUnknownError,
    PoisonedError,
)
from swoosh_async.backends.base import Batch, Bounds, Claim, Epoch, Index, JournalBackend

TABLES = (
    "CREATE TABLE IF NOT EXISTS journal (epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL)",
    "INSERT INTO journal SELECT 0, 1, 0 WHERE NOT EXISTS (SELECT * FROM journal)",
    "CREATE TABLE IF NOT EXISTS batches (first INTEGER PRIMARY KEY, count INTEGER, epoch INTEGER, data BLOB, sum TEXT)",
)
LAST = "SELECT * FROM batches ORDER BY first DESC LIMIT 1"
FROM = "SELECT * FROM batches WHERE first >= (SELECT max(first) FROM batches WHERE first <= ?) ORDER BY first"
DELETE = "DELETE FROM batches WHERE first + count <= ? AND first < (SELECT max(first) FROM batches)"

Row = tuple[int, int, int, bytes, str]


class SqliteJournal(JournalBackend):
    """A journal in a database file, of which each claim fences the one before off.

    Args:
        path: The file, which is created here if it is not there.
        synchronous: SQLite's setting of that name: EXTRA, with which a commit survives a power cut, or less for tests.

    Raises:
        BackendError: The file cannot be opened or made.
    """

    def __init__(self, path: str | os.PathLike[str], *, synchronous: str = "EXTRA") -> None:
        self._path = os.path.abspath(path)
        self._synchronous = synchronous
        self._epoch: Epoch | None = None
        self._pid = 0
        self._poison = ""
        with self._transaction("create journal", writes=True) as database:
            for statement in TABLES:
                database.execute(statement)

    @property
    def where(self) -> str:
        """The file."""
        return self._path

    # ------------------------------------------------------------------ write

    def claim(self, epoch: Epoch | None = None) -> Claim:
        """Take the next epoch, or the given one."""
        with self._transaction("claim journal", writes=True) as database:
            latest, bounds = self._head(database)
            if epoch is not None and epoch <= latest:
                raise FencedError(self.where, epoch=epoch, found=latest)
            taken = Epoch(latest + 1) if epoch is None else epoch
            tail = self._tail(database, bounds)
            database.execute("UPDATE journal SET epoch = ?", (taken,))
        self._epoch, self._pid, self._poison = taken, os.getpid(), ""
        return Claim(taken, bounds, tail)

    def append(self, batch: Batch) -> None:
        """Insert a row, if it is this writer's turn and the row follows the last."""
        with self._turn("append to journal") as database:
            latest, bounds = self._head(database)
            if batch.epoch != latest:
                raise FencedError(self.where, epoch=batch.epoch, found=latest)
            if batch.first != bounds.last + 1:
                raise ConflictError(expected=batch.first - 1, found=bounds.last)
            row = batch.first, batch.count, batch.epoch, bytes(batch.data), checksum(batch)
            database.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?)", row)
            database.execute("UPDATE journal SET last = ?", (batch.last,))

    def truncate_before(self, index: Index) -> None:
        """Move the first index, and delete the rows before it but for the last."""
        with self._turn("truncate journal") as database:
            _, bounds = self._head(database)
            if index <= bounds.first:
                return
            database.execute("UPDATE journal SET first = ?", (index,))
            if self._tail(database, bounds) is None:  # nothing was appended ever: the first entry will have that index
                database.execute("UPDATE journal SET last = ?", (index - 1,))
            database.execute(DELETE, (index,))

    def release(self) -> None:
        """Nothing holds anything here; this one just writes no more."""
        self._epoch = None

    # ------------------------------------------------------------------ read

    def bounds(self) -> Bounds:
        """What the one row says."""
        with self._transaction("read journal") as database:
            return self._head(database)[1]

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        """The rows from the one on that holds the entry behind `after`."""
        found: list[Batch] = []
        size = 0
        with self._transaction("read journal") as database:
            _, bounds = self._head(database)
            target = max(after + 1, bounds.first)
            if target > bounds.last:
                return found
            rows: Iterator[Row] = database.execute(FROM, (target,))
            while target <= bounds.last and (size < max_bytes or not found):
                batch = self._batch(next(rows, None), target)
                found.append(batch)
                size += len(batch.data)
                target = batch.last + 1
        return found

    # ------------------------------------------------------------------ helpers

    @contextmanager
    def _transaction(self, step: str, *, writes: bool = False) -> Generator[sqlite3.Connection, None, None]:
        """A transaction that is durable at the end of the block, or has changed nothing."""
        committing = False
        try:
            with closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as database:  # rolls back
                database.execute(f"PRAGMA synchronous = {self._synchronous}")
                database.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
                yield database
                committing = writes
                database.execute("COMMIT")
        except sqlite3.Error as error:
            if committing:
                self._poison = step
                raise OutcomeUnknownError(step, self._path, detail=str(error)) from error
            raise BackendError(step, self._path, detail=str(error)) from error

    @contextmanager
    def _turn(self, step: str) -> Generator[sqlite3.Connection, None, None]:
        """The same, of who has the latest claim."""
        if self._epoch is None:
            raise ClosedError(self.where)
        if self._pid != os.getpid():
            raise LockedError(self.where, pid=self._pid, forked=True)
        if self._poison:
            raise PoisonedError(self.where, reason=self._poison)
        with self._transaction(step, writes=True) as database:
            latest, _ = self._head(database)
            if self._epoch != latest:
                raise FencedError(self.where, epoch=self._epoch, found=latest)
            yield database

    def _head(self, database: sqlite3.Connection) -> tuple[Epoch, Bounds]:
        epoch, first, last = database.execute("SELECT epoch, first, last FROM journal").fetchone()
        return Epoch(epoch), Bounds(Index(first), Index(last))

    def _tail(self, database: sqlite3.Connection, bounds: Bounds) -> Batch | None:
        row: Row | None = database.execute(LAST).fetchone()
        return None if row is None and bounds.last == bounds.first - 1 else self._batch(row, bounds.last)

    def _batch(self, row: Row | None, index: int) -> Batch:
        """The batch of a row, which is to hold that index."""
        if row is None:
            raise CorruptJournalError(self.where, "a batch is missing", offset=None, index=index)
        first, count, epoch, data, stored = row
        batch = Batch(Index(first), count, Epoch(epoch), data)
        if not batch.first <= index <= batch.last or checksum(batch) != stored:
            raise CorruptJournalError(self.where, "a batch is damaged or missing", offset=None, index=index)
        return batch


def checksum(batch: Batch) -> str:
    """What tells whether a row is as it was inserted."""
    return hashlib.sha256(b"%d %d %d " % (batch.first, batch.count, batch.epoch) + batch.data).hexdigest()
