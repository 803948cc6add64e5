"""A journal's entries by the page: batches as a backend gives them, and the entries that are in them.

This file knows backends and codecs, and no event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, repeat
from typing import Generic, TypeVar

from ._entries import Entry, Origin
from .backends.base import Batch, Index, JournalBackend
from .clock import Timestamp
from .codec import EventCodec, EventsDamagedError
from .errors import CorruptJournalError, TruncatedError

__all__ = ["PAGE_BYTES", "Pages"]

E = TypeVar("E")

PAGE_BYTES = 1 << 20
"""How much is read at a time, about, in bytes."""


class Pages(Generic[E]):
    """The reading half of a journal.

    Args:
        backend: Where the bytes are kept.
        codec: The events' codec.
    """

    def __init__(self, backend: JournalBackend, codec: EventCodec[E]) -> None:
        self._backend = backend
        self._codec = codec

    def read(self, after: int, last: int, max_bytes: int | None = None) -> Sequence[Batch]:
        """Some of the batches with entries behind `after`, which is before `last`; in a worker thread.

        Raises:
            TruncatedError: The first of these entries is kept no more.
            CorruptJournalError: A batch is damaged or missing.
            SwooshError: As `JournalBackend.read`.
        """
        batches = self._backend.read(Index(after), PAGE_BYTES if max_bytes is None else max_bytes)
        if batches and batches[0].first <= after + 1 <= batches[0].last:
            return batches
        first = self._backend.bounds().first
        if first > after + 1:
            raise TruncatedError(self._backend.where, after=after, first=first)
        reason = f"it is missing, of {last}"
        raise CorruptJournalError(self._backend.where, reason, offset=None, index=after + 1)

    def time_of(self, index: int) -> Timestamp:
        """When the entry with that index was appended; in a worker thread.

        Raises:
            TruncatedError: It is kept no more.
            CorruptJournalError: Its batch has no timestamp.
            SwooshError: As `JournalBackend.read`.
        """
        batch = self.read(index - 1, index, 1)[0]
        try:
            return self._codec.stamp(batch.data, batch.count).plus(index - batch.first)
        except EventsDamagedError as error:
            raise CorruptJournalError(self._backend.where, error.reason, offset=None, index=index) from None

    def entries(self, batches: Sequence[Batch], after: int, last: int) -> Iterator[list[Entry[E]]]:
        """The entries of these batches behind `after` and up to `last`, some at a time.

        Decoding holds the GIL wherever it is done, so it is done where the entries are used, when they are; some tenths
        of a millisecond at a time, unless one event takes longer.

        Raises:
            CorruptJournalError: They do not decode as the event type.
        """
        for batch in batches:
            try:
                origin = Origin(batch.first, self._codec.stamp(batch.data, batch.count))
                begin = batch.first
                for part in self._codec.parts(batch.data):
                    if begin > last:
                        return
                    if begin + part.count > after + 1:
                        entries = list(map(Entry, count(begin), repeat(origin), self._codec.events(part)))
                        whole = begin > after and begin + part.count - 1 <= last
                        yield entries if whole else entries[max(0, after + 1 - begin) : last + 1 - begin]
                    begin = Index(begin + part.count)
                if begin != batch.last + 1:
                    reason = f"the batch has {begin - batch.first} events where there should be {batch.count}"
                    raise EventsDamagedError(reason, skip=min(begin - batch.first, batch.count - 1))
            except EventsDamagedError as error:
                raise CorruptJournalError(
                    self._backend.where,
                    error.reason,
                    offset=None,
                    index=batch.first + error.skip,
                    todo="read it as the event type that it was written with, or give that type's new fields defaults",
                ) from None
