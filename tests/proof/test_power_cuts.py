"""The power is cut on ext4 and XFS: what was acknowledged is there, and what was read; nothing is torn or foreign.

A cut is the file system's own shutdown call without a flush of its log: what it has not written is never written, as
with a power cut. Each cut is under load, and each begins with what the one before has left. The mistakes at the end are
there to show that a loss would be seen.
"""

from __future__ import annotations

import faulthandler
import json
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .._faults import environment
from ._mounts import image_name, must_be_root, must_have

pytestmark = pytest.mark.powercut

SYSTEMS = ("ext4", "xfs")

_SILENT_S = 120.0
_COLUMNS = ("scenario", "cuts", "of them in recovery", "kills", "acknowledged", "read", "in mid-write at the cut")
_COLUMNS += ("acknowledged, lost", "torn", "read, then lost", "acknowledged late", "of them lost", "cuts/s")
_BROKEN = {"lost": 7, "torn": 8, "read, then lost": 9}


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> str:
    """Each file system, where it can be mounted."""
    must_be_root("powercut")
    must_have(f"mkfs.{request.param}", {"ext4": "e2fsprogs", "xfs": "xfsprogs"}[request.param])
    return request.param


@contextmanager
def process(module: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """One of the modules here in a process of its own, which does not outlive this block."""
    command = [sys.executable, "-P", "-m", f"tests.proof.{module}", *map(str, arguments)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def told_by(module: str, *arguments: object) -> Generator[list[Any]]:
    """What it tells, line by line; the test is skipped where it cannot mount."""
    with process(module, *arguments) as running:
        assert running.stdout is not None
        for line in running.stdout:
            # It is alive: what ends a test that hangs begins to count anew.
            faulthandler.dump_traceback_later(_SILENT_S, exit=True, file=sys.__stderr__)
            told = json.loads(line)
            if told[0] == "cannot":
                pytest.skip(told[1])
            yield told
    assert running.wait() == 0


def storm(
    system: str, home: Path, cuts: int, *scenarios: str, writers: str = "", readers: str = ""
) -> tuple[dict[str, dict[str, Any]], list[str] | None]:
    """Cut the power so often; what was done in each scenario, and which promise was not kept."""
    begun = time.monotonic()
    with closing(told_by("_power_cuts", system, home, cuts, writers, readers, *scenarios)) as lines:
        for what, *facts in lines:
            if what == "ended":
                return facts[0], facts[1]
            say(f"{system}: {facts[0]} cuts of {cuts}, {facts[0] / (time.monotonic() - begun):.0f} a second")
    raise AssertionError("it ended without a word")


def say(text: str) -> None:
    """Write a line for whoever waits; seen with ``-s``."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(system: str, tallies: dict[str, dict[str, Any]], broken: list[str] | None) -> str:
    """What a storm has come to, as a table of Markdown."""
    rows = [list(_COLUMNS)]
    for name, tally in tallies.items():
        told = ("cuts", "recovering", "kills", "acknowledged", "read", "unfinished")
        row = [name, *(str(tally[what]) for what in told), "0", "0", "0", str(tally["late"]), str(tally["late_lost"])]
        rows.append([*row, f"{tally['cuts'] / max(tally['seconds'], 0.001):.0f}"])
    if broken is not None and broken[0] in _BROKEN:
        rows[1 + list(tallies).index(broken[2])][_BROKEN[broken[0]]] = "1"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"\n{system}", *lines])


@pytest.mark.slow
def test_nothing_acknowledged_or_read_is_lost(system: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Under load, in recovery, at rest, on loops of all kinds: it is all there, whole, in order, and nothing else."""
    cuts = max(8, request.config.getoption("--cuts") // len(SYSTEMS))
    tallies, broken = storm(system, tmp_path, cuts)
    say(table(system, tallies, broken))
    assert broken is None, broken
    assert sum(tally["cuts"] for tally in tallies.values()) == cuts
    assert sum(tally["acknowledged"] for tally in tallies.values()) > 3 * cuts
    assert sum(tally["read"] for tally in tallies.values()) > 3 * cuts
    assert sum(tally["unfinished"] for tally in tallies.values()) > cuts / 4
    assert sum(tally["late_lost"] for tally in tallies.values()) == 0  # what fsync says then may be a lie; we probe


@pytest.mark.slow
def test_what_runs_on_is_told_the_truth(system: str, tmp_path: Path) -> None:
    """Cut before and behind each system call, a verb says that it did not happen, may have, or did; and that is so.

    Late acknowledgements, which a storm cannot hold against anybody, are none here: the cut is the writer's own doing.
    """
    outcomes: dict[str, dict[str, int]] = {}
    with closing(told_by("_power_steps", system, tmp_path, "")) as lines:
        for _, name, counted, broken in lines:
            assert broken is None, broken
            outcomes[name] = counted
    rows = [f"{name:<12} {sum(counted.values()):>3} cuts: {counted}" for name, counted in outcomes.items()]
    say("\n".join([f"\n{system}", *rows]))
    assert set().union(*outcomes.values()) == {"done", "BackendError", "OutcomeUnknownError"}
    assert all(counted["done"] >= 2 for counted in outcomes.values())  # at rest, and each was tried in two ways


def test_nothing_is_left_of_a_storm_that_is_killed(system: str, tmp_path: Path) -> None:
    """Killed in its midst, it leaves no mount and no loop device behind."""
    with process("_power_cuts", system, tmp_path, 10_000, "", "", "journal") as running:
        name = image_name(running.pid)
        assert _within(30.0, lambda: name in _backing_files() or running.poll() is not None)
        if running.poll() is not None:
            assert running.stdout is not None
            what, why = json.loads(running.stdout.readline())
            assert what == "cannot"
            pytest.skip(why)
        running.kill()
        running.wait()
        assert _within(30.0, lambda: name not in _backing_files())
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")


def _within(seconds: float, so: Any) -> bool:
    until = time.monotonic() + seconds
    while not so():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _backing_files() -> str:
    found = []
    for file in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append(file.read_text(encoding="utf-8"))
        except OSError:  # it has just been let go of
            continue
    return "".join(found)


# ---------------------------------------------------------------------- mistakes

SAVES = ("snapshots, keep=1", "snapshots, keep=3")
FSYNC_FIRST = "DirectoryFsyncBeforeRename"


class Mistake(NamedTuple):
    """On which disks it is made, by whom, and what comes of it."""

    writers: str
    readers: str
    scenarios: tuple[str, ...]
    kinds: tuple[str, ...]


@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(Mistake(FSYNC_FIRST, FSYNC_FIRST, SAVES, ("lost",)), id="directory-fsynced-before-rename"),
        pytest.param(Mistake("NoDirectoryFsync", "NoDirectoryFsync", SAVES, ("lost",)), id="directory-not-fsynced"),
        pytest.param(Mistake("NoDataSync", "NoDataSync", ("journal",), ("lost", "torn")), id="journal-not-fsynced"),
        pytest.param(Mistake("NoDataSync", "NoDataSync", ("machine",), ("lost", "torn")), id="machine-not-fsynced"),
        pytest.param(
            Mistake("Slower", "NothingDurable", SAVES[:1], ("read, then lost",)), id="snapshot-read-from-the-cache"
        ),
        pytest.param(
            Mistake("Slower", "NothingDurable", ("machine",), ("read, then lost",)), id="events-read-from-the-cache"
        ),
    ],
)
def test_a_storm_finds_a_mistake(system: str, tmp_path: Path, mistake: Mistake) -> None:
    """With one step left out, a storm of some cuts ends with a loss, on either file system."""
    writers, readers, scenarios, kinds = mistake
    _, broken = storm(system, tmp_path, 400, *scenarios, writers=writers, readers=readers)
    assert broken is not None
    assert broken[0] in kinds, broken


class Slip(NamedTuple):
    """On which disk it is made, in which deeds, what comes of each, and on which file systems."""

    disk: str
    deeds: dict[str, str]
    systems: tuple[str, ...] = SYSTEMS


@pytest.mark.parametrize(
    "slip",
    [
        Slip(FSYNC_FIRST, {"FirstSave": "lost"}),
        Slip("NoDirectoryFsync", {"FirstSave": "lost"}),
        # ext4 puts the data of a file that replaces another to disk with the rename (auto_da_alloc); not of a new one.
        Slip("NoFileFsync", {"FirstSave": "torn"}),
        Slip("NoDataSync", {"Append": "torn"}),
        Slip("NothingDurable", {"Load": "lost", "Read": "lost"}),
        # On ext4 the fsync of a directory fails once the file system has been shut down; on XFS it returns 0.
        Slip("NoProbe", {"NextSave": "lost", "Truncate": "lost"}, ("xfs",)),
        # An append is the first to write space that was set aside, which changes metadata, and that stands in the log
        # behind the rename of the segment: so its fdatasync brings the rename along. No file system has to do that.
        Slip("NoDirectoryFsync", {"Append": "lost"}, ()),
    ],
    ids=lambda slip: f"{slip.disk}-{'-'.join(slip.deeds)}",
)
def test_a_cut_at_each_step_finds_a_mistake(system: str, tmp_path: Path, slip: Slip) -> None:
    """With one step left out, some cut tells, the same each time; or it cannot, on this file system."""
    with closing(told_by("_power_steps", system, tmp_path, slip.disk, *slip.deeds)) as lines:
        found = {name: broken and broken[0] for _, name, _, broken in lines}
    assert found == (slip.deeds if system in slip.systems else dict.fromkeys(slip.deeds))
