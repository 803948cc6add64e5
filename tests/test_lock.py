"""One writer at a time, in this process and in any other, whatever becomes of them."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from swoosh_async.backends.file import OsDisk
from swoosh_async.backends.file._disk import open_directory
from swoosh_async.backends.file._lock import FileLock
from swoosh_async.errors import BackendError, LockedError

from ._disks import FailingDisk, RecordingDisk, descriptors, in_child

Make = Callable[..., FileLock]

HOLDER = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes locks on one file."""
    dir_fd = open_directory(str(tmp_path))

    def make(*, mode: int = 0o600, timeout_s: float = 0.0, disk: OsDisk | None = None) -> FileLock:
        path = str(tmp_path / ".lock")
        return FileLock(disk or OsDisk(), ".lock", dir_fd, path=path, mode=mode, timeout_s=timeout_s)

    yield make
    os.close(dir_fd)


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock, until its standard input is closed."""
    command = [sys.executable, "-I", "-S", "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_one_at_a_time(make: Make) -> None:
    """Who holds the lock keeps out everybody else, in the same process too, and lets them in afterwards."""
    with make(), pytest.raises(LockedError), make():
        pass
    with make():
        pass


def test_a_refusal_leaves_nothing_open(make: Make) -> None:
    """Who does not get the lock has no descriptor left, and has not taken it from its holder."""
    with make():
        before = descriptors()
        for _ in range(2):
            with pytest.raises(LockedError), make():
                pass
        assert descriptors() == before


def test_the_holder_is_named(make: Make, tmp_path: Path) -> None:
    """A refusal names the process that holds the lock, its host, and how long was waited for it."""
    with holder(tmp_path / ".lock") as process:
        with pytest.raises(LockedError, match="lock_timeout_s") as caught, make(timeout_s=0.01):
            pass
        error = caught.value
        assert error.where == str(tmp_path / ".lock")
        assert (error.pid, error.host, error.waited_s) == (process.pid, socket.gethostname(), 0.01)
        assert f"process {process.pid} on {socket.gethostname()} (waited 0.01 s)" in str(error)


def test_a_holder_that_the_system_does_not_tell(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no /proc/locks the holder stays unnamed, and the lock is held all the same."""

    def refuse(*_: Any, **__: Any) -> None:
        raise FileNotFoundError

    with holder(tmp_path / ".lock"):
        monkeypatch.setattr(builtins, "open", refuse)
        with pytest.raises(LockedError, match="another process") as caught, make():
            pass
    assert (caught.value.pid, caught.value.host) == (None, None)


def test_it_is_waited_for(make: Make) -> None:
    """Who has time gets the lock as soon as it is let go."""
    order: list[str] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        with make(timeout_s=60):
            order.append("waiter")

    thread = threading.Thread(target=wait)
    with make():
        thread.start()
        begun.wait()
        order.append("holder")
    thread.join()
    assert order == ["holder", "waiter"]


def test_the_wait_ends(make: Make) -> None:
    """Who has little time waits for that long, and hardly longer."""
    with make():
        begun = time.monotonic()
        with pytest.raises(LockedError), make(timeout_s=0.05):
            pass
        assert 0.05 <= time.monotonic() - begun < 5


def test_many_at_once(make: Make) -> None:
    """Of many threads never two are inside at the same time, and every one gets its turn."""
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with make(timeout_s=60):
                inside.append(number)
                most.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80


def test_a_killed_holder_lets_go(make: Make, tmp_path: Path) -> None:
    """The system itself unlocks when the holder dies, however it dies."""
    with holder(tmp_path / ".lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with make():
            pass


def test_the_file_stays(make: Make, tmp_path: Path) -> None:
    """The lock file is made once, stays the same file, and stays empty."""
    with make() as lock:
        lock.probe()
    before = (tmp_path / ".lock").stat()
    with make() as lock:
        lock.probe()
    after = (tmp_path / ".lock").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, 0)


def test_what_it_does_to_the_disk(make: Make, tmp_path: Path) -> None:
    """It is created once, and a probe is one truncation to nothing."""
    disk = RecordingDisk(tmp_path)
    for _ in range(2):
        with make(disk=disk) as lock:
            lock.probe()
    assert disk.calls == [
        "open .lock",
        "create .lock",
        "ftruncate .lock 0",
        "open .lock",
        "ftruncate .lock 0",
    ]


@pytest.mark.parametrize(("mode", "made"), [(0o600, 0o600), (0o660, 0o660), (0o400, 0o600), (0o444, 0o644)])
def test_its_mode(mode: int, made: int, make: Make, tmp_path: Path) -> None:
    """It gets the mode that was chosen, whatever the umask, and its owner can always open it again."""
    before = os.umask(0o077)
    try:
        for _ in range(2):
            with make(mode=mode):
                assert (tmp_path / ".lock").stat().st_mode & 0o777 == made
    finally:
        os.umask(before)


def test_its_mode_is_set_once(make: Make, tmp_path: Path) -> None:
    """A mode that its owner has given it afterwards is left alone."""
    with make():
        pass
    (tmp_path / ".lock").chmod(0o640)
    with make(mode=0o660):
        assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o640


def test_not_through_a_symlink(make: Make, tmp_path: Path) -> None:
    """A symlink in the lock's place is refused, and nothing is made or emptied behind it."""
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / ".lock").symlink_to("victim")
    with pytest.raises(BackendError) as caught, make():
        pass
    assert (caught.value.step, caught.value.errno) == ("lock snapshot", errno.ELOOP)
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_a_disk_that_refuses(make: Make, tmp_path: Path) -> None:
    """Each call that makes the lock may fail: the step and the path are told, and no descriptor is left."""
    before = descriptors()
    umask = os.umask(0o077)
    try:
        for at, failed in enumerate(["open .lock", "create .lock", "fchmod .lock 660"]):
            disk = FailingDisk(tmp_path, at, errno.EACCES)
            with pytest.raises(BackendError) as caught, make(mode=0o660, disk=disk):
                pass
            assert disk.failed == failed
            assert (caught.value.step, caught.value.path) == ("lock snapshot", str(tmp_path / ".lock"))
            assert caught.value.errno == errno.EACCES
            (tmp_path / ".lock").unlink(missing_ok=True)
    finally:
        os.umask(umask)
    assert descriptors() == before


def test_a_file_system_without_locks(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of flock other than that it is held is told as what it is, at once."""

    def flock(_: int, __: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    before = descriptors()
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(BackendError) as caught, make(timeout_s=60):
        pass
    assert (caught.value.step, caught.value.errno) == ("lock snapshot", errno.ENOLCK)
    assert descriptors() == before


def test_no_child_program_inherits_it(make: Make, tmp_path: Path) -> None:
    """The descriptor is closed when another program is executed, though everything else is inherited."""
    with make():
        code = "import os; print(*(os.readlink(f'/proc/self/fd/{fd}') for fd in range(3, 50) if os.path.exists("
        code += "f'/proc/self/fd/{fd}')))"
        found = subprocess.run(
            [sys.executable, "-I", "-S", "-c", code], close_fds=False, capture_output=True, text=True, check=True
        )
        assert str(tmp_path / ".lock") not in found.stdout


def test_a_forked_child_does_not_unlock(make: Make) -> None:
    """Neither the end of a child that was forked meanwhile, nor what it does with its copy, unlocks for its parent."""
    with make() as lock:
        assert in_child(lambda: None) == 0
        assert in_child(lambda: lock.__exit__(None, None, None)) == 0
        with pytest.raises(LockedError), make():
            pass


def test_a_forked_child_has_no_lock(make: Make) -> None:
    """A child that was forked meanwhile has to wait like anybody else."""

    def child() -> None:
        with pytest.raises(LockedError), make():
            pass

    with make():
        assert in_child(child) == 0


def test_a_forked_child_outlives_a_killed_holder(make: Make) -> None:
    """The lock of a parent that is killed is free, though a child that was forked meanwhile lives on."""
    here, there = socket.socketpair()

    def parent() -> None:
        with make():
            if os.fork() == 0:
                here.close()
                there.send(b".")
                there.recv(1)  # until the test is over
                os._exit(0)
            here.recv(1)
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(parent) == -signal.SIGKILL
    with make():
        pass
    here.close()
    there.close()
