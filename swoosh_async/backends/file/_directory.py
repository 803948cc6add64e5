"""The directory in which a snapshot and its generations stand, open by a descriptor: who is there, and is it durable?

This file does not know in which order a save does things.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

from ...errors import BackendError, SnapshotNotFoundError
from ._disk import Disk, Step, let_go, make_directory, open_directory
from ._lock import is_lock
from ._mount import warn_of
from ._names import Generation, Names, is_temp
from ._source import READ_FLAGS, FileSource

if sys.platform != "win32":
    import fcntl

__all__ = ["Directory", "Home"]


class Directory:
    """An open directory; every name in it is relative to its descriptor.

    Args:
        fd: Its descriptor.
        path: Its path, for messages.
        names: The names around the snapshot.
        disk: The system calls that change it.
    """

    def __init__(self, fd: int, path: str, names: Names, disk: Disk) -> None:
        self.fd = fd
        self.path = path
        self.names = names
        self._disk = disk

    def path_of(self, name: str) -> str:
        """The whole path of a name in it, for messages."""
        return os.path.join(self.path, name)

    def open_file(self, name: str, step: str, *, read: str = "read snapshot") -> FileSource | None:
        """Open a regular file for reading; None if there is none of that name.

        Args:
            name: Its name.
            step: What opening it is called in messages.
            read: What reading it is called.

        Raises:
            BackendError: It cannot be opened, or is no regular file.
        """
        path = self.path_of(name)
        with Step(step, path):
            try:
                fd = os.open(name, READ_FLAGS, dir_fd=self.fd)
            except FileNotFoundError:
                return None
            try:
                facts = os.fstat(fd)
            except BaseException:
                let_go(fd)
                raise
        if not stat.S_ISREG(facts.st_mode):
            let_go(fd)
            raise BackendError(step, path, errno=errno.EINVAL, detail="not a regular file")
        return FileSource(fd, name, path, facts, read)

    def facts(self, name: str) -> os.stat_result | None:
        """What the system knows of that name; None if there is nothing."""
        with Step("look for", self.path_of(name)):
            try:
                return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            except FileNotFoundError:
                return None

    def generations(self) -> tuple[list[Generation], Generation | None]:
        """The generations that stand here, newest first, and the one that is the same file as the latest."""
        generations = self.names.generations(self.listing())
        latest = self._inode(self.names.latest)
        same = (g for g in generations if latest is not None and self._inode(g.name) == latest)
        return generations, next(same, None)

    def sweep(self) -> None:
        """Remove the temp files of writers that were killed: regular, our own, and locked by nobody."""
        for name in filter(is_temp, self.listing()):
            with suppress(OSError):  # it is another's, or gone, or no file: nothing of ours to remove
                fd = os.open(name, READ_FLAGS, dir_fd=self.fd)
                try:
                    facts = os.fstat(fd)
                    if stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid():
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        self._disk.unlink(name, self.fd)
                finally:
                    let_go(fd)

    def take_back(self, names: Sequence[str]) -> None:
        """Remove names that a failed save has made; a failure to do so is not told, for the first one is."""
        for name in names:
            with suppress(OSError):
                self._disk.unlink(name, self.fd)

    def probe(self, lock: str, step: str) -> None:
        """As a writer does; left to writers where there is no lock file yet, or it is not for this reader to open.

        Args:
            lock: The lock file's name.
            step: What it is called in messages.

        Raises:
            BackendError: The file system does not write any more.
        """
        try:
            fd = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError:
            return
        try:
            with Step(step, self.path):
                if is_lock(os.fstat(fd)):
                    self._disk.ftruncate(fd, 0)
        finally:
            let_go(fd)

    def listing(self) -> list[str]:
        """All names in it."""
        with Step("list snapshot directory", self.path):
            return os.listdir(self.fd)

    def _inode(self, name: str) -> tuple[int, int] | None:
        facts = self.facts(name)
        return None if facts is None else (facts.st_dev, facts.st_ino)


class Home:
    """Where a snapshot's path leads, found out when it is first used.

    Args:
        path: The absolute path.
        disk: The system calls that change the directory.
        follow: Whether a symlink there is followed, once.
    """

    def __init__(self, path: str, disk: Disk, *, follow: bool = True) -> None:
        self.path = path
        self._follow = follow
        self._disk = disk
        self._resolved: tuple[str, Names] | None = None
        self._durable: tuple[int, int] | None = None
        self._doubted = False

    @contextmanager
    def open(self, *, create: bool) -> Generator[Directory, None, None]:
        """The directory, and its own name in its parent durable.

        Raises:
            SnapshotNotFoundError: There is no directory, and it was not to be made.
            BackendError: It cannot be opened or made, or the snapshot's name is too long, or a temp file's.
        """
        path, names = self._resolve()
        fd = self._open(path, create=create)
        try:
            if not self._doubted:
                warn_of(fd)
                self._doubted = True
            with Step("fsync parent of snapshot directory", path):
                inode = _inode(fd)
                if self._durable != inode:  # whoever made it may have been killed before its name was durable
                    make_directory(self._disk, path)
                    self._durable = inode
            yield Directory(fd, path, names, self._disk)
        finally:
            let_go(fd)

    def _open(self, path: str, *, create: bool) -> int:
        with Step("create snapshot directory" if create else "open snapshot directory", path):
            try:
                return open_directory(path)
            except FileNotFoundError:
                if not create:
                    raise SnapshotNotFoundError(self.path) from None
            make_directory(self._disk, path)
            fd = open_directory(path)
            try:
                self._durable = _inode(fd)
            except BaseException:
                let_go(fd)
                raise
            return fd

    def _resolve(self) -> tuple[str, Names]:
        if self._resolved is None:
            with Step("open snapshot store", self.path):
                path = os.path.realpath(self.path) if self._follow and os.path.islink(self.path) else self.path
            names = Names(os.path.basename(path))
            if names.too_long():
                detail = "the name leaves no room for the suffixes of its generations"
                raise BackendError("open snapshot store", path, errno=errno.ENAMETOOLONG, detail=detail)
            if is_temp(names.latest):
                detail = "the name is one of those that are swept as temp files of killed writers"
                raise BackendError("open snapshot store", path, errno=errno.EINVAL, detail=detail)
            self.path = path
            self._resolved = os.path.dirname(path), names
        return self._resolved


def _inode(fd: int) -> tuple[int, int]:
    facts = os.fstat(fd)
    return facts.st_dev, facts.st_ino
