"""Operations that are either done or not, and a neighbour who syncs in the weakest moment of each."""

from __future__ import annotations

import ctypes
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from swoosh_async.backends.base import Index
from swoosh_async.backends.file import FileBackend, OsDisk
from swoosh_async.errors import BackendError, OutcomeUnknownError

from .._disks import PlainBlob, latest, put
from .._logs import Writer, batch, everything, log, segment
from ._blocks import SECTOR
from ._weak_disks import NoProbe

__all__ = [
    "APPEND",
    "NEWER",
    "OLDER",
    "OPERATIONS",
    "READ",
    "SAVE",
    "Beside",
    "BesideUnprobed",
    "Neighbour",
    "Operation",
]

OLDER, NEWER = "older", "newer"

_libc = ctypes.CDLL(None, use_errno=True)


class Beside(OsDisk):
    """The system's calls, and a neighbour's in between.

    Attributes:
        neighbour: Called behind a rename, or behind a write to a segment in use.
    """

    def __init__(self) -> None:
        self.neighbour: Callable[[], object] = lambda: None

    def now(self) -> None:
        """Have the neighbour act."""
        self.neighbour()

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        written = super().pwrite(fd, data, offset)
        if ".tmp" not in os.readlink(f"/proc/self/fd/{fd}"):
            self.now()
        return written

    def rename(self, source: str, target: str, dir_fd: int) -> None:
        super().rename(source, target, dir_fd)
        self.now()


class BesideUnprobed(Beside, NoProbe):
    """The same for a mutant, which does not ask the file system whether it still writes."""


class Neighbour:
    """Somebody who writes a file of his own on the same disk, and syncs it, or all of the file system.

    Args:
        home: Where.
        call: ``alone`` for doing nothing, or the call.
    """

    def __init__(self, home: Path, call: str) -> None:
        self._fd = os.open(home / "neighbour", os.O_RDWR | os.O_CREAT)
        self._call = call

    def __call__(self) -> None:
        if self._call == "alone":
            return
        with suppress(OSError):
            os.pwrite(self._fd, os.urandom(5000), 0)
            if self._call == "fsync":
                os.fsync(self._fd)
            else:
                _libc.syncfs(self._fd)

    def close(self) -> None:
        """Be gone."""
        with suppress(OSError):
            os.close(self._fd)

    def sync(self) -> None:
        """Have all of the file system written to the disk."""
        _libc.syncfs(self._fd)


# ---------------------------------------------------------------------- operations


class Operation(ABC):
    """Something that is either done or not, in a directory of its own."""

    name: str

    @abstractmethod
    def prepare(self, home: Path) -> None:
        """Make what is there before."""

    @abstractmethod
    def begin(self, home: Path, disk: OsDisk | None) -> tuple[Callable[[], object], Callable[[], object]]:
        """What does it, and what is to be called afterwards in any case."""

    @abstractmethod
    def found(self, home: Path) -> str:
        """What is there: the older or the newer; it must be whole."""


class Save(Operation):
    """A save over another one.

    Args:
        keep: How many are kept.
    """

    def __init__(self, keep: int) -> None:
        self.name = f"save keep {keep}"
        self._keep = keep

    def prepare(self, home: Path) -> None:
        for position in range(1, 5):
            put(FileBackend(home), position, keep=self._keep)

    def begin(self, home: Path, disk: OsDisk | None) -> tuple[Callable[[], object], Callable[[], object]]:
        blob = PlainBlob(latest(FileBackend(home)) + 1, os.urandom(9000))
        return lambda: FileBackend(home, disk=disk).put(blob, keep=self._keep, allow_rollback=False), lambda: None

    def found(self, home: Path) -> str:
        backend = FileBackend(home)
        there = [latest(backend, name) for name in backend.names()]
        newest = latest(backend)
        assert there[: self._keep] == list(range(newest, newest - self._keep, -1))
        return {4: OLDER, 5: NEWER, 6: NEWER}[newest]


class Append(Operation):
    """An append behind others, to their segment or to a new one.

    Args:
        size: How long it is.
        name: What it is called.
    """

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self._size = size

    def prepare(self, home: Path) -> None:
        writer = Writer(log(home, segment_bytes=1 << 14))
        writer.append(3000, 900)
        writer.release()

    def begin(self, home: Path, disk: OsDisk | None) -> tuple[Callable[[], object], Callable[[], object]]:
        backend = log(home, segment_bytes=1 << 14, disk=disk)
        claim = backend.claim()
        made = batch(claim.bounds.last + 1, claim.epoch, size=self._size)
        return lambda: backend.append(made), backend.release

    def found(self, home: Path) -> str:
        backend = log(home)
        last = backend.claim().bounds.last
        backend.release()
        assert [len(one.data) for one in everything(backend)] == [3000, 900, self._size, self._size][:last]
        return {2: OLDER, 3: NEWER, 4: NEWER}[last]


class Truncation(Operation):
    """A truncation by which segments go."""

    name = "truncation"

    def prepare(self, home: Path) -> None:
        writer = Writer(log(home))
        writer.append(*[900] * 8)
        writer.release()

    def begin(self, home: Path, disk: OsDisk | None) -> tuple[Callable[[], object], Callable[[], object]]:
        backend = log(home, disk=disk)
        backend.claim()
        return lambda: backend.truncate_before(Index(6)), backend.release

    def found(self, home: Path) -> str:
        backend = log(home)
        bounds = backend.claim().bounds
        backend.release()
        assert [one.first for one in everything(backend)] == list(range(bounds.first, 9))
        return {1: OLDER, 6: NEWER}[bounds.first]


class Claim(Operation):
    """A claim.

    Args:
        name: What it is called.
        torn: Whether it finds a batch that a crash has left unfinished.
    """

    def __init__(self, name: str, *, torn: bool) -> None:
        self.name = name
        self._torn = torn

    def prepare(self, home: Path) -> None:
        writer = Writer(log(home, segment_bytes=1 << 14))
        writer.append(100)
        if self._torn:
            writer.append(5000)
            with segment(home, 1).open("r+b") as file:
                file.seek(4 * SECTOR)
                file.write(bytes(SECTOR))
        writer.release()

    def begin(self, home: Path, disk: OsDisk | None) -> tuple[Callable[[], object], Callable[[], object]]:
        backend = log(home, disk=disk)
        return backend.claim, backend.release

    def found(self, home: Path) -> str:
        backend = log(home)
        claim = backend.claim()
        backend.release()
        assert claim.bounds.last == 1
        return OLDER if claim.epoch == 2 else NEWER


class _Killed(Beside):
    """The calls of somebody who is killed before anything that he wrote last is durable."""

    def fsync(self, fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            super().fsync(fd)

    def fdatasync(self, fd: int) -> None:
        pass

    def ftruncate(self, fd: int, length: int) -> None:
        pass


class Load(Save):
    """A load of what another process has saved and has not lived to make durable."""

    def __init__(self) -> None:
        super().__init__(1)
        self.name = "load"

    def begin(self, home: Path, disk: OsDisk | None) -> tuple[Callable[[], object], Callable[[], object]]:
        save, end = super().begin(home, _killed(disk))
        return lambda: (save(), _asked(lambda: latest(FileBackend(home, disk=disk)))), end


class Read(Append):
    """A read of what another process has appended and has not lived to make durable."""

    def __init__(self) -> None:
        super().__init__("read", 5000)

    def begin(self, home: Path, disk: OsDisk | None) -> tuple[Callable[[], object], Callable[[], object]]:
        append, end = super().begin(home, _killed(disk))
        return lambda: (append(), end(), _asked(lambda: everything(log(home, disk=disk)))), end


def _killed(disk: OsDisk | None) -> Beside:
    killed = _Killed()
    if isinstance(disk, Beside):
        killed.neighbour = disk.now
    return killed


def _asked(call: Callable[[], object]) -> None:
    """Read something; an error says nothing about what is there."""
    try:
        call()
    except BackendError as error:
        raise OutcomeUnknownError("read", error.path, errno=error.errno) from error


SAVE = Save(1)
APPEND = Append("append", 5000)
READ = Read()
OPERATIONS: list[Operation] = [
    SAVE,
    Save(3),
    APPEND,
    Append("append to a new segment", 14000),
    Truncation(),
    Claim("claim", torn=False),
    Claim("claim of a torn journal", torn=True),
    Load(),
    READ,
]
