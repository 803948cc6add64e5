"""The suites over homes that are broken, for `test_suites.py` to run on their own; nothing else collects this file."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from swoosh_async.backends.file import FileBackend
from swoosh_async.testing import CrashDisk, JournalBackendSuite, Place, SnapshotBackendSuite

from . import _broken_journals, _broken_snapshots
from ._places import Client, InFiles, Server

__all__ = ["BROKEN"]


class Both(SnapshotBackendSuite, JournalBackendSuite):
    """Of both suites, the tests that find what is broken.

    Attributes:
        fails: Which they are.
    """

    fails: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls) -> None:
        for name in dir(cls):
            if cls.fails and name.startswith("test_") and name not in cls.fails:
                setattr(cls, name, None)


def _over(kind: type[Client], finders: Sequence[str]) -> type[Both]:
    """The suites over a server with clients of this kind."""

    class Broken(Both):
        fails = finders

        @pytest.fixture
        def place(self) -> Place[Client]:
            """A server with such clients."""
            return Server(kind)

    Broken.__doc__ = kind.__doc__
    return Broken


class InFilesOn(Both):
    """The suites over files on a disk that does not do all that it is told.

    Attributes:
        disk: What kind of disk.
    """

    disk: ClassVar[type[CrashDisk]]

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place[FileBackend]:
        """A directory on such a disk."""
        return InFiles(tmp_path, lambda path, disk: FileBackend(path, segment_bytes=2048, disk=disk), self.disk)


class WithoutDirectories(CrashDisk):
    """An fsync of a directory does nothing."""

    def fsync(self, fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            super().fsync(fd)


class WithoutFiles(CrashDisk):
    """An fsync of a file does nothing."""

    def fsync(self, fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            super().fsync(fd)


class WithoutData(CrashDisk):
    """An fdatasync does nothing."""

    def fdatasync(self, fd: int) -> None:
        pass


class OnWithoutDirectories(InFilesOn):
    """Names are not durable."""

    disk = WithoutDirectories
    fails = ("test_what_was_acknowledged_survives", "test_what_was_appended_survives", "test_an_epoch_survives")


class OnWithoutFiles(InFilesOn):
    """The bytes of snapshots, and of the journal's record, are not durable."""

    disk = WithoutFiles
    fails = ("test_what_was_acknowledged_survives", "test_an_epoch_survives")


class OnWithoutData(InFilesOn):
    """The bytes of batches are not durable."""

    disk = WithoutData
    fails = ("test_what_was_appended_survives",)


BROKEN: Mapping[str, type[Both]] = {
    f"Test{what}That{kind.__name__}": _over(kind, kind.fails)
    for what, module, base in (
        ("Snapshots", _broken_snapshots, _broken_snapshots.BrokenSnapshots),
        ("Journal", _broken_journals, _broken_journals.BrokenJournal),
    )
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, base) and kind.fails
} | {f"TestFiles{suite.__name__}": suite for suite in InFilesOn.__subclasses__()}
"""The suites over each broken home, by the name under which pytest finds them."""

globals().update(BROKEN)
