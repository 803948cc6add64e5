"""Real file systems whose power is cut at any block that they write: nothing acknowledged is lost, and nothing is torn.

The library works on a disk that remembers; then what the disk may hold after a power cut is put on it, state by state,
mounted, and recovered from. Mutants of the library go the same way, and must be found out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import anyio
import pytest

from swoosh_async.backends.file import OsDisk

from ._blocks import KINDS, Entry, Recorder, built, crashes, own_mounts
from ._weak_disks import DISKS
from ._workloads import Appends, Dispatches, Lost, Saves, Told, Torn, Workload

pytestmark = [pytest.mark.blocks, pytest.mark.slow]

WORKLOADS: list[Workload] = [Saves(1, 8), Saves(3, 8), Appends(30), Dispatches(16)]

STATES_OF_A_MUTANT = 12
"""How many states of each mutant are looked at, on each file system."""


class Looked(NamedTuple):
    """What was found in the states of one recording.

    Attributes:
        ends: How many states there were, by how they ended.
        wrong: What was wrong, in words.
        row: A line of the table.
    """

    ends: Counter[str]
    wrong: list[str]
    row: str

    @property
    def caught(self) -> int:
        """How many states were not as they must be."""
        return sum(self.ends[end] for end in ("lost", "torn", "unreadable"))


HEADER = (
    "fs     workload     writes flushes | states: all, and some, of what was not flushed"
    " | whole  lost  torn  unreadable  not mounted | states/s"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The recorder, built; what is mounted by these tests is seen by nobody else."""
    program = built(tmp_path_factory.mktemp("recorder"), "blocks")
    with own_mounts():
        print(f"\n{HEADER}")  # noqa: T201  shown with -s
        yield program


def looked(
    program: Path, kind: str, home: Path, workload: Workload, *, count: int, disk: OsDisk | None = None
) -> Looked:
    """Record that work on a file system of that kind, and look at so many states that a power cut may leave."""
    home.mkdir()
    with Recorder(program, kind, home) as recorder:
        entries = recorded(recorder, workload, disk)
        start = next(at for at, entry in enumerate(entries, 1) if entry.write.data == b"begin")
        begun = time.monotonic()
        told, heard, flushed = Told(), start, 0
        ends: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        wrong: list[str] = []
        for crash in crashes(entries, start, count, f"{kind} {workload.name}"):
            for entry in entries[heard : crash.at]:
                if entry.kind == "M":
                    told.hear(entry.write.data.decode())
            recorder.keep(entries[flushed : crash.flushed])
            heard, flushed = crash.at, crash.flushed
            with recorder.holding(crash.writes):
                end, reason = judged(recorder, workload, told)
            ends[end] += 1
            kept[crash.kept] += 1
            if reason:
                wrong.append(f"{kind} {workload.name} behind entry {crash.at} with {crash.kept}: {end}: {reason}")
        speed = sum(ends.values()) / (time.monotonic() - begun)
    kinds = Counter(entry.kind for entry in entries[start:])
    row = (
        f"{kind:6} {workload.name:12} {kinds['W']:6} {kinds['F']:7} | {kept['all']:11} {kept['some']:9}{'':23}"
        f" | {ends['whole']:5} {ends['lost']:5} {ends['torn']:5} {ends['unreadable']:11} {ends['not mounted']:12}"
        f" | {speed:8.0f}"
    )
    return Looked(ends, wrong, row)


def recorded(recorder: Recorder, workload: Workload, disk: OsDisk | None) -> list[Entry]:
    """The log of that work; the disk is as it was before."""
    recorder.mount()
    home = recorder.at / "home"
    anyio.run(workload.prepare, home)
    recorder.mark("begin")
    anyio.run(workload.work, home, disk, recorder.mark)
    recorder.unmount()
    entries = recorder.take_log()
    recorder.put_back([entry.write for entry in entries if entry.kind == "W"])
    return entries


def judged(recorder: Recorder, workload: Workload, told: Told) -> tuple[str, str]:
    """How a state is, and what is wrong with it."""
    try:
        recorder.mount()
    except OSError:
        return "not mounted", ""  # the file system's own business, and counted
    try:
        anyio.run(workload.check, recorder.at / "home", told)
    except Lost as error:
        return "lost", str(error)
    except Torn as error:
        return "torn", str(error)
    except Exception as error:  # noqa: BLE001  whatever it is, it is not what must be
        return "unreadable", repr(error)
    return "whole", ""


@pytest.fixture(scope="module")
def total() -> Iterator[Counter[str]]:
    """How many states there were, by how they ended; shown with -s."""
    ends: Counter[str] = Counter()
    yield ends
    print(f"\n{ends.total()} states: {dict(ends)}")  # noqa: T201


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    """How many states each work has on each file system."""
    return -(-request.config.getoption("--states") // (len(KINDS) * len(WORKLOADS)))


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_acknowledged_is_lost(
    program: Path, kind: str, workload: Workload, tmp_path: Path, *, total: Counter[str], count: int
) -> None:
    """Cut at any block: what was acknowledged is there, whole, in order, and the library goes on behind it."""
    found = looked(program, kind, tmp_path / kind, workload, count=count)
    total.update(found.ends)
    print(found.row)  # noqa: T201
    assert found.wrong == []
    assert found.ends["whole"] > 0.8 * count


@pytest.mark.parametrize(
    ("mutant", "workload"),
    [
        ("DirectoryFsyncBeforeRename", Saves(1, 6)),
        ("NoFileFsync", Saves(1, 6)),
        ("NoDirectoryFsync", Saves(1, 6)),
        ("NoDataSync", Appends(12)),
    ],
)
def test_mutants_are_found_out(program: Path, mutant: str, workload: Workload, tmp_path: Path) -> None:
    """What leaves out a step, or takes it at the wrong time, loses or tears something on some file system."""
    caught = {}
    for kind in KINDS:
        found = looked(program, kind, tmp_path / kind, workload, count=STATES_OF_A_MUTANT, disk=DISKS[mutant]())
        caught[kind] = found.caught
        print(f"{found.row} {mutant}")  # noqa: T201
    assert any(caught.values()), caught
