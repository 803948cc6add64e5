"""What stands in a journal's directory, for whoever only looks at it: its record, its segments, its batches one by one.

Nothing is claimed and nothing is changed, so a writer may be at work meanwhile. Unlike a reader, it tells of each
segment by itself, so that one that is damaged hides nothing of the others; and it also comes to batches that are kept
no more, as long as their bytes are there.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager

import msgspec

from ...errors import CorruptJournalError, SnapshotNotFoundError
from ..base import Batch, Epoch, Index
from ._directory import Home
from ._disk import Disk, OsDisk
from ._frames import SEGMENT_HEADER_BYTES, Frame
from ._record import Record
from ._scan import Tail, frames_from
from ._segment import Segment
from ._segments import NAME, Segments

__all__ = ["Located", "Record", "SegmentFacts", "Survey", "TornCopy"]

_WINDOW_BYTES = 1 << 20
_TORN = f"{NAME}.torn-"


class TornCopy(msgspec.Struct, frozen=True):
    """What was left of a batch that a crash had cut off, set aside by the next claim.

    Attributes:
        name: Its file's name.
        size_bytes: How long it is.
    """

    name: str
    size_bytes: int


class SegmentFacts(msgspec.Struct, frozen=True):
    """What a segment is.

    Attributes:
        path: Its file.
        base: The index of the first entry that it may hold.
        last: The index of the last entry in it; ``base - 1`` where it holds none.
        epoch: The epoch of the writer that made it.
        size_bytes: How long the file is, with the space ahead.
        end: Where its last batch ends; None unless it is the newest, for then only its length is known.
        torn_bytes: How many bytes of an unfinished batch stand at its end.
    """

    path: str
    base: int
    last: int
    epoch: int
    size_bytes: int
    end: int | None
    torn_bytes: int


class Located(msgspec.Struct, frozen=True):
    """A whole batch, and where it stands.

    Attributes:
        path: Its segment.
        offset: Where in it the batch begins, in bytes.
        end: Where it ends.
        batch: The batch.
    """

    path: str
    offset: int
    end: int
    batch: Batch


class Survey:
    """A journal's directory, looked at.

    It holds no file from one call to the next, but for `batches`, and that one segment only.

    Args:
        directory: The directory, as `FileBackend` takes it.
        disk: What flushes the directory's own name; None for the operating system's own.
    """

    def __init__(self, directory: str | os.PathLike[str], *, disk: Disk | None = None) -> None:
        self._disk: Disk = disk if disk is not None else OsDisk()
        self._home = Home(os.path.join(os.path.abspath(os.fspath(directory)), NAME), self._disk, follow=False)

    @property
    def path(self) -> str:
        """The path of its record, after which the journal is called."""
        return self._home.path

    def path_of(self, base: int) -> str:
        """The path of a segment."""
        return f"{self.path}.{base:020d}"

    def bases(self) -> Sequence[int]:
        """The segments that there are, each by the index of the first entry that it may hold, in order.

        Raises:
            BackendError: They cannot be listed.
        """
        with self._opened() as segments:
            return () if segments is None else segments.bases()

    def size_of(self, base: int) -> int:
        """How long a segment's file is, in bytes, whatever is in it; 0 where there is none.

        Raises:
            BackendError: The file cannot be looked at.
        """
        with self._opened() as segments:
            facts = None if segments is None else segments.here.facts(os.path.basename(self.path_of(base)))
            return 0 if facts is None else facts.st_size

    def record(self) -> Record | None:
        """Its record; None where there is no journal.

        Raises:
            CorruptJournalError: It is damaged, or there are segments without one.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
        """
        with self._opened() as segments:
            return None if segments is None else segments.record()

    def check_layout(self) -> None:
        """Check that all the segments are there that there should be, as far as the record tells.

        Raises:
            CorruptJournalError: One is missing.
            SwooshError: As `record`.
        """
        with self._opened() as segments:
            if segments is not None:
                segments.layout()

    def torn(self) -> Sequence[TornCopy]:
        """What claims have cut off and set aside, by segment and place.

        Raises:
            BackendError: The files cannot be listed.
        """
        with self._opened() as segments:
            if segments is None:
                return ()
            names = sorted(name for name in segments.here.listing() if name.startswith(_TORN))
            found = ((name, segments.here.facts(name)) for name in names)
            return [TornCopy(name, facts.st_size) for name, facts in found if facts is not None]

    def segment(self, base: int) -> SegmentFacts | None:
        """A segment: its header and, if it is the newest, its end; None where it is kept no more.

        Raises:
            CorruptJournalError: Its header, or its end, is not what was written; or it has gone.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
        """
        with self._segment(base) as (segment, following, first):
            if segment is None:
                return None
            end, last, torn_bytes = None, (following or 0) - 1, 0
            if following is None:
                tail = segment.tail_beside_a_writer()
                end, last, torn_bytes = tail.end, _last(segment, tail), tail.torn_bytes
                if first > last + 1:
                    raise segment.corrupt("the last batch is missing", offset=end, index=last + 1)
            path, size = segment.source.path, segment.source.size_bytes
            return SegmentFacts(path, base, last, segment.seed.epoch, size, end, torn_bytes)

    def batches(self, base: int) -> Generator[Located, None, None]:
        """Every batch of a segment, in order, each of them whole; none where the segment is kept no more.

        In the newest segment they are those that are there when its end is come to.

        Raises:
            CorruptJournalError: A batch is damaged or missing, behind those that were given; or the segment has gone.
            FormatVersionError: A newer version of this package wrote it.
            BackendError: It cannot be read.
        """
        with self._segment(base) as (segment, following, _):
            if segment is None:
                return
            walk = _Walk(segment, None if following is None else following - 1)
            yield from walk.go()
            if following is None:
                walk.until = _end_behind(segment, walk)
                yield from walk.go()
            walk.check()

    @contextmanager
    def _segment(self, base: int) -> Generator[tuple[Segment | None, int | None, int], None, None]:
        """A segment, and where the one behind it begins, and from where on entries are kept.

        There is no segment where it is kept no more, and none behind it where it is the newest.

        Raises:
            CorruptJournalError: It has gone, though it is to be kept.
        """
        with self._opened() as segments:
            record = None if segments is None else segments.record()
            if segments is None or record is None:
                yield None, None, 1
                return
            following = next((other for other in segments.bases() if other > base), None)
            segment = segments.open(base, record.store)
            if segment is None:
                record = segments.record()
                if record is None or following is None or following > record.first:
                    raise CorruptJournalError(self.path_of(base), "the segment has gone", offset=0, index=base)
                yield None, following, record.first
                return
            with segment:
                yield segment, following, record.first

    @contextmanager
    def _opened(self) -> Generator[Segments | None, None, None]:
        """The journal's files; None where there is no directory."""
        with ExitStack() as stack:
            try:
                here = stack.enter_context(self._home.open(create=False))
            except SnapshotNotFoundError:
                here = None
            yield None if here is None else Segments(here, self._disk, None)


class _Walk:
    """On its way through a segment, from one batch to the next.

    Args:
        segment: The segment, open.
        until: The last index that it holds; None where that is not known.
    """

    def __init__(self, segment: Segment, until: int | None) -> None:
        self.until = until
        self.end = SEGMENT_HEADER_BYTES
        self._segment = segment
        self._index = segment.seed.base
        self._epoch = 0

    def go(self) -> Generator[Located, None, None]:
        """The batches from here on, up to the last, or to where there is none that is whole and follows."""
        source, start = self._segment.source, -1
        while start < self.end and (self.until is None or self._index <= self.until):
            start = self.end
            for frame, payload in frames_from(source.read, self._segment.seed, start, _WINDOW_BYTES):
                if not self._follows(frame):
                    return
                self.end, self._index, self._epoch = frame.end, frame.last + 1, frame.epoch
                batch = Batch(Index(frame.first), frame.count, Epoch(frame.epoch), bytes(payload))
                yield Located(source.path, frame.offset, frame.end, batch)
                if self.end - start >= _WINDOW_BYTES:
                    break

    def check(self) -> None:
        """Check that it came to the last index.

        Raises:
            CorruptJournalError: It did not.
        """
        if self.until is not None and self._index <= self.until:
            raise self.missing()

    def missing(self) -> CorruptJournalError:
        """The error that tells of the batch that is not to be found here."""
        return self._segment.corrupt("a batch is damaged or missing", offset=self.end, index=self._index)

    def _follows(self, frame: Frame) -> bool:
        within = self.until is None or frame.last <= self.until
        return within and frame.first == self._index and frame.epoch >= self._epoch


def _end_behind(segment: Segment, walk: _Walk) -> int:
    """The last index of the newest segment.

    Raises:
        CorruptJournalError: Its end is damaged, or something before it, to which the walk came first.
    """
    try:
        return _last(segment, segment.tail_beside_a_writer())
    except CorruptJournalError as error:
        if error.offset is not None and error.offset > walk.end:
            raise walk.missing() from None
        raise


def _last(segment: Segment, tail: Tail) -> int:
    return segment.seed.base - 1 if tail.last is None else tail.last.last
