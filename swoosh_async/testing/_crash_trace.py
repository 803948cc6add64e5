"""What was done to a disk, in order, as a value; a `CrashDisk` records it, `crash_states` works with it. Pure.

Files and directories go by numbers of their own, since their names change, and a system's inode numbers come again.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

__all__ = ["ROOT", "Event", "Link", "Make", "Mark", "Rename", "Resize", "Settle", "Sync", "Trace", "Unlink", "Write"]

ROOT = 0
"""The number of the directory in which all of it is done."""


class Make(msgspec.Struct, frozen=True):
    """A new file, empty, or a new directory got a name in a directory."""

    directory: int
    name: str
    inode: int
    is_directory: bool = False


class Link(msgspec.Struct, frozen=True):
    """A file got one more name in a directory."""

    directory: int
    name: str
    inode: int


class Rename(msgspec.Struct, frozen=True):
    """A name in a directory became another one there, in place of what had that."""

    directory: int
    source: str
    target: str


class Unlink(msgspec.Struct, frozen=True):
    """A name in a directory was removed."""

    directory: int
    name: str


class Write(msgspec.Struct, frozen=True):
    """Bytes were written into a file."""

    inode: int
    offset: int
    data: bytes


class Resize(msgspec.Struct, frozen=True):
    """A file was made as long as that."""

    inode: int
    size: int


class Sync(msgspec.Struct, frozen=True):
    """A file's bytes and length, or a directory's names, became durable."""

    inode: int


class Settle(msgspec.Struct, frozen=True):
    """Everything became durable."""


class Mark(msgspec.Struct, frozen=True):
    """A test's own note, such as what has been acknowledged."""

    value: Any


Event: TypeAlias = Make | Link | Rename | Unlink | Write | Resize | Sync | Settle | Mark


class Trace(msgspec.Struct, frozen=True):
    """What was done, in order.

    Attributes:
        events: Each call, and each mark. A point *n* of the trace is behind the first *n* of them.
        begins: The first point at which a crash is of interest; what is before it only led there.
    """

    events: tuple[Event, ...] = ()
    begins: int = 0

    def until(self, point: int) -> Trace:
        """What was done up to that point."""
        return Trace(self.events[:point], min(self.begins, point))

    @property
    def points(self) -> range:
        """The points at which a crash is of interest."""
        return range(self.begins, len(self.events) + 1)
