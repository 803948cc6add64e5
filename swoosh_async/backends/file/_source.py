"""An open file to read: a regular file, read without a shared position, and told apart from any other content."""

from __future__ import annotations

import os

from ..base import Source
from ._disk import Step, let_go

__all__ = ["READ_FLAGS", "FileSource", "Identity", "identity_of"]

READ_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""A FIFO of that name does not hang the reader, and a symlink is not followed."""

Identity = tuple[int, int, int, int]


class FileSource(Source):
    """An open regular file.

    Args:
        fd: Its descriptor, which is closed with it.
        name: Its name in its directory.
        path: Its whole path, for messages.
        facts: What fstat(2) says of it.
        step: What reading it is called in messages.
    """

    def __init__(self, fd: int, name: str, path: str, facts: os.stat_result, step: str = "read snapshot") -> None:
        self.fd = fd
        self.name = name
        self._path = path
        self.facts = facts
        self._step = step
        self.size_bytes = facts.st_size

    @property
    def path(self) -> str:
        return self._path

    def read_into(self, buffer: memoryview, offset: int) -> int:
        done = 0
        with Step(self._step, self._path):
            while done < len(buffer) and (n := os.preadv(self.fd, [buffer[done:]], offset + done)):
                done += n
        return done

    def read(self, offset: int, size: int) -> bytes:
        """As `Source.read`, into memory that is not filled with zeros first, which would hold the GIL."""
        size = max(0, min(size, self.size_bytes - offset))
        with Step(self._step, self._path):
            data = os.pread(self.fd, size, offset)
            while len(data) < size and (more := os.pread(self.fd, size - len(data), offset + len(data))):
                data += more  # one call reads no more than 2 GiB
        return data

    def evict(self) -> None:
        """Have the next read come from the disk: after a failed fsync the cache may hold what the disk does not."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        let_go(self.fd)


def identity_of(facts: os.stat_result) -> Identity:
    """What tells this very content from any other that may come to stand under its name."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
