"""What a crash may leave, by the rules, and that it tells designs that keep their promise from those that do not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from swoosh_async.backends.base import Bounds, Index
from swoosh_async.backends.file._writer import Writer
from swoosh_async.testing import CrashDisk, CrashState, Trace, crash_states

from . import _crashes
from ._crash_journals import check_journal
from ._crash_mutants import JOURNAL_MUTANTS, NEXT_MUTANTS, SNAPSHOT_MUTANTS, appends, claims, loads, saves
from ._crash_snapshots import check_snapshots
from ._crashes import Found, crashed, killed, recorded

home = _crashes.home

OLD, NEW = b"o" * 512, b"n" * 512
ZERO = bytes(512)
_CREATE = os.O_RDWR | os.O_CREAT


# ---------------------------------------------------------------------- the rules


class Hand:
    """Does things to a recorded disk by their names, with some files and a directory that are durable before.

    Args:
        root: An empty directory.
        files: What stands there.
    """

    def __init__(self, root: Path, **files: bytes) -> None:
        for name, data in files.items():
            (root / name).write_bytes(data)
        self.root = root
        self.disk = CrashDisk(root)
        self.at = os.open(root, os.O_RDONLY)

    @contextmanager
    def file(self, name: str, flags: int = _CREATE) -> Iterator[int]:
        """A file, open; made if there is none."""
        fd = self.disk.open(name, flags, 0o600, self.at)
        try:
            yield fd
        finally:
            self.disk.close(fd)

    def write(self, name: str, data: bytes, offset: int = 0) -> None:
        """Write into a file."""
        with self.file(name) as fd:
            assert self.disk.pwrite(fd, data, offset) == len(data)

    def fsync(self, name: str = ".") -> None:
        """Make a file or directory durable."""
        fd = os.open(self.root / name, os.O_RDONLY)
        self.disk.fsync(fd)
        os.close(fd)

    def link(self, source: str, target: str) -> None:
        """Give a file one more name."""
        self.disk.link(source, target, self.at)

    def rename(self, source: str, target: str) -> None:
        """Give it another."""
        self.disk.rename(source, target, self.at)

    def unlink(self, name: str) -> None:
        """Take one away."""
        self.disk.unlink(name, self.at)

    def states(self, **options: Any) -> list[CrashState]:
        """All states that a crash may leave, at any point."""
        return list(crash_states(self.disk.trace, **options))

    def left(self, **options: Any) -> list[dict[str, bytes]]:
        """What they hold, in the order of their contents."""
        return ordered(state.files for state in self.states(**options))


def ordered(files: Any) -> list[dict[str, bytes]]:
    """In the order of their contents."""
    return sorted(files, key=lambda one: sorted(one.items()))


@pytest.fixture
def hand(tmp_path: Path) -> Iterator[Callable[..., Hand]]:
    """Makes a hand."""
    made: list[Hand] = []

    def make(**files: bytes) -> Hand:
        made.append(Hand(tmp_path, **files))
        return made[-1]

    yield make
    for one in made:
        os.close(one.at)


def test_what_stands_there_at_first_is_durable(hand: Callable[..., Hand]) -> None:
    """A disk on which nothing was done has one state; nothing of it can be lost."""
    one = hand(a=OLD, b=b"")
    assert one.left() == [{"a": OLD, "b": b""}]


def test_each_sector_by_itself(hand: Callable[..., Hand]) -> None:
    """Each sector of a write that is not durable is old or new, whatever the others are."""
    one = hand(a=3 * OLD)
    one.write("a", NEW + NEW[:100], 512)
    torn = NEW[:100] + OLD[100:]
    assert one.left() == ordered({"a": OLD + second + third} for second, third in product((OLD, NEW), (OLD, torn)))


@pytest.mark.parametrize("verb", ["fsync", "fdatasync"])
def test_what_was_synced_stays(hand: Callable[..., Hand], verb: str) -> None:
    """Once a file is synced, its bytes and its length are there in each state of a later point."""
    one = hand(a=OLD)
    with one.file("a") as fd:
        one.disk.pwrite(fd, NEW, 512)
        getattr(one.disk, verb)(fd)
    one.disk.mark("synced")
    assert [state.files for state in one.states() if state.marks] == [{"a": OLD + NEW}]


def test_a_sector_holds_what_it_held_at_some_moment(hand: Callable[..., Hand]) -> None:
    """Of two writes into one sector, there may be none, the first or both; the second alone there never was."""
    one = hand(a=OLD)
    one.write("a", b"1", 0)
    one.write("a", b"2", 1)
    assert [files["a"][:3] for files in one.left()] == [b"12o", b"1oo", b"ooo"]


def test_nothing_is_written(hand: Callable[..., Hand]) -> None:
    """A write of no bytes changes nothing, wherever it is."""
    one = hand(a=OLD)
    one.write("a", b"", 0)
    one.write("a", b"", 1000)
    assert one.left() == [{"a": OLD}]


def test_a_length_on_its_way(hand: Callable[..., Hand]) -> None:
    """A file that grows has its old length, its new one, or one that ends with a sector; what did not come is zeros."""
    one = hand(a=b"oo")
    one.write("a", b"n" * 1100, 2)
    lengths = {len(files["a"]) for files in one.left()}
    assert lengths == {2, 512, 1024, 1102}
    assert {"a": b"oo" + bytes(1100)} in one.left()


@pytest.mark.parametrize(("size", "lengths"), [(0, {0, 1024}), (700, {700, 1024}), (2048, {1024, 1536, 2048})])
def test_a_truncation_is_not_durable(hand: Callable[..., Hand], size: int, lengths: set[int]) -> None:
    """The length is the old one or the new one, as is what was cut off."""
    one = hand(a=OLD + OLD)
    with one.file("a") as fd:
        one.disk.ftruncate(fd, size)
    assert {len(files["a"]) for files in one.left()} == lengths
    one.fsync("a")
    one.disk.mark("durable")
    assert [state.files for state in one.states() if state.marks] == [{"a": (OLD + OLD)[:size].ljust(size, b"\0")}]


def test_opened_to_be_emptied(hand: Callable[..., Hand]) -> None:
    """A file opened with O_TRUNC is empty, or not yet."""
    one = hand(a=OLD)
    with one.file("a", os.O_WRONLY | os.O_TRUNC):
        pass
    assert {"a": b""} in one.left()
    assert {"a": OLD} in one.left()


def test_space_that_is_set_aside(hand: Callable[..., Hand], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Preallocated space is there, or not, or some of it; much of it costs nothing, here or where it is written to."""
    one = hand(a=b"")
    with one.file("a") as fd:
        one.disk.allocate(fd, 64 << 20)
        one.disk.pwrite(fd, NEW, 32 << 20)
    states = one.states()
    sizes = {data.size for state in states for _, data in state._contents.values()}
    assert {0, 512, 64 << 20} < sizes
    whole = next(state for state in states if "lost" not in state.why and "write" in state.why)
    there = tmp_path_factory.mktemp("state")
    whole.write_to(there)
    assert (there / "a").stat().st_size == 64 << 20
    assert (there / "a").stat().st_blocks <= 64
    with (there / "a").open("rb") as file:
        file.seek(32 << 20)
        assert file.read(513) == NEW + b"\0"


def test_a_name_that_is_not_durable(hand: Callable[..., Hand]) -> None:
    """A file's fsync does not make its name durable, and a name does not make a file's bytes durable."""
    one = hand()
    one.write("a", b"n")
    assert one.left() == [{}, {"a": b""}, {"a": b"\0"}, {"a": b"n"}]
    one.fsync("a")
    one.disk.mark("file")
    one.fsync()
    one.disk.mark("name")
    assert [state.files for state in one.states() if state.marks == ("file",)] == [{}, {"a": b"n"}]
    assert [state.files for state in one.states() if state.marks == ("file", "name")] == [{"a": b"n"}]


def test_names_come_and_go_by_themselves(hand: Callable[..., Hand]) -> None:
    """Of several names, any are there."""
    one = hand(old=b"")
    with one.file("a"), one.file("b"):
        one.unlink("old")
    assert {tuple(sorted(files)) for files in one.left()} == {
        tuple(sorted(name for name, there in zip(("a", "b", "old"), some, strict=True) if there))
        for some in product((False, True), repeat=3)
    }


def test_a_rename_is_atomic(hand: Callable[..., Hand]) -> None:
    """A rename shows at both its names or at neither; its target is never missing."""
    one = hand(a=OLD, b=NEW)
    one.rename("b", "a")
    assert one.left() == ordered([{"a": OLD, "b": NEW}, {"a": NEW}])


def test_one_file_under_its_own_name(hand: Callable[..., Hand]) -> None:
    """A rename from one name of a file to another of it does nothing, as POSIX says."""
    one = hand(a=OLD)
    one.link("a", "b")
    one.fsync()
    one.rename("a", "b")
    one.disk.mark("done")
    assert [sorted(state.files) for state in one.states() if state.marks] == [["a", "b"]]


def test_renamed_before_it_is_durable(hand: Callable[..., Hand]) -> None:
    """The famous file of no length: a new name, and none of the bytes."""
    one = hand(a=OLD)
    one.write("t", NEW)
    one.rename("t", "a")
    assert {"a": b""} in one.left()


def test_a_file_keeps_one_of_its_names(hand: Callable[..., Hand]) -> None:
    """A name that a file was given is seen before another of its names has gone; the other way round as well."""
    one = hand(a=OLD, t=NEW)
    one.link("a", "b")
    one.rename("t", "a")
    assert one.left() == ordered([{"a": OLD, "t": NEW}, {"a": OLD, "b": OLD, "t": NEW}, {"a": NEW, "b": OLD}])


def test_the_names_in_a_directory_that_is_lost(hand: Callable[..., Hand]) -> None:
    """A new directory is durable with its parent's fsync only, however durable all in it is."""
    one = hand()
    one.disk.mkdir(str(one.root / "d"), 0o755)
    one.write("d/a", b"n")
    one.fsync("d/a")
    one.fsync("d")
    assert [state for state in one.states() if state.point == len(one.disk.trace.events)] == []
    one.disk.mark("all but the parent")
    assert [state.files for state in one.states() if state.marks] == [{}, {"d/a": b"n"}]
    assert [state.directories for state in one.states() if state.marks] == [[], ["d"]]


def test_two_names_of_one_file(hand: Callable[..., Hand], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Names of one file are so again where a state is written to."""
    one = hand(a=OLD)
    one.link("a", "b")
    one.fsync()
    one.disk.mark("linked")
    state = one.states()[-1]
    there = tmp_path_factory.mktemp("state")
    state.write_to(there)
    assert (there / "a").stat().st_ino == (there / "b").stat().st_ino
    assert CrashDisk(there).trace.events[-2] == one.disk.trace.events[3]


def test_marks_and_points(hand: Callable[..., Hand]) -> None:
    """A state tells what had been marked, and the same content is told of once for the same marks."""
    one = hand()
    one.disk.mark("first")
    one.write("a", b"n")
    one.disk.mark("second")
    told = [(state.marks, state.files) for state in one.states()]
    contents: list[dict[str, bytes]] = [{}, {"a": b""}, {"a": b"\0"}, {"a": b"n"}]
    assert len(told) == 9
    for expected in [((), {}), *product([("first",), ("first", "second")], contents)]:
        assert told.count(expected) == 1
    points = [state.point for state in one.states()]
    assert points == sorted(points)


def test_why(hand: Callable[..., Hand]) -> None:
    """A state says where the crash came, and what was lost."""
    one = hand(a=OLD)
    one.write("a", NEW)
    one.write("t", NEW)
    one.rename("t", "b")
    told = {state.why.partition(" behind ")[2]: state.files for state in one.states()}
    assert told["write 512 at 0 of t; lost: sector 0 of a (1 of 2), sector 0 of t (1 of 2)"] == {"a": OLD, "t": ZERO}
    assert told["rename t b; lost: sector 0 of a (1 of 2)"] == {"a": OLD, "b": NEW}
    assert told["rename t b"] == {"a": NEW, "b": NEW}
    assert one.states()[0].why == "at 3 of 7, behind all of it durable"


def test_too_many_to_see_all(hand: Callable[..., Hand]) -> None:
    """Where there are more states than asked for, all lost and nothing lost are among them, then each alone."""
    one = hand(a=20 * OLD)
    one.write("a", 20 * NEW)
    sectors = [
        [state.files["a"][at : at + 1] for at in range(0, 20 * 512, 512)] for state in one.states(limit=200, seed=7)
    ]
    assert 150 < len(sectors) <= 200
    news = [some.count(b"n") for some in sectors]
    assert {0, 20} < set(news)
    assert news.count(1) == news.count(19) == 20
    assert [state.files for state in one.states(limit=200, seed=7)] == [
        state.files for state in one.states(limit=200, seed=7)
    ]
    assert one.left(limit=200, seed=7) != one.left(limit=200, seed=8)
    few = one.states(limit=10)
    assert 4 <= len(few) <= 10
    assert {20 * OLD, 20 * NEW} < {state.files["a"] for state in few}


def test_a_kill_loses_nothing_until_the_power_goes(
    hand: Callable[..., Hand], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After a kill all is there for whoever reads; but it is durable only once somebody has made it so."""
    one = hand(a=OLD)
    one.write("a", NEW)
    one.write("b", b"n")
    one.disk.mark("killed")
    there = tmp_path_factory.mktemp("after")
    disk = CrashDisk.after_kill(there, one.disk.trace)
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {"a": NEW, "b": b"n"}
    assert disk.root == there
    states = list(crash_states(disk.trace))
    assert ordered(state.files for state in states) == ordered(
        state.files for state in one.states() if state.marks == ("killed",)
    )
    fd = os.open(there / "a", os.O_RDONLY)
    disk.fsync(fd)
    os.close(fd)
    disk.mark("read")
    assert {state.files["a"] for state in crash_states(disk.trace) if "read" in state.marks} == {NEW}


def test_what_is_not_simulated(hand: Callable[..., Hand]) -> None:
    """What a disk did not see, or cannot tell the states of, it refuses."""
    one = hand(a=OLD)
    (one.root / "d").mkdir()
    with pytest.raises(RuntimeError, match="not made by this disk"):
        one.disk.open("d/b", _CREATE, 0o600, one.at)
    one.disk.mkdir(str(one.root / "e"), 0o755)
    with pytest.raises(NotImplementedError, match="from one directory to another"):
        one.rename("a", "e/a")


def test_the_trace_is_a_value(hand: Callable[..., Hand]) -> None:
    """A trace does not change any more, and may be cut off."""
    one = hand(a=OLD)
    before = one.disk.trace
    one.write("a", NEW)
    assert len(one.disk.trace.events) == len(before.events) + 1
    assert one.disk.trace.until(len(before.events)) == before
    assert before == Trace(before.events, before.begins)
    assert [*before.points] == [len(before.events)]


# ---------------------------------------------------------------------- mutants


@pytest.mark.parametrize("mutant", SNAPSHOT_MUTANTS)
def test_mutants_of_a_save(home: Path, mutant: str) -> None:
    """Saves that leave something out, or do it too early, are found."""
    trace = recorded(home, saves, SNAPSHOT_MUTANTS[mutant])
    assert crashed(trace, check_snapshots, home, limit=40, first=True).wrong


@pytest.mark.parametrize("mutant", JOURNAL_MUTANTS)
def test_mutants_of_an_append(home: Path, mutant: str) -> None:
    """Claims, appends and truncations that do are found."""
    trace = recorded(home, appends, JOURNAL_MUTANTS[mutant])
    assert crashed(trace, check_journal, home, limit=20, first=True).wrong


def test_a_mutant_of_a_truncation(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that go before the record says so are missed."""
    real = Writer.truncate_before

    def removed_first(self: Any, index: Index) -> None:
        bounds, self._bounds = self._bounds, Bounds(index, self._bounds.last)
        self._trim()
        self._bounds = bounds
        real(self, index)

    monkeypatch.setattr(Writer, "truncate_before", removed_first)
    trace = recorded(home, appends)
    monkeypatch.undo()
    assert crashed(trace, check_journal, home, limit=20, first=True).wrong


@pytest.mark.parametrize("mutant", NEXT_MUTANTS)
def test_mutants_of_who_comes_next(home: Path, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers and claims that believe what a killed process, or a crash, has left, are found."""
    where, verb, instead, find = NEXT_MUTANTS[mutant]
    monkeypatch.setattr(where, verb, instead)
    assert find(home).wrong


def test_what_the_mutants_do_is_right_without_them(home: Path) -> None:
    """The same, done rightly, survives everything."""
    saved, appended = recorded(home, saves), recorded(home, appends)
    found = Found()
    found.add(crashed(saved, check_snapshots, home, limit=40))
    found.add(killed(saved, loads, check_snapshots, home, limit=10, every=5))
    found.add(crashed(appended, check_journal, home, limit=10))
    found.add(killed(appended, claims, check_journal, home, limit=5, every=20))
    assert found.wrong == []
    assert found.states > 200
