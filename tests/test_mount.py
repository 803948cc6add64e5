"""File systems that may lose what they have acknowledged: which ones, and how one is told."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from swoosh_async import DurabilityWarning, FileBackend, FileSnapshotStore, Journal, OrchestratorState, Snapshot
from swoosh_async.backends.file._mount import Mount, doubt, mount_of, warn_of

from ._disks import put
from ._faults import environment

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard,nobarrier
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24683652k
44 27 0:39 / /a\040b rw,relatime shared:7 master:3 - overlay overlay rw,lowerdir=lo,upperdir=up,fsync=volatile
45 27 0:40 /sub /c rw - fuse.sshfs host:/ rw
46 27
"""


def test_a_mount_is_found_by_its_id() -> None:
    """Whole lines only, whatever optional fields there are."""
    assert mount_of(MOUNTINFO, "22") == Mount("/", "ext4", frozenset({"rw", "discard", "nobarrier"}))
    assert mount_of(MOUNTINFO, "45") == Mount("/c", "fuse.sshfs", frozenset({"rw"}))
    assert mount_of(MOUNTINFO, "44") == Mount(
        r"/a\040b", "overlay", frozenset({"rw", "lowerdir=lo", "upperdir=up", "fsync=volatile"})
    )
    assert [mount_of(MOUNTINFO, name) for name in ("2", "46", "", "254:0")] == [None] * 4


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        ("tmpfs", "rw", "in memory"),
        ("ramfs", "", "in memory"),
        ("overlay", "rw,volatile", "volatile"),
        ("overlay", "rw,fsync=volatile", "volatile"),
        ("ext4", "rw,nobarrier", "without barriers"),
        ("btrfs", "nobarrier", "without barriers"),
        ("ext3", "barrier=0", "without barriers"),
        ("ext2", "rw", "no journal"),
        ("vfat", "rw", "no journal"),
        ("nfs4", "rw,vers=4.2", "a server"),
        ("fuse.sshfs", "rw", "a server"),
        ("9p", "rw", "a server"),
    ],
)
def test_what_is_doubted(kind: str, options: str, why: str) -> None:
    """Each with its reason."""
    assert why in doubt(Mount("/x", kind, frozenset(options.split(","))))


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "apfs", "fuseblk", "unheard-of"])
def test_what_is_not_doubted(kind: str) -> None:
    """A local file system as it is usually mounted, and what nothing is known of."""
    assert doubt(Mount("/x", kind, frozenset({"rw", "barrier=1", "data=ordered"}))) == ""
    assert "no journal" in doubt(Mount("/x", kind), journal=False)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory on a tmpfs."""
    if not sys.platform.startswith("linux") or not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no tmpfs to write to at /dev/shm: mount -t tmpfs tmpfs /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


@pytest.mark.anyio
async def test_who_writes_into_memory_is_told(memory: Path) -> None:
    """By a store, by a journal; and by neither a second time."""
    store = FileSnapshotStore(memory / "snapshot.json")
    with pytest.warns(DurabilityWarning, match=r"/dev/shm \(tmpfs\) is in memory"):
        await store.save(Snapshot(state=OrchestratorState()))
    await store.save(Snapshot(state=OrchestratorState()))
    with pytest.warns(DurabilityWarning, match="in memory"):
        async with Journal(FileBackend(memory / "journal"), str) as journal:
            await journal.append("it works all the same")
    with pytest.warns(DurabilityWarning, match="in memory"):
        await FileSnapshotStore(memory / "snapshot.json").load_latest()


def test_a_filter_makes_it_a_refusal(memory: Path) -> None:
    """Nothing was written then."""
    backend = FileBackend(memory / "refused")
    with warnings.catch_warnings():
        warnings.simplefilter("error", DurabilityWarning)
        for _ in range(2):
            with pytest.raises(DurabilityWarning):
                put(backend, 1)
            with pytest.raises(DurabilityWarning):
                backend.claim()
    assert not any(path.is_file() for path in memory.rglob("*"))


def test_the_command_looks_and_does_not_warn(memory: Path) -> None:
    """Looking needs no durability, and what reads standard error is not to be surprised."""
    put(FileBackend(memory / "home"), 1)
    command = [sys.executable, "-m", "swoosh_async", "inspect", str(memory / "home")]
    silent = {name: value for name, value in environment().items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(command, env=silent, capture_output=True, text=True, timeout=60, check=False)
    assert "Warning" not in done.stderr
    assert "warning" not in done.stderr


def test_of_what_is_unknown_nothing_is_said(monkeypatch: pytest.MonkeyPatch, memory: Path) -> None:
    """On another system there is no /proc."""
    fd = os.open(memory, os.O_RDONLY)
    try:
        with pytest.warns(DurabilityWarning):
            warn_of(fd)
        monkeypatch.setattr("builtins.open", _nothing_to_open)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DurabilityWarning)
            warn_of(fd)
    finally:
        os.close(fd)


def _nothing_to_open(path: str, **_: object) -> None:
    raise FileNotFoundError(path)
