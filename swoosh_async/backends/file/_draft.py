"""A backend's directory that is being written, and has not its name yet: whole under that name, or not there.

Nothing of it needs to be durable on the way, so nothing is made so until all of it is written.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil

from ._backend import FileBackend
from ._disk import FULL, OsDisk, Step, let_go, make_directory, open_directory
from ._segments import LOCK

__all__ = ["Draft"]

_MODE = 0o700
_REFUSED = FULL | {
    errno.EACCES,
    errno.EBUSY,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.EPERM,
    errno.EXDEV,
}  # rename(2): of these it is found out before anything is changed


class _Unsynced(OsDisk):
    """Leaves out what makes things durable."""

    def fsync(self, fd: int) -> None:  # noqa: ARG002
        return

    def fdatasync(self, fd: int) -> None:  # noqa: ARG002
        return


class Draft:
    """A directory on its way, called ``PATH-<16 hex>.tmp`` until then; it stays so if its writer is killed.

    Args:
        path: Where it is to be; nothing is there, or an empty directory.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path: str = os.path.abspath(os.fspath(path))
        self._temp = f"{self._path}-{secrets.token_hex(8)}.tmp"
        self._disk = OsDisk()
        self.abandoned = False
        """Whether nothing of it is left but what has its name."""

    def open(self) -> FileBackend:
        """The backend to write into.

        Raises:
            BackendError: Something is there already, or a directory cannot be made.
        """
        with Step("create backup", self._path):
            if os.path.lexists(self._path):
                _check_replaceable(self._path)
            make_directory(self._disk, os.path.dirname(self._path))
            os.mkdir(self._temp, _MODE)
        return FileBackend(self._temp, disk=_Unsynced())

    def publish(self) -> None:
        """Make all of it durable, and give it its name.

        Raises:
            BackendError: A step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may be there.
        """
        with Step("fsync backup", self._temp):
            for name in os.listdir(self._temp):
                self._sync(os.path.join(self._temp, name))
            self._sync(self._temp)
        with Step("rename backup", self._path, unknown=True, but=_REFUSED):
            os.rename(self._temp, self._path)
        with Step("fsync directory of backup", self._path, unknown=True):
            fd = open_directory(os.path.dirname(self._path))
            try:
                self._disk.fsync(fd)
            finally:
                let_go(fd)
        with Step("probe directory of backup", self._path, unknown=True):
            self._probe()

    def abandon(self) -> None:
        """Remove what was written, unless it has its name."""
        shutil.rmtree(self._temp, ignore_errors=True)
        self.abandoned = True

    def _probe(self) -> None:
        """See that the file system still writes, by the journal's lock, which is an empty file."""
        fd = os.open(os.path.join(self._path, LOCK), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._disk.ftruncate(fd, 0)
        finally:
            let_go(fd)

    def _sync(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._disk.fsync(fd)
        finally:
            let_go(fd)


def _check_replaceable(path: str) -> None:
    """Check that a directory can take the place of what stands there.

    Raises:
        OSError: It is not an empty directory, or cannot be replaced by a rename.
    """
    if os.listdir(path):
        raise FileExistsError(errno.EEXIST, "the directory is not empty", path)
    if os.path.islink(path):
        raise NotADirectoryError(errno.ENOTDIR, "it is a symlink; name the directory itself", path)
    if os.path.ismount(path):
        raise OSError(errno.EBUSY, "it is a mount point; name a directory in it", path)
