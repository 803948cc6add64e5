"""A list in memory, behind the same contract as a disk: for tests, and for services that only need one process's life.

It keeps encoded bytes, so it aliases nothing that its user holds.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter

from msgspec.structs import replace

from ..errors import (
    ClosedError,
    ConflictError,
    CorruptSnapshotError,
    FencedError,
    LockedError,
    SnapshotNotFoundError,
    StaleSnapshotError,
)
from .base import Backend, Batch, Blob, Bounds, Claim, Epoch, Index, Position, Source, Stored

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


class MemoryBackend(Backend):
    """Snapshots and a journal in this process's memory; gone with the object."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._kept: list[tuple[str, bytes]] = []
        self._count = 0
        self._batches: list[Batch] = []
        self._first = Index(1)
        self._epoch = Epoch(0)
        self._claimed = False

    @property
    def where(self) -> str:
        return "memory"

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        body = b"".join(blob.body())
        data = blob.head() + body
        with self._mutex:
            stored = self._position(blob)
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

    def _position(self, blob: Blob) -> Position:
        """The latest's position, by its head; where that is damaged, there is nothing to go back behind."""
        try:
            return blob.position_of(_Bytes(*self._kept[0])) if self._kept else Position(0)
        except CorruptSnapshotError:
            return Position(0)

    # ------------------------------------------------------------------ journal

    def claim(self, epoch: Epoch | None = None) -> Claim:
        with self._mutex:
            if self._claimed:
                raise LockedError(self.where)
            if epoch is not None and epoch <= self._epoch:
                raise FencedError(self.where, epoch=epoch, found=self._epoch)
            self._epoch = Epoch(self._epoch + 1) if epoch is None else epoch
            self._claimed = True
            return Claim(self._epoch, self._bounds(), self._batches[-1] if self._batches else None)

    def append(self, batch: Batch) -> None:
        with self._mutex:
            self._check_claim()
            last = self._bounds().last
            if batch.epoch != self._epoch:
                raise FencedError(self.where, epoch=batch.epoch, found=self._epoch)
            if batch.first != last + 1:
                raise ConflictError(expected=batch.first - 1, found=last)
            self._batches.append(batch if type(batch.data) is bytes else replace(batch, data=bytes(batch.data)))

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        with self._mutex:
            start = bisect_left(self._batches, max(after + 1, self._first), key=attrgetter("last"))
            end, size = start, 0
            while end < len(self._batches) and (size < max_bytes or end == start):
                size += len(self._batches[end].data)
                end += 1
            return self._batches[start:end] if self._first <= self._bounds().last else []

    def bounds(self) -> Bounds:
        with self._mutex:
            return self._bounds()

    def truncate_before(self, index: Index) -> None:
        with self._mutex:
            self._check_claim()
            self._first = max(self._first, index)
            gone = bisect_left(self._batches, self._first, key=attrgetter("last"))
            del self._batches[: min(gone, len(self._batches) - 1)]

    def release(self) -> None:
        with self._mutex:
            self._claimed = False

    def _bounds(self) -> Bounds:
        return Bounds(self._first, self._batches[-1].last if self._batches else Index(self._first - 1))

    def _check_claim(self) -> None:
        if not self._claimed:
            raise ClosedError(self.where)
