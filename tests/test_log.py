"""A journal in a directory: one writer, whose batches any reader finds, in order and without gaps."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from swoosh_async.backends.base import Batch, Epoch, Index, JournalBackend
from swoosh_async.backends.file import FileBackend
from swoosh_async.backends.file._frames import frame_size
from swoosh_async.backends.file._source import FileSource
from swoosh_async.errors import (
    BackendError,
    ClosedError,
    ConflictError,
    CorruptJournalError,
    FencedError,
    LimitExceededError,
    LockedError,
)

from ._disks import FailingDisk, descriptors, in_child, put, temps
from ._faults import BOUND_S, process
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


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for a journal, which is not there yet; no descriptor may be left open."""
    before = descriptors()
    yield tmp_path / "d"
    assert descriptors() == before


# ---------------------------------------------------------------------- what is written is read


def test_a_directory_without_a_journal(home: Path) -> None:
    """Where there is no journal, or no directory, there is nothing to read, and looking makes nothing."""
    for _ in range(2):
        backend = log(home)
        assert (backend.bounds(), list(backend.read(Index(0), 100))) == (bounds(1, 0), [])
        assert backend.where == str(home)
        backend.release()
    assert not home.exists()
    home.mkdir()
    assert (log(home).bounds(), list(log(home).read(Index(5), 100))) == (bounds(1, 0), [])
    assert names(home) == []


def test_the_first_claim(home: Path) -> None:
    """The first claim of an empty journal has epoch 1, and makes its record; a segment is made when it is needed."""
    writer = Writer(log(home))
    claim = writer.claim
    assert (claim.epoch, claim.bounds, claim.tail, claim.torn_bytes) == (1, bounds(1, 0), None, 0)
    assert names(home) == [".journal.lock", "journal"]
    assert writer.backend.bounds() == log(home).bounds() == bounds(1, 0)
    writer.append()
    assert bases(home) == [1]
    writer.release()


@pytest.mark.parametrize("max_bytes", [0, 1, 150, 1000, 1 << 20])
def test_what_was_appended_is_read(home: Path, max_bytes: int) -> None:
    """Each batch is read as it was appended, from any index on, by the writer and by others, in pages of any size."""
    writer = Writer(log(home))
    for count, size in ((1, 0), (2, 1), (1, 64), (3, 700), (1, 5000), (2, 63), (1, 1000), (1, 1000), (1, 1)):
        writer.append(size, count=count)
    last = writer.known[-1].last
    for backend in (writer.backend, log(home)):
        for after in range(last + 3):
            expected = [one for one in writer.known if one.last > after]
            page = list(backend.read(Index(after), max_bytes))
            assert page == expected[: len(page)]
            assert bool(page) == bool(expected)
            assert sum(len(one.data) for one in page[:-1]) < max(1, max_bytes)
            assert everything(backend, after, max_bytes=max(1, max_bytes)) == expected
        assert backend.bounds() == bounds(1, last)
    writer.release()


def test_a_claim_finds_what_was_left(home: Path) -> None:
    """A later claim has the next epoch, the bounds, and the last batch; and what is appended then has its epoch."""
    known: list[Batch] = []
    for epoch in range(1, 8):
        writer = Writer(log(home), known)
        assert (writer.claim.epoch, writer.claim.torn_bytes) == (epoch, 0)
        assert writer.claim.bounds == bounds(1, known[-1].last if known else 0)
        assert writer.claim.tail == (known[-1] if known else None)
        writer.append(300, 10, count=2)
        known = writer.release()
    assert [one.epoch for one in everything(log(home))] == [epoch for epoch in range(1, 8) for _ in range(2)]
    assert everything(log(home)) == known


def test_claims_without_appends(home: Path) -> None:
    """The epoch rises and stays also where nothing is appended."""
    for epoch in range(1, 4):
        writer = Writer(log(home))
        assert writer.claim.epoch == epoch
        writer.release()


def test_the_epoch_of_an_election(home: Path) -> None:
    """A given epoch is taken if it is higher than all before, else the claim is refused, with both; then it goes on."""
    assert Writer(log(home), epoch=7).release() == []
    for epoch in (1, 6, 7):
        with pytest.raises(FencedError) as caught:
            log(home).claim(Epoch(epoch))
        assert (caught.value.epoch, caught.value.found) == (epoch, 7)
    writer = Writer(log(home))
    assert writer.claim.epoch == 8
    writer.append()
    known = writer.release()
    writer = Writer(log(home), known, epoch=100)
    writer.append()
    assert [one.epoch for one in everything(log(home))] == [8, 100]
    writer.release()


class Model(RuleBasedStateMachine):
    """A journal against a list: claimed, appended to, truncated, released, and read by whoever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp()) / "d"
        self.reader: JournalBackend = hasty(self.home)
        self.backend = self.reader
        self.writer: Writer | None = None
        self.known: list[Batch] = []
        self.first = 1
        self.epoch = 0

    @property
    def last(self) -> int:
        """The last index."""
        return self.known[-1].last if self.known else 0

    @precondition(lambda self: self.writer is None)
    @rule(size=st.sampled_from([1024, 2048, 100_000]), ahead=st.sampled_from([None, 1, 5]))
    def claim(self, size: int, ahead: int | None) -> None:
        """A new claim, by a backend of its own that makes segments of its own size."""
        self.backend = hasty(self.home, segment_bytes=size)
        self.writer = Writer(self.backend, self.known, None if ahead is None else self.epoch + ahead)
        self.epoch += ahead or 1
        assert self.writer.claim.epoch == self.epoch
        assert self.writer.claim.bounds == bounds(self.first, self.last)
        assert self.writer.claim.tail == (self.known[-1] if self.known else None)

    @precondition(lambda self: self.writer is not None)
    @rule(size=st.sampled_from([0, 10, 300, 900, 3000]), count=st.integers(1, 4), times=st.integers(1, 4))
    def append(self, size: int, count: int, times: int) -> None:
        """Some batches."""
        assert self.writer is not None
        self.writer.append(*[size] * times, count=count)
        self.known = list(self.writer.known)

    @precondition(lambda self: self.writer is not None)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        """What is before an index goes, which may be one behind the last."""
        index = data.draw(st.integers(1, self.last + 1))
        self.backend.truncate_before(Index(index))
        self.first = max(self.first, index)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def release(self) -> None:
        """The claim ends."""
        self.backend.release()
        self.writer = None

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        """What is read behind an index are the batches with entries behind it that are kept."""
        after = data.draw(st.integers(0, self.last + 1))
        expected = [one for one in self.known if one.last > after and one.last >= self.first]
        for backend in (self.backend, self.reader, hasty(self.home)):
            assert everything(backend, after, max_bytes=data.draw(st.sampled_from([1, 500, 100_000]))) == expected

    @invariant()
    def bounds(self) -> None:
        """The bounds are the same for everybody."""
        for backend in (self.backend, self.reader):
            assert backend.bounds() == bounds(self.first, self.last)

    def teardown(self) -> None:
        """Nothing stays."""
        self.backend.release()
        assert not self.home.exists() or temps(self.home) == []
        shutil.rmtree(self.home.parent)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=25, stateful_step_count=25)


# ---------------------------------------------------------------------- refusals


def test_a_batch_that_does_not_follow(home: Path) -> None:
    """A batch that does not follow the last is refused with both indexes; nothing has changed, and the next works."""
    writer = Writer(log(home))
    writer.append(count=3)
    before = contents(home)
    for first in (1, 3, 5, 100):
        with pytest.raises(ConflictError) as caught:
            writer.backend.append(batch(first))
        assert (caught.value.expected, caught.value.found) == (first - 1, 3)
    assert contents(home) == before
    writer.append()
    assert everything(log(home)) == writer.release()


def test_a_batch_of_another_epoch(home: Path) -> None:
    """A batch whose epoch is not the claim's is refused, and nothing has changed."""
    Writer(log(home)).release()
    writer = Writer(log(home))
    for epoch in (1, 3):
        with pytest.raises(FencedError) as caught:
            writer.backend.append(batch(1, epoch))
        assert (caught.value.epoch, caught.value.found) == (epoch, 2)
    assert bases(home) == []
    writer.release()


def test_a_batch_that_is_too_large(home: Path) -> None:
    """A batch beyond the limit is refused, with the limit's name; one that is as long as it is not."""
    writer = Writer(log(home, max_batch_bytes=1000))
    with pytest.raises(LimitExceededError) as caught:
        writer.backend.append(batch(1, size=1001))
    assert (caught.value.limit, caught.value.found, caught.value.bound) == ("max_batch_bytes", 1001, 1000)
    writer.append(1000)
    assert everything(log(home)) == writer.release()


def test_a_limit_that_was_raised_and_lowered(home: Path) -> None:
    """Whoever allows larger batches begins a segment for them; whoever allows smaller ones still reads and goes on."""
    known: list[Batch] = []
    for limit in (100, 5000, 100, 20_000):
        writer = Writer(log(home, max_batch_bytes=limit, segment_bytes=64 << 10), known)
        writer.append(limit, 50)
        known = writer.release()
    assert len(bases(home)) == 3
    assert everything(log(home, max_batch_bytes=1)) == known


@pytest.mark.parametrize(
    "options",
    [{"segment_bytes": 511}, {"segment_bytes": 0}, {"max_batch_bytes": 0}, {"max_batch_bytes": (1 << 30) + 1}],
)
def test_sizes_out_of_range(home: Path, options: dict[str, int]) -> None:
    """A size that cannot work is refused at once."""
    with pytest.raises(ValueError, match=next(iter(options))):
        FileBackend(home, **options)  # type: ignore[arg-type]  # mypy cannot tell that they are sizes


def test_without_a_claim(home: Path) -> None:
    """Without a claim, or after it has ended, nothing is appended or truncated; ending it again does nothing."""
    backend = log(home)
    for _ in range(2):
        with pytest.raises(ClosedError):
            backend.append(batch(1))
        with pytest.raises(ClosedError):
            backend.truncate_before(Index(1))
        backend.claim()
        backend.release()
        backend.release()


def test_the_snapshots_beside_it(home: Path) -> None:
    """A journal and snapshots share a directory, and neither minds the other."""
    backend = log(home)
    writer = Writer(backend)
    writer.append(900, 900, 900)
    put(backend, 1, keep=2)
    put(backend, 2, keep=2)
    assert len(backend.names()) == 2
    assert everything(log(home)) == writer.release()
    writer = Writer(backend, writer.known)
    assert len(log(home).names()) == 2
    writer.release()


# ---------------------------------------------------------------------- one writer

CLAIM = """
import sys
from swoosh_async.backends.base import Batch
from swoosh_async.backends.file import FileBackend
backend = FileBackend(sys.argv[1])
epoch = backend.claim().epoch
print(epoch, flush=True)
sys.stdin.read()
"""


def test_one_writer_in_a_process(home: Path) -> None:
    """While one writer lives, another is refused, which names this process and its host, and leaves nothing open."""
    writer = Writer(log(home))
    before = descriptors()
    for backend in (log(home), writer.backend):
        with pytest.raises(LockedError) as caught:
            backend.claim()
        assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
        assert caught.value.where == str(home / ".journal.lock")
    assert descriptors() == before
    writer.append()
    writer.release()
    Writer(log(home)).release()


def test_one_writer_among_processes(home: Path) -> None:
    """A writer in another process is named by its pid; when that is killed, its lock is gone, and the epoch goes on."""
    with process(CLAIM, home) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "1\n"
        with pytest.raises(LockedError, match=f"process {other.pid} on {socket.gethostname()}"):
            log(home).claim()
        assert log(home).bounds() == bounds(1, 0)
        os.kill(other.pid, signal.SIGKILL)
        other.wait(BOUND_S)
        writer = Writer(log(home))
        assert writer.claim.epoch == 2
        writer.release()


def test_a_holder_that_the_system_does_not_tell(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not tell who holds the lock, the record does."""
    writer = Writer(log(home))
    monkeypatch.setattr("swoosh_async.backends.file._lock._holder", lambda _: None)
    with pytest.raises(LockedError) as caught:
        log(home).claim()
    assert (caught.value.pid, caught.value.host) == (os.getpid(), socket.gethostname())
    writer.release()


def test_a_forked_child(home: Path) -> None:
    """A forked child is refused, and neither its end nor its release takes the claim from its parent; it may read."""
    writer = Writer(log(home))
    writer.append(100, 100)
    parent = os.getpid()

    def child() -> None:
        with pytest.raises(LockedError) as caught:
            writer.backend.append(batch(3))
        assert caught.value.pid == parent
        with pytest.raises(LockedError):
            writer.backend.truncate_before(Index(2))
        with pytest.raises(LockedError):
            writer.backend.claim()
        writer.backend.release()
        with pytest.raises(LockedError):
            log(home).claim()
        assert everything(writer.backend) == writer.known
        assert writer.backend.bounds() == bounds(1, 2)

    assert in_child(child) == 0
    with pytest.raises(LockedError):
        log(home).claim()
    writer.append(5000)
    assert everything(log(home)) == writer.release()


# ---------------------------------------------------------------------- segments


def test_segments_follow_one_another(home: Path) -> None:
    """A batch that has no room begins a segment that its name tells; each is as long as it was told to be."""
    writer = Writer(log(home))
    writer.append(*[600] * 7)
    assert bases(home) == [1, 3, 5, 7]
    assert {segment(home, base).stat().st_size for base in bases(home)} == {SEGMENT_BYTES}
    assert {segment(home, base).stat().st_mode & 0o777 for base in bases(home)} == {0o600}
    assert everything(log(home)) == writer.release()


def test_a_batch_that_fills_its_segment(home: Path) -> None:
    """A batch that fits to the last byte does not begin a new segment; one that is a byte longer does."""
    room = SEGMENT_BYTES - 512 - 64
    writer = Writer(log(home))
    writer.append(room)
    assert bases(home) == [1]
    writer.append(room // 2, room // 2 - 64 + 1)
    assert bases(home) == [1, 2, 3]
    assert everything(log(home)) == writer.release()
    writer = Writer(log(home), writer.known)
    assert writer.claim.tail == writer.known[-1]
    writer.release()


def test_a_batch_that_is_larger_than_a_segment(home: Path) -> None:
    """A batch that is larger than a segment gets one that is as large as it needs."""
    writer = Writer(log(home))
    writer.append(10, 100_000, 10, 20_000)
    assert bases(home) == [1, 2, 3, 4]
    assert segment(home, 2).stat().st_size == 512 + frame_size(100_000)
    assert everything(log(home)) == writer.release()


def test_a_claim_goes_on_in_the_same_segment(home: Path) -> None:
    """A new claim appends where the last one ended."""
    known: list[Batch] = []
    for _ in range(3):
        writer = Writer(log(home), known)
        writer.append(50)
        known = writer.release()
    assert bases(home) == [1]


def test_the_next_segment_is_prepared(home: Path) -> None:
    """When a segment is nearly full the next is made ready, and goes with the claim; a killed writer's goes later."""
    writer = Writer(log(home))
    writer.append(300)
    assert temps(home) == []
    writer.append(900)
    prepared = temps(home)
    assert len(prepared) == 1
    inode = (home / prepared[0]).stat().st_ino
    writer.append(600)
    assert (bases(home), temps(home)) == ([1, 3], [])
    assert segment(home, 3).stat().st_ino == inode
    writer.append(600)
    assert len(temps(home)) == 1
    known = writer.release()
    assert temps(home) == []
    (home / "journal-0123456789abcdef.tmp").write_bytes(b"half of")
    others = ["journal.tmp", "journal-x.tmp", "snapshot-0123456789abcdef.tmp", "journal-12.tmp.gz"]
    for name in others:
        (home / name).touch()
    Writer(log(home), known).release()
    assert names(home) == sorted([".journal.lock", "journal", *others, *(segment(home, b).name for b in bases(home))])


def test_a_prepared_segment_that_is_too_small(home: Path) -> None:
    """A prepared segment that is too small for the batch that comes makes way for one that is not."""
    writer = Writer(log(home))
    writer.append(1400)
    assert len(temps(home)) == 1
    writer.append(50_000)
    assert bases(home) == [1, 2]
    assert segment(home, 2).stat().st_size == 512 + frame_size(50_000)
    assert everything(log(home)) == writer.release()
    assert temps(home) == []


def test_a_next_segment_that_cannot_be_prepared(home: Path) -> None:
    """Where the next segment cannot be made ready ahead of time, the append has succeeded all the same."""
    disk = FailingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    writer.append(300)
    disk.take()
    disk.at, disk.number = 3, 28  # behind an append's three
    writer.append(1000)
    assert disk.failed.startswith("create")
    disk.at = None
    assert temps(home) == []
    writer.append(1000)
    assert everything(log(home)) == writer.release()


@pytest.mark.parametrize("mode", [0o640, 0o600, None])
def test_the_mode(home: Path, mode: int | None) -> None:
    """Every file has the mode that was asked for, 0600 unless told otherwise."""
    writer = Writer(log(home, mode=mode))
    writer.append(600, 600, 600)
    writer.release()
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {mode or 0o600}


# ---------------------------------------------------------------------- truncation


def test_truncation_is_exact(home: Path) -> None:
    """The bounds begin where they were told to; segments without a kept entry go, and come back never."""
    writer = Writer(log(home))
    writer.append(*[600] * 9, count=2)
    assert bases(home) == [1, 5, 9, 13, 17]
    for index, left in ((1, 5), (4, 5), (5, 4), (12, 3), (3, 3), (12, 3), (16, 2), (17, 1)):
        writer.backend.truncate_before(Index(index))
        first = max(4, index) if index > 3 else writer.backend.bounds().first
        assert len(bases(home)) == left
        for backend in (writer.backend, log(home)):
            assert backend.bounds() == bounds(first, 18)
            expected = [one for one in writer.known if one.last >= first]
            assert everything(backend) == expected
            assert everything(backend, first) == [one for one in expected if one.last > first]
    known = writer.release()
    writer = Writer(log(home), known)
    assert (writer.claim.bounds, writer.claim.tail) == (bounds(17, 18), known[-1])
    writer.release()


def test_truncation_of_everything(home: Path) -> None:
    """When nothing is kept the last batch still stays for the next claim, and indexes go on."""
    writer = Writer(log(home))
    writer.append(*[600] * 4)
    writer.backend.truncate_before(Index(5))
    assert (bases(home), writer.backend.bounds()) == ([3], bounds(5, 4))
    assert everything(log(home)) == everything(writer.backend) == []
    known = writer.release()
    for _ in range(2):
        writer = Writer(log(home), known)
        assert (writer.claim.bounds, writer.claim.tail) == (bounds(5, 4), known[-1])
        writer.release()
    writer = Writer(log(home), known)
    writer.append(600)
    assert everything(log(home)) == writer.known[4:]
    assert log(home).bounds() == bounds(5, 5)
    writer.backend.truncate_before(Index(6))
    assert bases(home) == [5]
    writer.release()


def test_truncation_of_nothing(home: Path) -> None:
    """An empty journal can be truncated before its first index, which changes nothing."""
    writer = Writer(log(home))
    before = contents(home)
    writer.backend.truncate_before(Index(1))
    assert contents(home) == before
    writer.append()
    assert everything(log(home)) == writer.release()


def test_an_index_beyond_the_end(home: Path) -> None:
    """Whoever truncates beyond the end, which he must not, does not make indexes that were never there."""
    writer = Writer(log(home))
    writer.append(10, 10)
    writer.backend.truncate_before(Index(50))
    assert log(home).bounds() == bounds(3, 2)
    known = writer.release()
    writer = Writer(log(home), known)
    writer.append()
    assert everything(log(home)) == writer.release()[2:]


def test_old_segments_that_cannot_be_removed(home: Path) -> None:
    """Where an old segment cannot be removed the bounds have changed all the same, and the next claim removes it."""
    disk = FailingDisk(home.parent)
    writer = Writer(log(home, disk=disk))
    writer.append(*[600] * 6)
    disk.take()
    disk.at = 6
    writer.backend.truncate_before(Index(4))
    assert disk.failed == "unlink d/journal.00000000000000000001"
    assert bases(home) == [1, 3, 5]
    disk.at = None
    for backend in (writer.backend, log(home)):
        assert backend.bounds() == bounds(4, 6)
        assert everything(backend) == writer.known[3:]
    known = writer.release()
    Writer(log(home), known).release()
    assert bases(home) == [3, 5]


# ---------------------------------------------------------------------- readers beside a writer


class Watch:
    """A reader that follows a journal: nothing twice, nothing out of order, nothing that was not appended."""

    def __init__(self, backend: JournalBackend) -> None:
        self.backend = backend
        self.after = 0
        self.empty = 0

    def look(self, max_bytes: int = 2000) -> None:
        """Read one page."""
        for one in self.backend.read(Index(self.after), max_bytes):
            assert one == batch(self.after + 1, one.epoch, count=one.count, size=len(one.data))
            self.after = one.last
        assert self.backend.bounds().last >= self.after


def test_readers_in_the_same_process(home: Path) -> None:
    """Readers in other threads, with the writer's backend and their own, see each batch once, and come to the end."""
    writer = Writer(hasty(home, segment_bytes=8 << 10))
    done = threading.Event()
    trouble: list[BaseException] = []
    watches = [Watch(writer.backend), Watch(log(home, disk=HastyDisk()))]

    def follow(watch: Watch) -> None:
        try:
            while not done.is_set() or watch.after < writer.known[-1].last:
                watch.look()
        except BaseException as error:  # noqa: BLE001  it is told at the end
            trouble.append(error)

    threads = [threading.Thread(target=follow, args=(watch,)) for watch in watches]
    for thread in threads:
        thread.start()
    for number in range(300):
        writer.append(number * 37 % 3000, count=1 + number % 3)
    done.set()
    for thread in threads:
        thread.join(BOUND_S)
    assert trouble == []
    assert {watch.after for watch in watches} == {writer.known[-1].last}
    writer.release()


FOLLOW = """
import sys
from pathlib import Path
from tests._logs import hasty
from tests.test_log import Watch
watch = Watch(hasty(Path(sys.argv[1])))
print("ready", flush=True)
while watch.after < int(sys.argv[2]):
    watch.look()
print("read", watch.after, flush=True)
"""


def test_a_reader_in_another_process(home: Path) -> None:
    """A reader in another process sees each batch once while it is written, across segments, and comes to the end."""
    with process(FOLLOW, home, 400) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        writer = Writer(hasty(home, segment_bytes=32 << 10))
        for number in range(400):
            writer.append(number * 379 % 20_000)
        assert other.stdout.readline() == "read 400\n"
        assert other.wait(BOUND_S) == 0
        writer.release()


def test_a_reader_while_it_is_truncated(home: Path) -> None:
    """A reader whose segments go meanwhile finds what is kept, in order, and no damage."""
    writer = Writer(hasty(home))
    writer.append(600)
    done = threading.Event()
    trouble: list[BaseException] = []

    def follow() -> None:
        try:
            backend = hasty(home)
            while not done.is_set():
                found = list(backend.read(Index(0), 10_000))
                assert found[-1].last == found[0].first + len(found) - 1
                assert found == [batch(one.first, size=600) for one in found]
                assert backend.bounds().first >= found[0].first
        except BaseException as error:  # noqa: BLE001  it is told at the end
            trouble.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    for number in range(1, 200):
        writer.append(600)
        if number % 5 == 0:
            writer.backend.truncate_before(Index(number - 3))
    done.set()
    thread.join(BOUND_S)
    assert trouble == []
    writer.release()


@pytest.mark.parametrize("step", ["fdatasync", "probe"])
def test_what_a_reader_returns_is_durable(home: Path, step: str) -> None:
    """A reader with no writer in its process fsyncs what it returns, once; if it cannot, it returns nothing."""
    written(home, 100, 100)
    calls = ["fdatasync d/journal.00000000000000000001", "ftruncate d/.journal.lock 0"]
    at = ["fdatasync", "probe"].index(step)
    disk = FailingDisk(home.parent, 1 + at)
    reader = log(home, disk=disk)
    with pytest.raises(BackendError, match=f"{step} journal"):
        reader.read(Index(0), 100)
    disk.at = None
    for _ in range(3):
        assert len(everything(reader)) == 2
        assert reader.bounds() == bounds(1, 2)
    assert disk.calls == ["fsync .", *calls[: at + 1], *calls]


def test_a_reader_that_asks_again_reads_what_is_new(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that are asked for again cost what came since; batches, segments and damage in between are noticed."""
    size = 1 << 20
    backend = FileBackend(home, segment_bytes=size, lock_timeout_s=0)
    epoch, reader = backend.claim().epoch, FileBackend(home, lock_timeout_s=0)
    asked: list[int] = []
    read = FileSource.read

    def counted(self: FileSource, offset: int, count: int) -> bytes:
        asked.append(count)
        return read(self, offset, count)

    for index in range(1, 30):
        backend.append(Batch(Index(index), 1, epoch, bytes(100_000)))
        if index == 1:
            assert reader.bounds() == bounds(1, 1)
            monkeypatch.setattr(FileSource, "read", counted)
        for _ in range(2):
            asked.clear()
            assert reader.bounds() == backend.bounds() == bounds(1, index)
        assert sum(asked) < size // 4
    backend.release()
    newest = segment(home, bases(home)[-1])
    data = bytearray(newest.read_bytes())
    end = len(data.rstrip(b"\0"))
    data[(end + 63) // 64 * 64 + 3] = 1
    newest.write_bytes(data)
    with pytest.raises(CorruptJournalError, match="header"):
        reader.bounds()
