"""The files of a journal in an open directory: its record, its segments, what was cut off, and how each is made.

For a journal called ``journal``: ``journal`` is its record; ``journal.<base>`` is a segment whose first entry has that
index; ``journal.torn-<base>-<offset>`` is a batch that was cut off; ``.journal.lock`` is the lock;
``journal-<random>.tmp`` is being made, or was when its maker died.

This file does not know in which order an append or a claim does things.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from ...errors import CorruptJournalError, FormatVersionError
from ._directory import Directory
from ._disk import FULL, Disk, Step, let_go, write_all
from ._frames import (
    ALIGN,
    LONGEST_FRAME_BYTES,
    SEGMENT_FORMAT,
    SEGMENT_HEADER_BYTES,
    Seed,
    is_what_is_left,
    read_segment_header,
    segment_header,
)
from ._lock import FileLock
from ._record import MAX_RECORD_BYTES, RECORD_FORMAT, Record, read_record, record_bytes
from ._scan import Tail
from ._segment import Segment

__all__ = ["LOCK", "NAME", "Active", "Fresh", "Segments"]

NAME = "journal"
LOCK = f".{NAME}.lock"

_SEGMENT = re.compile(rf"{NAME}\.([0-9]{{20}})")
_TEMP = re.compile(rf"{NAME}-[0-9a-f]+\.tmp")
_MODE = 0o600
_ZEROS = bytes(1 << 20)


class Fresh(msgspec.Struct, frozen=True):
    """A file that is being made, and has no name of its own yet.

    Attributes:
        fd: Its descriptor.
        path: Its path, for messages.
        name: Its name.
        size: How long it is.
    """

    fd: int
    path: str
    name: str
    size: int = 0


class Active(msgspec.Struct):
    """The segment that is written.

    Attributes:
        fd: Its descriptor.
        path: Its path, for messages.
        size: How long it is.
        seed: What its header says.
        end: Where the next frame belongs.
    """

    fd: int
    path: str
    size: int
    seed: Seed
    end: int = SEGMENT_HEADER_BYTES


class Segments:
    """The journal's files in one directory.

    Args:
        here: The directory.
        disk: The system calls that change it.
        mode: The permissions of new files, which their owner can read and write in any case; None for 0600.
    """

    def __init__(self, here: Directory, disk: Disk, mode: int | None) -> None:
        self.here = here
        self._disk = disk
        self._mode = _MODE if mode is None else mode | _MODE  # whoever owns them can write them again

    # ------------------------------------------------------------------ read

    def bases(self) -> list[int]:
        """The segments that there are, by the index of their first entry, in order."""
        return sorted(int(match[1]) for match in map(_SEGMENT.fullmatch, self.here.listing()) if match)

    def layout(self) -> tuple[Record | None, list[int]]:
        """The record, None where there is no journal yet; and the segments, by the index of their first entry.

        Raises:
            CorruptJournalError: The record is damaged, or it or the first or newest segments are missing.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
        """
        record, bases = self.record(), self.bases()
        while record is not None and (index := _missing(record, bases)):
            latest = self.record()
            if latest == record:
                raise CorruptJournalError(self.here.path, "a segment is missing", offset=0, index=index)
            record, bases = latest, self.bases()  # it was truncated meanwhile
        return record, bases

    def open(self, base: int, store: str) -> Segment | None:
        """A segment of the journal with that id; None if there is none.

        Raises:
            CorruptJournalError: Its header is damaged, or it is not all there, or of another journal.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
        """
        source = self.here.open_file(_name(base), "open journal segment", read="read journal")
        if source is None:
            return None
        try:
            seed = read_segment_header(source.read(0, SEGMENT_HEADER_BYTES))
            if isinstance(seed, int):
                raise FormatVersionError(source.path, found=seed, supported=SEGMENT_FORMAT)
            reason = _wrong(seed, base, store, source.size_bytes)
            if seed is None or reason:
                raise CorruptJournalError(source.path, reason, offset=0, index=base)
        except BaseException:
            source.close()
            raise
        return Segment(source, seed, lambda: self.here.probe(LOCK, "probe journal"))

    def record(self) -> Record | None:
        """The record; None where there is no journal yet.

        Raises:
            CorruptJournalError: It is damaged, or there are segments without one.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
        """
        source = self.here.open_file(NAME, "open journal record", read="read journal record")
        if source is None:
            bases = self.bases()
            if bases and self.here.facts(NAME) is None:
                path = self.here.path_of(NAME)
                raise CorruptJournalError(path, "the record beside the segments is missing", offset=0, index=bases[0])
            return None if not bases else self.record()
        with source:
            record = read_record(source.read(0, MAX_RECORD_BYTES))
        if isinstance(record, int):
            raise FormatVersionError(source.path, found=record, supported=RECORD_FORMAT)
        if record is None:
            raise CorruptJournalError(source.path, "the record was damaged", offset=0, index=0)
        return record

    def settle(self, segment: Segment) -> None:
        """Make what the newest segment holds durable, and have it read from the disk.

        Its writer may have been killed before it was, and after a failed fsync the cache holds what the disk does not.

        Raises:
            BackendError: It cannot be made durable.
        """
        with Step("fdatasync journal", segment.source.path):
            try:
                self._disk.fdatasync(segment.source.fd)
            finally:
                segment.source.evict()

    def settle_names(self, lock: FileLock) -> None:
        """Make durable what stands in the directory.

        Raises:
            BackendError: It cannot be.
        """
        with Step("fsync journal directory", self.here.path):
            self._disk.fsync(self.here.fd)
            lock.probe()

    # ------------------------------------------------------------------ write

    def sweep(self) -> None:
        """Remove the files that dead writers were making; under the lock only."""
        for name in filter(_TEMP.fullmatch, self.here.listing()):
            with suppress(OSError):
                self._disk.unlink(name, self.here.fd)

    def put(self, name: str, data: bytes, lock: FileLock, what: str) -> None:
        """Make a small file of that name, durably, in place of any that was there.

        Raises:
            BackendError: A step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may be there.
        """
        fresh = self._create(f"create {what}")
        try:
            with Step(f"write {what}", self.here.path_of(name)):
                write_all(self._disk, fresh.fd, (data,), 0)
                self._disk.fsync(fresh.fd)
            with Step(f"rename {what}", self.here.path_of(name), unknown=True, but=FULL):
                self._disk.rename(fresh.name, name, self.here.fd)
        except BaseException:
            self.discard(fresh)
            raise
        let_go(fresh.fd)
        self._settle(lock, what)

    def put_record(self, record: Record, lock: FileLock) -> None:
        """As `put`, of the record.

        Raises:
            ValueError: It could not be read again.
        """
        data = record_bytes(record)
        if read_record(data) != record:
            raise ValueError("the journal's record would not come back as it is")
        self.put(NAME, data, lock, "journal record")

    def prepare(self, size: int) -> Fresh:
        """A file of that size, of zeros and with no name of a segment yet.

        Raises:
            BackendError: There is no room, or a step failed; nothing has changed.
        """
        fresh = self._create("create journal segment")
        try:
            with Step("allocate journal segment", fresh.path):
                self._disk.allocate(fresh.fd, size)
                self._disk.fsync(fresh.fd)
        except BaseException:
            self.discard(fresh)
            raise
        return Fresh(fresh.fd, fresh.path, fresh.name, size)

    def begin(self, fresh: Fresh, seed: Seed, lock: FileLock) -> Active:
        """Make a prepared file the segment that its header says; if that fails, the file is let go of.

        Raises:
            BackendError: A step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may be there.
        """
        name = _name(seed.base)
        active = Active(fresh.fd, self.here.path_of(name), fresh.size, seed)
        try:
            with Step("write journal segment header", active.path):
                write_all(self._disk, fresh.fd, (segment_header(seed),), 0)
                self._disk.fdatasync(fresh.fd)
            with Step("rename journal segment", active.path, unknown=True, but=FULL):
                self._disk.rename(fresh.name, name, self.here.fd)
            self._settle(lock, "journal segment")
        except BaseException:
            self.discard(fresh)  # by the name that it has no more, if it has been renamed
            raise
        return active

    def resume(self, segment: Segment, end: int) -> Active:
        """A segment open for writing."""
        source = segment.source
        with Step("open journal segment", source.path):
            fd = self._disk.open(source.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE, self.here.fd)
        return Active(fd, source.path, source.size_bytes, segment.seed, end)

    def write(self, active: Active, data: bytes, lock: FileLock) -> None:
        """Write at a segment's end, or leave it as it was; nothing is durable yet.

        Raises:
            BackendError: It could not be written; nothing has changed.
            OutcomeUnknownError: Nor could what was written of it be taken back.
        """
        try:
            with Step("write journal", active.path):
                write_all(self._disk, active.fd, (data,), active.end)
        except BaseException:
            self.blank(active, active.end, active.end + len(data))
            self.sync(active, lock, unknown=True)  # or else, after a crash, some might stand behind the next batch
            raise

    def set_aside(self, segment: Segment, tail: Tail, lock: FileLock) -> None:
        """Copy the bytes of an unfinished batch to a file of their own, unless they are there already.

        Raises:
            BackendError: A step failed.
            OutcomeUnknownError: A step failed after which it may be there.
        """
        torn = segment.source.read(tail.end, tail.torn_bytes)
        name = f"{NAME}.torn-{segment.seed.base:020d}-{tail.end}"
        number = 1
        while (found := self.here.open_file(name, "open torn batch", read="read torn batch")) is not None:
            with found:
                before = found.read(0, len(torn))
            if is_what_is_left(torn, before, tail.end):
                return  # by a claim that was killed while it wrote zeros, or before
            number += 1
            name = f"{NAME}.torn-{segment.seed.base:020d}-{tail.end}-{number}"
        self.put(name, torn, lock, "torn batch")

    def blank(self, active: Active, start: int, end: int) -> None:
        """Write zeros; not durable yet.

        Raises:
            OutcomeUnknownError: They could not be written.
        """
        with Step("take back from journal", active.path, unknown=True):
            pieces = (_ZEROS[: end - at] for at in range(start, end, len(_ZEROS)))
            write_all(self._disk, active.fd, pieces, start)

    def sync(self, active: Active, lock: FileLock, *, unknown: bool) -> None:
        """Make what was written durable, and see that the file system still writes.

        Where room was only set aside, it is the file system's own log that says that it is written. If somebody else's
        sync has taken our bytes to the disk, and meets an I/O error in that log, then our fdatasync finds nothing left
        to do and returns 0 on ext4, although the room reads as zeros after the next boot.

        Raises:
            BackendError: It is not durable, and `unknown` is not set.
            OutcomeUnknownError: It may not be.
        """
        try:
            with Step("fdatasync journal", active.path, unknown=unknown):
                self._disk.fdatasync(active.fd)
            with Step("probe journal", active.path, unknown=unknown):
                lock.probe()
        except OSError:  # the cache may hold what the disk does not, and readers would believe it
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(active.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            raise

    def discard(self, fresh: Fresh) -> None:
        """Close a file that is no segment yet, and remove it."""
        let_go(fresh.fd)
        self.here.take_back([fresh.name])

    def remove(self, bases: Sequence[int], lock: FileLock) -> None:
        """Remove segments, the oldest first.

        Raises:
            BackendError: A step failed; some of them may be gone.
        """
        for base in bases:
            with Step("remove journal segment", self.here.path_of(_name(base))):
                self._disk.unlink(_name(base), self.here.fd)
        if bases:
            self.settle_names(lock)

    def _create(self, step: str) -> Fresh:
        name = f"{NAME}-{secrets.token_hex(8)}.tmp"
        path = self.here.path_of(name)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with Step(step, path):
            fresh = Fresh(self._disk.open(name, flags, _MODE, self.here.fd), path, name)
            if self._mode != _MODE:
                try:
                    self._disk.fchmod(fresh.fd, self._mode)
                except BaseException:
                    self.discard(fresh)
                    raise
        return fresh

    def _settle(self, lock: FileLock, what: str) -> None:
        """Make a rename durable, and see that the file system still writes."""
        with Step(f"fsync directory of {what}", self.here.path, unknown=True):
            self._disk.fsync(self.here.fd)
        with Step(f"probe directory of {what}", self.here.path, unknown=True):
            lock.probe()


def _missing(record: Record, bases: list[int]) -> int:
    """The first index that stands in a segment that is missing, as far as the record tells; 0 if none is."""
    if record.newest > max(bases, default=0):
        return record.newest
    return record.first if bases and bases[0] > record.first else 0


def _wrong(seed: Seed | None, base: int, store: str, size: int) -> str:
    """What is wrong with a segment of that base and size, by its header."""
    if seed is None or seed.base != base or not ALIGN < seed.longest <= LONGEST_FRAME_BYTES:
        return "the segment's header was damaged"
    if seed.store.hex() != store:
        return "the segment is of another journal"
    return "" if seed.size == size else f"the segment is {size} bytes long instead of {seed.size}"


def _name(base: int) -> str:
    return f"{NAME}.{base:020d}"
