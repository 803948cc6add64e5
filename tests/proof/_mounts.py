"""File systems of a test's own, in memory: mounted by a loop device, and their power can be cut.

They are mounted in a mount namespace of one process and its children, by loop devices that let go of themselves, from a
file without a name. So nothing is left of them when that process ends, even by SIGKILL. What cannot be had here is
skipped, with the reason and what would provide it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = [
    "KINDS",
    "CannotMountError",
    "Image",
    "cut",
    "die_with_parent",
    "image_name",
    "mounted",
    "must_be_root",
    "must_have",
    "run",
]

KINDS = {"ext4": 48 << 20, "xfs": 304 << 20, "btrfs": 128 << 20}
"""The file systems, with the size of an image of each in bytes: little more than the smallest that it can have."""

_MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "xfs": ("mkfs.xfs", "-q", "-f"),
    "btrfs": ("mkfs.btrfs", "-q", "-f"),
}
_PACKAGES = {"mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs"}

# fs/xfs/libxfs/xfs_fs.h (XFS_IOC_GOINGDOWN) and fs/ext4/ext4.h (EXT4_IOC_SHUTDOWN): one number, and one meaning of 2,
# which is to stop at once and not to flush the log. What comes later, from the cache or from anybody, does not arrive.
_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2

# include/uapi/linux/: sched.h, mount.h, prctl.h
_CLONE_NEWNS = 0x20000
_MS_PRIVATE = 1 << 18
_MS_REC = 1 << 14
_PR_SET_PDEATHSIG = 1

# include/uapi/linux/loop.h: struct loop_config is fd, block size, a loop_info64 of 232 bytes, 64 bytes for later.
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_AUTOCLEAR = 4
_CONFIG = struct.Struct("=II52xI176x64x")


class CannotMountError(Exception):
    """A file system cannot be mounted here; the text says why, and what would help."""


def run(*command: str | Path) -> str:
    """Run a program and return what it said; raise that when it fails."""
    done = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
    )
    if done.returncode != 0:
        raise OSError(done.returncode, f"{command[0]}: {done.stdout.strip()}")
    return done.stdout.strip()


def must_be_root(session: str) -> None:
    """Skip the test unless this is root."""
    import pytest  # here, for the processes that mount have no need of it

    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip(f"mounting a file system needs root: sudo .venv/bin/nox -s {session}")


def must_have(program: str, package: str = "") -> None:
    """Skip the test unless that program is here."""
    import pytest

    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed: apt-get install {package or _PACKAGES[program]}")


def mounted(kind: str, home: Path) -> Image:
    """A new file system of that kind, for this process and its children only: it goes when they have ended.

    Raises:
        CannotMountError: That is not possible here.
    """
    try:
        _call("unshare", _CLONE_NEWNS)
        _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    except PermissionError as error:
        raise CannotMountError(f"mounting is not permitted here ({error.strerror}): docker run --privileged") from error
    image = Image(kind, home)
    image.mount()
    return image


def die_with_parent(parent: int = 0) -> None:
    """Have this process killed when its parent ends; end it now if that has ended already."""
    _call("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if parent and os.getppid() != parent:
        os._exit(1)


class Image:
    """A file system in memory.

    Args:
        kind: Which one, of `KINDS`.
        home: A directory, for the mount point.
    """

    def __init__(self, kind: str, home: Path) -> None:
        self.kind = kind
        self.at = home / kind
        self.at.mkdir()
        self._fd = os.memfd_create(image_name(os.getpid()))
        os.ftruncate(self._fd, KINDS[kind])
        run(*_MAKERS[kind], self._path)

    @property
    def _path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def keep(self, file: Path) -> None:
        """Copy it to a file, to be looked into."""
        shutil.copyfile(self._path, file)

    def mount(self) -> None:
        """Mount it, by a loop device that has never held it before, so that nothing is in a cache.

        Raises:
            CannotMountError: That is not possible here.
        """
        loop, device = _attach(self._fd)
        try:
            _call("mount", device.encode(), os.fsencode(self.at), self.kind.encode(), ctypes.c_ulong(0), None)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise CannotMountError(f"the kernel has no {self.kind}: modprobe {self.kind}") from error
            raise
        finally:
            os.close(loop)

    def cut(self) -> None:
        """Cut its power: from now on nothing more reaches the disk, not even what is in the log's buffers."""
        cut(self.at)

    def unmount(self) -> None:
        """Unmount it; whoever had it open has been killed, and may take a moment to be gone."""
        for left in reversed(range(1000)):
            try:
                _call("umount2", os.fsencode(self.at), 0)
            except OSError as error:
                if error.errno != errno.EBUSY or not left:
                    raise
                time.sleep(0.002)
            else:
                return


def cut(at: Path) -> None:
    """Cut the power of the file system that is mounted there."""
    fd = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)


def image_name(pid: int) -> str:
    """What the images of that process are called, in /sys/block/loop*/loop/backing_file among others."""
    return f"image-of-{pid}"


def _attach(fd: int) -> tuple[int, str]:
    """A loop device with that file, and its path; it lets go when it is closed and unmounted."""
    try:
        while True:
            control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
            try:
                device = f"/dev/loop{fcntl.ioctl(control, _CTL_GET_FREE)}"
            finally:
                os.close(control)
            loop = os.open(device, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(loop, _CONFIGURE, _CONFIG.pack(fd, 0, _AUTOCLEAR))
            except OSError as error:
                os.close(loop)
                if error.errno != errno.EBUSY:  # somebody else was quicker
                    raise
            else:
                return loop, device
    except (FileNotFoundError, PermissionError) as error:
        why = f"{error.filename}: {error.strerror}"
        raise CannotMountError(f"there is no loop device ({why}): docker run --privileged, or modprobe loop") from error


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
