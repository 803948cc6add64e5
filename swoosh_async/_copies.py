"""A backend's contents in another one, up to some index: snapshots and batches as they are stored, whatever is in them.

This file knows no event loop and no types. A copy is made in steps, so that who waits for it can be cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from typing import Any

from ._pages import Pages
from ._recovery import check_end, none_whole
from .backends.base import Backend, Batch, Epoch, Index, Position, Source
from .clock import Timestamp
from .codec import EventCodec, EventsDamagedError, Facts, SnapshotCodec
from .errors import CorruptJournalError, CorruptSnapshotError, SnapshotNotFoundError, TruncatedError
from .models import Cursor

__all__ = ["copying"]

_PIECE_BYTES = 1 << 20

_log = logging.getLogger("swoosh_async")


class _Verbatim:
    """A stored snapshot on its way to another place."""

    def __init__(self, source: Source, facts: Facts, codec: SnapshotCodec[Any]) -> None:
        self._source = source
        self._codec = codec
        self.cursor = facts.cursor
        self.position = Position(facts.cursor.index)
        self.head_bytes = 0

    def body(self) -> Iterator[bytes]:
        for at in range(0, self._source.size_bytes, _PIECE_BYTES):
            yield self._source.read(at, _PIECE_BYTES)

    def head(self) -> bytes:
        return b""

    def position_of(self, stored: Source) -> Position:
        return Position(self._codec.facts(stored).cursor.index)

    def verify(self, stored: Source) -> None:
        self._codec.verify(stored)


def copying(source: Backend, target: Backend, until: int | None) -> Generator[None, None, Cursor]:
    """Copy what leads up to index `until`, or to the last, into an empty backend; returns where that stands.

    Raises:
        ValueError: There is no such index yet.
        TruncatedError: What leads to it is kept no more, or is no more since this began.
        CorruptSnapshotError: No snapshot is whole, and the journal does not reach back to the first event.
        SwooshError: As `Backend` raises them.
    """
    with ExitStack() as stack:
        snapshots: list[_Verbatim] = []
        wrong: list[CorruptSnapshotError] = []
        for snapshot in _snapshots(source, stack, wrong):
            if until is None or snapshot.position <= until:
                snapshots.append(snapshot)
            yield
        bounds = source.bounds()
        last = bounds.last if until is None else until
        if not 0 <= last <= bounds.last:
            raise ValueError(f"index must be 0 to {bounds.last}, which is the last")
        newest = max((snapshot.cursor for snapshot in snapshots), default=Cursor())
        check_end(source.where, newest.index, bounds.last)
        if until is None and not snapshots and wrong and (bounds.first > 1 or bounds.last == 0):
            raise none_whole(source.where, wrong[::-1], bounds.first)
        if bounds.first > 1 and (not snapshots or newest.index < min(bounds.first - 1, last)):
            raise TruncatedError(source.where, after=newest.index, first=bounds.first, point=f"index {last}")
        time = yield from _entries(source, target, bounds.first, last)  # first, for they may be trimmed meanwhile
        for snapshot in snapshots:
            stored = target.put(snapshot, keep=len(snapshots), allow_rollback=True)
            with target.open(stored.name) as copy:
                snapshot.verify(copy)
            yield
        return newest if time is None else Cursor(last, str(time))


def _snapshots(source: Backend, stack: ExitStack, wrong: list[CorruptSnapshotError]) -> Iterator[_Verbatim]:
    """Those that are whole, the oldest first, open, so that they stay whatever is pruned; the others are in `wrong`."""
    codec: SnapshotCodec[Any] = SnapshotCodec(Any)
    for name in reversed(source.names()):
        try:
            opened = stack.enter_context(source.open(name))
            facts = codec.verify(opened)
        except SnapshotNotFoundError:  # pruned meanwhile
            continue
        except CorruptSnapshotError as error:
            _log.warning("left out of the copy: %s", error)
            wrong.append(error)
            continue
        yield _Verbatim(opened, facts, codec)


def _entries(source: Backend, target: Backend, first: int, last: int) -> Generator[None, None, Timestamp | None]:
    """Copy the entries from `first` to `last`; returns the last one's time, None where there is none."""
    codec: EventCodec[Any] = EventCodec(Any)
    pages = Pages(source, codec)
    tail = source.read(Index(last - 1), 1) if first <= last else ()
    epoch = target.claim(Epoch(tail[0].epoch) if tail else None).epoch
    try:
        if first > last:
            target.truncate_before(Index(last + 1))
            return None
        after, time = first - 1, None
        while after < last:
            for batch in pages.read(after, last):
                if batch.first > last:
                    break
                count = min(batch.last, last) - batch.first + 1
                try:
                    data = batch.data if count == batch.count else codec.beginning(batch.data, count)
                    time = codec.stamp(data, count).plus(count - 1)
                except EventsDamagedError as error:
                    raise CorruptJournalError(source.where, error.reason, offset=None, index=batch.first) from None
                if after == first - 1:
                    target.truncate_before(batch.first)  # it begins there
                target.append(Batch(batch.first, count, epoch, data))
                after = batch.first + count - 1
            yield
        target.truncate_before(Index(first))
        return time
    finally:
        target.release()
