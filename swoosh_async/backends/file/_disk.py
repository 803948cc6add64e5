"""The verbs that change a disk, durably; every such system call goes through a `Disk`.

What counts as durable here, and where it is known from:

- a file's data is durable after fsync of the file, its name only after fsync of its directory: fsync(2), and Pillai et
  al., "All File Systems Are Not Created Equal" (OSDI 2014);
- a descriptor whose fsync failed is never fsynced again: the second call returns 0 while the data is gone: Rebello et
  al., "Can Applications Recover from fsync Failures?" (ATC 2020);
- on macOS fsync leaves the data in the drive's cache, and fcntl(F_FULLFSYNC) does not: fsync(2) of macOS.

This file does not know what the bytes are. Its functions block: they run in worker threads.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol

from ...errors import BackendError, OutcomeUnknownError, SwooshError

if sys.platform != "win32":
    import fcntl

__all__ = ["FULL", "Disk", "OsDisk", "Step", "let_go", "make_directory", "open_directory", "write_all"]

_GATHER_BYTES = 1 << 16


class Disk(Protocol):
    """Each system call that changes the disk, with its own name and meaning; names are relative to `dir_fd`."""

    def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int: ...
    def mkdir(self, path: str, mode: int) -> None: ...
    def pwrite(self, fd: int, data: bytes, offset: int) -> int: ...
    def fchmod(self, fd: int, mode: int) -> None: ...
    def ftruncate(self, fd: int, length: int) -> None: ...
    def fsync(self, fd: int) -> None: ...
    def fdatasync(self, fd: int) -> None: ...
    def allocate(self, fd: int, size: int) -> None: ...
    def close(self, fd: int) -> None: ...
    def link(self, source: str, target: str, dir_fd: int) -> None: ...
    def rename(self, source: str, target: str, dir_fd: int) -> None: ...
    def unlink(self, name: str, dir_fd: int) -> None: ...


class OsDisk:
    """The operating system's own calls."""

    def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int:
        return os.open(name, flags, mode, dir_fd=dir_fd)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def fchmod(self, fd: int, mode: int) -> None:
        os.fchmod(fd, mode)

    def ftruncate(self, fd: int, length: int) -> None:
        os.ftruncate(fd, length)

    def fsync(self, fd: int) -> None:
        """fsync, to the medium: with F_FULLFSYNC where there is one, unless the file system does not know it.

        A file system that is read-only by nature (squashfs, ISO 9660) has no fsync, and nothing to make durable.
        """
        self._sync(fd, os.fsync)

    def fdatasync(self, fd: int) -> None:
        """As fsync, but for what is not needed to read the data again, such as the time of the last change."""
        self._sync(fd, getattr(os, "fdatasync", os.fsync))

    @staticmethod
    def _sync(fd: int, call: Callable[[int], None]) -> None:
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            try:
                fcntl.fcntl(fd, full)
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                    raise
            else:
                return
        try:
            call(fd)
        except OSError as error:
            if error.errno != errno.EINVAL or not os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                raise

    def allocate(self, fd: int, size: int) -> None:
        """Make an empty file as long as that, of zeros, and have the disk set room aside for it where it can."""
        try:
            os.posix_fallocate(fd, 0, size)
        except (AttributeError, OSError) as error:  # no such call, or (with musl) not on this file system
            if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            os.ftruncate(fd, size)

    def close(self, fd: int) -> None:
        os.close(fd)

    def link(self, source: str, target: str, dir_fd: int) -> None:
        os.link(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd, follow_symlinks=False)

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        os.rename(source, target, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    def unlink(self, name: str, dir_fd: int) -> None:
        os.unlink(name, dir_fd=dir_fd)


class Step:
    """A context that turns a system error into one that names the step and the path.

    Args:
        name: The step, such as ``fsync snapshot``.
        path: What it works on.
        unknown: Whether what was asked may have happened although the step failed.
        but: The error numbers with which it has not.
    """

    __slots__ = ("_but", "_name", "_path", "_unknown")

    def __init__(self, name: str, path: str, *, unknown: bool = False, but: frozenset[int] = frozenset()) -> None:
        self._name = name
        self._path = path
        self._unknown = unknown
        self._but = but

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, SwooshError):
            make = OutcomeUnknownError if self._unknown and error.errno not in self._but else BackendError
            raise make(self._name, self._path, errno=error.errno, detail=error.strerror or str(error)) from error


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""A full disk refuses a rename as a whole: it did not happen, and may be tried again. (Not so an fsync behind it.)"""


def open_directory(path: str) -> int:
    """A descriptor of that directory.

    Raises:
        OSError: As open(2).
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def let_go(fd: int) -> None:
    """Close a descriptor behind which nothing waits to be written, whatever the system says to that.

    It is closed in any case (close(2)), and what was done through it has been answered before: an error here would say
    of something that happened that it did not.
    """
    try:  # noqa: SIM105  for suppress() there may be no memory
        os.close(fd)
    except OSError:
        pass


def make_directory(disk: Disk, path: str) -> None:
    """Make the directory and its missing parents (0o755), and all their names durable.

    The parent of the deepest directory that is already there is fsynced too: whoever made it may have been killed
    before that. Each is fsynced before the next is made, so that there is never more than one such.

    Raises:
        OSError: As mkdir(2), open(2) and fsync(2).
    """
    missing: list[str] = []
    there = path
    while not os.path.isdir(there):
        missing.append(there)
        there = os.path.dirname(there)
    _fsync_directory(disk, os.path.dirname(there))
    for directory in reversed(missing):
        try:
            disk.mkdir(directory, 0o755)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
        _fsync_directory(disk, os.path.dirname(directory))


def _fsync_directory(disk: Disk, path: str) -> None:
    try:
        fd = open_directory(path)
    except PermissionError:  # whoever made the directory below could read this one; we cannot, and did not make it
        return
    try:
        disk.fsync(fd)
    finally:
        let_go(fd)


def write_all(disk: Disk, fd: int, pieces: Iterable[bytes], offset: int) -> int:
    """Write all pieces from `offset` on, small ones together, and return the offset of the end; short writes go on.

    Raises:
        OSError: As pwrite(2).
    """
    gathered: list[bytes] = []
    size = 0
    for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size >= _GATHER_BYTES:
            offset = _write(disk, fd, b"".join(gathered) if len(gathered) > 1 else gathered[0], offset)
            gathered, size = [], 0
    return _write(disk, fd, b"".join(gathered), offset) if gathered else offset


def _write(disk: Disk, fd: int, data: bytes, offset: int) -> int:
    written = disk.pwrite(fd, data, offset)
    while written < len(data):
        more = disk.pwrite(fd, data[written:], offset + written)
        if more == 0:
            raise OSError(errno.EIO, "pwrite wrote nothing")
        written += more
    return offset + written
