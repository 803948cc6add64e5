"""A journal's bytes: a segment is a header and then frames, a frame is one batch. Pure: bytes in, bytes out.

    segment   [ header, 512 bytes ][ frame ][ frame ] … [ zeros up to the preallocated end ]
    frame     [ header, 64 bytes ][ payload ][ bytes of ones up to a multiple of 64 ]

A segment's header tells how long the segment is, so one that was cut off is noticed. A frame's header has a checksum of
its own and never straddles a sector, so its length can be trusted before its payload is judged. It begins with eight
random bytes that only its segment's header tells, so nothing that a payload holds is taken for a frame; and both its
checksums start from the store's id, the segment's base index and the frame's place, so a foreign, recycled or misplaced
frame never passes. It is padded with ones, so that a sector with but its last byte does not look as if it had never
arrived when that byte is damaged. docs/format.md draws them, and has the argument.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from zlib import crc32

import msgspec

from ..base import EPOCHS_END

__all__ = [
    "ALIGN",
    "LARGEST_BATCH_BYTES",
    "LONGEST_FRAME_BYTES",
    "MARK_BYTES",
    "MAX_FRAME_COUNT",
    "SECTOR",
    "SEGMENT_FORMAT",
    "SEGMENT_HEADER_BYTES",
    "Frame",
    "Seed",
    "frame_bytes",
    "frame_size",
    "is_what_is_left",
    "is_whole",
    "is_zero",
    "read_frame",
    "read_segment_header",
    "segment_header",
    "zero_sectors",
]

SECTOR = 512
"""What a disk writes as a whole or not at all, in bytes."""

ALIGN = 64
"""Frames begin at multiples of it, and a frame's header is as long."""

SEGMENT_HEADER_BYTES = SECTOR
SEGMENT_FORMAT = 1
MARK_BYTES = 8
MAX_FRAME_COUNT = (1 << 32) - 1

LARGEST_BATCH_BYTES = 1 << 30
"""How long a batch of a journal may be told to be."""

LONGEST_FRAME_BYTES = ALIGN + LARGEST_BATCH_BYTES

_SEGMENT_MAGIC = b"swooshjl"
_SEGMENT = struct.Struct("<8sI16s8sQQQQ")  # magic, format, store id, mark, base index, epoch, size, longest
_FRAME = struct.Struct("<8sQQIIII")  # mark, epoch, first, count, length, zero sectors, payload's crc
_CRC = struct.Struct("<I")
_PAD = b"\xff"
_ZEROS = bytes(1 << 16)


class Seed(msgspec.Struct, frozen=True):
    """What a segment's header says, and its frames' checksums start from.

    Attributes:
        store: The store's id, 16 random bytes.
        mark: What each of the segment's frames begins with, 8 random bytes.
        base: The index of the first entry that the segment may hold.
        epoch: The epoch of the writer that made it.
        size: How long the segment is.
        longest: How long a frame in it may be.
    """

    store: bytes
    mark: bytes
    base: int
    epoch: int
    size: int
    longest: int

    def at(self, offset: int) -> int:
        """The checksum to start from at that place."""
        return crc32(self.store + self.base.to_bytes(8, "little") + offset.to_bytes(8, "little"))


class Frame(msgspec.Struct, frozen=True):
    """A frame's header, verified.

    Attributes:
        offset: Where it begins in the segment.
        epoch: The writer's epoch.
        first: The index of its first entry.
        count: How many entries it holds, ≥ 1.
        length: How long its payload is.
        zeros: How many sectors of the payload, behind the header's, are all zero by nature.
        crc: The payload's checksum.
    """

    offset: int
    epoch: int
    first: int
    count: int
    length: int
    zeros: int
    crc: int

    @property
    def last(self) -> int:
        """The index of its last entry."""
        return self.first + self.count - 1

    @property
    def payload_at(self) -> int:
        """Where its payload begins."""
        return self.offset + ALIGN

    @property
    def end(self) -> int:
        """Where the next frame begins."""
        return self.offset + frame_size(self.length)


def segment_header(seed: Seed) -> bytes:
    """The first sector of a segment."""
    facts = seed.store, seed.mark, seed.base, seed.epoch, seed.size, seed.longest
    body = _SEGMENT.pack(_SEGMENT_MAGIC, SEGMENT_FORMAT, *facts)
    body = body.ljust(SEGMENT_HEADER_BYTES - _CRC.size, b"\0")
    return body + _CRC.pack(crc32(body))


def read_segment_header(header: bytes) -> Seed | int | None:
    """What the first sector of a segment says: its seed; a newer format's version; None if it is damaged."""
    body, crc = header[: SEGMENT_HEADER_BYTES - _CRC.size], header[-_CRC.size :]
    if len(header) != SEGMENT_HEADER_BYTES or _CRC.pack(crc32(body)) != crc:
        return None
    magic, version, *facts = _SEGMENT.unpack_from(body)
    if magic != _SEGMENT_MAGIC:
        return None
    return Seed(*facts) if version == SEGMENT_FORMAT else int(version)


def frame_size(length: int) -> int:
    """How much room a frame takes whose payload is so long."""
    return ALIGN + -(-length // ALIGN) * ALIGN


def frame_bytes(seed: Seed, offset: int, *, epoch: int, first: int, count: int, payload: bytes) -> bytes:
    """The bytes of a frame that stands at `offset`."""
    padded = payload.ljust(frame_size(len(payload)) - ALIGN, _PAD)
    zeros = zero_sectors(padded, offset + ALIGN)
    start = seed.at(offset)
    body = _FRAME.pack(seed.mark, epoch, first, count, len(payload), zeros, crc32(padded, start))
    body = body.ljust(ALIGN - _CRC.size, b"\0")
    return b"".join((body, _CRC.pack(crc32(body, start)), padded))


def read_frame(seed: Seed, offset: int, header: bytes | memoryview) -> Frame | None:
    """The frame whose header these 64 bytes at `offset` are; None if they are none, or one that nobody writes."""
    if header[:MARK_BYTES] != seed.mark or len(header) != ALIGN:
        return None
    if crc32(header[: -_CRC.size], seed.at(offset)) != _CRC.unpack_from(header, ALIGN - _CRC.size)[0]:
        return None
    frame = Frame(offset, *_FRAME.unpack_from(header)[1:])
    return frame if frame.count >= 1 and frame.epoch < EPOCHS_END else None


def is_whole(seed: Seed, frame: Frame, padded: bytes | memoryview) -> bool:
    """Whether these are the frame's payload, with what pads it."""
    return len(padded) == frame.end - frame.payload_at and crc32(padded, seed.at(frame.offset)) == frame.crc


def is_zero(data: bytes | memoryview) -> bool:
    """Whether all of it is zero."""
    n = len(data)
    return all(data[at : at + len(_ZEROS)] == _ZEROS[: n - at] for at in range(0, n, len(_ZEROS)))


def is_what_is_left(now: bytes, before: bytes, offset: int) -> bool:
    """Whether `now`, which stands at `offset`, is what stood there before, with some sectors overwritten with zeros."""
    edges = [0, *range(SECTOR - offset % SECTOR, len(now), SECTOR), len(now)]
    return len(before) >= len(now) and all(
        now[start:end] == before[start:end] or is_zero(now[start:end]) for start, end in pairwise(edges)
    )


def zero_sectors(data: bytes, offset: int) -> int:
    """In how many sectors of the disk all that belongs to `data`, which stands at `offset`, is zero.

    But for the one in which it begins, unless it begins with it: a frame's header is in that one, so that it arrived.
    """
    edges = [*range(-offset % SECTOR, len(data), SECTOR), len(data)]
    return sum(data[start] == 0 and is_zero(data[start:end]) for start, end in pairwise(edges))
