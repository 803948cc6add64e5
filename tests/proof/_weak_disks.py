"""Disks that leave out or turn round one step of what makes a change durable: each is a mistake that must be found.

And one that is right, and slow.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Mapping

from swoosh_async.backends.file import OsDisk

__all__ = ["DISKS"]


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


class NoDirectoryFsync(OsDisk):
    """A rename is not made durable."""

    def fsync(self, fd: int) -> None:
        if not _is_directory(fd):
            super().fsync(fd)


class DirectoryFsyncBeforeRename(NoDirectoryFsync):
    """The order of the Go package: file, directory, rename."""

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        os.fsync(dir_fd)
        super().rename(source, target, dir_fd)


class NoFileFsync(OsDisk):
    """What is written is renamed without having been made durable."""

    def fsync(self, fd: int) -> None:
        if _is_directory(fd):
            super().fsync(fd)


class NoDataSync(OsDisk):
    """What is appended to a journal is not made durable."""

    def fdatasync(self, fd: int) -> None:
        pass


class NoProbe(OsDisk):
    """The fsync of a directory is believed."""

    def ftruncate(self, fd: int, length: int) -> None:
        pass


class NothingDurable(OsDisk):
    """Whoever reads believes the cache."""

    def fsync(self, fd: int) -> None:
        pass

    def fdatasync(self, fd: int) -> None:
        pass


class Slow(OsDisk):
    """What is not durable yet can be seen by others for some milliseconds."""

    pause_s = 0.003

    def fsync(self, fd: int) -> None:
        if _is_directory(fd):
            time.sleep(self.pause_s)
        super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        time.sleep(self.pause_s)
        super().fdatasync(fd)


class Slower(Slow):
    """The same, and longer, for busy machines."""

    pause_s = 0.01


DISKS: Mapping[str, type[OsDisk]] = {
    disk.__name__: disk
    for disk in (
        NoDirectoryFsync, DirectoryFsyncBeforeRename, NoFileFsync, NoDataSync, NoProbe, NothingDurable, Slow, Slower,
    )
}  # fmt: skip
"""The disks by their names."""
