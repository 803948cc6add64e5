"""A journal that is not what was written: it is told, with path, place and index, and no batch is missed unnoticed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swoosh_async.backends.base import Batch, Bounds, Index, JournalBackend
from swoosh_async.backends.file import _frames, _reader, _record
from swoosh_async.backends.file._frames import ALIGN, SECTOR, read_segment_header, segment_header
from swoosh_async.errors import BackendError, CorruptJournalError, FormatVersionError, LockedError

from ._disks import descriptors
from ._logs import Writer, bases, bounds, contents, everything, hasty, names, restore, segment, written

DAMAGED = CorruptJournalError, FormatVersionError


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for a journal; no descriptor may be left open."""
    before = descriptors()
    yield tmp_path / "d"
    assert descriptors() == before


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pauses before another look: no writer is at work."""
    monkeypatch.setattr(_reader, "_PAUSE_S", 0)


def small(home: Path, *, truncated: bool = False) -> list[Batch]:
    """A small journal of three segments; what is kept of it."""
    writer = Writer(hasty(home, segment_bytes=1024))
    writer.append(100, 120, 150, 0, 120, 20, count=2)
    assert len(bases(home)) == 3
    if truncated:
        writer.backend.truncate_before(Index(8))
        assert len(bases(home)) == 2
    known = writer.release()
    return [one for one in known if one.last >= 8] if truncated else known


def read_to_the_end(backend: JournalBackend) -> tuple[Bounds, list[Batch]]:
    """The bounds, and all batches within, as a journal reads them.

    Raises:
        CorruptJournalError: As the backend, or where it gives no more although the bounds promise it.
    """
    found = backend.bounds()
    batches = everything(backend)
    if (batches[-1].last if batches else found.first - 1) < found.last:
        raise CorruptJournalError(backend.where, "missing", offset=None, index=0)
    return found, batches


def check(home: Path, known: list[Batch], first: int, *, reading: bool = False) -> str:
    """Read a journal that may be damaged, and claim it: each is right, or tells of the damage, or of what was torn.

    Returns:
        "told" where the damage was told, "torn" where bytes were set aside, or "harmless".
    """
    told = ""
    try:
        assert read_to_the_end(hasty(home)) == (bounds(first, known[-1].last), known)
    except DAMAGED as error:
        told = "told"
        check_error(home, error)
    if reading:
        return told or "harmless"
    backend = hasty(home)
    before = contents(home)
    try:
        claim = backend.claim()
    except DAMAGED as error:
        check_error(home, error)
        assert contents(home) == before
        return "told"
    assert claim.tail == known[-1]
    assert claim.bounds == bounds(first, known[-1].last)
    try:
        assert read_to_the_end(backend) == (claim.bounds, known)
    except DAMAGED:
        assert told, "a writer sees what a reader does not"
    backend.release()
    if claim.torn_bytes:
        assert [name for name in names(home) if ".torn-" in name]
        return "torn"
    return told or "harmless"


def check_error(home: Path, error: CorruptJournalError | FormatVersionError) -> None:
    """The error says where the damage is."""
    if isinstance(error, CorruptJournalError) and error.offset is not None:
        assert error.path.startswith(str(home))
        assert (error.offset >= 0, error.index >= 0) == (True, True)
        assert str(error.index) in str(error)


# ---------------------------------------------------------------------- flipped, cut off, missing


@pytest.mark.slow
@pytest.mark.parametrize(("truncated", "flip"), [(False, 0x01), (True, 0xFF)])
def test_every_flipped_byte(home: Path, truncated: bool, flip: int) -> None:
    """Whichever byte of whichever file is flipped: it is told, or set aside, or nobody is harmed.

    (Of the zeros in a segment's header, and of those ahead, not each.)
    """
    known = small(home, truncated=truncated)
    first = 8 if truncated else 1
    files = contents(home)
    for name, data in files.items():
        outcomes: dict[str, list[int]] = {"told": [], "torn": [], "harmless": []}
        path = home / name
        used = data.rstrip(b"\0")
        places = [at for at in range(len(used)) if name == "journal" or not 64 < at < 500 or at % 23 == 0]
        for at in [*places, *range(len(used), len(data), 41)]:
            path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            outcomes[check(home, known, first)].append(at)
            restore(home, files)
        if name == "journal":
            assert outcomes == {"told": list(range(len(data))), "torn": [], "harmless": []}
        elif name != ".journal.lock":
            newest = name == segment(home, bases(home)[-1]).name
            assert set(places) <= {*outcomes["told"], *(kept_no_more(home, name, first))}
            assert bool(outcomes["torn"]) == newest


def kept_no_more(home: Path, name: str, first: int) -> range:
    """Where in a segment bytes stand that are kept no more: they are not read, but to find the way."""
    base = int(name[8:])
    if first <= base:
        return range(0)
    data = (home / name).read_bytes()
    seed = read_segment_header(data[:SECTOR])
    assert isinstance(seed, _frames.Seed)
    offset = SECTOR
    while (frame := _frames.read_frame(seed, offset, data[offset : offset + ALIGN])) and frame.last < first:
        offset = frame.end
    return range(SECTOR, offset)


@pytest.mark.parametrize("truncated", [False, True])
def test_every_file_cut_off(home: Path, truncated: bool) -> None:
    """However much of whichever file is missing at its end, it is told; and likewise what is too long."""
    known = small(home, truncated=truncated)
    files = contents(home)
    for name, data in files.items():
        if name == ".journal.lock":
            continue
        for length in [*range(0, len(data), 1 if name == "journal" else 23), len(data) - 1]:
            (home / name).write_bytes(data[:length])
            assert check(home, known, 8 if truncated else 1) == "told", (name, length)
            restore(home, files)
        for more in (b"\0", b"x" * 100):
            (home / name).write_bytes(data + more)
            assert check(home, known, 8 if truncated else 1) == "told", (name, more)
            restore(home, files)


def test_a_sector_that_is_lost(home: Path) -> None:
    """A sector that is zero where batches were, but for the last, as after a repair of a file system, is told."""
    known = written(home, *[500] * 8, segment_bytes=4096)
    files = contents(home)
    assert len(bases(home)) == 2
    for base in bases(home):
        name = segment(home, base).name
        data = files[name]
        for at in range(0, SECTOR if base == 7 else len(data.rstrip(b"\0")), SECTOR):
            (home / name).write_bytes(data[:at] + bytes(SECTOR) + data[at + SECTOR :])
            assert check(home, known, 1) == "told", (base, at)
            restore(home, files)


@pytest.mark.parametrize("truncated", [False, True])
def test_a_file_that_is_missing(home: Path, truncated: bool) -> None:
    """Whichever file is missing, but for the lock, it is told: the first segment, one in the middle, the newest."""
    known = small(home, truncated=truncated)
    files = contents(home)
    for name in files:
        (home / name).unlink()
        expected = "harmless" if name == ".journal.lock" else "told"
        assert check(home, known, 8 if truncated else 1) == expected, name
        restore(home, files)


def test_all_segments_missing(home: Path) -> None:
    """A record without any of the segments that it knows of is no empty journal."""
    known = small(home)
    for base in bases(home):
        segment(home, base).unlink()
    assert check(home, known, 1) == "told"


def test_an_older_record(home: Path) -> None:
    """With an older record put back, nothing that was appended is lost, and no epoch is given twice."""
    Writer(hasty(home)).release()
    old = (home / "journal").read_bytes()
    known: list[Batch] = []
    for _ in range(3):
        writer = Writer(hasty(home), known)
        writer.append(600, 600)
        known = writer.release()
    (home / "journal").write_bytes(old)
    assert everything(hasty(home)) == known
    writer = Writer(hasty(home), known)
    assert writer.claim.epoch == 5
    assert writer.release() == everything(hasty(home))


def test_a_segment_of_another_journal(home: Path, tmp_path: Path) -> None:
    """A segment that was copied in from another journal is told, also where its batches would fit."""
    known = small(home)
    small(tmp_path / "other")
    files = contents(home)
    for base in bases(home):
        shutil.copy(segment(tmp_path / "other", base), segment(home, base))
        assert check(home, known, 1) == "told"
        restore(home, files)
    shutil.copy(tmp_path / "other" / "journal", home / "journal")
    assert check(home, known, 1) == "told"


def test_a_segment_under_another_name(home: Path) -> None:
    """A segment that bears the name of another is told."""
    known = small(home)
    one, two, three = bases(home)
    for source, target in ((one, two), (two, one), (two, three), (three, two), (three, three + 100)):
        files = contents(home)
        shutil.copy(segment(home, source), segment(home, target))
        assert check(home, known, 1) == "told", (source, target)
        restore(home, files)


def test_a_batch_in_another_place(home: Path) -> None:
    """A batch that stands where another one belongs, in its own segment or another, is told."""
    known = written(home, *[100] * 30)
    files = contents(home)
    paths = [segment(home, base) for base in bases(home)]
    size = ALIGN + 128
    for source, target in ((0, 1), (1, 0), (0, 0), (1, 1)):
        data = bytearray(files[paths[target].name])
        piece = files[paths[source].name][SECTOR + size : SECTOR + 2 * size]
        data[SECTOR + 2 * size : SECTOR + 3 * size] = piece
        paths[target].write_bytes(data)
        assert check(home, known, 1) == "told"
        restore(home, files)


# ---------------------------------------------------------------------- not what it should be


def fifo(path: Path, _: Path) -> None:
    """A FIFO with nobody at its other end."""
    path.unlink()
    os.mkfifo(path)


def directory(path: Path, _: Path) -> None:
    """A directory of that name."""
    path.unlink()
    path.mkdir()


def link(path: Path, elsewhere: Path) -> None:
    """A symlink to the very file, which has moved."""
    target = elsewhere / path.name
    shutil.move(path, target)
    path.symlink_to(target)


def dangling(path: Path, elsewhere: Path) -> None:
    """A symlink to nothing."""
    path.unlink()
    path.symlink_to(elsewhere / "nothing")


@pytest.mark.parametrize("make", [fifo, directory, link, dangling])
def test_what_is_no_regular_file(home: Path, tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    """What stands in the place of a segment or of the record is not followed, not waited for and not removed."""
    small(home)
    (tmp_path / "elsewhere").mkdir()
    whole = tmp_path / "whole"
    shutil.copytree(home, whole)
    for name in contents(home):
        if name == ".journal.lock":
            continue
        make(home / name, tmp_path / "elsewhere")
        before = names(home)
        with pytest.raises(BackendError, match=name):
            read_to_the_end(hasty(home))
        backend = hasty(home)
        if name not in (segment(home, bases(whole)[0]).name, segment(home, bases(whole)[1]).name):
            with pytest.raises(BackendError, match=name):
                backend.claim()
        assert names(home) == before
        shutil.rmtree(home)
        shutil.copytree(whole, home)


def test_a_directory_that_is_a_file(home: Path) -> None:
    """Where the directory's name is a file's, that is said."""
    home.touch()
    for call in (hasty(home).bounds, hasty(home).claim):
        with pytest.raises(BackendError):
            call()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(home: Path) -> None:
    """What may not be read is no damage."""
    small(home)
    segment(home, bases(home)[-1]).chmod(0)
    with pytest.raises(BackendError, match="Permission denied"):
        hasty(home).bounds()


# ---------------------------------------------------------------------- newer formats


def test_a_newer_record(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of a newer format is left alone, and who wrote it is told."""
    small(home)
    monkeypatch.setattr(_record, "RECORD_FORMAT", 2)
    monkeypatch.setattr("swoosh_async.backends.file._writer.RECORD_FORMAT", 2)
    files = contents(home)
    record = _record.Record(9, 1, 2, "newer", 1, 1, "00" * 16)
    (home / "journal").write_bytes(_record.record_bytes(record))
    monkeypatch.undo()
    before = contents(home)
    for call in (hasty(home).claim, hasty(home).bounds, lambda: hasty(home).read(Index(0), 100)):
        with pytest.raises(FormatVersionError) as caught:
            call()
        assert (caught.value.found, caught.value.supported) == (2, 1)
    assert contents(home) == before
    restore(home, files)


def test_a_newer_segment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A segment of a newer format is left alone, and is told by whoever comes to it."""
    small(home)
    newest = segment(home, bases(home)[-1])
    data = newest.read_bytes()
    seed = read_segment_header(data[:SECTOR])
    assert isinstance(seed, _frames.Seed)
    monkeypatch.setattr(_frames, "SEGMENT_FORMAT", 7)
    newest.write_bytes(segment_header(seed) + data[SECTOR:])
    monkeypatch.undo()
    before = contents(home)
    for call in (hasty(home).claim, hasty(home).bounds, lambda: everything(hasty(home))):
        with pytest.raises(FormatVersionError) as caught:
            call()
        assert (caught.value.found, caught.value.supported) == (7, 1)
    assert contents(home) == before


# ---------------------------------------------------------------------- a writer at work


def test_damage_under_a_writer(home: Path) -> None:
    """A batch that is damaged while its writer lives is told by the writer's own backend and by others."""
    writer = Writer(hasty(home, segment_bytes=8192))
    writer.append(*[300] * 6)
    path = segment(home, 1)
    data = path.read_bytes()
    chance = random.Random(1)
    for at in chance.sample(range(SECTOR, len(data.rstrip(b"\0"))), 15):
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), bytes([data[at] ^ 0x10]), at)
            for backend in (writer.backend, hasty(home)):
                with pytest.raises(CorruptJournalError) as caught:
                    read_to_the_end(backend)
                assert caught.value.path in (str(path), str(home))
                if caught.value.offset is not None:
                    assert caught.value.offset <= at < caught.value.offset + frame_of(300)
                    assert caught.value.index == 1 + (at - SECTOR) // frame_of(300)
            os.pwrite(file.fileno(), data[at : at + 1], at)
    assert everything(hasty(home)) == writer.release()


@pytest.mark.parametrize("lost", [1, ALIGN])
def test_a_reader_that_comes_to_damage(home: Path, lost: int) -> None:
    """A reader that only reads does not take a damaged or missing header in the newest segment for the end."""
    known = written(home, *[300] * 6, segment_bytes=8192)
    path = segment(home, 1)
    data = path.read_bytes()
    for n in range(5):
        at = SECTOR + n * frame_of(300)
        path.write_bytes(data[:at] + bytes(lost) + data[at + lost :])
        reader = hasty(home)
        assert [one for after in range(n) for one in reader.read(Index(after), 1)] == known[:n]
        with pytest.raises(CorruptJournalError) as caught:
            reader.read(Index(n), 1)
        assert (caught.value.offset, caught.value.index) == (at, n + 1)
        path.write_bytes(data)
    assert everything(hasty(home)) == known


def frame_of(size: int) -> int:
    """How long the frame of a batch of that size is."""
    return _frames.frame_size(size)


def test_a_refused_claim_lets_go(home: Path) -> None:
    """A claim that is refused for damage holds no lock and no file."""
    known = small(home)
    files = contents(home)
    (home / "journal").write_bytes(b"damaged")
    backend = hasty(home)
    for _ in range(2):
        with pytest.raises(CorruptJournalError):
            backend.claim()
    restore(home, files)
    backend.claim()
    with pytest.raises(LockedError):
        hasty(home).claim()
    assert everything(backend) == known
    backend.release()
