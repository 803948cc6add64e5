"""What a disk may hold after a crash at any point of a trace.

The rules, which are those of POSIX and weaker than what any file system does that this package is meant for:

- **A file's bytes** are durable once the file has been fsynced or fdatasynced: fsync(2). Until then, each 512-byte
  sector holds what it held at some moment since it was last made durable, whatever the others hold; so a write may
  arrive in part, and in any order: Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014).
- **A file's length** likewise is one that it had since, or, on its way to a longer one, one that ends with a sector.
  What was never written is zeros. fdatasync brings the length along, without which the bytes cannot be read: fsync(2).
- **A name** is durable once its directory has been fsynced, a new directory's in its parent: fsync(2). Until then, each
  name stands for what it stood for at some moment since, whatever the others stand for; but a rename, which is atomic,
  shows at both its names or at neither: rename(2).
- One order is kept among names: a name of a file is not seen to go before another one is seen that the file was given
  earlier: Ganger et al., "Soft Updates" (TOCS 2000), the third rule. Journals of file systems keep all in order.
- **An fsync** of one file or directory makes nothing else durable. Modes, times and locks do not matter.

What this does not know: disks that lie, errors on the way (a failed fsync is not recorded), blocks larger than a sector
that tear into something else than old and new, and file systems with bugs. Real ones are crashed elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice, product
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from ._crash_model import Cell, Data, Disk, Operation
from ._crash_trace import Mark, Trace

__all__ = ["CrashState", "crash_states", "state_after_kill"]

_MODE = 0o600


class CrashState(msgspec.Struct, frozen=True):
    """What a disk may hold after a crash.

    Attributes:
        point: After how many events of the trace the crash came.
        marks: What had been marked by then.
        why: What came last, and what of it was lost; for messages.
    """

    point: int
    marks: tuple[Any, ...]
    why: str
    _directories: Mapping[str, int]
    _contents: Mapping[str, tuple[int, Data]]

    @property
    def directories(self) -> list[str]:
        """The directories below the root, by their paths from there."""
        return sorted(self._directories)

    @property
    def files(self) -> dict[str, bytes]:
        """What each file holds, by its path from the root."""
        return {path: data.content for path, (_, data) in self._contents.items()}

    @property
    def inodes(self) -> dict[str, int]:
        """The number that each directory and file has in the trace, by its path; names of one file have the same."""
        return {**self._directories, **{path: inode for path, (inode, _) in self._contents.items()}}

    def write_to(self, directory: str | os.PathLike[str]) -> None:
        """Make an empty directory hold it; names of one file are hard links there too.

        Raises:
            OSError: It cannot be written.
        """
        root = Path(directory)
        for path in self.directories:
            (root / path).mkdir(mode=0o755)
        made: dict[int, Path] = {}
        for path, (inode, data) in self._contents.items():
            if inode in made:
                os.link(made[inode], root / path)
                continue
            made[inode] = root / path
            fd = os.open(root / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
            try:
                os.ftruncate(fd, data.size)
                for offset, piece in data.pieces():
                    os.pwrite(fd, piece, offset)
            finally:
                os.close(fd)


def crash_states(trace: Trace, *, seed: int = 0, limit: int = 200) -> Iterator[CrashState]:
    """Every state in which a crash may leave the disk, at each point of the trace, each state once for the same marks.

    At a point where that would be more than `limit`, so many at most: everything that was pending lost, or there; each
    thing lost alone, or there alone, as far as they are half of the limit; and others at random.

    Args:
        trace: What was done.
        seed: Which others.
        limit: The most states for one point, ≥ 4.
    """
    chance = Random(seed)  # noqa: S311  the same for the same seed
    disk = Disk()
    marks: list[Any] = []
    seen: set[object] = set()
    last = "the start"
    for point in range(len(trace.events) + 1):
        if point > 0:
            event = trace.events[point - 1]
            last = disk.text_of(event)
            disk.do(event)
            if isinstance(event, Mark):
                marks.append(event.value)
        if point < trace.begins:
            continue
        for choice in _choices(disk, chance, limit):
            directories, contents = disk.after(*choice)
            key = len(marks), frozenset(directories), frozenset((p, i, d.key) for p, (i, d) in contents.items())
            if key not in seen:
                seen.add(key)
                why = f"at {point} of {len(trace.events)}, behind {last}{_lost(disk, *choice)}"
                yield CrashState(point, tuple(marks), why, directories, contents)


def state_after_kill(trace: Trace) -> CrashState:
    """What there is when the process is killed at the end of the trace, and the system lives on: all of it."""
    disk = Disk()
    for event in trace.events:
        disk.do(event)
    operations, cells = disk.pending()
    directories, contents = disk.after(frozenset(operations), {cell: cell.versions - 1 for cell in cells})
    marks = tuple(event.value for event in trace.events if isinstance(event, Mark))
    return CrashState(len(trace.events), marks, "killed", directories, contents)


# ---------------------------------------------------------------------- which of them

_Choice = tuple[frozenset[Operation], Mapping[Cell, int]]
"""The changes of names that are there, and which version of each sector and length; those left out are the oldest."""


def _choices(disk: Disk, chance: Random, limit: int) -> Iterable[_Choice]:
    """What a crash may choose, all of it or `limit` of it."""
    operations, cells = disk.pending()
    everything = _every(disk, operations, cells, limit)
    if everything is not None:
        return everything
    corners = list(_corners(operations, cells))
    ends, others = corners[:_ENDS], corners[_ENDS:]
    most = max(0, limit // 2 - _ENDS)
    some = others if len(others) <= most else chance.sample(others, most)
    return islice(chain(ends, some, _others(operations, cells, chance)), limit)


def _every(disk: Disk, operations: list[Operation], cells: list[Cell], limit: int) -> list[_Choice] | None:
    """All that there is to choose; None where it is more than `limit`."""
    found: list[_Choice] = []
    for names in _closed(operations, limit):
        seen = disk.reached(names)
        seen_cells = [cell for cell in cells if cell.inode in seen]
        if len(found) + prod(cell.versions for cell in seen_cells) > limit:
            return None
        versions = product(*(range(cell.versions) for cell in seen_cells))
        found.extend((names, dict(zip(seen_cells, chosen, strict=True))) for chosen in versions)
    return found


def _closed(operations: list[Operation], limit: int) -> Iterator[frozenset[Operation]]:
    """The sets of changes of names of which each is there with all that it needs; one more than `limit` at most."""
    found = [frozenset[Operation]()]
    for operation in operations:
        found += [names | {operation} for names in found if operation.needs <= names]
        if len(found) > limit:
            break
    return iter(found[: limit + 1])


_ENDS = 4


def _corners(operations: list[Operation], cells: list[Cell]) -> Iterator[_Choice]:
    """None and all, of the names and of the bytes; then each alone, and all but each."""
    no_names, all_names = frozenset[Operation](), frozenset(operations)
    old: dict[Cell, int] = {}
    new = {cell: cell.versions - 1 for cell in cells}
    yield from product((no_names, all_names), (old, new))
    for one in operations:
        for versions in (new, old):
            yield one.needs | {one}, versions
            yield frozenset(other for other in operations if other is not one and one not in other.needs), versions
    for cell in cells:
        for names in dict.fromkeys((no_names, all_names)):
            for version in range(cell.versions - 1):
                yield names, {cell: version + 1}
                yield names, new | {cell: version}


def _others(operations: list[Operation], cells: list[Cell], chance: Random) -> Iterator[_Choice]:
    """Any, at random, without end; of some much is there, of others little."""
    while True:
        share = chance.choice((0.1, 0.5, 0.9))
        names: set[Operation] = set()
        for operation in operations:
            if chance.random() < share and operation.needs <= names:
                names.add(operation)
        share = chance.choice((0.1, 0.5, 0.9))
        changed = (cell for cell in cells if chance.random() < share)
        yield frozenset(names), {cell: chance.randrange(1, cell.versions) for cell in changed}


def _lost(disk: Disk, names: frozenset[Operation], versions: Mapping[Cell, int]) -> str:
    """What is not there as it was last, in words."""
    operations, cells = disk.pending()
    lost = [operation.text for operation in operations if operation not in names]
    seen = disk.reached(names)
    lost += [
        f"{cell.text} ({versions.get(cell, 0) + 1} of {cell.versions})"
        for cell in cells
        if cell.inode in seen and versions.get(cell, 0) < cell.versions - 1
    ]
    return f"; lost: {', '.join(lost)}" if lost else ""
