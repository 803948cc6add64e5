"""The durable verbs: what they do to a disk, in which order, and what they say when it refuses."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from swoosh_async.backends.file import OsDisk
from swoosh_async.backends.file import _disk as disk_module
from swoosh_async.backends.file._disk import FULL, Step, make_directory, open_directory, write_all
from swoosh_async.errors import BackendError, InvalidStateError, OutcomeUnknownError

from ._disks import FailingDisk, RecordingDisk, descriptors

# ---------------------------------------------------------------------- steps


def test_a_step_names_itself() -> None:
    """A system error inside of a step becomes one with step, path and number, is chained, and ends with what to do."""
    refused = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(BackendError, match="nothing has changed") as caught, Step("write snapshot", "/x/y"):
        raise refused
    error = caught.value
    assert (error.step, error.path, error.errno) == ("write snapshot", "/x/y", errno.ENOSPC)
    assert str(error).startswith("write snapshot /x/y: No space left on device")
    assert error.__cause__ is refused


@pytest.mark.parametrize(
    ("number", "unknown", "expected"),
    [
        (errno.EIO, False, BackendError),
        (errno.EIO, True, OutcomeUnknownError),
        (errno.EACCES, True, OutcomeUnknownError),
        (errno.ENOSPC, True, BackendError),
        (errno.EDQUOT, True, BackendError),
    ],
)
def test_whether_it_may_have_happened(number: int, unknown: bool, expected: type[Exception]) -> None:
    """A step that may have taken effect says so, unless the number says that it has not."""
    with pytest.raises(expected), Step("rename snapshot", "/x", unknown=unknown, but=FULL):
        raise OSError(number, "")


def test_a_full_disk_behind_the_rename_is_no_excuse() -> None:
    """Where no number is excepted, ENOSPC leaves the outcome as unknown as any other."""
    with pytest.raises(OutcomeUnknownError), Step("fsync snapshot directory", "/x", unknown=True):
        raise OSError(errno.ENOSPC, "")


@pytest.mark.parametrize("error", [InvalidStateError("state", "bad"), ValueError(), BackendError("read", "/y")])
def test_a_step_lets_others_through(error: Exception) -> None:
    """What is no system error, or was named already, passes a step as it is."""
    with pytest.raises(type(error)) as caught, Step("write snapshot", "/x"):
        raise error
    assert caught.value is error


# ---------------------------------------------------------------------- the operating system's calls


def test_the_verbs(tmp_path: Path) -> None:
    """Each verb is the system call of that name, relative to the directory's descriptor."""
    disk = OsDisk()
    disk.mkdir(str(tmp_path / "d"), 0o755)
    at = open_directory(str(tmp_path / "d"))
    fd = disk.open("a", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, at)
    assert disk.pwrite(fd, b"hello", 2) == 5
    disk.fchmod(fd, 0o640)
    disk.fsync(fd)
    disk.link("a", "b", at)
    disk.rename("a", "c", at)
    disk.ftruncate(fd, 4)
    disk.close(fd)
    found = tmp_path / "d" / "c"
    assert found.read_bytes() == b"\0\0he"
    assert found.stat().st_mode & 0o777 == 0o640
    assert found.stat().st_ino == (tmp_path / "d" / "b").stat().st_ino
    disk.unlink("b", at)
    assert os.listdir(at) == ["c"]
    disk.close(at)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A symlink that stands where a file should is linked itself, and what it leads to is not."""
    (tmp_path / "secret").write_bytes(b"")
    (tmp_path / "s").symlink_to("secret")
    at = open_directory(str(tmp_path))
    OsDisk().link("s", "t", at)
    os.close(at)
    assert (tmp_path / "t").is_symlink()


def test_only_a_directory_is_opened_as_one(tmp_path: Path) -> None:
    """What is no directory is refused by the system itself, and no child program inherits the descriptor."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        open_directory(str(tmp_path / "file"))
    at = open_directory(str(tmp_path))
    assert not os.get_inheritable(at)
    os.close(at)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A system with F_FULLFSYNC; the list gets the numbers of fcntl's calls, and says at [0] how they end."""
    said = [0]

    def fcntl_(_: int, command: int) -> int:
        said.append(command)
        if said[0]:
            raise OSError(said[0], os.strerror(said[0]))
        return 0

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", fcntl_)
    return said


@pytest.fixture
def fsyncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors that were fsynced."""
    seen: list[int] = []
    monkeypatch.setattr(disk_module.os, "fsync", seen.append)
    return seen


def test_full_fsync_is_used(full: list[int], fsyncs: list[int]) -> None:
    """Where the system has F_FULLFSYNC, that is what an fsync is."""
    OsDisk().fsync(7)
    assert full[1:] == [51]
    assert fsyncs == []


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_full_fsync_falls_back(number: int, full: list[int], fsyncs: list[int]) -> None:
    """Where the file system does not know F_FULLFSYNC, fsync is called."""
    full[0] = number
    OsDisk().fsync(7)
    assert fsyncs == [7]


def test_full_fsync_fails(full: list[int], fsyncs: list[int]) -> None:
    """An I/O error of F_FULLFSYNC is raised, and fsync is not asked to say that all is well."""
    full[0] = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        OsDisk().fsync(7)
    assert fsyncs == []


@pytest.mark.parametrize(
    ("number", "flags", "passes"),
    [
        (errno.EINVAL, os.ST_RDONLY, True),
        (errno.EINVAL, 0, False),
        (errno.EIO, os.ST_RDONLY, False),
        (errno.EROFS, os.ST_RDONLY, False),
    ],
)
def test_file_systems_without_fsync(
    number: int, flags: int, passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a read-only file system that has no fsync at all is let off: what stands there cannot be taken back."""

    class Facts:
        f_flag = flags

    def fsync(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk_module.os, "fsync", fsync)
    monkeypatch.setattr(disk_module.os, "fstatvfs", lambda _: Facts)
    at = open_directory(str(tmp_path))
    try:
        if passes:
            OsDisk().fsync(at)
        else:
            with pytest.raises(OSError, match=os.strerror(number)):
                OsDisk().fsync(at)
    finally:
        os.close(at)


# ---------------------------------------------------------------------- directories


def test_directories_are_made_one_after_the_other(tmp_path: Path) -> None:
    """The parent of the deepest that is there is fsynced, then each is made and its parent fsynced, before the next."""
    disk = RecordingDisk(tmp_path.parent)
    top = tmp_path.name
    make_directory(disk, str(tmp_path / "a" / "b" / "c"))
    assert disk.calls == [
        "fsync .",
        f"mkdir {top}/a",
        f"fsync {top}",
        f"mkdir {top}/a/b",
        f"fsync {top}/a",
        f"mkdir {top}/a/b/c",
        f"fsync {top}/a/b",
    ]


def test_a_directory_that_is_there(tmp_path: Path) -> None:
    """Whoever made it may have been killed before its name was durable, so its parent is fsynced."""
    disk = RecordingDisk(tmp_path)
    (tmp_path / "a").mkdir()
    make_directory(disk, str(tmp_path / "a"))
    assert disk.calls == ["fsync ."]


def test_directories_get_the_usual_mode(tmp_path: Path) -> None:
    """What is made has mode 0755, less what the umask takes."""
    before = os.umask(0o027)
    try:
        make_directory(OsDisk(), str(tmp_path / "a" / "b"))
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o750, 0o750]


def test_somebody_else_makes_it_meanwhile(tmp_path: Path) -> None:
    """A directory that comes to be between the look and the call is as good as one of our own, and as durable."""

    class Late(RecordingDisk):
        def mkdir(self, path: str, mode: int) -> None:
            os.mkdir(path)
            super().mkdir(path, mode)

    disk = Late(tmp_path)
    make_directory(disk, str(tmp_path / "a"))
    assert disk.calls[1:] == ["mkdir a", "fsync ."]


def test_something_else_stands_there(tmp_path: Path) -> None:
    """A file where a directory should be made is an error; it is left alone."""
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        make_directory(OsDisk(), str(tmp_path / "a"))
    with pytest.raises(FileExistsError):
        make_directory(OsDisk(), str(tmp_path / "a" / "b"))
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_failed_fsync_of_a_parent_is_told(tmp_path: Path) -> None:
    """Each fsync on the way can fail, no deeper directory is made then, and no descriptor is left open."""
    before = descriptors()
    for at, made in ((0, []), (2, ["a"]), (4, ["a", "a/b"])):
        disk = FailingDisk(tmp_path, at)
        with pytest.raises(OSError, match="Input/output error"):
            make_directory(disk, str(tmp_path / "a" / "b"))
        assert disk.failed.startswith("fsync")
        assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == made
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.rmdir()
    assert descriptors() == before


# ---------------------------------------------------------------------- writing


class ShortDisk(RecordingDisk):
    """A disk that writes no more than some bytes at a time."""

    def __init__(self, root: Path, most: int) -> None:
        super().__init__(root)
        self.most = most

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Write the first of them."""
        return super().pwrite(fd, data[: self.most], offset)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """An empty file, open."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_short_writes_go_on(most: int, fd: int, tmp_path: Path) -> None:
    """However little the system takes at a time, every byte is written, at its own place."""
    disk = ShortDisk(tmp_path, most)
    assert write_all(disk, fd, [b"abc", b"", b"defg"], 3) == 10
    assert os.pread(fd, 100, 0) == b"\0\0\0abcdefg"
    assert len(disk.calls) == -(-7 // most)


def test_a_disk_that_writes_nothing(fd: int, tmp_path: Path) -> None:
    """A system that takes no byte at all, and says nothing, does not keep the writer busy for ever."""
    with pytest.raises(OSError, match="wrote nothing") as caught:
        write_all(ShortDisk(tmp_path, 0), fd, [b"abc"], 0)
    assert caught.value.errno == errno.EIO


def test_small_pieces_are_gathered(fd: int, tmp_path: Path) -> None:
    """Small pieces go in one call, and large ones as they come, so that no more than a little is held in memory."""
    disk = RecordingDisk(tmp_path)
    assert write_all(disk, fd, [b"x"] * 1000, 0) == 1000
    assert len(disk.take()) == 1
    large = bytes(1 << 18)
    assert write_all(disk, fd, [large, large, b"x"], 0) == (1 << 19) + 1
    assert len(disk.take()) == 3


def test_nothing_to_write(fd: int, tmp_path: Path) -> None:
    """No pieces are no bytes, and no call."""
    disk = RecordingDisk(tmp_path)
    assert write_all(disk, fd, [], 5) == 5
    assert disk.calls == []


def test_what_a_piece_raises_goes_on(fd: int, tmp_path: Path) -> None:
    """An error of whoever makes the pieces is not the disk's."""

    def pieces() -> Iterator[bytes]:
        yield b"abc"
        raise InvalidStateError("state", "bad")

    with pytest.raises(InvalidStateError):
        write_all(RecordingDisk(tmp_path), fd, pieces(), 0)
