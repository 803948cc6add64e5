"""Files that are not what was written, with checksums that are right: who can write a file can do that as well."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
from msgspec.structs import replace

from swoosh_async import EventCodec, Timestamp
from swoosh_async.backends.file._frames import (
    ALIGN,
    SECTOR,
    SEGMENT_HEADER_BYTES,
    Seed,
    frame_bytes,
    read_frame,
    read_segment_header,
    segment_header,
)
from swoosh_async.codec._envelope import frame_of

__all__ = ["batch_of", "forge_frame", "forge_header", "forge_record", "forge_segment", "newest", "part_of", "resealed"]

_events = EventCodec(str)


def resealed(data: bytes) -> bytes:
    """A snapshot's bytes with the checksum that is right for them."""
    frame = frame_of(data)
    assert frame is not None
    before, after = data[: frame.digits_at], data[frame.after :]
    return before + hashlib.sha256(before + after).hexdigest().encode() + after


def newest(home: Path) -> Path:
    """The journal's newest segment."""
    return max(home.glob("journal.0*"))


def forge_record(home: Path, **facts: Any) -> None:
    """Have the record say something else."""
    path = home / "journal"
    record = msgspec.json.decode(path.read_bytes())["record"]
    inner = json.dumps({**record, **facts}, separators=(",", ":")).encode()
    path.write_bytes(b'{"checksum":"sha256:%b","record":%b}\n' % (hashlib.sha256(inner).hexdigest().encode(), inner))


def forge_segment(home: Path, *, length: int | None = None, **facts: Any) -> None:
    """Have the newest segment's header say something else, and the segment be so long; what it holds stays valid."""
    path = newest(home)
    data = path.read_bytes()
    path.write_bytes(segment_header(replace(_seed(data), **facts)) + data[SEGMENT_HEADER_BYTES:])
    if length is not None:
        os.truncate(path, length)


def forge_frame(home: Path, payload: bytes, *, ahead: int = 0, **facts: int) -> None:
    """Put one more batch behind the last, and leave out so many indexes before it."""
    path = newest(home)
    data = bytearray(path.read_bytes())
    seed, offset, index, epoch = _end(data)
    facts = {"epoch": epoch, "first": index + ahead, "count": 1, **facts}
    frame = frame_bytes(seed, offset, payload=payload, **facts)  # type: ignore[arg-type]
    assert offset + len(frame) <= len(data), "there is no room for it"
    data[offset : offset + len(frame)] = frame
    path.write_bytes(data)


def forge_header(home: Path, length: int) -> None:
    """Put a header behind the last batch that says that so much follows; nothing does."""
    path = newest(home)
    with path.open("r+b") as file:
        data = file.read(1 << 16)
        seed, offset, index, epoch = _end(data)
        body = struct.pack("<8sQQIIII", seed.mark, epoch, index, 1, length, 0, 0).ljust(ALIGN - 4, b"\0")
        file.seek(offset)
        file.write(body + struct.pack("<I", crc32(body, seed.at(offset))))


def batch_of(*events: str, at: Timestamp = Timestamp(1 << 60)) -> bytes:  # noqa: B008  it is frozen
    """A batch's bytes."""
    return _events.batch(at, [_events.encode(event) for event in events])


def part_of(array: bytes, count: int = 1, length: int | None = None) -> bytes:
    """A batch of one part that says of itself what it likes."""
    return batch_of()[:20] + struct.pack("<II", len(array) if length is None else length, count) + array


def _seed(data: bytes | bytearray) -> Seed:
    seed = read_segment_header(bytes(data[:SECTOR]))
    assert isinstance(seed, Seed)
    return seed


def _end(data: bytes | bytearray) -> tuple[Seed, int, int, int]:
    """The segment's seed, where its last batch ends, and the index and the epoch to go on with."""
    seed = _seed(data)
    offset, index, epoch = SEGMENT_HEADER_BYTES, seed.base, seed.epoch
    while (frame := read_frame(seed, offset, bytes(data[offset : offset + ALIGN]))) is not None:
        offset, index, epoch = frame.end, frame.last + 1, frame.epoch
    return seed, offset, index, epoch
