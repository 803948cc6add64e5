"""The bare system calls of durable writing, blocking, without a thread, a loop, or anything of this package."""

from __future__ import annotations

import fcntl
import os
import secrets
from pathlib import Path

__all__ = ["fsync_directory", "replace", "same_calls_as_save"]

_HEAD_BYTES = 169


def same_calls_as_save(directory: Path, data: bytes) -> None:
    """The very system calls of one save into a directory that holds a snapshot, in their order, as strace shows them.

    Args:
        directory: Where ``snapshot.json`` stands.
        data: The whole file, which is written as a save does: the body first, then the head.
    """
    here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fstat(here)
    lock = os.open(".snapshot.json.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=here)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    current = os.open("snapshot.json", flags, dir_fd=here)
    size = os.fstat(current).st_size
    os.preadv(current, [bytearray(min(size, 4096))], 0)
    os.close(current)
    temp = f"snapshot-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temp, flags, 0o600, dir_fd=here)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.fstat(fd)
    os.pwrite(fd, data[_HEAD_BYTES:], _HEAD_BYTES)
    os.pwrite(fd, data[:_HEAD_BYTES], 0)
    os.fsync(fd)
    os.rename(temp, "snapshot.json", src_dir_fd=here, dst_dir_fd=here)
    os.fstat(fd)
    os.close(fd)
    os.fsync(here)
    os.ftruncate(lock, 0)
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)
    os.close(here)


def replace(path: Path, data: bytes) -> None:
    """The least that is durable: write a temp file, fsync it, rename it over the path, fsync the directory."""
    temp = path.with_suffix(".tmp")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)
    os.close(fd)
    os.rename(temp, path)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fsync(fd)
    os.close(fd)
