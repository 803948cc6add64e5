"""A directory that is a whole backend: its snapshots stand in it under the name ``snapshot``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..base import Blob, SnapshotBackend, Source, Stored
from ._disk import Disk
from ._generations import LOCK_TIMEOUT_S, MAX_FILE_BYTES, Generations

__all__ = ["FileBackend"]


class FileBackend(SnapshotBackend):
    """A backend in a directory of a local file system.

    Args:
        directory: The directory; it is created, with its parents, at the first write.
        mode: The permissions of the files; None for 0600, or those of the file that is replaced.
        lock_timeout_s: How long a write waits for a writer in another process, in seconds.
        max_file_bytes: The largest snapshot that is written or read.
        disk: The system calls that change the disk; None for the operating system's own.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        mode: int | None = None,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        max_file_bytes: int = MAX_FILE_BYTES,
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

    @property
    def where(self) -> str:
        return self._directory

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        return self._snapshots.put(blob, keep=keep, allow_rollback=allow_rollback)

    def open(self, name: str | None = None) -> Source:
        return self._snapshots.open(name)

    def names(self) -> Sequence[str]:
        return self._snapshots.names()

    def prune(self, keep: int) -> Sequence[str]:
        return self._snapshots.prune(keep)
