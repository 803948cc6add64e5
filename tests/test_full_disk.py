"""A real disk that is full, or read-only: an error, the older snapshot intact, and all well once there is room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from swoosh_async import BackendError, FileSnapshotStore, Snapshot, SnapshotNotFoundError

from ._disks import descriptors, take_room, temps, tree

pytestmark = pytest.mark.anyio

State = Mapping[str, str]


def run(*command: str) -> None:
    """Run a program, and raise what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(done.returncode, (done.stderr or done.stdout).strip())


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small ext4 of its own, in a file; the test is skipped where that cannot be, with what to do about it."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root: sudo .venv/bin/nox -s tests -- tests/test_full_disk.py")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed: apt-get install e2fsprogs")
    home = tmp_path_factory.mktemp("disk")
    image, at = home / "image", home / "mounted"
    at.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.ext4", "-q", "-m", "0", "-b", "1024", str(image))
    try:
        run("mount", "-o", "loop", str(image), str(at))
    except OSError as error:
        pytest.skip(f"a loop device cannot be mounted here ({error.strerror}): docker run --privileged")
    try:
        yield at
    finally:
        if subprocess.run(["umount", str(at)], capture_output=True, check=False).returncode != 0:
            run("umount", "-l", str(at))


@pytest.fixture
def disk(mounted: Path) -> Iterator[Path]:
    """The disk, empty and writable; no descriptor may be left open on it."""
    yield mounted
    run("mount", "-o", "remount,rw", str(mounted))
    for path in mounted.iterdir():
        if path.name != "lost+found":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [found for found in descriptors() if str(mounted) in found] == []


def fill(disk: Path, *, leave_bytes: int = 0) -> Path:
    """Take all room on the disk, to the last block, or but for some."""
    ballast, room = disk / "ballast", disk / "room"
    if leave_bytes:
        room.write_bytes(bytes(leave_bytes))
        os.sync()
    with ballast.open("wb") as file:
        take_room(file, (1 << 20, 1 << 15, 1 << 10))
    room.unlink(missing_ok=True)
    os.sync()
    return ballast


def take_inodes(disk: Path) -> Path:
    """Take every inode on the disk."""
    many = disk / "many"
    many.mkdir()
    try:
        for number in range(100_000):
            (many / str(number)).touch()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    return many


def remount(disk: Path, how: str) -> None:
    """Make the disk read-only, or writable."""
    run("mount", "-o", f"remount,{how}", str(disk))


def snap(index: int, size: int = 10) -> Snapshot[State]:
    """A snapshot of about that many bytes, which no file system can make smaller."""
    return Snapshot(state={"a": os.urandom(size // 2).hex()}, last_applied_index=index)


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("size", [10, 100_000, 3_000_000])
async def test_a_full_disk(disk: Path, size: int, keep: int) -> None:
    """On a full disk a save fails and changes nothing, and loading works; with room the same store saves again."""
    path = disk / "d" / "snap"
    store = FileSnapshotStore(path, State, keep=keep)
    first = snap(1)
    await store.save(first)
    before = tree(path.parent)
    ballast = fill(disk)
    for _ in range(3):
        with pytest.raises(BackendError, match="No space left on device") as caught:
            await store.save(snap(2, size))
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.step in ("create temp snapshot", "write snapshot", "fsync snapshot")
        assert tree(path.parent) == before
    assert await store.load_latest() == first
    assert await FileSnapshotStore(path, State, keep=keep).load_latest() == first
    assert [ref.index for ref in await FileSnapshotStore(path, State).history()] == [1]
    os.unlink(ballast)
    second = snap(2, size)
    await store.save(second)
    assert await FileSnapshotStore(path, State, keep=keep).load_latest() == second
    assert temps(path.parent) == []


async def test_a_disk_with_a_little_room(disk: Path) -> None:
    """A snapshot that does not fit fails in its middle and gives its room back, so that a smaller one still fits."""
    path = disk / "d" / "snap"
    store = FileSnapshotStore(path, State)
    await store.save(snap(1))
    fill(disk, leave_bytes=200_000)
    for index in range(2, 5):
        with pytest.raises(BackendError) as caught:
            await store.save(snap(index, 1_000_000))
        assert caught.value.errno == errno.ENOSPC
        smaller = snap(index, 50_000)
        await store.save(smaller)
        assert await store.load_latest() == smaller
    assert temps(path.parent) == []


async def test_a_disk_that_fills_up(disk: Path) -> None:
    """Saves that grow until the disk is full leave the last one that fitted."""
    path = disk / "d" / "snap"
    store = FileSnapshotStore(path, State)
    fitted: list[int] = []

    async def grow() -> None:
        for index in range(1, 100):
            await store.save(snap(index, index * 200_000))
            fitted.append(index)

    with pytest.raises(BackendError) as caught:
        await grow()
    assert caught.value.errno == errno.ENOSPC
    assert len(fitted) > 3
    assert (await FileSnapshotStore(path, State).load_latest()).last_applied_index == fitted[-1]
    assert temps(path.parent) == []


async def test_a_disk_without_inodes(disk: Path) -> None:
    """Where there is room but no file can be made, a save says so, and works again when there can."""
    path = disk / "d" / "snap"
    store = FileSnapshotStore(path, State)
    first = snap(1)
    await store.save(first)
    many = take_inodes(disk)
    with pytest.raises(BackendError) as caught:
        await store.save(snap(2))
    assert (caught.value.step, caught.value.errno) == ("create temp snapshot", errno.ENOSPC)
    with pytest.raises(BackendError) as caught:
        await FileSnapshotStore(disk / "new" / "snap", State).save(snap(1))
    assert (caught.value.step, caught.value.errno) == ("create snapshot directory", errno.ENOSPC)
    assert await store.load_latest() == first
    shutil.rmtree(many)
    await store.save(snap(2))
    await FileSnapshotStore(disk / "new" / "snap", State).save(snap(1))


async def test_a_first_save_on_a_full_disk(disk: Path) -> None:
    """A store that cannot even make its directory changes nothing, and makes it when there is room."""
    ballast = fill(disk)
    path = disk / "a" / "b" / "snap"
    store = FileSnapshotStore(path, State)
    with pytest.raises(BackendError) as caught:
        await store.save(snap(1))
    assert (caught.value.step, caught.value.errno) == ("create snapshot directory", errno.ENOSPC)
    with pytest.raises(SnapshotNotFoundError):
        await store.load_latest()
    os.unlink(ballast)
    await store.save(snap(1))
    assert (await FileSnapshotStore(path, State).load_latest()).last_applied_index == 1


@pytest.mark.parametrize("keep", [1, 3])
async def test_a_read_only_disk(disk: Path, keep: int) -> None:
    """On a read-only disk everything can be loaded, a save says why it cannot be, and works again afterwards."""
    path = disk / "d" / "snap"
    store = FileSnapshotStore(path, State, keep=keep)
    saved = [snap(1), snap(2)]
    for snapshot in saved:
        await store.save(snapshot)
    before = tree(path.parent)
    remount(disk, "ro")
    for reader in (store, FileSnapshotStore(path, State, keep=keep)):
        assert await reader.load_latest() == saved[1]
        assert [await reader.load(ref) for ref in await reader.history()] == list(reversed(saved[-keep:]))
        with pytest.raises(BackendError, match="Read-only file system") as caught:
            await reader.save(snap(3))
        assert caught.value.errno == errno.EROFS
    with pytest.raises(BackendError) as caught:
        await FileSnapshotStore(disk / "new" / "snap", State).save(snap(1))
    assert (caught.value.step, caught.value.errno) == ("create snapshot directory", errno.EROFS)
    assert tree(path.parent) == before
    remount(disk, "rw")
    await store.save(snap(3))
    assert (await store.load_latest()).last_applied_index == 3
