"""A list in memory, behind the same contract as a disk: for tests, and for services that only need one process's life.

It keeps encoded bytes, so it aliases nothing that its user holds.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..errors import SnapshotNotFoundError, StaleSnapshotError
from .base import Blob, Position, SnapshotBackend, Source, Stored

__all__ = ["MemoryBackend"]


class _Bytes(Source):
    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.size_bytes = len(data)
        self._data = data

    def read_into(self, buffer: memoryview, offset: int) -> int:
        piece = self._data[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)


class MemoryBackend(SnapshotBackend):
    """Snapshots in this process's memory; gone with the object."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._kept: list[tuple[str, bytes]] = []
        self._count = 0

    @property
    def where(self) -> str:
        return "memory"

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        body = b"".join(blob.body())
        data = blob.head() + body
        with self._mutex:
            stored = blob.position_of(_Bytes(*self._kept[0])) if self._kept else Position(0)
            if blob.position < stored and not allow_rollback:
                raise StaleSnapshotError(self.where, index=blob.position, stored=stored)
            self._count += 1
            name = f"{self._count:010d}-{blob.position:020d}"
            self._kept = [(name, data), *self._kept[: keep - 1]]
        return Stored(name, len(data))

    def open(self, name: str | None = None) -> Source:
        with self._mutex:
            for kept, data in self._kept:
                if name is None or kept == name:
                    return _Bytes(kept, data)
        raise SnapshotNotFoundError(f"{self.where}{'' if name is None else f': {name}'}")

    def names(self) -> Sequence[str]:
        with self._mutex:
            return [name for name, _ in self._kept]

    def prune(self, keep: int) -> Sequence[str]:
        with self._mutex:
            gone = self._kept[keep:]
            self._kept = self._kept[:keep]
        return [name for name, _ in gone]
