"""A directory that is a whole backend: its snapshots are called ``snapshot`` in it, its journal ``journal``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..base import Backend, Batch, Blob, Bounds, Claim, Epoch, Index, Source, Stored
from ._disk import Disk
from ._generations import LOCK_TIMEOUT_S, MAX_FILE_BYTES, Generations
from ._log import MAX_BATCH_BYTES, SEGMENT_BYTES, Log

__all__ = ["FileBackend"]


class FileBackend(Backend):
    """A backend in a directory of a local file system.

    Args:
        directory: The directory; it is created, with its parents, at the first write.
        mode: The permissions of the files; None for 0600, or those of the file that is replaced.
        lock_timeout_s: How long a save, or the opening of a journal, waits for another writer, in seconds.
        max_file_bytes: The largest snapshot that is written or read.
        segment_bytes: How long a segment of the journal is, unless a batch needs more.
        max_batch_bytes: How long a batch of the journal may be, up to 1 GiB.
        disk: The system calls that change the disk; None for the operating system's own.

    Raises:
        ValueError: A size is out of range.
        BackendError: The system is Windows, which has neither a directory's fsync nor flock.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        mode: int | None = None,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        max_file_bytes: int = MAX_FILE_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        max_batch_bytes: int = MAX_BATCH_BYTES,
        disk: Disk | None = None,
    ) -> None:
        self._directory: str = os.path.abspath(os.fspath(directory))
        self._snapshots = Generations(
            os.path.join(self._directory, "snapshot"),
            mode=mode,
            lock_timeout_s=lock_timeout_s,
            max_file_bytes=max_file_bytes,
            disk=disk,
        )
        self._log = Log(
            self._directory,
            mode=mode,
            patience_s=lock_timeout_s,
            segment_bytes=segment_bytes,
            max_batch_bytes=max_batch_bytes,
            disk=disk,
        )

    @property
    def where(self) -> str:
        return self._directory

    # ------------------------------------------------------------------ snapshots

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        return self._snapshots.put(blob, keep=keep, allow_rollback=allow_rollback)

    def open(self, name: str | None = None) -> Source:
        return self._snapshots.open(name)

    def names(self) -> Sequence[str]:
        return self._snapshots.names()

    def prune(self, keep: int) -> Sequence[str]:
        return self._snapshots.prune(keep)

    # ------------------------------------------------------------------ journal

    @property
    def patience_s(self) -> float:
        return self._log.patience_s

    def claim(self, epoch: Epoch | None = None) -> Claim:
        return self._log.claim(epoch)

    def append(self, batch: Batch) -> None:
        self._log.append(batch)

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        return self._log.read(after, max_bytes)

    def bounds(self) -> Bounds:
        return self._log.bounds()

    def truncate_before(self, index: Index) -> None:
        self._log.truncate_before(index)

    def release(self) -> None:
        self._log.release()
