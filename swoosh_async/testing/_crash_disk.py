"""A disk that carries out what it is told in a real directory, and records it with what each fsync makes durable.

This file does not know what a crash leaves of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from threading import RLock
from typing import Any

from ..backends.file import OsDisk
from ._crash_states import state_after_kill
from ._crash_trace import ROOT, Event, Link, Make, Mark, Rename, Resize, Settle, Sync, Trace, Unlink, Write

__all__ = ["CrashDisk"]


class CrashDisk(OsDisk):
    """The operating system's calls below one directory, recorded.

    A backend that takes a `disk` is given it, does what is to be proved, and marks what it was told is durable; then
    each of `crash_states` of its trace is written to a directory, and what was marked must be there.

    What stands in the directory at first counts as durable. fsync and fdatasync are recorded and not carried out, since
    no crash really comes: that makes it quick. Whatever changes something below the directory must do so through this
    disk. Calls may come from any threads; they are recorded in the order in which they take effect.

    Args:
        root: The directory; `FileBackend` may be given it or one below.

    Raises:
        OSError: It cannot be read.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root: str = os.path.realpath(root)
        self._events: list[Event] = []
        self._inodes: dict[tuple[int, int], int] = {}
        self._last_inode = ROOT
        self._begins = 0
        self._turn = RLock()
        self._inodes[_identity(os.stat(self._root))] = ROOT
        self._find(self._root, ROOT)
        self._events.append(Settle())
        self._begins = len(self._events)

    @classmethod
    def after_kill(cls, root: str | os.PathLike[str], trace: Trace) -> CrashDisk:
        """A disk in an empty directory on which things go on after the process was killed at the end of a trace.

        A kill loses nothing of what was done, but none of it has become durable by it. The new trace goes on from the
        former one, with its marks, and crashes are of interest from here on.
        """
        state = state_after_kill(trace)
        state.write_to(root)
        disk = cls(root)
        disk._go_on_from(trace, state.inodes)
        return disk

    @property
    def root(self) -> Path:
        """The directory."""
        return Path(self._root)

    @property
    def trace(self) -> Trace:
        """What has been done so far."""
        with self._turn:
            return Trace(tuple(self._events), self._begins)

    def mark(self, value: Any) -> None:
        """Note something in the trace, such as what has been acknowledged; states of later points have it."""
        self._record(Mark(value))

    # ------------------------------------------------------------------ names

    def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int:
        with self._turn:
            before = _facts(name, dir_fd)
            fd = super().open(name, flags, mode, dir_fd)
            if before is None:
                directory, last = self._place(name, dir_fd)
                self._record(Make(directory, last, self._new(os.fstat(fd))))
            elif flags & os.O_TRUNC:
                self._record(Resize(self._of(fd), 0))
            return fd

    def mkdir(self, path: str, mode: int) -> None:
        with self._turn:
            super().mkdir(path, mode)
            directory, last = self._place(path)
            self._record(Make(directory, last, self._new(os.stat(path)), is_directory=True))

    def link(self, source: str, target: str, dir_fd: int) -> None:
        with self._turn:
            super().link(source, target, dir_fd)
            directory, last = self._place(target, dir_fd)
            self._record(Link(directory, last, self._known(os.stat(target, dir_fd=dir_fd, follow_symlinks=False))))

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        with self._turn:
            (directory, old), (other, new) = self._place(source, dir_fd), self._place(target, dir_fd)
            if directory != other:
                raise NotImplementedError(f"a rename from one directory to another is not simulated: {source}")
            super().rename(source, target, dir_fd)
            if _facts(source, dir_fd) is None:  # or else both were names of one file, and nothing has happened
                self._record(Rename(directory, old, new))

    def unlink(self, name: str, dir_fd: int) -> None:
        with self._turn:
            super().unlink(name, dir_fd)
            self._record(Unlink(*self._place(name, dir_fd)))

    # ------------------------------------------------------------------ bytes

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        with self._turn:
            written = super().pwrite(fd, data, offset)
            self._record(Write(self._of(fd), offset, bytes(data[:written])))
            return written

    def ftruncate(self, fd: int, length: int) -> None:
        with self._turn:
            super().ftruncate(fd, length)
            self._record(Resize(self._of(fd), length))

    def allocate(self, fd: int, size: int) -> None:
        with self._turn:
            super().allocate(fd, size)
            self._record(Resize(self._of(fd), os.fstat(fd).st_size))

    def fsync(self, fd: int) -> None:
        self._sync_of(fd)

    def fdatasync(self, fd: int) -> None:
        self._sync_of(fd)

    # ------------------------------------------------------------------ record

    def _record(self, event: Event) -> None:
        with self._turn:
            self._events.append(event)

    def _sync_of(self, fd: int) -> None:
        with self._turn:
            inode = self._inodes.get(_identity(os.fstat(fd)))
            if inode is not None:  # and not a directory above
                self._record(Sync(inode))

    def _find(self, path: str, directory: int) -> None:
        """Record what stands in a directory."""
        for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
            facts = entry.stat(follow_symlinks=False)
            known = self._inodes.get(_identity(facts))
            if known is not None:
                self._record(Link(directory, entry.name, known))
            elif stat.S_ISDIR(facts.st_mode):
                inode = self._new(facts)
                self._record(Make(directory, entry.name, inode, is_directory=True))
                self._find(entry.path, inode)
            elif stat.S_ISREG(facts.st_mode):
                inode = self._new(facts)
                self._record(Make(directory, entry.name, inode))
                self._record(Write(inode, 0, Path(entry.path).read_bytes()))

    def _go_on_from(self, trace: Trace, inodes: Mapping[str, int]) -> None:
        self._events = list(trace.events)
        self._begins = len(self._events)
        self._last_inode = max((event.inode for event in trace.events if isinstance(event, Make)), default=ROOT)
        for path, inode in inodes.items():
            self._inodes[_identity(os.stat(os.path.join(self._root, path)))] = inode

    def _new(self, facts: os.stat_result) -> int:
        self._last_inode += 1
        self._inodes[_identity(facts)] = self._last_inode
        return self._last_inode

    def _of(self, fd: int) -> int:
        return self._known(os.fstat(fd))

    def _known(self, facts: os.stat_result) -> int:
        inode = self._inodes.get(_identity(facts))
        if inode is None:
            raise RuntimeError(f"something was changed that is not below {self._root}, or was not made by this disk")
        return inode

    def _place(self, path: str, dir_fd: int | None = None) -> tuple[int, str]:
        """The directory in which a name stands, and its last part."""
        parent, last = os.path.split(path)
        return self._known(os.stat(parent or os.curdir, dir_fd=dir_fd)), last


def _facts(name: str, dir_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino
