"""A journal's writer: what it finds when it comes, and how it appends from then on.

A claim, in one call, under the lock:

    fsync the directory, if the record does not know the newest segment → fdatasync that segment, evict it from the
    cache → find its end → copy aside what a crash cut off, write zeros over it, fdatasync → a new record, with a new
    epoch

The copy comes before the zeros, and is left as it is when it is there already; so a claim that is killed on its way and
made again ends with the same bytes. An append is one pwrite into space that is there already, one fdatasync, and the
lock's probe.

This file knows nothing of readers, and nothing of what an entry is.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from itertools import pairwise

from msgspec.structs import replace

from ...errors import BackendError, ConflictError, CorruptJournalError, FencedError, LimitExceededError
from ..base import EPOCHS_END, Batch, Bounds, Claim, Epoch, Index
from ._disk import FULL, let_go
from ._frames import MARK_BYTES, SEGMENT_HEADER_BYTES, Seed, frame_bytes, frame_size
from ._lock import FileLock
from ._record import RECORD_FORMAT, Record
from ._scan import Tail
from ._segment import Segment
from ._segments import Active, Fresh, Segments

__all__ = ["Limits", "Writer"]

_FULL_ENOUGH = 0.75

_log = logging.getLogger("swoosh_async")


class Limits:
    """How large things are made.

    Args:
        segment_bytes: How long a segment is, unless a batch needs more.
        max_batch_bytes: How long a batch may be.
    """

    def __init__(self, segment_bytes: int, max_batch_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self.max_batch_bytes = max_batch_bytes
        self.max_frame_bytes = frame_size(max_batch_bytes)


class Writer:
    """The one writer of a journal, from its claim on.

    Args:
        segments: The journal's files.
        lock: The lock, which is held.
        limits: How large things are made.
        epoch: The epoch of the claim; None for the next.
        renew: Whether to begin a new segment, because writing the newest has failed before.

    Raises:
        FencedError: The epoch is not higher than all before.
        CorruptJournalError: What is there is not what was written; nothing was changed.
        FormatVersionError: A newer version of this package wrote it.
        BackendError: A step failed; it may be tried again.
        OutcomeUnknownError: A step failed after which the claim may have been made; likewise.
    """

    def __init__(self, segments: Segments, lock: FileLock, limits: Limits, *, epoch: Epoch | None, renew: bool) -> None:
        self._segments = segments
        self._lock = lock
        self._limits = limits
        self._active: Active | None = None
        self._prepared: Fresh | None = None
        self._prepared_for = 0
        self._tail_base = 0
        segments.sweep()
        try:
            record, bases = segments.layout()
            if record is None:
                record = Record(0, 1, RECORD_FORMAT, "", 0, 0, secrets.token_hex(16))
            if max(bases, default=0) != record.newest:  # who named it may not have lived to make that durable
                segments.settle_names(lock)
            self.claim = self._find(record, bases, epoch, renew=renew)
            self._bounds = self.claim.bounds
            self._record = replace(
                record,
                epoch=self.claim.epoch,
                host=socket.gethostname(),
                newest=max(bases, default=0),
                pid=os.getpid(),
            )
            segments.put_record(self._record, lock)
            self._trim()
        except BaseException:
            self.close()
            raise

    @property
    def bounds(self) -> Bounds:
        """What the journal holds."""
        return self._bounds

    @property
    def end(self) -> tuple[int, int]:
        """Which segment is written, by its base, and where the next frame belongs in it; (0, 0) where there is none."""
        active = self._active
        return (0, 0) if active is None else (active.seed.base, active.end)

    # ------------------------------------------------------------------ append

    def append(self, batch: Batch) -> None:
        """As `JournalBackend.append`."""
        self._check(batch)
        size = frame_size(len(batch.data))
        active = self._active
        if active is None or size > min(active.size - active.end, active.seed.longest):
            active = self._rotate(batch.first, size)
        if self._record.newest != active.seed.base:  # known to the record before anything can be lost with it
            self._put_record(replace(self._record, newest=active.seed.base))
        data = frame_bytes(
            active.seed, active.end, epoch=batch.epoch, first=batch.first, count=batch.count, payload=batch.data
        )
        self._segments.write(active, data, self._lock)
        self._segments.sync(active, self._lock, unknown=True)
        active.end += size
        self._tail_base = active.seed.base
        self._bounds = Bounds(self._bounds.first, batch.last)
        if (
            self._prepared is None
            and active.end > _FULL_ENOUGH * active.size
            and self._prepared_for != active.seed.base
        ):
            self._prepared_for = active.seed.base
            self._prepare_next()

    def _check(self, batch: Batch) -> None:
        path = self._segments.here.path
        if batch.epoch != self._record.epoch:
            raise FencedError(path, epoch=batch.epoch, found=self._record.epoch)
        if batch.first != self._bounds.last + 1:
            raise ConflictError(expected=batch.first - 1, found=self._bounds.last)
        if len(batch.data) > self._limits.max_batch_bytes:
            bound = self._limits.max_batch_bytes
            raise LimitExceededError(f"{path}: a batch", limit="max_batch_bytes", found=len(batch.data), bound=bound)

    def _rotate(self, base: int, size: int) -> Active:
        """A new segment that has room for a frame of that size."""
        need = SEGMENT_HEADER_BYTES + size
        fresh, self._prepared = self._prepared, None
        if fresh is not None and fresh.size < need:
            self._segments.discard(fresh)
            fresh = None
        if fresh is None:
            fresh = self._segments.prepare(max(self._limits.segment_bytes, need))
        seed = Seed(
            store=bytes.fromhex(self._record.store),
            mark=secrets.token_bytes(MARK_BYTES),
            base=base,
            epoch=self._record.epoch,
            size=fresh.size,
            longest=self._limits.max_frame_bytes,
        )
        active = self._segments.begin(fresh, seed, self._lock)
        if self._active is not None:
            let_go(self._active.fd)
        self._active = active
        return active

    def _prepare_next(self) -> None:
        """Have the next segment ready before it is needed; where that fails now, it is tried again when it is."""
        try:
            self._prepared = self._segments.prepare(self._limits.segment_bytes)
        except Exception as error:  # noqa: BLE001  what was appended is durable, whatever comes here
            _log.warning("the journal's next segment is not prepared yet: %s", error)

    # ------------------------------------------------------------------ truncate

    def truncate_before(self, index: Index) -> None:
        """As `JournalBackend.truncate_before`."""
        untouched = self._active is None and self._record.newest == 0
        if not untouched:
            index = min(index, Index(self._bounds.last + 1))
        if index <= self._bounds.first:
            return
        if untouched:
            self._put_record(replace(self._record, first=index, begins=index))
            self._bounds = Bounds(index, Index(index - 1))
            return
        try:
            self._put_record(replace(self._record, first=index))
        except BackendError as error:
            if error.errno not in FULL or self._prepared is None:
                raise
            self._segments.discard(self._prepared)  # a full disk must not keep from making room
            self._prepared = None
            self._put_record(replace(self._record, first=index))
        self._bounds = Bounds(index, self._bounds.last)
        self._trim()

    def _trim(self) -> None:
        """Remove the segments none of whose entries is kept any more, but for the one with the last batch."""
        try:
            bases = self._segments.bases()
            gone = [base for base, end in pairwise(bases) if end <= self._bounds.first]
            self._segments.remove([base for base in gone if base < self._tail_base], self._lock)
        except BackendError as error:
            _log.warning("old segments of the journal stay for now: %s", error)

    def _put_record(self, record: Record) -> None:
        self._segments.put_record(record, self._lock)
        self._record = record

    def close(self) -> None:
        """Let go of the files; the lock is the caller's."""
        if self._active is not None:
            let_go(self._active.fd)
        if self._prepared is not None:
            self._segments.discard(self._prepared)
        self._active = self._prepared = None

    # ------------------------------------------------------------------ what is there

    def _find(self, record: Record, bases: list[int], epoch: Epoch | None, *, renew: bool) -> Claim:
        """What there is; what a crash has left unfinished is cut off, once everything else is found well."""
        if not bases:
            return Claim(self._next(epoch, record.epoch), Bounds(Index(record.first), Index(record.first - 1)))
        with self._opened(bases[-1], record) as segment:
            self._segments.settle(segment)
            end = segment.tail()
            tail = self._last_batch(segment, end, bases, record)
            last = tail.last if tail is not None else record.begins - 1
            if record.first > last + 1:
                raise segment.corrupt("the last batch is missing", offset=end.end, index=last + 1)
            epoch = self._next(epoch, max(record.epoch, tail.epoch if tail is not None else 0))
            if end.torn_bytes:
                self._segments.set_aside(segment, end, self._lock)
            if not renew:
                self._active = self._segments.resume(segment, end.end)
                self._cut(self._active, end)
        return Claim(epoch, Bounds(Index(record.first), Index(last)), tail, end.torn_bytes)

    def _next(self, epoch: Epoch | None, latest: int) -> Epoch:
        if epoch is not None and (type(epoch) is not int or epoch >= EPOCHS_END):
            raise ValueError(f"epoch must be an int below 2**{EPOCHS_END.bit_length() - 1}")
        wanted = Epoch(latest + 1) if epoch is None else epoch
        if wanted <= latest or wanted >= EPOCHS_END:
            raise FencedError(self._segments.here.path, epoch=wanted, found=latest)
        return wanted

    def _last_batch(self, newest: Segment, end: Tail, bases: list[int], record: Record) -> Batch | None:
        """The last batch, be it in the newest segment, or in the one before, where the newest has none yet."""
        if end.last is not None:
            self._tail_base = newest.seed.base
            return newest.batch(end.last)
        expected = newest.seed.base - 1
        if expected == record.begins - 1:
            return None
        if len(bases) > 1:
            with self._opened(bases[-2], record) as segment:
                last = segment.tail().last
                if last is not None and last.last == expected:
                    self._tail_base = segment.seed.base
                    return segment.batch(last)
        raise CorruptJournalError(self._segments.here.path, "the last batch is missing", offset=0, index=expected)

    def _cut(self, active: Active, tail: Tail) -> None:
        if tail.torn_bytes:
            self._segments.blank(active, tail.end, tail.torn_end)
            self._segments.sync(active, self._lock, unknown=False)
            _log.warning("%s: %d bytes of an unfinished batch were set aside", active.path, tail.torn_bytes)

    def _opened(self, base: int, record: Record) -> Segment:
        segment = self._segments.open(base, record.store)
        if segment is None:
            raise CorruptJournalError(self._segments.here.path, "a segment is missing", offset=0, index=base)
        return segment
