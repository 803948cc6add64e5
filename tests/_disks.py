"""Disks for tests: one that writes down what is done to it, one that fails, one that dies; and a blob for them."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

from swoosh_async.backends.base import Position, SnapshotBackend, Source, Stored
from swoosh_async.backends.file import OsDisk
from swoosh_async.errors import CorruptSnapshotError, FormatVersionError

T = TypeVar("T")

_RANDOM = re.compile(r"(snapshot|journal)-[0-9a-f]{16}\.tmp"), re.compile(r"(?<=corrupt-)[0-9a-f]{8}")


def path_of(fd: int) -> str:
    """The path of an open file or directory."""
    return os.readlink(f"/proc/self/fd/{fd}")


def descriptors() -> list[str]:
    """What this process has open, as Linux tells."""
    found: list[str] = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{fd} {path_of(int(fd))}")
        except OSError:  # the one that lists
            continue
    return found


class RecordingDisk(OsDisk):
    """The operating system's calls, each written down with what it was done to, relative to a root.

    Random names are written as TEMP and RANDOM.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.calls: list[str] = []

    def take(self) -> list[str]:
        """What was done since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def do(self, what: str, call: Callable[[], T]) -> T:
        """Write one call down, and make it."""
        self.calls.append(what)
        return call()

    def _at(self, path: str, dir_fd: int | None = None) -> str:
        whole = os.path.join(path_of(dir_fd), path) if dir_fd is not None else path
        relative = os.path.relpath(whole, self.root)
        temp, random = _RANDOM
        return random.sub("RANDOM", temp.sub("TEMP", relative))

    def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int:
        what = "create" if flags & os.O_CREAT else "open"
        return self.do(f"{what} {self._at(name, dir_fd)}", lambda: OsDisk.open(self, name, flags, mode, dir_fd))

    def mkdir(self, path: str, mode: int) -> None:
        self.do(f"mkdir {self._at(path)}", lambda: OsDisk.mkdir(self, path, mode))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self.do(f"pwrite {self._at(path_of(fd))}", lambda: OsDisk.pwrite(self, fd, data, offset))

    def fchmod(self, fd: int, mode: int) -> None:
        self.do(f"fchmod {self._at(path_of(fd))} {mode:o}", lambda: OsDisk.fchmod(self, fd, mode))

    def ftruncate(self, fd: int, length: int) -> None:
        self.do(f"ftruncate {self._at(path_of(fd))} {length}", lambda: OsDisk.ftruncate(self, fd, length))

    def fsync(self, fd: int) -> None:
        self.do(f"fsync {self._at(path_of(fd))}", lambda: OsDisk.fsync(self, fd))

    def fdatasync(self, fd: int) -> None:
        self.do(f"fdatasync {self._at(path_of(fd))}", lambda: OsDisk.fdatasync(self, fd))

    def allocate(self, fd: int, size: int) -> None:
        self.do(f"allocate {self._at(path_of(fd))} {size}", lambda: OsDisk.allocate(self, fd, size))

    def close(self, fd: int) -> None:
        self.do(f"close {self._at(path_of(fd))}", lambda: OsDisk.close(self, fd))

    def link(self, source: str, target: str, dir_fd: int) -> None:
        what = f"link {self._at(source, dir_fd)} {self._at(target, dir_fd)}"
        self.do(what, lambda: OsDisk.link(self, source, target, dir_fd))

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        what = f"rename {self._at(source, dir_fd)} {self._at(target, dir_fd)}"
        self.do(what, lambda: OsDisk.rename(self, source, target, dir_fd))

    def unlink(self, name: str, dir_fd: int) -> None:
        self.do(f"unlink {self._at(name, dir_fd)}", lambda: OsDisk.unlink(self, name, dir_fd))


class FailingDisk(RecordingDisk):
    """A disk on which one call fails, once, or from then on.

    Args:
        root: As for `RecordingDisk`.
        at: Which call, from 0 on; None for none.
        number: The system's error number.
        late: Whether the call fails although it has taken effect.
        on: Whether every call after it fails as well.
    """

    def __init__(
        self, root: Path, at: int | None = None, number: int = errno.EIO, *, late: bool = False, on: bool = False
    ) -> None:
        super().__init__(root)
        self.at = at
        self.number = number
        self.late = late
        self.on = on
        self.failed = ""
        """The call that failed, as it was written down."""

    def do(self, what: str, call: Callable[[], T]) -> T:
        failing = self.at is not None and (len(self.calls) == self.at or (self.on and len(self.calls) > self.at))
        self.calls.append(what)
        if not failing:
            return call()
        self.failed = self.failed or what
        if what.startswith("close") or (self.late and not what.startswith(("open", "create"))):
            call()  # close(2) lets go of the descriptor whatever it returns
        raise OSError(self.number, os.strerror(self.number))


class DyingDisk(RecordingDisk):
    """A disk before one call of which the process is killed, as by SIGKILL; for use in a child."""

    def __init__(self, root: Path, at: int) -> None:
        super().__init__(root)
        self.at = at

    def do(self, what: str, call: Callable[[], T]) -> T:
        if len(self.calls) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().do(what, call)


def forked() -> int:
    """As fork(2), beside the idle threads of earlier tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_child(call: Callable[[], object]) -> int:
    """Call it in a forked child; return its exit status, or the negative number of the signal that killed it."""
    pid = forked()
    if pid == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException:  # noqa: BLE001  nothing of the child may go on into pytest
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def take_room(file: BinaryIO, steps: Iterable[int]) -> int:
    """Have a file take all room that there is, in steps of so many bytes, the largest first; how long it is then."""
    size = 0
    for step in steps:
        while True:
            try:
                os.posix_fallocate(file.fileno(), size, step)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                break
            size += step
    return size


class PlainBlob:
    """A blob of pieces behind a head of a position and a checksum: all that a backend may ask for, and no codec.

    Args:
        position: What it stands for.
        pieces: Its body; what is an exception is raised in its place.
    """

    head_bytes = 85

    def __init__(self, position: int, *pieces: bytes | Exception) -> None:
        self.position = Position(position)
        self._pieces = pieces or (f"body of {position}".encode(),)
        self._sum = hashlib.sha256(f"{position:020d}".encode())

    def body(self) -> Iterator[bytes]:
        """The pieces."""
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            self._sum.update(piece)
            yield piece

    def head(self) -> bytes:
        """The position and the checksum."""
        return f"{self.position:020d}{self._sum.hexdigest()}\n".encode()

    def position_of(self, stored: Source) -> Position:
        """The position in the head; the body is not looked at."""
        head = stored.read(0, self.head_bytes)
        if head.startswith(b"newer"):
            raise FormatVersionError(stored.name, found=2, supported=1)
        if not re.fullmatch(rb"\d{20}[0-9a-f]{64}\n", head):
            raise CorruptSnapshotError(stored.name, "no head")
        return Position(int(head[:20]))

    def verify(self, stored: Source) -> None:
        """Check position and body against the checksum."""
        data = stored.read(0, stored.size_bytes)
        if hashlib.sha256(data[:20] + data[85:]).hexdigest().encode() != data[20:84]:
            raise CorruptSnapshotError(stored.name, "checksum")


def put(backend: SnapshotBackend, position: int, *, keep: int = 1, allow_rollback: bool = False) -> Stored:
    """Put a small blob of that position."""
    return backend.put(PlainBlob(position), keep=keep, allow_rollback=allow_rollback)


def latest(backend: SnapshotBackend, name: str | None = None) -> int:
    """The position of the latest snapshot, or of the one of that name, every byte of it checked."""
    with backend.open(name) as source:
        PlainBlob(0).verify(source)
        return PlainBlob(0).position_of(source)


def tree(directory: Path) -> Mapping[str, tuple[int, bytes]]:
    """Every name in a directory but the lock, with the inode and the content behind it."""
    return {
        path.name: (path.stat().st_ino, path.read_bytes())
        for path in sorted(directory.iterdir())
        if not path.name.endswith(".lock")
    }


def temps(directory: Path) -> list[str]:
    """The temp files in a directory."""
    return [path.name for path in directory.iterdir() if path.name.endswith(".tmp")]
