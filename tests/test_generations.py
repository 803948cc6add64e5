"""Snapshots in files: in which order a save does things, and what stands there after each failure, kill or damage."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from swoosh_async.backends.base import SnapshotBackend, Source
from swoosh_async.backends.file import FileBackend, Generations
from swoosh_async.errors import (
    BackendError,
    CorruptSnapshotError,
    FormatVersionError,
    InvalidStateError,
    LimitExceededError,
    LockedError,
    OutcomeUnknownError,
    SnapshotNotFoundError,
    StaleSnapshotError,
)

from ._disks import DyingDisk, FailingDisk, PlainBlob, RecordingDisk, descriptors, in_child, latest, put, temps, tree

NOBODY = 65534
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A snapshot's path, in a directory that is there and empty."""
    (tmp_path / "d").mkdir()
    return tmp_path / "d" / "snap"


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can reach, as pytest's own are not."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def positions(backend: SnapshotBackend) -> list[int]:
    """The positions of what is kept, newest first."""
    return [latest(backend, name) for name in backend.names()]


# ---------------------------------------------------------------------- the order of a save


def test_the_first_save_makes_its_directories(tmp_path: Path) -> None:
    """Every directory is durable before anything is put into it, the data before the rename, and the rename at last."""
    disk = RecordingDisk(tmp_path)
    put(Generations(tmp_path / "a" / "b" / "snap", disk=disk), 1)
    assert disk.calls == [
        "fsync ..",
        "mkdir a",
        "fsync .",
        "mkdir a/b",
        "fsync a",
        "open a/b/.snap.lock",
        "create a/b/.snap.lock",
        "create a/b/TEMP",
        "pwrite a/b/TEMP",
        "pwrite a/b/TEMP",
        "fsync a/b/TEMP",
        "rename a/b/TEMP a/b/snap",
        "close a/b/snap",
        "fsync a/b",
        "ftruncate a/b/.snap.lock 0",
    ]


SAVE = [
    "open d/.snap.lock",
    "create d/TEMP",
    "pwrite d/TEMP",
    "pwrite d/TEMP",
    "fsync d/TEMP",
    "rename d/TEMP d/snap",
    "close d/snap",
    "fsync d",
    "ftruncate d/.snap.lock 0",
]


def test_a_directory_that_was_there(path: Path) -> None:
    """The first use of a directory makes its own name durable, as whoever made it may have been killed; others not."""
    disk = RecordingDisk(path.parent.parent)
    backend = Generations(path, disk=disk)
    put(backend, 1)
    assert disk.take() == ["fsync .", SAVE[0], "create d/.snap.lock", *SAVE[1:]]
    put(backend, 2)
    assert disk.take() == SAVE


def test_a_directory_that_was_replaced(path: Path) -> None:
    """A directory that is another than last time is made durable again."""
    disk = RecordingDisk(path.parent.parent)
    backend = Generations(path, disk=disk)
    put(backend, 1)
    path.parent.rename(path.parent.with_name("old"))
    path.parent.mkdir()
    disk.take()
    put(backend, 1)
    assert disk.take()[0] == "fsync ."


def test_older_generations_go_last(path: Path) -> None:
    """With more than one kept, the new name is given before the rename, and old ones go only after all is durable."""
    disk = RecordingDisk(path.parent.parent)
    backend = Generations(path, disk=disk)
    for position in (1, 2, 3):
        put(backend, position, keep=3)
    disk.take()
    stored = put(backend, 4, keep=3)
    assert stored.name == "snap.0000000004-00000000000000000004"
    assert disk.calls == [
        *SAVE[:5],
        "link d/TEMP d/snap.0000000004-00000000000000000004",
        *SAVE[5:],
        "unlink d/snap.0000000001-00000000000000000001",
    ]
    assert positions(backend) == [4, 3, 2]


def test_a_latest_without_a_generation_gets_one(path: Path) -> None:
    """What was saved with keep=1 is named before it is replaced, so that it is kept."""
    disk = RecordingDisk(path.parent.parent)
    backend = Generations(path, disk=disk)
    put(backend, 1)
    disk.take()
    put(backend, 2, keep=2)
    assert disk.calls[5:9] == [
        "link d/snap d/snap.0000000001-00000000000000000001",
        "fsync d",
        "link d/TEMP d/snap.0000000002-00000000000000000002",
        "rename d/TEMP d/snap",
    ]
    assert positions(backend) == [2, 1]


def test_the_latest_is_one_of_its_generations(path: Path) -> None:
    """The newest generation is the same file as the latest, and no second copy of it."""
    stored = put(Generations(path), 1, keep=3)
    assert path.stat().st_ino == (path.parent / stored.name).stat().st_ino
    assert path.stat().st_nlink == 2
    assert stored.size_bytes == path.stat().st_size


def test_every_short_write_goes_on(path: Path) -> None:
    """A disk that takes one byte at a time stores the same bytes as any other."""

    class OneByte(RecordingDisk):
        def pwrite(self, fd: int, data: bytes, offset: int) -> int:
            return super().pwrite(fd, data[:1], offset)

    backend = Generations(path, disk=OneByte(path.parent))
    put(backend, 7)
    assert latest(backend) == 7
    assert b"body of 7" in path.read_bytes()


# ---------------------------------------------------------------------- every call fails once


def step_of(call: str, *, fresh: bool) -> str:
    """The step that a call of a disk belongs to, in the seed's words where it has them."""
    verb, first = call.split()[:2]
    if first.endswith("/.snap.lock"):
        return "probe snapshot directory" if verb == "ftruncate" else "lock snapshot"
    if verb == "mkdir" or (verb == "fsync" and not first.endswith(("/d", "TEMP"))):
        return "create snapshot directory" if fresh else "fsync parent of snapshot directory"
    return {
        "create": "create temp snapshot",
        "fchmod": "create temp snapshot",
        "pwrite": "write snapshot",
        "fsync": "fsync snapshot directory" if first.endswith("/d") else "fsync snapshot",
        "link": "link snapshot generation",
        "rename": "rename snapshot",
        "close": "close snapshot temp file",
    }[verb]


FAILURES = [(errno.EIO, False), (errno.ENOSPC, False), (errno.EDQUOT, False), (errno.EACCES, False), (errno.EIO, True)]


@pytest.mark.parametrize(("number", "late"), FAILURES, ids=["EIO", "ENOSPC", "EDQUOT", "EACCES", "EIO-though-done"])
@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "used"])
def test_every_call_fails_once(fresh: bool, keep: int, number: int, late: bool, tmp_path: Path) -> None:
    """Whichever call fails: the step is named, nothing has changed or the outcome is unknown, and nothing is left."""
    open_before = descriptors()
    failed: list[str] = []
    for at in itertools.count():
        home = tmp_path / str(at) / "d"
        if not fresh:
            home.mkdir(parents=True)
            for position in range(1, keep + 1):
                put(Generations(home / "snap", mode=0o640), position, keep=keep)
        before = tree(home) if not fresh else {}
        disk = FailingDisk(tmp_path, at, number, late=late)
        try:
            put(Generations(home / "snap", mode=0o640, disk=disk), 9, keep=keep)
        except BackendError as error:
            assert "rename" not in disk.failed or number in (errno.ENOSPC, errno.EDQUOT)
            after = dict(tree(home)) if home.exists() else {}
            if late and disk.failed.startswith("link"):
                del after[disk.failed.split("/")[-1]]  # it is there, and no part of the history
            assert after == before
            told: BackendError | OutcomeUnknownError = error
        except OutcomeUnknownError as error:
            assert disk.calls.index(next(call for call in disk.calls if call.startswith("rename"))) <= at
            assert temps(home) == []
            told = error
        else:
            if not disk.failed:
                break
            assert disk.failed.startswith("unlink")
            continue
        failed.append(disk.failed)
        assert (told.step, told.errno) == (step_of(disk.failed, fresh=fresh), number)
        assert told.path.startswith(str(home))
        assert descriptors() == open_before
        check_it_works_again(home / "snap", keep, fresh=fresh, unknown=isinstance(told, OutcomeUnknownError))
    assert {call.split()[0] for call in failed} >= {"fsync", "create", "fchmod", "pwrite", "rename", "close"}
    assert len(failed) == len([call for call in disk.calls if not call.startswith("unlink")])


def check_it_works_again(path: Path, keep: int, *, fresh: bool, unknown: bool) -> None:
    """A new store finds the old snapshot or, where that is unknown, perhaps the new one; and the next save is one."""
    backend = Generations(path)
    if fresh:
        try:
            assert latest(backend) == 9
            assert unknown
        except SnapshotNotFoundError:
            pass
    else:
        assert latest(backend) in ({keep, 9} if unknown else {keep})
    put(backend, 10, keep=keep)
    assert latest(backend) == 10
    assert temps(path.parent) == []
    generations = [name for name in tree(path.parent) if name != "snap"]
    assert len(generations) <= (keep if keep > 1 else 0)


def test_a_refused_save_can_be_tried_again(path: Path) -> None:
    """The same store, after a step that failed before the rename, saves with a new temp file."""
    for at in itertools.count():
        disk = FailingDisk(path.parent, at)
        backend = Generations(path, disk=disk)
        try:
            put(backend, at + 1, keep=2)
        except BackendError:
            put(backend, at + 1, keep=2)
            assert latest(backend) == at + 1
        except OutcomeUnknownError:
            break
    assert at > 5


def test_what_the_blob_refuses(path: Path) -> None:
    """An error of the blob itself, after some of it was written, goes on as it is, and changes nothing."""
    backend = Generations(path)
    put(backend, 1, keep=2)
    before = tree(path.parent)
    refused = InvalidStateError("state", "bad")
    with pytest.raises(InvalidStateError):
        backend.put(PlainBlob(2, bytes(1 << 19), refused), keep=2, allow_rollback=False)
    assert tree(path.parent) == before


def test_an_acknowledged_save_outlives_its_pruning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When an old generation cannot be removed the save has succeeded, the log says so, and the next one removes it."""
    disk = FailingDisk(path.parent.parent)
    backend = Generations(path, disk=disk)
    for position in (1, 2):
        put(backend, position, keep=2)
    disk.calls, disk.at, disk.number = [], len(SAVE) + 1, errno.EACCES
    with caplog.at_level(logging.WARNING, "swoosh_async"):
        put(backend, 3, keep=2)
    assert disk.failed.startswith("unlink")
    assert "older generations stay" in caplog.text
    assert positions(backend) == [3, 2, 1]
    put(backend, 4, keep=2)
    assert positions(backend) == [4, 3]


# ---------------------------------------------------------------------- killed before every call


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "used"])
def test_killed_before_every_call(fresh: bool, keep: int, tmp_path: Path) -> None:
    """Wherever a writer is killed: old or new stands there, older ones too, and the next save leaves nothing behind."""
    for at in itertools.count():
        path = tmp_path / str(at) / "d" / "snap"
        kept = [] if fresh else list(range(keep, 0, -1))
        for position in reversed(kept):
            put(Generations(path), position, keep=keep)

        def save(path: Path = path, at: int = at) -> None:
            put(Generations(path, disk=DyingDisk(tmp_path, at)), 9, keep=keep)

        if in_child(save) == 0:
            break
        backend = Generations(path)
        found = positions(backend) if path.exists() else []
        assert found in (kept, [9, *kept], [9, *kept][:keep])
        assert len(temps(path.parent) if path.parent.exists() else []) <= 1
        put(backend, 10, keep=keep)
        if path.exists() and kept:
            assert positions(backend) == [10, *found][:keep]
        assert temps(path.parent) == []
    assert at >= 10


def test_a_generation_that_was_never_the_latest(path: Path) -> None:
    """A writer killed between the link and the rename leaves a generation that is not kept, and goes with the next."""
    for position in (1, 2):
        put(Generations(path), position, keep=3)

    def save() -> None:
        disk = DyingDisk(path.parent, 1 + SAVE.index("rename d/TEMP d/snap") + 1)
        put(Generations(path, disk=disk), 3, keep=3)

    assert in_child(save) == -signal.SIGKILL
    orphan = path.parent / "snap.0000000003-00000000000000000003"
    assert orphan.exists()
    backend = Generations(path)
    assert latest(backend) == 2
    assert positions(backend) == [2, 1]
    put(backend, 3, keep=3)
    assert positions(backend) == [3, 2, 1]
    assert not orphan.exists()


def test_prune_takes_what_was_never_the_latest(path: Path) -> None:
    """Pruning removes such a generation as well, though it is newer than the latest."""
    backend = Generations(path)
    put(backend, 1, keep=3)
    orphan = path.parent / "snap.0000000002-00000000000000000009"
    shutil.copy(path, orphan)
    assert backend.prune(3) == [orphan.name]
    assert positions(backend) == [1]


# ---------------------------------------------------------------------- never backwards


def test_never_backwards(path: Path) -> None:
    """A lower position is refused and changes nothing, an equal one is not, and a roll-back has to be asked for."""
    backend = Generations(path)
    put(backend, 5, keep=2)
    before = tree(path.parent)
    with pytest.raises(StaleSnapshotError, match="allow_rollback") as caught:
        put(backend, 4, keep=2)
    assert (caught.value.index, caught.value.stored) == (4, 5)
    assert tree(path.parent) == before
    put(backend, 5, keep=2)
    put(backend, 3, keep=2, allow_rollback=True)
    assert positions(backend) == [3, 5]


def test_what_another_store_has_saved(path: Path) -> None:
    """The comparison is with what is on the disk now, whoever has put it there."""
    first, second = Generations(path), Generations(path)
    put(first, 1)
    put(second, 2)
    with pytest.raises(StaleSnapshotError):
        put(first, 1)
    put(first, 3)
    assert latest(second) == 3


def test_a_newer_format_is_never_overwritten(path: Path) -> None:
    """What a newer version has written is refused, even where a roll-back is allowed, and stays as it is."""
    path.write_bytes(b"newer" + bytes(100))
    before = tree(path.parent)
    for allow_rollback in (False, True):
        with pytest.raises(FormatVersionError):
            put(Generations(path), 1, keep=3, allow_rollback=allow_rollback)
    assert tree(path.parent) == before


# ---------------------------------------------------------------------- damage that a save meets


@pytest.mark.parametrize("keep", [1, 3])
def test_a_damaged_head_is_set_aside(keep: int, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged snapshot does not keep a save out, and is kept under another name, as it was."""
    put(Generations(path), 5, keep=keep)
    damaged = b"x" + path.read_bytes()[1:]
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, "swoosh_async"):
        put(Generations(path), 1, keep=keep)
    assert latest(Generations(path)) == 1
    aside = [name for name in tree(path.parent) if name.startswith("snap.corrupt-")]
    assert [(path.parent / name).read_bytes() for name in aside] == [damaged]
    assert "will be set aside" in caplog.text


@pytest.mark.parametrize("keep", [1, 3])
def test_a_damaged_body_is_set_aside(keep: int, path: Path) -> None:
    """Damage behind an intact head is not overwritten either: what another store has left is checked, all of it."""
    put(Generations(path), 5, keep=keep)
    damaged = path.read_bytes()[:-1] + b"x"
    path.write_bytes(damaged)
    put(Generations(path), 6, keep=keep)
    assert latest(Generations(path)) == 6
    assert [content for name, (_, content) in tree(path.parent).items() if "corrupt" in name] == [damaged]


def test_what_this_store_saved_is_not_read_again(path: Path) -> None:
    """A store reads all of what it finds before its first save and after another's, and only the head of its own."""
    seen: list[int] = []

    class Watched(PlainBlob):
        def verify(self, stored: Source) -> None:
            seen.append(self.position)
            super().verify(stored)

    first, second = Generations(path), Generations(path)
    for position, backend in enumerate((first, first, second, second, first, first), 1):
        backend.put(Watched(position), keep=1, allow_rollback=False)
    assert seen == [3, 5]
    with pytest.raises(StaleSnapshotError):
        first.put(Watched(1), keep=1, allow_rollback=False)
    assert seen == [3, 5, 1]


def test_a_damaged_position_does_not_keep_saves_out(path: Path) -> None:
    """A position that was raised by damage is not believed: the whole is checked before anybody is refused by it."""
    put(Generations(path), 5)
    damaged = b"9" + path.read_bytes()[1:]
    path.write_bytes(damaged)
    put(Generations(path), 6)
    assert latest(Generations(path)) == 6
    assert [content for name, (_, content) in tree(path.parent).items() if "corrupt" in name] == [damaged]


@pytest.mark.parametrize("keep", [1, 3])
def test_a_refused_save_sets_nothing_aside(keep: int, path: Path) -> None:
    """Each call may fail while a damaged one is being set aside, and leaves no second name of it behind."""
    path.write_bytes(b"damaged")
    before = tree(path.parent)
    for at in itertools.count():
        disk = FailingDisk(path.parent, at, errno.ENOSPC)
        try:
            put(Generations(path, disk=disk), 1, keep=keep)
        except BackendError:
            assert tree(path.parent) == before
        except OutcomeUnknownError:
            break
    assert disk.calls[at - 1].startswith("rename")


def test_an_empty_file_is_damage(path: Path) -> None:
    """A file without a byte, as other tools leave them after a crash, is set aside as well."""
    path.touch()
    put(Generations(path), 1)
    assert latest(Generations(path)) == 1


def test_something_else_stands_there(path: Path) -> None:
    """What is no regular file is refused at once, by save and by load, and stays as it is."""
    for make in (path.mkdir, lambda: os.mkfifo(path)):
        make()
        for use in (lambda: put(Generations(path), 1), lambda: Generations(path).open()):
            with pytest.raises(BackendError, match="not a regular file") as caught:
                use()
            assert (caught.value.path, caught.value.errno) == (str(path), errno.EINVAL)
        assert temps(path.parent) == []
        path.rmdir() if path.is_dir() else path.unlink()


# ---------------------------------------------------------------------- limits and names


def test_too_large_to_be_read_again(path: Path) -> None:
    """A snapshot above the limit is refused while it is written, however its pieces come, and changes nothing."""
    backend = Generations(path, max_file_bytes=1000)
    put(backend, 1)
    before = tree(path.parent)
    for pieces in ([bytes(916)], [bytes(1)] * 916):
        with pytest.raises(LimitExceededError, match="max_file_bytes"):
            backend.put(PlainBlob(2, *pieces), keep=1, allow_rollback=False)
        assert tree(path.parent) == before
    assert backend.put(PlainBlob(2, bytes(915)), keep=1, allow_rollback=False).size_bytes == 1000
    assert latest(backend) == 2


def test_too_large_to_be_read(path: Path) -> None:
    """A file above the limit is neither read nor replaced, for nobody can tell cheaply what it is; nor is it lost."""
    put(Generations(path), 1, keep=2)
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    backend = Generations(path)
    before = path.stat()
    for use in (backend.open, lambda: put(backend, 2, keep=2)):
        with pytest.raises(LimitExceededError) as caught:
            use()
        assert (caught.value.what, caught.value.found, caught.value.bound) == (str(path), 1 << 40, 4 << 30)
    assert path.stat().st_ino == before.st_ino
    assert temps(path.parent) == []


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    """A name that leaves no room for its generations' is refused when it is first used, before anything is made."""
    backend = Generations(tmp_path / "d" / ("x" * 224))
    for use in (lambda: put(backend, 1), backend.open, backend.names, lambda: backend.prune(1)):
        with pytest.raises(BackendError, match="the name leaves no room") as caught:
            use()
        assert (caught.value.step, caught.value.errno) == ("open snapshot store", errno.ENAMETOOLONG)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_works(tmp_path: Path) -> None:
    """The longest name that is allowed can be saved, kept, damaged and set aside."""
    path = tmp_path / ("x" * 223)
    for position in (1, 2):
        put(Generations(path), position, keep=2)
    path.write_bytes(b"damaged")
    put(Generations(path), 3, keep=2)
    assert latest(Generations(path)) == 3


@pytest.mark.parametrize(
    "name", [" ", "-rf", ".hidden", "a b\nc", "žluťoučký 🐎", "\udcff\udcfe", "[x]*?", "snapshot.tmp", "%s"]
)
def test_odd_names(name: str, path: Path) -> None:
    """A file may be called what it likes, also what is no UTF-8, and its generations are found."""
    backend = Generations(path.with_name(name))
    for position in (1, 2, 3):
        put(backend, position, keep=2)
    path.with_name(name).write_bytes(b"damaged")
    put(Generations(path.with_name(name)), 4, keep=3)
    assert latest(backend) == 4
    assert len(os.listdir(path.parent)) == 6


def test_too_few_descriptors(path: Path) -> None:
    """With too few descriptors left a save fails or succeeds, changes nothing by halves, and leaves none of its own."""
    resource = pytest.importorskip("resource")
    put(Generations(path), 1, keep=2)

    def scarce() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        ballast = [os.open(os.devnull, os.O_RDONLY)]
        with contextlib.suppress(OSError):
            while True:
                ballast.append(os.dup(ballast[0]))
        refused = 0
        while True:
            try:
                put(Generations(path), 2, keep=2)
                break
            except BackendError as error:
                refused += error.errno == errno.EMFILE
            os.close(ballast.pop())
        assert 3 <= refused <= 10
        ballast += [os.dup(ballast[0]) for _ in range(refused)]  # as many are free as were given up

    assert in_child(scarce) == 0
    assert positions(Generations(path)) == [2, 1]
    assert temps(path.parent) == []


def test_a_name_that_would_be_swept(tmp_path: Path) -> None:
    """A snapshot that is called like a temp file would be swept by its own store, and is refused."""
    path = tmp_path / "snapshot-1.tmp"
    path.write_bytes(b"mine")
    with pytest.raises(BackendError, match="swept") as caught:
        put(Generations(path), 1)
    assert caught.value.step == "open snapshot store"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(BackendError, match="swept"):
        put(Generations(tmp_path / "link"), 1)
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("given", ["", "/", ".", "..", "a/", "a/.", "a/..", "/tmp/"])
def test_a_path_without_a_file_name(given: str) -> None:
    """A path that ends in a slash or in dots is a directory's, and is refused when the store is made."""
    with pytest.raises(ValueError, match="must end in a file name"):
        Generations(given)


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store keeps to the directory in which it was made, wherever the process goes."""
    monkeypatch.chdir(tmp_path)
    backend = Generations("snap")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    put(backend, 1)
    assert backend.where == str(tmp_path / "snap")
    assert (tmp_path / "snap").exists()


def test_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, which cannot make a rename durable, no store is made, and the error says why."""
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(BackendError, match="Windows cannot make a rename durable"):
        Generations("snap")


# ---------------------------------------------------------------------- modes


def mode_of(path: Path) -> int:
    """The permissions of a file."""
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes(umask: int, path: Path) -> None:
    """New files are private, a replaced one's mode is kept, and a chosen one holds, each whatever the umask."""
    before = os.umask(umask)
    try:
        put(Generations(path), 1, keep=2)
        assert mode_of(path) == 0o600
        assert mode_of(path.parent / ".snap.lock") == 0o600
        path.chmod(0o644)
        put(Generations(path), 2, keep=2)
        assert mode_of(path) == 0o644
        put(Generations(path, mode=0o660), 3, keep=2)
        assert mode_of(path) == 0o660
        put(Generations(path), 4, keep=2)
        assert mode_of(path) == 0o660
    finally:
        os.umask(before)


def test_no_special_bits_are_kept(path: Path) -> None:
    """Set-id and sticky bits of a replaced file are not given to the new one."""
    put(Generations(path), 1)
    path.chmod(0o7755)
    put(Generations(path), 2)
    assert mode_of(path) == 0o755


def test_the_mode_is_set_before_the_data(path: Path) -> None:
    """There is never a byte in a file that more people can read than was meant."""
    disk = RecordingDisk(path.parent.parent)
    put(Generations(path, mode=0o640, disk=disk), 1)
    assert disk.calls.index("fchmod d/TEMP 640") < disk.calls.index("pwrite d/TEMP")


@pytest.mark.skipif(not AS_ROOT, reason="only root can become other users; run the tests as root")
def test_two_users_share_a_store(public: Path) -> None:
    """With a mode that a group may write, another user of the group saves too, whatever the first one's umask was."""
    public.chmod(0o777)
    path = public / "snap"
    os.umask(before := os.umask(0o077))

    def as_user(uid: int, position: int) -> int:
        def save() -> None:
            os.umask(0o077)
            os.setgroups([])
            os.setgid(4242)
            os.setuid(uid)
            put(Generations(path, mode=0o660), position, keep=3)

        return in_child(save)

    assert [as_user(4001, 1), as_user(4002, 2), as_user(4001, 3)] == [0, 0, 0]
    assert os.umask(before) == before
    assert positions(Generations(path)) == [3, 2, 1]


# ---------------------------------------------------------------------- symlinks


def test_a_symlink_is_followed_once(tmp_path: Path) -> None:
    """A symlink at the path leads to its target's directory: everything stands there, and the link stays a link."""
    (tmp_path / "data").mkdir()
    link = tmp_path / "link"
    link.symlink_to("data/snap")
    backend = Generations(link)
    assert backend.where == str(link)
    put(backend, 1, keep=2)
    assert link.is_symlink()
    assert backend.where == str(tmp_path / "data" / "snap")
    assert sorted(os.listdir(tmp_path)) == ["data", "link"]
    assert sorted(os.listdir(tmp_path / "data")) == [".snap.lock", "snap", "snap.0000000001-00000000000000000001"]
    link.unlink()
    link.symlink_to("elsewhere")
    put(backend, 2, keep=2)
    assert latest(backend) == 2
    assert not (tmp_path / "elsewhere").exists()


def test_two_ways_to_one_snapshot(tmp_path: Path) -> None:
    """Whoever comes through a symlink and whoever comes directly hold the same lock and see the same order."""
    (tmp_path / "link").symlink_to("snap")
    put(Generations(tmp_path / "snap"), 2)
    with pytest.raises(StaleSnapshotError):
        put(Generations(tmp_path / "link"), 1)


def test_a_dangling_symlink(tmp_path: Path) -> None:
    """Behind a symlink that leads nowhere there is no snapshot until one is saved, with the directories it needs."""
    (tmp_path / "link").symlink_to("data/deep/snap")
    with pytest.raises(SnapshotNotFoundError):
        Generations(tmp_path / "link").open()
    put(Generations(tmp_path / "link"), 1)
    assert (tmp_path / "data" / "deep" / "snap").exists()


def test_a_symlink_that_comes_later(path: Path) -> None:
    """A symlink that takes the snapshot's place while the store is in use is not followed."""
    backend = Generations(path)
    put(backend, 1)
    (victim := path.with_name("victim")).write_bytes(b"mine")
    path.unlink()
    path.symlink_to(victim)
    for use in (backend.open, lambda: put(backend, 2)):
        with pytest.raises(BackendError) as caught:
            use()
        assert caught.value.errno == errno.ELOOP
    assert victim.read_bytes() == b"mine"


def test_a_symlink_in_a_circle(tmp_path: Path) -> None:
    """A symlink that leads to itself is an error that says so."""
    (tmp_path / "snap").symlink_to("snap")
    with pytest.raises(BackendError) as caught:
        Generations(tmp_path / "snap").open()
    assert caught.value.errno == errno.ELOOP


# ---------------------------------------------------------------------- the sweep


def test_the_temp_files_of_the_dead_are_swept(path: Path) -> None:
    """The first save of a store removes what killed writers have left, ours and the Go package's, and nothing else."""
    ours = ["snapshot-0123456789abcdef.tmp", "snapshot-42.tmp"]
    others = ["snapshot.tmp", "snapshot-1.tmp.gz", "other.tmp", "snap.tmp"]
    for name in (*ours, *others):
        (path.parent / name).write_bytes(b"half of")
    backend = Generations(path)
    put(backend, 1)
    assert sorted(os.listdir(path.parent)) == sorted([".snap.lock", "snap", *others])
    (path.parent / ours[0]).touch()
    put(backend, 2)
    assert (path.parent / ours[0]).exists()


def test_a_refused_first_save_leaves_the_sweep_to_the_next(path: Path) -> None:
    """A store sweeps again until one of its saves has succeeded."""
    put(Generations(path), 5)
    backend = Generations(path)
    with pytest.raises(StaleSnapshotError):
        put(backend, 1)
    (path.parent / "snapshot-1.tmp").touch()
    put(backend, 6)
    assert temps(path.parent) == []


def test_a_live_writers_temp_is_not_swept(path: Path) -> None:
    """A temp file that its writer holds locked is left alone: two stores may share a directory."""
    with (path.parent / "snapshot-alive.tmp").open("wb") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        put(Generations(path), 1)
        assert temps(path.parent) == ["snapshot-alive.tmp"]
    put(Generations(path), 2)
    assert temps(path.parent) == []


def test_our_own_temp_is_locked_while_it_is_written(path: Path) -> None:
    """While one store writes, the sweep of another in the same directory leaves its temp file alone."""
    seen: list[list[str]] = []

    class Meanwhile(RecordingDisk):
        def fsync(self, fd: int) -> None:
            seen.append(temps(path.parent))
            put(Generations(path.with_name("other")), 1)
            seen.append(temps(path.parent))
            super().fsync(fd)

    put(Generations(path, disk=Meanwhile(path.parent)), 1)
    before, after = seen[2:4]
    assert before == after != []
    assert latest(Generations(path)) == 1


def test_a_sweeper_that_is_faster(path: Path) -> None:
    """A temp file that is swept between its creation and its lock is given up for another one."""

    class Swept(RecordingDisk):
        def open(self, name: str, flags: int, mode: int, dir_fd: int) -> int:
            fd = super().open(name, flags, mode, dir_fd)
            if name.endswith(".tmp") and not swept:
                swept.append(name)
                os.unlink(name, dir_fd=dir_fd)
            return fd

    swept: list[str] = []
    before = descriptors()
    backend = Generations(path, disk=Swept(path.parent))
    put(backend, 1)
    assert swept
    assert latest(backend) == 1
    assert descriptors() == before


def test_what_is_no_file_is_not_swept(path: Path) -> None:
    """A directory, a FIFO, a symlink of such a name, and what a symlink leads to, are left alone, and hang nobody."""
    (path.parent / "snapshot-dir.tmp").mkdir()
    os.mkfifo(path.parent / "snapshot-fifo.tmp")
    (path.parent / "target").write_bytes(b"mine")
    (path.parent / "snapshot-link.tmp").symlink_to("target")
    put(Generations(path), 1)
    assert sorted(temps(path.parent)) == ["snapshot-dir.tmp", "snapshot-fifo.tmp", "snapshot-link.tmp"]
    assert (path.parent / "target").read_bytes() == b"mine"


@pytest.mark.skipif(not AS_ROOT, reason="only root can give files to other users; run the tests as root")
def test_another_users_temp_is_not_swept(path: Path) -> None:
    """A temp file of another user may belong to a writer that runs as that user."""
    (path.parent / "snapshot-1.tmp").touch()
    os.chown(path.parent / "snapshot-1.tmp", NOBODY, NOBODY)
    put(Generations(path), 1)
    assert temps(path.parent) == ["snapshot-1.tmp"]


def test_a_sweep_that_fails_fails_nothing(path: Path) -> None:
    """A temp file that cannot be removed does not keep a save out."""
    (path.parent / "snapshot-1.tmp").touch()
    disk = FailingDisk(path.parent.parent, 3, errno.EACCES)
    put(Generations(path, disk=disk), 1)
    assert disk.failed == "unlink d/snapshot-1.tmp"
    assert latest(Generations(path)) == 1


# ---------------------------------------------------------------------- generations


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_as_many_are_kept(keep: int, path: Path) -> None:
    """After any number of saves there are as many snapshots as are to be kept, and no file besides."""
    backend = Generations(path)
    for position in range(1, 8):
        put(backend, position, keep=keep)
        assert positions(backend) == list(range(position, max(0, position - keep), -1))
    assert len(tree(path.parent)) == (1 if keep == 1 else keep + 1)


def test_how_many_are_kept_may_change(path: Path) -> None:
    """Stores with another number on the same path keep what is there, or prune it, each from its first save on."""
    for keep, position, expected in (
        (1, 1, [1]),
        (3, 2, [2, 1]),
        (3, 3, [3, 2, 1]),
        (3, 4, [4, 3, 2]),
        (1, 5, [5]),
        (3, 6, [6, 5]),
    ):
        put(Generations(path), position, keep=keep)
        assert positions(Generations(path)) == expected


def test_two_stores_that_keep_differently(path: Path) -> None:
    """Each save keeps as many as its own store is told, also where another process's keeps more."""
    one, three = Generations(path), Generations(path)
    put(one, 1)
    for position in (2, 3, 4):
        put(three, position, keep=3)
    put(one, 5)
    assert positions(one) == [5]
    assert list(tree(path.parent)) == ["snap"]


def test_names_while_the_latest_has_no_generation(path: Path) -> None:
    """A latest that was put there without a generation's name stands first, under its own."""
    backend = Generations(path)
    for position in (1, 2):
        put(backend, position, keep=2)
    put(Generations(path.with_name("other")), 3)
    path.with_name("other").rename(path)
    assert list(backend.names()) == [
        "snap",
        "snap.0000000002-00000000000000000002",
        "snap.0000000001-00000000000000000001",
    ]
    assert positions(backend) == [3, 2, 1]
    put(backend, 4, keep=4)
    assert positions(backend) == [4, 3, 2, 1]


def test_a_missing_latest(path: Path) -> None:
    """Where only older generations are left, the error names them, and each can still be opened."""
    backend = Generations(path)
    for position in (1, 2):
        put(backend, position, keep=2)
    path.unlink()
    with pytest.raises(SnapshotNotFoundError, match="older generations exist") as caught:
        backend.open()
    assert caught.value.others == tuple(backend.names())
    assert positions(backend) == [2, 1]


def test_nothing_there(tmp_path: Path) -> None:
    """Where there is no directory there are no snapshots; looking does not make one."""
    backend = Generations(tmp_path / "d" / "snap")
    with pytest.raises(SnapshotNotFoundError):
        backend.open()
    assert list(backend.names()) == []
    assert list(backend.prune(1)) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".snap.lock", "other", "../other", "snap.corrupt-00000000", "snapshot-1.tmp", "d/snap"]
)
def test_only_our_own_names_are_opened(name: str, path: Path) -> None:
    """No name that a reference may hold opens anything but the snapshot and its generations."""
    put(Generations(path), 1)
    for other in ("other", "../other", "snap.corrupt-00000000", "snapshot-1.tmp"):
        (path.parent / other).write_bytes(path.read_bytes())
    with pytest.raises(SnapshotNotFoundError):
        Generations(path).open(name)


def test_prune(path: Path) -> None:
    """Pruning leaves the newest, tells what went, and is refused while another process writes."""
    backend = Generations(path, lock_timeout_s=0)
    for position in range(1, 6):
        put(backend, position, keep=5)
    names = list(backend.names())
    with (path.parent / ".snap.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            backend.prune(2)
    assert list(backend.prune(2)) == names[2:]
    assert positions(backend) == [5, 4]
    assert list(backend.prune(1)) == names[1:2]
    assert list(backend.prune(1)) == []
    assert latest(backend) == 5


def test_a_prune_that_fails(path: Path) -> None:
    """A generation that cannot be removed is named."""
    for position in (1, 2):
        put(Generations(path), position, keep=2)
    disk = FailingDisk(path.parent.parent, 2, errno.EPERM)
    with pytest.raises(BackendError) as caught:
        Generations(path, disk=disk).prune(1)
    assert caught.value.step == "remove snapshot generation"
    assert caught.value.path.endswith("snap.0000000001-00000000000000000001")
    assert positions(Generations(path)) == [2, 1]


def test_locked_out(path: Path) -> None:
    """A save that does not get its turn in time changes nothing."""
    backend = Generations(path, lock_timeout_s=0.01)
    put(backend, 1)
    before = tree(path.parent)
    with (path.parent / ".snap.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LockedError) as caught:
            put(backend, 2)
    assert caught.value.pid == os.getpid()
    assert tree(path.parent) == before
    put(backend, 2)


def test_a_directory_is_a_backend(tmp_path: Path) -> None:
    """A `FileBackend` keeps its snapshots in a directory, under a name of its own."""
    backend = FileBackend(tmp_path / "var")
    for position in (1, 2, 3):
        put(backend, position, keep=2)
    assert backend.where == str(tmp_path / "var")
    assert positions(backend) == [3, 2]
    assert latest(backend) == 3
    backend.prune(1)
    assert sorted(os.listdir(tmp_path / "var")) == [
        ".snapshot.lock",
        "snapshot",
        "snapshot.0000000003-00000000000000000003",
    ]


# ---------------------------------------------------------------------- reading


def test_what_is_read_is_made_durable(path: Path) -> None:
    """What another process has saved is fsynced, with its directory and a probe, before it is shown; and only once."""
    put(Generations(path), 1)
    disk = RecordingDisk(path.parent.parent)
    reader = Generations(path, disk=disk)
    with reader.open():
        assert disk.take() == ["fsync .", "fsync d/snap", "fsync d", "ftruncate d/.snap.lock 0"]
    with reader.open():
        assert disk.take() == []
    put(Generations(path), 2)
    with reader.open():
        assert disk.take() == ["fsync d/snap", "fsync d", "ftruncate d/.snap.lock 0"]


@pytest.mark.parametrize("keep", [1, 3])
def test_what_this_store_saved_is_durable(keep: int, path: Path) -> None:
    """What this store itself has saved needs no fsync to be read, under either of its names."""
    disk = RecordingDisk(path.parent.parent)
    backend = Generations(path, disk=disk)
    stored = put(backend, 1, keep=keep)
    disk.take()
    for name in (None, stored.name):
        with backend.open(name):
            assert disk.take() == []


def test_what_this_store_failed_to_make_durable(path: Path) -> None:
    """A save whose outcome is unknown has made nothing durable, so a new store's first read does."""
    for failing in ("fsync d", "ftruncate d/.snap.lock 0"):
        shutil.rmtree(path.parent)
        path.parent.mkdir()
        put(Generations(path), 1)
        calls = ["fsync .", *SAVE]
        disk = FailingDisk(path.parent.parent, calls.index(failing))
        backend = Generations(path, disk=disk)
        with pytest.raises(OutcomeUnknownError):
            put(backend, 2)
        assert disk.failed == failing
        disk.take()
        with backend.open():
            assert "fsync d" in disk.take()


def test_an_older_generation_is_made_durable(path: Path) -> None:
    """An older generation is fsynced with its directory as well, each time: it is not what was saved last."""
    for position in (1, 2):
        put(Generations(path), position, keep=2)
    disk = RecordingDisk(path.parent.parent)
    reader = Generations(path, disk=disk)
    latest(reader)
    disk.take()
    name = list(reader.names())[1]
    latest(reader, name)
    assert disk.take() == [f"fsync d/{name}", "fsync d", "ftruncate d/.snap.lock 0"]


def test_every_call_of_a_read_fails_once(path: Path) -> None:
    """What cannot be made durable is not shown: the step and the path are told, and no descriptor is left."""
    put(Generations(path), 1)
    before = descriptors()
    told: list[tuple[str, str]] = []
    for at in range(4):
        with pytest.raises(BackendError) as caught:
            Generations(path, disk=FailingDisk(path.parent.parent, at)).open()
        told.append((caught.value.step, caught.value.path))
        assert caught.value.errno == errno.EIO
    directory = str(path.parent)
    assert told == [
        ("fsync parent of snapshot directory", directory),
        ("fsync snapshot", str(path)),
        ("fsync snapshot directory", directory),
        ("probe snapshot directory", directory),
    ]
    assert descriptors() == before


def test_the_cache_is_not_believed_after_a_failed_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a file's fsync has failed its pages are evicted, so that the next read tells what is on the disk."""
    put(Generations(path), 1)
    advised: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, _at, _length, advice: advised.append(advice))
    with pytest.raises(BackendError):
        Generations(path, disk=FailingDisk(path.parent.parent, 1)).open()
    assert advised == [os.POSIX_FADV_DONTNEED]


def test_a_read_without_a_lock_file(path: Path) -> None:
    """Where there is no lock file, as for a file that was copied here, a reader makes none."""
    put(Generations(path), 1)
    (path.parent / ".snap.lock").unlink()
    assert latest(Generations(path)) == 1
    assert os.listdir(path.parent) == ["snap"]


@pytest.mark.parametrize("mode", [0o555, 0o511])
def test_a_reader_that_may_not_write(mode: int, public: Path) -> None:
    """Another user, who may only read, loads from a directory that he cannot write, and changes nothing."""
    home = public / "a" / "d"
    for position in (1, 2):
        put(Generations(home / "snap", mode=0o644), position, keep=2)
    home.chmod(0o555)
    home.parent.chmod(mode)
    before = tree(home)

    def read() -> None:
        if AS_ROOT:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        backend = Generations(home / "snap")
        assert positions(backend) == [2, 1]
        assert latest(backend) == 2
        with pytest.raises(BackendError) as caught:
            put(backend, 3)
        assert caught.value.errno == errno.EACCES

    assert in_child(read) == 0
    assert tree(home) == before
    home.chmod(0o755)
    home.parent.chmod(0o755)


def test_a_file_that_may_not_be_read(public: Path) -> None:
    """A file without permission to read is no damage: the system's refusal is told, by load and save, and it stays."""
    public.chmod(0o777)
    put(Generations(public / "snap"), 1)
    (public / "snap").chmod(0)
    (public / ".snap.lock").chmod(0o666)
    before = (public / "snap").stat().st_ino

    def use() -> None:
        if AS_ROOT:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        backend = Generations(public / "snap")
        for step, call in (("open snapshot", backend.open), ("read snapshot header", lambda: put(backend, 2))):
            with pytest.raises(BackendError) as caught:
                call()
            assert (caught.value.step, caught.value.errno) == (step, errno.EACCES)

    assert in_child(use) == 0
    assert (public / "snap").stat().st_ino == before
    assert temps(public) == []


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    """A file where the directory should be is an error of its own, for reader and writer."""
    (tmp_path / "d").write_bytes(b"mine")
    backend = Generations(tmp_path / "d" / "snap")
    for step, use in (
        ("open snapshot directory", backend.open),
        ("create snapshot directory", lambda: put(backend, 1)),
    ):
        with pytest.raises(BackendError) as caught:
            use()
        assert (caught.value.step, caught.value.errno) == (step, errno.ENOTDIR)
    assert (tmp_path / "d").read_bytes() == b"mine"


def test_reading_at_any_place(path: Path) -> None:
    """A source reads from any offset, gives fewer bytes only at the end, and knows its name, path and length."""
    put(Generations(path), 1)
    data = path.read_bytes()
    with Generations(path).open() as source:
        assert (source.name, source.path, source.size_bytes) == ("snap", str(path), len(data))
        assert source.read(0, len(data)) == data
        assert source.read(3, 4) == data[3:7]
        assert source.read(len(data) - 2, 100) == data[-2:]
        assert source.read(len(data), 1) == b""
        assert source.read(len(data) + 5, 1) == b""


def test_a_file_that_shrinks_while_it_is_read(path: Path) -> None:
    """Bytes that are gone are not made up."""
    put(Generations(path), 1)
    with Generations(path).open() as source:
        os.truncate(path, 10)
        assert source.read(0, source.size_bytes) == path.read_bytes()


def test_a_read_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An I/O error while reading is told as what it is, and not as damage."""
    put(Generations(path), 1)

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Generations(path).open() as source:
        monkeypatch.setattr(os, "preadv", fails)
        monkeypatch.setattr(os, "pread", fails)
        for call in (lambda: source.read(0, 1), lambda: source.read_into(memoryview(bytearray(1)), 0)):
            with pytest.raises(BackendError) as caught:
                call()
            assert (caught.value.step, caught.value.path, caught.value.errno) == ("read snapshot", str(path), errno.EIO)


def test_an_open_source_is_not_disturbed(path: Path) -> None:
    """Who reads goes on reading the same snapshot, whatever is saved and pruned meanwhile."""
    backend = Generations(path)
    put(backend, 1)
    with backend.open() as source:
        before = source.read(0, source.size_bytes)
        for position in range(2, 10):
            put(backend, position)
        assert source.read(0, source.size_bytes) == before


def test_damage_is_for_the_reader_to_find(path: Path) -> None:
    """The backend hands out what is there; that it is damaged is for whoever knows what it should be."""
    path.write_bytes(b"damaged")
    with Generations(path).open() as source, pytest.raises(CorruptSnapshotError):
        PlainBlob(0).verify(source)
