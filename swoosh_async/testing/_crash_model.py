"""A disk as a trace leaves it: what of it is durable, and what is pending, of which a crash may leave any part. Pure.

This file does not choose among what a crash may leave.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import pairwise

import msgspec

from ._crash_trace import ROOT, Event, Link, Make, Mark, Rename, Resize, Settle, Sync, Unlink, Write

__all__ = ["Cell", "Data", "Disk", "Operation"]

_SECTOR = 512
_ZEROS = bytes(_SECTOR)
_LENGTH = -1


class Data(msgspec.Struct, frozen=True):
    """What a file holds.

    Attributes:
        size: How long it is.
        sectors: Those of its sectors that are not all zero, each as long as a sector, by number.
    """

    size: int
    sectors: Mapping[int, bytes]

    @property
    def content(self) -> bytes:
        """All its bytes."""
        whole = bytearray(-(-self.size // _SECTOR) * _SECTOR)
        for number, sector in self.sectors.items():
            whole[number * _SECTOR : (number + 1) * _SECTOR] = sector
        return bytes(whole[: self.size])

    @property
    def key(self) -> tuple[int, frozenset[tuple[int, bytes]]]:
        """What tells it from all others."""
        return self.size, frozenset(self.sectors.items())

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """All of it that is not zero, each piece behind its offset."""
        for number, sector in self.sectors.items():
            offset = number * _SECTOR
            yield offset, sector[: self.size - offset]


class Operation(msgspec.Struct, frozen=True, eq=False):
    """A change of a directory's names that is not durable.

    Attributes:
        directory: The directory.
        names: What each name that it changes stands for from then on: a number, or None for nothing.
        needs: Those before it without which it cannot be there.
        text: What was done.
    """

    directory: int
    names: Mapping[str, int | None]
    needs: frozenset[Operation]
    text: str


class Cell(msgspec.Struct, frozen=True):
    """What a crash chooses a version of: a sector of a file, or a file's length.

    Attributes:
        inode: The file.
        number: Which sector; -1 for the length.
        versions: How many there are, the oldest of them durable.
        text: What it is called.
    """

    inode: int
    number: int
    versions: int
    text: str


class _File:
    """A file: all that each of its sectors, and its length, was since it was last made durable."""

    def __init__(self) -> None:
        self._sizes = [0]
        self._sectors: dict[int, list[bytes]] = {}

    def write(self, offset: int, data: bytes) -> None:
        """Write into it."""
        if not data:
            return
        end = offset + len(data)
        if end > self._sizes[-1]:
            self.resize(end)
        edges = [offset, *range(offset - offset % _SECTOR + _SECTOR, end, _SECTOR), end]
        for start, stop in pairwise(edges):
            self._put(start // _SECTOR, start % _SECTOR, data[start - offset : stop - offset])

    def resize(self, size: int) -> None:
        """Make it as long as that."""
        before = self._sizes[-1]
        if size < before:
            cut = size % _SECTOR
            for number in self._sectors:
                if number >= size // _SECTOR:
                    self._put(number, cut if number == size // _SECTOR else 0, b"")
        on_the_way = range(before - before % _SECTOR + _SECTOR, size, _SECTOR)
        some = sorted({on_the_way[at] for at in (0, len(on_the_way) // 2, -1)}) if on_the_way else []
        self._sizes += [one for one in (*some, size) if one != self._sizes[-1]]

    def _put(self, number: int, at: int, data: bytes) -> None:
        """Write into one sector; with no data, zeros up to its end."""
        versions = self._sectors.setdefault(number, [_ZEROS])
        now = versions[-1]
        new = now[:at] + data + now[at + len(data) :] if data else now[:at].ljust(_SECTOR, b"\0")
        if new != now:
            versions.append(new)

    def sync(self) -> None:
        """All of it is durable."""
        del self._sizes[:-1]
        self._sectors = {number: all_of[-1:] for number, all_of in self._sectors.items() if all_of[-1] != _ZEROS}

    def pending(self) -> Iterator[tuple[int, int]]:
        """The numbers of what is pending, each with how many versions there are."""
        if len(self._sizes) > 1:
            yield _LENGTH, len(self._sizes)
        for number, versions in self._sectors.items():
            if len(versions) > 1:
                yield number, len(versions)

    def data(self, chosen: Mapping[int, int]) -> Data:
        """What it holds with these versions; what is left out is the oldest."""
        size = self._sizes[chosen.get(_LENGTH, 0)]
        sectors: dict[int, bytes] = {}
        for number, versions in self._sectors.items():
            room = size - number * _SECTOR
            sector = versions[chosen.get(number, 0)] if room > 0 else _ZEROS
            if room < _SECTOR:
                sector = sector[: max(0, room)].ljust(_SECTOR, b"\0")
            if sector != _ZEROS:
                sectors[number] = sector
        return Data(size, sectors)


class _Directory:
    """A directory: what its names stand for durably, and by now, and the changes in between."""

    def __init__(self) -> None:
        self.durable: dict[str, int] = {}
        self.now: dict[str, int] = {}
        self.pending: list[Operation] = []

    def change(self, directory: int, names: Mapping[str, int | None], text: str) -> None:
        """Change some names at once."""
        going = {self.now[name] for name in names if name in self.now} - set(names.values())
        needs: set[Operation] = set()
        for before in self.pending:
            if before.names.keys() & names.keys() or going & set(before.names.values()):
                needs |= before.needs | {before}
        self.pending.append(Operation(directory, dict(names), frozenset(needs), text))
        _apply(self.now, names)

    def sync(self) -> None:
        """All of it is durable."""
        self.durable = dict(self.now)
        self.pending.clear()

    def after(self, there: AbstractSet[Operation]) -> dict[str, int]:
        """What its names stand for when these changes are there."""
        names = dict(self.durable)
        for operation in self.pending:
            if operation in there:
                _apply(names, operation.names)
        return names


class Disk:
    """All files and directories below the root."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._directories = {ROOT: _Directory()}
        self._paths = {ROOT: "."}

    def do(self, event: Event) -> None:
        """Do what was done next."""
        match event:
            case Make() | Link() | Rename() | Unlink():
                self._change(event)
            case Write(inode, offset, data):
                self._files[inode].write(offset, data)
            case Resize(inode, size):
                self._files[inode].resize(size)
            case Sync(inode):
                self._one(inode).sync()
            case Settle():
                for inode in (*self._files, *self._directories):
                    self._one(inode).sync()
            case Mark():
                pass

    def pending(self) -> tuple[list[Operation], list[Cell]]:
        """What is not durable: changes of names, and bytes and lengths."""
        operations = [one for directory in self._directories.values() for one in directory.pending]
        cells = [
            Cell(inode, number, versions, self._text_of_cell(inode, number))
            for inode, file in self._files.items()
            for number, versions in file.pending()
        ]
        return operations, cells

    def reached(self, there: AbstractSet[Operation]) -> set[int]:
        """The files that have a name when these changes of names are there."""
        return {inode for _, inode in self._walk(there) if inode in self._files}

    def after(
        self, there: AbstractSet[Operation], versions: Mapping[Cell, int]
    ) -> tuple[dict[str, int], dict[str, tuple[int, Data]]]:
        """The directories and files when these changes of names are there, and these versions of what is pending."""
        chosen: dict[int, dict[int, int]] = {}
        for cell, version in versions.items():
            chosen.setdefault(cell.inode, {})[cell.number] = version
        directories: dict[str, int] = {}
        contents: dict[str, tuple[int, Data]] = {}
        held: dict[int, Data] = {}
        for path, inode in self._walk(there):
            if inode in self._directories:
                directories[path] = inode
            else:
                if inode not in held:
                    held[inode] = self._files[inode].data(chosen.get(inode, {}))
                contents[path] = inode, held[inode]
        return directories, contents

    def text_of(self, event: Event) -> str:
        """An event in words."""
        paths = self._paths
        match event:
            case Make(directory, name, _, is_directory):
                return f"{'mkdir' if is_directory else 'create'} {self._path(directory, name)}"
            case Link(directory, name, inode):
                return f"link {paths[inode]} {self._path(directory, name)}"
            case Rename(directory, source, target):
                return f"rename {self._path(directory, source)} {self._path(directory, target)}"
            case Unlink(directory, name):
                return f"unlink {self._path(directory, name)}"
            case Write(inode, offset, data):
                return f"write {len(data)} at {offset} of {paths[inode]}"
            case Resize(inode, size):
                return f"resize {paths[inode]} to {size}"
            case Sync(inode):
                return f"fsync {paths[inode]}"
            case Settle():
                return "all of it durable"
            case Mark(value):
                return f"mark {value!r:.200}"

    def _change(self, event: Make | Link | Rename | Unlink) -> None:
        directory = self._directories[event.directory]
        names: dict[str, int | None]
        match event:
            case Make(_, name, inode) | Link(_, name, inode):
                names = {name: inode}
            case Rename(_, source, target):
                names = {source: None, target: directory.now[source]}
            case Unlink(_, name):
                names = {name: None}
        if isinstance(event, Make):
            if event.is_directory:
                self._directories[event.inode] = _Directory()
            else:
                self._files[event.inode] = _File()
        directory.change(event.directory, names, self.text_of(event))
        self._paths |= {inode: self._path(event.directory, name) for name, inode in names.items() if inode is not None}

    def _one(self, inode: int) -> _File | _Directory:
        return self._files[inode] if inode in self._files else self._directories[inode]

    def _path(self, directory: int, name: str) -> str:
        return _below(self._paths[directory], name)

    def _text_of_cell(self, inode: int, number: int) -> str:
        what = "the length" if number == _LENGTH else f"sector {number}"
        return f"{what} of {self._paths[inode]}"

    def _walk(self, there: AbstractSet[Operation]) -> Iterator[tuple[str, int]]:
        """All paths, each behind that of its directory."""
        ahead = [(".", ROOT)]
        while ahead:
            path, directory = ahead.pop()
            for name, inode in self._directories[directory].after(there).items():
                yield _below(path, name), inode
                if inode in self._directories:
                    ahead.append((_below(path, name), inode))


def _below(path: str, name: str) -> str:
    return name if path == "." else f"{path}/{name}"


def _apply(now: dict[str, int], names: Mapping[str, int | None]) -> None:
    for name, inode in names.items():
        if inode is None:
            now.pop(name, None)
        else:
            now[name] = inode
