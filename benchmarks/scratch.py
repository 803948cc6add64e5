"""Where the benchmarks write: a temporary directory on a real disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["NoDiskError", "file_system", "scratch"]

_NO_DISK = frozenset({"tmpfs", "ramfs"})


class NoDiskError(Exception):
    """The directory is in memory, where an fsync costs nothing."""


@contextmanager
def scratch(parent: Path) -> Generator[Path, None, None]:
    """A new directory below `parent`, which is removed with all that is in it.

    Raises:
        NoDiskError: It would be in memory.
    """
    kind = file_system(parent)
    if kind in _NO_DISK:
        raise NoDiskError(f"{parent} is on {kind}; give a directory on a disk with --scratch")
    with tempfile.TemporaryDirectory(prefix="swoosh-benchmarks-", dir=parent) as made:
        yield Path(made)


def file_system(path: Path) -> str:
    """The type of the file system, such as ``ext4``; "" where the system does not tell: proc_pid_mountinfo(5)."""
    device = os.stat(path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    kinds = [line.partition(" - ")[2].split()[0] for line in lines if line.split()[2] == number]
    return kinds[-1] if kinds else ""
