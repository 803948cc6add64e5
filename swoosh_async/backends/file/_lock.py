"""One writer at a time: flock on an empty file of our own, which is never unlinked.

flock, not POSIX locks, which any close of the file anywhere in the process drops. Never unlinked, for whoever waits on
the old inode and whoever makes a new one would both hold "the" lock. Unlocked explicitly, not only by close, and closed
at once in a child that is forked meanwhile: its copy of the descriptor would keep the lock when the parent is killed.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import sys
import time
import weakref
from types import TracebackType
from typing import Self

from ...errors import LockedError
from ._disk import Disk, Step, let_go

if sys.platform != "win32":
    import fcntl

__all__ = ["FileLock", "is_lock"]

_LOCK_LINE = re.compile(r"\d+: FLOCK +\S+ +\S+ +(?P<pid>[1-9]\d*) (?P<inode>\S+) ")
_FIRST_WAIT_S = 0.0002
_LONGEST_WAIT_S = 0.005
_OWNER_RW = 0o600

_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


class FileLock:
    """A context in which this is the only writer.

    Args:
        disk: Where the lock file is made.
        name: The lock file's name.
        dir_fd: The directory in which it stands.
        path: The lock file's whole path, for messages.
        mode: The lock file's permissions when it is made; whoever owns it can always write, for so it is opened.
        timeout_s: How long to wait for another holder, in seconds.
        what: What it is the lock of, for messages.
    """

    def __init__(
        self, disk: Disk, name: str, dir_fd: int, *, path: str, mode: int, timeout_s: float, what: str = "snapshot"
    ) -> None:
        self._fd = -1
        self._disk = disk
        self._name = name
        self._dir_fd = dir_fd
        self._path = path
        self._mode = mode | _OWNER_RW
        self._timeout_s = timeout_s
        self._step = f"lock {what}"

    def __enter__(self) -> Self:
        try:
            with Step(self._step, self._path):
                self._fd = self._open_file()
                _held.add(self)
                self._wait()
        except BaseException:  # also where there was no memory to go on, once it was taken
            if self._fd >= 0:
                self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
            except OSError:  # closing lets go of it as well, unless a fork has a copy
                pass
            finally:
                self.close()

    def __del__(self) -> None:
        """Let go of what nobody can let go of any more: who took it had no memory to remember that."""
        if self._fd >= 0:
            self.close()

    def probe(self) -> None:
        """Ask the file system whether it still writes, at the price of one system call.

        When a neighbour's fsync meets an I/O error in the file system's own log between our rename and our fsync of the
        directory, that fsync returns 0 on ext4 and XFS although the rename is gone after the next boot. Truncating an
        empty file to nothing starts a transaction, which fails in that case; it needs no room, so a full disk does not.

        Raises:
            OSError: It does not.
        """
        self._disk.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Close the descriptor, and not unlock: in a forked child, what the parent holds stays held."""
        fd, self._fd = self._fd, -1
        let_go(fd)
        _held.discard(self)

    def _open_file(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd, made = self._disk.open(self._name, flags, self._mode, self._dir_fd), False
        except FileNotFoundError:
            fd, made = self._disk.open(self._name, flags | os.O_CREAT, self._mode, self._dir_fd), True
        try:
            facts = os.fstat(fd)
            if not is_lock(facts):
                raise OSError(errno.EINVAL, "not an empty file, and so no lock")
            if made and stat.S_IMODE(facts.st_mode) != self._mode:  # the umask is for modes that nobody has chosen
                self._disk.fchmod(fd, self._mode)
        except BaseException:
            let_go(fd)
            raise
        return fd

    def _wait(self) -> None:
        if _take(self._fd):
            return
        begun = time.monotonic()
        wait_s = _FIRST_WAIT_S
        while (waited_s := time.monotonic() - begun) < self._timeout_s:
            time.sleep(min(wait_s, self._timeout_s - waited_s))
            if _take(self._fd):
                return
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        pid = _holder(self._fd)
        host = socket.gethostname() if pid is not None else None
        raise LockedError(self._path, pid=pid, host=host, waited_s=self._timeout_s)


def is_lock(facts: os.stat_result) -> bool:
    """Whether this may be a lock file, so that it can be probed: what is in any other would be lost."""
    return stat.S_ISREG(facts.st_mode) and facts.st_size == 0


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(fd: int) -> int | None:
    """The pid of the process that holds the lock, as Linux tells it in /proc/locks: proc_locks(5)."""
    facts = os.fstat(fd)
    inode = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    try:
        with open("/proc/locks", encoding="ascii") as lines:
            found = [match for line in lines if (match := _LOCK_LINE.match(line)) and match["inode"] == inode]
    except OSError:
        return None
    return next((int(match["pid"]) for match in found), None)


def _close_copies() -> None:
    """In a forked child: let go of what is the parent's."""
    for lock in tuple(_held):
        lock.close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_copies)
