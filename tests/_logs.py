"""What the tests of the journal's files share: batches that can be told from one another, and a disk that is hasty."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from swoosh_async.backends.base import Batch, Bounds, Claim, Epoch, Index, JournalBackend
from swoosh_async.backends.file import FileBackend, OsDisk

SEGMENT_BYTES = 2048


class HastyDisk(OsDisk):
    """The system's calls without those that wait for the medium: for tests that are about bytes, and make many."""

    def fsync(self, fd: int) -> None:
        """Do nothing."""

    def fdatasync(self, fd: int) -> None:
        """Do nothing."""


def log(directory: Path, **options: Any) -> FileBackend:
    """A backend with small segments."""
    return FileBackend(directory, **{"segment_bytes": SEGMENT_BYTES, **options})


def hasty(directory: Path, **options: Any) -> FileBackend:
    """The same on a hasty disk."""
    return log(directory, disk=HastyDisk(), **options)


def batch(first: int, epoch: int = 1, *, count: int = 1, size: int = 100) -> Batch:
    """A batch whose bytes tell which it is."""
    data = f"<{first}+{count} of {epoch}>".encode()
    return Batch(Index(first), count, Epoch(epoch), (data * (size // len(data) + 1))[:size])


class Writer:
    """Claims a journal, appends to it, and remembers what was acknowledged.

    Args:
        backend: The backend.
        known: What was acknowledged before.
    """

    def __init__(self, backend: JournalBackend, known: Sequence[Batch] = (), epoch: int | None = None) -> None:
        self.backend = backend
        self.claim: Claim = backend.claim(None if epoch is None else Epoch(epoch))
        self.known = list(known)

    @property
    def next(self) -> int:
        """The index that is next."""
        return self.known[-1].last + 1 if self.known else self.claim.bounds.last + 1

    def append(self, *sizes: int, count: int = 1) -> Batch:
        """Append batches of these sizes; return the last."""
        for size in sizes or (100,):
            made = batch(self.next, self.claim.epoch, count=count, size=size)
            self.backend.append(made)
            self.known.append(made)
        return self.known[-1]

    def release(self) -> list[Batch]:
        """End the claim; what was acknowledged."""
        self.backend.release()
        return self.known


def written(directory: Path, *sizes: int, **options: Any) -> list[Batch]:
    """Write batches of these sizes in one claim, on a hasty disk; return them."""
    writer = Writer(hasty(directory, **options))
    writer.append(*sizes)
    return writer.release()


def everything(backend: JournalBackend, after: int = 0, *, max_bytes: int = 300) -> list[Batch]:
    """All batches behind an index, read page by page; each follows the one before."""
    found: list[Batch] = []
    while page := backend.read(Index(after), max_bytes):
        assert sum(len(one.data) for one in page[:-1]) < max_bytes
        for one in page:
            assert not found or one.first == found[-1].last + 1
            found.append(one)
        after = page[-1].last
    return found


def bounds(first: int, last: int) -> Bounds:
    """These bounds."""
    return Bounds(Index(first), Index(last))


def names(directory: Path) -> list[str]:
    """What stands in a directory, segments by their bases."""
    return sorted(os.listdir(directory))


def bases(directory: Path) -> list[int]:
    """The segments in a directory."""
    return sorted(int(name[8:]) for name in os.listdir(directory) if name[:8] == "journal." and name[8:].isdigit())


def segment(directory: Path, base: int) -> Path:
    """A segment's path."""
    return directory / f"journal.{base:020d}"


def contents(directory: Path) -> dict[str, bytes]:
    """What every file in a directory holds."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def restore(directory: Path, files: dict[str, bytes]) -> None:
    """Make a directory hold these files and no others."""
    for path in directory.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        path = directory / name
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)
