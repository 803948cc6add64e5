"""Batches that can be told from one another, for a suite to which entries are opaque; and who writes and reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count

from ..backends.base import Batch, Bounds, Claim, Epoch, Index, JournalBackend

__all__ = ["Writer", "batch", "everything", "holds"]

_serials = count(1)


def batch(first: int, epoch: int, *, count: int = 1, data: bytes | None = None) -> Batch:
    """A batch of these entries; where `data` is not given, its bytes are like no other's."""
    if data is None:
        data = b"batch %d, from index %d on, of epoch %d. " % (next(_serials), first, epoch) * 3
    return Batch(Index(first), count, Epoch(epoch), data)


class Writer:
    """Claims a journal, appends to it, and remembers what was acknowledged.

    Args:
        backend: The journal.
        known: What was acknowledged before.
        epoch: The epoch to claim; None for the next.

    Attributes:
        claim: The claim.
    """

    def __init__(self, backend: JournalBackend, known: Iterable[Batch] = (), *, epoch: int | None = None) -> None:
        self.backend = backend
        self.known = list(known)
        self.claim: Claim = backend.claim(None if epoch is None else Epoch(epoch))
        self._next = self.claim.bounds.last + 1

    def next(self, *, count: int = 1, data: bytes | None = None) -> Batch:
        """The batch that may come next."""
        return batch(self._next, self.claim.epoch, count=count, data=data)

    def append(self, *counts: int) -> Batch:
        """Append batches of so many entries; the last of them."""
        for each in counts or (1,):
            self.add(self.next(count=each))
        return self.known[-1]

    def add(self, made: Batch) -> None:
        """Append this one."""
        self.backend.append(made)
        self.known.append(made)
        self._next = made.last + 1

    def begin_at(self, index: int) -> None:
        """Have the first entry that is ever appended have this index."""
        self.backend.truncate_before(Index(index))
        self._next = index

    def release(self) -> list[Batch]:
        """End the claim; what was acknowledged."""
        self.backend.release()
        return self.known


def everything(
    backend: JournalBackend,
    after: int = 0,
    *,
    max_bytes: int = 200,
    see: Callable[[Batch], object] = lambda _: None,
) -> list[Batch]:
    """All batches with entries behind `after`, read page by page; each follows the one before."""
    found: list[Batch] = []
    while page := _page(backend.read(Index(after), max_bytes), max_bytes):
        for one in page:
            assert one.last > after, "a batch that holds nothing of what was asked for"
            assert not found or one.first == found[-1].last + 1, "a gap, or a batch once more"
            see(one)
            found.append(one)
            after = one.last
    return found


def _page(page: Sequence[Batch], max_bytes: int) -> Sequence[Batch]:
    assert sum(len(one.data) for one in page[:-1]) <= max_bytes, "a page that is longer than was asked for"
    return page


def holds(backends: Iterable[JournalBackend], batches: Sequence[Batch], *, first: int = 1, last: int = 0) -> None:
    """Check that each of these journals holds these batches and no others.

    Args:
        backends: The journals.
        batches: What was appended ever, or the part of it from `first` on.
        first: The index of the first entry that is kept.
        last: The index of the last entry, where no batch tells it.
    """
    last = batches[-1].last if batches else last
    for backend in backends:
        assert backend.bounds() == Bounds(Index(first), Index(last))
        assert everything(backend) == [one for one in batches if one.last >= first]
