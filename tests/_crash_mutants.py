"""Designs that do not keep their promise, by what is wrong with them, and what is done on them until it shows."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from swoosh_async.backends.file._generations import Generations
from swoosh_async.backends.file._reader import Reader
from swoosh_async.backends.file._segments import Segments
from swoosh_async.backends.file._writer import Writer
from swoosh_async.testing import CrashDisk

from ._crash_journals import Journalist, check_journal, torn_in
from ._crash_snapshots import Keeper, check_snapshots
from ._crashes import Check, Do, Found, crashed_twice, killed, recorded
from ._disks import path_of

__all__ = [
    "JOURNAL_MUTANTS",
    "NEXT_MUTANTS",
    "SNAPSHOT_MUTANTS",
    "appends",
    "appends_more",
    "claims",
    "forgetting",
    "loads",
    "reads",
    "recovers",
    "saves",
]


class SeedOrder(CrashDisk):
    """Makes the directory durable before each rename, and not behind it."""

    def fsync(self, fd: int) -> None:
        if not path_of(fd).endswith("/d"):
            super().fsync(fd)

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        super().fsync(dir_fd)
        super().rename(source, target, dir_fd)


class Forgetful(CrashDisk):
    """Leaves out each fsync of what is told by a path, a size and the verb's name."""

    forgets: Callable[[str, int, str], bool] = staticmethod(lambda *_: False)

    def fsync(self, fd: int) -> None:
        if not self.forgets(path_of(fd), os.fstat(fd).st_size, "fsync"):
            super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        if not self.forgets(path_of(fd), os.fstat(fd).st_size, "fdatasync"):
            super().fdatasync(fd)


def forgetting(forgets: Callable[[str, int, str], bool]) -> type[CrashDisk]:
    """A disk that leaves those out."""
    return type("Forgetting", (Forgetful,), {"forgets": staticmethod(forgets)})


class PrunesFirst(CrashDisk):
    """Removes older generations, all but two, before the directory is durable."""

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        super().rename(source, target, dir_fd)
        for name in sorted(name for name in os.listdir(dir_fd) if name.startswith("snapshot.0"))[:-2]:
            self.unlink(name, dir_fd)


class SyncsRenames(CrashDisk):
    """Makes the directory durable behind a rename only."""

    renamed = False

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        super().rename(source, target, dir_fd)
        self.renamed = True

    def fsync(self, fd: int) -> None:
        if not path_of(fd).endswith("/d") or self.renamed:
            super().fsync(fd)
            self.renamed = False


def saves(disk: CrashDisk) -> None:
    """Some saves, first with one kept, then with two."""
    keeper = Keeper(disk)
    keeper.save(1, size=700)
    for position in (2, 3, 4):
        keeper.save(position, keep=2)


def appends(disk: CrashDisk) -> None:
    """Two claims, appends with rotations, truncations."""
    journal = Journalist(disk)
    journal.append(600, 1100, 600)
    journal.trim(3)
    journal.release()
    journal = Journalist(disk)
    journal.append(100, 900)
    journal.trim(5)
    journal.release()


def loads(disk: CrashDisk) -> None:
    """Somebody loads the latest."""
    Keeper(disk).load()


def reads(disk: CrashDisk) -> None:
    """Somebody reads the journal."""
    Journalist.read_all(disk)


def claims(disk: CrashDisk) -> None:
    """Somebody claims the journal."""
    Journalist(disk).release()


def appends_more(disk: CrashDisk) -> None:
    """Somebody claims the journal and appends."""
    journal = Journalist(disk)
    journal.append(10)
    journal.release()


def recovers(disk: CrashDisk) -> None:
    """The same, where what is torn is durable from the start, and must not get lost."""
    disk.mark(torn_in(disk.root))
    appends_more(disk)


def is_directory(path: str) -> bool:
    """Whether it is the backend's own."""
    return path.endswith("/d")


def is_above(path: str) -> bool:
    """Whether it is one above it."""
    return os.path.isdir(path) and not is_directory(path)


def is_temp(path: str) -> bool:
    """Whether it has not its name yet."""
    return path.endswith(".tmp")


SNAPSHOT_MUTANTS: dict[str, type[CrashDisk]] = {
    "the directory is fsynced before the rename": SeedOrder,
    "the file is not fsynced": forgetting(lambda path, *_: is_temp(path)),
    "the directory is not fsynced": forgetting(lambda path, *_: is_directory(path)),
    "the parents of a new directory are not fsynced": forgetting(lambda path, *_: is_above(path)),
    "older generations go before the new one is durable": PrunesFirst,
    "a generation is named beside one that is not durable": SyncsRenames,
}

JOURNAL_MUTANTS: dict[str, type[CrashDisk]] = {
    "the directory is fsynced before the rename": SeedOrder,
    "the directory is not fsynced": forgetting(lambda path, *_: is_directory(path)),
    "the parents of a new directory are not fsynced": forgetting(lambda path, *_: is_above(path)),
    "the record is renamed before it is durable": forgetting(lambda path, size, _: is_temp(path) and size < 512),
    "a segment is named before it is durable": forgetting(lambda path, size, _: is_temp(path) and size > 512),
    "a segment's header is not fdatasynced": forgetting(lambda path, _, verb: is_temp(path) and verb == "fdatasync"),
    "a batch is not fdatasynced": forgetting(lambda path, *_: "/journal.0" in path),
}


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def copies_hastily(segments: Any, *arguments: Any) -> None:
    """Set a torn batch aside, and make nothing durable."""
    with patch.object(CrashDisk, "_sync_of", nothing):
        _SETS_ASIDE(segments, *arguments)


_SETS_ASIDE = Segments.set_aside


def _killed(do: Do, then: Do, check: Check) -> Callable[[Path], Found]:
    return lambda home: killed(recorded(home, do), then, check, home, limit=20, first=True)


def _crashed_twice(home: Path) -> Found:
    return crashed_twice(recorded(home, appends), recovers, check_journal, home, limit=8, most=60, first=True)


NEXT_MUTANTS: dict[str, tuple[Any, str, Callable[..., None], Callable[[Path], Found]]] = {
    "a reader of snapshots makes nothing durable": (
        Generations,
        "_make_durable",
        nothing,
        _killed(saves, loads, check_snapshots),
    ),
    "a reader of the journal makes nothing durable": (
        Reader,
        "_make_durable",
        nothing,
        _killed(appends, reads, check_journal),
    ),
    "a claim does not make the newest segment durable": (
        Segments,
        "settle",
        nothing,
        _killed(appends, claims, check_journal),
    ),
    "a claim does not make the newest segment's name durable": (
        Segments,
        "settle_names",
        nothing,
        _killed(appends, claims, check_journal),
    ),
    "a claim leaves what is torn where it is": (Writer, "_cut", nothing, _crashed_twice),
    "a claim cuts what is torn with no copy": (Segments, "set_aside", nothing, _crashed_twice),
    "a claim cuts what is torn before its copy is durable": (Segments, "set_aside", copies_hastily, _crashed_twice),
}
"""What is replaced by what, and how it is found."""
