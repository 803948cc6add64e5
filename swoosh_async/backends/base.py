"""The contract between the async rooms and a place that keeps bytes: what a third party implements.

Bytes and positions in, bytes and positions out. A backend is blocking, is called in worker threads, and knows neither
the types behind the bytes nor the event loop before it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NewType, Protocol, Self

import msgspec

__all__ = ["Blob", "Position", "SnapshotBackend", "Source", "Stored"]

Position = NewType("Position", int)
"""The index of the last event that is in a snapshot, 0 ≤ position < 2**64."""


class Source(ABC):
    """Stored bytes, open for reading; a context manager that closes them.

    Attributes:
        name: Which snapshot this is, as `SnapshotBackend.names` gives it.
        size_bytes: How long it is.
    """

    name: str
    size_bytes: int

    @property
    def path(self) -> str:
        """Its whole path, where it has one, or else its name; for messages."""
        return self.name

    @abstractmethod
    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` with the bytes from `offset` on, and return how many there were: fewer only at the end.

        Raises:
            BackendError: They cannot be read.
        """

    def read(self, offset: int, size: int) -> bytes:
        """The `size` bytes from `offset` on; fewer only at the end."""
        buffer = bytearray(max(0, min(size, self.size_bytes - offset)))
        return bytes(memoryview(buffer)[: self.read_into(memoryview(buffer), offset)])

    def close(self) -> None:
        """Let go of it."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Blob(Protocol):
    """What a backend is given to store: a body in pieces, and a head of known length that is known last.

    The head stands before the body and holds its checksum, so a backend leaves room for it and fills it in at the end
    (or keeps back the first part of an upload). What `body` raises refuses the blob: nothing may have changed then.
    """

    @property
    def position(self) -> Position:
        """The position that the snapshot stands for."""
        ...

    @property
    def head_bytes(self) -> int:
        """The length of the head."""
        ...

    def body(self) -> Iterator[bytes]:
        """The pieces that follow the head; asked for once."""
        ...

    def head(self) -> bytes:
        """The head, once the body is exhausted."""
        ...

    def position_of(self, stored: Source) -> Position:
        """The position that a stored snapshot stands for, by its head; whoever is about to replace it must ask.

        Raises:
            CorruptSnapshotError: Its head is damaged.
            FormatVersionError: It is intact but newer than this writer knows, and must not be overwritten.
            SchemaVersionError: Likewise.
        """
        ...

    def verify(self, stored: Source) -> None:
        """Check all of a stored snapshot.

        Raises:
            CorruptSnapshotError: It is not what was written.
        """
        ...


class Stored(msgspec.Struct, frozen=True):
    """What was stored.

    Attributes:
        name: A permanent name: it never stands for another snapshot, but may come to stand for none.
        size_bytes: The length in bytes.
    """

    name: str
    size_bytes: int


class SnapshotBackend(ABC):
    """Generations of opaque snapshots, the newest of which is the latest.

    Every method may be called from any thread and from several at once.
    """

    @property
    @abstractmethod
    def where(self) -> str:
        """What it is called in messages."""

    @abstractmethod
    def put(self, blob: Blob, *, keep: int, allow_rollback: bool) -> Stored:
        """Make `blob` the latest snapshot.

        Atomicity: afterwards, whatever happens meanwhile, the latest is either this one, whole, or the one before.
        Order: a position below the stored one is refused, in one step with the storing, unless `allow_rollback`.
        Durability: on return it survives a power cut; only then are generations beyond the `keep` newest removed.
        Concurrency: of several writers, in any number of processes, one goes at a time.

        Raises:
            StaleSnapshotError: The stored position is higher; nothing has changed.
            FormatVersionError: What is stored is newer than this writer knows; nothing has changed.
            SchemaVersionError: Likewise.
            LockedError: Another writer did not end in time; nothing has changed.
            LimitExceededError: It is larger than may be read again; nothing has changed.
            BackendError: A step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may have become the latest.
        """

    @abstractmethod
    def open(self, name: str | None = None) -> Source:
        """Open the snapshot of that name, or the latest; on return, what it shows survives a power cut.

        Raises:
            SnapshotNotFoundError: There is none.
            BackendError: It cannot be opened.
        """

    @abstractmethod
    def names(self) -> Sequence[str]:
        """The names of what is kept, newest first; the first is the latest.

        Raises:
            BackendError: They cannot be listed.
        """

    @abstractmethod
    def prune(self, keep: int) -> Sequence[str]:
        """Remove all but the `keep` ≥ 1 newest, and return the names that were removed.

        Raises:
            LockedError: Another writer did not end in time.
            BackendError: A step failed.
        """
