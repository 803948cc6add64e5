"""A journal in a directory: a writer as long as there is a claim, and readers, who need none.

This file knows who may write, and whether an earlier outcome is unknown; how it is written and read, others know.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from ...errors import ClosedError, LockedError, OutcomeUnknownError, PoisonedError, SnapshotNotFoundError, SwooshError
from ..base import Batch, Bounds, Claim, Epoch, Index, JournalBackend
from ._directory import Home
from ._disk import Disk, OsDisk
from ._frames import LARGEST_BATCH_BYTES, SEGMENT_HEADER_BYTES
from ._lock import FileLock
from ._reader import Known, Reader
from ._segments import LOCK, NAME, Segments
from ._writer import Limits, Writer

__all__ = ["LARGEST_BATCH_BYTES", "MAX_BATCH_BYTES", "SEGMENT_BYTES", "Log"]

SEGMENT_BYTES = 64 << 20
"""How long a segment of a journal is, unless told otherwise."""

MAX_BATCH_BYTES = 16 << 20
"""How long a batch of a journal may be, unless told otherwise."""

_MODE = 0o600
_UNFINISHED = "what was begun did not end"


class Log(JournalBackend):
    """The journal of a directory.

    Args:
        directory: The directory; it is created, with its parents, at the first claim.
        mode: The permissions of the files; None for 0600.
        patience_s: How long to go on claiming while another writer lives, in seconds.
        segment_bytes: How long a segment is, unless a batch needs more.
        max_batch_bytes: How long a batch may be.
        disk: The system calls that change the disk; None for the operating system's own.

    Raises:
        ValueError: A size is out of range.
    """

    def __init__(
        self,
        directory: str,
        *,
        mode: int | None = None,
        patience_s: float = 0.0,
        segment_bytes: int = SEGMENT_BYTES,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        disk: Disk | None = None,
    ) -> None:
        if segment_bytes < SEGMENT_HEADER_BYTES:
            raise ValueError(f"segment_bytes must be {SEGMENT_HEADER_BYTES} at least")
        if not 1 <= max_batch_bytes <= LARGEST_BATCH_BYTES:
            raise ValueError(f"max_batch_bytes must be from 1 to {LARGEST_BATCH_BYTES}")
        self._disk: Disk = disk if disk is not None else OsDisk()
        self._home = Home(os.path.join(directory, NAME), self._disk, follow=False)
        self._directory = directory
        self._mode = mode
        self._patience_s = patience_s
        self._limits = Limits(segment_bytes, max_batch_bytes)
        self._stack = ExitStack()
        self._writer: Writer | None = None
        self._pid = 0
        self._poison: str | None = None
        self._renew = False
        self._reader = Reader(self._disk)

    @property
    def where(self) -> str:
        return self._directory

    @property
    def patience_s(self) -> float:
        return self._patience_s

    # ------------------------------------------------------------------ write

    def claim(self, epoch: Epoch | None = None) -> Claim:
        with ExitStack() as stack:
            here = stack.enter_context(self._home.open(create=True))
            segments = Segments(here, self._disk, self._mode)
            lock = self._lock(segments, stack)
            writer = Writer(segments, lock, self._limits, epoch=epoch, renew=self._renew)
            stack.callback(writer.close)
            self._writer, self._pid, self._poison = writer, os.getpid(), None
            self._stack = stack.pop_all()
        return writer.claim

    def append(self, batch: Batch) -> None:
        writer = self._turn()
        with self._spoiling():
            writer.append(batch)
        self._renew = False

    def truncate_before(self, index: Index) -> None:
        if type(index) is not int:
            raise ValueError("index must be an int")
        writer = self._turn()
        with self._spoiling():
            writer.truncate_before(index)

    def release(self) -> None:
        if self._pid == os.getpid():
            self._writer = None
            self._stack.close()

    def _turn(self) -> Writer:
        if self._writer is None:
            raise ClosedError(self.where)
        if self._pid != os.getpid():
            raise LockedError(self.where, pid=self._pid, host=socket.gethostname(), forked=True)
        if self._poison is not None:
            raise PoisonedError(self.where, reason=self._poison)
        return self._writer

    @contextmanager
    def _spoiling(self) -> Generator[None, None, None]:
        """What is not known to have failed as a whole is not known at all.

        It is poisoned from the outset: where memory runs out, there may be none to do so later.
        """
        renew = self._renew
        self._poison, self._renew = _UNFINISHED, True
        try:
            yield
        except OutcomeUnknownError as error:
            self._poison = error.step
            raise
        except SwooshError:
            self._poison, self._renew = None, renew
            raise
        except Exception as error:
            self._poison = type(error).__name__
            raise OutcomeUnknownError("write journal", self.where, detail=self._poison) from error
        else:
            self._poison, self._renew = None, renew

    def _lock(self, segments: Segments, stack: ExitStack) -> FileLock:
        path = segments.here.path_of(LOCK)
        mode = _MODE if self._mode is None else self._mode
        lock = FileLock(self._disk, LOCK, segments.here.fd, path=path, mode=mode, timeout_s=0.0, what="journal")
        try:
            return stack.enter_context(lock)
        except LockedError as error:
            if error.pid is not None:
                raise
            with suppress(SwooshError):  # the system does not tell who holds it, but the record tells who claimed it
                record = segments.record()
                if record is not None:
                    error = LockedError(path, pid=record.pid, host=record.host)
            raise error from None

    # ------------------------------------------------------------------ read

    def bounds(self) -> Bounds:
        writer = self._own()
        if writer is not None:
            return writer.bounds
        try:
            with self._home.open(create=False) as here:
                return self._reader.bounds(Segments(here, self._disk, self._mode))
        except SnapshotNotFoundError:  # there is no directory
            return Bounds(Index(1), Index(0))

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        writer = self._own()
        known = None if writer is None else Known(writer.bounds, *writer.end)
        if known is not None and after >= known.bounds.last:
            return ()
        try:
            with self._home.open(create=False) as here:
                return self._reader.read(Segments(here, self._disk, self._mode), after, max_bytes, known)
        except SnapshotNotFoundError:
            return ()

    def _own(self) -> Writer | None:
        return self._writer if self._pid == os.getpid() else None
