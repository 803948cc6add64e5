"""A journal written on a recorded disk, and what must hold of it in each state that a crash may leave.

As for snapshots, what is done marks in the trace what it tries, and what was acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from swoosh_async.backends.base import Batch, Bounds, Epoch, Index, JournalBackend
from swoosh_async.backends.file import FileBackend, Survey
from swoosh_async.backends.file._frames import is_what_is_left
from swoosh_async.errors import BackendError
from swoosh_async.testing import CrashDisk

from ._crash_snapshots import backend_on
from ._logs import HastyDisk, Writer, batch, everything

__all__ = ["Journalist", "check_journal", "torn_in"]


class Trying(msgspec.Struct, frozen=True):
    """A batch is being appended."""

    batch: Batch


class Added(msgspec.Struct, frozen=True):
    """It was."""


class Failed(msgspec.Struct, frozen=True):
    """It was refused: nothing has changed."""


class Trimming(msgspec.Struct, frozen=True):
    """The journal is being truncated before that index."""

    index: int


class Trimmed(msgspec.Struct, frozen=True):
    """It was."""


class Read(msgspec.Struct, frozen=True):
    """Somebody has read up to that index."""

    index: int


class Claimed(msgspec.Struct, frozen=True):
    """The journal was claimed, and this was found."""

    epoch: int
    bounds: Bounds


class TornLeft(msgspec.Struct, frozen=True):
    """These bytes of an unfinished batch stand, or stood, at the end of a segment, and must not get lost."""

    offset: int
    data: bytes


class Journalist:
    """Writes a journal on a recorded disk.

    Args:
        disk: The disk.
        backend: The backend; None for a new one there.
        epoch: The claim's epoch; None for the next.
    """

    def __init__(self, disk: CrashDisk, backend: FileBackend | None = None, *, epoch: int | None = None) -> None:
        self.disk = disk
        self.backend = backend or backend_on(disk.root, disk)
        torn = torn_in(self.disk.root)
        claim = self.backend.claim(None if epoch is None else Epoch(epoch))
        assert claim.torn_bytes == len(torn.data)
        self.disk.mark(torn)
        self.epoch, self.next = claim.epoch, claim.bounds.last + 1
        self.disk.mark(Claimed(claim.epoch, claim.bounds))

    def append(self, *sizes: int, count: int = 1) -> None:
        """Append batches of these sizes, so many entries in each."""
        for size in sizes:
            self.add(batch(self.next, self.epoch, count=count, size=size))

    def append_bytes(self, data: bytes) -> None:
        """Append these."""
        self.add(Batch(Index(self.next), 1, self.epoch, data))

    def add(self, made: Batch) -> None:
        """Append that, or see it refused."""
        self.disk.mark(Trying(made))
        try:
            self.backend.append(made)
        except BackendError:
            self.disk.mark(Failed())
        else:
            self.disk.mark(Added())
            self.next = made.last + 1

    def trim(self, index: int) -> None:
        """Truncate it before that index."""
        self.disk.mark(Trimming(index))
        self.backend.truncate_before(Index(index))
        self.disk.mark(Trimmed())
        self.next = max(self.next, index)

    @staticmethod
    def read_all(disk: CrashDisk) -> None:
        """Read all of it, as another process does."""
        found = _all(backend_on(disk.root, disk))
        disk.mark(Read(found[-1].last if found else 0))

    def release(self) -> None:
        """Let go of it."""
        self.backend.release()


class _Journal:
    """What must be there of a journal, by the marks.

    Attributes:
        added: The batches that were acknowledged, or read.
        trying: The batch that is being appended.
        first: The first index that is kept.
        trimming: The one that is about to be.
        epoch: The highest of all claims.
        torn: What must have been set aside.
    """

    def __init__(self, marks: Sequence[Any]) -> None:
        self.added: list[Batch] = []
        self.trying: Batch | None = None
        self.first = 1
        self.trimming: int | None = None
        self.epoch = 0
        self.torn: set[TornLeft] = set()
        for mark in marks:
            match mark:
                case Trying(made):
                    self.trying = made
                case Added():
                    self._add()
                case Failed():
                    self.trying = None
                case Trimming(index):
                    self.trimming = index
                case Trimmed():
                    self.first, self.trimming = self.trimming or self.first, None
                case Claimed(epoch, bounds):
                    assert epoch > self.epoch, f"epoch {epoch} came again"
                    self.epoch = epoch
                    self._see(bounds.last)
                    self.trying = None
                    assert bounds.first in (self.first, self.trimming), f"kept from {bounds.first} on"
                    self.first, self.trimming = bounds.first, None
                case TornLeft() as torn:
                    self.torn.add(torn)
                case Read(index):
                    self._see(index)
                case _:
                    pass

    @property
    def last(self) -> int:
        """The last index that must be there."""
        return self.added[-1].last if self.added else self.first - 1

    def _see(self, index: int) -> None:
        if self.trying is not None and index >= self.trying.last:
            self._add()

    def _add(self) -> None:
        assert self.trying is not None
        self.added.append(self.trying)
        self.trying = None


def check_journal(directory: Path, marks: Sequence[Any]) -> None:
    """Check that what was acknowledged or read is there, whole, in order, and nothing else, and that appending goes on.

    A reader sees the same as a claim, and as the next claim.
    """
    expected = _Journal(marks)
    bounds = backend_on(directory).bounds()
    if expected.trimming is not None and bounds.first == expected.trimming:
        expected.first = expected.trimming
    if expected.trying is not None and bounds.last == expected.trying.last:
        expected.added.append(expected.trying)
    assert bounds == Bounds(Index(expected.first), Index(expected.last)), f"{bounds} instead of {expected.last}"
    kept = [one for one in expected.added if one.last >= expected.first]
    assert _all(backend_on(directory)) == kept
    torn = torn_in(directory)
    first = Writer(backend_on(directory), kept)
    assert first.claim.epoch > expected.epoch, f"epoch {first.claim.epoch} came again"
    assert first.claim.bounds == bounds
    assert first.claim.tail == (expected.added[-1] if expected.added else None)
    assert first.claim.torn_bytes == len(torn.data)
    assert all(_is_kept(one, directory) for one in (torn, *expected.torn)), "what was torn is gone"
    assert not [*(directory / "a" / "d").glob("journal-*.tmp")]
    added = first.append(1)
    first.release()
    second = Writer(backend_on(directory), first.known)
    assert second.claim.epoch > first.claim.epoch
    assert second.claim.bounds == Bounds(Index(expected.first), added.last)
    assert second.claim.tail == added
    assert not second.claim.torn_bytes, "it was left torn"
    second.append(700)
    assert _all(second.backend) == second.known
    second.release()
    assert _all(backend_on(directory)) == second.known


def torn_in(directory: Path) -> TornLeft:
    """The bytes of an unfinished batch that stand at the end of the journal; none where it is whole."""
    survey = Survey(directory / "a" / "d", disk=HastyDisk())
    for base in survey.bases()[-1:]:
        facts = survey.segment(base)
        if facts is not None and facts.end is not None:
            return TornLeft(facts.end, Path(facts.path).read_bytes()[facts.end : facts.end + facts.torn_bytes])
    return TornLeft(0, b"")


def _is_kept(torn: TornLeft, directory: Path) -> bool:
    """Whether it was set aside, or what it is left of was."""
    copies = (path.read_bytes() for path in (directory / "a" / "d").glob("journal.torn-*"))
    return not torn.data or any(is_what_is_left(torn.data, copy, torn.offset) for copy in copies)


def _all(backend: JournalBackend) -> list[Batch]:
    return everything(backend, max_bytes=1 << 20)
