"""Every verb that changes or reads what is stored, crashed at every point in every way that the rules allow.

`--states` is how many states are looked at, about, for each test; with more, more of those states are drawn of which
there are too many to see all.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from swoosh_async.backends.file._frames import SECTOR
from swoosh_async.testing import CrashDisk

from .. import _crashes
from .._crash_journals import Journalist, check_journal
from .._crash_mutants import appends_more, claims, loads, reads, recovers
from .._crash_snapshots import Damaged, Keeper, backend_on, check_snapshots
from .._crashes import Do, crashed, crashed_twice, killed, recorded
from .._disks import PlainBlob, path_of

home, limit, most = _crashes.home, _crashes.limit, _crashes.most


# ---------------------------------------------------------------------- snapshots


def keep_one(disk: CrashDisk) -> None:
    """Snapshots in place of each other, the first into a directory that is to be made with its parents."""
    keeper = Keeper(disk)
    for position in (1, 2, 3):
        keeper.save(position, size=600)


def keep_three(disk: CrashDisk) -> None:
    """Snapshots beside each other, until the oldest go."""
    keeper = Keeper(disk)
    for position in (1, 2, 3, 4, 5):
        keeper.save(position, keep=3, size=1200)


def keep_more_and_fewer(disk: CrashDisk) -> None:
    """As many as are kept changes from save to save, each of which is made by another process."""
    for position, keep in enumerate((1, 3, 3, 1, 2, 2, 1, 1), 1):
        Keeper(disk).save(position, keep=keep)


def go_back(disk: CrashDisk) -> None:
    """A snapshot with a lower index in place of one with a higher one, on purpose."""
    for keep in (1, 3):
        keeper = Keeper(disk)
        keeper.save(20 + keep, keep=keep, rollback=True)
        keeper.save(10 + keep, keep=keep, rollback=True)
        keeper.save(10 + keep + 1, keep=keep)


def prune(disk: CrashDisk) -> None:
    """Older ones are removed, by the process that saved them and by another one."""
    keeper = Keeper(disk)
    for position in (1, 2, 3, 4):
        keeper.save(position, keep=4)
    keeper.prune(3)
    keeper.prune(2)
    keeper.save(5, keep=4)
    Keeper(disk).prune(1)


def load_between(disk: CrashDisk) -> None:
    """Somebody loads between the saves."""
    keeper = Keeper(disk)
    for position in (1, 2, 3):
        keeper.load()
        keeper.save(position, keep=position)
        keeper.load()


def over_damage(older: tuple[int, ...], keep: int) -> Do:
    """A save over a latest that is damaged."""

    def do(disk: CrashDisk) -> None:
        data = (disk.root / "a" / "d" / "snapshot").read_bytes()
        disk.mark(Damaged(data, older))
        keeper = Keeper(disk)
        keeper.save(7, keep=keep)
        keeper.save(8, keep=keep)

    return do


def saves_one_more(disk: CrashDisk) -> None:
    """Load what there is, and save the next, as another process does."""
    keeper = Keeper(disk)
    keeper.load()
    keeper.save(100, keep=2)


SAVES: dict[str, Do] = {
    "keep one": keep_one,
    "keep three": keep_three,
    "keep more and fewer": keep_more_and_fewer,
    "go back": go_back,
    "prune": prune,
    "load between": load_between,
}


@pytest.mark.parametrize("do", SAVES)
def test_saves(home: Path, do: str, limit: int) -> None:
    """Of snapshots, all is there that was acknowledged or loaded."""
    found = crashed(recorded(home, SAVES[do]), check_snapshots, home, limit=limit)
    assert found.wrong == []
    assert found.states > 20


@pytest.mark.parametrize("older", [(), (1, 2)])
@pytest.mark.parametrize("keep", [1, 3])
def test_saves_over_damage(home: Path, older: tuple[int, ...], keep: int, limit: int) -> None:
    """What is damaged is kept beside what comes in its place, and older ones that are whole stay."""

    def make(root: Path) -> CrashDisk:
        for position in older:
            backend_on(root).put(PlainBlob(position), keep=3, allow_rollback=False)
        path = root / "a" / "d" / "snapshot"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(b"damaged" * 100)
        return CrashDisk(root)

    found = crashed(recorded(home, over_damage(older, keep), make), check_snapshots, home, limit=limit)
    assert found.wrong == []
    assert found.states > 20


@pytest.mark.parametrize("do", ["keep one", "keep more and fewer", "prune"])
@pytest.mark.parametrize("then", [loads, saves_one_more], ids=["load", "save"])
def test_saves_of_a_killed_process(home: Path, do: str, then: Do, limit: int, most: int) -> None:
    """What is loaded after a kill stays, and what is saved after it."""
    trace = recorded(home, SAVES[do])
    found = killed(trace, then, check_snapshots, home, limit=limit // 2, every=len(trace.events) // most + 1)
    assert found.wrong == []


@pytest.mark.parametrize("do", ["keep three", "keep more and fewer"])
def test_saves_after_a_crash(home: Path, do: str, limit: int, most: int) -> None:
    """A crash of the first save after a crash finds all as well."""
    trace = recorded(home, SAVES[do])
    found = crashed_twice(trace, saves_one_more, check_snapshots, home, limit=limit // 2, most=most)
    assert found.wrong == []


# ---------------------------------------------------------------------- journal


def claim_and_claim(disk: CrashDisk) -> None:
    """Claims and nothing else, one of them with a given epoch."""
    for epoch in (None, None, 7, None):
        journal = Journalist(disk, epoch=epoch)
        journal.release()


def append_small(disk: CrashDisk) -> None:
    """Batches of one entry and of several, in one segment and its next."""
    journal = Journalist(disk)
    journal.append(1, 64, 500)
    journal.append(100, 700, count=3)
    journal.append(0, 300)
    journal.release()


def append_large(disk: CrashDisk) -> None:
    """Batches larger than a segment, and smaller ones between them."""
    journal = Journalist(disk)
    journal.append(3000, 10, 5000)
    journal.append(1400, count=2)
    journal.append(1400)
    journal.release()


def append_zeros(disk: CrashDisk) -> None:
    """Batches that are zero in part, so that what did not come looks like what did."""
    journal = Journalist(disk)
    for data in (bytes(1500), b"x" + bytes(1400), bytes(600) + b"x" * 600, b"x" * 700 + bytes(1), bytes(512)):
        journal.append_bytes(data)
    journal.release()


def claim_between(disk: CrashDisk) -> None:
    """Appends of one process after the other, and readers beside them."""
    for sizes in ((600, 20), (), (1500,), (30, 1000)):
        journal = Journalist(disk)
        journal.append(*sizes)
        Journalist.read_all(disk)
        journal.release()


def truncate(disk: CrashDisk) -> None:
    """Truncations within a segment, of whole segments, and of all that there is."""
    journal = Journalist(disk)
    journal.append(600, 600, 600, 600, 600)
    for index in (2, 4, 6):
        journal.trim(index)
    journal.append(600)
    journal.release()
    journal = Journalist(disk)
    journal.append(600)
    journal.trim(7)
    journal.release()


def begin_elsewhere(disk: CrashDisk) -> None:
    """A journal that was told where it begins, before anything was appended."""
    journal = Journalist(disk)
    journal.trim(10)
    journal.release()
    journal = Journalist(disk)
    journal.trim(20)
    journal.append(100, 900)
    journal.release()
    journal = Journalist(disk)
    journal.append(100)
    journal.trim(21)
    journal.release()


class FullDisk(CrashDisk):
    """A disk that is full in the middle of a batch, whenever it is told, and then emptied.

    A write stops where a page of the file begins, and so never within a sector.

    Attributes:
        room: For how many sectors of the next batch there is room; None for all.
    """

    room: int | None = None

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write as much as there is room for; refuse what is behind it."""
        if self.room is None or "/journal.0" not in path_of(fd):
            return super().pwrite(fd, data, offset)
        if self.room == 0:
            self.room = None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        end = (offset // SECTOR + self.room) * SECTOR
        self.room = 0
        return super().pwrite(fd, data[: end - offset], offset)


def append_to_a_full_disk(disk: CrashDisk) -> None:
    """Appends that are refused, and others behind them."""
    assert isinstance(disk, FullDisk)
    journal = Journalist(disk)
    journal.append(700)
    for room in (0, 1, 2):
        disk.room = room
        journal.append(1100, 20)
    journal.release()
    journal = Journalist(disk)
    journal.append(50)
    journal.release()


APPENDS: dict[str, Do] = {
    "claim and claim": claim_and_claim,
    "append small": append_small,
    "append large": append_large,
    "append zeros": append_zeros,
    "claim between": claim_between,
    "truncate": truncate,
    "begin elsewhere": begin_elsewhere,
    "a full disk": append_to_a_full_disk,
}


@pytest.mark.parametrize("do", APPENDS)
def test_appends(home: Path, do: str, limit: int) -> None:
    """Of a journal, all is there that was acknowledged or read, and no more of a batch than all or none."""
    found = crashed(recorded(home, APPENDS[do], FullDisk), check_journal, home, limit=limit)
    assert found.wrong == []
    assert found.states > 20


@pytest.mark.parametrize("do", ["append zeros", "claim between", "truncate", "begin elsewhere", "a full disk"])
@pytest.mark.parametrize("then", [reads, claims, appends_more], ids=["read", "claim", "append"])
def test_appends_of_a_killed_process(home: Path, do: str, then: Do, limit: int, most: int) -> None:
    """What is read after a kill stays, and what a claim finds, and what is appended behind it."""
    trace = recorded(home, APPENDS[do], FullDisk)
    found = killed(trace, then, check_journal, home, limit=limit // 6, every=len(trace.events) // (most // 2) + 1)
    assert found.wrong == []


@pytest.mark.parametrize("do", APPENDS)
def test_recovery_crashes(home: Path, do: str, limit: int, most: int) -> None:
    """A claim that crashes on its way through what a crash has left, and an append behind it, leave all to the next."""
    trace = recorded(home, APPENDS[do], FullDisk)
    found = crashed_twice(trace, recovers, check_journal, home, limit=limit // 6, most=most // 2)
    assert found.wrong == []
