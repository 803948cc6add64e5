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

__all__ = [
    "EPOCHS_END",
    "Backend",
    "Batch",
    "Blob",
    "Bounds",
    "Claim",
    "Epoch",
    "Index",
    "JournalBackend",
    "Position",
    "SnapshotBackend",
    "Source",
    "Stored",
]

Position = NewType("Position", int)
"""The index of the last event that is in a snapshot, 0 ≤ position < 2**64."""

Index = NewType("Index", int)
"""The place of an entry in a journal: 1 for the first, 0 for before the first."""

Epoch = NewType("Epoch", int)
"""Which claim of a journal this is: 1 for the first, 0 for before the first; below `EPOCHS_END`."""

EPOCHS_END = 1 << 63


class Source(ABC):
    """Stored bytes, open for reading; a context manager that closes them.

    Attributes:
        name: Which snapshot this is: a name by which it can be opened, though the latest may have one that moves on
            from it to the next, as a file's path does.
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
        name: A name as `SnapshotBackend.names` gives it. Where more than one is kept it is permanent: it never stands
            for another snapshot, but may come to stand for none. Where only one is kept, it may be the latest's own.
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
        Order: a position below the stored one is refused, in one step with the storing, unless `allow_rollback`; where
        what is stored is damaged, so that nobody can tell, it is not.
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


class Batch(msgspec.Struct, frozen=True):
    """Entries that become durable together, opaque.

    Attributes:
        first: The index of the first of them.
        count: How many they are, ≥ 1.
        epoch: The epoch of their writer.
        data: Their bytes.
    """

    first: Index
    count: int
    epoch: Epoch
    data: bytes

    @property
    def last(self) -> Index:
        """The index of the last of them."""
        return Index(self.first + self.count - 1)


class Bounds(msgspec.Struct, frozen=True):
    """What a journal holds.

    Attributes:
        first: The index of the first entry that is kept; ``last + 1`` where none is.
        last: The index of the last entry that was appended; 0 where none was.
    """

    first: Index
    last: Index


class Claim(msgspec.Struct, frozen=True):
    """A writer's turn.

    Attributes:
        epoch: Its epoch.
        bounds: What the journal holds.
        tail: The last batch, also where none of its entries is kept any more; None where there was none ever.
        torn_bytes: How long what was cut off is: a batch that a crash had left unfinished.
    """

    epoch: Epoch
    bounds: Bounds
    tail: Batch | None = None
    torn_bytes: int = 0


class JournalBackend(ABC):
    """Batches of opaque entries whose indexes have no gaps, appended by one writer at a time, read by anybody.

    Every method may be called from any thread; those of the writer (`append`, `truncate_before`, `release`) one at a
    time.
    """

    @property
    @abstractmethod
    def where(self) -> str:
        """What it is called in messages."""

    @property
    def patience_s(self) -> float:
        """How long to go on claiming while another writer lives, in seconds, where the user does not say."""
        return 0.0

    @abstractmethod
    def claim(self, epoch: Epoch | None = None) -> Claim:
        """Become the writer, without waiting for another.

        Atomicity: of several claims at once, one goes first.
        Order: the epoch is higher than all before; it is the given one (of an election, say), or the next.
        Durability: on return the epoch, and all that is within the bounds, survive a power cut.
        Concurrency: a home that can tell that a former writer lives refuses; any other fences it off.

        Raises:
            LockedError: Another writer lives.
            FencedError: There was a claim with the given epoch, or a later one.
            CorruptJournalError: What is there is not what was written; nothing was changed.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: A step failed; it may be tried again.
            OutcomeUnknownError: A step failed after which the epoch may have been taken; likewise.
        """

    @abstractmethod
    def append(self, batch: Batch) -> None:
        """Add a batch behind the last.

        Atomicity: all of it is added, or none.
        Order: only right behind the last index, and only while its epoch is the latest.
        Durability: on return it survives a power cut.
        Concurrency: one call at a time.

        Raises:
            ConflictError: It does not follow the last index; nothing has changed.
            FencedError: There is a later claim; nothing has changed.
            LockedError: This process is a fork of the one that made the claim; nothing has changed.
            ClosedError: There is no claim; nothing has changed.
            LimitExceededError: It is larger than may be read again; nothing has changed.
            BackendError: A step failed; nothing has changed.
            OutcomeUnknownError: A step failed after which it may have been added; a new claim, after a release, tells.
            PoisonedError: An earlier outcome is unknown; likewise.
        """

    @abstractmethod
    def read(self, after: Index, max_bytes: int) -> Sequence[Batch]:
        """The batches with entries behind `after`, in order: as many as are about `max_bytes` long, and one at least.

        Atomicity: a batch is returned as it was appended, all of it.
        Order: each follows the one before; the first holds ``after + 1`` or, where that is kept no more, what is.
        Durability: what is returned survives a power cut.
        Concurrency: any number of readers, beside a writer, in any process; none of them needs a claim.

        Raises:
            CorruptJournalError: A batch is damaged or missing.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
        """

    @abstractmethod
    def bounds(self) -> Bounds:
        """What it holds; raises as `read` does."""

    @abstractmethod
    def truncate_before(self, index: Index) -> None:
        """Keep no entry before `index`, which is ``last + 1`` at most.

        Where nothing was appended ever, it may be any: the first entry to come has that index.

        Atomicity: the bounds change at once, though bytes may go one after the other, the oldest first.
        Order: entries go from the oldest on; the last batch stays for the next claim to see.
        Durability: on return the new bounds survive a power cut.
        Concurrency: as `append`; a reader on its way finds what it looks for, or that it is kept no more.

        Raises:
            FencedError: There is a later claim; nothing has changed.
            LockedError: This process is a fork of the one that made the claim; nothing has changed.
            ClosedError: There is no claim; nothing has changed.
            BackendError: A step failed; nothing has changed but that old bytes may be gone.
            OutcomeUnknownError: A step failed after which the bounds may have changed.
            PoisonedError: An earlier outcome is unknown; a new claim tells.
        """

    @abstractmethod
    def release(self) -> None:
        """End the claim; without one, nothing happens."""


class Backend(SnapshotBackend, JournalBackend):
    """A place for both: an orchestrator's snapshots, and the journal of what happened since."""
