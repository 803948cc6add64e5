"""Reading a journal: with no claim, beside a writer, in any process.

A reader finds what it looks for by the frames' own headers, holds no file from one call to the next, and makes what it
returns durable unless it knows that it is. What its own process's writer has not acknowledged, it does not return. In
another process it cannot tell a batch that is being written from one that is damaged, so it looks again before it says.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from itertools import count

import msgspec

from ..base import Batch, Bounds, Epoch, Index
from ._disk import Disk, Step
from ._frames import SEGMENT_HEADER_BYTES, is_zero
from ._record import Record
from ._scan import NEAR_BYTES, any_behind, frames_from, seek
from ._segment import Segment
from ._segments import Segments

__all__ = ["Known", "Reader"]

_LOOKS = 5
_PAUSE_S = 0.01
_HINTS = 64


class Known(msgspec.Struct, frozen=True):
    """What a writer in this process knows.

    Attributes:
        bounds: What the journal holds.
        base: Which segment it writes.
        end: Where that ends.
    """

    bounds: Bounds
    base: int
    end: int


class _Stretch(msgspec.Struct):
    """What was read of one segment.

    Attributes:
        batches: The batches from the index on that was looked for.
        end: Where what was read ends.
        index: The index that would follow.
    """

    batches: list[Batch]
    end: int
    index: int


class Reader:
    """Reads the journal of one directory.

    Args:
        disk: What makes durable what is returned.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._durable = (b"", 0)
        self._tail = (b"", 0, 0)
        self._torn = b""
        self._hints: dict[int, tuple[bytes, int]] = {}

    def bounds(self, segments: Segments) -> Bounds:
        """What the journal holds; a batch that a crash has left unfinished is none."""
        while True:
            record, bases = segments.layout()
            if record is None:
                return Bounds(Index(1), Index(0))
            if not bases:
                return Bounds(Index(record.first), Index(record.first - 1))
            segment = segments.open(bases[-1], record.store)
            if segment is not None:  # or else it was truncated meanwhile
                break
        with segment:
            last = self._last(segment)
            if record.first > last + 1:
                raise segment.corrupt("the last batch is missing", offset=SEGMENT_HEADER_BYTES, index=last + 1)
        return Bounds(Index(record.first), Index(last))

    def _last(self, segment: Segment) -> int:
        """The index of its last entry, or of the last before it where it has none; from where it ended last time on."""
        read, seed = segment.source.read, segment.seed
        mark, end, last = self._tail
        if mark == seed.mark:
            for frame, _ in frames_from(read, seed, end, 0):
                end, last = frame.end, frame.last
        behind = read(end, NEAR_BYTES)
        if mark != seed.mark or not (is_zero(behind) or behind == self._torn):
            tail = segment.tail_beside_a_writer()
            end, last = tail.end, seed.base - 1 if tail.last is None else tail.last.last
            self._torn = read(end, NEAR_BYTES) if tail.torn_bytes else b""
        self._make_durable(segment, end)
        self._tail = (seed.mark, end, last)
        return last

    def read(self, segments: Segments, after: int, max_bytes: int, known: Known | None) -> Sequence[Batch]:
        """As `JournalBackend.read`.

        Args:
            segments: The journal's files.
            after: The index behind which to read.
            max_bytes: How much to read, about.
            known: What a writer in this process knows; None where there is none.
        """
        while True:
            record, bases = segments.layout()
            if record is None:
                return ()
            target = max(after + 1, _kept_from(record, bases, known))
            if known is not None and target > known.bounds.last:
                return ()
            for at in range(max(0, bisect_right(bases, target) - 1), len(bases)):
                segment = segments.open(bases[at], record.store)
                if segment is None:  # it was truncated meanwhile
                    break
                following = bases[at + 1] if at + 1 < len(bases) else None
                with segment:
                    batches = self._of(segment, max(target, bases[at]), following, max_bytes, known)
                if batches:
                    return batches
            else:
                return ()

    def _of(
        self, segment: Segment, target: int, following: int | None, max_bytes: int, known: Known | None
    ) -> list[Batch]:
        """The batches of a segment from `target` on, up to where the following one begins; none where it ends there.

        Raises:
            CorruptJournalError: There should be more than can be read.
        """
        for look in count(1):
            stretch = self._stretch(segment, target, following, max_bytes, known)
            if stretch.batches:
                if known is None and following is None:
                    self._make_durable(segment, stretch.end)
                return stretch.batches
            if following is not None and stretch.index == following:
                return []
            if following is not None or known is not None:
                raise segment.corrupt("a batch is damaged or missing", offset=stretch.end, index=stretch.index)
            if not any_behind(segment.source.read, stretch.end):
                return []
            if look < _LOOKS:
                time.sleep(_PAUSE_S)  # it may be being written
                continue
            last = segment.tail_beside_a_writer().last  # raises, unless a crash has left it unfinished
            if last is None or last.last < stretch.index:
                return []
            if look > _LOOKS:
                raise segment.corrupt("a batch is damaged or missing", offset=stretch.end, index=stretch.index)
        raise AssertionError("it never ends by itself")

    def _stretch(
        self, segment: Segment, target: int, following: int | None, max_bytes: int, known: Known | None
    ) -> _Stretch:
        source, seed = segment.source, segment.seed
        end = known.end if known is not None and known.base == seed.base else source.size_bytes
        last = known.bounds.last if known is not None else None
        at = self._start(segment, target, end)
        found = _Stretch([], at, target)
        size = 0
        for frame, payload in frames_from(source.read, seed, at, min(max_bytes, end - at)):
            if following is not None and frame.first >= following:
                break
            if last is not None and frame.first > last:
                break
            found.end, found.index = frame.end, frame.last + 1
            if frame.last >= target:
                found.batches.append(Batch(Index(frame.first), frame.count, Epoch(frame.epoch), bytes(payload)))
                size += len(payload)
                if size >= max_bytes:
                    break
        if found.batches:
            self._remember(segment, found)
        return found

    def _start(self, segment: Segment, target: int, end: int) -> int:
        """Where to begin to look for an index: right there, if it was come to before, or near."""
        mark, offset = self._hints.get(target, (b"", 0))
        return offset if mark == segment.seed.mark else seek(segment.source.read, segment.seed, end, target)

    def _remember(self, segment: Segment, found: _Stretch) -> None:
        hints = dict(list(self._hints.items())[1 - _HINTS :])
        hints[found.index] = (segment.seed.mark, found.end)
        self._hints = hints  # at once, for other threads read as well

    def _make_durable(self, segment: Segment, end: int) -> None:
        mark, durable_end = self._durable
        if mark != segment.seed.mark or end > durable_end:
            try:
                with Step("fdatasync journal", segment.source.path):
                    self._disk.fdatasync(segment.source.fd)
                segment.probe()
            except OSError:  # the cache may hold what the disk does not, and the next call would believe it
                segment.source.evict()
                raise
            self._durable = (segment.seed.mark, end)


def _kept_from(record: Record, bases: list[int], known: Known | None) -> int:
    """From which index on entries are kept.

    The record is ahead of the writer while a truncation is made durable. Until it is, a reader in the writer's process
    is told the writer's bounds; what it reads must be no less, as long as it is there.
    """
    if known is not None and bases and bases[0] <= known.bounds.first:
        return known.bounds.first
    return record.first
