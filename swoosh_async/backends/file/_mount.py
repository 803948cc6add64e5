"""The file system below a directory, as Linux tells of it: does it keep what it acknowledges?

Told by proc_pid_mountinfo(5), and found by the id of the mount in proc_pid_fdinfo(5): device numbers do not do, since
a subvolume of btrfs has one of its own. Where nothing is known, nothing is said.
"""

from __future__ import annotations

import os
import re
import warnings

import msgspec

from ...errors import DurabilityWarning

__all__ = ["Mount", "doubt", "mount_of", "warn_of"]

_LINE = re.compile(r"^(?P<id>\d+) \S+ \S+ \S+ (?P<at>\S+) .*- (?P<kind>\S+) \S* (?P<options>\S+)$", re.MULTILINE)
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"}
_WITHOUT_JOURNAL = {"ext2", "vfat", "msdos", "exfat"}
_ELSEWHERE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "virtiofs", "vboxsf", "fuse"}
_NO_BARRIERS = {"nobarrier", "barrier=0", "barrier=none", "fsync_mode=nobarrier"}
_NO_SYNC = {"volatile", "fsync=volatile"}


class Mount(msgspec.Struct, frozen=True):
    """A mounted file system.

    Attributes:
        at: Where it is mounted.
        kind: Its type, as ``ext4``.
        options: The options of the file system itself, as ``nobarrier``.
    """

    at: str
    kind: str
    options: frozenset[str] = frozenset()


def mount_of(mountinfo: str, mount_id: str) -> Mount | None:
    """The mount of that id; None where it is not told of."""
    found = next((match for match in _LINE.finditer(mountinfo) if match["id"] == mount_id), None)
    return None if found is None else Mount(found["at"], found["kind"], frozenset(found["options"].split(",")))


def doubt(mount: Mount, *, journal: bool = True) -> str:
    """Why what is acknowledged there may be lost; empty where there is no reason to think so.

    Args:
        mount: What is mounted.
        journal: Whether it has a journal, where it is of a kind that may have one.
    """
    if mount.kind in _IN_MEMORY:
        return "is in memory: nothing there survives a power cut"
    if mount.kind == "overlay" and mount.options & _NO_SYNC:
        return "was mounted volatile: nothing there is made durable"
    if mount.kind in _WITHOUT_JOURNAL or not journal:
        return "has no journal: a power cut may leave a rename half done"
    if mount.options & _NO_BARRIERS:
        return "was mounted without barriers: a power cut may lose what it has acknowledged"
    if mount.kind.partition(".")[0] in _ELSEWHERE:
        return "is kept by a server or another program, which decides what fsync, rename and flock mean there"
    return ""


def warn_of(fd: int) -> None:
    """Warn, once for each mount, where the file system of that descriptor may lose what it has acknowledged.

    Warns:
        DurabilityWarning: It may. Made an error by a filter, it comes before any file is made.
    """
    mount = _mount(fd)
    why = "" if mount is None else doubt(mount, journal=mount.kind != "ext4" or _has_journal(fd))
    if mount is not None and why:
        warnings.warn(f"the file system at {mount.at} ({mount.kind}) {why}", DurabilityWarning, stacklevel=2)


def _mount(fd: int) -> Mount | None:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
            told = dict(line.split(":", 1) for line in lines if ":" in line)
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return mount_of(file.read(), told["mnt_id"].strip())
    except (OSError, KeyError, ValueError):  # another system, or another Linux
        return None


def _has_journal(fd: int) -> bool:
    """Whether an ext4 has a journal; where that cannot be told, it has.

    Each journal has a directory in /proc, called by its device and, where it is a file of that file system, its inode.
    """
    device = os.fstat(fd).st_dev
    try:
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"))
        if not os.path.isdir(f"/proc/fs/ext4/{name}"):
            return True
        journals = os.listdir("/proc/fs/jbd2")
    except OSError:
        return True
    return any(journal.rpartition("-")[0] in ("", name) for journal in journals)  # "": on a device of its own
