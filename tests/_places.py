"""Places for the suites: our own homes, and a server of which backends are clients that fence one another off."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from swoosh_async.backends.base import (
    Backend,
    Batch,
    Blob,
    Bounds,
    Claim,
    Epoch,
    Index,
    JournalBackend,
    SnapshotBackend,
    Source,
    Stored,
)
from swoosh_async.backends.memory import MemoryBackend
from swoosh_async.errors import ClosedError, CorruptJournalError, FencedError
from swoosh_async.testing import CrashDisk, Place, Trace, crash_states

B = TypeVar("B", bound=SnapshotBackend | JournalBackend)


class InMemory(Place[MemoryBackend]):
    """A backend in memory, which is all that there is."""

    def __init__(self) -> None:
        self.memory = MemoryBackend()

    def open(self) -> MemoryBackend:
        return self.memory


class Shelf(InMemory):
    """The same for snapshots only, of which a backend keeps no checksums of its own."""

    def damage(self, stored: bytes, damaged: bytes) -> None:
        damage_snapshots(self.memory, stored, damaged)


class InFiles(Place[B]):
    """A directory of files, on a disk that knows what of them is durable.

    Args:
        root: An empty directory.
        make: Makes a backend in a directory, on a disk.
        disk: What kind of disk.
    """

    def __init__(self, root: Path, make: Callable[[Path, CrashDisk], B], disk: type[CrashDisk] = CrashDisk) -> None:
        self._root = root
        self._make = make
        self._kind = disk
        self._crashes = 0
        self._disk = self._new_disk()
        self._backends: list[B] = []

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._disk.root / "d"

    def _new_disk(self) -> CrashDisk:
        made = self._root / f"{self._crashes}"
        made.mkdir(exist_ok=True)
        return self._kind(made)

    def open(self) -> B:
        backend = self._make(self.directory, self._disk)
        self._backends.append(backend)
        return backend

    def damage(self, stored: bytes, damaged: bytes) -> None:
        found = [path for path in self.directory.iterdir() if stored in path.read_bytes()]
        assert found
        for path in found:
            os.utime(path, (0, 0))  # or else, within one tick of the clock, it might pass for the same
            path.write_bytes(path.read_bytes().replace(stored, damaged))

    def crash(self) -> None:
        events = self._disk.trace.events
        everything_lost = next(crash_states(Trace(events, len(events)), limit=8))
        for backend in self._backends:
            if isinstance(backend, JournalBackend):
                backend.release()
        self._backends.clear()
        self._crashes += 1
        after = self._root / f"{self._crashes}"
        after.mkdir()
        everything_lost.write_to(after)
        self._disk = self._new_disk()


class Server(Place["Client"]):
    """Something beyond a network, with any number of clients, whose changes are durable when it is told so.

    Args:
        kind: What the clients are.

    Attributes:
        memory: What is there.
        turn: Held by who changes it.
        sums: The checksum of each batch, by its first index.
        notes: What else clients of some kind tell one another.
    """

    def __init__(self, kind: type[Client] | None = None) -> None:
        self.memory = MemoryBackend()
        self.turn = threading.RLock()
        self.sums: dict[int, str] = {}
        self.notes: dict[str, Any] = {}
        self._kind = kind or Client
        self._durable: dict[str, Any] = {}
        self.settle()

    def open(self) -> Client:
        return self._kind(self)

    def damage(self, stored: bytes, damaged: bytes) -> None:
        batches = self.memory._batches
        batches[:] = [replace(one, data=one.data.replace(stored, damaged)) for one in batches]
        damage_snapshots(self.memory, stored, damaged)

    def crash(self) -> None:
        with self.turn:
            vars(self.memory).update(_copy(self._durable))

    def settle(self) -> None:
        """Make durable all that is there."""
        self._durable = _copy(vars(self.memory))


class Client(Backend):
    """A connection to a server, and not broken in itself.

    Args:
        server: The server.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.epoch: Epoch | None = None

    @property
    def memory(self) -> MemoryBackend:
        """What the server holds."""
        return self.server.memory

    @property
    def where(self) -> str:
        return "server"

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One change at a time, which is durable at the end."""
        with self.server.turn:
            yield
            self.server.settle()

    # ------------------------------------------------------------------ snapshots

    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        stored = self.memory.put(blob, keep=keep, allow_rollback=allow_rollback)
        with self.changing():
            return stored

    def open(self, name: str | None = None) -> Source:
        return self.memory.open(name)

    def names(self) -> Sequence[str]:
        return self.memory.names()

    def prune(self, keep: int) -> Sequence[str]:
        with self.changing():
            return self.memory.prune(keep)

    # ------------------------------------------------------------------ journal

    def claim(self, epoch: Epoch | None = None) -> Claim:
        with self.changing():
            self.memory.release()
            claim = self.memory.claim(epoch)
            if claim.tail is not None:
                self.check(claim.tail)
            self.epoch = claim.epoch
            return claim

    def append(self, batch: Batch) -> None:
        with self.changing():
            self.check_turn()
            self.memory.append(batch)
            self.server.sums[batch.first] = hashlib.sha256(batch.data).hexdigest()

    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        with self.server.turn:
            page = self.memory.read(after, max_bytes)
            for one in page:
                self.check(one)
            return page

    def bounds(self) -> Bounds:
        return self.memory.bounds()

    def truncate_before(self, index: Index) -> None:
        with self.changing():
            self.check_turn()
            self.memory.truncate_before(index)

    def release(self) -> None:
        self.epoch = None

    def check_turn(self) -> None:
        """Check that this client's claim is the latest."""
        if self.epoch is None:
            raise ClosedError(self.where)
        if self.epoch != self.memory._epoch:
            raise FencedError(self.where, epoch=self.epoch, found=self.memory._epoch)

    def check(self, batch: Batch) -> None:
        """Check that a batch is as it was appended."""
        if hashlib.sha256(batch.data).hexdigest() != self.server.sums[batch.first]:
            raise CorruptJournalError(self.where, "damaged", offset=None, index=batch.first)


def damage_snapshots(memory: MemoryBackend, stored: bytes, damaged: bytes) -> None:
    """Change what snapshots in memory hold."""
    memory._kept = [(name, data.replace(stored, damaged)) for name, data in memory._kept]


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in state.items() if name != "_mutex"}
    return {name: list(value) if isinstance(value, list) else value for name, value in kept.items()}
