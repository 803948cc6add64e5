"""A journal whose disk fails, fills up, or is gone in between: what is acknowledged stays, what is unknown is said."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swoosh_async.backends.base import Batch, Claim, Epoch, Index, JournalBackend
from swoosh_async.backends.file import FileBackend, OsDisk, _scan
from swoosh_async.backends.file._frames import SECTOR, frame_size, is_what_is_left
from swoosh_async.backends.file._record import Record, read_record, record_bytes
from swoosh_async.backends.file._segment import Segment
from swoosh_async.backends.file._segments import Segments
from swoosh_async.errors import BackendError, CorruptJournalError, FencedError, OutcomeUnknownError, PoisonedError

from . import test_full_disk as full
from ._disks import DyingDisk, FailingDisk, RecordingDisk, descriptors, in_child, path_of, temps
from ._logs import (
    SEGMENT_BYTES,
    HastyDisk,
    Writer,
    bases,
    batch,
    bounds,
    contents,
    everything,
    hasty,
    log,
    names,
    segment,
    written,
)

pytestmark = pytest.mark.slow

mounted, disk = full.mounted, full.disk

FIRST = "d/journal.00000000000000000001"
PROBE = "ftruncate d/.journal.lock 0"
RECORD = [
    "create d/TEMP",
    "pwrite d/TEMP",
    "fsync d/TEMP",
    "rename d/TEMP d/journal",
    "fsync d",
    PROBE,
]
PREPARE = ["create d/TEMP", f"allocate d/TEMP {SEGMENT_BYTES}", "fsync d/TEMP"]


def begin(base: int) -> list[str]:
    """How a prepared file becomes a segment that the record knows."""
    return [
        "pwrite d/TEMP",
        "fdatasync d/TEMP",
        f"rename d/TEMP d/journal.{base:020d}",
        "fsync d",
        PROBE,
        *RECORD,
    ]


def append(base: int) -> list[str]:
    """An append to a segment."""
    return [f"pwrite d/journal.{base:020d}", f"fdatasync d/journal.{base:020d}", PROBE]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for a journal; no descriptor may be left open."""
    before = descriptors()
    (tmp_path / "d").mkdir()
    yield tmp_path / "d"
    assert descriptors() == before


# ---------------------------------------------------------------------- the order


def test_the_order_of_a_claim_and_its_appends(home: Path) -> None:
    """What must be durable before something else is so before it: the record, a segment's space, its header, its name.

    An append into space that is there is one write, one fdatasync and the probe.
    """
    disk = RecordingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    assert disk.take() == ["fsync .", "open d/.journal.lock", "create d/.journal.lock", *RECORD]
    writer.append(600)
    assert disk.take() == [*PREPARE, *begin(1), *append(1)]
    writer.append(100)
    assert disk.take() == append(1)
    writer.append(500)
    assert disk.take() == [*append(1), *PREPARE]
    writer.append(600)
    assert disk.take() == [*begin(4), *append(4)]
    writer.append(600, 600)
    assert disk.take() == [*append(4), *PREPARE, *begin(6), *append(6)]
    writer.append(5000)
    assert disk.take() == [
        PREPARE[0],
        f"allocate d/TEMP {512 + frame_size(5000)}",
        PREPARE[2],
        *begin(7),
        *append(7),
        *PREPARE,
    ]
    writer.release()
    assert disk.take() == ["unlink d/TEMP"]


def test_the_order_of_a_claim_that_finds_a_journal(home: Path) -> None:
    """The newest segment is made durable before its end is looked for, and the new epoch before anything is written."""
    known = written(home, 100)
    disk = RecordingDisk(home.parent)
    writer = Writer(log(home, disk=disk), known)
    assert disk.take() == ["fsync .", "open d/.journal.lock", f"fdatasync {FIRST}", f"open {FIRST}", *RECORD]
    writer.append(100)
    assert disk.take() == append(1)
    writer.release()


def test_the_order_of_a_recovery(home: Path) -> None:
    """What was cut off is copied and the copy durable before zeros are written, and these before the claim is made."""
    known = written(home, 100, 900)[:1]
    lose(segment(home, 1), 1024)
    disk = RecordingDisk(home.parent)
    writer = Writer(log(home, disk=disk), known)
    copy = "rename d/TEMP d/journal.torn-00000000000000000001-704"
    assert disk.take() == [
        "fsync .",
        "open d/.journal.lock",
        f"fdatasync {FIRST}",
        *[copy if call.startswith("rename") else call for call in RECORD],
        f"open {FIRST}",
        f"pwrite {FIRST}",
        f"fdatasync {FIRST}",
        PROBE,
        *RECORD,
    ]
    writer.release()


def test_the_order_of_a_truncation(home: Path) -> None:
    """The new bounds are durable before a segment goes, the oldest goes first, and then the directory is fsynced."""
    disk = RecordingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    writer.append(*[600] * 8)
    disk.take()
    writer.backend.truncate_before(Index(6))
    gone = [f"unlink d/journal.{base:020d}" for base in (1, 3)]
    assert disk.take() == [*RECORD, *gone, "fsync d", PROBE]
    writer.backend.truncate_before(Index(6))
    assert disk.take() == []
    writer.release()


# ---------------------------------------------------------------------- each call fails


class Faulty(FailingDisk):
    """A disk on which a call fails, and which is hasty otherwise."""

    def fsync(self, fd: int) -> None:
        """Do nothing, or fail."""
        self.do(f"fsync {self._at(path_of(fd))}", lambda: None)

    def fdatasync(self, fd: int) -> None:
        """Do nothing, or fail."""
        self.do(f"fdatasync {self._at(path_of(fd))}", lambda: None)


def act(backend: FileBackend, epoch: int, known: Sequence[Batch], done: list[Batch]) -> None:
    """Appends that come to every kind of step: into space, beyond three quarters, into a new segment, a large one."""
    for size in (300, 700, 600, 5000, 100):
        done.append(batch(known[-1].last + len(done) + 1 if known else len(done) + 1, epoch, size=size))
        backend.append(done[-1])


FAULTS = [
    *((errno.EIO, late, on) for late in (False, True) for on in (False, True)),
    (errno.ENOSPC, False, False),
    (errno.ENOSPC, False, True),
    (errno.EDQUOT, False, False),
]
"""An error number, whether the call has taken effect all the same, and whether all calls after it fail as well."""


def check_facts(error: BackendError | OutcomeUnknownError, number: int, home: Path) -> None:
    """The error tells the system's number, and what it was about."""
    assert (error.errno, error.path.startswith(str(home.parent))) == (number, True)
    assert error.step


def sort_out(backend: JournalBackend, home: Path, known: list[Batch], tried: Batch) -> Writer:
    """After an unknown outcome: poisoned; then a new claim of the same object tells, and goes on in a new segment."""
    for call in (lambda: backend.append(tried), lambda: backend.truncate_before(Index(tried.first))):
        with pytest.raises(PoisonedError):
            call()
    assert everything(backend) == known
    backend.release()
    before = bases(home)
    writer = Writer(backend, known)
    if writer.claim.bounds.last == tried.last:
        writer.known.append(tried)
    assert writer.claim.bounds.last == (writer.known[-1].last if writer.known else 0)
    assert everything(hasty(home)) == writer.known
    writer.append(10)
    newest = bases(home)[-1]
    assert newest == writer.known[-1].first
    assert newest not in before or newest == before[-1]
    return writer


@pytest.mark.parametrize(("number", "late", "on"), FAULTS)
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "used"])
def test_an_append_whose_call_fails(home: Path, fresh: bool, number: int, late: bool, on: bool) -> None:
    """Whichever call of an append fails: nothing has changed and it can be tried anew, or it is unknown and poisons."""
    unknown = 0
    for at in itertools.count():
        shutil.rmtree(home)
        home.mkdir()
        known = [] if fresh else written(home, 100)
        disk = Faulty(home.parent, number=number, late=late, on=on)
        backend = log(home, disk=disk)
        epoch = backend.claim().epoch
        open_before = descriptors()
        disk.take()
        disk.at = at
        done: list[Batch] = []
        try:
            act(backend, epoch, known, done)
            assert not disk.failed or disk.failed.split()[0] in ("create", "allocate", "fsync", "unlink")
        except BackendError as error:
            check_facts(error, number, home)
            tried = done.pop()
            disk.at = None
            assert everything(hasty(home)) == everything(backend) == [*known, *done]
            assert backend.bounds() == bounds(1, [*known, *done][-1].last if known or done else 0)
            newest = bases(home)[-1:]
            for base in newest:
                used = SECTOR + sum(frame_size(len(one.data)) for one in [*known, *done] if one.first >= base)
                assert not any(segment(home, base).read_bytes()[used:])
            backend.append(tried)
            done.append(tried)
        except OutcomeUnknownError as error:
            unknown += 1
            check_facts(error, number, home)
            tried = done.pop()
            disk.at = None
            known = sort_out(backend, home, [*known, *done], tried).known
            done = []
        if not on:
            assert len(descriptors()) <= len(open_before) + 2  # a segment, and the next that is prepared
        disk.at = None
        backend.release()
        assert temps(home) == [] or on or disk.failed.startswith("unlink")
        assert everything(hasty(home)) == [*known, *done]
        assert Writer(hasty(home), [*known, *done]).release() == [*known, *done]
        assert temps(home) == []
        if not disk.failed:
            break
    assert (at > 25, unknown > 5) == (True, True)


@pytest.mark.parametrize(("number", "late", "on"), FAULTS)
@pytest.mark.parametrize("torn", [False, True])
def test_a_claim_whose_call_fails(home: Path, torn: bool, number: int, late: bool, on: bool) -> None:
    """Whichever call of a claim fails, nobody holds it, nothing is lost or left over, and the next claim works."""
    known = written(home, 100, 900)
    if torn:
        lose(segment(home, 1), 1024)
        known.pop()
    files = contents(home)
    for at in itertools.count():
        disk = Faulty(home.parent, at, number, late=late, on=on)
        backend = log(home, disk=disk)
        before = descriptors()
        try:
            backend.claim()
        except (BackendError, OutcomeUnknownError) as error:
            check_facts(error, number, home)
            assert descriptors() == before
            with pytest.raises(Exception, match="is closed"):
                backend.append(batch(3))
        disk.at = None
        if not disk.failed:
            backend.release()
            break
        assert everything(hasty(home)) == known
        backend.release()
        writer = Writer(backend, known)
        assert writer.claim.bounds == bounds(1, known[-1].last)
        assert writer.claim.epoch in (2, 3)
        writer.append()
        assert everything(hasty(home)) == writer.release()
        copies = [name for name in names(home) if ".torn-" in name]
        assert len(copies) == torn
        assert temps(home) == []
        for name in names(home):
            (home / name).unlink()
        for name, data in files.items():
            (home / name).write_bytes(data)
    assert at >= 9


@pytest.mark.parametrize(("number", "late", "on"), FAULTS)
def test_a_truncation_whose_call_fails(home: Path, number: int, late: bool, on: bool) -> None:
    """Whichever call of a truncation fails, the bounds are the old ones, or the new, or unknown until a new claim."""
    for at in itertools.count():
        shutil.rmtree(home)
        home.mkdir()
        disk = Faulty(home.parent, number=number, late=late, on=on)
        writer = Writer(log(home, disk=disk))
        backend = writer.backend
        writer.append(*[600] * 8)
        disk.take()
        disk.at = at
        first = 6
        try:
            backend.truncate_before(Index(6))
        except BackendError:
            disk.at = None
            assert (backend.bounds(), hasty(home).bounds()) == (bounds(1, 8), bounds(1, 8))
            assert everything(backend) == everything(hasty(home)) == writer.known
            backend.truncate_before(Index(6))
        except OutcomeUnknownError:
            disk.at = None
            with pytest.raises(PoisonedError):
                backend.append(batch(9))
            backend.release()
            writer = Writer(backend, writer.known)
            first = writer.claim.bounds.first
            assert first in (1, 6)
        disk.at = None
        for reader in (backend, hasty(home)):
            assert reader.bounds() == bounds(first, 8)
            assert everything(reader) == writer.known[first - 1 :]
        writer.append()
        known = writer.release()
        assert everything(hasty(home)) == known[first - 1 :]
        assert Writer(hasty(home), known).release() == known
        assert bases(home)[0] == (1 if first == 1 else 5)
        if not disk.failed:
            break
    assert at >= 8


def test_truncation_begins_a_new_segment_after_its_outcome_was_unknown(home: Path) -> None:
    """A claim after an unknown outcome of a truncation goes on, too."""
    disk = Faulty(home.parent)
    writer = Writer(log(home, disk=disk))
    writer.append(100, 100)
    disk.take()
    disk.at = 4
    with pytest.raises(OutcomeUnknownError, match="fsync directory of journal record"):
        writer.backend.truncate_before(Index(2))
    disk.at = None
    writer.backend.release()
    writer = Writer(writer.backend, writer.known)
    writer.append()
    assert everything(hasty(home)) == writer.release()[1:]


# ---------------------------------------------------------------------- writes that end early


class ShortDisk(OsDisk):
    """A disk that writes some of what it is given, and then may fail.

    Args:
        most: How much it writes at a time.
        room: How much it writes at all to segments that are in use, and what it fails with then.
    """

    def __init__(self, most: int, room: int | None = None, number: int = errno.ENOSPC) -> None:
        self.most = most
        self.room = room
        self.number = number

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Some of it."""
        if self.room is not None and "journal.0" in path_of(fd) and any(data):
            if not self.room:
                raise OSError(self.number, os.strerror(self.number))
            data = data[: self.room]
            self.room -= min(len(data), self.most)
        return super().pwrite(fd, data[: self.most], offset)


@pytest.mark.parametrize("most", [1, 100, 511])
def test_short_writes_go_on(home: Path, most: int) -> None:
    """A write that the system ends early is gone on with, until all is written."""
    writer = Writer(log(home, disk=ShortDisk(most)))
    writer.append(10, 1000, 3000)
    assert everything(log(home)) == writer.release()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_write_that_fails_in_its_middle(home: Path, number: int) -> None:
    """What was written of a batch is taken back, all of it, and durably; and the next one takes its place."""
    for room in (1, 64, 500, 900):
        disk = ShortDisk(100_000)
        writer = Writer(log(home, disk=disk, segment_bytes=16 << 10))
        writer.append(50)
        before = contents(home)
        disk.room, disk.number = room, number
        for _ in range(2):
            with pytest.raises(BackendError) as caught:
                writer.backend.append(batch(writer.next, writer.claim.epoch, size=1000))
            assert (caught.value.errno, caught.value.step) == (number, "write journal")
            assert contents(home) == before
            disk.room = room
        disk.room = None
        writer.append(20)
        assert everything(log(home))[-2:] == writer.release()[-2:]


def test_what_is_taken_back_is_so_durably(home: Path) -> None:
    """Zeros over a failed write are durable before another append is begun, whose end could not be told otherwise."""
    disk = FailingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    writer.append(50)
    disk.take()
    disk.at = 0
    with pytest.raises(BackendError):
        writer.backend.append(batch(2))
    assert disk.take() == [f"pwrite {FIRST}", f"pwrite {FIRST}", f"fdatasync {FIRST}", PROBE]
    writer.release()


# ---------------------------------------------------------------------- an fsync that fails


class LosingDisk(OsDisk):
    """A disk on which an fdatasync of a segment in use fails, and only some sectors of what was written are there.

    Args:
        kept: Whether a sector that was written has arrived.
    """

    def __init__(self, kept: Callable[[int], bool]) -> None:
        self.kept = kept
        self.failing = False
        self._written: list[tuple[int, int]] = []

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """As it is told."""
        self._written.append((offset, offset + len(data)))
        return super().pwrite(fd, data, offset)

    def fdatasync(self, fd: int) -> None:
        """As it is told, or not."""
        written, self._written = self._written, []
        if not self.failing or "journal.0" not in path_of(fd):
            return super().fdatasync(fd)
        self.failing = False
        for start, end in written:
            for sector in range(start // SECTOR, -(-end // SECTOR)):
                if not self.kept(sector):
                    begin, stop = max(start, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                    os.pwrite(fd, bytes(stop - begin), begin)
        super().fdatasync(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("size", [10, 1400, 4000])
@pytest.mark.parametrize("seed", range(8))
def test_an_fsync_that_loses_sectors(home: Path, size: int, seed: int) -> None:
    """After a failed fsync the batch is there as a whole or not at all, and the journal goes on in a new segment."""
    chance = random.Random(seed)
    part = chance.choice([0, 0.3, 0.7, 1])
    disk = LosingDisk(lambda _: chance.random() < part)
    writer = Writer(log(home, disk=disk, segment_bytes=8192))
    writer.append(100, 700)
    disk.failing = True
    tried = batch(3, size=size)
    with pytest.raises(OutcomeUnknownError, match="fdatasync journal"):
        writer.backend.append(tried)
    assert everything(writer.backend) == writer.known
    assert everything(hasty(home)) in (writer.known, [*writer.known, tried])
    writer = sort_out(writer.backend, home, writer.known, tried)
    assert (bases(home)[0], len(bases(home))) == (1, 2)
    writer.append(100)
    known = writer.release()
    for _ in range(2):
        writer = Writer(hasty(home, segment_bytes=8192), known)
        writer.append(300)
        known = writer.release()
    assert len(bases(home)) == 2
    assert everything(hasty(home)) == known
    writer = Writer(hasty(home), known)
    writer.backend.truncate_before(Index(2))
    assert everything(writer.backend) == writer.release()[1:]


def test_a_failed_fsync_evicts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync the pages are evicted, for the cache may hold what the disk does not; at a claim as well."""
    evicted: list[str] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *_: evicted.append(os.path.basename(path_of(fd))))
    disk = FailingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    writer.append(100)
    assert evicted == []
    disk.take()
    disk.at = 1
    with pytest.raises(OutcomeUnknownError):
        writer.backend.append(batch(2))
    name = segment(home, 1).name
    assert evicted == [name]
    disk.at = None
    writer.backend.release()
    writer.backend.claim()
    assert evicted == [name] * 2
    writer.release()
    reader = log(home, disk=disk)
    disk.at = len(disk.calls) + 1
    with pytest.raises(BackendError):
        reader.read(Index(0), 10)
    assert evicted == [name] * 3


# ---------------------------------------------------------------------- torn tails


def lose(path: Path, *sectors: int) -> None:
    """Make these sectors of a segment zero, each given by where it begins."""
    with path.open("r+b") as file:
        for at in sectors:
            os.pwrite(file.fileno(), bytes(SECTOR), at)


def torn(home: Path) -> list[Batch]:
    """A journal whose last batch is unfinished; those before it. It stands in the sectors from 1024 to 4096."""
    known = written(home, 100, 200, 2600, segment_bytes=8192)
    data = segment(home, 1).read_bytes()
    lose(segment(home, 1), 1536, 2048)
    assert segment(home, 1).read_bytes() != data
    return known[:-1]


END = SECTOR + frame_size(100) + frame_size(200)
COPY = f"journal.torn-{1:020d}-{END}"


def test_a_torn_tail(home: Path) -> None:
    """A batch that a crash had cut off is set aside, its place made zero, its length told, and its index given anew."""
    known = torn(home)
    before = segment(home, 1).read_bytes()
    assert everything(log(home)) == known
    assert log(home).bounds() == bounds(1, 2)
    assert segment(home, 1).read_bytes() == before  # a reader cuts nothing
    writer = Writer(log(home), known)
    assert (writer.claim.tail, writer.claim.torn_bytes) == (known[-1], frame_size(2600))
    assert (home / COPY).read_bytes() == before[END : END + frame_size(2600)]
    assert (home / COPY).stat().st_mode & 0o777 == 0o600
    assert segment(home, 1).read_bytes() == before[:END] + bytes(len(before) - END)
    writer.append(10)
    assert writer.known[-1].first == 3
    assert everything(log(home)) == writer.release()
    writer = Writer(log(home), writer.known)
    assert writer.claim.torn_bytes == 0
    writer.release()


def test_a_torn_tail_whose_header_did_not_arrive(home: Path) -> None:
    """What stands behind the tail without a header is set aside and made zero, too, before anything is appended."""
    known = written(home, 100, 200, 2600, segment_bytes=8192)[:-1]
    path = segment(home, 1)
    data = path.read_bytes()
    path.write_bytes(data[:END] + bytes(SECTOR) + data[END + SECTOR :])
    writer = Writer(log(home), known)
    assert writer.claim.torn_bytes == frame_size(2600)
    assert path.read_bytes() == data[:END] + bytes(len(data) - END)
    writer.append(1)
    assert everything(log(home)) == writer.release()


def test_torn_again_in_the_same_place(home: Path) -> None:
    """Two batches that were cut off in the same place are both set aside."""
    known = torn(home)
    first = Writer(hasty(home, segment_bytes=8192), known)
    first.append(2400)
    first.release()
    lose(segment(home, 1), 1024, 2048)
    second = Writer(hasty(home), known)
    assert second.claim.torn_bytes > 0
    second.release()
    assert len([name for name in names(home) if ".torn-" in name]) == 2
    assert (home / f"{COPY}-2").read_bytes() != (home / COPY).read_bytes()


def test_what_cannot_be_cut_is_not(home: Path) -> None:
    """Where the bounds do not fit what is there, or the claim is fenced off, the torn tail is left as it is."""
    torn(home)
    before = contents(home)
    with pytest.raises(FencedError):
        log(home).claim(Epoch(1))
    assert contents(home) == before
    record = read_record((home / "journal").read_bytes())
    assert isinstance(record, Record)
    (home / "journal").write_bytes(record_bytes(replace(record, first=9)))
    with pytest.raises(CorruptJournalError, match="the last batch is missing"):
        log(home).claim()
    with pytest.raises(CorruptJournalError, match="the last batch is missing"):
        log(home).bounds()
    (home / "journal").write_bytes(before["journal"])
    assert contents(home) == before
    (home / COPY).mkdir()
    with pytest.raises(BackendError, match="torn"):
        log(home).claim()
    (home / COPY).rmdir()
    assert contents(home) == before


def test_a_recovery_that_is_killed(home: Path) -> None:
    """Killed before whichever call of a recovery, and made again, it ends with the same bytes."""
    known = torn(home)
    files = contents(home)
    Writer(hasty(home), known).release()
    expected = {name: data for name, data in contents(home).items() if name != "journal"}
    for at in itertools.count():
        for name in names(home):
            (home / name).unlink()
        for name, data in files.items():
            (home / name).write_bytes(data)

        def claim(at: int = at) -> None:
            log(home, disk=DyingDisk(home.parent, at)).claim()

        code = in_child(claim)
        assert everything(hasty(home)) == known
        writer = Writer(hasty(home), known)
        assert writer.claim.bounds == bounds(1, 2)
        assert {name: data for name, data in contents(home).items() if name != "journal"} == expected
        writer.append(500)
        assert everything(hasty(home)) == writer.release()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert at > 15


class HalfDisk(OsDisk):
    """A disk that loses power in the middle of writing zeros over a torn tail: some sectors of them arrive."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """As it is told, but for zeros."""
        if "journal.0" not in path_of(fd) or any(data):
            return super().pwrite(fd, data, offset)
        for sector in range(offset // SECTOR, -(-(offset + len(data)) // SECTOR)):
            if self.chance.random() < 0.5:
                begin, stop = max(offset, sector * SECTOR), min(offset + len(data), (sector + 1) * SECTOR)
                super().pwrite(fd, bytes(stop - begin), begin)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


@pytest.mark.parametrize("seed", range(12))
def test_a_recovery_that_loses_power(home: Path, seed: int) -> None:
    """When but some of the zeros arrived, the next claim cuts what is left, and what was set aside first stays."""
    known = torn(home)
    data = segment(home, 1).read_bytes()
    chance = random.Random(seed)
    for _ in range(2):
        assert in_child(lambda: log(home, disk=HalfDisk(chance)).claim()) in (-signal.SIGKILL, 0)
    writer = Writer(hasty(home), known)
    assert segment(home, 1).read_bytes() == data[:END] + bytes(len(data) - END)
    assert (home / COPY).read_bytes() == data[END : END + frame_size(2600)]
    assert len([name for name in names(home) if ".torn-" in name]) == 1
    writer.append(100)
    assert everything(hasty(home)) == writer.release()


# ---------------------------------------------------------------------- killed


def test_an_append_that_is_killed(home: Path) -> None:
    """Killed before whichever call of appends, what was acknowledged is there, and one more at most; all goes on."""
    for at in itertools.count():
        shutil.rmtree(home)
        home.mkdir()
        out, into = os.pipe()

        def child(at: int = at, into: int = into) -> None:
            disk = DyingDisk(home.parent, 1 << 30)
            backend = log(home, disk=disk)
            claim: Claim = backend.claim()
            disk.calls.clear()
            disk.at = at
            for first, size in enumerate((300, 700, 600, 5000, 100), 1):
                backend.append(batch(first, claim.epoch, size=size))
                os.write(into, b".")

        code = in_child(child)
        os.close(into)
        acknowledged = len(os.read(out, 100))
        os.close(out)
        found = everything(hasty(home))
        assert found == [batch(n, size=size) for n, size in enumerate((300, 700, 600, 5000, 100), 1)][: len(found)]
        assert len(found) in (acknowledged, acknowledged + 1)
        writer = Writer(hasty(home), found)
        assert (writer.claim.bounds, writer.claim.epoch) == (bounds(1, len(found)), 2)
        writer.append(600, 600, 600)
        assert everything(hasty(home)) == writer.release()
        assert temps(home) == []
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert at > 40


def test_a_truncation_that_is_killed(home: Path) -> None:
    """Killed before whichever call of a truncation, the bounds are the old or the new ones, and the next is as ever."""
    for at in itertools.count():
        shutil.rmtree(home)
        home.mkdir()
        known = written(home, *[600] * 8)

        def child(at: int = at, known: list[Batch] = known) -> None:
            disk = DyingDisk(home.parent, 1 << 30)
            writer = Writer(log(home, disk=disk), known)
            disk.calls.clear()
            disk.at = at
            writer.backend.truncate_before(Index(6))

        code = in_child(child)
        first = hasty(home).bounds().first
        assert first in (1, 6)
        assert everything(hasty(home)) == known[first - 1 :]
        writer = Writer(hasty(home), known)
        assert writer.claim.bounds == bounds(first, 8)
        assert bases(home) == ([1, 3, 5, 7] if first == 1 else [5, 7])
        writer.backend.truncate_before(Index(6))
        writer.append()
        assert everything(hasty(home)) == writer.release()[5:]
        if code == 0:
            break
    assert at == len(RECORD) + 4


def test_segments_that_went_in_another_order(home: Path) -> None:
    """Where a power cut has brought an old segment back, but not one behind it, nobody minds, and it goes."""
    known = written(home, *[600] * 8)
    back = segment(home, 1).read_bytes()
    writer = Writer(hasty(home), known)
    writer.backend.truncate_before(Index(6))
    writer.release()
    segment(home, 1).write_bytes(back)
    assert everything(hasty(home)) == known[5:]
    assert hasty(home).bounds() == bounds(6, 8)
    Writer(hasty(home), known).release()
    assert bases(home) == [5, 7]


def test_a_segment_that_was_begun_and_not_used(home: Path) -> None:
    """A writer that died when it had begun a segment leaves it empty; the last batch is found, and all goes on."""
    known = written(home, 600, 600)
    disk = DyingDisk(home.parent, 1 << 30)

    def child() -> None:
        writer = Writer(log(home, disk=disk), known)
        disk.at = len(disk.calls) + len(PREPARE) + len(begin(3))
        writer.append(600)

    assert in_child(child) == -signal.SIGKILL
    assert bases(home) == [1, 3]
    for truncated in (False, True):
        assert hasty(home).bounds().last == 2
        writer = Writer(hasty(home), known)
        assert (writer.claim.bounds.last, writer.claim.tail) == (2, known[-1])
        if not truncated:
            writer.backend.truncate_before(Index(3))
            assert bases(home) == [1, 3]
        writer.release()
    writer = Writer(hasty(home), known)
    writer.append(600)
    known = writer.release()
    Writer(hasty(home), known).release()
    assert bases(home) == [3]
    assert everything(hasty(home)) == known[2:]
    segment(home, 3).unlink()
    with pytest.raises(CorruptJournalError):
        hasty(home).claim()


# ---------------------------------------------------------------------- a disk that is full


def test_a_full_disk(disk: Path) -> None:
    """On a full disk an append into space that is there works, one that needs more fails, and works with room again."""
    home = disk / "d"
    writer = Writer(log(home, segment_bytes=64 << 10))
    writer.append(1000)
    ballast = full.fill(disk)
    writer.append(*[1000] * 40)
    for _ in range(3):
        with pytest.raises(BackendError, match="No space left on device") as caught:
            writer.backend.append(batch(writer.next, size=30_000))
        assert caught.value.errno == errno.ENOSPC
        assert everything(log(home)) == everything(writer.backend) == writer.known
        assert temps(home) == []
    with pytest.raises(BackendError, match="No space left on device"):
        writer.backend.truncate_before(Index(3))
    assert writer.backend.bounds() == log(home).bounds() == bounds(1, 41)
    writer.append(1000)  # what is smaller still fits
    os.unlink(ballast)
    writer.append(30_000)
    writer.backend.truncate_before(Index(3))
    assert everything(log(home)) == writer.release()[2:]


def test_a_claim_on_a_full_disk(disk: Path) -> None:
    """On a full disk a claim fails, changes nothing, and works with room again; what is there can be read."""
    home = disk / "d"
    known = written(home, *[600] * 5)
    before = contents(home)
    ballast = full.fill(disk)
    backend = log(home)
    for _ in range(2):
        with pytest.raises(BackendError, match="No space left on device"):
            backend.claim()
        assert contents(home) == before
        assert everything(backend) == known
    os.unlink(ballast)
    writer = Writer(backend, known)
    writer.append()
    assert everything(log(home)) == writer.release()


def test_a_read_only_disk(disk: Path) -> None:
    """On a read-only disk everything can be read, and a claim says why it cannot be made."""
    home = disk / "d"
    known = written(home, 600, 600, 600)
    full.remount(disk, "ro")
    assert everything(log(home)) == known
    assert log(home).bounds() == bounds(1, 3)
    with pytest.raises(BackendError) as caught:
        log(home).claim()
    assert caught.value.errno == errno.EROFS


def test_nothing_is_left_of_a_hasty_disk() -> None:
    """The double that does not wait waits for nothing."""
    HastyDisk().fsync(-1)
    HastyDisk().fdatasync(-1)


# ---------------------------------------------------------------------- what nobody foresaw


def test_a_failure_behind_an_acknowledged_append(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails when the next segment is prepared, the batch before it is durable and told so."""

    def prepare(*_: object) -> None:
        raise MemoryError

    writer = Writer(log(home))
    writer.append(100)
    monkeypatch.setattr(Segments, "prepare", prepare)
    writer.append(1100)  # behind three quarters
    assert everything(log(home)) == writer.known
    writer.release()


def test_an_exception_that_nobody_knows_poisons(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not an error of this package leaves the outcome unknown; a new claim tells, in a new segment."""

    def sync(*_: object, **__: object) -> None:
        raise MemoryError

    writer = Writer(log(home))
    writer.append(100)
    with monkeypatch.context() as patch:
        patch.setattr(Segments, "sync", sync)
        with pytest.raises(OutcomeUnknownError, match="MemoryError"):
            writer.backend.append(batch(2))
        with pytest.raises(PoisonedError):
            writer.backend.append(batch(2))
    writer.release()
    again = Writer(writer.backend)
    assert again.claim.bounds.last in (1, 2)
    again.append(100)
    assert bases(home)[-1] == again.known[-1].first
    again.release()


@pytest.mark.parametrize("at", [1, 2], ids=["fdatasync", "probe"])
def test_a_claim_that_appends_nothing_still_renews(home: Path, at: int) -> None:
    """After a failed fsync or probe the next append goes to a new segment, however many claims come in between."""
    disk = FailingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    writer.append(100)
    disk.take()
    disk.at = at
    with pytest.raises(OutcomeUnknownError):
        writer.backend.append(batch(2))
    disk.at = None
    writer.release()
    for _ in range(2):
        last = Writer(writer.backend).claim.bounds.last
        writer.backend.release()
    again = Writer(writer.backend)
    again.append(100)
    assert bases(home) == [1, last + 1]
    again.release()


def test_names_are_durable_before_the_record_knows_them(home: Path) -> None:
    """A segment whose name may not be durable is made so before a claim writes a record that counts on it."""
    disk = FailingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    disk.take()
    disk.at = begin(1).index("fsync d") + len(PREPARE)
    with pytest.raises(OutcomeUnknownError):
        writer.backend.append(batch(1))
    disk.at = None
    writer.release()
    again = RecordingDisk(home.parent)
    Writer(log(home, disk=again)).release()
    calls = again.take()
    assert calls.index("fsync d") < calls.index("rename d/TEMP d/journal")


def test_a_full_disk_does_not_keep_from_making_room(home: Path) -> None:
    """Where there is no room for a record, a truncation gives up the segment that was prepared, and goes on."""

    def prepared() -> list[str]:
        return [name for name in names(home) if name.startswith("journal-")]

    class Full(OsDisk):
        full = False

        def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int:
            if self.full and flags & os.O_CREAT and prepared():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().open(name, flags, mode, dir_fd)

    disk = Full()
    writer = Writer(log(home, disk=disk))
    writer.append(500, 500, 500, 500, 500, 500)
    assert prepared()
    disk.full = True
    writer.backend.truncate_before(Index(4))
    assert writer.backend.bounds() == log(home).bounds() == bounds(4, 6)
    writer.release()


@pytest.mark.parametrize("mode", [0o400, 0o444, 0o640])
def test_any_mode_can_be_opened_again(home: Path, mode: int) -> None:
    """Whatever mode is asked for, the owner can write the journal's files again."""
    writer = Writer(log(home, mode=mode))
    writer.append(100)
    writer.release()
    for path in (home / "journal", segment(home, 1), home / ".journal.lock"):
        assert path.stat().st_mode & 0o777 == mode | 0o600


def test_a_record_that_would_not_come_back_is_not_written(home: Path) -> None:
    """An epoch or an index that is no int, or too large, is refused before anything is changed."""
    before = Writer(log(home))
    before.append(100)
    before.release()
    files = contents(home)
    for epoch in (1.5, 1 << 64):
        with pytest.raises(ValueError, match="epoch"):
            log(home).claim(epoch)  # type: ignore[arg-type]
    assert contents(home) == files
    writer = Writer(log(home))
    with pytest.raises(ValueError, match="index"):
        writer.backend.truncate_before(1.5)  # type: ignore[arg-type]
    writer.append(100)
    writer.release()
    again = Writer(log(home))
    assert again.claim.bounds == bounds(1, 2)
    again.release()


def test_what_is_being_written_is_no_damage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage that moves is a writer at work; damage that stands is told."""
    writer = Writer(log(home, segment_bytes=1 << 16))
    writer.append(100)
    looks = itertools.count()

    def stray(*arguments: Any) -> int:
        if next(looks) < 20:
            writer.append(100)  # between the look at the last header, and that behind it
        return real(*arguments)

    real = _scan._stray
    monkeypatch.setattr(_scan, "_stray", stray)
    assert log(home).bounds() == bounds(1, 21)
    writer.release()
    monkeypatch.undo()
    data = bytearray(segment(home, 1).read_bytes())
    data[len(data.rstrip(b"\0"))] = 1
    segment(home, 1).write_bytes(data)
    with pytest.raises(CorruptJournalError, match="header"):
        log(home).bounds()


def test_a_torn_tail_is_judged_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that asks again does not look through a torn tail again, unless it has changed."""
    written(home, 100, 100)
    data = bytearray(segment(home, 1).read_bytes())
    end = 512 + 2 * frame_size(100)
    data[end + 64 : end + 70] = b"behind"
    segment(home, 1).write_bytes(data)
    reader = log(home)
    assert reader.bounds() == bounds(1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Segment, "tail", None)
        assert reader.bounds() == bounds(1, 2)
    data[end] = 7
    segment(home, 1).write_bytes(data)
    with pytest.raises(CorruptJournalError):
        reader.bounds()


@given(st.binary(min_size=1, max_size=2000), st.integers(0, 600).map(lambda n: n * 64), st.data())
def test_what_is_left_of_bytes(before: bytes, offset: int, data: st.DataObject) -> None:
    """Bytes with some of their sectors overwritten with zeros are what is left of them, and nothing else is."""
    now = bytearray(before)
    for start in range(-(offset % SECTOR), len(now), SECTOR):
        if data.draw(st.booleans()):
            now[max(0, start) : start + SECTOR] = bytes(len(now[max(0, start) : start + SECTOR]))
    assert is_what_is_left(bytes(now), before, offset)
    assert is_what_is_left(bytes(now[: data.draw(st.integers(1, len(now)))]), before, offset)
    at = data.draw(st.integers(0, len(now) - 1))
    now[at] = before[at] ^ 1 or 255
    whole = bytes(now[at - (offset + at) % SECTOR : at - (offset + at) % SECTOR + SECTOR])
    assert not whole.strip(b"\0") or not is_what_is_left(bytes(now), before, offset)
    assert not is_what_is_left(before + b"x", before, offset)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, None])
def test_without_fallocate(home: Path, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """Where space cannot be set aside, a segment is as long all the same."""

    def refuses(*_: object) -> None:
        raise OSError(number, "no")

    if number is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuses)
    writer = Writer(log(home))
    writer.append(100)
    assert segment(home, 1).stat().st_size == SEGMENT_BYTES
    writer.release()
    monkeypatch.undo()
    assert everything(log(home)) == writer.known
