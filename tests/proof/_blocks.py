"""Disks that remember: a file system on a loop device over recorder.c, which logs what arrives and fails when told to.

What a disk may keep of it when its power is cut is enumerated here: all that came before a flush that it has completed,
and of what came later, anything, sector by sector. Two things that could be are not: where two writes to one sector
are under way, the later one wins or neither does, for the disk's cache has one of them only; and a write that was not
answered yet when a flush was asked for counts as flushed, for the loop device hands over one thing at a time.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest

from ._mounts import KINDS, must_be_root, must_have, run

__all__ = ["KINDS", "Crash", "Entry", "Recorder", "Write", "built", "crashes", "own_mounts", "read_log", "since_flush"]

SECTOR = 512
"""What a disk writes as a whole or not at all, in bytes."""

_HEADER = struct.Struct("=cQI")
_FLUSH_BUFFERS = 0x1261  # linux/fs.h, BLKFLSBUF: what is cached of a block device is read again
_DETACH = 2  # sys/mount.h, MNT_DETACH
_WAIT_S = 10.0
_MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0"),  # or else a thread makes tables, when it likes
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}

# include/uapi/linux/: sched.h, mount.h
_CLONE_NEWNS = 0x20000
_MS_NOATIME = 1 << 10
_MS_PRIVATE = 1 << 18
_MS_REC = 1 << 14

_libc = ctypes.CDLL(None, use_errno=True)


class Write(NamedTuple):
    """Bytes that go to a place on the disk."""

    offset: int
    data: bytes


class Entry(NamedTuple):
    """One line of the log.

    Attributes:
        kind: ``W`` written, ``w`` write failed, ``F`` flushed, ``f`` flush failed, ``M`` a mark.
        write: Where, and what was written; a mark's text.
    """

    kind: str
    write: Write


class Crash(NamedTuple):
    """What a power cut has left.

    Attributes:
        at: How many entries of the log had come before.
        flushed: How many of these are on the disk as a whole, for a flush came behind them.
        writes: What else is on the disk.
        kept: How much of what came since that flush is there: ``all``, or ``some``.
    """

    at: int
    flushed: int
    writes: tuple[Write, ...]
    kept: str


def built(home: Path, session: str) -> Path:
    """The recorder, built in an empty directory; skip the test where that cannot be, or could not be used."""
    must_be_root(session)
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse: modprobe fuse, or docker run --privileged --device /dev/fuse")
    must_have("gcc", "gcc")
    must_have("pkg-config", "pkg-config")
    must_have("fusermount3", "fuse3")
    try:
        flags = run("pkg-config", "--cflags", "--libs", "fuse3").split()
    except OSError:
        pytest.skip("the headers of libfuse 3 are not installed: apt-get install libfuse3-dev")
    program = home / "recorder"
    run("gcc", "-O2", "-Wall", "-Wextra", "-o", program, Path(__file__).with_name("recorder.c"), *flags)
    return program


@contextmanager
def own_mounts() -> Iterator[None]:
    """In this block, what is mounted is mounted for this thread, and the threads and processes that it starts.

    Whoever has a copy of a mount keeps its file system alive when it is unmounted here, and the next mount is the same
    file system again, with what it has in memory. So nobody may have one.
    """
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.unshare(_CLONE_NEWNS) != 0 or _libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
            pytest.skip(f"mounting is not permitted here ({os.strerror(ctypes.get_errno())}): docker run --privileged")
        yield
    finally:
        _libc.setns(before, _CLONE_NEWNS)  # may fail while other threads live: all is there where they are, too
        os.close(before)


def read_log(log: bytes) -> list[Entry]:
    """The entries of a log."""
    entries: list[Entry] = []
    at = 0
    while at < len(log):
        kind, offset, length = _HEADER.unpack_from(log, at)
        at += _HEADER.size
        entries.append(Entry(kind.decode(), Write(offset, log[at : at + length])))
        at += length
    return entries


class Recorder:
    """A file system on a disk that remembers; a context.

    Args:
        program: The recorder, built.
        kind: Which file system, of `KINDS`.
        home: An empty directory.
    """

    def __init__(self, program: Path, kind: str, home: Path) -> None:
        must_have(_MAKERS[kind][0])
        self.kind = kind
        self.at = home / "mounted"
        self._fuse = home / "fuse"
        self._files = image, _, log = home / "image", home / "before", home / "log"
        self._command = [program, "-s", "-f", self._fuse, image, log]
        self._stack = ExitStack()
        self._mounted = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            image, before, log = self._files
            for path in self._files:
                stack.callback(path.unlink, missing_ok=True)
            for path in (self.at, self._fuse):
                path.mkdir()
            with image.open("wb") as file:
                file.truncate(KINDS[self.kind])
            run(*_MAKERS[self.kind], image)
            run("cp", "--sparse=always", image, before)
            process = subprocess.Popen(list(map(str, self._command)))
            stack.callback(self._stop, process)
            self._until_there(process)
            self._image, self._before, self._log = (os.open(path, os.O_RDWR) for path in (image, before, log))
            for fd in (self._image, self._before, self._log):
                stack.callback(os.close, fd)
            self._loop = self._attach()
            stack.callback(run, "losetup", "-d", self._loop)
            self._ctl = os.open(self._fuse / "ctl", os.O_RDWR)
            stack.callback(os.close, self._ctl)
            stack.callback(self.unmount)
            stack.callback(self.heal)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _until_there(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _WAIT_S
        while not (self._fuse / "disk").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise OSError(errno.EIO, f"the recorder does not run: {process.returncode}")
            time.sleep(0.002)

    def _attach(self) -> str:
        try:
            return run("losetup", "-f", "--show", self._fuse / "disk")
        except OSError as error:
            if os.path.exists("/dev/loop-control"):
                raise
            pytest.skip(f"a loop device cannot be made here ({error.strerror}): docker run --privileged")

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        subprocess.run(["fusermount3", "-u", "-z", str(self._fuse)], capture_output=True, check=False, timeout=60)
        try:
            process.wait(_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    # ------------------------------------------------------------------ mount

    def mount(self) -> None:
        """Mount it as it is on the disk now, whatever any cache holds, and with no times of access.

        For a time of access is written to the file system's log: so some of who only reads are told of errors there.

        Raises:
            OSError: As mount(2).
        """
        fd = os.open(self._loop, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FLUSH_BUFFERS)
        finally:
            os.close(fd)
        if _libc.mount(self._loop.encode(), os.fsencode(self.at), self.kind.encode(), _MS_NOATIME, None) != 0:
            raise OSError(ctypes.get_errno(), f"mount: {os.strerror(ctypes.get_errno())}", str(self.at))
        self._mounted = True

    def unmount(self) -> None:
        """Unmount it; whoever had it open may take a moment to be gone."""
        for _ in range(500):
            if not self._mounted:
                return
            self._mounted = _libc.umount2(os.fsencode(self.at), 0) != 0
            if self._mounted:
                time.sleep(0.01)
        _libc.umount2(os.fsencode(self.at), _DETACH)
        raise OSError(errno.EBUSY, "it is still in use", str(self.at))

    # ------------------------------------------------------------------ commands

    def mark(self, text: str) -> None:
        """Write a mark to the log."""
        os.write(self._ctl, f"mark {text}".encode())

    def fail(self, what: str, after: int, count: int = -1) -> None:
        """Fail writes or flushes with EIO.

        Args:
            what: ``write`` or ``flush``.
            after: How many to let pass before.
            count: How many to fail; -1 for all that come.
        """
        os.write(self._ctl, f"fail {what} {after} {count}".encode())

    def heal(self) -> None:
        """Fail nothing any more."""
        os.write(self._ctl, b"heal")

    def failed(self) -> int:
        """How many writes and flushes have failed."""
        _, _, writes, flushes = map(int, os.pread(self._ctl, 256, 0).split())
        return writes + flushes

    # ------------------------------------------------------------------ while it is not mounted

    def take_log(self) -> list[Entry]:
        """What was logged since the last time."""
        log = os.pread(self._log, os.fstat(self._log).st_size, 0)
        os.ftruncate(self._log, 0)
        return read_log(log)

    def keep(self, entries: Sequence[Entry]) -> None:
        """Have these writes on the disk from now on, whatever is put back."""
        for entry in entries:
            if entry.kind == "W":
                _write(self._image, entry.write)
                _write(self._before, entry.write)

    def put_back(self, writes: Sequence[Write]) -> None:
        """Have the disk hold what it held before these writes."""
        for offset, data in writes:
            _write(self._image, Write(offset, os.pread(self._before, len(data), offset)))

    @contextmanager
    def holding(self, writes: Sequence[Write]) -> Iterator[None]:
        """In this block the disk holds these as well; what is written to it meanwhile is put back in the end, too."""
        for write in writes:
            _write(self._image, write)
        try:
            yield
        finally:
            self.unmount()
            self.put_back([*writes, *(entry.write for entry in self.take_log() if entry.kind == "W")])


def _write(fd: int, write: Write) -> None:
    assert os.pwrite(fd, write.data, write.offset) == len(write.data)


# ---------------------------------------------------------------------- crash states


def since_flush(entries: Sequence[Entry]) -> tuple[int, list[Write]]:
    """How many of the entries are flushed, and what was written since."""
    flushed = next((at for at in range(len(entries), 0, -1) if entries[at - 1].kind == "F"), 0)
    return flushed, [entry.write for entry in entries[flushed:] if entry.kind == "W"]


def crashes(entries: Sequence[Entry], start: int, count: int, seed: str) -> list[Crash]:
    """Power cuts behind the entry at `start`, no two of which are the same, in the order of their times.

    The one half, or less where there are not so many: behind each write, with all that was written; they are spread
    evenly. The others leave out, or tear, some of what was not flushed.

    Args:
        entries: The log.
        start: From which entry on.
        count: How many, if there are so many.
        seed: What chance depends on.
    """
    places, unflushed = _places(entries, start)
    whole = min(len(places), (count + 1) // 2)
    chosen = {_key(crash): crash for crash in (places[number * len(places) // whole] for number in range(whole))}
    chance = random.Random(seed)
    for _ in range(20 * count if unflushed else 0):
        if len(chosen) >= count:
            break
        place = chance.choice(unflushed)
        crash = place._replace(writes=_left_of(place.writes, chance), kept="some")
        chosen.setdefault(_key(crash), crash)
    return sorted(chosen.values(), key=lambda crash: crash.at)


def _places(entries: Sequence[Entry], start: int) -> tuple[list[Crash], list[Crash]]:
    """Where the disk holds something else than before; and where it holds something that is not flushed.

    Each is as late as can be, behind the marks that change nothing on the disk: then the most is acknowledged.
    """
    places: list[Crash] = []
    unflushed: list[Crash] = []
    flushed, writes = since_flush(entries[:start])
    for at, (kind, write) in enumerate(entries[start:], start + 1):
        if kind == "F":
            flushed, writes = at, []
        elif kind == "W":
            writes = [*writes, write]
        elif writes and unflushed and unflushed[-1].flushed == flushed:
            unflushed.pop()
        if kind != "W" and places:
            places.pop()
        place = Crash(at, flushed, tuple(writes), "all")
        places.append(place)
        if writes:
            unflushed.append(place)
    return places, unflushed


def _key(crash: Crash) -> tuple[int, int, tuple[tuple[int, int], ...]]:
    return crash.at, crash.flushed, tuple((write.offset, len(write.data)) for write in crash.writes)


def _left_of(writes: Sequence[Write], chance: random.Random) -> tuple[Write, ...]:
    """What a disk may keep of these writes."""
    whole, torn = chance.choice([(0.5, 0.3), (0.9, 0.1), (0.0, 0.3), (0.1, 0.0), (0.9, 0.0)])
    left: list[Write] = []
    for write in writes:
        lot = chance.random()
        if lot < whole:
            left.append(write)
        elif lot < whole + torn:
            left += _torn(write, chance)
    return tuple(left)


def _torn(write: Write, chance: random.Random) -> Iterator[Write]:
    """Some sectors of a write: the first, the last, or any."""
    offset, data = write
    sectors = range(0, len(data), SECTOR)
    cut = chance.choice(sectors)
    how = chance.randrange(3)
    for at in sectors:
        if (at < cut, at >= cut, chance.random() < 0.5)[how]:
            yield Write(offset + at, data[at : at + SECTOR])
