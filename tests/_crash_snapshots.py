"""Snapshots saved on a recorded disk, and what must hold of them in each state that a crash may leave.

What is done marks in the trace what it tries, and what was acknowledged; the check folds the marks into what must be
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from swoosh_async.backends.file import FileBackend
from swoosh_async.errors import CorruptSnapshotError, SnapshotNotFoundError
from swoosh_async.testing import CrashDisk

from ._disks import PlainBlob, latest, put
from ._logs import SEGMENT_BYTES, HastyDisk

__all__ = ["Damaged", "Keeper", "backend_on", "check_snapshots"]


def backend_on(root: Path, disk: Any = None, **options: Any) -> FileBackend:
    """A backend with small segments in the directory ``a/d`` below, which is to be made with its parent."""
    return FileBackend(root / "a" / "d", **{"segment_bytes": SEGMENT_BYTES, "disk": disk or HastyDisk(), **options})


class Saving(msgspec.Struct, frozen=True):
    """A snapshot is being saved."""

    position: int
    keep: int


class Saved(msgspec.Struct, frozen=True):
    """It was."""


class Pruning(msgspec.Struct, frozen=True):
    """Snapshots are being pruned."""

    keep: int


class Loaded(msgspec.Struct, frozen=True):
    """Somebody has loaded the snapshot of that position."""

    position: int


class Damaged(msgspec.Struct, frozen=True):
    """The latest is damaged, and these are its bytes; older ones are whole."""

    data: bytes
    older: tuple[int, ...] = ()


class Keeper:
    """Saves snapshots on a recorded disk.

    Args:
        disk: The disk.
        backend: The backend; None for a new one there.
    """

    def __init__(self, disk: CrashDisk, backend: FileBackend | None = None) -> None:
        self.disk = disk
        self.backend = backend or backend_on(disk.root, disk)

    def save(self, position: int, *, keep: int = 1, size: int = 20, rollback: bool = False) -> None:
        """Save one, so many bytes long."""
        self.disk.mark(Saving(position, keep))
        self.backend.put(_blob(position, size), keep=keep, allow_rollback=rollback)
        self.disk.mark(Saved())

    def prune(self, keep: int) -> None:
        """Prune to so many."""
        self.disk.mark(Pruning(keep))
        self.backend.prune(keep)

    def load(self) -> None:
        """Load the latest, as another process does."""
        with suppress(SnapshotNotFoundError):
            self.disk.mark(Loaded(latest(backend_on(self.disk.root, self.disk))))


def _blob(position: int, size: int) -> PlainBlob:
    return PlainBlob(position, (f"<{position}>".encode() * size)[:size])


class _Snapshots:
    """What must be there of snapshots, by the marks.

    Attributes:
        saved: The positions that were acknowledged, or read, in order.
        trying: The position that is being saved.
        sure: How many of the newest of `saved` must be there.
        damaged: The bytes of the latest, where they are damaged.
        since: How many of `saved` were before that.
        stray: What a process was saving when it died, and nothing had been saved; there is no telling it from an older
            one whose latest somebody has removed, so it may come to stand there as such.
    """

    def __init__(self, marks: Sequence[Any]) -> None:
        self.saved: list[int] = []
        self.trying: int | None = None
        self.sure = self.keep = 0
        self.damaged: bytes | None = None
        self.since = 0
        self.stray: list[int] = []
        for mark in marks:
            match mark:
                case Saving(position, keep):
                    if self.trying is not None and not self.saved:
                        self.stray.append(self.trying)
                    self.trying, self.keep = position, keep
                case Saved():
                    self.save()
                case Loaded(position) if position == self.trying:
                    self.save()
                case Pruning(keep):
                    self.sure = min(self.sure, keep)
                case Damaged(data, older):
                    self.damaged, self.saved, self.sure = data, [*older], len(older)
                    self.since = len(older)
                case _:
                    pass

    def save(self) -> None:
        """What was being saved is there."""
        assert self.trying is not None
        self.saved.append(self.trying)
        self.trying, self.sure = None, min(self.keep, self.sure + 1)


def check_snapshots(directory: Path, marks: Sequence[Any]) -> None:
    """Check that what was acknowledged or read is there, whole, in order, and nothing else; and that saving goes on."""
    expected = _Snapshots(marks)
    backend = backend_on(directory)
    found = _positions(backend)
    home = directory / "a" / "d"
    if found and found[0] == expected.trying:
        expected.save()
    there = expected.saved[::-1]
    if expected.damaged is not None:
        names = [*home.glob("snapshot.corrupt-*")] if found else [home / "snapshot"]
        assert expected.damaged in [name.read_bytes() for name in names], "what was damaged is gone"
    if expected.damaged is None or found or len(expected.saved) > expected.since:
        assert found[: expected.sure] == there[: expected.sure], f"{found} instead of {there}"
    ahead = iter([*there, *expected.stray[::-1]])
    assert all(position in ahead for position in found), f"{found} is not of {there}"
    last = max(there, default=0) + 1
    for position in (last, last + 1):
        put(backend_on(directory), position, keep=3, allow_rollback=True)
        assert latest(backend_on(directory)) == position
    assert _positions(backend_on(directory))[:2] == [last + 1, last]
    assert not [*home.glob("snapshot-*.tmp")]


def _positions(backend: FileBackend) -> list[int]:
    """The snapshots that there are, newest first, each of them whole; none where the latest is damaged or missing."""
    try:
        latest(backend)
    except (SnapshotNotFoundError, CorruptSnapshotError):
        return []
    found: list[int] = []
    for name in backend.names():
        with backend.open(name) as source:
            data = source.read(0, source.size_bytes)
        found.append(latest(backend, name))
        body = data[PlainBlob.head_bytes :]
        assert body in (b"".join(_blob(found[-1], len(body)).body()), f"body of {found[-1]}".encode())
    assert latest(backend) == found[0]
    return found
